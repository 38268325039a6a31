//! What is counted of the space and of what went.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::shelf::Finder;
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
    /// Not a blob yet: a spool that nobody went on with.
    Parked,
    /// Not a blob any more: damaged, and put aside.
    Quarantined,
}

impl Reason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Room => "room",
            Self::Quota => "quota",
            Self::Age => "age",
            Self::Unlinked => "unlinked",
            Self::Parked => "parked",
            Self::Quarantined => "quarantined",
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
    in_quarantine: IntGauge,
    quarantined: IntCounterVec,
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
        let in_quarantine = IntGauge::new(
            "pierhead_storage_quarantined_files",
            "Damaged blobs that lie in quarantine",
        )?;
        let quarantined = IntCounterVec::new(
            Opts::new(
                "pierhead_storage_quarantined_total",
                "Blobs that were found damaged and put aside, by what found them",
            ),
            &["found_by"],
        )?;
        for finder in [Finder::Read, Finder::Scrub] {
            quarantined.with_label_values(&[finder.as_str()]);
        }
        registry.register(Box::new(in_quarantine.clone()))?;
        registry.register(Box::new(quarantined.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        registry.register(Box::new(max.clone()))?;
        registry.register(Box::new(available.clone()))?;
        registry.register(Box::new(evictions.clone()))?;
        registry.register(Box::new(evicted_bytes.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self {
            bytes,
            max,
            available,
            evictions,
            evicted_bytes,
            refused,
            in_quarantine,
            quarantined,
        })
    }

    pub(super) fn room(&self, room: &RoomUse) {
        let shown = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.bytes.with_label_values(&["stored"]).set(shown(room.stored));
        // The kinds add up to what is taken.
        let apart = room.parked.saturating_add(room.quarantined);
        let reserved = room.reserved.saturating_sub(apart);
        self.bytes.with_label_values(&["reserved"]).set(shown(reserved));
        self.bytes.with_label_values(&["parked"]).set(shown(room.parked));
        self.bytes.with_label_values(&["quarantined"]).set(shown(room.quarantined));
        self.in_quarantine.set(shown(room.quarantined_files));
        self.bytes.with_label_values(&["other"]).set(shown(room.others));
        self.max.set(shown(room.max));
        self.available.set(shown(room.available));
    }

    pub(super) fn evicted(&self, reason: Reason, bytes: u64) {
        self.evictions.with_label_values(&[reason.as_str()]).inc();
        self.evicted_bytes.with_label_values(&[reason.as_str()]).inc_by(bytes);
    }

    pub(super) fn quarantined(&self, found_by: Finder) {
        self.quarantined.with_label_values(&[found_by.as_str()]).inc();
    }

    /// `cause` is `too_large` or `in_use`.
    pub(super) fn refused(&self, cause: &str) {
        self.refused.with_label_values(&[cause]).inc();
    }
}
