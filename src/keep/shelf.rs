//! The blob store as everything else sees it: when it is full, room is made first, and the
//! catalogue hears of everything that comes and goes.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;

use super::{Keeper, blocks};
use crate::oci::{Digest, Verified};
use crate::store::blob::reserve_step;
use crate::store::{Blob, BlobStore, Evicted, ReadAt, RoomUse, Spool, StoreError, StoreErrorKind};

/// How often room is made for one spool: what was made may be taken by another one at once.
const ATTEMPTS_MAX: usize = 8;

/// A [`BlobStore`] that evicts.
#[derive(Clone, Debug)]
pub struct Shelf {
    blobs: Arc<dyn BlobStore>,
    keeper: Keeper,
}

impl Shelf {
    /// In front of `blobs`.
    pub(super) const fn new(blobs: Arc<dyn BlobStore>, keeper: Keeper) -> Self {
        Self { blobs, keeper }
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
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.blobs.spool(size_hint).await {
                Ok(inner) => {
                    let keeper = self.keeper.clone();
                    return Ok(Box::new(KeptSpool { inner, keeper, handle: Handle::current() }));
                }
                Err(error)
                    if error.kind() == StoreErrorKind::NoSpace && attempts <= ATTEMPTS_MAX =>
                {
                    if !self.keeper.make_room(blocks(size_hint.unwrap_or(1))).await {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
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

impl Spool for KeptSpool {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.inner.write_at(offset, bytes) {
                Err(error)
                    if error.kind() == io::ErrorKind::StorageFull && attempts <= ATTEMPTS_MAX =>
                {
                    // Only what was longer than expected, or of unknown length, comes here.
                    let made = self.handle.block_on(async {
                        let room = self.keeper.shared.blobs.room().await.ok()?;
                        let step = reserve_step(room.max).max(blocks(bytes.len() as u64));
                        Some(self.keeper.make_room(step).await)
                    });
                    if made != Some(true) {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
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
