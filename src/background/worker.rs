//! Work that goes on in the background, of one kind: it runs in rounds, an operator can see it
//! and ask for a round at once, and it stops with the process.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Tasks;
use crate::clock::{Clock, Timestamp};

/// How long a worker rests after a round that panicked.
const REST_AFTER_PANIC: Duration = Duration::from_secs(60);

/// How long all workers together may take for their last words, once the process stops.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Background work of one kind.
#[async_trait]
pub trait Worker: Send + 'static {
    /// What operators call it: one word of lower-case letters and underscores.
    fn name(&self) -> &'static str;

    /// One round of the work. Its future is dropped at any point when the process stops, so it
    /// keeps nothing that must not be lost; see [`Worker::stop`].
    async fn round(&mut self, report: &Report) -> Round;

    /// The last words, after the last round: what is in memory only can be written here.
    async fn stop(&mut self) {}
}

/// How a round ended, and when the next one is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Round {
    /// It went well. The next one is due after this long, or when somebody asks for one.
    Done(Duration),
    /// It failed, and why; again after this long, or when somebody asks.
    Failed(String, Duration),
    /// It went well. The next one comes only when somebody asks.
    UntilAsked,
}

/// Where a running round tells how far it is.
#[derive(Clone, Debug)]
pub struct Report(Arc<Shared>);

impl Report {
    /// `done` of `total` (in `unit`, such as "bytes") are behind us. A total that is not known is
    /// `None`.
    pub fn progress(&self, done: u64, total: Option<u64>, unit: &'static str) {
        self.0.lock().progress = Some(Progress { done, total, unit });
    }
}

/// How far a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How much is done.
    pub done: u64,
    /// Of how much, where that is known.
    pub total: Option<u64>,
    /// What is counted.
    pub unit: &'static str,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A round runs.
    Running,
    /// It waits for its next round.
    Waiting,
    /// It has stopped.
    Stopped,
}

impl State {
    /// Its name in answers to operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
        }
    }
}

/// What an operator sees of a worker.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    /// Its name.
    pub name: &'static str,
    /// What it is doing.
    pub state: State,
    /// How far the running round is, or how far the last one came.
    pub progress: Option<Progress>,
    /// Rounds that ended.
    pub rounds: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Why the last round failed, if it did.
    pub last_error: Option<String>,
    /// When the last round ended.
    pub last_ended: Option<Timestamp>,
    /// How long the last round took.
    pub last_took: Option<Duration>,
}

#[derive(Debug)]
struct Shared {
    status: Mutex<WorkerStatus>,
    wake: Notify,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, WorkerStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All workers of the process. Cheap to clone.
#[derive(Clone)]
pub struct Workers {
    tasks: Tasks,
    clock: Clock,
    table: Arc<Mutex<BTreeMap<&'static str, Arc<Shared>>>>,
    /// Workers that have not said their last words yet.
    at_work: tokio_util::task::TaskTracker,
}

impl Workers {
    /// No workers yet.
    pub fn new(tasks: Tasks, clock: Clock) -> Self {
        let at_work = tokio_util::task::TaskTracker::new();
        Self { tasks, clock, table: Arc::default(), at_work }
    }

    /// Starts `worker`: its first round begins at once. One of the same name is not started twice
    /// in one process.
    pub fn start(&self, worker: impl Worker) {
        let name = worker.name();
        let shared = Arc::new(Shared {
            status: Mutex::new(WorkerStatus {
                name,
                state: State::Waiting,
                progress: None,
                rounds: 0,
                failures: 0,
                last_error: None,
                last_ended: None,
                last_took: None,
            }),
            wake: Notify::new(),
        });
        let earlier = self.table().insert(name, Arc::clone(&shared));
        debug_assert!(earlier.is_none(), "the worker {name} was started before");
        let work = run(worker, shared, self.tasks.clone(), self.clock.clone());
        self.tasks.spawn(name, self.at_work.track_future(work));
    }

    /// Asks for a round now; one that runs is followed by another. Whether there is such a worker.
    pub fn wake(&self, name: &str) -> bool {
        let Some(shared) = self.table().get(name).cloned() else { return false };
        shared.wake.notify_one();
        true
    }

    /// What each of them is doing, by name.
    pub fn list(&self) -> Vec<WorkerStatus> {
        let table: Vec<_> = self.table().values().cloned().collect();
        table.iter().map(|shared| shared.lock().clone()).collect()
    }

    /// Waits until every worker has said its last words, at most [`LAST_WORDS`]; to be called
    /// after [`Tasks::stop`]. Cancel-safe.
    pub async fn stopped(&self) {
        self.at_work.close();
        if tokio::time::timeout(LAST_WORDS, self.at_work.wait()).await.is_err() {
            tracing::warn!("workers were still writing when the process ended");
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Arc<Shared>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.table().keys()).finish()
    }
}

async fn run(mut worker: impl Worker, shared: Arc<Shared>, tasks: Tasks, clock: Clock) {
    let stopping = tasks.stopping();
    let report = Report(Arc::clone(&shared));
    loop {
        let began = Instant::now();
        {
            let mut status = shared.lock();
            status.state = State::Running;
            status.progress = None;
        }
        let round = AssertUnwindSafe(worker.round(&report)).catch_unwind();
        let round = tokio::select! {
            round = round => round,
            () = stopping.cancelled() => break,
        };
        // A worker that panicked begins its next round with whatever it left behind: workers keep
        // nothing between rounds that a round in the middle could break.
        let round = round.unwrap_or_else(|_| Round::Failed("it panicked".into(), REST_AFTER_PANIC));
        let rest = {
            let mut status = shared.lock();
            status.state = State::Waiting;
            status.rounds += 1;
            status.last_took = Some(began.elapsed());
            status.last_ended = Some(clock.now());
            status.last_error = None;
            match round {
                Round::Done(rest) => Some(rest),
                Round::UntilAsked => None,
                Round::Failed(error, rest) => {
                    tracing::error!(
                        worker = status.name,
                        error,
                        "a round of background work failed"
                    );
                    status.failures += 1;
                    status.last_error = Some(error);
                    Some(rest)
                }
            }
        };
        let rested = async {
            match rest {
                Some(rest) => tokio::time::sleep(rest).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = rested => {}
            () = shared.wake.notified() => {}
            () = stopping.cancelled() => break,
        }
    }
    worker.stop().await;
    shared.lock().state = State::Stopped;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Lets that much time pass, on a paused clock.
    async fn pass(time: Duration) {
        let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
    }

    /// Does what it is told, and tells what it was asked.
    struct Counter {
        rounds: Arc<AtomicU64>,
        stops: Arc<AtomicU64>,
        ends: Vec<Round>,
    }

    #[async_trait]
    impl Worker for Counter {
        fn name(&self) -> &'static str {
            "counter"
        }

        async fn round(&mut self, report: &Report) -> Round {
            let n = self.rounds.fetch_add(1, Ordering::SeqCst);
            report.progress(n, Some(7), "rounds");
            match self.ends.pop() {
                Some(end) => end,
                None => std::future::pending().await,
            }
        }

        async fn stop(&mut self) {
            self.stops.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn started(ends: Vec<Round>) -> (Tasks, Workers, Arc<AtomicU64>, Arc<AtomicU64>) {
        let tasks = Tasks::new(&prometheus::Registry::new()).unwrap();
        let workers = Workers::new(tasks.clone(), Clock::manual(Timestamp::from_unix_ms(1_000)));
        let (rounds, stops) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        workers.start(Counter { rounds: rounds.clone(), stops: stops.clone(), ends });
        (tasks, workers, rounds, stops)
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_follow_each_other_after_their_rest_or_when_asked() {
        let hour = Duration::from_secs(3600);
        let ends =
            vec![Round::UntilAsked, Round::Failed("no disk".into(), hour), Round::Done(hour)];
        let (_tasks, workers, rounds, _) = started(ends);
        let settled = async || pass(Duration::from_millis(1)).await;
        settled().await;
        assert_eq!(rounds.load(Ordering::SeqCst), 1);
        pass(hour).await;
        let status = workers.list().remove(0);
        assert_eq!((status.rounds, status.failures), (2, 1));
        assert_eq!(status.last_error.as_deref(), Some("no disk"));
        assert_eq!(status.progress, Some(Progress { done: 1, total: Some(7), unit: "rounds" }));
        assert!(workers.wake("counter"));
        assert!(!workers.wake("nobody"));
        settled().await;
        assert_eq!(rounds.load(Ordering::SeqCst), 3);
        pass(hour * 100).await;
        assert_eq!(rounds.load(Ordering::SeqCst), 3, "only when asked");
        assert_eq!(workers.list().remove(0).last_error, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_interrupts_a_round_and_hears_the_last_words() {
        let (tasks, workers, _, stops) = started(Vec::new());
        pass(Duration::from_millis(1)).await;
        assert_eq!(workers.list().remove(0).state, State::Running);
        tasks.stop();
        workers.stopped().await;
        assert_eq!(stops.load(Ordering::SeqCst), 1);
        assert_eq!(workers.list().remove(0).state, State::Stopped);
    }

    struct Panics(u64);

    #[async_trait]
    impl Worker for Panics {
        fn name(&self) -> &'static str {
            "panics"
        }

        async fn round(&mut self, _: &Report) -> Round {
            self.0 += 1;
            assert_ne!(self.0, 1, "the first round");
            Round::UntilAsked
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failed_round_and_not_the_end() {
        let tasks = Tasks::new(&prometheus::Registry::new()).unwrap();
        let workers = Workers::new(tasks, Clock::manual(Timestamp::from_unix_ms(0)));
        workers.start(Panics(0));
        pass(REST_AFTER_PANIC * 2).await;
        let status = workers.list().remove(0);
        assert_eq!((status.rounds, status.failures, status.state), (2, 1, State::Waiting));
    }
}
