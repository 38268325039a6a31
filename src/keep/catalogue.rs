//! What is stored, how it is used, and which manifest names what: in memory, written down in
//! batches.
//!
//! A pull only leaves a note in one of a few small tables; whoever looks at the catalogue settles
//! the notes first.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::policy::Use;
use crate::clock::{Clock, Timestamp};
use crate::oci::Digest;
use crate::scope::UpstreamName;
use crate::store::{UsageRecord, Uses};

/// Tables of notes, so that pulls rarely meet at one.
const NOTE_TABLES: usize = 16;

/// Digests that one table takes between two settlements; uses of further ones are not counted.
const NOTES_PER_TABLE_MAX: usize = 4096;

/// What is known of one stored blob.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// What it takes, in bytes.
    pub(super) bytes: u64,
    pub(super) used: Use,
    pub(super) stored_at: Timestamp,
    pub(super) upstream: Option<UpstreamName>,
    /// What it names, if it is a manifest.
    pub(super) parts: Option<Arc<[Digest]>>,
}

/// What has changed since the catalogue was last written down.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) usage: Vec<(Digest, UsageRecord)>,
    pub(super) parts: Vec<(Digest, Arc<[Digest]>)>,
    pub(super) gone: Vec<Digest>,
}

/// The catalogue. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Catalogue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    hasher: RandomState,
    notes: [Mutex<HashMap<Digest, u32>>; NOTE_TABLES],
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    known: HashMap<Digest, Known>,
    /// Said of blobs that are not stored yet: a manifest is parsed while it is being stored.
    expected: HashMap<Digest, Expected>,
    used: HashSet<Digest>,
    named: HashSet<Digest>,
    gone: HashSet<Digest>,
}

/// What was said of a blob before it was stored.
#[derive(Clone, Debug, Default)]
struct Expected {
    upstream: Option<UpstreamName>,
    parts: Option<Arc<[Digest]>>,
}

/// Blobs of which something may be said before they are stored; when there are more, all of it is
/// forgotten, and said again when they are used.
const EXPECTED_MAX: usize = 1024;

impl Catalogue {
    /// Of an empty store.
    pub(super) fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            clock,
            hasher: RandomState::new(),
            notes: std::array::from_fn(|_| Mutex::default()),
            table: Mutex::default(),
        }))
    }

    /// A blob of `bytes` is stored. What was known of it stays known.
    pub(super) fn stored(&self, digest: &Digest, bytes: u64) {
        let now = self.0.clock.now();
        let mut table = self.table();
        let expected = table.expected.remove(digest).unwrap_or_default();
        if expected.parts.is_some() {
            table.named.insert(*digest);
        }
        table.gone.remove(digest);
        table.used.insert(*digest);
        let known = table.known.entry(*digest).or_insert_with(|| Known {
            bytes,
            used: Use::first(now),
            stored_at: now,
            upstream: None,
            parts: None,
        });
        known.bytes = bytes;
        known.upstream = known.upstream.take().or(expected.upstream);
        known.parts = known.parts.take().or(expected.parts);
    }

    /// What an earlier process wrote down about a blob that is still stored.
    pub(super) fn remember(&self, digest: &Digest, record: &UsageRecord) {
        let mut table = self.table();
        if let Some(known) = table.known.get_mut(digest) {
            known.used = Use::persisted(record.last, record.heat);
            known.stored_at = record.stored_at;
            known.upstream.clone_from(&record.upstream);
            table.used.remove(digest);
        }
    }

    /// What an earlier process wrote down about a manifest that is still stored.
    pub(super) fn remember_parts(&self, manifest: &Digest, parts: Vec<Digest>) {
        if let Some(known) = self.table().known.get_mut(manifest) {
            known.parts = Some(parts.into());
        }
    }

    /// A blob is stored no more.
    pub(super) fn removed(&self, digest: &Digest) {
        let mut table = self.table();
        if table.known.remove(digest).is_some() {
            table.gone.insert(*digest);
            table.used.remove(digest);
            table.named.remove(digest);
        }
    }

    /// Counts the uses that were noted since the last time.
    pub(super) fn settle(&self) {
        let now = self.0.clock.now();
        for notes in &self.0.notes {
            let notes = std::mem::take(&mut *notes.lock().unwrap_or_else(PoisonError::into_inner));
            if notes.is_empty() {
                continue;
            }
            let mut table = self.table();
            for (digest, times) in notes {
                if let Some(known) = table.known.get_mut(&digest) {
                    known.used.again(now, times);
                    table.used.insert(digest);
                }
            }
        }
    }

    /// What is known of one blob.
    pub(super) fn get(&self, digest: &Digest) -> Option<Known> {
        self.table().known.get(digest).cloned()
    }

    /// A copy of all that is known, to be looked at without holding up pulls.
    pub(super) fn all(&self) -> HashMap<Digest, Known> {
        self.settle();
        self.table().known.clone()
    }

    /// How many blobs are stored, and how many of them are manifests.
    pub(super) fn counts(&self) -> (usize, usize) {
        let table = self.table();
        let manifests = table.known.values().filter(|known| known.parts.is_some()).count();
        (table.known.len(), manifests)
    }

    /// What has to be written down. To be put back with [`Catalogue::not_written`] if that fails.
    pub(super) fn changes(&self) -> Changes {
        self.settle();
        let mut table = self.table();
        let used = std::mem::take(&mut table.used);
        let named = std::mem::take(&mut table.named);
        let gone = std::mem::take(&mut table.gone);
        let usage = used.into_iter().filter_map(|digest| {
            let known = table.known.get(&digest)?;
            let record = UsageRecord {
                last: known.used.last(),
                heat: known.used.heat(),
                stored_at: known.stored_at,
                upstream: known.upstream.clone(),
            };
            Some((digest, record))
        });
        let usage = usage.collect();
        let parts = named
            .into_iter()
            .filter_map(|digest| Some((digest, table.known.get(&digest)?.parts.clone()?)))
            .collect();
        Changes { usage, parts, gone: gone.into_iter().collect() }
    }

    /// What was written down is lost: all of it is due again.
    pub(super) fn all_lost(&self) {
        let mut guard = self.table();
        let Table { known, used, named, .. } = &mut *guard;
        used.extend(known.keys());
        named.extend(known.iter().filter(|(_, known)| known.parts.is_some()).map(|(d, _)| *d));
    }

    /// Blobs of at most `bytes` that are not known to be manifests.
    pub(super) fn unnamed(&self, bytes: u64) -> Vec<Digest> {
        let table = self.table();
        let unnamed = |known: &Known| known.parts.is_none() && known.bytes <= bytes;
        table.known.iter().filter(|(_, known)| unnamed(known)).map(|(d, _)| *d).collect()
    }

    /// These changes could not be written: they are due again.
    pub(super) fn not_written(&self, changes: &Changes) {
        let mut table = self.table();
        table.used.extend(changes.usage.iter().map(|(digest, _)| *digest));
        table.named.extend(changes.parts.iter().map(|(digest, _)| *digest));
        for digest in &changes.gone {
            if !table.known.contains_key(digest) {
                table.gone.insert(*digest);
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uses for Catalogue {
    fn used(&self, digest: &Digest) {
        let table = self.0.hasher.hash_one(digest) as usize % NOTE_TABLES;
        let mut notes = self.0.notes[table].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = notes.get_mut(digest) {
            *times = times.saturating_add(1);
        } else if notes.len() < NOTES_PER_TABLE_MAX {
            notes.insert(*digest, 1);
        }
    }

    fn came_from(&self, digest: &Digest, upstream: &UpstreamName) {
        let mut table = self.table();
        match table.known.get_mut(digest) {
            // The first one that brought it counts.
            Some(known) if known.upstream.is_some() => {}
            Some(known) => {
                known.upstream = Some(upstream.clone());
                table.used.insert(*digest);
            }
            None => table.expect(digest).upstream = Some(upstream.clone()),
        }
    }

    fn names(&self, manifest: &Digest, parts: Vec<Digest>) {
        let mut table = self.table();
        match table.known.get_mut(manifest) {
            // It never changes.
            Some(known) if known.parts.is_some() => {}
            Some(known) => {
                known.parts = Some(parts.into());
                table.named.insert(*manifest);
            }
            None => table.expect(manifest).parts = Some(parts.into()),
        }
    }
}

impl Table {
    fn expect(&mut self, digest: &Digest) -> &mut Expected {
        if self.expected.len() >= EXPECTED_MAX {
            self.expected.clear();
        }
        self.expected.entry(*digest).or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn digest(n: u32) -> Digest {
        Digest::sha256(&n.to_le_bytes())
    }

    fn catalogue() -> (Clock, Catalogue) {
        let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000));
        (clock.clone(), Catalogue::new(clock))
    }

    #[test]
    fn uses_are_noted_counted_and_written_down_once() {
        let (clock, catalogue) = catalogue();
        catalogue.stored(&digest(1), 10);
        assert_eq!(catalogue.changes().usage.len(), 1);
        assert!(catalogue.changes().usage.is_empty());
        clock.advance(Duration::from_secs(60));
        catalogue.used(&digest(1));
        catalogue.used(&digest(1));
        catalogue.used(&digest(2));
        let changes = catalogue.changes();
        let [(of, record)] = &changes.usage[..] else { panic!("{changes:?}") };
        assert_eq!((*of, record.last), (digest(1), clock.now()));
        assert!(record.heat > 2.5, "{record:?}");
        catalogue.not_written(&changes);
        assert_eq!(catalogue.changes().usage, changes.usage);
    }

    #[test]
    fn what_is_said_before_a_blob_is_stored_counts_when_it_is() {
        let (_, catalogue) = catalogue();
        catalogue.names(&digest(1), vec![digest(2)]);
        catalogue.came_from(&digest(1), &"ghcr.io".parse().unwrap());
        assert!(catalogue.get(&digest(1)).is_none());
        catalogue.stored(&digest(1), 10);
        catalogue.came_from(&digest(1), &"quay.io".parse().unwrap());
        let known = catalogue.get(&digest(1)).unwrap();
        assert_eq!(known.upstream.unwrap().as_str(), "ghcr.io");
        assert_eq!(known.parts.unwrap()[..], [digest(2)]);
        let changes = catalogue.changes();
        assert_eq!((changes.usage.len(), changes.parts.len()), (1, 1));
        for n in 10..10 + 3 * EXPECTED_MAX as u32 {
            catalogue.names(&digest(n), Vec::new());
        }
        assert!(catalogue.table().expected.len() <= EXPECTED_MAX);
    }

    #[test]
    fn what_is_gone_is_forgotten_unless_it_came_back() {
        let (_, catalogue) = catalogue();
        for n in [1, 2] {
            catalogue.stored(&digest(n), 10);
        }
        catalogue.changes();
        catalogue.removed(&digest(1));
        catalogue.removed(&digest(2));
        catalogue.removed(&digest(3));
        catalogue.stored(&digest(2), 10);
        let changes = catalogue.changes();
        assert_eq!(changes.gone, [digest(1)]);
        assert_eq!(changes.usage.len(), 1);
        catalogue.stored(&digest(1), 10);
        catalogue.not_written(&changes);
        assert!(catalogue.changes().gone.is_empty());
    }

    #[test]
    fn what_was_written_down_is_known_again() {
        let (clock, catalogue) = catalogue();
        catalogue.stored(&digest(1), 10);
        let record = UsageRecord {
            last: Timestamp::from_unix_ms(5),
            heat: 7.0,
            stored_at: Timestamp::from_unix_ms(3),
            upstream: Some("ghcr.io".parse().unwrap()),
        };
        catalogue.remember(&digest(1), &record);
        catalogue.remember(&digest(2), &record);
        catalogue.remember_parts(&digest(1), vec![digest(2)]);
        let all = catalogue.all();
        let known = &all[&digest(1)];
        assert_eq!(
            (all.len(), known.used.last(), known.stored_at),
            (1, record.last, record.stored_at)
        );
        assert_eq!(catalogue.counts(), (1, 1));
        assert!(clock.now() > known.stored_at);
        assert!(catalogue.changes().usage.is_empty(), "nothing of it is news");
    }

    #[test]
    fn notes_are_bounded() {
        let (_, catalogue) = catalogue();
        for n in 0..2 * (NOTE_TABLES * NOTES_PER_TABLE_MAX) as u32 {
            catalogue.used(&digest(n));
        }
        for notes in &catalogue.0.notes {
            assert!(notes.lock().unwrap().len() <= NOTES_PER_TABLE_MAX);
        }
    }
}
