//! How long a fill that upstream broke off waits before it goes on, and when it gives up.

use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::{ErrorKind, UpstreamError};

/// The first wait.
const WAIT_MIN: Duration = Duration::from_millis(100);

/// The longest wait that upstream did not ask for.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// How often what looks like an answer (refused, not found, senseless) is taken for a slip of a
/// server behind upstream's name, with nothing landing in between.
const ANSWERS_MAX: u32 = 3;

/// The troubles of one fill since its last byte landed.
#[derive(Debug)]
pub struct Retry {
    patience: Duration,
    /// Spreads the waits of many.
    seed: u64,
    failures: u32,
    answers: u32,
    since: Option<Instant>,
    not_before: Option<Instant>,
}

/// There is no more use in waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GiveUp;

impl Retry {
    /// Gives up when nothing has landed for `patience`. `seed` spreads the waits of fills that
    /// broke off together.
    pub const fn new(patience: Duration, seed: u64) -> Self {
        Self { patience, seed, failures: 0, answers: 0, since: None, not_before: None }
    }

    /// A byte has landed: upstream works.
    pub const fn landed(&mut self) {
        self.failures = 0;
        self.answers = 0;
        self.since = None;
    }

    /// A transfer broke off.
    ///
    /// # Errors
    /// When it is of no use to try again.
    pub fn failed(&mut self, error: &UpstreamError, now: Instant) -> Result<(), GiveUp> {
        if error.kind() == ErrorKind::Abandoned {
            return Err(GiveUp);
        }
        let asked = error.failure.retry_after().unwrap_or_default();
        self.again(asked, is_answer(error.kind()), now)
    }

    /// Upstream's answer contradicts an earlier one.
    ///
    /// # Errors
    /// When it is of no use to try again.
    pub fn contradicted(&mut self, now: Instant) -> Result<(), GiveUp> {
        self.again(Duration::ZERO, true, now)
    }

    fn again(&mut self, asked: Duration, is_answer: bool, now: Instant) -> Result<(), GiveUp> {
        self.failures += 1;
        let since = *self.since.get_or_insert(now);
        // Whatever is tried next, it is not tried at once.
        self.not_before = Some(now + self.wait().max(asked));
        if is_answer {
            self.answers += 1;
            if self.answers > ANSWERS_MAX {
                return Err(GiveUp);
            }
        }
        let not_before = now + self.wait().max(asked);
        if not_before.duration_since(since) > self.patience {
            return Err(GiveUp);
        }
        Ok(())
    }

    /// When it may be tried again; nothing: now.
    pub fn not_before(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|until| now < *until)
    }

    /// Whether something broke off and nothing has landed since.
    pub const fn is_in_trouble(&self) -> bool {
        self.failures > 0
    }

    /// Doubles each time, and is between a half and the whole of that.
    fn wait(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let most = WAIT_MIN.saturating_mul(1 << doublings).min(WAIT_MAX);
        let spread = splitmix(self.seed ^ u64::from(self.failures)) % 1000;
        most / 2 + most.mul_f64(spread as f64 / 2000.0)
    }
}

/// Failures that say something about the blob, not about the way to it.
const fn is_answer(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotFound
            | ErrorKind::Denied
            | ErrorKind::UnexpectedStatus
            | ErrorKind::Misbehaved
            | ErrorKind::LoopDetected
            | ErrorKind::NoCredentials
    )
}

/// SplitMix64's mixing function.
const fn splitmix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Failure;

    fn error(failure: Failure) -> UpstreamError {
        UpstreamError { upstream: "docker.io".parse().unwrap(), host: "x".into(), failure }
    }

    const PATIENCE: Duration = Duration::from_secs(120);

    #[tokio::test(start_paused = true)]
    async fn waits_grow_to_a_limit_and_end_with_the_patience() {
        let mut retry = Retry::new(PATIENCE, 7);
        let (began, mut now, mut last) = (Instant::now(), Instant::now(), Duration::ZERO);
        let mut tries = 0;
        while retry.failed(&error(Failure::Interrupted), now).is_ok() {
            let until = retry.not_before(now).unwrap();
            let wait = until - now;
            assert!(wait >= WAIT_MIN / 2 && wait <= WAIT_MAX);
            assert!(wait * 2 >= last, "{wait:?} after {last:?}");
            (now, last, tries) = (until, wait, tries + 1);
        }
        assert!(tries > 10 && now - began <= PATIENCE && now - began > PATIENCE / 2);
        retry.landed();
        assert!(retry.failed(&error(Failure::Interrupted), now).is_ok(), "it began anew");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_believed_when_it_is_repeated() {
        let mut retry = Retry::new(PATIENCE, 7);
        let now = Instant::now();
        for _ in 0..ANSWERS_MAX {
            assert!(retry.failed(&error(Failure::NotFound), now).is_ok());
        }
        assert_eq!(retry.failed(&error(Failure::NotFound), now), Err(GiveUp));
    }

    #[tokio::test(start_paused = true)]
    async fn upstream_is_left_alone_for_as_long_as_it_asks() {
        let mut retry = Retry::new(PATIENCE, 7);
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        let limited = |after| error(Failure::RateLimited { retry_after: Some(after) });
        assert!(retry.failed(&limited(minute), now).is_ok());
        assert_eq!(retry.not_before(now), Some(now + minute));
        assert_eq!(retry.not_before(now + minute), None);
        assert_eq!(retry.failed(&limited(PATIENCE * 2), now), Err(GiveUp));
        assert_eq!(retry.failed(&error(Failure::Abandoned), now), Err(GiveUp));
    }
}
