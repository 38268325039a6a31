//! What the engine counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::decide::Row;
use super::outcome::{Outcome, StaleReason};
use super::refresh::{RefreshCause, RefreshResult};
use crate::gate::Permit;

/// How fills end.
const FILL_RESULTS: [&str; 8] =
    ["stored", "not_kept", "parked", "mismatch", "not_found", "upstream", "local", "busy"];

/// The engine's counters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PullMetrics {
    fills: IntCounterVec,
    followers: IntCounter,
    reading: IntGauge,
    verification_failures: IntCounter,
    unverified_bytes: IntCounter,
    private: IntCounter,
    broke_off: IntCounter,
    continued_bytes: IntCounter,
    stale: IntCounterVec,
    stale_refused: IntCounterVec,
    refreshes: IntCounterVec,
}

impl PullMetrics {
    /// Registers the counters.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let fills = IntCounterVec::new(
            Opts::new("pierhead_fills_total", "Fills that ended, by result"),
            &["result"],
        )?;
        let followers = IntCounter::new(
            "pierhead_fill_followers_total",
            "Requests that read a blob while it was being filled, the first one included",
        )?;
        let reading = IntGauge::new(
            "pierhead_fill_followers",
            "Answers that are reading from a running fill now",
        )?;
        let verification_failures = IntCounter::new(
            "pierhead_verification_failures_total",
            "Content from upstream that did not have its digest",
        )?;
        let unverified_bytes = IntCounter::new(
            "pierhead_unverified_range_bytes_total",
            "Bytes of growing blobs sent in bounded ranges before the blob was verified",
        )?;
        let private = IntCounter::new(
            "pierhead_private_transfers_total",
            "Upstream transfers for one reader alone, of blobs that could not be stored",
        )?;
        let broke_off = IntCounter::new(
            "pierhead_fill_broken_transfers_total",
            "Transfers of blobs that broke off and were continued, or given up",
        )?;
        let continued_bytes = IntCounter::new(
            "pierhead_fill_continued_bytes_total",
            "Bytes that fills took over from earlier ones that were parked or cut off",
        )?;
        let stale = IntCounterVec::new(
            Opts::new("pierhead_stale_answers_total", "Stale answers served, by reason"),
            &["reason"],
        )?;
        let stale_refused = IntCounterVec::new(
            Opts::new(
                "pierhead_stale_refused_total",
                "Known tags that were not served stale, by the row of the policy that forbids it",
            ),
            &["row"],
        )?;
        let refreshes = IntCounterVec::new(
            Opts::new(
                "pierhead_refreshes_total",
                "Tags that were to be confirmed in the background, by why and how that ended",
            ),
            &["cause", "result"],
        )?;
        // From zero on: that a rare one happened for the first time is what alerts are about.
        for result in FILL_RESULTS {
            fills.with_label_values(&[result]);
        }
        for reason in StaleReason::ALL {
            stale.with_label_values(&[Outcome::Stale(reason).reason()]);
        }
        for row in Row::FAILING {
            stale_refused.with_label_values(&[row.as_str()]);
        }
        stale_refused.with_label_values(&[Row::Incomplete.as_str()]);
        for cause in RefreshCause::ALL {
            for result in RefreshResult::ALL {
                refreshes.with_label_values(&[cause.as_str(), result.as_str()]);
            }
        }
        registry.register(Box::new(fills.clone()))?;
        registry.register(Box::new(followers.clone()))?;
        registry.register(Box::new(reading.clone()))?;
        registry.register(Box::new(verification_failures.clone()))?;
        registry.register(Box::new(unverified_bytes.clone()))?;
        registry.register(Box::new(private.clone()))?;
        registry.register(Box::new(broke_off.clone()))?;
        registry.register(Box::new(continued_bytes.clone()))?;
        registry.register(Box::new(stale.clone()))?;
        registry.register(Box::new(stale_refused.clone()))?;
        registry.register(Box::new(refreshes.clone()))?;
        Ok(Self {
            fills,
            followers,
            reading,
            verification_failures,
            unverified_bytes,
            private,
            broke_off,
            continued_bytes,
            stale,
            stale_refused,
            refreshes,
        })
    }

    pub(super) fn fill_ended(&self, result: &str) {
        self.fills.with_label_values(&[result]).inc();
    }

    pub(super) fn verification_failed(&self) {
        self.verification_failures.inc();
    }

    pub(super) fn private_transfer(&self) {
        self.private.inc();
    }

    pub(super) fn broke_off(&self) {
        self.broke_off.inc();
    }

    pub(super) fn continued(&self, bytes: u64) {
        self.continued_bytes.inc_by(bytes);
    }

    pub(super) fn stale_answer(&self, reason: &str) {
        self.stale.with_label_values(&[reason]).inc();
    }

    pub(super) fn stale_refused(&self, row: Row) {
        self.stale_refused.with_label_values(&[row.as_str()]).inc();
    }

    pub(super) fn refreshed(&self, cause: RefreshCause, result: RefreshResult) {
        self.refreshes.with_label_values(&[cause.as_str(), result.as_str()]).inc();
    }

    /// A follower that has a place.
    pub(super) fn follower(&self, place: Permit) -> Reading {
        self.followers.inc();
        self.reading.inc();
        Reading { gauge: self.reading.clone(), _place: place }
    }

    /// `bytes` went out that were not verified yet.
    pub fn unverified(&self, bytes: u64) {
        self.unverified_bytes.inc_by(bytes);
    }
}

/// Counts a follower, and keeps its place, for as long as it reads.
#[derive(Debug)]
pub struct Reading {
    gauge: IntGauge,
    _place: Permit,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}
