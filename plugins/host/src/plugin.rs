//! A loaded plugin: what it is, and the calls that can be made to it.

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{ComponentExportIndex, InstancePre};

use crate::call::{self, Outcome};
use crate::error::CallError;
use crate::hook::Hook;
use crate::host::{Host, Lane};
use crate::inspect::{Inspection, Metadata};
use crate::judge;
use crate::state::{Mount, State};
use crate::wit::{
    AuthOutcome, CallContext, Credential, Credentials, Event, Manifest, Reference, Request, Scope,
    Stage, Verdict,
};

/// A plugin that is ready to be called. Clones are the same plugin.
///
/// Every call has an instance of its own. Dropping a call's future throws its instance away, and
/// nothing else.
#[derive(Clone, Debug)]
pub struct Plugin {
    pub(crate) loaded: Arc<Loaded>,
}

/// A call's answer and what it took.
#[derive(Clone, Debug)]
pub struct Called<T> {
    /// The answer.
    pub result: Result<T, CallError>,
    /// What it took.
    pub stats: CallStats,
}

/// What a call took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallStats {
    /// How long it took, the wait for a place included.
    pub duration: Duration,
    /// The most memory that the guest had, in bytes.
    pub memory_peak_bytes: usize,
    /// Lines of the log that were over the budget.
    pub log_dropped: u64,
    /// How often the guest called the host.
    pub host_calls: u64,
}

/// What an instance begins from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// From a snapshot that was taken when the plugin had read its settings.
    Snapshot,
    /// From nothing: it reads its settings in each call. The text says why there is no snapshot.
    ConfigurePerCall(String),
    /// From nothing: it has no settings to read.
    Plain,
}

/// What is known of a loaded plugin.
#[derive(Clone, Debug)]
pub struct PluginInfo {
    /// The mount's name.
    pub mount: String,
    /// SHA-256 of the file: `sha256:…`.
    pub digest: String,
    /// The file's size in bytes.
    pub bytes: usize,
    /// What it can be asked.
    pub hooks: Vec<Hook>,
    /// What an instance begins from.
    pub isolation: Isolation,
    /// Whether compiled code was at hand.
    pub from_cache: bool,
    /// How long loading took.
    pub load_duration: Duration,
    /// Whether a call may wait for somebody, so that it needs a stack of its own.
    pub waits: bool,
}

/// The functions that a plugin exports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exports {
    pub(crate) configure: Option<ComponentExportIndex>,
    pub(crate) authenticate: Option<ComponentExportIndex>,
    pub(crate) authorize: Option<ComponentExportIndex>,
    pub(crate) evaluate_request: Option<ComponentExportIndex>,
    pub(crate) evaluate_manifest: Option<ComponentExportIndex>,
    pub(crate) resolve: Option<ComponentExportIndex>,
    pub(crate) fetch: Option<ComponentExportIndex>,
    pub(crate) handle: Option<ComponentExportIndex>,
}

pub(crate) struct Loaded {
    pub(crate) host: Host,
    pub(crate) lane: Arc<Lane>,
    pub(crate) mount: Arc<Mount>,
    pub(crate) pre: InstancePre<State>,
    pub(crate) exports: Exports,
    pub(crate) inspection: Inspection,
    pub(crate) info: PluginInfo,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Plugin {
    /// What it can be asked.
    pub fn hooks(&self) -> &[Hook] {
        &self.loaded.info.hooks
    }

    /// SHA-256 of its file: `sha256:…`.
    pub fn digest(&self) -> &str {
        &self.loaded.info.digest
    }

    /// What it says about itself.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.loaded.inspection.metadata.as_ref()
    }

    /// What is known of it.
    pub fn info(&self) -> &PluginInfo {
        &self.loaded.info
    }

    async fn call<P, R>(
        &self,
        function: Option<&ComponentExportIndex>,
        request_id: &str,
        params: P,
        accept: impl FnOnce(&R) -> Result<(), String>,
    ) -> Called<R>
    where
        P: wasmtime::component::ComponentNamedList + wasmtime::component::Lower + Send + Sync,
        (Outcome<R>,): wasmtime::component::ComponentNamedList + wasmtime::component::Lift,
        R: Send + Sync + 'static,
    {
        let Some(function) = function else {
            let lie = CallError::Lie("it does not export this hook".to_owned());
            return Called { result: Err(lie), stats: CallStats::default() };
        };
        let mut called = call::call(&self.loaded, function, request_id, params).await;
        called.result = called.result.and_then(|value| match accept(&value) {
            Ok(()) => Ok(value),
            Err(why) => Err(CallError::Lie(why)),
        });
        called
    }

    /// Who presented these credentials?
    pub async fn authenticate(
        &self,
        ctx: &CallContext,
        credentials: &Credentials,
    ) -> Called<AuthOutcome> {
        let function = self.loaded.exports.authenticate.as_ref();
        let params = (ctx, credentials);
        self.call(function, &ctx.request_id, params, |outcome| judge::outcome(outcome, ctx.now))
            .await
    }

    /// Which part of this may they do?
    pub async fn authorize(&self, ctx: &CallContext, wanted: &[Scope]) -> Called<Vec<Scope>> {
        let function = self.loaded.exports.authorize.as_ref();
        let params = (ctx, wanted);
        self.call(function, &ctx.request_id, params, |granted: &Vec<Scope>| {
            judge::scopes(granted, wanted)
        })
        .await
    }

    /// Is the request acceptable?
    pub async fn evaluate_request(&self, ctx: &CallContext, request: &Request) -> Called<Verdict> {
        let function = self.loaded.exports.evaluate_request.as_ref();
        self.call(function, &ctx.request_id, (ctx, request), judge::verdict).await
    }

    /// Is the manifest acceptable?
    pub async fn evaluate_manifest(
        &self,
        ctx: &CallContext,
        stage: Stage,
        manifest: &Manifest,
    ) -> Called<Verdict> {
        let function = self.loaded.exports.evaluate_manifest.as_ref();
        self.call(function, &ctx.request_id, (ctx, stage, manifest), judge::verdict).await
    }

    /// What does the name mean?
    pub async fn resolve(
        &self,
        ctx: &CallContext,
        reference: &Reference,
    ) -> Called<Option<Reference>> {
        let function = self.loaded.exports.resolve.as_ref();
        self.call(function, &ctx.request_id, (ctx, reference), judge::resolved).await
    }

    /// Which credentials does the upstream want?
    pub async fn fetch_credentials(
        &self,
        upstream: &str,
        host: &str,
        repository: &str,
    ) -> Called<Option<Credential>> {
        let function = self.loaded.exports.fetch.as_ref();
        let now = (self.loaded.mount.outside.clock)();
        self.call(function, "", (upstream, host, repository), |found| judge::credential(found, now))
            .await
    }

    /// Tells what happened. The answer has the numbers of the events that are to be told again.
    pub async fn handle_events(&self, events: &[Event]) -> Called<Vec<u64>> {
        let function = self.loaded.exports.handle.as_ref();
        self.call(function, "", (events,), |again: &Vec<u64>| judge::again(again, events)).await
    }
}
