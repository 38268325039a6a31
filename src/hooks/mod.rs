//! What Pierhead asks of plugins, in its own types.
//!
//! Every question that a plugin will be asked is asked today, at the place where it will be asked
//! then; [`AllowAll`] answers them. Nothing above this layer knows whether a plugin exists.
//!
//! | hook | when | an error or denial there |
//! |---|---|---|
//! | [`Hooks::authenticate`] | once per request, before the route is acted on | 401 |
//! | [`Hooks::authorize`] | the name is known, nothing was looked up | 401 without identity, else 403 |
//! | [`Hooks::resolve`] | before policy: names may be mapped | the name stays as it was |
//! | [`Hooks::request`] | name, client and identity are known | the denial's own code |
//! | [`Hooks::admit`] | a manifest's bytes are verified and about to be served | the denial's own code |
//! | [`Hooks::observe`] | the answer's head is decided | nothing: observers cannot fail a request |
//!
//! Upstream credentials are the seventh question; it is asked below this layer, through
//! `upstream::auth::CredentialSource`.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::oci::{Digest, ErrorCode, MediaType, Reference};
use crate::scope::Scope;
use crate::secret::Secret;

/// Who is at the other end of the connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its address, as far as trusted proxies tell.
    pub address: IpAddr,
    /// Whether its connection is encrypted, as far as trusted proxies tell.
    pub encrypted: bool,
    /// What the client calls itself.
    pub user_agent: Option<String>,
}

/// What the client presented to prove who it is.
#[derive(Clone, Debug)]
pub enum Presented {
    /// Nothing.
    Anonymous,
    /// `Authorization: Basic`.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// `Authorization: Bearer`.
    Bearer(Secret),
    /// A certificate that TLS has verified: of an authority that the operator named, within its
    /// time, and the client holds its key.
    Certificate {
        /// The certificate.
        certificate: Arc<ClientCertificate>,
        /// What the `Authorization` header held beside it. It proves nothing yet.
        beside: Box<Presented>,
    },
}

/// A client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Whom it names: a URI, a DNS name or the common name, in this order; else `sha256:` and the
    /// fingerprint. Without control characters.
    pub subject: String,
    /// The SHA-256 digest of the certificate, in hexadecimal digits.
    pub fingerprint: String,
}

/// Who the client turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name that authorisation and logs use.
    pub subject: String,
}

/// One registry request, as far as it is known before its route is acted on.
#[derive(Clone, Debug)]
pub struct Context {
    /// The id that logs and the `X-Request-Id` header carry.
    pub request_id: String,
    /// The client.
    pub client: Client,
    /// The authenticated identity, if any.
    pub identity: Option<Identity>,
}

/// What the client wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read a manifest or a blob.
    Pull,
    /// List tags.
    ListTags,
    /// List referrers.
    Referrers,
}

/// What the client wants to do it to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// A manifest by tag or digest.
    Manifest(Reference),
    /// A blob.
    Blob(Digest),
    /// The repository's tags.
    Tags,
    /// The manifests that refer to this one.
    Referrers(Digest),
}

impl Object {
    /// The action that reading this object is.
    pub const fn action(&self) -> Action {
        match self {
            Self::Manifest(_) | Self::Blob(_) => Action::Pull,
            Self::Tags => Action::ListTags,
            Self::Referrers(_) => Action::Referrers,
        }
    }
}

/// An object in a repository of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where.
    pub scope: Scope,
    /// What.
    pub object: Object,
}

/// A refusal that reaches the client as a well-formed registry error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The error code of the distribution specification.
    pub code: ErrorCode,
    /// Shown to the person who ran the pull.
    pub message: String,
}

/// Permission, with what the host has to do besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Sent as `Warning` headers, which clients print.
    pub warnings: Vec<String>,
}

/// A policy's answer.
pub type Verdict = Result<Allowed, Denial>;

/// A manifest that is about to be served.
#[derive(Clone, Debug)]
pub struct AdmissionRequest {
    /// Where it was asked for, and by what.
    pub scope: Scope,
    /// The tag or digest that it was asked for by.
    pub reference: Reference,
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: MediaType,
    /// Its bytes, verified.
    pub bytes: Bytes,
}

/// What observers are told, once per request.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    /// The request.
    pub context: &'a Context,
    /// What it was about, where the route names an object.
    pub target: Option<&'a Target>,
    /// The status of the answer.
    pub status: u16,
    /// The cache's part in it, in the words of the metrics.
    pub outcome: &'static str,
}

/// The questions. All futures are cancel-safe: dropping one asks nobody any further.
#[async_trait]
pub trait Hooks: Debug + Send + Sync + 'static {
    /// Who is it? `Ok(None)` is an anonymous client that may go on as such.
    async fn authenticate(
        &self,
        client: &Client,
        presented: Presented,
    ) -> Result<Option<Identity>, Denial>;

    /// May this identity do that?
    async fn authorize(&self, context: &Context, target: &Target) -> Result<(), Denial>;

    /// Maps the target to another one, or leaves it.
    async fn resolve(&self, context: &Context, target: Target) -> Target;

    /// Is the request acceptable, as far as name, client and identity tell?
    async fn request(&self, context: &Context, target: &Target) -> Verdict;

    /// May this manifest be served?
    async fn admit(&self, context: &Context, manifest: &AdmissionRequest) -> Verdict;

    /// What became of the request. Must not block.
    fn observe(&self, observation: &Observation<'_>);
}

/// No plugins: everybody may read everything that is public upstream.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

#[async_trait]
impl Hooks for AllowAll {
    /// A verified certificate is believed, whatever stands beside it. Docker sends Hub credentials
    /// to mirrors: unknown credentials are no reason for a 401.
    async fn authenticate(
        &self,
        _client: &Client,
        presented: Presented,
    ) -> Result<Option<Identity>, Denial> {
        Ok(match presented {
            Presented::Certificate { certificate, .. } => {
                Some(Identity { subject: certificate.subject.clone() })
            }
            Presented::Anonymous | Presented::Basic { .. } | Presented::Bearer(_) => None,
        })
    }

    async fn authorize(&self, _context: &Context, _target: &Target) -> Result<(), Denial> {
        Ok(())
    }

    async fn resolve(&self, _context: &Context, target: Target) -> Target {
        target
    }

    async fn request(&self, _context: &Context, _target: &Target) -> Verdict {
        Ok(Allowed::default())
    }

    async fn admit(&self, _context: &Context, _manifest: &AdmissionRequest) -> Verdict {
        Ok(Allowed::default())
    }

    fn observe(&self, _observation: &Observation<'_>) {}
}
