//! Random numbers that depend on a seed and on what they are for, and not on who asked first:
//! then the same seed tells the same story, also when two things happen at the same moment.

use std::fmt::Display;
use std::ops::Range;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    /// The numbers of `seed` for that purpose.
    pub(crate) fn new(seed: u64, purpose: impl Display) -> Self {
        // FNV-1a: the standard library's hashes need not stay the same.
        let hash = fnv(purpose.to_string().as_bytes());
        let mut dice = Self(seed ^ hash);
        dice.roll();
        dice
    }

    /// The next number: splitmix64.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number of `range`, which is not empty.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.roll() % (range.end - range.start).max(1)
    }

    /// True that many times of a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.within(0..100) < percent
    }

    /// One of `choices`.
    pub(crate) fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let len = choices.len() as u64;
        &choices[usize::try_from(self.within(0..len)).expect("an index")]
    }
}

/// The FNV-1a hash of `bytes`.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
