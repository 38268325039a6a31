//! Hedging: a HEAD that takes unusually long is also sent to the next endpoint.
//!
//! A HEAD stands at the beginning of nearly every pull and costs a registry little. What "long"
//! is, is learnt from each endpoint; how often there may be a second question is bounded, so that
//! a slow hour of one endpoint does not double the load on the next.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The shortest time after which a second endpoint is asked.
const HEDGE_AFTER_MIN: Duration = Duration::from_millis(50);
/// The longest, and what counts until enough is known: a user notices a second.
const HEDGE_AFTER_MAX: Duration = Duration::from_secs(1);
/// Of how many HEADs the times are remembered, per endpoint.
const LATENCIES_MAX: usize = 64;
/// With fewer, nothing is known.
const LATENCIES_MIN: usize = 8;
/// One HEAD in this many may be hedged.
const HEADS_PER_HEDGE: u32 = 10;
/// How many hedges can be saved up.
const HEDGES_SAVED_MAX: u32 = 5;

/// How long an endpoint took to answer, lately.
#[derive(Debug, Default)]
pub(super) struct Latencies(Mutex<VecDeque<Duration>>);

impl Latencies {
    /// One more HEAD took `latency`, or at least that.
    pub(super) fn note(&self, latency: Duration) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == LATENCIES_MAX {
            recent.pop_front();
        }
        recent.push_back(latency);
    }

    /// How long to wait before another endpoint is asked as well: longer than 95 of 100 HEADs take.
    pub(super) fn hedge_after(&self) -> Duration {
        let mut recent: Vec<_> =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        if recent.len() < LATENCIES_MIN {
            return HEDGE_AFTER_MAX;
        }
        recent.sort_unstable();
        let p95 = recent.get((recent.len() * 95).div_ceil(100) - 1).copied();
        p95.unwrap_or(HEDGE_AFTER_MAX).clamp(HEDGE_AFTER_MIN, HEDGE_AFTER_MAX)
    }
}

/// How many more hedges there may be, counted in HEADs.
#[derive(Debug)]
pub(super) struct HedgeBudget(Mutex<u32>);

impl Default for HedgeBudget {
    fn default() -> Self {
        Self(Mutex::new(HEADS_PER_HEDGE * HEDGES_SAVED_MAX))
    }
}

impl HedgeBudget {
    /// One more HEAD is asked.
    pub(super) fn earn(&self) {
        let mut saved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *saved = (*saved + 1).min(HEADS_PER_HEDGE * HEDGES_SAVED_MAX);
    }

    /// Whether there may be one more hedge, which is counted.
    pub(super) fn spend(&self) -> bool {
        let mut saved = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = saved.checked_sub(HEADS_PER_HEDGE);
        *saved = left.unwrap_or(*saved);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_is_long_is_learnt_within_bounds() {
        let latencies = Latencies::default();
        (1..LATENCIES_MIN).for_each(|_| latencies.note(ms(1)));
        assert_eq!(latencies.hedge_after(), HEDGE_AFTER_MAX);
        latencies.note(ms(1));
        assert_eq!(latencies.hedge_after(), HEDGE_AFTER_MIN);
        for latency in 0..100 {
            latencies.note(ms(200 + latency));
        }
        // The 61st of the last 64, which are 236 to 299.
        assert_eq!(latencies.hedge_after(), ms(296));
        (0..LATENCIES_MAX).for_each(|_| latencies.note(ms(9000)));
        assert_eq!(latencies.hedge_after(), HEDGE_AFTER_MAX);
    }

    #[test]
    fn hedges_are_a_share_of_heads() {
        let budget = HedgeBudget::default();
        let spent = (0..1000).filter(|_| budget.spend()).count();
        assert_eq!(spent, 5);
        let spent = (0..1000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(spent.count(), 100);
    }
}
