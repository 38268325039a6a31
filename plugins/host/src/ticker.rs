//! The one thread that counts time for all guests.
//!
//! Each tick raises the epoch of every engine, and a guest whose deadline has come traps at its
//! next loop or call. It stops a moment after the last call has ended, so that an idle process is
//! not woken a thousand times a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::EngineWeak;

/// How long a tick is. A deadline is kept to about two of them.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// How many ticks it goes on without a call. Waking it costs more than these ticks do.
const IDLE_TICKS: u32 = 200;

/// Ticks that are made up for at once, at most: the rest of a long stop is forgotten.
const CATCH_UP_MAX: u32 = 100;

/// How many ticks a guest may compute before it is over the deadline, and one for the tick that
/// is running already.
pub(crate) fn ticks(deadline: Duration) -> u64 {
    let ticks = deadline.as_micros().div_ceil(TICK.as_micros());
    u64::try_from(ticks).unwrap_or(u64::MAX / 2).saturating_add(1)
}

#[derive(Debug)]
struct Shared {
    running: AtomicUsize,
    asleep: AtomicBool,
    /// The host is gone.
    ended: AtomicBool,
}

/// Keeps the thread. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

impl Ticker {
    pub(crate) fn start(engines: Vec<EngineWeak>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            running: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let handle = thread::Builder::new()
            .name("plugin-ticker".to_owned())
            .spawn(move || tick(&theirs, &engines))?;
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// Time counts while the result lives.
    pub(crate) fn count(&self) -> Counting {
        self.shared.running.fetch_add(1, SeqCst);
        if self.shared.asleep.load(SeqCst) {
            self.thread.unpark();
        }
        Counting(Arc::clone(&self.shared))
    }

    /// How many calls are counted now.
    pub(crate) fn running(&self) -> usize {
        self.shared.running.load(SeqCst)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.ended.store(true, SeqCst);
        self.thread.unpark();
    }
}

/// A call for which time counts.
#[derive(Debug)]
pub(crate) struct Counting(Arc<Shared>);

impl Drop for Counting {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

fn tick(shared: &Shared, engines: &[EngineWeak]) {
    let mut idle = 0;
    // The clock of this thread is the real one, also where a runtime's stands still.
    let mut last = Instant::now();
    while !shared.ended.load(SeqCst) {
        if shared.running.load(SeqCst) == 0 {
            idle += 1;
        } else {
            idle = 0;
        }
        if idle > IDLE_TICKS {
            // Either the call sees that the thread sleeps, or the thread sees the call.
            shared.asleep.store(true, SeqCst);
            while shared.running.load(SeqCst) == 0 && !shared.ended.load(SeqCst) {
                thread::park();
            }
            shared.asleep.store(false, SeqCst);
            idle = 0;
            last = Instant::now();
        }
        thread::park_timeout(TICK);
        // A thread that was woken late makes up for it.
        let late = last.elapsed().as_micros() / TICK.as_micros();
        let ticks = u32::try_from(late).unwrap_or(CATCH_UP_MAX).min(CATCH_UP_MAX);
        last = if ticks == CATCH_UP_MAX { Instant::now() } else { last + TICK * ticks };
        for engine in engines {
            let Some(engine) = engine.upgrade() else { continue };
            for _ in 0..ticks {
                engine.increment_epoch();
            }
        }
    }
}
