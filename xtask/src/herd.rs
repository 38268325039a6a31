//! Many clients on one blob that nobody has yet.

use std::thread;
use std::time::Duration;

use pierhead_kit::random::Random;
use tokio::time::Instant;

use crate::Result;
use crate::download::Download;
use crate::origin::Blob;

/// One client of a herd.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// When it begins, after the herd's beginning.
    starts_after: Duration,
    /// After how many bytes it is killed.
    killed_after: Option<u64>,
    /// Whether it hashes what it gets, which takes a good part of a processor.
    checks: bool,
}

/// What came of one client.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// When it asked.
    asked_at: Instant,
    /// How long it waited for its first byte.
    first_byte: Duration,
    /// Whether it was killed, as planned.
    killed: bool,
    /// The digest of what it got, if it lived.
    digest: Option<String>,
}

/// `clients` that begin at random moments within `window`; every second one is killed at a random
/// byte. The same seed makes the same plans.
pub(crate) fn plans(seed: u64, clients: u64, window: Duration, blob: &Blob) -> Vec<Plan> {
    let dice = Random::new(seed, u64::MAX);
    let share = |n: u64| {
        let mut word = [0; 8];
        dice.fill(n * 8, &mut word);
        u64::from_le_bytes(word) as f64 / u64::MAX as f64
    };
    (0..clients)
        .map(|n| Plan {
            starts_after: window.mul_f64(share(2 * n)),
            // Never so late that it would be as good as whole.
            killed_after: (n % 2 == 1).then(|| (share(2 * n + 1) * 0.9 * blob.len() as f64) as u64),
            checks: true,
        })
        .collect()
}

/// `clients` that all begin at once and only count what they get.
pub(crate) fn at_once(clients: usize) -> Vec<Plan> {
    vec![Plan { starts_after: Duration::ZERO, killed_after: None, checks: false }; clients]
}

/// Runs the plans against `host`, all at once.
pub(crate) fn run(host: &str, blob: &Blob, plans: &[Plan]) -> Result<Vec<Outcome>> {
    let begin = Instant::now();
    let path = blob.path();
    thread::scope(|scope| {
        let clients: Vec<_> = plans
            .iter()
            .map(|plan| {
                let path = &path;
                scope.spawn(move || client(host, path, begin, *plan))
            })
            .collect();
        let outcomes = clients.into_iter().map(|client| match client.join() {
            Ok(outcome) => outcome,
            Err(_) => Err("a client panicked".into()),
        });
        outcomes.collect()
    })
}

fn client(host: &str, path: &str, begin: Instant, plan: Plan) -> Result<Outcome> {
    thread::sleep((begin + plan.starts_after).saturating_duration_since(Instant::now()));
    let mut download = Download::open(host, path)?;
    let (asked_at, first_byte) = (download.asked_at, download.first_byte);
    let digest = match plan.killed_after {
        Some(bytes) => {
            // Dropping the socket with bytes unread resets the connection, as a killed client's
            // kernel does.
            download.discard(bytes)?;
            None
        }
        None if plan.checks => Some(download.sha256()?),
        None => {
            download.discard_all()?;
            None
        }
    };
    Ok(Outcome { asked_at, first_byte, killed: plan.killed_after.is_some(), digest })
}

/// The herd as a whole.
#[derive(Debug)]
pub(crate) struct Summary {
    /// Clients that got everything.
    pub(crate) survivors: usize,
    /// Clients that were killed.
    pub(crate) killed: usize,
    /// Survivors whose bytes are wrong.
    pub(crate) wrong: usize,
    /// The waits for the first byte, in milliseconds, of all who asked once the fill had begun.
    pub(crate) joined_ms: Vec<f64>,
}

impl Summary {
    /// Sums up. The fill has begun once any client has a byte of it.
    pub(crate) fn of(outcomes: &[Outcome], blob: &Blob) -> Self {
        let begun = outcomes.iter().map(|outcome| outcome.asked_at + outcome.first_byte).min();
        let joined = outcomes.iter().filter(|outcome| begun.is_some_and(|b| outcome.asked_at >= b));
        let digests = outcomes.iter().filter_map(|outcome| outcome.digest.as_ref());
        Self {
            survivors: digests.clone().count(),
            killed: outcomes.iter().filter(|outcome| outcome.killed).count(),
            wrong: digests.filter(|digest| **digest != blob.digest).count(),
            joined_ms: joined.map(|outcome| outcome.first_byte.as_secs_f64() * 1e3).collect(),
        }
    }
}
