//! What a plugin can be.

use serde::de::DeserializeOwned;

use crate::{
    AuthOutcome, CallContext, Credential, Credentials, Event, Failure, Manifest, Reference,
    Request, Scope, Stage, Verdict,
};

/// A plugin: made of settings, once.
pub trait Plugin: Sized + Send + Sync + 'static {
    /// The mount's `config`. [`NoSettings`](crate::NoSettings) for a plugin that has none.
    type Settings: DeserializeOwned;

    /// Makes the plugin. Everything that can be parsed or computed ahead belongs here: it is paid
    /// for once, and is there in every call. Secrets are not there yet.
    ///
    /// # Errors
    /// When the settings make no sense: the plugin is not loaded, and the operator reads why.
    fn configure(settings: Self::Settings) -> Result<Self, Failure>;
}

/// Decides about requests, before anything is looked up.
pub trait RequestPolicy: Plugin {
    /// Decides.
    ///
    /// # Errors
    /// When it cannot decide: the mount's `on_error` does.
    fn evaluate_request(&self, ctx: &CallContext, request: &Request) -> Result<Verdict, Failure>;
}

/// Decides about manifests, when their bytes are there and verified.
pub trait ManifestPolicy: Plugin {
    /// Decides.
    ///
    /// # Errors
    /// When it cannot decide: the mount's `on_error` does.
    fn evaluate_manifest(
        &self,
        ctx: &CallContext,
        stage: Stage,
        manifest: &Manifest,
    ) -> Result<Verdict, Failure>;
}

/// Says who somebody is.
pub trait Authenticator: Plugin {
    /// Decides who presented these credentials.
    ///
    /// # Errors
    /// When it cannot decide: the mount's `on_error` does.
    fn authenticate(
        &self,
        ctx: &CallContext,
        credentials: &Credentials,
    ) -> Result<AuthOutcome, Failure>;
}

/// Says what somebody may do.
pub trait Authorizer: Plugin {
    /// The part of what is wanted that is granted.
    ///
    /// # Errors
    /// When it cannot decide: the mount's `on_error` does.
    fn authorize(&self, ctx: &CallContext, wanted: &[Scope]) -> Result<Vec<Scope>, Failure>;
}

/// Says what a name means.
pub trait Resolver: Plugin {
    /// Another name to use in its place, or none to leave it.
    ///
    /// # Errors
    /// When it cannot decide: the mount's `on_error` does.
    fn resolve(
        &self,
        ctx: &CallContext,
        reference: &Reference,
    ) -> Result<Option<Reference>, Failure>;
}

/// Says which credentials an upstream wants.
pub trait UpstreamCredentials: Plugin {
    /// Credentials for the upstream of this name at this host; none if it needs none.
    ///
    /// # Errors
    /// When there are none to be had: the mount's `on_error` decides.
    fn fetch(
        &self,
        upstream: &str,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credential>, Failure>;
}

/// Is told what happened, in batches, at least once.
pub trait Observer: Plugin {
    /// Takes note. The numbers of the events that it returns are told again later.
    ///
    /// # Errors
    /// When none could be noted: all are told again.
    fn handle(&self, events: &[Event]) -> Result<Vec<u64>, Failure>;
}
