//! Guests that are WebAssembly: the only folder that knows the plugin host.
//!
//! [`Runtime`] is started when the first plugin is mounted, and not before: engines reserve
//! address space. What guests reach through it stands in `outside`, our types in theirs in
//! `convert`.

mod convert;
mod http;
mod outside;
mod recorder;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pierhead_plugin_host::{
    Called as HostCalled, CompiledCache, Host, HostOptions, Limits, MountSpec, Outside,
    PagemapScan, Plugin, SecretString,
};

use pierhead_plugin_host::wit::CallContext;
use pierhead_plugin_tools::answer;
use pierhead_plugin_tools::case::Expect;
use pierhead_plugin_tools::recording::{self, Input};

pub use pierhead_plugin_host::Grants;

use recorder::Recorder;

pub use outside::{Content, ContentFailure, Described, OpenBlob, Refers};

use super::chain::{Authenticated, Broke, Call, Called, Guest, Hook, Proposed, Said, Stage};
use super::facts::Facts;
use super::{AdmissionRequest, Presented, Target, WantedScope};
use crate::background::Tasks;
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
    /// Whether the kernel is asked which pages a call has written, where it can be.
    pub pagemap_scan: bool,
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
    /// The process's tasks, for recordings.
    pub tasks: Tasks,
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
pub struct Runtime {
    host: Host,
    facts: Facts,
    tasks: Tasks,
}

/// How a plugin is to be set up.
#[derive(Clone, PartialEq, Eq)]
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
    /// Where its calls are written down, if they are.
    pub record: Option<PathBuf>,
}

/// Without the settings, which may hold hashes of passwords.
impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("name", &self.name).finish_non_exhaustive()
    }
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
        let (clock, facts, tasks) = (parts.clock.clone(), parts.facts.clone(), parts.tasks);
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
            pagemap_scan: if parts.pagemap_scan { PagemapScan::Auto } else { PagemapScan::Off },
            compiled: parts
                .compiled
                .map(|(dir, key)| CompiledCache { dir: dir.to_path_buf(), key }),
            ..HostOptions::new(outside)
        };
        let host = Host::new(options).map_err(|error| RuntimeError::Engine(error.to_string()))?;
        Ok(Self { host, facts, tasks })
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
        let record = setup.record.map(|path| Recorded {
            config: setup.config.clone(),
            facts: outside::FactsOf(self.facts.clone()),
            recorder: Recorder::start(path, &self.tasks),
        });
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
        let plugin = self.host.load(wasm, mount).await.map_err(|error| wrong(error.to_string()))?;
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
            guest: Arc::new(WasmGuest { plugin, record }),
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
struct WasmGuest {
    plugin: Plugin,
    record: Option<Recorded>,
}

/// What a recording is made with.
#[derive(Debug)]
struct Recorded {
    config: serde_json::Value,
    facts: outside::FactsOf,
    recorder: Recorder,
}

impl WasmGuest {
    /// Writes a call down, if its mount is recorded.
    fn note<T>(
        &self,
        context: &CallContext,
        input: Input<'_>,
        called: &HostCalled<T>,
        came: impl FnOnce(&T) -> Expect,
    ) {
        let Some(record) = &self.record else { return };
        record.recorder.note(|| {
            let came = match &called.result {
                Ok(answer) => came(answer),
                Err(error) => answer::of_error(error),
            };
            let facts = match input {
                Input::Manifest(_, manifest) => record.facts.known(&manifest.descriptor.digest),
                Input::Request(request) => request
                    .reference
                    .digest
                    .as_deref()
                    .map_or_else(Vec::new, |digest| record.facts.known(digest)),
                Input::Wanted(_) | Input::Name(_) => Vec::new(),
            };
            recording::case(&record.config, context, input, facts, came)
        });
    }
}

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
        called(self.plugin.authenticate(&context, &credentials).await, convert::authenticated)
    }

    async fn authorize(&self, call: Call<'_>, wanted: &[WantedScope]) -> Called<Vec<WantedScope>> {
        let context = convert::context(call);
        let wanted: Vec<_> = wanted.iter().map(convert::scope).collect();
        let read = |granted: Vec<_>| granted.into_iter().map(convert::granted).collect();
        let answer = self.plugin.authorize(&context, &wanted).await;
        self.note(&context, Input::Wanted(&wanted), &answer, |granted| answer::of_granted(granted));
        called(answer, read)
    }

    async fn resolve(&self, call: Call<'_>, target: &Target) -> Called<Option<Proposed>> {
        let context = convert::context(call);
        let reference = convert::target(target);
        let read = |proposed: Option<_>| proposed.map(convert::proposed);
        let answer = self.plugin.resolve(&context, &reference).await;
        self.note(&context, Input::Name(&reference), &answer, |resolved| {
            answer::of_resolved(resolved.as_ref())
        });
        called(answer, read)
    }

    async fn request(&self, call: Call<'_>, target: &Target) -> Called<Said> {
        let context = convert::context(call);
        let request = convert::request(target);
        let answer = self.plugin.evaluate_request(&context, &request).await;
        self.note(&context, Input::Request(&request), &answer, answer::of_verdict);
        called(answer, convert::said)
    }

    async fn manifest(
        &self,
        call: Call<'_>,
        stage: Stage,
        manifest: &AdmissionRequest,
    ) -> Called<Said> {
        let context = convert::context(call);
        let (stage, manifest) = (convert::stage(stage), convert::manifest(manifest));
        let answer = self.plugin.evaluate_manifest(&context, stage, &manifest).await;
        self.note(&context, Input::Manifest(stage, &manifest), &answer, answer::of_verdict);
        called(answer, convert::said)
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
