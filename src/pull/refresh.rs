//! Asking upstream about tags in the background: one worker, a few questions at a time.
//!
//! Three ways lead into its queue: a pull that was answered while its tag is confirmed
//! (`stale.while_revalidate`), a tag that is in use and whose time is about to run out
//! (`refresh_ahead`), and an operator who asks (`pierhead refresh`). The first two spend nothing
//! while our allowance is used up, and leave a tag alone that upstream could not confirm: from
//! then on pulls ask for themselves, so that their clients hear what is wrong.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use moka::sync::Cache;
use tokio::sync::{Notify, oneshot};

use super::error::PullError;
use super::manifest::ManifestWant;
use super::{Puller, in_time};
use crate::background::{Report, Round, Worker, Workers};
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, Tag};
use crate::scope::Scope;
use crate::store::TagRecord;
use crate::upstream::Hops;

/// The worker's name.
pub const REFRESH_WORKER: &str = "refresh";

/// How many tags may wait for a confirmation in the background. Beyond it the newest is dropped.
pub const WAITING_MAX: usize = 1024;

/// How many of them are asked about at a time.
pub const ASKED_MAX: usize = 4;

/// How many tags are remembered as being in use, for `refresh_ahead`.
pub const IN_USE_MAX: u64 = 4096;

/// How many tags are remembered that could not be confirmed in the background.
const DOUBTED_MAX: u64 = 8192;

/// A tag in use is confirmed when this part of its `tag_ttl` is left.
const AHEAD_PART: u32 = 8;

/// The shortest rest between two looks for tags whose time is about to run out.
const REST_MIN: Duration = Duration::from_secs(1);

/// Why a tag is asked about in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefreshCause {
    /// A pull of it was answered already.
    WhileRevalidate,
    /// It is in use and its time is about to run out.
    Ahead,
    /// An operator asked.
    Asked,
}

impl RefreshCause {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::WhileRevalidate, Self::Ahead, Self::Asked];

    /// Its name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WhileRevalidate => "while_revalidate",
            Self::Ahead => "ahead",
            Self::Asked => "asked",
        }
    }
}

/// How such a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefreshResult {
    /// The tag still means the same.
    Confirmed,
    /// It means something else now, which was fetched.
    Moved,
    /// Upstream did not say.
    Failed,
    /// There was no need to ask any more, or the allowance is used up.
    Skipped,
    /// Too many were waiting.
    Dropped,
}

impl RefreshResult {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::Confirmed, Self::Moved, Self::Failed, Self::Skipped, Self::Dropped];

    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Moved => "moved",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Dropped => "dropped",
        }
    }
}

/// What a tag meant, and what it means now.
#[derive(Clone, Debug)]
pub struct Refreshed {
    /// What it was last confirmed to mean before.
    pub before: Option<TagRecord>,
    /// What upstream says now.
    pub digest: Digest,
}

type Key = (Scope, Tag);

type Answer = oneshot::Sender<Result<Refreshed, PullError>>;

/// A tag to ask about.
#[derive(Debug)]
struct Job {
    key: Key,
    cause: RefreshCause,
    /// What the request that caused it has behind it, so that a loop of caches is noticed.
    hops: Hops,
    answer: Option<Answer>,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Those that wait or are being asked about.
    known: HashSet<Key>,
    is_closed: bool,
}

/// When a tag in use was last pulled and confirmed.
#[derive(Clone, Copy, Debug)]
struct InUse {
    pulled_at: Timestamp,
    confirmed_at: Timestamp,
}

/// The tags to ask about in the background.
#[derive(Debug)]
pub(super) struct Refresher {
    queue: Mutex<Queue>,
    arrived: Notify,
    workers: Workers,
    in_use: Cache<Key, InUse>,
    doubted: Cache<Key, ()>,
}

impl Refresher {
    pub(super) fn new(workers: Workers) -> Self {
        Self {
            queue: Mutex::default(),
            arrived: Notify::new(),
            workers,
            in_use: Cache::new(IN_USE_MAX),
            doubted: Cache::new(DOUBTED_MAX),
        }
    }

    /// Whether the last question in the background about this tag had no answer.
    pub(super) fn is_doubted(&self, scope: &Scope, tag: &Tag) -> bool {
        self.doubted.contains_key(&(scope.clone(), tag.clone()))
    }

    /// Upstream has confirmed the tag.
    pub(super) fn confirmed(&self, scope: &Scope, tag: &Tag, now: Timestamp) {
        let key = (scope.clone(), tag.clone());
        self.doubted.invalidate(&key);
        if let Some(in_use) = self.in_use.get(&key) {
            self.in_use.insert(key, InUse { confirmed_at: now, ..in_use });
        }
    }

    /// Somebody pulled the tag, whose upstream is asked ahead of time.
    fn used(&self, scope: &Scope, tag: &Tag, confirmed_at: Timestamp, now: Timestamp) {
        let key = (scope.clone(), tag.clone());
        let is_new = !self.in_use.contains_key(&key);
        self.in_use.insert(key, InUse { pulled_at: now, confirmed_at });
        if is_new {
            // When the next one is due has to be counted anew.
            self.workers.wake(REFRESH_WORKER);
        }
    }

    /// Puts a job into the queue; gives it back if there is no room.
    fn put(&self, job: Job) -> Result<(), Job> {
        let mut queue = self.lock();
        if queue.is_closed {
            return Err(job);
        }
        let is_known = queue.known.contains(&job.key);
        if is_known && job.answer.is_none() {
            return Ok(());
        }
        if queue.jobs.len() >= WAITING_MAX {
            return Err(job);
        }
        if !is_known {
            queue.known.insert(job.key.clone());
        }
        // Somebody waits for an answer: that goes first.
        if job.answer.is_some() {
            queue.jobs.push_front(job);
        } else {
            queue.jobs.push_back(job);
        }
        drop(queue);
        self.arrived.notify_one();
        self.workers.wake(REFRESH_WORKER);
        Ok(())
    }

    fn take(&self) -> Option<(Job, InHand<'_>)> {
        let job = self.lock().jobs.pop_front()?;
        let in_hand = InHand { refresher: self, key: job.key.clone() };
        Some((job, in_hand))
    }

    fn waiting(&self) -> usize {
        self.lock().jobs.len()
    }

    fn close(&self) {
        let mut queue = self.lock();
        queue.is_closed = true;
        queue.jobs.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a tag off the list of those in hand, however the question ends.
struct InHand<'a> {
    refresher: &'a Refresher,
    key: Key,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.refresher.lock().known.remove(&self.key);
    }
}

impl Puller {
    /// The worker that asks about tags in the background.
    pub fn refresh_worker(&self) -> RefreshWorker {
        RefreshWorker {
            puller: Self { shared: Arc::clone(&self.shared), hops: Hops::default(), client: None },
        }
    }

    /// Asks upstream what the tag means, however fresh the last answer is, and brings the manifest.
    ///
    /// Cancel-safe: what was begun goes on as a task of the process.
    ///
    /// # Errors
    /// What a pull of the tag would get if it were not cached.
    pub async fn refresh(&self, scope: &Scope, tag: &Tag) -> Result<Refreshed, PullError> {
        self.site(scope)?;
        let (answer, answered) = oneshot::channel();
        let key = (scope.clone(), tag.clone());
        let cause = RefreshCause::Asked;
        let job = Job { key, cause, hops: self.hops.clone(), answer: Some(answer) };
        if self.refresher.put(job).is_err() {
            self.metrics.refreshed(cause, RefreshResult::Dropped);
            return Err(PullError::Busy);
        }
        in_time(self.deadline(), async { answered.await.map_err(|_| PullError::Abandoned)? }).await
    }

    /// Has the tag confirmed after its pull was answered.
    pub(super) fn confirm_later(&self, scope: &Scope, tag: &Tag) {
        self.enqueue((scope.clone(), tag.clone()), RefreshCause::WhileRevalidate);
    }

    /// Notes that the tag is in use, where its upstream is asked ahead of time.
    pub(super) fn note_pulled(&self, scope: &Scope, tag: &Tag, confirmed_at: Timestamp) {
        let Ok(site) = self.site(scope) else { return };
        let is_ahead = !site.tags.refresh_ahead.is_zero() && !site.tags.tag_ttl.is_zero();
        if is_ahead && !site.tags.stale.pins(&scope.repo, tag) {
            self.refresher.used(scope, tag, confirmed_at, self.clock.now());
        }
    }

    fn enqueue(&self, key: Key, cause: RefreshCause) {
        let job = Job { key, cause, hops: self.hops.clone(), answer: None };
        if let Err(job) = self.refresher.put(job) {
            self.metrics.refreshed(cause, RefreshResult::Dropped);
            tracing::debug!(scope = %job.key.0, tag = %job.key.1, "too many tags wait");
        }
    }

    /// Asks about one tag.
    async fn work_off(&self, job: Job, in_hand: InHand<'_>) {
        let Job { key, cause, hops, answer } = job;
        let (scope, tag) = &key;
        let before = self.known_meaning(scope, tag).await;
        if answer.is_none() && !self.is_worth_asking(scope, cause, before.as_ref()) {
            if cause == RefreshCause::Ahead {
                // The next pull puts it back.
                self.refresher.in_use.invalidate(&key);
            }
            self.metrics.refreshed(cause, RefreshResult::Skipped);
            return;
        }
        if cause == RefreshCause::Asked {
            self.forget_absence(scope, Reference::Tag(tag.clone()));
        }
        let asked = in_time(self.deadline(), self.after(hops).bring(scope, tag, before)).await;
        let result = match &asked {
            Ok(Refreshed { before: Some(before), digest }) if before.digest == *digest => {
                RefreshResult::Confirmed
            }
            Ok(_) => RefreshResult::Moved,
            Err(error) => {
                self.refresher.doubted.insert(key.clone(), ());
                tracing::info!(
                    %scope, %tag, cause = cause.as_str(), %error,
                    "a tag could not be confirmed in the background"
                );
                RefreshResult::Failed
            }
        };
        self.metrics.refreshed(cause, result);
        drop(in_hand);
        if let Some(answer) = answer {
            // Whoever asked may have gone away.
            let _ = answer.send(asked);
        }
    }

    /// Asks what the tag means and brings the manifest.
    async fn bring(
        &self,
        scope: &Scope,
        tag: &Tag,
        before: Option<TagRecord>,
    ) -> Result<Refreshed, PullError> {
        let site = self.site(scope)?;
        let digest = self.ask(site, scope, tag, before.is_none()).await?.digest;
        if before.as_ref().is_none_or(|before| before.digest != digest) {
            self.forget_absence(scope, Reference::Digest(digest));
        }
        self.by_digest(site, scope, &digest, ManifestWant::Content).await?;
        Ok(Refreshed { before, digest })
    }

    /// Whether a question that nobody waits for is still worth what it costs.
    fn is_worth_asking(
        &self,
        scope: &Scope,
        cause: RefreshCause,
        known: Option<&TagRecord>,
    ) -> bool {
        let (Ok(site), Some(known)) = (self.site(scope), known) else { return false };
        let after = match cause {
            RefreshCause::Ahead => ahead_after(site.tags.tag_ttl),
            _ => site.tags.tag_ttl,
        };
        due_in(known.confirmed_at, after, self.clock.now()).is_zero()
            && site.upstream.exhausted_until().is_none()
    }

    /// Puts the tags in use whose time is about to run out into the queue.
    fn look_ahead(&self) {
        let due: Vec<_> =
            self.due().into_iter().filter(|(_, wait)| wait.is_zero()).map(|(key, _)| key).collect();
        for key in due {
            self.enqueue(Key::clone(&key), RefreshCause::Ahead);
        }
    }

    /// The tags in use, and how long each has until it is asked about.
    fn due(&self) -> Vec<(Arc<Key>, Duration)> {
        let now = self.clock.now();
        let mut list = Vec::new();
        for (key, in_use) in &self.refresher.in_use {
            let site = self.site(&key.0).ok();
            let Some(site) = site.filter(|site| {
                now.since(in_use.pulled_at) < site.tags.refresh_ahead
                    && !self.refresher.doubted.contains_key(&*key)
            }) else {
                self.refresher.in_use.invalidate(&*key);
                continue;
            };
            let due = due_in(in_use.confirmed_at, ahead_after(site.tags.tag_ttl), now);
            let until = site.upstream.exhausted_until().map(|until| until.since(now));
            list.push((key, until.map_or(due, |until| due.max(until))));
        }
        list
    }
}

/// How long until what was confirmed at `confirmed_at` is `after` old. A time in the future, after
/// a step of the clock, is no confirmation.
fn due_in(confirmed_at: Timestamp, after: Duration, now: Timestamp) -> Duration {
    if confirmed_at > now { Duration::ZERO } else { after.saturating_sub(now.since(confirmed_at)) }
}

/// The age at which a tag in use is confirmed.
fn ahead_after(ttl: Duration) -> Duration {
    ttl.saturating_sub(ttl / AHEAD_PART)
}

/// The worker. Its rounds end when nothing waits.
#[derive(Debug)]
pub struct RefreshWorker {
    puller: Puller,
}

#[async_trait]
impl Worker for RefreshWorker {
    fn name(&self) -> &'static str {
        REFRESH_WORKER
    }

    async fn round(&mut self, report: &Report) -> Round {
        let puller = &self.puller;
        let refresher = &puller.refresher;
        let mut asking = FuturesUnordered::new();
        let mut done = 0;
        puller.look_ahead();
        loop {
            while asking.len() < ASKED_MAX
                && let Some((job, in_hand)) = refresher.take()
            {
                asking.push(puller.work_off(job, in_hand));
            }
            if asking.is_empty() {
                break;
            }
            let total = done + (asking.len() + refresher.waiting()) as u64;
            report.progress(done, Some(total), "tags");
            tokio::select! {
                biased;
                Some(()) = asking.next() => done += 1,
                () = refresher.arrived.notified() => {}
            }
            report.progress(done, Some(total), "tags");
        }
        match puller.due().into_iter().map(|(_, wait)| wait).min() {
            Some(wait) => Round::Done(wait.max(REST_MIN)),
            None => Round::UntilAsked,
        }
    }

    async fn stop(&mut self) {
        // Whoever waits for an answer hears that there will be none.
        self.puller.refresher.close();
    }
}

#[cfg(test)]
mod tests;
