//! Pseudo-random bytes that depend only on a seed and an offset.

use std::io::Read;

use sha2::{Digest as _, Sha256};

/// A stream of `len` bytes that can be read from any offset, without holding it in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Random {
    seed: u64,
    len: u64,
}

impl Random {
    /// The stream of `len` bytes that belongs to `seed`.
    pub const fn new(seed: u64, len: u64) -> Self {
        Self { seed, len }
    }

    /// How many bytes there are.
    #[allow(clippy::len_without_is_empty, reason = "a length, not a container")]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` with the bytes from `offset` on. What lies beyond the end is made up too.
    pub fn fill(&self, mut offset: u64, mut out: &mut [u8]) {
        while !out.is_empty() {
            let skip = (offset % 8) as usize;
            if skip == 0 && out.len() >= 8 {
                let mut words = 0;
                for word in out.chunks_exact_mut(8) {
                    word.copy_from_slice(&self.word(offset / 8 + words).to_le_bytes());
                    words += 1;
                }
                let done = (words * 8) as usize;
                out = &mut out[done..];
                offset += words * 8;
            } else {
                let word = self.word(offset / 8).to_le_bytes();
                let n = (8 - skip).min(out.len());
                out[..n].copy_from_slice(&word[skip..skip + n]);
                out = &mut out[n..];
                offset += n as u64;
            }
        }
    }

    /// The bytes of one part.
    pub fn part(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.fill(offset, &mut out);
        out
    }

    /// The digest of the whole stream, computed in small parts.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut reader = self.reader();
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return format!("sha256:{}", hex::encode(hash.finalize())),
                Ok(n) => hash.update(&buffer[..n]),
                Err(never) => panic!("{never}"),
            }
        }
    }

    /// Reads the stream from its beginning.
    pub fn reader(&self) -> impl Read + use<> {
        RandomReader { random: *self, at: 0 }
    }

    /// The 64-bit word number `n`: splitmix64, whose state after n steps is a multiplication.
    fn word(&self, n: u64) -> u64 {
        let mut z = self.seed.wrapping_add((n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

struct RandomReader {
    random: Random,
    at: u64,
}

impl Read for RandomReader {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let left = self.random.len - self.at;
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        self.random.fill(self.at, &mut out[..n]);
        self.at += n as u64;
        Ok(n)
    }
}
