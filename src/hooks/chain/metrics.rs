//! What is counted about plugins.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::guest::{Broke, Hook};

/// The most different labels that one mount may count; what comes beyond them is counted as
/// `other`.
pub(super) const LABELS_PER_MOUNT_MAX: usize = 64;

/// The upper bounds of the durations of calls, in seconds: from a microsecond, for a cached
/// instance of a small guest, to what a login that asks somebody else may take.
const SECONDS: [f64; 21] = [
    1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1,
    0.2, 0.5, 1.0, 2.0, 5.0,
];

/// The metrics of all mounts. They outlive chains: a reload continues the counts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PluginMetrics {
    calls: IntCounterVec,
    seconds: HistogramVec,
    decisions: IntCounterVec,
    traps: IntCounterVec,
    memory_peak: IntGaugeVec,
    log_dropped: IntCounterVec,
    labels: IntCounterVec,
    scans: IntCounterVec,
    warned: IntCounterVec,
    shadow: IntCounterVec,
    circuit: IntGaugeVec,
    info: IntGaugeVec,
    loads: IntCounterVec,
    known_labels: Arc<Mutex<HashSet<(String, String)>>>,
}

/// What an answer comes to, for the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sense {
    Abstain,
    Allow,
    Deny,
}

impl Sense {
    const ALL: [&'static str; 3] = ["abstain", "allow", "deny"];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Abstain => Self::ALL[0],
            Self::Allow => Self::ALL[1],
            Self::Deny => Self::ALL[2],
        }
    }
}

/// What became of a shadow's call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    Agrees,
    WouldDeny,
    WouldAllow,
    Differs,
    Broke,
    Skipped,
}

impl Compared {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::WouldDeny => "would_deny",
            Self::WouldAllow => "would_allow",
            Self::Differs => "differs",
            Self::Broke => "broke",
            Self::Skipped => "skipped",
        }
    }
}

impl PluginMetrics {
    /// Nothing counted yet; registered with `registry`.
    ///
    /// # Errors
    /// When there are some already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let opts = HistogramOpts::new(
            "pierhead_plugin_call_seconds",
            "How long calls of plugins take, those that break included",
        );
        let seconds = HistogramVec::new(opts.buckets(SECONDS.to_vec()), &["mount", "hook"])?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self {
            calls: counter(
                "pierhead_plugin_calls_total",
                "Questions to plugins that were asked anew, by answer or by why there is none",
                &["mount", "hook", "outcome"],
            )?,
            seconds,
            decisions: counter(
                "pierhead_plugin_decisions_total",
                "Questions to policies, by whether a verdict was at hand",
                &["mount", "hook", "result"],
            )?,
            traps: counter(
                "pierhead_plugin_traps_total",
                "Traps of plugins, by kind",
                &["mount", "kind"],
            )?,
            memory_peak: gauge(
                "pierhead_plugin_memory_peak_bytes",
                "The most memory that one call of a plugin took",
                &["mount"],
            )?,
            log_dropped: counter(
                "pierhead_plugin_log_dropped_total",
                "Log lines of plugins that were dropped, as they were beyond what a call may write",
                &["mount"],
            )?,
            labels: counter(
                "pierhead_plugin_labels_total",
                "What plugins count, by their own labels",
                &["mount", "name"],
            )?,
            scans: counter(
                "pierhead_plugin_scans_wanted_total",
                "Scans that policies asked for",
                &["mount"],
            )?,
            warned: counter(
                "pierhead_plugin_warned_total",
                "Refusals of policies in mode warn, which clients only got as warnings",
                &["mount", "hook"],
            )?,
            shadow: counter(
                "pierhead_plugin_shadow_total",
                "Answers of plugins in mode shadow, compared with what was enforced",
                &["mount", "hook", "result"],
            )?,
            circuit: gauge(
                "pierhead_plugin_circuit_open",
                "Whether a plugin broke so often that it is left alone",
                &["mount"],
            )?,
            info: gauge(
                "pierhead_plugin_info",
                "The plugins that are mounted, by digest and version",
                &["mount", "digest", "version"],
            )?,
            loads: counter(
                "pierhead_plugin_loads_total",
                "Loads of plugins, by result: ok, or why a plugin was not taken",
                &["mount", "result"],
            )?,
            known_labels: Arc::default(),
        })
    }

    /// Notes how loading a plugin for a mount ended.
    pub fn loaded(&self, mount: &str, result: Result<(), &Broke>) {
        let result = result.map_or_else(Broke::kind, |()| "ok");
        self.loads.with_label_values(&[mount, result]).inc();
    }

    /// Shows which plugins are mounted, and no others.
    pub fn show<'m>(&self, mounted: impl IntoIterator<Item = (&'m str, &'m str, &'m str)>) {
        self.info.reset();
        for (mount, digest, version) in mounted {
            self.info.with_label_values(&[mount, digest, version]).set(1);
        }
    }

    pub(super) fn of(&self, mount: &str, hook: Hook) -> HookMetrics {
        let labels = [mount, hook.as_str()];
        let call = |outcome| self.calls.with_label_values(&[mount, hook.as_str(), outcome]);
        let decision = |result| self.decisions.with_label_values(&[mount, hook.as_str(), result]);
        HookMetrics {
            answers: Sense::ALL.map(call),
            seconds: self.seconds.with_label_values(&labels),
            hits: hook.is_policy().then(|| decision("hit")),
            misses: hook.is_policy().then(|| decision("miss")),
        }
    }

    pub(super) fn broke(&self, mount: &str, hook: Hook, broke: &Broke) {
        self.calls.with_label_values(&[mount, hook.as_str(), broke.kind()]).inc();
        if let Broke::Trap { kind, .. } = broke {
            self.traps.with_label_values(&[mount, kind]).inc();
        }
    }

    pub(super) fn took(&self, mount: &str, memory_peak_bytes: u64, log_dropped: u64) {
        if memory_peak_bytes > 0 {
            let gauge = self.memory_peak.with_label_values(&[mount]);
            let bytes = i64::try_from(memory_peak_bytes).unwrap_or(i64::MAX);
            // Two calls at once may lose the larger one; the next call of its kind restores it.
            if bytes > gauge.get() {
                gauge.set(bytes);
            }
        }
        if log_dropped > 0 {
            self.log_dropped.with_label_values(&[mount]).inc_by(log_dropped);
        }
    }

    /// Lets the mounts of another chain begin with closed circuits. What calls in flight still say
    /// about the old ones is shown no more.
    pub(super) fn forget_circuits(&self) {
        self.circuit.reset();
    }

    /// Whether a circuit of the mount is open: 1 or 0.
    pub(super) fn circuit_of(&self, mount: &str) -> IntGauge {
        self.circuit.with_label_values(&[mount])
    }

    /// The counter of a label of a plugin's own.
    pub(super) fn label(&self, mount: &str, label: &str) -> IntCounter {
        let mut known = self.known_labels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (mount.to_owned(), label.to_owned());
        let label = if known.contains(&key) {
            label
        } else if known.iter().filter(|(of, _)| of == mount).count() < LABELS_PER_MOUNT_MAX {
            known.insert(key);
            label
        } else {
            "other"
        };
        self.labels.with_label_values(&[mount, label])
    }

    pub(super) fn scans(&self, mount: &str) -> IntCounter {
        self.scans.with_label_values(&[mount])
    }

    pub(super) fn warned(&self, mount: &str, hook: Hook) {
        self.warned.with_label_values(&[mount, hook.as_str()]).inc();
    }

    pub(super) fn compared(&self, mount: &str, hook: Hook, compared: Compared) {
        self.shadow.with_label_values(&[mount, hook.as_str(), compared.as_str()]).inc();
    }

    /// Calls that were answered, and calls that broke, of all hooks of a mount.
    pub(super) fn counts(&self, mount: &str, hooks: &[Hook]) -> (u64, u64) {
        let sum = |outcomes: &[&str]| {
            let of = |hook: &Hook, outcome: &str| {
                self.calls.with_label_values(&[mount, hook.as_str(), outcome]).get()
            };
            hooks.iter().flat_map(|hook| outcomes.iter().map(move |o| of(hook, o))).sum()
        };
        (sum(&Sense::ALL), sum(&Broke::KINDS))
    }
}

/// The metrics of one hook of a mount that are met with every question.
#[derive(Debug)]
pub(super) struct HookMetrics {
    answers: [IntCounter; 3],
    pub(super) seconds: Histogram,
    hits: Option<IntCounter>,
    misses: Option<IntCounter>,
}

impl HookMetrics {
    pub(super) fn answered(&self, sense: Sense) {
        let counter = match sense {
            Sense::Abstain => &self.answers[0],
            Sense::Allow => &self.answers[1],
            Sense::Deny => &self.answers[2],
        };
        counter.inc();
    }

    pub(super) fn at_hand(&self, hit: bool) {
        if let Some(counter) = if hit { &self.hits } else { &self.misses } {
            counter.inc();
        }
    }

    /// Verdicts that were at hand, and those that were not.
    pub(super) fn hits_and_misses(&self) -> (u64, u64) {
        let count = |counter: &Option<IntCounter>| counter.as_ref().map_or(0, IntCounter::get);
        (count(&self.hits), count(&self.misses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded() {
        let metrics = PluginMetrics::new(&Registry::new()).unwrap();
        for n in 0..2 * LABELS_PER_MOUNT_MAX {
            metrics.label("m", &n.to_string()).inc();
        }
        metrics.label("m", "0").inc();
        assert_eq!(metrics.labels.with_label_values(&["m", "0"]).get(), 2);
        let other = metrics.labels.with_label_values(&["m", "other"]).get();
        assert_eq!(other, LABELS_PER_MOUNT_MAX as u64);
        metrics.label("n", "0").inc();
        assert_eq!(metrics.labels.with_label_values(&["n", "0"]).get(), 1);
    }
}
