//! Looks whether what is stored still is what it was: reads all of it, slowly, and hashes it.
//!
//! A blob was verified when it came in. Disks forget, and a file that has changed since would be
//! served as it is: clients notice, but only the next fetch can heal it. What is found damaged is
//! put aside, so that the next pull fetches it and an operator can see what became of it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::background::{Report, Round, Worker};
use crate::clock::{Clock, Timestamp};
use crate::oci::{Digest, Hasher};
use crate::store::note::Note;
use crate::store::{Blob, BlobStore, Hot, StoreError};

/// The worker's name.
pub const SCRUB_WORKER: &str = "scrub";
/// What is read and hashed at a time, in bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// Blobs listed at a time.
const PAGE_BLOBS: usize = 256;
/// Damaged blobs that a summary names; it counts all.
const NAMED_MAX: usize = 100;
/// How long after a round that could not list the store another is tried.
const RETRY: Duration = Duration::from_secs(3600);

/// How the scrub works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubSettings {
    /// Bytes per second that it reads at most; 0 is as fast as it can.
    pub rate: u64,
    /// How long after a round the next one begins; zero is only when asked.
    pub every: Duration,
}

/// What a scrub needs.
#[derive(Debug)]
pub struct ScrubParts {
    /// What is looked at.
    pub blobs: Arc<dyn BlobStore>,
    /// Forgets what is damaged.
    pub hot: Hot,
    /// How.
    pub settings: ScrubSettings,
    /// Tells when the last round was.
    pub clock: Clock,
    /// Where the last round is noted, so that a restart does not cause another.
    pub note: Note,
    /// What is counted.
    pub metrics: ScrubMetrics,
}

/// What the scrub counts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ScrubMetrics {
    blobs: IntCounterVec,
    bytes: IntCounter,
}

impl ScrubMetrics {
    /// Registers the counters.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let blobs = IntCounterVec::new(
            Opts::new("pierhead_scrub_blobs_total", "Stored blobs that were verified anew"),
            &["result"],
        )?;
        let bytes = IntCounter::new(
            "pierhead_scrub_bytes_total",
            "Bytes of stored blobs that were read to verify them anew",
        )?;
        registry.register(Box::new(blobs.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        Ok(Self { blobs, bytes })
    }
}

/// What a whole round found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubSummary {
    /// When it ended.
    pub ended: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// Blobs that could be read to their ends, damaged or not.
    pub checked: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Blobs that were not what their digests say.
    pub damaged: u64,
    /// The first hundred of them.
    pub damaged_digests: Vec<Digest>,
    /// Blobs that could not be read. They stay: the disk may be well again.
    pub unreadable: u64,
}

/// The scrub, as the rest of the process sees it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Scrub(Arc<Mutex<Option<ScrubSummary>>>);

impl Scrub {
    /// A scrub and its worker.
    pub fn new(parts: ScrubParts) -> (Self, ScrubWorker) {
        let scrub = Self::default();
        (scrub.clone(), ScrubWorker { parts, last: scrub, began: false })
    }

    /// What the last whole round found, also if that was before a restart.
    pub fn last(&self) -> Option<ScrubSummary> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, summary: ScrubSummary) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(summary);
    }
}

/// The background work; see [`Scrub::new`]. A round that is interrupted begins anew.
#[derive(Debug)]
pub struct ScrubWorker {
    parts: ScrubParts,
    last: Scrub,
    began: bool,
}

#[async_trait]
impl Worker for ScrubWorker {
    fn name(&self) -> &'static str {
        SCRUB_WORKER
    }

    async fn round(&mut self, report: &Report) -> Round {
        let every = self.parts.settings.every;
        if !self.began {
            // The first round begins by itself; every later one is due or was asked for.
            self.began = true;
            if let Some(noted) = self.recall().await {
                let (ended, now) = (noted.ended, self.parts.clock.now());
                self.last.set(noted);
                let rest = every.saturating_sub(now.since(ended));
                // A note from the future was written while the clock was wrong: it says nothing.
                if ended <= now && !rest.is_zero() {
                    return Round::Done(rest);
                }
            }
            if every.is_zero() {
                return Round::UntilAsked;
            }
        }
        match self.look_at_all(report).await {
            Ok(summary) => {
                tracing::info!(
                    blobs = summary.checked,
                    bytes = summary.bytes,
                    damaged = summary.damaged,
                    unreadable = summary.unreadable,
                    took = ?summary.took,
                    "verified what is stored"
                );
                self.remember(&summary).await;
                self.last.set(summary);
                if every.is_zero() { Round::UntilAsked } else { Round::Done(every) }
            }
            Err(error) => Round::Failed(error.to_string(), RETRY),
        }
    }
}

/// What came of looking at one blob.
enum Found {
    Intact,
    Damaged(String),
    Unreadable(String),
    /// It was removed meanwhile.
    Gone,
}

impl ScrubWorker {
    async fn look_at_all(&self, report: &Report) -> Result<ScrubSummary, StoreError> {
        let began = Instant::now();
        let total = self.total().await?;
        let mut summary = ScrubSummary {
            ended: self.parts.clock.now(),
            took: Duration::ZERO,
            checked: 0,
            bytes: 0,
            damaged: 0,
            damaged_digests: Vec::new(),
            unreadable: 0,
        };
        let mut pace = Pace::new(self.parts.settings.rate);
        let mut after = None;
        loop {
            let page = self.parts.blobs.list(after.as_ref(), PAGE_BLOBS).await?;
            for (digest, _) in &page {
                let mut progress = |bytes: u64| {
                    summary.bytes += bytes;
                    self.parts.metrics.bytes.inc_by(bytes);
                    // Blobs that came since the total was counted.
                    let total = total.max(summary.bytes);
                    report.progress(summary.bytes, Some(total), "bytes");
                };
                let found = self.look_at(digest, &mut pace, &mut progress).await;
                self.conclude(digest, found, &mut summary).await;
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE_BLOBS => after = Some(*last),
                _ => break,
            }
        }
        summary.ended = self.parts.clock.now();
        summary.took = began.elapsed();
        Ok(summary)
    }

    /// Bytes of all that is stored.
    async fn total(&self) -> Result<u64, StoreError> {
        let (mut total, mut after) = (0_u64, None);
        loop {
            let page = self.parts.blobs.list(after.as_ref(), PAGE_BLOBS).await?;
            total += page.iter().map(|(_, len)| len).sum::<u64>();
            match page.last() {
                Some((last, _)) if page.len() == PAGE_BLOBS => after = Some(*last),
                _ => return Ok(total),
            }
        }
    }

    async fn look_at(
        &self,
        digest: &Digest,
        pace: &mut Pace,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Found {
        match self.parts.blobs.open(digest).await {
            Ok(Some(blob)) => hash(&blob, pace, progress).await,
            Ok(None) => Found::Gone,
            Err(error) => Found::Unreadable(error.to_string()),
        }
    }

    /// Counts it, and puts aside what is damaged.
    async fn conclude(&self, digest: &Digest, found: Found, summary: &mut ScrubSummary) {
        let result = match found {
            Found::Gone => return,
            Found::Intact => {
                summary.checked += 1;
                "intact"
            }
            Found::Damaged(why) => {
                summary.checked += 1;
                summary.damaged += 1;
                if summary.damaged_digests.len() < NAMED_MAX {
                    summary.damaged_digests.push(*digest);
                }
                self.parts.hot.forget_bytes(digest);
                match self.parts.blobs.quarantine(digest).await {
                    Ok(_) => tracing::error!(%digest, why, "put a blob aside that was damaged"),
                    Err(error) => {
                        tracing::error!(%digest, why, %error, "a damaged blob cannot be put aside");
                    }
                }
                "damaged"
            }
            Found::Unreadable(error) => {
                summary.unreadable += 1;
                tracing::error!(%digest, error, "cannot read a stored blob");
                "unreadable"
            }
        };
        self.parts.metrics.blobs.with_label_values(&[result]).inc();
    }

    async fn recall(&self) -> Option<ScrubSummary> {
        let text = match self.parts.note.read().await {
            Ok(text) => text?,
            Err(error) => {
                tracing::warn!(%error, "it is not known when the storage was verified last");
                return None;
            }
        };
        match serde_json::from_slice::<Record>(&text) {
            Ok(record) => Some(record.into()),
            Err(error) => {
                tracing::warn!(%error, "the note of the last verification is not readable");
                None
            }
        }
    }

    async fn remember(&self, summary: &ScrubSummary) {
        let text = match serde_json::to_vec(&Record::from(summary)) {
            Ok(text) => text,
            Err(error) => return tracing::warn!(%error, "cannot note the verification"),
        };
        if let Err(error) = self.parts.note.write(text).await {
            tracing::warn!(%error, "cannot note the verification");
        }
    }
}

/// Reads a blob at the pace and hashes it, both off the async threads.
async fn hash(blob: &Blob, pace: &mut Pace, progress: &mut (dyn FnMut(u64) + Send)) -> Found {
    let mut hasher = Hasher::new(blob.digest().algorithm());
    while hasher.len() < blob.len() {
        let chunk = match blob.read_at(hasher.len(), CHUNK_BYTES).await {
            Ok(chunk) if chunk.is_empty() => return Found::Damaged("it ends too early".into()),
            Ok(chunk) => chunk,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Found::Damaged("its file was cut".into());
            }
            Err(error) => return Found::Unreadable(error.to_string()),
        };
        let bytes = chunk.len() as u64;
        let hashed = tokio::task::spawn_blocking(move || {
            hasher.update(&chunk);
            hasher
        });
        hasher = match hashed.await {
            Ok(hasher) => hasher,
            // The runtime is being shut down.
            Err(error) => return Found::Unreadable(error.to_string()),
        };
        progress(bytes);
        pace.passed(bytes).await;
    }
    match hasher.verify(blob.digest()) {
        Ok(_) => Found::Intact,
        Err(mismatch) => Found::Damaged(mismatch.to_string()),
    }
}

/// Keeps to a rate.
#[derive(Debug)]
struct Pace {
    /// Bytes per second; 0 is no limit.
    rate: u64,
    /// When the next byte may be read.
    next: Instant,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate, next: Instant::now() }
    }

    /// `bytes` were read: waits as long as they may take. Time that a slow disk took is not made
    /// up for later.
    async fn passed(&mut self, bytes: u64) {
        if self.rate == 0 {
            return;
        }
        let takes = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        tokio::time::sleep_until(self.next + takes).await;
        self.next = Instant::now();
    }
}

/// A summary as it is noted.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    ended_unix_ms: u64,
    took_ms: u64,
    checked: u64,
    bytes: u64,
    damaged: u64,
    damaged_digests: Vec<String>,
    unreadable: u64,
}

impl From<&ScrubSummary> for Record {
    fn from(summary: &ScrubSummary) -> Self {
        Self {
            ended_unix_ms: summary.ended.unix_ms(),
            took_ms: u64::try_from(summary.took.as_millis()).unwrap_or(u64::MAX),
            checked: summary.checked,
            bytes: summary.bytes,
            damaged: summary.damaged,
            damaged_digests: summary.damaged_digests.iter().map(Digest::to_string).collect(),
            unreadable: summary.unreadable,
        }
    }
}

impl From<Record> for ScrubSummary {
    fn from(record: Record) -> Self {
        let digests = record.damaged_digests.iter().take(NAMED_MAX);
        Self {
            ended: Timestamp::from_unix_ms(record.ended_unix_ms),
            took: Duration::from_millis(record.took_ms),
            checked: record.checked,
            bytes: record.bytes,
            damaged: record.damaged,
            damaged_digests: digests.filter_map(|digest| digest.parse().ok()).collect(),
            unreadable: record.unreadable,
        }
    }
}

#[cfg(test)]
mod tests;
