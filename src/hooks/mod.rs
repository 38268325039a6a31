//! What Pierhead asks of plugins, in its own types.
//!
//! Nothing above this layer knows whether a plugin exists: [`AllowAll`] answers the same questions
//! where there is none.
//!
//! | hook | when | an error or denial there |
//! |---|---|---|
//! | [`Hooks::authenticate`] | once per request, before the route is acted on | 401 |
//! | [`Hooks::authorize`] | the name is known, nothing was looked up | 401 without identity where one can be had, else 403 |
//! | [`Hooks::resolve`] | before policy: names may be mapped | the name stays as it was, or 403, as the mount says |
//! | [`Hooks::request`] | name, client and identity are known | the denial's own code |
//! | [`Hooks::admit`] | a manifest's bytes are verified and about to be served | the denial's own code |
//! | [`Hooks::observe`] | the answer's head is decided | nothing: observers cannot fail a request |
//!
//! Upstream credentials are the seventh question; it is asked below this layer, through
//! `upstream::auth::CredentialSource`.

mod answer;
pub mod chain;
pub mod facts;
mod open;
pub mod wasm;
mod what;
mod who;

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

pub use answer::{Allowed, Anonymous, Denial, Verdict};
pub use open::AllowAll;
pub use what::{
    Action, ActionError, AdmissionRequest, ImageConfig, Object, Observation, Target, WantedScope,
};
pub use who::{Client, ClientCertificate, Context, Identity, Notes, Presented};

/// The questions. All futures are cancel-safe: dropping one asks nobody any further.
#[async_trait]
pub trait Hooks: Debug + Send + Sync + 'static {
    /// Whether credentials mean something here: an authenticator is mounted. Without one, `/v2/`
    /// asks nobody to log in.
    fn wants_credentials(&self) -> bool;

    /// Whether who asks, or what for, decides about what they get: content must not lie in caches
    /// that hand it to others then.
    fn decides_access(&self) -> bool;

    /// Who is it? `Ok(None)` is an anonymous client, or one whose credentials nobody here knows;
    /// it may go on as such. The context has no identity yet.
    async fn authenticate(
        &self,
        context: &Context,
        presented: &Presented,
    ) -> Result<Option<Arc<Identity>>, Denial>;

    /// May this identity do that?
    async fn authorize(&self, context: &Context, target: &Target) -> Result<(), Denial>;

    /// The part of `wanted` that this identity may do, in the same order: for tokens. Scopes of
    /// which nothing is granted are left out.
    async fn authorize_scopes(
        &self,
        context: &Context,
        wanted: &[WantedScope],
    ) -> Result<Vec<WantedScope>, Denial>;

    /// Maps the target to another one, or leaves it.
    async fn resolve(&self, context: &Context, target: Target) -> Result<Target, Denial>;

    /// Is the request acceptable, as far as name, client and identity tell?
    async fn request(&self, context: &Context, target: &Target) -> Verdict;

    /// Whether [`Hooks::admit`] looks at manifests at all. If so, a HEAD needs their bytes as a GET
    /// does, and somebody has to fetch what belongs to them.
    fn judges_manifests(&self) -> bool;

    /// May this manifest be served?
    async fn admit(&self, context: &Context, manifest: &AdmissionRequest) -> Verdict;

    /// What became of the request. Must not block.
    fn observe(&self, observation: &Observation<'_>);
}
