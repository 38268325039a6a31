//! What is counted about upstreams.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::scope::UpstreamName;

use super::breaker::Circuit;
use super::error::Failure;
use super::limits::RateLimit;

/// What an upstream is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// HEAD of a manifest.
    ManifestHead,
    /// GET of a manifest: what Docker Hub counts as a pull.
    ManifestGet,
    /// HEAD of a blob.
    BlobHead,
    /// GET of a blob, or of a part.
    BlobGet,
    /// A page of tags.
    Tags,
    /// A page of referrers.
    Referrers,
    /// A token.
    Token,
}

impl Operation {
    /// The label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ManifestHead => "manifest_head",
            Self::ManifestGet => "manifest_get",
            Self::BlobHead => "blob_head",
            Self::BlobGet => "blob_get",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Token => "token",
        }
    }
}

/// The metrics of all upstreams. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    withheld: IntCounterVec,
    body_bytes: IntCounterVec,
    hedges: IntCounterVec,
    hedges_won: IntCounterVec,
    watched: Arc<Mutex<BTreeMap<UpstreamName, Weak<dyn Watched>>>>,
}

/// What is looked at whenever the metrics are asked for, as it changes with time alone.
pub(super) struct Observed {
    /// The endpoints that were asked, by host.
    pub(super) circuits: Vec<(Arc<str>, Circuit)>,
    pub(super) rate_limit: Option<RateLimit>,
}

/// An upstream that can be looked at.
pub(super) trait Watched: Send + Sync {
    fn observe(&self) -> Observed;
}

impl fmt::Debug for dyn Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl Metrics {
    /// Nothing counted yet; registered with `registry`.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let metrics = Self {
            requests: counter(
                "pierhead_upstream_requests_total",
                "Requests to upstreams (redirects and logins on the way included in one), by outcome",
                &["upstream", "operation", "outcome"],
            )?,
            withheld: counter(
                "pierhead_upstream_withheld_total",
                "Questions that an endpoint was not asked, as it is failing or wants to be left alone",
                &["upstream", "reason"],
            )?,
            body_bytes: counter(
                "pierhead_upstream_body_bytes_total",
                "Bytes of bodies from upstreams",
                &["upstream"],
            )?,
            hedges: counter(
                "pierhead_upstream_hedges_total",
                "HEADs that were also sent to a second endpoint, because the first took long",
                &["upstream"],
            )?,
            hedges_won: counter(
                "pierhead_upstream_hedges_won_total",
                "Such HEADs that the second endpoint answered first",
                &["upstream"],
            )?,
            watched: Arc::default(),
        };
        registry.register(Box::new(Health::new(Arc::clone(&metrics.watched))?))?;
        Ok(metrics)
    }

    pub(super) fn of(&self, upstream: &UpstreamName) -> UpstreamMetrics {
        let name = [upstream.as_str()];
        UpstreamMetrics {
            upstream: upstream.clone(),
            requests: self.requests.clone(),
            withheld: self.withheld.clone(),
            body_bytes: self.body_bytes.with_label_values(&name),
            hedges: self.hedges.with_label_values(&name),
            hedges_won: self.hedges_won.with_label_values(&name),
        }
    }

    /// Tells from now on how `upstream` is doing, in place of another of its name.
    pub(super) fn watch(&self, name: &UpstreamName, upstream: &Arc<dyn Watched>) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.insert(name.clone(), Arc::downgrade(upstream));
    }
}

/// How the upstreams are doing at the moment of asking.
struct Health {
    watched: Arc<Mutex<BTreeMap<UpstreamName, Weak<dyn Watched>>>>,
    state: IntGaugeVec,
    remaining: IntGaugeVec,
    limit: IntGaugeVec,
    exhausted_in: GaugeVec,
    restored_in: GaugeVec,
}

impl Health {
    fn new(
        watched: Arc<Mutex<BTreeMap<UpstreamName, Weak<dyn Watched>>>>,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            watched,
            state: IntGaugeVec::new(
                Opts::new(
                    "pierhead_upstream_endpoint_state",
                    "1 for the state in which an endpoint's circuit is, 0 for the others",
                ),
                &["upstream", "endpoint", "state"],
            )?,
            remaining: IntGaugeVec::new(
                Opts::new(
                    "pierhead_upstream_ratelimit_remaining",
                    "Pulls that the upstream said were left, when it last said so",
                ),
                &["upstream"],
            )?,
            limit: IntGaugeVec::new(
                Opts::new(
                    "pierhead_upstream_ratelimit_limit",
                    "Pulls that the upstream allows in a window, as it last said",
                ),
                &["upstream"],
            )?,
            exhausted_in: GaugeVec::new(
                Opts::new(
                    "pierhead_upstream_ratelimit_exhausted_in_seconds",
                    "Until no pull is left, if they go on as in the last hour",
                ),
                &["upstream"],
            )?,
            restored_in: GaugeVec::new(
                Opts::new(
                    "pierhead_upstream_ratelimit_restored_in_seconds",
                    "Until the upstream's allowance is whole again, at the latest",
                ),
                &["upstream"],
            )?,
        })
    }

    fn tell(&self, name: &str, observed: &Observed) {
        for (host, now) in &observed.circuits {
            for circuit in Circuit::ALL {
                let labels = [name, &**host, circuit.as_str()];
                self.state.with_label_values(&labels).set(i64::from(circuit == *now));
            }
        }
        let Some(limit) = observed.rate_limit else { return };
        let whole = |number| i64::try_from(number).unwrap_or(i64::MAX);
        self.remaining.with_label_values(&[name]).set(whole(limit.remaining));
        if let Some(number) = limit.limit {
            self.limit.with_label_values(&[name]).set(whole(number));
        }
        // Absent where there is nothing to tell: any number would be a wrong one.
        if let Some(left) = limit.exhausted_in {
            self.exhausted_in.with_label_values(&[name]).set(left.as_secs_f64());
        }
        if let Some(left) = limit.restored_in {
            self.restored_in.with_label_values(&[name]).set(left.as_secs_f64());
        }
    }
}

impl Collector for Health {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.state, &self.remaining, &self.limit];
        let forecasts = [&self.exhausted_in, &self.restored_in];
        let gauges = gauges.into_iter().flat_map(Collector::desc);
        gauges.chain(forecasts.into_iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Held to the end: two who ask at once must not reset each other's numbers.
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for gauges in [&self.state, &self.remaining, &self.limit] {
            gauges.reset();
        }
        for gauges in [&self.exhausted_in, &self.restored_in] {
            gauges.reset();
        }
        watched.retain(|name, upstream| match upstream.upgrade() {
            Some(upstream) => {
                self.tell(name.as_str(), &upstream.observe());
                true
            }
            None => false,
        });
        let gauges = [&self.state, &self.remaining, &self.limit];
        let forecasts = [&self.exhausted_in, &self.restored_in];
        let gauges = gauges.into_iter().flat_map(Collector::collect);
        gauges.chain(forecasts.into_iter().flat_map(Collector::collect)).collect()
    }
}

/// The metrics of one upstream.
#[derive(Clone, Debug)]
pub(super) struct UpstreamMetrics {
    upstream: UpstreamName,
    requests: IntCounterVec,
    withheld: IntCounterVec,
    pub(super) body_bytes: IntCounter,
    pub(super) hedges: IntCounter,
    pub(super) hedges_won: IntCounter,
}

impl UpstreamMetrics {
    /// Whose they are.
    pub(super) const fn upstream(&self) -> &UpstreamName {
        &self.upstream
    }

    pub(super) fn count<T>(&self, operation: Operation, outcome: &Result<T, Failure>) {
        let outcome = match outcome {
            Ok(_) => "ok",
            Err(failure) => failure.kind().as_str(),
        };
        self.requests
            .with_label_values(&[self.upstream.as_str(), operation.as_str(), outcome])
            .inc();
    }

    /// A question was not asked, for one of two reasons.
    pub(super) fn withheld(&self, is_limited: bool) {
        let reason = if is_limited { "rate_limited" } else { "failing" };
        self.withheld.with_label_values(&[self.upstream.as_str(), reason]).inc();
    }
}
