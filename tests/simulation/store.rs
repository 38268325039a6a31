//! The blobs of the simulation: those in memory, written where they are asked to be. The provided
//! [`BlobStore::put`] would use a thread, and threads are not told by the seed when to run.

use async_trait::async_trait;
use bytes::Bytes;
use pierhead::oci::{Digest, Verified};
use pierhead::store::blob::MemoryBlobs;
use pierhead::store::{
    Blob, BlobStore, Evicted, Expect, Parked, RoomUse, Spool, SpoolKey, StoreError,
};

/// The store. Cheap to clone; clones share the blobs, which outlive the process that is simulated.
#[derive(Clone, Debug)]
pub(crate) struct Blobs(pub(crate) MemoryBlobs);

#[async_trait]
impl BlobStore for Blobs {
    async fn open(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        self.0.open(digest).await
    }

    async fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.0.contains(digest).await
    }

    async fn spool(&self, size_hint: Option<u64>) -> Result<Box<dyn Spool>, StoreError> {
        self.0.spool(size_hint).await
    }

    async fn resume(&self, key: &SpoolKey, expect: Expect) -> Result<Box<dyn Spool>, StoreError> {
        self.0.resume(key, expect).await
    }

    async fn parked(&self) -> Result<Vec<Parked>, StoreError> {
        self.0.parked().await
    }

    async fn remove_parked(&self, key: &SpoolKey) -> Result<u64, StoreError> {
        self.0.remove_parked(key).await
    }

    async fn quarantine(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.0.quarantine(digest).await
    }

    async fn put(&self, verified: Verified, bytes: Bytes) -> Result<Blob, StoreError> {
        let mut spool = self.spool(Some(verified.len())).await?;
        spool.write_at(0, &bytes).map_err(|cause| StoreError::io("write to memory", cause))?;
        spool.commit(verified)
    }

    async fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.0.remove(digest).await
    }

    async fn evict(&self, digest: &Digest) -> Result<Evicted, StoreError> {
        self.0.evict(digest).await
    }

    async fn room(&self) -> Result<RoomUse, StoreError> {
        self.0.room().await
    }

    async fn list(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        self.0.list(after, limit).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.0.probe().await
    }
}
