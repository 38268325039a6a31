//! The plugins that are mounted, hook by hook in their order, and what follows from their answers.
//!
//! A [`Chain`] never changes. [`Chained`] holds the one that counts; a reload puts another one in
//! its place at once, and calls in flight finish on the old one. `docs/plugins.md` has the table of
//! what follows from what; a test holds it to [`effect`].

mod auth;
mod breaker;
mod check;
mod decisions;
pub mod effect;
mod filter;
mod flights;
mod guest;
mod logins;
mod metrics;
mod mount;
mod policy;
mod question;
mod shadow;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;

pub use breaker::Circuit;
pub use filter::{MatchSettings, Pattern, PatternError};
pub use guest::{
    Authenticated, Broke, Call, Called, Decision, DependsOn, Guest, Hook, HookError, Obligation,
    Proposed, Reuse, Said, Stage,
};
pub use metrics::PluginMetrics;
pub use mount::{MountSettings, Mounted};
pub use view::{MountView, Trouble};

use self::decisions::Decisions;
use self::filter::Filter;
use self::flights::Flights;
use self::logins::Logins;
use self::mount::Mount;
use self::question::Question;
use self::shadow::Shadows;
use super::facts::Facts;
use super::{
    AdmissionRequest, AllowAll, Allowed, Anonymous, Context, Denial, Hooks, Identity, Observation,
    Presented, Target, Verdict, WantedScope,
};
use crate::background::Tasks;
use crate::clock::Clock;
use crate::scope::UpstreamName;

/// How long a policy, a resolver or a check of rights may take, unless its mount says otherwise.
pub const POLICY_DEADLINE: Duration = Duration::from_millis(5);

/// How long a login may take, unless its mount says otherwise: it may have to ask somebody, and
/// good password hashes are slow.
pub const AUTH_DEADLINE: Duration = Duration::from_secs(2);

/// How many verdicts are kept, unless `plugins.decisions_max` says otherwise.
pub const DECISIONS_MAX: u64 = 65_536;

impl Hook {
    /// How long a call may take, unless its mount says otherwise.
    pub const fn deadline(self) -> Duration {
        match self {
            Self::Authenticator => AUTH_DEADLINE,
            Self::Authorizer | Self::Resolver | Self::RequestPolicy | Self::ManifestPolicy => {
                POLICY_DEADLINE
            }
        }
    }
}

/// What follows when a mount breaks, however it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The request is refused.
    Deny,
    /// As if the plugin had allowed it.
    Allow,
    /// As if the plugin were not mounted.
    Skip,
}

impl OnError {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Deny, Self::Allow, Self::Skip];

    /// The word for it in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
            Self::Skip => "skip",
        }
    }

    /// What follows where a mount does not say. Who may and what is acceptable fails closed.
    pub const fn of(hook: Hook) -> Self {
        match hook {
            Hook::Authenticator | Hook::Authorizer | Hook::RequestPolicy | Hook::ManifestPolicy => {
                Self::Deny
            }
            Hook::Resolver => Self::Skip,
        }
    }
}

/// What follows from a mount's answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// What they say.
    #[default]
    Enforce,
    /// A refusal is only a warning to the client.
    Warn,
    /// Nothing: they are asked for off the way of the request, and compared with what happened.
    Shadow,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Enforce, Self::Warn, Self::Shadow];

    /// The word for it in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Warn => "warn",
            Self::Shadow => "shadow",
        }
    }
}

/// What a chain is made of.
#[derive(Debug, Default)]
pub struct ChainParts {
    /// The mounts, in the order of the configuration.
    pub mounts: Vec<Mounted>,
    /// The order of hooks for which it was set, by mounts' names. Mounts that are not named come
    /// behind those that are, in the order of the configuration.
    pub order: BTreeMap<&'static str, Vec<String>>,
    /// The upstreams that resolvers may name.
    pub upstreams: HashSet<UpstreamName>,
    /// What anonymous clients may do where nobody else decides.
    pub anonymous: Anonymous,
}

/// Mounts in their order.
#[derive(Debug)]
struct Chain {
    hooks: [Vec<Arc<Mount>>; Hook::ALL.len()],
    all: Vec<Arc<Mount>>,
    upstreams: HashSet<UpstreamName>,
    anonymous: Anonymous,
    /// Unique in the process: what was known of a login ends with its chain.
    generation: u64,
}

impl Chain {
    fn of(&self, hook: Hook) -> &[Arc<Mount>] {
        &self.hooks[hook.index()]
    }

    /// Whether a mount decides about this hook.
    fn decides(&self, hook: Hook) -> bool {
        self.of(hook).iter().any(|mount| mount.counts(hook))
    }
}

/// What all chains of a process share.
#[derive(Debug)]
struct Shared {
    clock: Clock,
    metrics: PluginMetrics,
    decisions: Decisions,
    logins: Logins,
    flights: Flights,
    shadows: Shadows,
}

/// The hooks as plugins answer them. Cheap to clone; clones share the chain.
#[derive(Clone, Debug)]
pub struct Chained {
    current: Arc<ArcSwap<Chain>>,
    shared: Arc<Shared>,
}

/// What a [`Chained`] needs.
#[derive(Debug)]
pub struct ChainedParts {
    /// The time.
    pub clock: Clock,
    /// Counts.
    pub metrics: PluginMetrics,
    /// What was found out about content.
    pub facts: Facts,
    /// The process's tasks, for shadows.
    pub tasks: Tasks,
    /// How many verdicts are kept.
    pub decisions_max: u64,
}

impl Chained {
    /// No mounts yet: everybody may read.
    pub fn new(parts: ChainedParts) -> Self {
        let shared = Shared {
            decisions: Decisions::new(parts.decisions_max, parts.clock.clone(), parts.facts),
            logins: Logins::new(),
            flights: Flights::default(),
            shadows: Shadows::new(parts.tasks),
            clock: parts.clock,
            metrics: parts.metrics,
        };
        let none = Chain {
            hooks: Hook::ALL.map(|_| Vec::new()),
            all: Vec::new(),
            upstreams: HashSet::new(),
            anonymous: Anonymous::Pull,
            generation: 0,
        };
        Self { current: Arc::new(ArcSwap::from_pointee(none)), shared: Arc::new(shared) }
    }

    /// Puts another chain in the place of the one that counts. Calls in flight finish on the old
    /// one; verdicts and logins that it kept are not found again.
    ///
    /// # Errors
    /// When patterns of a mount cannot be used together; the old chain stays then.
    pub fn replace(&self, parts: ChainParts) -> Result<(), PatternError> {
        let filters = parts.mounts.iter().map(|mounted| Filter::new(&mounted.settings.matching));
        let filters = filters.collect::<Result<Vec<_>, _>>()?;
        self.shared.metrics.forget_circuits();
        let mounts = parts.mounts.into_iter().zip(filters);
        let all: Vec<_> = mounts
            .map(|(mounted, filter)| Arc::new(Mount::new(mounted, filter, &self.shared)))
            .collect();
        let ordered = |hook: Hook| {
            let mut of: Vec<Arc<Mount>> = all.iter().filter(|m| m.has(hook)).cloned().collect();
            let order = parts.order.get(hook.as_str()).map_or(&[][..], Vec::as_slice);
            // A stable sort: mounts that are not named keep their places behind the others.
            of.sort_by_key(|mount| {
                order.iter().position(|name| **name == *mount.name).unwrap_or(usize::MAX)
            });
            of
        };
        self.shared.metrics.show(all.iter().map(|mount| {
            let (digest, version) = mount.plugin();
            (&*mount.name, digest, version)
        }));
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let generation = NEXT.fetch_add(1, Ordering::Relaxed);
        self.current.store(Arc::new(Chain {
            hooks: Hook::ALL.map(ordered),
            all,
            upstreams: parts.upstreams,
            anonymous: parts.anonymous,
            generation,
        }));
        Ok(())
    }

    /// The mounts for the operator, in the order of the configuration.
    pub fn view(&self) -> Vec<MountView> {
        self.current.load().all.iter().map(|mount| mount.view(&self.shared)).collect()
    }
}

#[async_trait]
impl Hooks for Chained {
    fn wants_credentials(&self) -> bool {
        self.current.load().decides(Hook::Authenticator)
    }

    fn decides_access(&self) -> bool {
        let chain = self.current.load();
        [Hook::Authenticator, Hook::Authorizer, Hook::RequestPolicy, Hook::ManifestPolicy]
            .into_iter()
            .any(|hook| chain.decides(hook))
    }

    async fn authenticate(
        &self,
        context: &Context,
        presented: &Presented,
    ) -> Result<Option<Arc<Identity>>, Denial> {
        let chain = self.current.load_full();
        if chain.of(Hook::Authenticator).is_empty() {
            return AllowAll.authenticate(context, presented).await;
        }
        chain.authenticate(&self.shared, context, presented).await
    }

    async fn authorize(&self, context: &Context, target: &Target) -> Result<(), Denial> {
        let chain = self.current.load_full();
        if chain.is_open() {
            return Ok(());
        }
        chain.authorize(&self.shared, context, target).await
    }

    async fn authorize_scopes(
        &self,
        context: &Context,
        wanted: &[WantedScope],
    ) -> Result<Vec<WantedScope>, Denial> {
        let chain = self.current.load_full();
        if chain.is_open() {
            return AllowAll.authorize_scopes(context, wanted).await;
        }
        chain.authorize_scopes(&self.shared, context, wanted).await
    }

    async fn resolve(&self, context: &Context, target: Target) -> Result<Target, Denial> {
        let chain = self.current.load_full();
        if chain.of(Hook::Resolver).is_empty() {
            return Ok(target);
        }
        chain.resolve(&self.shared, context, target).await
    }

    async fn request(&self, context: &Context, target: &Target) -> Verdict {
        let chain = self.current.load_full();
        if chain.of(Hook::RequestPolicy).is_empty() {
            return Ok(Allowed::default());
        }
        chain.judge(&self.shared, context, Question::Request(target)).await
    }

    fn judges_manifests(&self) -> bool {
        !self.current.load().of(Hook::ManifestPolicy).is_empty()
    }

    async fn admit(&self, context: &Context, manifest: &AdmissionRequest) -> Verdict {
        let chain = self.current.load_full();
        if chain.of(Hook::ManifestPolicy).is_empty() {
            return Ok(Allowed::default());
        }
        chain.judge(&self.shared, context, Question::Manifest(Stage::Serve, manifest)).await
    }

    fn observe(&self, _observation: &Observation<'_>) {}
}
