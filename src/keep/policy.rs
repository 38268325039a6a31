//! What is worth keeping: the eviction policy, as a pure function.
//!
//! Chosen by measurement: `cargo bench --bench eviction`, and
//! `docs/decisions/0013-eviction-policy.md`.

use std::time::Duration;

use crate::clock::Timestamp;

/// A use counts half as much after this long.
pub const HALF_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The logarithm of the freed bytes counts this much, against uses.
pub const SIZE_WEIGHT: f64 = 0.25;

/// No count of uses is higher than this: more would say nothing new.
pub const HEAT_MAX: f32 = 1e9;

/// The lowest count of uses, so that its logarithm is a number.
const HEAT_MIN: f32 = f32::MIN_POSITIVE;

/// How a unit was used: a whole image, or a blob that belongs to none.
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

    /// As it was persisted, whatever stands there: an impossible heat becomes a possible one.
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

    /// Used again, `times` times since it was told last.
    pub fn again(&mut self, now: Timestamp, times: u32) {
        *self = Self::persisted(now, self.heat_at(now) + times as f32);
    }

    /// Both records are of the same unit and count different uses.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        let last = self.last.max(other.last);
        Self::persisted(last, self.heat_at(last) + other.heat_at(last))
    }

    /// What the uses so far count at `now`.
    fn heat_at(&self, now: Timestamp) -> f32 {
        let lives = half_lives(distance(self.last, now));
        (f64::from(self.heat) * (-lives).exp2()) as f32
    }
}

/// How much it is worth to keep a unit, in arbitrary steps: the smallest goes first. `bytes` is
/// what would be free if it went.
///
/// Always a finite number. A use never lowers it.
pub fn worth(used: &Use, bytes: u64, now: Timestamp) -> f64 {
    // A logarithm: the power itself would round to zero after some dozens of half-lives.
    let heat = f64::from(used.heat).log2() - half_lives(distance(used.last, now));
    heat - SIZE_WEIGHT * (bytes.max(1) as f64).log2()
}

/// The time between two points, whichever is the later.
///
/// A last use in the future was noted while the clock was wrong. It says as little about now as
/// one that lies as far in the past; taken for fresh, it would stay until the clock gets there.
fn distance(a: Timestamp, b: Timestamp) -> Duration {
    a.since(b).max(b.since(a))
}

fn half_lives(age: Duration) -> f64 {
    age.as_secs_f64() / HALF_LIFE.as_secs_f64()
}
