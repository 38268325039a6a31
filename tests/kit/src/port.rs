//! A TCP port that stays ours while nobody listens on it.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, TcpSocket};

/// A port of 127.0.0.1, picked by the kernel and kept by a socket that is bound but never listens:
/// while no server listens, connections are refused and nobody else gets the port.
///
/// A server takes it with `SO_REUSEADDR`, which Go's and Rust's standard listeners set.
#[derive(Debug)]
pub struct Port {
    _keeper: TcpSocket,
    addr: SocketAddr,
}

impl Port {
    /// Takes a free port.
    pub fn reserve() -> Self {
        let keeper = socket((Ipv4Addr::LOCALHOST, 0).into()).expect("a port of 127.0.0.1");
        let addr = keeper.local_addr().expect("the address of a bound socket");
        Self { _keeper: keeper, addr }
    }

    /// The address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Listens there. Call it inside a tokio runtime.
    pub(crate) fn listen(&self) -> std::io::Result<TcpListener> {
        socket(self.addr)?.listen(1024)
    }
}

fn socket(addr: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}
