//! What upstream said is not there, remembered for a short while so that a herd that asks for a
//! missing image does not become a herd upstream.

use std::time::Duration;

use moka::sync::Cache;

use super::error::PullError;
use crate::clock::{Clock, Timestamp};
use crate::oci::{Digest, Reference, Tag};
use crate::scope::Scope;

/// How many absences are remembered.
const ABSENCES_MAX: u64 = 50_000;

/// Something that a repository may lack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Absent {
    /// A blob.
    Blob(Digest),
    /// A manifest, by tag or digest.
    Manifest(Reference),
    /// Somebody upstream who can say what a tag means now.
    Confirmation(Tag),
}

/// The absences. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Absences {
    known: Cache<(Scope, Absent), (Timestamp, PullError)>,
    clock: Clock,
}

impl Absences {
    /// Nothing is known to be absent.
    pub fn new(clock: Clock) -> Self {
        Self { known: Cache::new(ABSENCES_MAX), clock }
    }

    /// What upstream said of it a short while ago.
    pub fn get(&self, scope: &Scope, what: &Absent) -> Option<PullError> {
        self.until(scope, what).map(|(_, error)| error)
    }

    /// As [`Absences::get`], with the time until which it is remembered.
    pub fn until(&self, scope: &Scope, what: &Absent) -> Option<(Timestamp, PullError)> {
        let key = (scope.clone(), what.clone());
        let (until, error) = self.known.get(&key)?;
        if self.clock.now() < until {
            return Some((until, error));
        }
        self.known.invalidate(&key);
        None
    }

    /// Remembers `error` for `ttl`, if it is upstream's answer that this is not to be had. Other
    /// failures pass, and the next request asks again.
    pub fn note(&self, scope: &Scope, what: Absent, error: &PullError, ttl: Duration) {
        // What is remembered was answered from memory: it must not renew itself for as long as
        // somebody asks.
        if error.is_absence() && self.get(scope, &what).is_none() {
            self.remember(scope, what, error, ttl);
        }
    }

    /// Remembers `error` for `ttl`, whatever it is.
    pub fn remember(&self, scope: &Scope, what: Absent, error: &PullError, ttl: Duration) {
        let until = self.clock.now().plus(ttl);
        self.known.insert((scope.clone(), what), (until, error.clone()));
    }

    /// It is there after all.
    pub fn forget(&self, scope: &Scope, what: &Absent) {
        self.known.invalidate(&(scope.clone(), what.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Tag;

    fn scope() -> Scope {
        Scope { upstream: "docker.io".parse().unwrap(), repo: "library/a".parse().unwrap() }
    }

    fn tag(tag: &str) -> Absent {
        let tag: Tag = tag.parse().unwrap();
        Absent::Manifest(Reference::Tag(tag))
    }

    #[test]
    fn an_absence_is_known_until_its_time_is_up_or_it_is_forgotten() {
        let clock = Clock::manual(Timestamp::from_unix_ms(0));
        let absences = Absences::new(clock.clone());
        let ttl = Duration::from_secs(10);
        absences.note(&scope(), tag("a"), &PullError::ManifestUnknown, ttl);
        absences.note(&scope(), tag("b"), &PullError::ManifestUnknown, ttl);
        absences.forget(&scope(), &tag("b"));
        clock.advance(Duration::from_secs(9));
        assert!(absences.get(&scope(), &tag("a")).is_some());
        assert!(absences.get(&scope(), &tag("b")).is_none());
        clock.advance(Duration::from_secs(1));
        assert!(absences.get(&scope(), &tag("a")).is_none());
    }

    #[test]
    fn asking_again_does_not_prolong_an_absence() {
        let clock = Clock::manual(Timestamp::from_unix_ms(0));
        let absences = Absences::new(clock.clone());
        for _ in 0..3 {
            absences.note(&scope(), tag("a"), &PullError::ManifestUnknown, Duration::from_secs(10));
            clock.advance(Duration::from_secs(4));
        }
        assert!(absences.get(&scope(), &tag("a")).is_none(), "12 s have passed");
    }

    #[test]
    fn a_failure_is_no_absence() {
        let absences = Absences::new(Clock::manual(Timestamp::from_unix_ms(0)));
        absences.note(&scope(), tag("a"), &PullError::TimedOut, Duration::from_secs(10));
        assert!(absences.get(&scope(), &tag("a")).is_none());
    }
}
