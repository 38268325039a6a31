//! What an endpoint said about how often it may be asked, and what follows from it: whether the
//! allowance is used up, when it will be, and when there is a new one.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::limits::RateLimit;

/// How far back the present rate of pulls is taken from.
const RATE_WINDOW: Duration = Duration::from_secs(3600);
/// How far apart the numbers are from which the rate is taken: every HEAD brings one, and the
/// order of answers is not that of questions.
const SAMPLE_EVERY: Duration = Duration::from_secs(30);
/// The most of such numbers: those of a [`RATE_WINDOW`], and some.
const SAMPLES_MAX: usize = 128;
/// The shortest time over which a rate is taken: three pulls in a second are no habit.
const RATE_TIME_MIN: Duration = Duration::from_secs(60);
/// How long an allowance counts as used up if the server does not say.
const WINDOW_DEFAULT: Duration = Duration::from_secs(60);

/// An endpoint's allowance.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    said: Option<(Instant, RateLimit)>,
    samples: VecDeque<(Instant, u64)>,
}

impl Allowance {
    /// Takes note of what the endpoint says now.
    pub(super) fn note(&mut self, limit: RateLimit) {
        let now = Instant::now();
        self.said = Some((now, limit));
        let before = self.samples.len().checked_sub(2).and_then(|index| self.samples.get(index));
        if before.is_some_and(|(at, _)| now - *at < SAMPLE_EVERY) {
            self.samples.pop_back();
        }
        self.samples.push_back((now, limit.remaining));
        while self.samples.len() > SAMPLES_MAX {
            self.samples.pop_front();
        }
    }

    /// What it last said, with what follows from it for this moment.
    pub(super) fn limit(&self) -> Option<RateLimit> {
        let (_, mut limit) = self.said?;
        limit.exhausted_in = self.exhausted_in();
        limit.restored_in = self.restored_in();
        Some(limit)
    }

    /// For how long nothing should be asked that counts: nothing is left.
    pub(super) fn exhausted_for(&self) -> Option<Duration> {
        self.said.filter(|(_, limit)| limit.remaining == 0)?;
        self.restored_in()
    }

    /// How long until there is a new allowance: at the latest, where only the length of the window
    /// is known. Nothing if that has passed.
    fn restored_in(&self) -> Option<Duration> {
        let (at, limit) = self.said?;
        let whole = limit.reset.or(limit.window).unwrap_or(WINDOW_DEFAULT);
        Some(whole.saturating_sub(at.elapsed())).filter(|left| !left.is_zero())
    }

    /// How long until nothing is left, if pulls go on as they did lately.
    fn exhausted_in(&self) -> Option<Duration> {
        let (_, limit) = self.said?;
        self.restored_in()?;
        if limit.remaining == 0 {
            return Some(Duration::ZERO);
        }
        let recent = || self.samples.iter().filter(|(at, _)| at.elapsed() <= RATE_WINDOW);
        let (first, _) = recent().next()?;
        // A number that rises is a new window, and no pull.
        let used: u64 = recent()
            .zip(recent().skip(1))
            .map(|((_, before), (_, after))| before.saturating_sub(*after))
            .sum();
        let seconds = first.elapsed().max(RATE_TIME_MIN).as_secs();
        // Nothing was used: never.
        limit.remaining.saturating_mul(seconds).checked_div(used).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::clock::Timestamp;

    fn left(remaining: u64) -> RateLimit {
        RateLimit {
            limit: Some(100),
            remaining,
            window: Some(Duration::from_secs(21600)),
            reset: None,
            at: Timestamp::from_unix_ms(0),
            exhausted_in: None,
            restored_in: None,
        }
    }

    async fn after(seconds: u64) {
        advance(Duration::from_secs(seconds)).await;
    }

    fn forecast(allowance: &Allowance) -> Option<u64> {
        allowance.limit().and_then(|limit| limit.exhausted_in).map(|left| left.as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_rate_is_extrapolated() {
        let mut allowance = Allowance::default();
        assert_eq!(allowance.limit(), None);
        for used in 0..=10 {
            allowance.note(left(100 - used));
            after(60).await;
        }
        // One a minute, over eleven minutes: 10 used, 90 left.
        assert_eq!(forecast(&allowance), Some(90 * 66));
        let restored = allowance.limit().and_then(|limit| limit.restored_in);
        assert_eq!(restored, Some(Duration::from_secs(21600 - 60)));
        // Nothing more is pulled, so it lasts longer and longer, and then for ever.
        after(660).await;
        assert_eq!(forecast(&allowance), Some(90 * 132));
        after(3600).await;
        assert_eq!(forecast(&allowance), None);
    }

    #[tokio::test(start_paused = true)]
    async fn neither_rest_nor_a_new_window_is_a_forecast() {
        let mut allowance = Allowance::default();
        for remaining in [50, 50, 100, 100] {
            allowance.note(left(remaining));
            after(40).await;
        }
        assert_eq!(forecast(&allowance), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_taken_over_a_minute() {
        let mut allowance = Allowance::default();
        for used in 0..=3 {
            allowance.note(left(100 - used));
        }
        assert_eq!(forecast(&allowance), Some(97 * 20));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_left_is_exhausted_until_the_window_or_the_reset() {
        for (window, reset, seconds) in
            [(Some(21600), None, 21600), (Some(21600), Some(30), 30), (None, None, 60)]
        {
            let mut allowance = Allowance::default();
            let (window, reset) = (window.map(Duration::from_secs), reset.map(Duration::from_secs));
            allowance.note(RateLimit { window, reset, ..left(0) });
            assert_eq!(allowance.exhausted_for(), Some(Duration::from_secs(seconds)));
            assert_eq!(forecast(&allowance), Some(0));
            after(seconds).await;
            assert_eq!((allowance.exhausted_for(), forecast(&allowance)), (None, None));
            allowance.note(left(1));
            assert_eq!(allowance.exhausted_for(), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn memory_stays_bounded() {
        let mut allowance = Allowance::default();
        for used in 0..1000 {
            allowance.note(left(10_000 - used));
            after(1 + used % 60).await;
        }
        assert!(allowance.samples.len() <= SAMPLES_MAX);
        let mut burst = Allowance::default();
        (0..1000).for_each(|used| burst.note(left(10_000 - used)));
        assert_eq!(burst.samples.len(), 2);
    }
}
