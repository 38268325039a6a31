//! What the host asks of the program that it runs in: log, facts, content, HTTP and the time.
//!
//! Grants are checked before any of these is asked. The log and facts are asked on the thread
//! that runs the guest: they answer from memory and never wait.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::wit::{
    ContentError, Descriptor, Fact, HttpError, HttpRequest, HttpResponse, Level, Reference, UnixMs,
};

/// All that a plugin can reach through the host.
#[derive(Clone)]
pub struct Outside {
    /// Where the lines go that plugins write.
    pub log: Arc<dyn LogSink>,
    /// What was found out about content.
    pub facts: Arc<dyn Facts>,
    /// The cache and, through it, the upstreams.
    pub content: Arc<dyn Content>,
    /// Outgoing requests.
    pub http: Arc<dyn HttpClient>,
    /// The time, in milliseconds since 1970. Keys of `kv` end by it.
    pub clock: Arc<dyn Fn() -> UnixMs + Send + Sync>,
}

impl fmt::Debug for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outside").finish_non_exhaustive()
    }
}

/// A line that a plugin wrote, within its budget. Control characters are replaced.
#[derive(Clone, Debug)]
pub struct LogLine<'a> {
    /// The mount.
    pub mount: &'a str,
    /// The plugin's digest.
    pub plugin: &'a str,
    /// The request's id; empty during `configure` and for what no request asked for.
    pub request_id: &'a str,
    /// How much somebody wants to know it.
    pub level: Level,
    /// What it says.
    pub message: &'a str,
    /// Its fields.
    pub fields: &'a [(String, String)],
}

/// Where the lines go that plugins write. It never waits.
pub trait LogSink: Send + Sync + 'static {
    /// Whether anybody wants lines of this level.
    fn enabled(&self, mount: &str, level: Level) -> bool;

    /// Takes a line.
    fn write(&self, line: LogLine<'_>);
}

/// What was found out about content. It answers from memory.
pub trait Facts: Send + Sync + 'static {
    /// What is known of a digest; of one name only, if one is given.
    fn about(&self, subject: &str, name: Option<&str>) -> Vec<Fact>;

    /// States something in a mount's name, as JSON that was checked, for good or for a while.
    ///
    /// # Errors
    /// A text for the plugin, if there is no room for it.
    fn state(
        &self,
        source: &str,
        subject: &str,
        name: &str,
        json: &str,
        ttl: Option<Duration>,
    ) -> Result<(), String>;
}

/// The cache and, through it, the upstreams.
///
/// A future that is dropped before its end leaves nothing behind.
pub trait Content: Send + Sync + 'static {
    /// A manifest, whole.
    fn manifest<'a>(
        &'a self,
        mount: &'a str,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<(Descriptor, Bytes), ContentError>>;

    /// Opens a blob of a repository.
    fn open<'a>(
        &'a self,
        mount: &'a str,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Arc<dyn Blob>, ContentError>>;

    /// What refers to a manifest.
    fn referrers<'a>(
        &'a self,
        mount: &'a str,
        reference: &'a Reference,
        artifact_type: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Descriptor>, ContentError>>;
}

/// An open blob.
pub trait Blob: Send + Sync + 'static {
    /// What it is.
    fn descriptor(&self) -> Descriptor;

    /// At most `max` bytes from `offset`; none at the end.
    fn read(&self, offset: u64, max: u32) -> BoxFuture<'_, Result<Bytes, ContentError>>;
}

/// How a request is to be sent.
#[derive(Clone, Debug)]
pub struct HttpTerms {
    /// The mount that asks, for metrics and logs.
    pub mount: String,
    /// The longest time until the whole answer is there.
    pub timeout: Duration,
    /// The largest body of an answer, in bytes.
    pub body_bytes_max: u64,
    /// Whether loopback, link-local, private and metadata addresses may be dialled.
    pub private_addresses: bool,
}

/// Sends requests that were checked against the mount's grant. It resolves names itself, checks
/// the addresses that it dials, and follows no redirect.
pub trait HttpClient: Send + Sync + 'static {
    /// Sends one and waits for the whole answer. Dropping the future ends it.
    fn send(
        &self,
        request: HttpRequest,
        terms: HttpTerms,
    ) -> BoxFuture<'_, Result<HttpResponse, HttpError>>;
}

/// A blob in a guest's table of handles.
pub struct OpenBlob(pub(crate) Arc<dyn Blob>);

impl fmt::Debug for OpenBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenBlob")
    }
}
