//! Blobs in memory: for tests, and for a Pierhead that is to leave nothing behind.

mod sparse;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;

use self::sparse::Sparse;
use super::{
    Blob, BlobStore, Evicted, Expect, Parked, ReadAt, Recorded, Recorder, RoomUse, Spool, SpoolKey,
    check_len,
};
use crate::clock::{Clock, Timestamp};
use crate::oci::{Digest, Verified};
use crate::spans::Spans;
use crate::store::{StoreError, StoreErrorKind};

/// Content that is in memory whole.
#[derive(Clone)]
pub struct InMemory(Bytes);

impl InMemory {
    /// A reader of `bytes`.
    pub const fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemory").field("len", &self.0.len()).finish()
    }
}

#[async_trait]
impl ReadAt for InMemory {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        Ok(self.0.slice(clamp(self.0.len(), offset, len)))
    }

    fn mapped(&self, range: Range<u64>) -> Option<Bytes> {
        let start = usize::try_from(range.start).ok()?;
        let end = usize::try_from(range.end).ok()?;
        (start <= end && end <= self.0.len()).then(|| self.0.slice(start..end))
    }
}

/// The part of `len` bytes at `offset` that lies within `total` bytes.
fn clamp(total: usize, offset: u64, len: usize) -> Range<usize> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(total);
    start..start.saturating_add(len).min(total)
}

/// A [`BlobStore`] in memory. Cheap to clone; clones share the blobs.
#[derive(Clone, Debug)]
pub struct MemoryBlobs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    bytes_max: u64,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<Digest, Bytes>,
    /// Bytes in blobs and spools, reserved ones included.
    used: u64,
    spools: BTreeMap<SpoolKey, Slot>,
    /// How many crashes there were. What is of an earlier life touches nothing here.
    life: u64,
}

/// What is known of the spool of a key.
#[derive(Debug)]
enum Slot {
    /// Somebody writes to it, and this is what would survive.
    InUse(Arc<MemoryRecorder>),
    Parked(Kept),
}

/// What of a spool survives.
#[derive(Clone, Debug, Default)]
struct Kept {
    recorded: Recorded,
    content: Sparse,
    since: Option<Timestamp>,
}

impl Kept {
    fn bytes(&self) -> u64 {
        self.recorded.landed.len()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("blobs", &self.blobs.len())
            .field("spools", &self.spools.len())
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl MemoryBlobs {
    /// An empty store that takes at most `bytes_max` bytes, spools included; beyond that it is
    /// out of space.
    pub fn new(bytes_max: u64) -> Self {
        Self::with_clock(bytes_max, Clock::system())
    }

    /// The same, in which time is `clock`'s.
    pub fn with_clock(bytes_max: u64, clock: Clock) -> Self {
        Self(Arc::new(Shared { bytes_max, clock, state: Mutex::default() }))
    }

    /// Bytes in blobs and spools.
    pub fn used(&self) -> u64 {
        self.0.lock().used
    }

    /// Loses what a crash of the process loses: everything that was neither committed nor
    /// recorded. For simulations. Spools of before stay readable, and every write, record and
    /// commit of theirs fails.
    pub fn crash(&self) {
        let mut state = self.0.lock();
        state.life += 1;
        for (key, slot) in std::mem::take(&mut state.spools) {
            let kept = match slot {
                Slot::InUse(recorder) => recorder.kept(),
                Slot::Parked(kept) => kept,
            };
            if !kept.recorded.landed.is_empty() {
                state.spools.insert(key, Slot::Parked(kept));
            }
        }
        let stored = state.blobs.values().map(|bytes| bytes.len() as u64);
        let parked = state.spools.values().map(|slot| match slot {
            Slot::Parked(kept) => kept.bytes(),
            Slot::InUse(_) => 0,
        });
        state.used = stored.chain(parked).sum();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes `bytes` for a spool of that life.
    fn reserve(&self, life: u64, bytes: u64) -> io::Result<()> {
        let mut state = self.lock();
        if state.life != life {
            return Err(lost());
        }
        let used = state.used.saturating_add(bytes);
        if used > self.bytes_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.used = used;
        Ok(())
    }

    /// A spool of `key`, with what it has kept.
    fn spool(
        self: &Arc<Self>,
        life: u64,
        keyed: Option<(SpoolKey, Arc<MemoryRecorder>)>,
        kept: Kept,
        expect: Expect,
    ) -> Result<MemorySpool, StoreError> {
        let content = match &keyed {
            Some((_, recorder)) => Arc::clone(&recorder.content),
            None => Arc::new(Mutex::new(Content::Growing(Sparse::default()))),
        };
        let mut spool = MemorySpool {
            shared: Arc::clone(self),
            life,
            content,
            reserved: kept.bytes(),
            claimed: kept.recorded.landed.clone(),
            recorded: kept.recorded,
            keyed,
            keep: true,
        };
        if let Expect::Whole(Some(size)) = expect {
            spool.expect_whole(size).map_err(|cause| StoreError::io("reserve memory", cause))?;
        }
        Ok(spool)
    }
}

/// What a spool of before a crash is told.
fn lost() -> io::Error {
    io::Error::other("the store was lost in a crash")
}

#[async_trait]
impl BlobStore for MemoryBlobs {
    async fn open(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        Ok(self.0.lock().blobs.get(digest).map(|bytes| blob(*digest, bytes.clone())))
    }

    async fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.0.lock().blobs.contains_key(digest))
    }

    async fn spool(&self, size_hint: Option<u64>) -> Result<Box<dyn Spool>, StoreError> {
        let life = self.0.lock().life;
        let expect = Expect::Whole(size_hint);
        Ok(Box::new(self.0.spool(life, None, Kept::default(), expect)?))
    }

    async fn resume(&self, key: &SpoolKey, expect: Expect) -> Result<Box<dyn Spool>, StoreError> {
        let (life, keyed, kept) = {
            let mut state = self.0.lock();
            let life = state.life;
            match state.spools.remove(key) {
                Some(Slot::InUse(recorder)) => {
                    state.spools.insert(key.clone(), Slot::InUse(recorder));
                    (life, None, Kept::default())
                }
                parked => {
                    let kept = match parked {
                        Some(Slot::Parked(kept)) => kept,
                        _ => Kept::default(),
                    };
                    let recorder = Arc::new(MemoryRecorder::new(&self.0, life, kept.clone()));
                    state.spools.insert(key.clone(), Slot::InUse(Arc::clone(&recorder)));
                    (life, Some((key.clone(), recorder)), kept)
                }
            }
        };
        // Where that fails it is parked again.
        Ok(Box::new(self.0.spool(life, keyed, kept, expect)?))
    }

    async fn parked(&self) -> Result<Vec<Parked>, StoreError> {
        let state = self.0.lock();
        let waits = |(key, slot): (&SpoolKey, &Slot)| match slot {
            Slot::InUse(_) => None,
            Slot::Parked(kept) => Some(Parked {
                key: key.clone(),
                allocated: kept.bytes(),
                recorded: kept.recorded.clone(),
                since: kept.since.unwrap_or(Timestamp::from_unix_ms(0)),
            }),
        };
        let mut parked: Vec<_> = state.spools.iter().filter_map(waits).collect();
        parked.sort_by_key(|parked| parked.since);
        Ok(parked)
    }

    async fn remove_parked(&self, key: &SpoolKey) -> Result<u64, StoreError> {
        let mut state = self.0.lock();
        let Some(Slot::Parked(kept)) = state.spools.get(key) else { return Ok(0) };
        let bytes = kept.bytes();
        state.spools.remove(key);
        state.used = state.used.saturating_sub(bytes);
        Ok(bytes)
    }

    /// Nobody can look into the memory of a process: out of sight is gone.
    async fn quarantine(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.remove(digest).await
    }

    async fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.evict(digest).await? != Evicted::Absent)
    }

    async fn evict(&self, digest: &Digest) -> Result<Evicted, StoreError> {
        let mut state = self.0.lock();
        let Some(bytes) = state.blobs.remove(digest) else { return Ok(Evicted::Absent) };
        let bytes = bytes.len() as u64;
        state.used = state.used.saturating_sub(bytes);
        Ok(Evicted::Freed(bytes))
    }

    async fn room(&self) -> Result<RoomUse, StoreError> {
        let state = self.0.lock();
        let stored: u64 = state.blobs.values().map(|bytes| bytes.len() as u64).sum();
        let parked = state.spools.values().map(|slot| match slot {
            Slot::Parked(kept) => kept.bytes(),
            Slot::InUse(_) => 0,
        });
        Ok(RoomUse {
            parked: parked.sum(),
            quarantined: 0,
            quarantined_files: 0,
            max: self.0.bytes_max,
            stored,
            reserved: state.used.saturating_sub(stored),
            others: 0,
            free_on_disk: u64::MAX,
            min_free: 0,
            available: self.0.bytes_max.saturating_sub(state.used),
            shortfall: 0,
        })
    }

    async fn list(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let state = self.0.lock();
        let blobs = state.blobs.range((from, Bound::Unbounded)).take(limit);
        Ok(blobs.map(|(digest, bytes)| (*digest, bytes.len() as u64)).collect())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        if self.used() < self.0.bytes_max {
            Ok(())
        } else {
            Err(StoreError::new(StoreErrorKind::NoSpace, "write to memory", None))
        }
    }
}

fn blob(digest: Digest, bytes: Bytes) -> Blob {
    Blob::new(digest, bytes.len() as u64, Arc::new(InMemory::new(bytes)))
}

/// What a spool and its readers share.
#[derive(Debug)]
enum Content {
    Growing(Sparse),
    Committed(Bytes),
}

impl Content {
    fn len(&self) -> u64 {
        match self {
            Self::Growing(sparse) => sparse.len(),
            Self::Committed(bytes) => bytes.len() as u64,
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        match self {
            Self::Growing(sparse) => sparse.read(offset, buffer),
            Self::Committed(bytes) => {
                let held = &bytes[clamp(bytes.len(), offset, buffer.len())];
                buffer[..held.len()].copy_from_slice(held);
                held.len()
            }
        }
    }
}

type Shareable = Arc<Mutex<Content>>;

fn locked(content: &Shareable) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers copies of what has landed.
#[derive(Debug)]
struct MemoryRecorder {
    shared: Weak<Shared>,
    life: u64,
    content: Shareable,
    /// `None` once the spool is gone.
    kept: Mutex<Option<Kept>>,
}

impl MemoryRecorder {
    fn new(shared: &Arc<Shared>, life: u64, kept: Kept) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            life,
            content: Arc::new(Mutex::new(Content::Growing(kept.content.clone()))),
            kept: Mutex::new(Some(kept)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> Kept {
        self.lock().clone().unwrap_or_default()
    }

    /// What was recorded; nothing more will be.
    fn close(&self) -> Kept {
        self.lock().take().unwrap_or_default()
    }
}

impl Recorder for MemoryRecorder {
    fn record(&self, recorded: &Recorded) -> io::Result<()> {
        let shared = self.shared.upgrade().ok_or_else(lost)?;
        // Also keeps a crash from coming between.
        let state = shared.lock();
        if state.life != self.life {
            return Err(lost());
        }
        let mut kept = self.lock();
        let kept = kept.as_mut().ok_or_else(|| io::Error::other("the spool is gone"))?;
        let content = locked(&self.content);
        let Content::Growing(sparse) = &*content else {
            return Err(io::Error::other("the spool was committed"));
        };
        let end = recorded.landed.end();
        if end > sparse.len() || recorded.size.is_some_and(|size| end > size) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has not been written"));
        }
        *kept = Kept {
            recorded: recorded.clone(),
            content: sparse.only(&recorded.landed),
            since: Some(shared.clock.now()),
        };
        Ok(())
    }
}

#[derive(Debug)]
struct MemorySpool {
    shared: Arc<Shared>,
    /// In which life of the store it was made.
    life: u64,
    content: Shareable,
    /// What this spool counts for in the store's use.
    reserved: u64,
    /// What was written.
    claimed: Spans,
    recorded: Recorded,
    keyed: Option<(SpoolKey, Arc<MemoryRecorder>)>,
    /// Whether what was recorded is to stay when this is dropped.
    keep: bool,
}

impl MemorySpool {
    fn reserve(&mut self, needed: u64) -> io::Result<()> {
        let more = needed.saturating_sub(self.reserved);
        self.shared.reserve(self.life, more)?;
        self.reserved += more;
        Ok(())
    }
}

impl Spool for MemorySpool {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = offset
            .checked_add(bytes.len() as u64)
            .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let more = end - offset - self.claimed.len_within(offset..end);
        self.reserve(self.claimed.len().saturating_add(more))?;
        self.claimed.insert(offset..end);
        match &mut *locked(&self.content) {
            Content::Growing(sparse) => sparse.write(offset, bytes),
            Content::Committed(_) => return Err(io::Error::other("the spool was committed")),
        }
        Ok(())
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(locked(&self.content).read(offset, buffer))
    }

    fn recorded(&self) -> &Recorded {
        &self.recorded
    }

    fn recorder(&self) -> Option<Arc<dyn Recorder>> {
        let (_, recorder) = self.keyed.as_ref()?;
        let recorder = Arc::clone(recorder);
        Some(recorder)
    }

    fn expect_whole(&mut self, size: u64) -> io::Result<()> {
        self.reserve(size)
    }

    fn reserved(&self) -> u64 {
        self.reserved
    }

    fn discard(mut self: Box<Self>) {
        self.keep = false;
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        Arc::new(SpoolReader(Arc::clone(&self.content)))
    }

    fn commit(mut self: Box<Self>, verified: Verified) -> Result<Blob, StoreError> {
        self.keep = false;
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if state.life != self.life {
            return Err(StoreError::io("store a blob", lost()));
        }
        let bytes = {
            let mut content = locked(&self.content);
            check_len(&verified, content.len())?;
            let bytes = match &mut *content {
                Content::Growing(sparse) => Bytes::from(std::mem::take(sparse).into_vec()),
                Content::Committed(bytes) => bytes.clone(),
            };
            *content = Content::Committed(bytes.clone());
            bytes
        };
        let kept = state.blobs.entry(*verified.digest()).or_insert_with(|| {
            // From here on the store counts it, not the spool.
            self.reserved = self.reserved.saturating_sub(bytes.len() as u64);
            bytes
        });
        Ok(blob(*verified.digest(), kept.clone()))
    }
}

impl Drop for MemorySpool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.life != self.life {
            return;
        }
        state.used = state.used.saturating_sub(self.reserved);
        if let Some((key, recorder)) = self.keyed.take() {
            state.spools.remove(&key);
            let kept = recorder.close();
            if self.keep && !kept.recorded.landed.is_empty() {
                state.used = state.used.saturating_add(kept.bytes());
                state.spools.insert(key, Slot::Parked(kept));
            }
        }
    }
}

#[derive(Debug)]
struct SpoolReader(Shareable);

#[async_trait]
impl ReadAt for SpoolReader {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let content = locked(&self.0);
        match &*content {
            Content::Growing(sparse) => {
                let left = sparse.len().saturating_sub(offset);
                let len = usize::try_from(left).map_or(len, |left| left.min(len));
                let mut buffer = vec![0; len];
                sparse.read(offset, &mut buffer);
                Ok(buffer.into())
            }
            Content::Committed(bytes) => Ok(bytes.slice(clamp(bytes.len(), offset, len))),
        }
    }
}

#[cfg(test)]
mod tests;
