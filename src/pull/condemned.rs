//! Digests under which wrong content came a short while ago.

use std::time::Duration;

use moka::sync::Cache;

use crate::clock::{Clock, Timestamp};
use crate::oci::Digest;

/// How many condemned digests are remembered.
const CONDEMNED_MAX: u64 = 10_000;

/// While a digest is condemned nothing of it is sent before it is verified, so that a client which
/// resumes a broken answer meets verified bytes or none. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Condemned {
    until: Cache<Digest, Timestamp>,
    clock: Clock,
    period: Duration,
}

impl Condemned {
    /// Digests stay condemned for `period`.
    pub fn new(clock: Clock, period: Duration) -> Self {
        Self { until: Cache::new(CONDEMNED_MAX), clock, period }
    }

    /// Wrong content came under `digest`.
    pub fn condemn(&self, digest: &Digest) {
        self.until.insert(*digest, self.clock.now().plus(self.period));
    }

    /// Whether `digest` is condemned now.
    pub fn is_condemned(&self, digest: &Digest) -> bool {
        match self.until.get(digest) {
            Some(until) if self.clock.now() < until => true,
            Some(_) => {
                self.until.invalidate(digest);
                false
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_condemned_for_a_while() {
        let clock = Clock::manual(Timestamp::from_unix_ms(0));
        let condemned = Condemned::new(clock.clone(), Duration::from_secs(600));
        let (bad, good) = (Digest::sha256(b"bad"), Digest::sha256(b"good"));
        condemned.condemn(&bad);
        assert!(condemned.is_condemned(&bad) && !condemned.is_condemned(&good));
        clock.advance(Duration::from_secs(599));
        assert!(condemned.is_condemned(&bad));
        clock.advance(Duration::from_secs(1));
        assert!(!condemned.is_condemned(&bad));
    }
}
