//! Blobs in memory: for tests, and for a Pierhead that is to leave nothing behind.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Blob, BlobStore, Evicted, Expect, Parked, ReadAt, Recorded, Recorder, RoomUse, Spool, SpoolKey,
    check_len,
};
use crate::oci::{Digest, Verified};
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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blobs: BTreeMap<Digest, Bytes>,
    /// Bytes in blobs and spools.
    used: u64,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("blobs", &self.blobs.len()).field("used", &self.used).finish()
    }
}

impl MemoryBlobs {
    /// An empty store that takes at most `bytes_max` bytes, spools included; beyond that it is
    /// out of space.
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Shared { bytes_max, state: Mutex::default() }))
    }

    /// Bytes in blobs and spools.
    pub fn used(&self) -> u64 {
        self.0.lock().used
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.lock();
        let used = state.used.saturating_add(bytes);
        if used > self.bytes_max {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.used = used;
        Ok(())
    }

    fn release(&self, bytes: u64) {
        let mut state = self.lock();
        state.used = state.used.saturating_sub(bytes);
    }
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
        let reserved = size_hint.unwrap_or(0);
        self.0.reserve(reserved).map_err(|cause| StoreError::io("reserve memory", cause))?;
        Ok(Box::new(MemorySpool {
            shared: Arc::clone(&self.0),
            content: Arc::new(Mutex::new(Content::Growing(Vec::new()))),
            reserved,
            recorded: Recorded::default(),
        }))
    }

    async fn resume(&self, _key: &SpoolKey, expect: Expect) -> Result<Box<dyn Spool>, StoreError> {
        match expect {
            Expect::Whole(size) => self.spool(size).await,
            Expect::Parts => self.spool(None).await,
        }
    }

    async fn parked(&self) -> Result<Vec<Parked>, StoreError> {
        Ok(Vec::new())
    }

    async fn remove_parked(&self, _key: &SpoolKey) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn quarantine(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.remove(digest).await
    }

    async fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        let removed = self.0.lock().blobs.remove(digest);
        if let Some(bytes) = &removed {
            self.0.release(bytes.len() as u64);
        }
        Ok(removed.is_some())
    }

    async fn evict(&self, digest: &Digest) -> Result<Evicted, StoreError> {
        let removed = self.0.lock().blobs.remove(digest);
        Ok(removed.map_or(Evicted::Absent, |bytes| {
            self.0.release(bytes.len() as u64);
            Evicted::Freed(bytes.len() as u64)
        }))
    }

    async fn room(&self) -> Result<RoomUse, StoreError> {
        let state = self.0.lock();
        let stored: u64 = state.blobs.values().map(|bytes| bytes.len() as u64).sum();
        Ok(RoomUse {
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
enum Content {
    Growing(Vec<u8>),
    Committed(Bytes),
}

impl Content {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Growing(bytes) => bytes,
            Self::Committed(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("len", &self.as_slice().len()).finish()
    }
}

#[derive(Debug)]
struct MemorySpool {
    shared: Arc<Shared>,
    content: Arc<Mutex<Content>>,
    /// What this spool counts for in the store's use.
    reserved: u64,
    recorded: Recorded,
}

impl Spool for MemorySpool {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = offset
            .checked_add(bytes.len() as u64)
            .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        if end > self.reserved {
            self.shared.reserve(end - self.reserved)?;
            self.reserved = end;
        }
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let (start, end) =
            (usize::try_from(offset).map_err(too_large)?, usize::try_from(end).map_err(too_large)?);
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let Content::Growing(buffer) = &mut *content else {
            return Err(io::Error::other("the spool was committed"));
        };
        if end > buffer.len() {
            buffer.resize(end, 0);
        }
        buffer[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let held = content.as_slice();
        let held = &held[clamp(held.len(), offset, buffer.len())];
        buffer[..held.len()].copy_from_slice(held);
        Ok(held.len())
    }

    fn recorded(&self) -> &Recorded {
        &self.recorded
    }

    fn recorder(&self) -> Option<Arc<dyn Recorder>> {
        None
    }

    fn expect_whole(&mut self, size: u64) -> io::Result<()> {
        if size > self.reserved {
            self.shared.reserve(size - self.reserved)?;
            self.reserved = size;
        }
        Ok(())
    }

    fn discard(self: Box<Self>) {}

    fn reader(&self) -> Arc<dyn ReadAt> {
        Arc::new(SpoolReader(Arc::clone(&self.content)))
    }

    fn commit(mut self: Box<Self>, verified: Verified) -> Result<Blob, StoreError> {
        let bytes = {
            let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
            check_len(&verified, content.as_slice().len() as u64)?;
            let bytes = match &mut *content {
                Content::Growing(buffer) => Bytes::from(std::mem::take(buffer)),
                Content::Committed(bytes) => bytes.clone(),
            };
            *content = Content::Committed(bytes.clone());
            bytes
        };
        let mut state = self.shared.lock();
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
        self.shared.release(self.reserved);
    }
}

#[derive(Debug)]
struct SpoolReader(Arc<Mutex<Content>>);

#[async_trait]
impl ReadAt for SpoolReader {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let content = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match &*content {
            Content::Growing(buffer) => {
                Bytes::copy_from_slice(&buffer[clamp(buffer.len(), offset, len)])
            }
            Content::Committed(bytes) => bytes.slice(clamp(bytes.len(), offset, len)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::blob::conformance::{self, verified};

    const ROOM: u64 = 64 << 20;

    #[tokio::test]
    async fn conforms() {
        conformance::all(&MemoryBlobs::new(ROOM)).await;
    }

    #[tokio::test]
    async fn a_full_store_says_so_and_has_room_again_later() {
        let store = MemoryBlobs::new(10);
        let (proof, bytes) = verified(b"ten bytes.");
        store.put(proof, bytes.clone()).await.unwrap();
        assert_eq!(store.probe().await.unwrap_err().kind(), StoreErrorKind::NoSpace);
        let (other, other_bytes) = verified(b"x");
        let refused = store.put(other, other_bytes.clone()).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::NoSpace);
        assert_eq!(store.used(), 10, "what was refused takes no room");
        assert!(store.remove(proof.digest()).await.unwrap());
        store.put(other, other_bytes).await.unwrap();
        assert_eq!(store.used(), 1);
    }

    #[tokio::test]
    async fn a_blob_put_twice_counts_once() {
        let store = MemoryBlobs::new(ROOM);
        let (proof, bytes) = verified(b"twice");
        store.put(proof, bytes.clone()).await.unwrap();
        store.put(proof, bytes).await.unwrap();
        assert_eq!(store.used(), 5);
    }
}
