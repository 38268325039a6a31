//! What TLS counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::clock::Timestamp;

/// The counters of TLS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsMetrics {
    handshakes: IntCounterVec,
    expires: IntGauge,
    changes: IntCounter,
}

impl TlsMetrics {
    /// Registers the counters.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let handshakes = IntCounterVec::new(
            Opts::new("pierhead_tls_handshakes_total", "TLS handshakes, by what came of them"),
            &["result"],
        )?;
        let expires = IntGauge::new(
            "pierhead_tls_certificate_expires_timestamp_seconds",
            "When our certificate expires, in seconds since 1970; 0 without one",
        )?;
        let changes = IntCounter::new(
            "pierhead_tls_certificate_changes_total",
            "How often a certificate was put to use, the first one included",
        )?;
        registry.register(Box::new(handshakes.clone()))?;
        registry.register(Box::new(expires.clone()))?;
        registry.register(Box::new(changes.clone()))?;
        Ok(Self { handshakes, expires, changes })
    }

    pub(super) fn handshake(&self, result: &str) {
        self.handshakes.with_label_values(&[result]).inc();
    }

    pub(super) fn certificate(&self, expires: Timestamp) {
        self.changes.inc();
        self.expires.set(i64::try_from(expires.unix_ms() / 1000).unwrap_or(i64::MAX));
    }
}
