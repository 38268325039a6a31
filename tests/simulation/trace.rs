//! What happened, and when: for people who look into a failure, and for the proof that a seed
//! always tells the same story.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::dice::fnv;

/// How often things happened, by what they are called.
pub(crate) type Tally = BTreeMap<&'static str, u64>;

/// The story of one seed, with its time. Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trace(Arc<Mutex<Story>>);

#[derive(Debug, Default)]
struct Story {
    lines: Vec<(Duration, String)>,
    tally: Tally,
    /// The time until the present life of the process began.
    before: Duration,
    /// When that was, by the clock of its runtime; `None` between two lives.
    began: Option<Instant>,
}

impl Story {
    fn now(&self) -> Duration {
        self.before + self.began.map_or(Duration::ZERO, |began| began.elapsed())
    }
}

impl Trace {
    fn lock(&self) -> MutexGuard<'_, Story> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Simulated time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.lock().now()
    }

    /// A life of the process begins, in a runtime with a clock of its own.
    pub(crate) fn begin(&self) {
        self.lock().began = Some(Instant::now());
    }

    /// It ends, and time stands still until the next one.
    pub(crate) fn end(&self) {
        let mut story = self.lock();
        story.before = story.now();
        story.began = None;
    }

    /// Notes that `line` happened now.
    pub(crate) fn note(&self, line: String) {
        let mut story = self.lock();
        let now = story.now();
        story.lines.push((now, line));
    }

    /// Counts something.
    pub(crate) fn count(&self, what: &'static str) {
        *self.lock().tally.entry(what).or_default() += 1;
    }

    /// What was counted.
    pub(crate) fn tally(&self) -> Tally {
        self.lock().tally.clone()
    }

    /// All lines.
    pub(crate) fn lines(&self) -> Vec<String> {
        let show = |(at, line): &(Duration, String)| format!("{:>10.3}s {line}", at.as_secs_f64());
        self.lock().lines.iter().map(show).collect()
    }

    /// A number that is the same if the same happened. What happened in the same millisecond
    /// counts without its order: tokio wakes those who wait for one event in an order of its own.
    pub(crate) fn hash(&self) -> u64 {
        let mut moments: BTreeMap<u128, Vec<String>> = BTreeMap::new();
        for (at, line) in &self.lock().lines {
            moments.entry(at.as_millis()).or_default().push(line.clone());
        }
        let mut text = String::new();
        for (at, mut lines) in moments {
            lines.sort();
            text.push_str(&format!("{at} {}\n", lines.join("\n")));
        }
        fnv(text.as_bytes())
    }
}

/// Lets simulated time pass.
pub(crate) async fn wait(time: Duration) {
    let _ = timeout(time, pending::<()>()).await;
}

/// That many milliseconds.
pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
