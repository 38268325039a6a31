//! One upstream registry, as a client sees it: whom to ask, how to log in, where redirects lead,
//! and what every refusal means.
//!
//! A question ([`Upstream`], by verb in `manifest`, `blob`, `lists`) goes to one endpoint after
//! the other (`client`) unless that one is known to fail (`breaker`); each logs in (`auth`, `token`), follows redirects (`redirect`) and waits
//! no longer than it may (`wire`). Everything reaches the network through [`transport`], where
//! `guard` decides at the moment of dialling which addresses are allowed.

mod allowance;
mod asked;
mod auth;
mod blob;
mod breaker;
mod client;
mod credentials;
mod endpoint;
mod guard;
mod hedge;
mod http_transport;
mod limits;
mod lists;
mod manifest;
mod metrics;
mod token;
mod wire;

pub mod error;
pub mod loop_guard;
pub mod redirect;
pub mod settings;
pub mod transport;

#[cfg(test)]
mod tests;

pub use blob::{BlobBody, BlobHead, BlobPart};
pub use breaker::Circuit;
pub use client::{Upstream, UpstreamParts};
pub use credentials::{CredentialError, CredentialSource, Granted, StaticCredentials};
pub use endpoint::EndpointStatus;
pub use error::{ErrorKind, Failure, Misbehaved, Phase, UpstreamError};
pub use http_transport::{HttpTransport, TransportSetupError};
pub use limits::{RETRY_AFTER_MAX, RateLimit};
pub use lists::{
    NextTags, REFERRERS_BYTES_MAX, REFERRERS_MAX, REFERRERS_PAGES_MAX, Referrers, TAGS_BYTES_MAX,
    TagPage,
};
pub use loop_guard::{Hops, LoopDetected, LoopId};
pub use manifest::{FetchedManifest, ManifestHead};
pub use metrics::{Metrics, Operation};
