//! The seam to the network: one HTTP request out, one answer back.
//!
//! What stands on this side of the seam: redirects, credentials, retries, limits. What stands on
//! the other: connections, TLS, HTTP, and the check of addresses at the moment of dialling.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, Method, StatusCode};

use crate::net::AddressClass;
use crate::secret::SafeUrl;

/// One request.
#[derive(Clone)]
pub struct Request {
    /// GET, HEAD, or POST to a token service.
    pub method: Method,
    /// Where to, without user and password.
    pub url: SafeUrl,
    /// All headers but `Host` and those that frame the message.
    pub headers: HeaderMap,
    /// A form, for a POST.
    pub body: Option<Bytes>,
}

/// How far a request may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reach {
    /// To a place that the operator configured: any address but our own.
    Endpoint,
    /// To a place that a server named: public addresses, those of the same class as the
    /// endpoint's own, and hosts that the operator listed.
    Guarded {
        /// Which endpoint of the upstream led there, counted from zero.
        endpoint: usize,
    },
}

/// The body of an answer. Ends early only with an error, where the framing tells.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, TransportError>> + Send>>;

/// One answer.
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, as they came.
    pub headers: HeaderMap,
    /// Its body, undecoded. Dropping it ends the transfer.
    pub body: BodyStream,
}

/// Why there is no answer, or no more of it. No text in here has a URL in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The name has no address, or nothing accepts connections there.
    #[error("no connection: {0}")]
    Connect(Arc<str>),
    /// The connection was not there within the time for that.
    #[error("connecting took too long")]
    Timeout,
    /// The server did not prove who it is.
    #[error("no secure connection: {0}")]
    Tls(Arc<str>),
    /// The address may not be dialled.
    #[error(transparent)]
    Refused(Refusal),
    /// The connection ended early.
    #[error("the connection ended early")]
    Interrupted,
    /// What came is not HTTP.
    #[error("not HTTP: {0}")]
    Protocol(Arc<str>),
}

/// Why an address may not be dialled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is one of our own listeners.
    #[error("the address is this server's own")]
    Own,
    /// It is not public, and nothing that the operator configured leads there.
    #[error("{host} has a {} address", class.as_str())]
    Class {
        /// The name that led there.
        host: Arc<str>,
        /// What kind of address it is.
        class: AddressClass,
    },
}

/// Sends requests of one upstream.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Sends `request` and waits for the headers of its answer, without any limit of time but
    /// that for connecting. Follows no redirect, decodes nothing, adds no credentials.
    ///
    /// Cancel-safe: dropping the future abandons the request.
    async fn send(&self, request: Request, reach: Reach) -> Result<Response, TransportError>;
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers and body may hold credentials.
        write!(f, "{} {}", self.method, self.url)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers may hold signed URLs.
        f.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}
