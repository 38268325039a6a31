//! What is worth keeping: the eviction policy, as a pure function.
//!
//! Uses, fading with time, by the time since the last one and by the space that is won:
//!
//! > worth = uses / (1 + idle / [`IDLE_STEP`])^[`IDLE_POWER`] / bytes^[`SIZE_POWER`]
//!
//! What was used often is kept longer than what was used once (a scan), what was used just now
//! longer than what once was popular, and small things longer than large ones. The constants are
//! measured: `cargo bench --bench eviction`, and `docs/decisions/0013-eviction-policy.md`.

use std::cmp::Ordering;
use std::time::Duration;

use crate::clock::Timestamp;

/// A use counts half as much after this long.
pub const HALF_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// Idle for less than this is as good as in use: the burst of one pipeline, or of one rollout.
pub const IDLE_STEP: Duration = Duration::from_secs(15 * 60);

/// How fast worth falls with the time since the last use.
pub const IDLE_POWER: f64 = 1.5;

/// How much size counts: at 0 not at all, at 1 worth is per byte.
pub const SIZE_POWER: f64 = 0.5;

/// The highest count of uses: more would say nothing new.
pub const HEAT_MAX: f32 = 1e9;

/// The lowest count, so that its logarithm is a number.
const HEAT_MIN: f32 = f32::MIN_POSITIVE;

/// How a unit was used: an image, or a blob.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Use {
    last: Timestamp,
    heat: f32,
}

impl Use {
    /// Used for the first time.
    pub const fn first(now: Timestamp) -> Self {
        Self { last: now, heat: 1.0 }
    }

    /// As it was persisted. What no use could have led to becomes the nearest that could.
    pub const fn persisted(last: Timestamp, heat: f32) -> Self {
        let heat = if heat.is_nan() { HEAT_MIN } else { heat.clamp(HEAT_MIN, HEAT_MAX) };
        Self { last, heat }
    }

    /// When it was used last.
    pub const fn last(&self) -> Timestamp {
        self.last
    }

    /// Its uses, as they counted at the last one: each half as much for every [`HALF_LIFE`].
    pub const fn heat(&self) -> f32 {
        self.heat
    }

    /// Used again, the last time now, and `times` times since this was told before.
    pub fn again(&mut self, now: Timestamp, times: u32) {
        *self = Self::persisted(now, self.heat_at(now) + times as f32);
    }

    /// Two records of one unit that count different uses.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        let last = self.last.max(other.last);
        Self::persisted(last, self.heat_at(last) + other.heat_at(last))
    }

    /// What the uses so far count at `now`.
    fn heat_at(&self, now: Timestamp) -> f32 {
        (f64::from(self.heat) * (-idle(self.last, now, HALF_LIFE)).exp2()) as f32
    }
}

/// How much it is worth to keep something: the smallest goes first.
#[derive(Clone, Copy, Debug)]
pub struct Worth(f64);

impl PartialEq for Worth {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Worth {}

impl PartialOrd for Worth {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Worth {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// What a unit is worth at `now`. `bytes` is what would be free if it went.
///
/// A use never lowers it.
pub fn worth(used: &Use, bytes: u64, now: Timestamp) -> Worth {
    // Logarithms: the product itself would round to zero for what was idle for years.
    let heat = f64::from(used.heat).log2() - idle(used.last, now, HALF_LIFE);
    let idle = (1.0 + idle(used.last, now, IDLE_STEP)).log2();
    let size = (bytes.max(1) as f64).log2();
    Worth(heat - IDLE_POWER * idle - SIZE_POWER * size)
}

/// The time between two points, whichever is the later, in units of `step`.
///
/// A last use in the future was noted while the clock was wrong. It says as little about now as
/// one that lies as far in the past; taken for fresh, it would stay until the clock gets there.
fn idle(last: Timestamp, now: Timestamp, step: Duration) -> f64 {
    now.since(last).max(last.since(now)).as_secs_f64() / step.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;
    const NOW: u64 = 1_700_000_000_000;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn used(times: u32, last_ms: u64) -> Use {
        Use::persisted(at(last_ms), times as f32)
    }

    #[test]
    fn the_order_of_going() {
        let of =
            |times, days, mib: u64| worth(&used(times, NOW - days * DAY_MS), mib << 20, at(NOW));
        // A scan's image goes before the one that is pulled each day.
        assert!(of(1, 0, 100) < of(30, 0, 100));
        assert!(of(1, 1, 100) < of(30, 1, 100));
        // What nobody has asked for in a month goes before what came today.
        assert!(of(30, 30, 100) < of(1, 0, 100));
        // Of two that were used alike, the larger goes.
        assert!(of(3, 1, 1000) < of(3, 1, 10));
        // Nothing is free of charge, and nothing is free: 0 bytes is an ordinary size.
        assert!(of(3, 1, 1) < worth(&used(3, NOW - DAY_MS), 0, at(NOW)));
    }

    #[test]
    fn uses_fade() {
        let mut image = Use::first(at(NOW));
        image.again(at(NOW), 7);
        assert_eq!(image.heat(), 8.0);
        let life = u64::try_from(HALF_LIFE.as_millis()).unwrap();
        image.again(at(NOW + life), 1);
        assert_eq!((image.heat(), image.last()), (5.0, at(NOW + life)));
    }

    #[test]
    fn a_clock_that_was_wrong_does_not_keep_anything_for_ever() {
        let far = NOW + 50 * 365 * DAY_MS;
        let mut wrong = Use::first(at(far));
        let old = used(1, NOW - DAY_MS);
        assert!(worth(&wrong, 1 << 20, at(NOW)) < worth(&old, 1 << 20, at(NOW)));
        // Its next use puts it right.
        wrong.again(at(NOW), 1);
        assert_eq!(wrong.last(), at(NOW));
        assert!(worth(&wrong, 1 << 20, at(NOW)) > worth(&old, 1 << 20, at(NOW)));
    }

    #[test]
    fn a_broken_record_is_a_record() {
        for heat in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, 0.0] {
            let read = Use::persisted(at(u64::MAX), heat);
            assert!(read.heat() > 0.0 && read.heat() <= HEAT_MAX);
            assert!(worth(&read, u64::MAX, at(0)).0.is_finite());
        }
    }

    #[test]
    fn it_stays_small() {
        assert!(size_of::<Use>() <= 16);
    }

    fn uses() -> impl Strategy<Value = Use> {
        (any::<u64>(), any::<f32>()).prop_map(|(last, heat)| Use::persisted(at(last), heat))
    }

    proptest! {
        #[test]
        fn worth_is_a_number(used in uses(), bytes: u64, now: u64) {
            prop_assert!(worth(&used, bytes, at(now)).0.is_finite());
        }

        #[test]
        fn a_use_never_lowers_worth(
            used in uses(), bytes: u64, now: u64, times: u32, later in 0..1u64 << 40,
        ) {
            let mut again = used;
            again.again(at(now), times);
            prop_assert!(worth(&again, bytes, at(now)) >= worth(&used, bytes, at(now)));
            // Nor at any later time, if the clock was right.
            if used.last() <= at(now) {
                let then = at(now.saturating_add(later));
                // Both sides are rounded, the heat to 24 bits.
                let gain = worth(&again, bytes, then).0 - worth(&used, bytes, then).0;
                prop_assert!(gain > -1e-6, "{gain}");
            }
        }

        #[test]
        fn more_and_later_uses_are_worth_more(
            (a, b) in (1u32..1 << 20, 1u32..1 << 20), (c, d) in (0..NOW, 0..NOW), bytes: u64,
        ) {
            let low = worth(&used(a.min(b), c.min(d)), bytes, at(NOW));
            prop_assert!(worth(&used(a.max(b), c.max(d)), bytes, at(NOW)) >= low);
        }

        #[test]
        fn larger_is_worth_less(used in uses(), a: u64, b: u64, now: u64) {
            let (small, large) = (a.min(b), a.max(b));
            prop_assert!(worth(&used, large, at(now)) <= worth(&used, small, at(now)));
        }

        #[test]
        fn it_does_not_matter_which_record_meets_which(a in uses(), b in uses()) {
            prop_assert_eq!(a.merged(b), b.merged(a));
            prop_assert_eq!(a.merged(b).last(), a.last().max(b.last()));
            prop_assert!(a.merged(b).heat() <= HEAT_MAX);
        }
    }
}
