//! A TCP relay that lets a server seem slow: what comes from it is passed on at a given rate on
//! each connection.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::Result;

/// What is passed on at a time: small, so that a slow stream is smooth.
const PART_BYTES: usize = 16 * 1024;

/// Listens on 127.0.0.1 until it is dropped; what runs then goes on until its peers close.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Relay {
    /// A relay to `target` (`127.0.0.1:PORT`) that passes on `bytes_per_second` of each answer.
    pub(crate) fn start(target: &str, bytes_per_second: u64) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let target = target.to_owned();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(&target)) else {
                    continue;
                };
                // An error here is a connection that ends early, which both sides notice.
                let _ = pass(client, server, bytes_per_second);
            }
        });
        Ok(Self { address, stop })
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the listener, which then sees that it is to end.
        let _ = TcpStream::connect(self.address);
    }
}

fn pass(client: TcpStream, server: TcpStream, bytes_per_second: u64) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    std::thread::spawn(move || {
        let _ = throttled(&server, &client, bytes_per_second);
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
    Ok(())
}

fn throttled(
    mut from: &TcpStream,
    mut to: &TcpStream,
    bytes_per_second: u64,
) -> std::io::Result<()> {
    let mut buffer = vec![0; PART_BYTES];
    let mut due = Instant::now();
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        // Time that passed unused is not made up for: the rate is never exceeded.
        let now = Instant::now();
        if due > now {
            std::thread::sleep(due - now);
        } else {
            due = now;
        }
        to.write_all(&buffer[..n])?;
        due += Duration::from_secs_f64(n as f64 / bytes_per_second as f64);
    }
}
