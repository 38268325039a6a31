//! What was found out about content: by scanners, signature checks and other plugins.
//!
//! A fact is stated under the name of the mount that states it, so no plugin can speak for another
//! one. Facts are a cache: they are bounded, and gone with the process.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::ops::compute::Op;
use moka::sync::Cache;

use crate::clock::{Clock, Timestamp};
use crate::oci::Digest;

/// Memory for facts, in bytes.
pub const FACTS_BYTES_MAX: u64 = 16 << 20;

/// The most facts about one digest.
pub const FACTS_PER_DIGEST_MAX: usize = 32;

/// The longest fact, in bytes of JSON.
pub const FACT_BYTES_MAX: usize = 16 << 10;

/// The longest name of a fact, in bytes.
pub const FACT_NAME_BYTES_MAX: usize = 128;

/// What an entry costs beside its text, in bytes.
const ENTRY_OVERHEAD_BYTES: usize = 256;

/// Something that somebody found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Who says so: the mount's name.
    pub source: Arc<str>,
    /// What it is about.
    pub name: String,
    /// What was found out, as JSON.
    pub json: String,
    /// Since when it is known.
    pub at: Timestamp,
    /// Until when it counts; forever, if it does not say.
    pub until: Option<Timestamp>,
}

/// Why a fact was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FactError {
    /// Its name is empty, too long or holds control characters.
    #[error("a fact's name is 1 to {FACT_NAME_BYTES_MAX} bytes without control characters")]
    Name,
    /// It is not JSON, or too long.
    #[error("a fact is JSON of at most {FACT_BYTES_MAX} bytes")]
    Json,
    /// There are too many about this digest.
    #[error("there are {FACTS_PER_DIGEST_MAX} facts about this digest already")]
    Many,
}

/// Facts by digest. Cheap to clone; clones share them. Nothing here blocks.
#[derive(Clone)]
pub struct Facts {
    by_digest: Cache<Digest, Arc<About>>,
    /// Rises with each change of any fact.
    changes: Arc<AtomicU64>,
    clock: Clock,
}

#[derive(Debug)]
struct About {
    /// Which change was the latest one of this digest.
    change: u64,
    facts: Vec<Fact>,
}

impl Facts {
    /// No facts yet.
    pub fn new(clock: Clock) -> Self {
        let weight = |_: &Digest, about: &Arc<About>| {
            let text = |fact: &Fact| fact.name.len() + fact.json.len() + ENTRY_OVERHEAD_BYTES;
            let bytes = ENTRY_OVERHEAD_BYTES + about.facts.iter().map(text).sum::<usize>();
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let by_digest =
            Cache::builder().name("facts").max_capacity(FACTS_BYTES_MAX).weigher(weight).build();
        Self { by_digest, changes: Arc::default(), clock }
    }

    /// What is known of a digest; of one name only, if one is given.
    pub fn about(&self, digest: &Digest, name: Option<&str>) -> Vec<Fact> {
        let now = self.clock.now();
        let counts = |fact: &&Fact| {
            name.is_none_or(|name| fact.name == name) && fact.until.is_none_or(|end| now < end)
        };
        self.by_digest
            .get(digest)
            .map_or_else(Vec::new, |about| about.facts.iter().filter(counts).cloned().collect())
    }

    /// States a fact in the name of `source`. It replaces what the same source said under this
    /// name.
    ///
    /// # Errors
    /// When it does not fit; see [`FactError`].
    pub fn state(
        &self,
        source: &str,
        digest: &Digest,
        name: &str,
        json: &str,
        ttl: Option<Duration>,
    ) -> Result<(), FactError> {
        if name.is_empty() || name.len() > FACT_NAME_BYTES_MAX || name.chars().any(char::is_control)
        {
            return Err(FactError::Name);
        }
        if json.len() > FACT_BYTES_MAX
            || serde_json::from_str::<serde::de::IgnoredAny>(json).is_err()
        {
            return Err(FactError::Json);
        }
        let at = self.clock.now();
        let fact = Fact {
            source: source.into(),
            name: name.to_owned(),
            json: json.to_owned(),
            at,
            until: ttl.map(|ttl| at.plus(ttl)),
        };
        let mut full = false;
        self.by_digest.entry(*digest).and_compute_with(|entry| {
            let mut facts = entry.map_or_else(Vec::new, |entry| entry.into_value().facts.clone());
            facts.retain(|old| {
                (&*old.source, &*old.name) != (source, name) && old.until.is_none_or(|end| at < end)
            });
            if facts.len() >= FACTS_PER_DIGEST_MAX {
                full = true;
                return Op::Nop;
            }
            facts.push(fact);
            let change = self.changes.fetch_add(1, Ordering::SeqCst) + 1;
            Op::Put(Arc::new(About { change, facts }))
        });
        if full { Err(FactError::Many) } else { Ok(()) }
    }

    /// The latest change of the facts about a digest (of any, where none is known), and when the
    /// first of those that count now ends. Equal marks mean equal facts until then.
    pub fn mark(&self, digest: Option<&Digest>) -> (u64, Option<Timestamp>) {
        let Some(digest) = digest else { return (self.changes.load(Ordering::SeqCst), None) };
        let Some(about) = self.by_digest.get(digest) else { return (0, None) };
        let now = self.clock.now();
        let ends = about.facts.iter().filter_map(|fact| fact.until).filter(|end| now < *end);
        (about.change, ends.min())
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Facts").field("digests", &self.by_digest.entry_count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> (Facts, Clock) {
        let clock = Clock::manual(Timestamp::from_unix_ms(0));
        (Facts::new(clock.clone()), clock)
    }

    #[test]
    fn each_source_speaks_for_itself() {
        let (facts, _) = facts();
        let digest = Digest::sha256(b"a");
        facts.state("scan", &digest, "report", "1", None).unwrap();
        facts.state("sign", &digest, "report", "2", None).unwrap();
        facts.state("scan", &digest, "report", "3", None).unwrap();
        facts.state("scan", &digest, "other", "4", None).unwrap();
        let said = |name| {
            let mut said: Vec<(String, String)> = facts
                .about(&digest, name)
                .into_iter()
                .map(|fact| (fact.source.to_string(), fact.json))
                .collect();
            said.sort();
            said
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(said(Some("report")), [pair("scan", "3"), pair("sign", "2")]);
        assert_eq!(said(None).len(), 3);
        assert!(facts.about(&Digest::sha256(b"b"), None).is_empty());
    }

    #[test]
    fn facts_end_and_every_change_shows() {
        let (facts, clock) = facts();
        let (one, other) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        assert_eq!(facts.mark(Some(&one)), (0, None));
        facts.state("s", &one, "n", "1", Some(Duration::from_millis(10))).unwrap();
        let (change, until) = facts.mark(Some(&one));
        assert_eq!(until, Some(Timestamp::from_unix_ms(10)));
        let any = facts.mark(None);
        facts.state("s", &other, "n", "1", None).unwrap();
        assert_eq!(facts.mark(Some(&one)).0, change);
        assert_ne!(facts.mark(None), any);
        facts.state("s", &one, "n", "1", None).unwrap();
        assert_ne!(facts.mark(Some(&one)).0, change);
        facts.state("s", &one, "n", "1", Some(Duration::from_millis(10))).unwrap();
        clock.advance(Duration::from_millis(10));
        assert!(facts.about(&one, None).is_empty());
    }

    #[test]
    fn facts_are_bounded() {
        let (facts, _) = facts();
        let digest = Digest::sha256(b"a");
        let long = format!("\"{}\"", "a".repeat(FACT_BYTES_MAX));
        let state = |name: &str, json: &str| facts.state("s", &digest, name, json, None);
        assert_eq!(state("n", &long), Err(FactError::Json));
        assert_eq!(state("n", "{"), Err(FactError::Json));
        assert_eq!(state("", "1"), Err(FactError::Name));
        assert_eq!(state("a\n", "1"), Err(FactError::Name));
        for n in 0..FACTS_PER_DIGEST_MAX {
            state(&n.to_string(), "1").unwrap();
        }
        assert_eq!(state("more", "1"), Err(FactError::Many));
        assert_eq!(state("0", "2"), Ok(()));
    }
}
