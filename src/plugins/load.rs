//! Loading all mounts of a configuration, and putting them in place.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::artifact;
use super::file::{self, PLUGIN_BYTES_MAX, POLICY_BYTES_MAX, Stamp};
use super::kept::Kept;
use super::settings::{MountPlan, PluginSettings};
use super::source::Source;
use super::verify::PublicKey;
use crate::background::Tasks;
use crate::clock::Clock;
use crate::hooks::Anonymous;
use crate::hooks::chain::{Broke, ChainParts, Chained, Hook, Mounted, PluginMetrics};
use crate::hooks::facts::Facts;
use crate::hooks::wasm::{Content, Loaded, Runtime, RuntimeParts, Setup};
use crate::net::OwnAddresses;
use crate::oci::Digest;
use crate::scope::UpstreamName;
use crate::upstream::Upstream;

/// What loading needs.
pub struct PluginsParts {
    /// Where chains are put.
    pub chained: Chained,
    /// Counts.
    pub metrics: PluginMetrics,
    /// What was found out about content.
    pub facts: Facts,
    /// The cache, for plugins that may read it.
    pub content: Arc<dyn Content>,
    /// The bundled plugins, by name.
    pub bundled: fn(&str) -> Result<&'static [u8], String>,
    /// Where artifacts are fetched from.
    pub artifacts: HashMap<UpstreamName, Upstream>,
    /// The upstreams that resolvers may name.
    pub upstreams: HashSet<UpstreamName>,
    /// What anonymous clients may do where nobody else decides.
    pub anonymous: Anonymous,
    /// Our own addresses, which plugins must not dial.
    pub own: OwnAddresses,
    /// The storage's folder.
    pub storage: PathBuf,
    /// The process's tasks, for recordings.
    pub tasks: Tasks,
    /// The time.
    pub clock: Clock,
}

/// The plugins of the process. Cheap to clone.
#[derive(Clone)]
pub struct Plugins(Arc<Inner>);

struct Inner {
    parts: PluginsParts,
    /// Started with the first mount.
    runtime: OnceLock<Runtime>,
    /// One load of everything at a time: the later one has to win.
    turn: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    settings: PluginSettings,
    made: BTreeMap<Arc<str>, Made>,
    stamps: Vec<Stamp>,
}

/// A plugin that serves.
#[derive(Clone)]
struct Made {
    digest: Digest,
    setup: Setup,
    loaded: Loaded,
    /// Who has signed it, if that was asked.
    signer: Option<PublicKey>,
    /// Why a newer version is not the one that serves.
    stale: Option<Broke>,
}

impl Made {
    /// Whether it may serve in the place of a version that cannot: not with what the operator has
    /// taken from the mount, nor unless who has to sign the mount's plugins has signed this one.
    fn may_go_on(&self, plan: &MountPlan) -> bool {
        self.signer == plan.verify
            && self.setup.grants == plan.grants
            && self.setup.secrets == plan.secrets
    }
}

/// The bytes of a plugin, and what it is told beside its settings.
struct Fetched {
    wasm: Bytes,
    policy: Option<String>,
}

impl std::fmt::Debug for Plugins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugins").field("chained", &self.0.parts.chained).finish_non_exhaustive()
    }
}

impl Plugins {
    /// None yet; everybody may read until [`Plugins::load`].
    pub fn new(parts: PluginsParts) -> Self {
        Self(Arc::new(Inner {
            parts,
            runtime: OnceLock::new(),
            turn: Semaphore::new(1),
            state: Mutex::default(),
        }))
    }

    /// Loads what `settings` say and puts it in place. Nothing of it fails: a plugin that cannot be
    /// loaded leaves the version that serves in its place, or is answered for by its mount's
    /// `on_error`.
    ///
    /// Cancel-safe: dropped, the chain stays as it was.
    pub async fn load(&self, settings: PluginSettings) {
        self.turn(Some(settings)).await;
    }

    /// Reads every source again, and puts what changed in place. Whether anything did.
    pub async fn reload(&self) -> bool {
        self.turn(None).await
    }

    /// The files that are looked at, if any are.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let state = self.state();
        if !state.settings.watch {
            return Vec::new();
        }
        files(&state.settings).collect()
    }

    /// Whether a file was written since it was last read.
    pub(super) fn are_files_new(&self) -> bool {
        let stamps: Vec<Stamp> = self.files().iter().map(|path| Stamp::of(path)).collect();
        stamps != self.state().stamps
    }

    /// For the operator: why newer versions of plugins were refused, by mount.
    pub fn refused(&self) -> Vec<(Arc<str>, String)> {
        let state = self.state();
        let refused = state.made.iter().filter_map(|(name, made)| {
            made.stale.as_ref().map(|broke| (Arc::clone(name), broke.to_string()))
        });
        refused.collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn turn(&self, settings: Option<PluginSettings>) -> bool {
        // It is never closed.
        let Ok(_turn) = self.0.turn.acquire().await else { return false };
        let (settings, forced) = match settings {
            Some(settings) => (settings, true),
            None => (self.state().settings.clone(), false),
        };
        let old = self.state().made.clone();
        // Before reading: what is written meanwhile is then seen in the next round.
        let stamps = if settings.watch {
            files(&settings).map(|path| Stamp::of(&path)).collect()
        } else {
            Vec::new()
        };
        let (mut mounts, mut made) = (Vec::new(), BTreeMap::new());
        let mut changed = forced;
        for plan in &settings.mounts {
            let name = &plan.mount.name;
            let before = old.get(name);
            match self.mount(plan, &settings, before).await {
                Ok(now) => {
                    changed |= before.is_none_or(|before| {
                        // The text of a policy is a part of the setup.
                        before.digest != now.digest
                            || before.setup != now.setup
                            || before.stale != now.stale
                    });
                    mounts.push(mounted(plan, &now));
                    made.insert(Arc::clone(name), now);
                }
                Err(broke) => {
                    changed |= before.is_some();
                    mounts.push(missing(plan, broke));
                }
            }
        }
        let mut kept = self.state();
        if changed {
            let parts = ChainParts {
                mounts,
                order: settings.order.clone(),
                upstreams: self.0.parts.upstreams.clone(),
                anonymous: self.0.parts.anonymous,
            };
            if let Err(error) = self.0.parts.chained.replace(parts) {
                tracing::error!(%error, "the plugins stay as they are: a `match` is too large");
                return false;
            }
        }
        *kept = State { settings, made, stamps };
        changed
    }

    /// The plugin of one mount: anew, as it was, or the last good one.
    async fn mount(
        &self,
        plan: &MountPlan,
        settings: &PluginSettings,
        before: Option<&Made>,
    ) -> Result<Made, Broke> {
        let result = self.fresh(plan, settings, before).await;
        let broke = match result {
            Ok(made) => return Ok(made),
            Err(broke) => broke,
        };
        let name = &plan.mount.name;
        if before.is_none_or(|before| before.stale.as_ref() != Some(&broke)) {
            self.0.parts.metrics.loaded(name, Err(&broke));
            tracing::error!(
                mount = &**name,
                source = %plan.source,
                error = %broke,
                serves = before.map(|before| before.digest.to_string()),
                "a plugin was not taken"
            );
        }
        if let Some(before) = before.filter(|before| before.may_go_on(plan)) {
            return Ok(Made { stale: Some(broke), ..before.clone() });
        }
        match self.last_good(plan, settings).await {
            Some(made) => Ok(Made { stale: Some(broke), ..made }),
            None => Err(broke),
        }
    }

    async fn fresh(
        &self,
        plan: &MountPlan,
        settings: &PluginSettings,
        before: Option<&Made>,
    ) -> Result<Made, Broke> {
        let fetched = self.fetch(plan).await?;
        let setup = setup(plan, fetched.policy)?;
        let digest = Digest::sha256(&fetched.wasm);
        if let Some(before) = before
            && before.digest == digest
            && before.setup == setup
        {
            return Ok(Made { signer: plan.verify.clone(), stale: None, ..before.clone() });
        }
        let loaded =
            self.runtime(settings).await?.load(fetched.wasm.clone(), setup.clone()).await?;
        self.0.parts.metrics.loaded(&plan.mount.name, Ok(()));
        self.keep(plan, fetched.wasm).await;
        Ok(Made { digest, setup, loaded, signer: plan.verify.clone(), stale: None })
    }

    /// The last good version of an earlier process. A policy's text is not kept: it is in a file
    /// of its own.
    async fn last_good(&self, plan: &MountPlan, settings: &PluginSettings) -> Option<Made> {
        if matches!(plan.source, Source::Policy(..) | Source::Builtin(_)) {
            return None;
        }
        let kept = self.kept().await?;
        let (plan_of, key) = (plan.clone(), plan.verify.clone());
        let wasm =
            blocking(move || Ok(kept.get(&plan_of.mount.name, &plan_of.source, key.as_ref())));
        let wasm = wasm.await.ok().flatten()?;
        let setup = setup(plan, None).ok()?;
        let digest = Digest::sha256(&wasm);
        let loaded = self.runtime(settings).await.ok()?.load(wasm, setup.clone()).await;
        let loaded = loaded
            .inspect_err(|error| {
                let mount = &*plan.mount.name;
                tracing::error!(mount, %error, "the last good version cannot be loaded either");
            })
            .ok()?;
        tracing::warn!(mount = &*plan.mount.name, %digest, "the last good version serves");
        Some(Made { digest, setup, loaded, signer: plan.verify.clone(), stale: None })
    }

    async fn keep(&self, plan: &MountPlan, wasm: Bytes) {
        if matches!(plan.source, Source::Policy(..) | Source::Builtin(_)) {
            return;
        }
        let Some(kept) = self.kept().await else { return };
        let plan = plan.clone();
        let name = Arc::clone(&plan.mount.name);
        let put = blocking(move || {
            let key = plan.verify.as_ref();
            let put = kept.put(&plan.mount.name, &plan.source, &wasm, key);
            put.map_err(|error| Broke::Fetch(error.to_string()))
        });
        if let Err(error) = put.await {
            tracing::warn!(mount = &*name, %error, "the plugin is not kept for the next start");
        }
    }

    async fn kept(&self) -> Option<Kept> {
        let storage = self.0.parts.storage.clone();
        let open =
            blocking(move || Kept::open(&storage).map_err(|error| Broke::Fetch(error.to_string())));
        open.await.inspect_err(|error| tracing::warn!(%error, "plugins are not kept")).ok()
    }

    /// The engines, started if they are not.
    async fn runtime(&self, settings: &PluginSettings) -> Result<&Runtime, Broke> {
        if let Some(runtime) = self.0.runtime.get() {
            return Ok(runtime);
        }
        let compiled = match self.kept().await {
            Some(kept) => {
                let key = blocking(move || {
                    kept.compiled().map_err(|error| Broke::Fetch(error.to_string()))
                });
                key.await.ok().map(|(folder, key)| (Arc::from(folder), key))
            }
            None => None,
        };
        let parts = &self.0.parts;
        let parts = RuntimeParts {
            memory_budget_bytes: settings.memory_max,
            instances_max: settings.calls_max,
            pagemap_scan: settings.pagemap_scan,
            compiled,
            facts: parts.facts.clone(),
            content: Arc::clone(&parts.content),
            own: parts.own.clone(),
            clock: parts.clock.clone(),
            tasks: parts.tasks.clone(),
        };
        let started = blocking(move || {
            Runtime::start(parts).map_err(|error| Broke::Configuration(error.to_string()))
        });
        let started = started.await?;
        // One turn at a time: nobody else has set it.
        Ok(self.0.runtime.get_or_init(|| started))
    }

    async fn fetch(&self, plan: &MountPlan) -> Result<Fetched, Broke> {
        let bundled = |name: &str| {
            let bytes = (self.0.parts.bundled)(name).map_err(Broke::Fetch)?;
            Ok::<_, Broke>(Bytes::from_static(bytes))
        };
        let read = |path: PathBuf, bytes_max: usize| {
            let key = plan.verify.clone();
            blocking(move || {
                let content = file::read(&path, bytes_max)?;
                if let Some(key) = key {
                    file::verify(&path, &content, &key)?;
                }
                Ok(content)
            })
        };
        match &plan.source {
            Source::Builtin(name) => Ok(Fetched { wasm: bundled(name)?, policy: None }),
            Source::File(path) => {
                Ok(Fetched { wasm: read(path.clone(), PLUGIN_BYTES_MAX).await?, policy: None })
            }
            Source::Policy(path, language) => {
                let text = read(path.clone(), POLICY_BYTES_MAX).await?;
                let text = String::from_utf8(text.to_vec()).map_err(|_| {
                    Broke::Configuration(format!("{} is not UTF-8 text", path.display()))
                })?;
                Ok(Fetched { wasm: bundled(language.as_str())?, policy: Some(text) })
            }
            Source::Oci(artifact) => {
                let upstream =
                    self.0.parts.artifacts.get(&artifact.upstream).ok_or_else(|| {
                        Broke::Fetch(format!("{} is no upstream", artifact.upstream))
                    })?;
                let wasm = artifact::fetch(upstream, artifact, plan.verify.as_ref()).await?;
                Ok(Fetched { wasm, policy: None })
            }
        }
    }
}

/// What is looked at: the files of plugins, and of the signatures that they have to have.
fn files(settings: &PluginSettings) -> impl Iterator<Item = PathBuf> {
    settings.mounts.iter().flat_map(|plan| {
        let file = path(&plan.source);
        let signature = file.as_deref().filter(|_| plan.verify.is_some()).map(file::signature_of);
        file.into_iter().chain(signature)
    })
}

/// The file that a source is read from.
fn path(source: &Source) -> Option<PathBuf> {
    match source {
        Source::File(path) | Source::Policy(path, _) => Some(path.clone()),
        Source::Builtin(_) | Source::Oci(_) => None,
    }
}

/// The key of a plugin's settings under which it finds the text of a policy.
const POLICY_KEY: &str = "policy";

fn setup(plan: &MountPlan, policy: Option<String>) -> Result<Setup, Broke> {
    let mut config = plan.config.clone();
    if let (Some(policy), Some(config)) = (policy, config.as_object_mut())
        && config.insert(POLICY_KEY.to_owned(), policy.into()).is_some()
    {
        let message = format!("`config` has a key `{POLICY_KEY}`, but the source is the policy");
        return Err(Broke::Configuration(message));
    }
    Ok(Setup {
        name: Arc::clone(&plan.mount.name),
        config,
        secrets: plan.secrets.clone(),
        grants: plan.grants.clone(),
        hooks: plan.hooks.clone(),
        timeout: plan.mount.timeout,
        memory_max: plan.memory_max,
        record: plan.record.clone(),
    })
}

fn mounted(plan: &MountPlan, made: &Made) -> Mounted {
    let mut settings = plan.mount.clone();
    settings.timeout = Some(made.loaded.timeout);
    Mounted {
        settings,
        hooks: made.loaded.hooks.clone(),
        are_hooks_known: true,
        guest: Ok(Arc::clone(&made.loaded.guest)),
        digest: Some(made.loaded.digest.clone()),
        version: made.loaded.version.clone(),
        stale: made.stale.clone(),
    }
}

/// A mount without a plugin. What it would be asked is not known unless it was said: then it
/// stands everywhere, and its `on_error` answers.
fn missing(plan: &MountPlan, broke: Broke) -> Mounted {
    Mounted {
        settings: plan.mount.clone(),
        hooks: plan.hooks.clone().unwrap_or_else(|| Hook::ALL.to_vec()),
        are_hooks_known: plan.hooks.is_some(),
        guest: Err(broke),
        digest: None,
        version: None,
        stale: None,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Broke> + Send + 'static,
) -> Result<T, Broke> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Broke::Fetch(error.to_string())),
    }
}
