//! Spools that can be found again: who writes to which, and which of them wait.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Shared;
use super::files::{SPOOL_MODE, file_names};
use super::ledger::{Lease, allocated, punch};
use super::sidecar::{self, Pair};
use crate::clock::Timestamp;
use crate::spans::Spans;
use crate::store::StoreError;
use crate::store::blob::{Parked, Recorded, SpoolKey};

/// Spools that wait to be continued; beyond them the oldest goes.
pub(super) const PARKED_SPOOLS_MAX: usize = 1024;

/// The keyed spools of a store.
#[derive(Debug, Default)]
pub(super) struct Spools(Mutex<HashMap<SpoolKey, Slot>>);

#[derive(Debug)]
enum Slot {
    /// Somebody writes to it, or is removing it: its files are nobody else's.
    InUse,
    Parked(Waiting),
}

/// A spool that nobody writes to.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) pair: Pair,
    pub(super) lease: Arc<Lease>,
    pub(super) recorded: Recorded,
    pub(super) since: Timestamp,
    /// What was not recorded is still there: somebody read it when the spool was parked.
    pub(super) untrimmed: bool,
}

/// The right to write to the spool of a key. Its end makes the key free.
#[derive(Debug)]
pub(super) struct Claim {
    shared: Arc<Shared>,
    key: SpoolKey,
    parked: bool,
}

impl Claim {
    /// The right to the spool of `key`, with what waits there; `None` while somebody has it.
    pub(super) fn of(shared: &Arc<Shared>, key: &SpoolKey) -> Option<(Self, Option<Waiting>)> {
        let waiting = match shared.spools.lock().insert(key.clone(), Slot::InUse) {
            Some(Slot::InUse) => return None,
            Some(Slot::Parked(waiting)) => Some(waiting),
            None => None,
        };
        Some((Self { shared: Arc::clone(shared), key: key.clone(), parked: false }, waiting))
    }

    /// Leaves the spool for later.
    pub(super) fn park(mut self, waiting: Waiting) {
        self.parked = true;
        let mut slots = self.shared.spools.lock();
        slots.insert(self.key.clone(), Slot::Parked(waiting));
        let waits = |(key, slot): (&SpoolKey, &Slot)| match slot {
            Slot::Parked(waiting) => Some((waiting.since, key.clone())),
            Slot::InUse => None,
        };
        let mut all: Vec<_> = slots.iter().filter_map(waits).collect();
        drop(slots);
        if all.len() > PARKED_SPOOLS_MAX {
            all.sort_unstable();
            self.shared.remove_parked(&all[0].1);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.parked {
            self.shared.spools.lock().remove(&self.key);
        }
    }
}

impl Spools {
    /// Those that were found at the start.
    pub(super) fn found(found: Vec<Found>, hold: impl Fn(u64) -> Arc<Lease>) -> Self {
        let waiting = found.into_iter().map(|found| {
            let Found { key, pair, recorded, since, allocated } = found;
            // A crash gave nothing back.
            let lease = hold(allocated);
            (key, Slot::Parked(Waiting { pair, lease, recorded, since, untrimmed: true }))
        });
        Self(Mutex::new(waiting.collect()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SpoolKey, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What those that wait take, in bytes.
    pub(super) fn parked_bytes(&self) -> u64 {
        let slots = self.lock();
        let bytes = slots.values().map(|slot| match slot {
            Slot::Parked(waiting) => waiting.lease.bytes(),
            Slot::InUse => 0,
        });
        bytes.fold(0, u64::saturating_add)
    }

    /// Those that wait, the oldest first, and whether they can be trimmed. Without their leases,
    /// whose holders are counted.
    fn waiting(&self) -> Vec<(Parked, bool)> {
        let slots = self.lock();
        let waits = |(key, slot): (&SpoolKey, &Slot)| match slot {
            Slot::Parked(waiting) => {
                let parked = Parked {
                    key: key.clone(),
                    allocated: waiting.lease.bytes(),
                    recorded: waiting.recorded.clone(),
                    since: waiting.since,
                };
                let readers = Arc::strong_count(&waiting.lease) > 1;
                Some((parked, waiting.untrimmed && !readers))
            }
            Slot::InUse => None,
        };
        let mut waiting: Vec<_> = slots.iter().filter_map(waits).collect();
        drop(slots);
        waiting.sort_unstable_by(|(a, _), (b, _)| (a.since, &a.key).cmp(&(b.since, &b.key)));
        waiting
    }
}

impl Shared {
    /// See [`BlobStore::parked`](crate::store::BlobStore::parked). What could not be given back
    /// earlier is given back now.
    pub(super) fn parked(self: &Arc<Self>) -> Vec<Parked> {
        self.trim_parked();
        self.spools.waiting().into_iter().map(|(parked, _)| parked).collect()
    }

    /// Gives the space back that parked spools need not have, where nobody reads there any more.
    pub(super) fn trim_parked(self: &Arc<Self>) {
        for (parked, can_be_trimmed) in self.spools.waiting() {
            if !can_be_trimmed {
                continue;
            }
            if let Some((claim, Some(mut waiting))) = Claim::of(self, &parked.key) {
                match OpenOptions::new().read(true).write(true).open(&waiting.pair.part) {
                    Ok(file) => waiting.trim(&file),
                    Err(error) => tracing::debug!(%error, "a parked spool cannot be trimmed"),
                }
                claim.park(waiting);
            }
        }
    }

    /// Removes a parked spool; how many bytes that freed.
    pub(super) fn remove_parked(self: &Arc<Self>, key: &SpoolKey) -> u64 {
        let Some((_claim, Some(waiting))) = Claim::of(self, key) else { return 0 };
        waiting.pair.remove();
        // Who still reads it gives the space back later.
        if Arc::strong_count(&waiting.lease) == 1 { waiting.lease.bytes() } else { 0 }
    }
}

impl Waiting {
    /// Gives back what is not recorded, unless somebody reads it, and counts what is left.
    pub(super) fn trim(&mut self, file: &File) {
        self.untrimmed = Arc::strong_count(&self.lease) > 1;
        if !self.untrimmed
            && let Err(error) = give_back(file, &self.recorded.landed)
        {
            tracing::debug!(%error, "the disk keeps what a parked spool does not need");
        }
        match (file.metadata(), fs::symlink_metadata(&self.pair.state)) {
            (Ok(data), Ok(state)) => {
                self.lease.settle(allocated(&data).saturating_add(allocated(&state)));
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(%error, "what a parked spool takes is not known anew");
            }
        }
    }

    /// The file and what is in it, if it is of use: the disk decides, not what was known of it.
    pub(super) fn reopen(&self, key: &SpoolKey) -> Result<(File, Recorded), &'static str> {
        let found = look_at(&self.pair.part, &self.pair.state)?;
        if found.key != *key {
            return Err("of another blob");
        }
        let file = OpenOptions::new().read(true).write(true).open(&self.pair.part);
        Ok((file.map_err(|_| "not readable")?, found.recorded))
    }
}

/// Frees the blocks of everything but `landed`. Cutting the file where it ends also frees what was
/// set aside beyond.
fn give_back(file: &File, landed: &Spans) -> io::Result<()> {
    let mut behind = 0;
    for span in landed.iter() {
        punch(file, behind..span.start)?;
        behind = span.end;
    }
    file.set_len(behind)
}

/// A spool that an earlier process left.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: SpoolKey,
    pub(super) pair: Pair,
    pub(super) recorded: Recorded,
    pub(super) since: Timestamp,
    pub(super) allocated: u64,
}

/// What an earlier process left in `dir`: the spools that can be continued, and the first number
/// that was never given. Everything else is removed.
pub(super) fn sort_out(dir: &Path) -> Result<(Vec<Found>, u64), StoreError> {
    let names = file_names(dir)?;
    let numbers = names.iter().filter_map(|name| sidecar::number_of(name));
    // One that nobody gave must not be the end of all numbers.
    let next = numbers.max().map_or(0, |number| number.wrapping_add(1));
    let mut useless: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut found: HashMap<SpoolKey, Found> = HashMap::new();
    for name in names.iter().filter(|name| sidecar::is_state(name)) {
        let state = dir.join(name);
        match look_at(&state.with_extension("part"), &state) {
            Ok(spool) => {
                // Two of one key: a removal failed. The later one has more.
                let earlier = found.remove(&spool.key);
                if earlier.is_some() {
                    *useless.entry("replaced").or_default() += 1;
                }
                let later = match earlier {
                    Some(earlier) if earlier.since > spool.since => earlier,
                    _ => spool,
                };
                found.insert(later.key.clone(), later);
            }
            Err(why) => *useless.entry(why).or_default() += 1,
        }
    }
    let mut found: Vec<Found> = found.into_values().collect();
    found.sort_unstable_by_key(|found| std::cmp::Reverse(found.since));
    if found.len() > PARKED_SPOOLS_MAX {
        *useless.entry("too many").or_default() += found.len() - PARKED_SPOOLS_MAX;
        found.truncate(PARKED_SPOOLS_MAX);
    }
    let kept: HashSet<&Path> =
        found.iter().flat_map(|found| [found.pair.part.as_path(), &found.pair.state]).collect();
    let mut removed = 0;
    for name in &names {
        let path = dir.join(name);
        if kept.contains(path.as_path()) {
            continue;
        }
        match fs::remove_file(&path) {
            Ok(()) => removed += 1,
            Err(cause) => {
                tracing::warn!(path = %path.display(), error = %cause, "a stale file stays in the spool");
            }
        }
    }
    if !names.is_empty() {
        tracing::info!(
            continued = found.len(),
            removed,
            useless = ?useless,
            "sorted out what an earlier run left in the spool"
        );
    }
    Ok((found, next))
}

/// The spool of these two files, or why it is of no use.
fn look_at(part: &Path, state: &Path) -> Result<Found, &'static str> {
    let (key, recorded) = sidecar::read(state)?;
    let dir = state.parent().ok_or("foreign")?;
    let name = state.file_name().and_then(|name| name.to_str()).ok_or("foreign")?;
    let pair = Pair::new(dir, &key, sidecar::number_of(name).ok_or("foreign")?);
    if pair.part != part || pair.state != state {
        return Err("foreign");
    }
    let described = fs::symlink_metadata(state).map_err(|_| "not readable")?;
    let data = fs::symlink_metadata(part).map_err(|_| "without data")?;
    if !data.is_file() {
        return Err("foreign");
    }
    if recorded.landed.is_empty() || data.len() < recorded.landed.end() {
        return Err("short");
    }
    if data.mode() & 0o777 != SPOOL_MODE {
        // A commit had begun.
        fs::set_permissions(part, Permissions::from_mode(SPOOL_MODE)).map_err(|_| "not ours")?;
    }
    Ok(Found {
        key,
        pair,
        recorded,
        since: modified(&described),
        allocated: allocated(&data).saturating_add(allocated(&described)),
    })
}

/// When a file was last written to.
pub(super) fn modified(metadata: &fs::Metadata) -> Timestamp {
    let ms =
        metadata.mtime().saturating_mul(1000).saturating_add(metadata.mtime_nsec() / 1_000_000);
    Timestamp::from_unix_ms(u64::try_from(ms).unwrap_or(0))
}
