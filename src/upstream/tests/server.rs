//! A server that does as it is told, and a name service that says what it is told.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::net::{Lookup, OwnAddresses};

use super::*;

/// What the server does with a request.
#[derive(Clone, Copy)]
pub(super) enum Act {
    /// Answers, and keeps the connection.
    Say(&'static str),
    /// Answers, and closes the connection.
    SayAndClose(&'static str),
    /// Answers, and then neither says nor closes anything.
    SayAndHang(&'static str),
}

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

/// Does the same with every request.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    tasks: Tasks,
}

impl Server {
    pub(super) async fn new(act: Act) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let tasks = Tasks::new(&Registry::new()).expect("a fresh registry");
        let (accepted, spawner) = (Arc::clone(&connections), tasks.clone());
        tasks.spawn("server", async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                spawner.spawn("connection", serve(stream, act));
            }
        });
        Self { address, connections, tasks }
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(super) fn url(&self, host: &str) -> Url {
        format!("http://{host}:{}/", self.address.port()).parse().expect("a URL")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

async fn serve(mut stream: TcpStream, act: Act) -> io::Result<()> {
    let mut head = Vec::new();
    loop {
        let byte = stream.read_u8().await?;
        head.push(byte);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        let (Act::Say(text) | Act::SayAndClose(text) | Act::SayAndHang(text)) = act;
        stream.write_all(text.as_bytes()).await?;
        match act {
            Act::Say(_) => {}
            Act::SayAndClose(_) => return stream.shutdown().await,
            // Until the other side gives up.
            Act::SayAndHang(_) => return stream.read_u8().await.map(|_| ()),
        }
    }
}

/// A name service of a few names.
#[derive(Default)]
pub(super) struct Names(HashMap<&'static str, Vec<IpAddr>>);

impl Names {
    pub(super) fn with(mut self, name: &'static str, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|ip| ip.parse().expect("an address")).collect();
        self.0.insert(name, addresses);
        self
    }
}

#[async_trait]
impl Lookup for Names {
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if host == "never.test" {
            return std::future::pending().await;
        }
        let found = self.0.get(host).ok_or_else(|| io::Error::other("no such name"))?;
        Ok(found.iter().map(|ip| SocketAddr::new(*ip, port)).collect())
    }
}

pub(super) fn quick(endpoint: &Url) -> UpstreamSettings {
    let mut settings = settings(&[endpoint.as_str()]);
    settings.connect_timeout = Duration::from_millis(500);
    settings.silence_timeout = Duration::from_millis(100);
    settings
}

pub(super) fn upstream(settings: &UpstreamSettings) -> Upstream {
    let transport = HttpTransport::new(settings, OwnAddresses::default()).expect("a transport");
    let clock = Clock::system();
    Upstream::new(settings, parts(settings, Arc::new(transport), &Registry::new(), &clock))
}

pub(super) async fn head(upstream: &Upstream) -> Result<ManifestHead, UpstreamError> {
    upstream.head_manifest(&repo("a"), &tag("1")).await
}

pub(super) async fn fetch(upstream: &Upstream) -> Result<FetchedManifest, UpstreamError> {
    upstream.get_manifest(&repo("a"), &tag("1")).await
}
