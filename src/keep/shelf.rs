//! The blob store as everything else sees it: when it is full, room is made first, and the
//! catalogue hears of everything that comes and goes.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;

use super::{Keeper, blocks};
use crate::oci::{Digest, Verified};
use crate::store::blob::reserve_step;
use crate::store::{
    Blob, BlobStore, Evicted, Expect, Parked, ReadAt, Recorded, Recorder, RoomUse, Spool, SpoolKey,
    StoreError, StoreErrorKind,
};

/// How often room is made for one spool: what was made may be taken by another one at once.
const ATTEMPTS_MAX: usize = 8;

/// Who finds out that a blob is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finder {
    /// A pull, which verifies what it reads, or whose client does not get what the digest says.
    Read,
    /// The scrub.
    Scrub,
}

impl Finder {
    /// As a metric's label.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Scrub => "scrub",
        }
    }
}

/// A [`BlobStore`] that evicts.
#[derive(Clone, Debug)]
pub struct Shelf {
    blobs: Arc<dyn BlobStore>,
    keeper: Keeper,
    finder: Finder,
}

impl Shelf {
    /// In front of `blobs`.
    pub(super) const fn new(blobs: Arc<dyn BlobStore>, keeper: Keeper, finder: Finder) -> Self {
        Self { blobs, keeper, finder }
    }

    /// The spool that `open` opens, after room was made for `size` bytes if need be; not by
    /// removing the parked spool that is to be opened.
    async fn roomy<F>(
        &self,
        size: u64,
        spare: Option<&SpoolKey>,
        open: impl Fn() -> F + Send + Sync,
    ) -> Result<Box<dyn Spool>, StoreError>
    where
        F: Future<Output = Result<Box<dyn Spool>, StoreError>> + Send,
    {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match open().await {
                Ok(inner) => {
                    let keeper = self.keeper.clone();
                    return Ok(Box::new(KeptSpool { inner, keeper, handle: Handle::current() }));
                }
                Err(error)
                    if error.kind() == StoreErrorKind::NoSpace && attempts <= ATTEMPTS_MAX =>
                {
                    if !self.keeper.make_room(blocks(size), spare).await {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[async_trait]
impl BlobStore for Shelf {
    async fn open(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        self.blobs.open(digest).await
    }

    async fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.blobs.contains(digest).await
    }

    async fn spool(&self, size_hint: Option<u64>) -> Result<Box<dyn Spool>, StoreError> {
        self.roomy(size_hint.unwrap_or(1), None, || self.blobs.spool(size_hint)).await
    }

    async fn resume(&self, key: &SpoolKey, expect: Expect) -> Result<Box<dyn Spool>, StoreError> {
        let size = match expect {
            Expect::Whole(Some(size)) => {
                let parked = self.blobs.parked().await.unwrap_or_default();
                let there = parked.iter().find(|parked| parked.key == *key);
                size.saturating_sub(there.map_or(0, |parked| parked.allocated)).max(1)
            }
            Expect::Whole(None) | Expect::Parts => 1,
        };
        self.roomy(size, Some(key), || self.blobs.resume(key, expect)).await
    }

    async fn parked(&self) -> Result<Vec<Parked>, StoreError> {
        self.blobs.parked().await
    }

    async fn remove_parked(&self, key: &SpoolKey) -> Result<u64, StoreError> {
        self.blobs.remove_parked(key).await
    }

    async fn quarantine(&self, digest: &Digest) -> Result<bool, StoreError> {
        let was_here = self.blobs.quarantine(digest).await?;
        self.keeper.shared.gone(digest).await;
        if was_here {
            self.keeper.shared.metrics.quarantined(self.finder);
        }
        Ok(was_here)
    }

    async fn empty_quarantine(&self, bytes: u64) -> Result<u64, StoreError> {
        self.blobs.empty_quarantine(bytes).await
    }

    async fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        let removed = self.blobs.remove(digest).await?;
        self.keeper.shared.gone(digest).await;
        Ok(removed)
    }

    async fn evict(&self, digest: &Digest) -> Result<Evicted, StoreError> {
        let evicted = self.blobs.evict(digest).await?;
        if evicted != Evicted::InUse {
            self.keeper.shared.gone(digest).await;
        }
        Ok(evicted)
    }

    async fn room(&self) -> Result<RoomUse, StoreError> {
        self.blobs.room().await
    }

    async fn list(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        self.blobs.list(after, limit).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.blobs.probe().await
    }
}

#[derive(Debug)]
struct KeptSpool {
    inner: Box<dyn Spool>,
    keeper: Keeper,
    /// Of the runtime that evicts: writes come from a blocking thread.
    handle: Handle,
}

impl KeptSpool {
    /// Does `work` on the spool; where the store is full for it, after room for `bytes` was made.
    fn roomy(
        &mut self,
        bytes: u64,
        work: impl Fn(&mut dyn Spool) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match work(&mut *self.inner) {
                Err(error)
                    if error.kind() == io::ErrorKind::StorageFull && attempts <= ATTEMPTS_MAX =>
                {
                    let made = self.handle.block_on(async {
                        let room = self.keeper.shared.blobs.room().await.ok()?;
                        let step = reserve_step(room.max).max(blocks(bytes));
                        Some(self.keeper.make_room(step, None).await)
                    });
                    if made != Some(true) {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }
}

impl Spool for KeptSpool {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // Only what was longer than expected, or of unknown length, finds no room now.
        self.roomy(bytes.len() as u64, |spool| spool.write_at(offset, bytes))
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_back(offset, buffer)
    }

    fn recorded(&self) -> &Recorded {
        self.inner.recorded()
    }

    fn recorder(&self) -> Option<Arc<dyn Recorder>> {
        self.inner.recorder()
    }

    fn expect_whole(&mut self, size: u64) -> io::Result<()> {
        let lacking = size.saturating_sub(self.inner.reserved());
        self.roomy(lacking, |spool| spool.expect_whole(size))
    }

    fn reserved(&self) -> u64 {
        self.inner.reserved()
    }

    fn discard(self: Box<Self>) {
        self.inner.discard();
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        self.inner.reader()
    }

    fn commit(self: Box<Self>, verified: Verified) -> Result<Blob, StoreError> {
        let blob = self.inner.commit(verified)?;
        self.keeper.shared.catalogue.stored(blob.digest(), blocks(blob.len()));
        Ok(blob)
    }
}
