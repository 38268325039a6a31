//! What is counted of the space and of what went.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::store::RoomUse;

/// Why a blob went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// Something else needed its space.
    Room,
    /// Its upstream's `max_size`.
    Quota,
    /// Its upstream's `max_age`.
    Age,
    /// No repository has a link to it any more.
    Unlinked,
}

impl Reason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Quota => "quota",
            Self::Age => "age",
            Self::Unlinked => "unlinked",
        }
    }
}

/// The counters. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    bytes: IntGaugeVec,
    max: IntGauge,
    available: IntGauge,
    evictions: IntCounterVec,
    evicted_bytes: IntCounterVec,
    refused: IntCounterVec,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let bytes = IntGaugeVec::new(
            Opts::new("pierhead_storage_bytes", "Allocated bytes below storage.path, by kind"),
            &["kind"],
        )?;
        let max = IntGauge::new("pierhead_storage_bytes_max", "storage.max_size in bytes")?;
        let available = IntGauge::new(
            "pierhead_storage_available_bytes",
            "What storage.max_size and storage.min_free still allow, in bytes",
        )?;
        let evictions = IntCounterVec::new(
            Opts::new("pierhead_evictions_total", "Blobs that were evicted, by reason"),
            &["reason"],
        )?;
        let evicted_bytes = IntCounterVec::new(
            Opts::new("pierhead_evicted_bytes_total", "Bytes that were evicted, by reason"),
            &["reason"],
        )?;
        let refused = IntCounterVec::new(
            Opts::new(
                "pierhead_storage_refusals_total",
                "Requests for space that eviction could not make room for, by cause",
            ),
            &["cause"],
        )?;
        registry.register(Box::new(bytes.clone()))?;
        registry.register(Box::new(max.clone()))?;
        registry.register(Box::new(available.clone()))?;
        registry.register(Box::new(evictions.clone()))?;
        registry.register(Box::new(evicted_bytes.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { bytes, max, available, evictions, evicted_bytes, refused })
    }

    pub(super) fn room(&self, room: &RoomUse) {
        let shown = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.bytes.with_label_values(&["stored"]).set(shown(room.stored));
        self.bytes.with_label_values(&["reserved"]).set(shown(room.reserved));
        self.bytes.with_label_values(&["other"]).set(shown(room.others));
        self.max.set(shown(room.max));
        self.available.set(shown(room.available));
    }

    pub(super) fn evicted(&self, reason: Reason, bytes: u64) {
        self.evictions.with_label_values(&[reason.as_str()]).inc();
        self.evicted_bytes.with_label_values(&[reason.as_str()]).inc_by(bytes);
    }

    /// `cause` is `too_large` or `in_use`.
    pub(super) fn refused(&self, cause: &str) {
        self.refused.with_label_values(&[cause]).inc();
    }
}
