//! The fills that are running: who leads, who follows, and how far each has come.
//!
//! A flight is keyed by upstream and digest, so that a herd asks upstream once. Its leader is a
//! task of the process; every client, the first one included, only reads its [`Progress`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::private::Refetch;
use super::ring::Ring;
use crate::oci::{Digest, Mismatch};
use crate::scope::{Scope, UpstreamName};
use crate::store::{ReadAt, StoreError};
use crate::upstream::UpstreamError;

/// What makes two requests for a blob the same fill.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FlightKey {
    /// The upstream that is asked.
    pub upstream: UpstreamName,
    /// The blob.
    pub digest: Digest,
}

impl FlightKey {
    /// The flight that brings `digest` to `scope`.
    pub fn new(scope: &Scope, digest: &Digest) -> Self {
        Self { upstream: scope.upstream.clone(), digest: *digest }
    }
}

/// How far a fill has come. It ends in `Verified` or `Failed`; a sender that vanishes before that
/// is a failure too, never an end of the body.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Upstream has been asked and has not answered yet.
    Asking,
    /// Bytes are landing.
    Growing {
        /// The blob's size in bytes, where upstream said it.
        total: Option<u64>,
        /// How many bytes have landed, from the start and without a gap.
        landed: u64,
        /// Where they can be read.
        spool: Content,
    },
    /// Every byte has landed and the digest is right.
    Verified {
        /// The blob's size in bytes.
        len: u64,
        /// Where it can be read.
        spool: Content,
    },
    /// It will not come.
    Failed(FillError),
}

impl Progress {
    pub(super) const fn is_terminal(&self) -> bool {
        matches!(self, Self::Verified { .. } | Self::Failed(_))
    }
}

/// Where the bytes of a blob can be read that have landed.
#[derive(Clone)]
pub enum Content {
    /// All of them in a spool or a stored blob. It stays readable when it is committed or dropped.
    Kept(Arc<dyn ReadAt>),
    /// The blob cannot be stored: only the last of them.
    Passing(Arc<Passing>),
}

/// A blob that is passed on without being stored.
#[derive(Debug)]
pub struct Passing {
    /// What was written before the store failed; it ends where the ring begins.
    pub before: Option<(Arc<dyn ReadAt>, u64)>,
    /// What has landed last.
    pub ring: Arc<Ring>,
    /// For those who come too late for it.
    pub refetch: Arc<Refetch>,
}

impl Passing {
    /// Whether the byte at `offset` was written before the store failed.
    pub fn has_kept(&self, offset: u64) -> bool {
        self.before.as_ref().is_some_and(|(_, end)| offset < *end)
    }
}

impl Content {
    /// Whether the blob is not being stored.
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Passing(_))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept(_) => "Kept",
            Self::Passing(_) => "Passing",
        })
    }
}

/// Why a fill failed. Shared by everybody who followed it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FillError {
    /// Upstream's fault, or its answer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// What came was something else. Nothing of it was kept.
    #[error("upstream sent wrong content: {0}")]
    Mismatch(Arc<Mismatch>),
    /// Larger than `fill.blob_size_max`.
    #[error("the blob is larger than fill.blob_size_max ({max} bytes)")]
    TooLarge {
        /// The limit, in bytes.
        max: u64,
    },
    /// As many fills run as `fill.concurrent_max` allows.
    #[error("as many blobs are being filled as fill.concurrent_max allows")]
    Busy,
    /// The local disk's fault.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blob cannot be stored, and nobody reads what passes.
    #[error("the blob cannot be stored, and nobody reads it")]
    Unread,
    /// The blob cannot be stored, and as many readers fetch for themselves as
    /// `fill.private_max` allows.
    #[error(
        "the blob cannot be stored, and as many transfers of such blobs run as fill.private_max \
         allows"
    )]
    NoPrivate,
    /// The task that led the fill is gone without a word: it panicked or the process is stopping.
    #[error("the fill was given up")]
    Abandoned,
}

/// One running fill.
#[derive(Debug)]
pub struct Flight {
    /// The repository through which the leader asks: a 200 proves that it has the blob.
    pub led_by: Scope,
    /// Nothing is sent before the digest is known to be right, because content under this digest
    /// was wrong a short while ago.
    pub strict: bool,
    began: Instant,
    progress: watch::Receiver<Progress>,
    /// Held once here and once by every follower.
    followed: Arc<()>,
}

/// What an operator sees of a running fill.
#[derive(Clone, Debug)]
pub struct FillStatus {
    /// The blob.
    pub digest: Digest,
    /// The repository through which it is asked for.
    pub scope: Scope,
    /// `asking`, `growing`, `verified`, or for a moment `failed`.
    pub state: &'static str,
    /// How many bytes have landed.
    pub landed: u64,
    /// The blob's size in bytes, where upstream said it.
    pub total: Option<u64>,
    /// How long ago it began.
    pub age: Duration,
    /// Answers that read from it now.
    pub followers: usize,
    /// Whether nothing of it is sent before it is verified.
    pub strict: bool,
}

/// Says that somebody follows a flight, for as long as it lives.
#[derive(Clone, Debug)]
pub struct Following {
    _counted: Arc<()>,
}

impl Flight {
    /// Counts a follower.
    pub fn following(&self) -> Following {
        Following { _counted: Arc::clone(&self.followed) }
    }

    fn status(&self, key: &FlightKey) -> FillStatus {
        let (state, landed, total) = match &*self.progress.borrow() {
            Progress::Asking => ("asking", 0, None),
            Progress::Growing { total, landed, .. } => ("growing", *landed, *total),
            Progress::Verified { len, .. } => ("verified", *len, Some(*len)),
            Progress::Failed(_) => ("failed", 0, None),
        };
        FillStatus {
            digest: key.digest,
            scope: self.led_by.clone(),
            state,
            landed,
            total,
            age: self.began.elapsed(),
            followers: Arc::strong_count(&self.followed).saturating_sub(1),
            strict: self.strict,
        }
    }

    /// Whether the content is whole and right; the store may not have it yet.
    pub fn is_verified(&self) -> bool {
        matches!(*self.progress.borrow(), Progress::Verified { .. })
    }

    /// A view of the progress, for one follower.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

/// All running fills.
#[derive(Clone, Debug, Default)]
pub struct Flights {
    running: Arc<Mutex<HashMap<FlightKey, Arc<Flight>>>>,
}

/// What to do about a blob that is not stored.
#[derive(Debug)]
pub enum Role {
    /// Nobody fills it: the caller starts the task that does, with this permit.
    Lead(Arc<Flight>, Permit),
    /// Somebody does.
    Follow(Arc<Flight>),
}

impl Flights {
    /// Joins the flight under `key` or opens one.
    pub fn join(&self, key: &FlightKey, scope: &Scope, strict: bool) -> Role {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = running.get(key) {
            return Role::Follow(Arc::clone(flight));
        }
        let (sender, progress) = watch::channel(Progress::Asking);
        let flight = Arc::new(Flight {
            led_by: scope.clone(),
            strict,
            began: Instant::now(),
            progress,
            followed: Arc::default(),
        });
        running.insert(key.clone(), Arc::clone(&flight));
        let permit = Permit { key: key.clone(), strict, sender, flights: self.clone() };
        Role::Lead(flight, permit)
    }

    /// The flight under `key`, if one runs.
    pub fn get(&self, key: &FlightKey) -> Option<Arc<Flight>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// What each of them is doing, the oldest first.
    pub fn list(&self) -> Vec<FillStatus> {
        let flights: Vec<_> = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(key, flight)| (key.clone(), Arc::clone(flight)))
            .collect();
        let mut list: Vec<_> = flights.iter().map(|(key, flight)| flight.status(key)).collect();
        list.sort_by_key(|fill| std::cmp::Reverse(fill.age));
        list
    }

    /// How many fills run.
    pub fn len(&self) -> usize {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether no fill runs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The right and the duty to bring one flight to its end. When it is dropped the flight is off the
/// table, and if nothing else was said its followers are told that it was given up.
#[derive(Debug)]
pub struct Permit {
    key: FlightKey,
    strict: bool,
    sender: watch::Sender<Progress>,
    flights: Flights,
}

impl Permit {
    /// What this flight fetches.
    pub const fn key(&self) -> &FlightKey {
        &self.key
    }

    /// Whether nothing is sent before the digest is known to be right.
    pub const fn is_strict(&self) -> bool {
        self.strict
    }

    /// Upstream has answered: from now on followers can read `spool`.
    pub fn growing(&self, total: Option<u64>, spool: Content) {
        self.sender.send_replace(Progress::Growing { total, landed: 0, spool });
    }

    /// `now` bytes have landed.
    pub fn landed(&self, now: u64) {
        self.sender.send_modify(|progress| {
            if let Progress::Growing { landed, .. } = progress {
                *landed = now;
            }
        });
    }

    /// The store does not take any more: what lands from now on can be read from `passing`.
    pub fn passing(&self, passing: Arc<Passing>) {
        self.sender.send_modify(|progress| {
            if let Progress::Growing { spool, .. } = progress {
                *spool = Content::Passing(passing);
            }
        });
    }

    /// The content is whole and right. The flight stays on the table until the permit is dropped,
    /// that is until the store has it.
    pub fn verified(&self, len: u64, spool: Content) {
        self.sender.send_replace(Progress::Verified { len, spool });
    }

    /// Ends the flight without content. It is off the table before its followers hear of it, so
    /// that whoever asks again leads a new one.
    pub fn fail(self, error: FillError) {
        self.leave();
        self.sender.send_replace(Progress::Failed(error));
    }

    fn leave(&self) {
        let mut running = self.flights.running.lock().unwrap_or_else(PoisonError::into_inner);
        // A flight that failed may have a successor under its key by now.
        if running.get(&self.key).is_some_and(|f| f.progress.same_channel(&self.sender.subscribe()))
        {
            running.remove(&self.key);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.leave();
        self.sender.send_if_modified(|progress| {
            let lost = !progress.is_terminal();
            if lost {
                *progress = Progress::Failed(FillError::Abandoned);
            }
            lost
        });
    }
}

#[cfg(test)]
mod tests;
