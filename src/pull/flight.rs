//! The fills that are running: who leads, who follows, and how far each has come.
//!
//! A flight is keyed by upstream and digest, so that a herd asks upstream once. Its leader is a
//! task of the process; every client, the first one included, only reads its [`Progress`].

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::demand::Demands;
use super::private::Refetch;
use super::ring::Ring;
use crate::oci::{Digest, Mismatch};
use crate::scope::{Scope, UpstreamName};
use crate::spans::Spans;
use crate::store::{ReadAt, SpoolKey, StoreError};
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

    /// Whose spool its fill has.
    pub fn spool(&self) -> SpoolKey {
        SpoolKey { upstream: self.upstream.clone(), digest: self.digest }
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
        /// Which parts have landed. Of a blob whose size is not known, or that passes through
        /// memory, only the beginning.
        landed: Spans,
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
    /// Upstream had one size for the blob, and later another.
    #[error("upstream said that the blob has {promised} bytes, and later that it has {actual}")]
    Changed {
        /// What it said first, in bytes.
        promised: u64,
        /// What it said later, in bytes.
        actual: u64,
    },
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
    /// What its readers want of it.
    pub demands: Arc<Demands>,
    began: Instant,
    progress: watch::Receiver<Progress>,
    /// What goes on behind the progress.
    activity: Arc<Activity>,
    /// Held once here and once by every follower.
    followed: Arc<()>,
}

/// What an operator may see of the transfers behind a fill.
#[derive(Debug, Default)]
pub struct Activity {
    connections: AtomicUsize,
    resumed: AtomicU64,
    waits: AtomicBool,
}

impl Activity {
    /// So many transfers run.
    pub fn connections(&self, running: usize) {
        self.connections.store(running, Ordering::Relaxed);
    }

    /// A transfer broke off.
    pub fn broke_off(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether upstream is being left alone for a while.
    pub fn waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }
}

/// What an operator sees of a running fill.
#[derive(Clone, Debug)]
pub struct FillStatus {
    /// The blob.
    pub digest: Digest,
    /// The repository through which it is asked for.
    pub scope: Scope,
    /// `asking`, `growing`, `waiting` (upstream broke off, and is asked again in a moment),
    /// `verified`, or for a moment `failed`.
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
    /// Transfers from upstream that run for it.
    pub connections: usize,
    /// How often a transfer broke off and was continued.
    pub resumed: u64,
}

impl Flight {
    fn status(&self, key: &FlightKey) -> FillStatus {
        let (state, landed, total) = match &*self.progress.borrow() {
            Progress::Asking => ("asking", 0, None),
            Progress::Growing { total, landed, .. } => {
                let waits = self.activity.waits.load(Ordering::Relaxed);
                (if waits { "waiting" } else { "growing" }, landed.len(), *total)
            }
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
            connections: self.activity.connections.load(Ordering::Relaxed),
            resumed: self.activity.resumed.load(Ordering::Relaxed),
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

impl Joined {
    fn of(flight: &Arc<Flight>) -> Self {
        Self { flight: Arc::clone(flight), _counted: Arc::clone(&flight.followed) }
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
    Lead(Joined, Permit),
    /// Somebody does.
    Follow(Joined),
}

/// A flight, counted as followed for as long as this lives.
#[derive(Clone, Debug)]
pub struct Joined {
    flight: Arc<Flight>,
    _counted: Arc<()>,
}

impl std::ops::Deref for Joined {
    type Target = Flight;

    fn deref(&self) -> &Flight {
        &self.flight
    }
}

impl Flights {
    /// Joins the flight under `key` or opens one.
    pub fn join(&self, key: &FlightKey, scope: &Scope, strict: bool) -> Role {
        let mut running = self.lock();
        if let Some(flight) = running.get(key) {
            return Role::Follow(Joined::of(flight));
        }
        let (sender, progress) = watch::channel(Progress::Asking);
        let flight = Arc::new(Flight {
            led_by: scope.clone(),
            strict,
            demands: Arc::default(),
            began: Instant::now(),
            progress,
            activity: Arc::default(),
            followed: Arc::default(),
        });
        running.insert(key.clone(), Arc::clone(&flight));
        let permit =
            Permit { flight: Arc::clone(&flight), sender, flights: self.clone(), key: key.clone() };
        Role::Lead(Joined::of(&flight), permit)
    }

    /// The flight under `key`, if one runs.
    pub fn get(&self, key: &FlightKey) -> Option<Joined> {
        self.lock().get(key).map(Joined::of)
    }

    /// What each of them is doing, the oldest first.
    pub fn list(&self) -> Vec<FillStatus> {
        let flights: Vec<_> =
            self.lock().iter().map(|(key, flight)| (key.clone(), Arc::clone(flight))).collect();
        let mut list: Vec<_> = flights.iter().map(|(key, flight)| flight.status(key)).collect();
        list.sort_by_key(|fill| std::cmp::Reverse(fill.age));
        list
    }

    /// How many fills run.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FlightKey, Arc<Flight>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
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
    flight: Arc<Flight>,
    sender: watch::Sender<Progress>,
    flights: Flights,
}

impl Permit {
    /// What this flight fetches.
    pub const fn key(&self) -> &FlightKey {
        &self.key
    }

    /// Whether nothing is sent before the digest is known to be right.
    pub fn is_strict(&self) -> bool {
        self.flight.strict
    }

    /// What its readers want.
    pub fn demands(&self) -> &Arc<Demands> {
        &self.flight.demands
    }

    /// Where what goes on is noted, for operators.
    pub fn activity(&self) -> &Activity {
        &self.flight.activity
    }

    /// Whether anybody follows.
    pub fn is_followed(&self) -> bool {
        Arc::strong_count(&self.flight.followed) > 1
    }

    /// How many bytes have landed.
    pub fn landed_bytes(&self) -> u64 {
        match &*self.sender.borrow() {
            Progress::Growing { landed, .. } => landed.len(),
            Progress::Verified { len, .. } => *len,
            Progress::Asking | Progress::Failed(_) => 0,
        }
    }

    /// Where the ring begins, if the blob is not being stored any more.
    pub fn passing_from(&self) -> Option<u64> {
        match &*self.sender.borrow() {
            Progress::Growing { spool: Content::Passing(passing), .. } => {
                Some(passing.before.as_ref().map_or(0, |(_, end)| *end))
            }
            _ => None,
        }
    }

    /// Upstream has answered: from now on followers can read `spool`, where `landed` has landed
    /// before.
    pub fn growing(&self, total: Option<u64>, landed: Spans, spool: Content) {
        self.sender.send_replace(Progress::Growing { total, landed, spool });
    }

    /// All of `now` has landed.
    pub fn landed(&self, now: &Spans) {
        self.sender.send_modify(|progress| {
            if let Progress::Growing { landed, .. } = progress {
                landed.clone_from(now);
            }
        });
    }

    /// Takes the flight off the table, unless somebody follows it; whether that happened. From
    /// then on whoever asks leads a new one.
    pub fn leave_unless_followed(&self) -> bool {
        let mut running = self.flights.lock();
        let is_free = !self.is_followed();
        if is_free {
            self.remove_from(&mut running);
        }
        is_free
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
        self.remove_from(&mut self.flights.lock());
    }

    fn remove_from(&self, running: &mut HashMap<FlightKey, Arc<Flight>>) {
        // A flight that failed may have a successor under its key by now.
        if running.get(&self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
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
