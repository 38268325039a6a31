//! A registry that misbehaves on demand.
//!
//! It runs on threads of its own, so a test may block, and may use any runtime or none.
//!
//! ```no_run
//! use pierhead_kit::upstream::{Fault, FaultyUpstream, On};
//! # async fn test() {
//! let upstream = FaultyUpstream::start().await;
//! let image = upstream.add_image("library/app", "1", [vec![7; 100_000]]);
//! upstream.fault(On::blobs().get().once(), Fault::CutAfter(50_000));
//! // ... pull image.manifest through a proxy ...
//! assert_eq!(upstream.count("GET", &image.layers[0]), 2);
//! # }
//! ```

mod auth;
mod body;
mod content;
mod fault;
mod log;
mod serve;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::{Read, Write};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::images::{Layout, media};
use crate::port::Port;
use crate::random::Random;
use crate::{sha256, wait_until};

pub use auth::{Auth, Bearer};
pub use fault::{Fault, FaultId, On};
pub use log::Entry;

use body::{FlushWatch, Flushes};
use content::{Content, Data, Manifest};

#[derive(Clone, Debug)]
struct Settings {
    page_size: usize,
    referrers: bool,
    strict_accept: bool,
}

#[derive(Debug)]
struct State {
    url: String,
    content: Mutex<Content>,
    faults: Mutex<fault::Faults>,
    gate: Mutex<auth::Gate>,
    settings: Mutex<Settings>,
    log: log::Log,
    connections: AtomicU64,
    open: AtomicU64,
    /// A change closes every connection.
    closing: watch::Sender<()>,
}

/// How an upstream speaks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Protocol {
    /// TLS, with a certificate for 127.0.0.1 and localhost; see [`FaultyUpstream::ca_pem`].
    pub tls: bool,
    /// HTTP/2 and nothing else (by ALPN with TLS, else by prior knowledge).
    pub http2: bool,
}

/// The misbehaving registry. Dropping it ends it.
pub struct FaultyUpstream {
    state: Arc<State>,
    port: Port,
    runtime: Option<Runtime>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    protocol: Protocol,
    tls: Option<(TlsAcceptor, String)>,
}

/// The digests of an image's parts.
#[derive(Clone, Debug)]
pub struct ImageDigests {
    /// The manifest.
    pub manifest: String,
    /// The configuration blob.
    pub config: String,
    /// The layers, bottom first.
    pub layers: Vec<String>,
}

/// The content of a layer. It need not be a tar file: nothing here unpacks it.
#[derive(Clone, Debug)]
pub enum Layer {
    /// Bytes.
    Bytes(Bytes),
    /// Made up on the fly.
    Random(Random),
}

impl From<Vec<u8>> for Layer {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Bytes> for Layer {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Random> for Layer {
    fn from(random: Random) -> Self {
        Self::Random(random)
    }
}

impl FaultyUpstream {
    /// Starts one that speaks plain HTTP/1.1.
    #[allow(clippy::unused_async, reason = "callers need not care whether it blocks")]
    pub async fn start() -> Self {
        Self::start_blocking()
    }

    /// The same, for tests without a runtime.
    pub fn start_blocking() -> Self {
        Self::start_with(Protocol::default())
    }

    /// Starts one that speaks as `protocol` says.
    pub fn start_with(protocol: Protocol) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("upstream")
            .enable_all()
            .build()
            .expect("a runtime");
        let port = Port::reserve();
        let scheme = if protocol.tls { "https" } else { "http" };
        let state = State {
            url: format!("{scheme}://{}", port.addr()),
            content: Mutex::default(),
            faults: Mutex::default(),
            gate: Mutex::default(),
            settings: Mutex::new(Settings {
                page_size: usize::MAX,
                referrers: true,
                strict_accept: false,
            }),
            log: log::Log::new(),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            closing: watch::Sender::new(()),
        };
        let upstream = Self {
            state: Arc::new(state),
            port,
            runtime: Some(runtime),
            accepting: Mutex::new(None),
            protocol,
            tls: protocol.tls.then(|| tls(protocol.http2)),
        };
        upstream.accept_connections();
        upstream
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.state.url.clone()
    }

    /// The certificate to trust, where it speaks TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.tls.as_ref().map(|(_, pem)| pem.as_str())
    }

    // ---- content ----

    /// Adds a blob to a repository.
    pub fn add_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> String {
        let bytes = bytes.into();
        let digest = sha256(&bytes);
        self.insert_blob(repository, digest, Data::Held(bytes))
    }

    /// Adds a blob of `len` bytes that are made up as they are sent.
    pub fn add_random_blob(&self, repository: &str, seed: u64, len: u64) -> String {
        let random = Random::new(seed, len);
        self.insert_blob(repository, random.sha256(), Data::Random(random))
    }

    /// Adds made-up content under a digest that it does not have: for blobs so large that making
    /// their digest takes longer than a test should, and of which nobody reads all.
    pub fn add_blob_under(&self, repository: &str, digest: &str, content: Random) {
        self.insert_blob(repository, digest.to_owned(), Data::Random(content));
    }

    fn insert_blob(&self, repository: &str, digest: String, data: Data) -> String {
        let mut content = self.state.content.lock().unwrap();
        content.repository(repository).blobs.insert(digest.clone());
        content.blobs.insert(digest.clone(), data);
        digest
    }

    /// Adds a manifest, under a tag unless `tag` is empty.
    pub fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        bytes: impl Into<Bytes>,
        media_type: &str,
    ) -> String {
        let bytes = bytes.into();
        let digest = sha256(&bytes);
        let mut content = self.state.content.lock().unwrap();
        let repository = content.repository(repository);
        let manifest = Manifest { bytes, media_type: media_type.to_owned() };
        repository.manifests.insert(digest.clone(), manifest);
        if !tag.is_empty() {
            repository.tags.insert(tag.to_owned(), digest.clone());
        }
        digest
    }

    /// Adds a valid manifest of at least `size` bytes.
    pub fn put_huge_manifest(&self, repository: &str, tag: &str, size: usize) -> String {
        let config = self.add_blob(repository, "{}");
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": {"mediaType": media::CONFIG, "digest": config, "size": 2},
            "layers": [],
            "annotations": {"padding": "x".repeat(size)},
        });
        self.put_manifest(repository, tag, manifest.to_string(), media::MANIFEST)
    }

    /// Adds an image for linux/amd64. Its layers are taken as they are.
    pub fn add_image<L: Into<Layer>>(
        &self,
        repository: &str,
        tag: &str,
        layers: impl IntoIterator<Item = L>,
    ) -> ImageDigests {
        self.add_image_for(repository, tag, "amd64", layers)
    }

    /// Adds an image for linux and that architecture.
    pub fn add_image_for<L: Into<Layer>>(
        &self,
        repository: &str,
        tag: &str,
        architecture: &str,
        layers: impl IntoIterator<Item = L>,
    ) -> ImageDigests {
        let mut descriptors = Vec::new();
        let mut digests = Vec::new();
        for layer in layers {
            let data = match layer.into() {
                Layer::Bytes(bytes) => Data::Held(bytes),
                Layer::Random(random) => Data::Random(random),
            };
            let size = data.len();
            let digest = match &data {
                Data::Held(bytes) => sha256(bytes),
                Data::Random(random) => random.sha256(),
            };
            self.insert_blob(repository, digest.clone(), data);
            descriptors.push(
                serde_json::json!({"mediaType": media::LAYER, "digest": digest, "size": size}),
            );
            digests.push(digest);
        }
        let config = serde_json::json!({
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": digests},
        })
        .to_string();
        let size = config.len();
        let config = self.add_blob(repository, config);
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": {"mediaType": media::CONFIG, "digest": config, "size": size},
            "layers": descriptors,
        });
        let manifest = self.put_manifest(repository, tag, manifest.to_string(), media::MANIFEST);
        ImageDigests { manifest, config, layers: digests }
    }

    /// Adds an index of manifests (architecture, digest) that the repository holds.
    pub fn add_index(&self, repository: &str, tag: &str, manifests: &[(&str, &str)]) -> String {
        let size = |digest: &str| {
            let content = self.state.content.lock().unwrap();
            let (_, manifest) =
                content.manifest(repository, digest).expect("the repository has it");
            manifest.bytes.len()
        };
        let entries: Vec<_> = manifests
            .iter()
            .map(|(architecture, digest)| {
                serde_json::json!({
                    "mediaType": media::MANIFEST,
                    "digest": digest,
                    "size": size(digest),
                    "platform": {"os": "linux", "architecture": architecture},
                })
            })
            .collect();
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": media::INDEX, "manifests": entries,
        });
        self.put_manifest(repository, tag, index.to_string(), media::INDEX)
    }

    /// Adds a manifest that refers to `subject`.
    pub fn add_referrer(&self, repository: &str, subject: &str, artifact_type: &str) -> String {
        let size = {
            let content = self.state.content.lock().unwrap();
            content.manifest(repository, subject).map_or(0, |(_, manifest)| manifest.bytes.len())
        };
        let layer = self.add_blob(repository, format!("about {subject}"));
        let empty = self.add_blob(repository, "{}");
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "artifactType": artifact_type,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
            "layers": [{"mediaType": artifact_type, "digest": layer, "size": 6 + subject.len()}],
            "subject": {"mediaType": media::MANIFEST, "digest": subject, "size": size},
            "annotations": {"org.example.kit": "yes"},
        });
        self.put_manifest(repository, "", manifest.to_string(), media::MANIFEST)
    }

    /// Adds everything that an OCI layout holds, for real clients; held in memory. Returns the
    /// digest under the tag.
    pub fn add_layout(&self, layout: &Layout, repository: &str, tag: &str) -> String {
        let mut queue = vec![(layout.root().digest.clone(), tag)];
        while let Some((digest, tag)) = queue.pop() {
            let bytes = layout.read(&digest);
            let json: serde_json::Value = serde_json::from_slice(&bytes).expect("a manifest");
            let media_type = json["mediaType"].as_str().expect("kit writes mediaType").to_owned();
            self.put_manifest(repository, tag, bytes, &media_type);
            for child in json["manifests"].as_array().into_iter().flatten() {
                queue.push((child["digest"].as_str().unwrap().to_owned(), ""));
            }
            let layers = json["layers"].as_array().into_iter().flatten();
            for blob in layers.chain(json.get("config")) {
                self.add_blob(repository, layout.read(blob["digest"].as_str().unwrap()));
            }
        }
        layout.root().digest.clone()
    }

    /// Moves a tag.
    pub fn set_tag(&self, repository: &str, tag: &str, digest: &str) {
        let mut content = self.state.content.lock().unwrap();
        content.repository(repository).tags.insert(tag.to_owned(), digest.to_owned());
    }

    /// Removes a tag.
    pub fn delete_tag(&self, repository: &str, tag: &str) {
        self.state.content.lock().unwrap().repository(repository).tags.remove(tag);
    }

    /// Removes a manifest with its tags.
    pub fn delete_manifest(&self, repository: &str, digest: &str) {
        let mut content = self.state.content.lock().unwrap();
        let repository = content.repository(repository);
        repository.manifests.remove(digest);
        repository.tags.retain(|_, target| target != digest);
    }

    /// Removes a blob from a repository.
    pub fn delete_blob(&self, repository: &str, digest: &str) {
        self.state.content.lock().unwrap().repository(repository).blobs.remove(digest);
    }

    // ---- ways ----

    /// Sets how it authenticates. Tokens that were issued stay good.
    pub fn set_auth(&self, auth: Auth) {
        self.state.gate.lock().unwrap().auth = auth;
    }

    /// Makes all issued tokens bad.
    pub fn forget_tokens(&self) {
        self.state.gate.lock().unwrap().forget_tokens();
    }

    /// The longest page of tags and referrers.
    pub fn set_page_size(&self, page_size: usize) {
        self.state.settings.lock().unwrap().page_size = page_size;
    }

    /// Whether there is a referrers API; without it the answer is 404.
    pub fn set_referrers(&self, referrers: bool) {
        self.state.settings.lock().unwrap().referrers = referrers;
    }

    /// Whether a manifest whose type `Accept` does not list is 404, as at ghcr.io.
    pub fn set_strict_accept(&self, strict: bool) {
        self.state.settings.lock().unwrap().strict_accept = strict;
    }

    // ---- faults ----

    /// Misbehaves from now on, or for as many requests as `on` says.
    pub fn fault(&self, on: impl Into<On>, fault: Fault) -> FaultId {
        self.state.faults.lock().unwrap().add(on.into(), fault)
    }

    /// Takes a fault back.
    pub fn clear(&self, id: FaultId) {
        self.state.faults.lock().unwrap().remove(id);
    }

    /// Takes all faults back (not [`down`](Self::down)).
    pub fn clear_faults(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    /// Closes all connections and refuses new ones.
    pub fn down(&self) {
        self.refuse_connections();
        self.drop_connections();
    }

    /// Refuses new connections; those that are open go on.
    pub fn refuse_connections(&self) {
        if let Some(task) = self.accepting.lock().unwrap().take() {
            task.abort();
            let end = || task.is_finished().then_some(());
            wait_until("the upstream to stop listening", Duration::from_secs(5), end);
        }
    }

    /// Closes all open connections at once.
    pub fn drop_connections(&self) {
        self.state.closing.send_replace(());
        let end = || (self.state.open.load(Ordering::SeqCst) == 0).then_some(());
        wait_until("the upstream's connections to close", Duration::from_secs(5), end);
    }

    /// Comes back after [`down`](Self::down) or [`refuse_connections`](Self::refuse_connections),
    /// at the same port.
    pub fn up(&self) {
        self.accept_connections();
    }

    // ---- what happened ----

    /// All requests so far.
    pub fn log(&self) -> Vec<Entry> {
        self.state.log.snapshot()
    }

    /// Forgets all requests so far. Those that are not over yet are noted under the number of
    /// others from here on: for who lets it run for hours, and does not look at the log.
    pub fn forget_log(&self) {
        self.state.log.clear();
    }

    /// How many requests of that method had a path that contains `path_contains`. An empty method
    /// is any.
    pub fn count(&self, method: &str, path_contains: &str) -> usize {
        let log = self.log();
        let hits = log.iter().filter(|entry| {
            (method.is_empty() || entry.method == method) && entry.path.contains(path_contains)
        });
        hits.count()
    }

    /// The sum of the body bytes of all requests whose path contains `path_contains`.
    pub fn bytes_sent(&self, path_contains: &str) -> u64 {
        let log = self.log();
        log.iter().filter(|e| e.path.contains(path_contains)).map(|e| e.bytes_sent).sum()
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open_connections(&self) -> u64 {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Waits until the log meets a condition; panics with the log after `deadline`.
    pub async fn wait_for(&self, condition: impl FnMut(&[Entry]) -> bool, deadline: Duration) {
        self.state.log.wait_for(condition, deadline).await;
    }

    /// The same, for tests without a runtime.
    pub fn wait_for_blocking(&self, condition: impl FnMut(&[Entry]) -> bool, deadline: Duration) {
        self.state.log.wait_for_blocking(condition, deadline);
    }

    fn accept_connections(&self) {
        let mut accepting = self.accepting.lock().unwrap();
        if accepting.is_some() {
            return;
        }
        let runtime = self.runtime.as_ref().expect("it runs");
        let listener = {
            let _inside = runtime.enter();
            self.port.listen().expect("our own port")
        };
        let tls = self.tls.as_ref().map(|(acceptor, _)| acceptor.clone());
        let state = self.state.clone();
        *accepting = Some(runtime.spawn(accept(listener, state, tls, self.protocol.http2)));
    }
}

impl Drop for FaultyUpstream {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, tls: Option<TlsAcceptor>, http2: bool) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let number = state.connections.fetch_add(1, Ordering::SeqCst);
        state.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(state.clone());
        let mut closing = state.closing.subscribe();
        let (state, tls) = (state.clone(), tls.clone());
        let serve = async move {
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(TokioIo::new(stream), state, number, http2).await;
                    }
                }
                None => serve(TokioIo::new(stream), state, number, http2).await,
            }
        };
        tokio::runtime::Handle::current().spawn(async move {
            let _open = open;
            tokio::select! {
                () = serve => {}
                _ = closing.changed() => {}
            }
        });
    }
}

/// Counts an open connection.
struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve<T: Read + Write + Unpin + 'static>(
    io: T,
    state: Arc<State>,
    connection: u64,
    http2: bool,
) {
    let flushes = Arc::new(Flushes::default());
    let io = FlushWatch { io, flushes: flushes.clone() };
    let service = service_fn(move |request| {
        serve::answer(state.clone(), flushes.clone(), connection, request)
    });
    // An error is a fault at work, or a client that went away.
    let _ = if http2 {
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(io, service)
            .await
    } else {
        hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
    };
}

/// An acceptor and the certificate that clients have to trust.
fn tls(http2: bool) -> (TlsAcceptor, String) {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der())
        .expect("a key that rcgen made");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has all of them")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a matching key");
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    (TlsAcceptor::from(Arc::new(config)), made.cert.pem())
}
