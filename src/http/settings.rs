//! What an operator can say about the listeners.

use std::net::SocketAddr;
use std::time::Duration;

/// Limits and addresses of the HTTP side.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The registry API.
    pub listen: SocketAddr,
    /// The operator's side.
    pub admin_listen: SocketAddr,
    /// Open connections per listener; further ones wait in the accept queue.
    pub connections_max: usize,
    /// How long a client may take to send a request's headers, and how long an idle connection is kept.
    pub header_timeout: Duration,
    /// The largest request head, in bytes.
    pub header_bytes_max: usize,
    /// How long a client may stop reading before its connection is closed.
    pub write_silence_timeout: Duration,
    /// Streams at a time on one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// How long running answers may take after SIGTERM.
    pub drain_timeout: Duration,
}
