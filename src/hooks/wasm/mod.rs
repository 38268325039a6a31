//! Guests that are WebAssembly: the only folder that knows the plugin host.
//!
//! [`Runtime`] is started when the first plugin is mounted, and not before: engines reserve
//! address space. What guests reach through it stands in `outside`, our types in theirs in
//! `convert`.

mod convert;
mod http;
mod outside;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pierhead_plugin_host::{
    Called as HostCalled, CompiledCache, Host, HostOptions, Limits, MountSpec, Outside, Plugin,
    SecretString,
};

pub use pierhead_plugin_host::Grants;

pub use outside::{Content, ContentFailure, Described, OpenBlob, Refers};

use super::chain::{Authenticated, Broke, Call, Called, Guest, Hook, Proposed, Said, Stage};
use super::facts::Facts;
use super::{AdmissionRequest, Presented, Target, WantedScope};
use crate::clock::Clock;
use crate::net::OwnAddresses;
use crate::secret::Secret;
use crate::upstream::TransportSetupError;

/// What a runtime needs.
pub struct RuntimeParts {
    /// Memory for all guests together, in bytes.
    pub memory_budget_bytes: u64,
    /// Calls at a time.
    pub instances_max: u32,
    /// Where compiled code is kept, with the key that vouches for it.
    pub compiled: Option<(Arc<Path>, [u8; 32])>,
    /// What was found out about content.
    pub facts: Facts,
    /// The cache.
    pub content: Arc<dyn Content>,
    /// Our own addresses, which plugins must not dial.
    pub own: OwnAddresses,
    /// The time.
    pub clock: Clock,
}

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The engines could not be started.
    #[error("cannot start the plugins' runtime: {0}")]
    Engine(String),
    /// Outgoing requests cannot be set up.
    #[error("cannot set up the plugins' requests: {0}")]
    Transport(#[from] TransportSetupError),
}

/// Runs guests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime(Host);

/// How a plugin is to be set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The mount's name.
    pub name: Arc<str>,
    /// Its settings.
    pub config: serde_json::Value,
    /// Secrets that it may be granted.
    pub secrets: BTreeMap<String, Secret>,
    /// What it may do.
    pub grants: Grants,
    /// What it is asked; everything that it exports, if that is not said.
    pub hooks: Option<Vec<Hook>>,
    /// How long a call may take, if that is said.
    pub timeout: Option<Duration>,
    /// How much memory a call may take, in bytes, if that is said.
    pub memory_max: Option<u64>,
}

/// A plugin that was loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// It.
    pub guest: Arc<dyn Guest>,
    /// What it is asked.
    pub hooks: Vec<Hook>,
    /// SHA-256 of its file: `sha256:…`.
    pub digest: String,
    /// Its version, if it says one.
    pub version: Option<String>,
    /// How long a call may take.
    pub timeout: Duration,
}

impl Runtime {
    /// Starts the engines. Reads the system's certificate authorities, so it blocks for some
    /// milliseconds.
    ///
    /// # Errors
    /// When the system refuses what they need.
    pub fn start(parts: RuntimeParts) -> Result<Self, RuntimeError> {
        let clock = parts.clock.clone();
        let outside = Outside {
            log: Arc::new(outside::Log),
            facts: Arc::new(outside::FactsOf(parts.facts)),
            content: Arc::new(outside::ContentOf(parts.content)),
            http: Arc::new(http::Outgoing::new(parts.own)?),
            clock: Arc::new(move || clock.now().unix_ms()),
        };
        let options = HostOptions {
            memory_budget_bytes: usize::try_from(parts.memory_budget_bytes).unwrap_or(usize::MAX),
            instances_max: parts.instances_max,
            compiled: parts
                .compiled
                .map(|(dir, key)| CompiledCache { dir: dir.to_path_buf(), key }),
            ..HostOptions::new(outside)
        };
        Host::new(options).map(Self).map_err(|error| RuntimeError::Engine(error.to_string()))
    }

    /// Checks, compiles and configures a plugin, off the threads that serve.
    ///
    /// # Errors
    /// [`Broke::Configuration`], with a text that says what to do.
    pub async fn load(&self, wasm: Bytes, setup: Setup) -> Result<Loaded, Broke> {
        let wrong = |text: String| Broke::Configuration(text);
        let inspection = {
            let wasm = wasm.clone();
            // Large files take a while to read.
            tokio::task::spawn_blocking(move || pierhead_plugin_host::inspect(&wasm)).await
        };
        let inspection = inspection
            .map_err(|error| wrong(error.to_string()))?
            .map_err(|error| wrong(error.to_string()))?;
        let exported: Vec<Hook> =
            inspection.hooks.iter().filter_map(|hook| hook.name().parse().ok()).collect();
        let hooks = match setup.hooks {
            None if exported.is_empty() => {
                let names: Vec<_> = inspection.hooks.iter().map(ToString::to_string).collect();
                let names = names.join(", ");
                return Err(wrong(format!("it exports {names}, which this version does not ask")));
            }
            None => exported,
            Some(wanted) => match wanted.iter().find(|hook| !exported.contains(hook)) {
                Some(hook) => return Err(wrong(format!("it does not export {hook}"))),
                None => wanted,
            },
        };
        let limits = limits(&hooks, setup.timeout, setup.memory_max);
        let secrets = setup.secrets.iter();
        let mount = MountSpec {
            name: setup.name.to_string(),
            config: setup.config,
            secrets: secrets
                .map(|(name, secret)| (name.clone(), SecretString::new(secret.expose())))
                .collect(),
            grants: setup.grants,
            limits: limits.clone(),
        };
        let plugin = self.0.load(wasm, mount).await.map_err(|error| wrong(error.to_string()))?;
        let info = plugin.info();
        tracing::info!(
            mount = info.mount,
            digest = info.digest,
            isolation = ?info.isolation,
            from_cache = info.from_cache,
            seconds = info.load_duration.as_secs_f64(),
            "a plugin was loaded"
        );
        let version = plugin.metadata().map(|metadata| metadata.version.clone());
        Ok(Loaded {
            hooks,
            digest: plugin.digest().to_owned(),
            version: version.filter(|version| !version.is_empty()),
            timeout: limits.deadline,
            guest: Arc::new(WasmGuest(plugin)),
        })
    }
}

/// What a call may take: what the most demanding of its hooks usually does, unless the mount says
/// otherwise.
fn limits(hooks: &[Hook], timeout: Option<Duration>, memory_max: Option<u64>) -> Limits {
    let mut limits: Option<Limits> = None;
    for hook in hooks {
        let usual = Limits::for_hook(convert::hook(*hook));
        limits = Some(match limits {
            None => usual,
            Some(so_far) => Limits {
                deadline: so_far.deadline.max(usual.deadline),
                memory_bytes: so_far.memory_bytes.max(usual.memory_bytes),
                host_bytes: so_far.host_bytes.max(usual.host_bytes),
                ..so_far
            },
        });
    }
    let mut limits = limits.unwrap_or_else(|| Limits::for_hook(convert::hook(Hook::RequestPolicy)));
    if let Some(timeout) = timeout {
        limits.deadline = timeout;
    }
    if let Some(bytes) = memory_max {
        limits.memory_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    }
    limits
}

/// A plugin of the host's as a guest of the chain.
#[derive(Debug)]
struct WasmGuest(Plugin);

fn called<A, B>(called: HostCalled<A>, read: impl FnOnce(A) -> B) -> Called<B> {
    Called {
        result: called.result.map(read).map_err(convert::broke),
        memory_peak_bytes: called.stats.memory_peak_bytes as u64,
        log_dropped: called.stats.log_dropped,
    }
}

#[async_trait]
impl Guest for WasmGuest {
    async fn authenticate(&self, call: Call<'_>, presented: &Presented) -> Called<Authenticated> {
        let context = convert::context(call);
        let credentials = convert::credentials(presented);
        called(self.0.authenticate(&context, &credentials).await, convert::authenticated)
    }

    async fn authorize(&self, call: Call<'_>, wanted: &[WantedScope]) -> Called<Vec<WantedScope>> {
        let context = convert::context(call);
        let wanted: Vec<_> = wanted.iter().map(convert::scope).collect();
        let read = |granted: Vec<_>| granted.into_iter().map(convert::granted).collect();
        called(self.0.authorize(&context, &wanted).await, read)
    }

    async fn resolve(&self, call: Call<'_>, target: &Target) -> Called<Option<Proposed>> {
        let context = convert::context(call);
        let reference = convert::target(target);
        let read = |proposed: Option<_>| proposed.map(convert::proposed);
        called(self.0.resolve(&context, &reference).await, read)
    }

    async fn request(&self, call: Call<'_>, target: &Target) -> Called<Said> {
        let context = convert::context(call);
        let request = convert::request(target);
        called(self.0.evaluate_request(&context, &request).await, convert::said)
    }

    async fn manifest(
        &self,
        call: Call<'_>,
        stage: Stage,
        manifest: &AdmissionRequest,
    ) -> Called<Said> {
        let context = convert::context(call);
        let (stage, manifest) = (convert::stage(stage), convert::manifest(manifest));
        called(self.0.evaluate_manifest(&context, stage, &manifest).await, convert::said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_has_the_limits_of_its_most_demanding_hook_or_its_own() {
        let both = limits(&[Hook::RequestPolicy, Hook::Authenticator], None, None);
        assert_eq!(both.deadline, Duration::from_secs(2));
        assert_eq!(limits(&[Hook::RequestPolicy], None, None).deadline, Duration::from_millis(5));
        let own = limits(&[Hook::Authenticator], Some(Duration::from_millis(7)), Some(1 << 20));
        assert_eq!((own.deadline, own.memory_bytes), (Duration::from_millis(7), 1 << 20));
    }

    #[test]
    fn deadlines_are_the_chains() {
        for hook in Hook::ALL {
            assert_eq!(hook.deadline(), Limits::for_hook(convert::hook(hook)).deadline, "{hook}");
        }
    }
}
