//! What can go wrong with an upstream, in words that say who, what, and what to do about it.
//!
//! No message has a credential or the query of a URL in it: redirect targets carry signatures
//! there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::net::AddressClass;
use crate::scope::UpstreamName;

use super::transport::{Refusal, TransportError};

/// A failed request to an upstream. Cheap to clone: everybody who waited for it gets one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("upstream {upstream} ({host}): {failure}")]
pub struct UpstreamError {
    /// Which upstream.
    pub upstream: UpstreamName,
    /// Which of its endpoints: host, with a port where it is not the scheme's own.
    pub host: Arc<str>,
    /// What happened.
    pub failure: Failure,
}

impl UpstreamError {
    /// The failure's kind.
    pub fn kind(&self) -> ErrorKind {
        self.failure.kind()
    }
}

/// What happened with a request to an upstream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Every endpoint says that there is no such thing.
    #[error("not found")]
    NotFound,
    /// Access was refused, by the registry or its token service. Some registries (Docker Hub,
    /// Artifactory) say so of repositories that do not exist.
    #[error(
        "access denied ({status}): no such repository, or the credentials in this upstream's \
         `username`, `password_file` or `token_file` do not open it"
    )]
    Denied {
        /// The answer's status.
        status: u16,
    },
    /// Too many requests for this address or account.
    #[error("rate limited{}: log in or wait", RetryAfter(*retry_after))]
    RateLimited {
        /// How long upstream wants to be left alone, if it said so.
        retry_after: Option<Duration>,
    },
    /// The server failed (5xx).
    #[error("the server failed with status {status}")]
    ServerError {
        /// The answer's status.
        status: u16,
    },
    /// A status that has no meaning here.
    #[error("unexpected status {status}")]
    UnexpectedStatus {
        /// The answer's status.
        status: u16,
    },
    /// No connection, or no secure one.
    #[error("cannot be reached: {cause}")]
    Unreachable {
        /// The system's or the TLS library's words.
        cause: Arc<str>,
    },
    /// Nothing came in time.
    #[error("timed out {phase}")]
    TimedOut {
        /// While doing what.
        phase: Phase,
    },
    /// The connection ended before the answer did. What arrived is good; a Range gets the rest.
    #[error("the connection ended before the answer did")]
    Interrupted,
    /// Something that no registry should do.
    #[error(transparent)]
    Misbehaved(Misbehaved),
    /// The upstream is this very process.
    #[error(
        "it leads back to this server: check `endpoints` of the upstream, and the name service"
    )]
    LoopDetected,
    /// Where the credentials come from, failed.
    #[error("its credentials could not be had: {cause}")]
    NoCredentials {
        /// The source's words.
        cause: Arc<str>,
    },
    /// It was not asked: it has been failing, or wants to be left alone.
    #[error("not asked, and not before {} s from now: {last}", seconds(*retry_after))]
    Resting {
        /// How it failed when it was last asked.
        last: Arc<Failure>,
        /// How long until it is asked again.
        retry_after: Duration,
    },
    /// The process is stopping, or a task of ours panicked.
    #[error("the request was abandoned: this server is stopping")]
    Abandoned,
}

/// What an upstream was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// A connection, with name look-up and TLS.
    Connect,
    /// Response headers.
    Headers,
    /// More bytes of a body.
    Silence,
}

/// What no registry should do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaved {
    /// More than [`super::redirect::REDIRECTS_MAX`] redirects.
    #[error("it redirects without end")]
    TooManyRedirects,
    /// A redirect from https to http.
    #[error("it redirects from https to http, to {host}: refused")]
    RedirectDowngrade {
        /// Where to.
        host: Arc<str>,
    },
    /// A redirect without a usable `Location`.
    #[error("it redirects to no usable place")]
    BadLocation,
    /// A redirect, realm or page at an address that we do not go to on a stranger's word.
    #[error(
        "it leads to {host}, which has a {} address: refused. If that is right, add \"{host}\" to \
         `redirect_hosts` of this upstream",
        class.as_str()
    )]
    ForbiddenAddress {
        /// Where to.
        host: Arc<str>,
        /// What kind of address.
        class: AddressClass,
    },
    /// A manifest longer than [`crate::oci::MANIFEST_BYTES_MAX`].
    #[error("the manifest is too large")]
    ManifestTooLarge,
    /// Another answer (token, tags, referrers) longer than we read.
    #[error("the {what} is too large")]
    AnswerTooLarge {
        /// Which answer.
        what: &'static str,
    },
    /// Another answer (token, tags, referrers) that cannot be understood.
    #[error("the {what} cannot be understood")]
    Garbled {
        /// Which answer.
        what: &'static str,
    },
    /// More or fewer bytes than announced.
    #[error("it announced {announced} bytes and sent {sent}")]
    LengthMismatch {
        /// In the headers, in bytes.
        announced: u64,
        /// In the body, in bytes.
        sent: u64,
    },
    /// The token service stands outside the upstream's trust domain.
    #[error(
        "it sends us to {host} for a token, which may not see this upstream's credentials. If it \
         may, add \"{host}\" to `auth_hosts` of this upstream"
    )]
    RealmNotTrusted {
        /// The realm's host.
        host: Arc<str>,
    },
    /// A challenge whose realm is no https URL, though the endpoint is https.
    #[error("it names a token service that cannot be used")]
    BadRealm,
    /// The token service redirects, which could leak credentials.
    #[error("its token service redirects: refused")]
    TokenRedirect,
    /// An encoded body. We ask for `identity`, as digests are of the bytes themselves.
    #[error("it sent an encoded body (Content-Encoding: {encoding}) though asked for identity")]
    Encoded {
        /// The encoding's name.
        encoding: Arc<str>,
    },
    /// A part was asked for, and another part came, or one that does not say which it is.
    #[error("it sent another range than was asked for")]
    WrongRange,
    /// An answer that is not HTTP.
    #[error("it does not speak HTTP: {cause}")]
    Protocol {
        /// The HTTP library's words.
        cause: Arc<str>,
    },
}

/// The kinds of failure, for metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// [`Failure::NotFound`].
    NotFound,
    /// [`Failure::Denied`].
    Denied,
    /// [`Failure::RateLimited`].
    RateLimited,
    /// [`Failure::ServerError`].
    ServerError,
    /// [`Failure::UnexpectedStatus`].
    UnexpectedStatus,
    /// [`Failure::Unreachable`].
    Unreachable,
    /// [`Failure::TimedOut`].
    TimedOut,
    /// [`Failure::Interrupted`].
    Interrupted,
    /// [`Failure::Misbehaved`].
    Misbehaved,
    /// [`Failure::LoopDetected`].
    LoopDetected,
    /// [`Failure::NoCredentials`].
    NoCredentials,
    /// [`Failure::Abandoned`].
    Abandoned,
}

impl ErrorKind {
    /// The label in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::UnexpectedStatus => "unexpected_status",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Interrupted => "interrupted",
            Self::Misbehaved => "misbehaved",
            Self::LoopDetected => "loop_detected",
            Self::NoCredentials => "no_credentials",
            Self::Abandoned => "abandoned",
        }
    }

    /// How much a failure says when endpoints disagree. Absence is only proven when all agree on
    /// it, and a refusal is only final when no endpoint failed in a way that may pass.
    pub(super) const fn weight(self) -> u8 {
        match self {
            Self::NotFound => 0,
            Self::Denied => 1,
            Self::UnexpectedStatus => 2,
            Self::Misbehaved => 3,
            Self::NoCredentials => 4,
            Self::LoopDetected => 5,
            Self::Unreachable => 6,
            Self::Interrupted => 7,
            Self::TimedOut => 8,
            Self::ServerError => 9,
            Self::RateLimited => 10,
            Self::Abandoned => 11,
        }
    }
}

impl Failure {
    /// The failure's kind. One that was not asked fails as it did when it was.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::NotFound,
            Self::Denied { .. } => ErrorKind::Denied,
            Self::RateLimited { .. } => ErrorKind::RateLimited,
            Self::ServerError { .. } => ErrorKind::ServerError,
            Self::UnexpectedStatus { .. } => ErrorKind::UnexpectedStatus,
            Self::Unreachable { .. } => ErrorKind::Unreachable,
            Self::TimedOut { .. } => ErrorKind::TimedOut,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Misbehaved(_) => ErrorKind::Misbehaved,
            Self::LoopDetected => ErrorKind::LoopDetected,
            Self::NoCredentials { .. } => ErrorKind::NoCredentials,
            Self::Resting { last, .. } => last.kind(),
            Self::Abandoned => ErrorKind::Abandoned,
        }
    }

    /// How long to wait before asking again, where that is known.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after } => *retry_after,
            Self::Resting { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    /// Whether the endpoint itself is in trouble, so that others should be asked first for a
    /// while. An answer about one repository says nothing about the endpoint.
    pub(super) const fn is_endpoint_trouble(&self) -> bool {
        matches!(
            self,
            Self::RateLimited { .. }
                | Self::ServerError { .. }
                | Self::Unreachable { .. }
                | Self::TimedOut { .. }
                | Self::Interrupted
        )
    }
}

impl From<Misbehaved> for Failure {
    fn from(what: Misbehaved) -> Self {
        Self::Misbehaved(what)
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Connect(cause) | TransportError::Tls(cause) => {
                Self::Unreachable { cause }
            }
            TransportError::Timeout => Self::TimedOut { phase: Phase::Connect },
            TransportError::Refused(Refusal::Own) => Self::LoopDetected,
            TransportError::Refused(Refusal::Class { host, class }) => {
                Self::Misbehaved(Misbehaved::ForbiddenAddress { host, class })
            }
            TransportError::Interrupted => Self::Interrupted,
            TransportError::Protocol(cause) => Self::Misbehaved(Misbehaved::Protocol { cause }),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "while connecting",
            Self::Headers => "waiting for an answer",
            Self::Silence => "waiting for more of a body",
        })
    }
}

/// Whole seconds, never too few.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

struct RetryAfter(Option<Duration>);

impl fmt::Display for RetryAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(after) => write!(f, " for {} s", seconds(after)),
            None => Ok(()),
        }
    }
}
