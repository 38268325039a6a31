//! What the engine counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::outcome::{Outcome, StaleReason};

/// How fills end.
const FILL_RESULTS: [&str; 7] =
    ["stored", "not_kept", "mismatch", "not_found", "upstream", "local", "busy"];

/// The engine's counters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PullMetrics {
    fills: IntCounterVec,
    followers: IntCounter,
    reading: IntGauge,
    verification_failures: IntCounter,
    unverified_bytes: IntCounter,
    private: IntCounter,
    stale: IntCounterVec,
    damaged: IntCounter,
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
        let stale = IntCounterVec::new(
            Opts::new("pierhead_stale_answers_total", "Stale answers served, by reason"),
            &["reason"],
        )?;
        let damaged = IntCounter::new(
            "pierhead_damaged_blobs_total",
            "Stored blobs that were found damaged when they were read, and taken out",
        )?;
        // From zero on: that a rare one happened for the first time is what alerts are about.
        for result in FILL_RESULTS {
            fills.with_label_values(&[result]);
        }
        for reason in StaleReason::ALL {
            stale.with_label_values(&[Outcome::Stale(reason).reason()]);
        }
        registry.register(Box::new(fills.clone()))?;
        registry.register(Box::new(followers.clone()))?;
        registry.register(Box::new(reading.clone()))?;
        registry.register(Box::new(verification_failures.clone()))?;
        registry.register(Box::new(unverified_bytes.clone()))?;
        registry.register(Box::new(private.clone()))?;
        registry.register(Box::new(stale.clone()))?;
        registry.register(Box::new(damaged.clone()))?;
        Ok(Self {
            fills,
            followers,
            reading,
            verification_failures,
            unverified_bytes,
            private,
            stale,
            damaged,
        })
    }

    pub(super) const fn damaged(&self) -> &IntCounter {
        &self.damaged
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

    pub(super) fn stale_answer(&self, reason: &str) {
        self.stale.with_label_values(&[reason]).inc();
    }

    pub(super) fn follower(&self) -> Reading {
        self.followers.inc();
        self.reading.inc();
        Reading(self.reading.clone())
    }

    /// `bytes` went out that were not verified yet.
    pub fn unverified(&self, bytes: u64) {
        self.unverified_bytes.inc_by(bytes);
    }
}

/// Counts a follower for as long as it reads.
#[derive(Debug)]
pub struct Reading(IntGauge);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.dec();
    }
}
