//! What is counted about upstreams.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::scope::UpstreamName;

use super::error::Failure;

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
    body_bytes: IntCounterVec,
    remaining: IntGaugeVec,
}

impl Metrics {
    /// Nothing counted yet; registered with `registry`.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new(
                "pierhead_upstream_requests_total",
                "Requests to upstreams (redirects and logins on the way included in one), by outcome",
            ),
            &["upstream", "operation", "outcome"],
        )?;
        let body_bytes = IntCounterVec::new(
            Opts::new("pierhead_upstream_body_bytes_total", "Bytes of bodies from upstreams"),
            &["upstream"],
        )?;
        let remaining = IntGaugeVec::new(
            Opts::new(
                "pierhead_upstream_ratelimit_remaining",
                "Pulls that the upstream said were left, when it last said so",
            ),
            &["upstream"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(body_bytes.clone()))?;
        registry.register(Box::new(remaining.clone()))?;
        Ok(Self { requests, body_bytes, remaining })
    }

    pub(super) fn of(&self, upstream: &UpstreamName) -> UpstreamMetrics {
        UpstreamMetrics {
            upstream: upstream.clone(),
            requests: self.requests.clone(),
            body_bytes: self.body_bytes.with_label_values(&[upstream.as_str()]),
            remaining: self.remaining.clone(),
        }
    }
}

/// The metrics of one upstream.
#[derive(Clone, Debug)]
pub(super) struct UpstreamMetrics {
    upstream: UpstreamName,
    requests: IntCounterVec,
    pub(super) body_bytes: IntCounter,
    remaining: IntGaugeVec,
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

    /// Made on first use: most upstreams never say.
    pub(super) fn remaining(&self) -> IntGauge {
        self.remaining.with_label_values(&[self.upstream.as_str()])
    }
}
