//! One plugin in its place: what it is asked, how often it may break, and what follows when it
//! does.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use prometheus::{IntCounter, IntGauge};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::breaker::{Breaker, Circuit};
use super::check::{self, Fit, Ruling};
use super::decisions::Sets;
use super::filter::{Filter, MatchSettings};
use super::guest::{Broke, Call, Called, Guest, Hook};
use super::metrics::{HookMetrics, Sense};
use super::question::{Inputs, Question};
use super::view::{MountView, Trouble};
use super::{Mode, OnError, Shared};
use crate::client_id::ClientId;
use crate::hooks::{Context, Denial};
use crate::oci::ErrorCode;
use crate::telemetry::Span;

/// How much later than its deadline a call is given up, should the guest's own host not have ended
/// it.
const DEADLINE_SLACK: Duration = Duration::from_millis(50);

/// Lines in the log about one mount that breaks are at least this far apart.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Logins that one mount decides at a time where there are fewer cores: one that waits for somebody
/// else must not stop all others.
const LOGINS_AT_ONCE_MIN: usize = 2;

/// The longest backtrace that is logged, in bytes.
const BACKTRACE_BYTES_MAX: usize = 4 << 10;

/// What a mount was configured to.
#[derive(Clone, Debug)]
pub struct MountSettings {
    /// Its name in the configuration, in metrics and in what clients are told.
    pub name: Arc<str>,
    /// What it is asked about at all.
    pub matching: MatchSettings,
    /// What follows when it breaks; absent: [`OnError::of`] its hook.
    pub on_error: Option<OnError>,
    /// What follows from its answers.
    pub mode: Mode,
    /// How long a call may take; absent: by hook.
    pub timeout: Option<Duration>,
}

/// A mount with its plugin, or with why there is none.
#[derive(Debug)]
pub struct Mounted {
    /// What it was configured to.
    pub settings: MountSettings,
    /// What it is asked.
    pub hooks: Vec<Hook>,
    /// Whether the plugin or the configuration said so. If nobody did, it stands everywhere.
    pub are_hooks_known: bool,
    /// The plugin.
    pub guest: Result<Arc<dyn Guest>, Broke>,
    /// The SHA-256 digest of the plugin, if it could be read.
    pub digest: Option<String>,
    /// Its version, if it says one.
    pub version: Option<String>,
    /// Why a newer version of it is not the one that serves.
    pub stale: Option<Broke>,
}

/// A mount of a chain.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) name: Arc<str>,
    pub(super) mode: Mode,
    hooks: Vec<Hook>,
    are_hooks_known: bool,
    guest: Result<Arc<dyn Guest>, Broke>,
    digest: Option<String>,
    version: Option<String>,
    stale: Option<Broke>,
    filter: Filter,
    on_error: Option<OnError>,
    timeout: Option<Duration>,
    /// One for each hook: what makes it break at one must not silence it at the others.
    breakers: [Breaker; Hook::ALL.len()],
    /// Room for logins. Password hashes are slow by intent: more of them at a time than there are
    /// cores would all come too late.
    logins: Semaphore,
    /// Unique in the process for each hook: verdicts of another chain are never found.
    ids: [u64; Hook::ALL.len()],
    sets: [Sets; Hook::ALL.len()],
    metrics: [HookMetrics; Hook::ALL.len()],
    circuit_open: IntGauge,
    /// Whether the latest call broke.
    breaking: AtomicBool,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    last: Option<Trouble>,
    logged: Option<Instant>,
    unlogged: u64,
}

/// What follows from a verdict, ready to be used again and again.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) ruling: Ruling,
    warnings: Vec<String>,
    notes: Vec<(String, String)>,
    counts: Vec<IntCounter>,
    scans: Option<(IntCounter, u64)>,
}

impl Judged {
    /// Does what is to be done besides.
    pub(super) fn oblige(&self, context: &Context, warnings: &mut Vec<String>) {
        warnings.extend(self.warnings.iter().cloned());
        for (key, value) in &self.notes {
            context.notes.add(key, value);
        }
        self.counts.iter().for_each(IntCounter::inc);
        if let Some((counter, scans)) = &self.scans {
            counter.inc_by(*scans);
        }
    }
}

impl Mount {
    pub(super) fn new(mounted: Mounted, filter: Filter, shared: &Shared) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let Mounted { settings, hooks, are_hooks_known, guest, digest, version, stale } = mounted;
        let name = settings.name;
        let is_login = are_hooks_known && hooks.contains(&Hook::Authenticator);
        if is_login && !settings.matching.is_everything() {
            tracing::warn!(
                mount = &*name,
                "`match` says nothing to an authenticator: who somebody is does not depend on what \
                 they ask for"
            );
        }
        let health = Health {
            last: guest.as_ref().err().map(|broke| Trouble::new(broke, shared.clock.now())),
            ..Health::default()
        };
        Self {
            mode: settings.mode,
            hooks,
            are_hooks_known,
            guest,
            digest,
            version,
            stale,
            filter,
            on_error: settings.on_error,
            timeout: settings.timeout,
            breakers: Hook::ALL.map(|_| Breaker::default()),
            logins: Semaphore::new(cores().max(LOGINS_AT_ONCE_MIN)),
            ids: Hook::ALL.map(|_| NEXT.fetch_add(1, Ordering::Relaxed)),
            sets: Hook::ALL.map(|_| Sets::default()),
            metrics: Hook::ALL.map(|hook| shared.metrics.of(&name, hook)),
            circuit_open: shared.metrics.circuit_of(&name),
            breaking: AtomicBool::new(false),
            health: Mutex::new(health),
            name,
        }
    }

    pub(super) fn has(&self, hook: Hook) -> bool {
        self.hooks.contains(&hook)
    }

    /// Whether its answers to this hook change what happens.
    pub(super) fn counts(&self, hook: Hook) -> bool {
        match self.mode {
            Mode::Enforce => true,
            // A login or a name cannot be had by a warning.
            Mode::Warn => hook.is_policy(),
            Mode::Shadow => false,
        }
    }

    pub(super) const fn filter(&self) -> &Filter {
        &self.filter
    }

    pub(super) fn fits(&self, question: Question<'_>) -> bool {
        self.filter.fits(question.scope(), question.action(), question.media_type())
    }

    /// What follows when it breaks.
    pub(super) fn on_error(&self, hook: Hook) -> OnError {
        let on_error = self.on_error.unwrap_or_else(|| OnError::of(hook));
        // Meant for what the plugin is, such as a policy: it must not let everybody in.
        let is_access = matches!(hook, Hook::Authenticator | Hook::Authorizer);
        if on_error == OnError::Allow && is_access && !self.are_hooks_known {
            return OnError::Skip;
        }
        on_error
    }

    fn show_circuit(&self) {
        self.circuit_open.set(i64::from(self.circuit() != Circuit::Closed));
    }

    /// How the circuit is that is worst.
    fn circuit(&self) -> Circuit {
        let circuits = self.breakers.iter().map(Breaker::circuit);
        circuits.fold(Circuit::Closed, |worst, circuit| match (worst, circuit) {
            (Circuit::Open, _) | (_, Circuit::Open) => Circuit::Open,
            (Circuit::HalfOpen, _) | (_, Circuit::HalfOpen) => Circuit::HalfOpen,
            (Circuit::Closed, Circuit::Closed) => Circuit::Closed,
        })
    }

    /// What a client is told when it breaks and `on_error` is to deny.
    pub(super) fn unable(&self, broke: &Broke) -> Denial {
        let message = format!(
            "{} could not be asked ({}), and nothing passes without it: ask the operator of this \
             registry",
            self.name,
            broke.kind()
        );
        Denial { code: ErrorCode::Denied, message, overtaxed: broke.is_overtaxed() }
    }

    /// A verdict that is at hand.
    pub(super) fn at_hand(
        &self,
        shared: &Shared,
        inputs: &Inputs<'_>,
        hook: Hook,
    ) -> Option<Arc<Judged>> {
        let index = hook.index();
        let found = shared.decisions.get(self.ids[index], &self.sets[index], inputs);
        self.metrics[index].at_hand(found.is_some());
        found
    }

    /// Its verdict, from what is at hand or by a call.
    pub(super) async fn judge(
        &self,
        shared: &Shared,
        context: &Context,
        question: Question<'_>,
    ) -> Result<Arc<Judged>, Broke> {
        let (hook, inputs) = (question.hook(), Inputs::of(context, question));
        if let Some(judged) = self.at_hand(shared, &inputs, hook) {
            return Ok(judged);
        }
        let moment = shared.decisions.moment(&inputs);
        let ask = |guest, call| question.ask(guest, call);
        let fit = |said: super::guest::Said| {
            let reuse = said.reuse;
            let fit = check::said(&self.name, said)?;
            let sense = match fit.ruling {
                Ruling::Abstain => Sense::Abstain,
                Ruling::Allow => Sense::Allow,
                Ruling::Deny(_) => Sense::Deny,
            };
            Ok(((fit, reuse), sense))
        };
        let (fit, reuse) = self.call(shared, context, hook, ask, fit).await?;
        let judged = Arc::new(self.judged(shared, fit));
        if let Some(reuse) = reuse.filter(|_| question.is_complete()) {
            let (id, sets) = (self.ids[hook.index()], &self.sets[hook.index()]);
            shared.decisions.put(id, sets, &inputs, moment, reuse, Arc::clone(&judged));
        }
        Ok(judged)
    }

    fn judged(&self, shared: &Shared, fit: Fit) -> Judged {
        let mut notes = fit.notes;
        if let Some(detail) = fit.detail {
            notes.push((format!("{}.detail", self.name), detail));
        }
        let counts = fit.counts.iter().map(|label| shared.metrics.label(&self.name, label));
        Judged {
            ruling: fit.ruling,
            warnings: fit.warnings,
            notes,
            counts: counts.collect(),
            scans: (fit.scans > 0).then(|| (shared.metrics.scans(&self.name), fit.scans)),
        }
    }

    /// Calls the guest, if it is there and not left alone, and makes its answer fit. Everything
    /// that can go wrong is counted here, and nowhere else.
    ///
    /// Cancel-safe: dropping it ends the call.
    pub(super) async fn call<'a, T, R>(
        &'a self,
        shared: &Shared,
        context: &'a Context,
        hook: Hook,
        ask: impl FnOnce(&'a dyn Guest, Call<'a>) -> BoxFuture<'a, Called<T>>,
        fit: impl FnOnce(T) -> Result<(R, Sense), Broke>,
    ) -> Result<R, Broke> {
        let metrics = &self.metrics[hook.index()];
        let guest = match &self.guest {
            Ok(guest) => guest,
            Err(broke) => {
                shared.metrics.broke(&self.name, hook, broke);
                return Err(broke.clone());
            }
        };
        let deadline = self.timeout.unwrap_or_else(|| hook.deadline());
        let place = self.place(hook, deadline).await.inspect_err(|broke| {
            shared.metrics.broke(&self.name, hook, broke);
            self.note(shared, context, hook, broke, Instant::now(), false);
        })?;
        let breaker = &self.breakers[hook.index()];
        let began = Instant::now();
        let Some(permit) = breaker.admit(began) else {
            shared.metrics.broke(&self.name, hook, &Broke::Resting);
            return Err(Broke::Resting);
        };
        let call = Call { context, now: shared.clock.now(), deadline };
        let mut span = Span::plugin(&self.name, hook.as_str());
        // A mistake of the host's in one call must not end the others.
        let answer = AssertUnwindSafe(ask(&**guest, call)).catch_unwind();
        let called = match tokio::time::timeout(deadline + DEADLINE_SLACK, answer).await {
            Ok(Ok(called)) => called,
            Ok(Err(_)) => Err(Broke::Trap { kind: "panic", backtrace: String::new() }).into(),
            Err(_) => Err(Broke::Deadline).into(),
        };
        drop(place);
        let now = Instant::now();
        metrics.seconds.observe((now - began).as_secs_f64());
        shared.metrics.took(&self.name, called.memory_peak_bytes, called.log_dropped);
        match called.result.and_then(fit) {
            Ok((answer, sense)) => {
                let was_probe = permit.is_probe();
                permit.end(now, None);
                self.breaking.store(false, Ordering::Relaxed);
                if was_probe {
                    self.show_circuit();
                }
                metrics.answered(sense);
                span.set("pierhead.outcome", || sense.as_str());
                Ok(answer)
            }
            Err(broke) => {
                let was_closed = breaker.circuit() == Circuit::Closed;
                self.breaking.store(true, Ordering::Relaxed);
                if broke.counts_against_it() {
                    let subject = context.identity.as_ref().map(|who| who.subject.as_str());
                    permit.end(now, Some(ClientId::new(subject, context.client.address)));
                } else {
                    // It was not asked: a probe leaves its place to the next call.
                    drop(permit);
                }
                let is_closed = breaker.circuit() == Circuit::Closed;
                shared.metrics.broke(&self.name, hook, &broke);
                self.show_circuit();
                span.fail(|| broke.kind().into());
                self.note(shared, context, hook, &broke, now, was_closed && !is_closed);
                Err(broke)
            }
        }
    }

    /// Room for a call: a login waits for it as long as it may take. Other hooks need none here.
    async fn place(
        &self,
        hook: Hook,
        deadline: Duration,
    ) -> Result<Option<SemaphorePermit<'_>>, Broke> {
        if hook != Hook::Authenticator {
            return Ok(None);
        }
        match tokio::time::timeout(deadline, self.logins.acquire()).await {
            Ok(Ok(place)) => Ok(Some(place)),
            // It is never closed.
            Ok(Err(_)) | Err(_) => Err(Broke::Busy),
        }
    }

    /// Remembers a break and tells of it in the log, not for each one.
    fn note(
        &self,
        shared: &Shared,
        context: &Context,
        hook: Hook,
        broke: &Broke,
        now: Instant,
        opened: bool,
    ) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.last = Some(Trouble::new(broke, shared.clock.now()));
        health.unlogged += 1;
        if !opened && health.logged.is_some_and(|at| now < at + LOG_INTERVAL) {
            return;
        }
        health.logged = Some(now);
        let times = std::mem::take(&mut health.unlogged);
        drop(health);
        let backtrace = match broke {
            Broke::Trap { backtrace, .. } => {
                let end = backtrace.floor_char_boundary(BACKTRACE_BYTES_MAX);
                backtrace.get(..end)
            }
            _ => None,
        };
        tracing::warn!(
            mount = &*self.name,
            %hook,
            why = broke.kind(),
            error = %broke,
            backtrace,
            times,
            left_alone = opened,
            request_id = context.request_id,
            on_error = self.on_error(hook).as_str(),
            "a plugin broke"
        );
    }

    /// It for the operator.
    pub(super) fn view(&self, shared: &Shared) -> MountView {
        let (calls, breaks) = shared.metrics.counts(&self.name, &self.hooks);
        let (mut hits, mut misses) = (0, 0);
        for metrics in &self.metrics {
            let (hit, miss) = metrics.hits_and_misses();
            hits += hit;
            misses += miss;
        }
        MountView {
            name: Arc::clone(&self.name),
            hooks: self.hooks.clone(),
            mode: self.mode,
            on_error: self.on_error,
            digest: self.digest.clone(),
            version: self.version.clone(),
            loaded: self.guest.is_ok(),
            stale: self.stale.as_ref().map(ToString::to_string),
            circuit: self.circuit(),
            breaking: self.breaking.load(Ordering::Relaxed),
            last: self.health.lock().unwrap_or_else(PoisonError::into_inner).last.clone(),
            calls,
            breaks,
            decisions_at_hand: hits,
            decisions_asked: misses,
        }
    }

    /// Digest and version, for the metric.
    pub(super) fn plugin(&self) -> (&str, &str) {
        (self.digest.as_deref().unwrap_or(""), self.version.as_deref().unwrap_or(""))
    }
}

/// How many cores there are to count on.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
