//! Content by digest.
//!
//! A blob comes in through a [`Spool`], which discards itself unless it is committed, and a
//! commit needs a [`Verified`]: so what a store holds under a digest once had that digest. What
//! was committed never changes; it can only be removed, and whoever reads it at that moment reads
//! on.

pub mod fs;
mod map;
pub mod memory;

#[cfg(test)]
pub(crate) mod conformance;

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use fs::{FsBlobs, FsOptions};
pub use memory::{InMemory, MemoryBlobs};

use super::{StoreError, blocking};
use crate::clock::Timestamp;
use crate::oci::{Digest, Verified};
use crate::scope::UpstreamName;
use crate::spans::Spans;

/// Content that can be read from anywhere in it, by many at a time.
#[async_trait]
pub trait ReadAt: Send + Sync + Debug {
    /// Up to `len` bytes at `offset`: fewer only where what is there ends, none at or after its
    /// end. Of a spool that was written out of order, the gaps read as anything; its writer knows
    /// what has landed.
    ///
    /// Files are read on the blocking pool. Cancel-safe: a read leaves no trace.
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes>;

    /// A view of the content without a copy, or `None` if there is none for this range: then
    /// [`ReadAt::read_at`] has it. Never blocks on the disk itself, but touching the bytes may.
    ///
    /// The bytes may be those of a mapped file, and a disk error while they are touched kills
    /// the process. Hand them to a plaintext `writev` only, where the kernel touches them and
    /// reports `EFAULT`; hash, encrypt or parse what `read_at` gives.
    fn mapped(&self, _range: Range<u64>) -> Option<Bytes> {
        None
    }
}

/// A stored blob, opened: it stays readable also when the store removes it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blob {
    digest: Digest,
    len: u64,
    source: Arc<dyn ReadAt>,
}

impl Blob {
    /// A blob whose content `source` reads. For implementations of [`BlobStore`].
    pub fn new(digest: Digest, len: u64, source: Arc<dyn ReadAt>) -> Self {
        Self { digest, len, source }
    }

    /// The digest under which it is stored.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its length, in bytes.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is the empty blob, which is legal.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its content, to be kept by a reader.
    pub const fn source(&self) -> &Arc<dyn ReadAt> {
        &self.source
    }

    /// [`ReadAt::read_at`] of its content.
    pub async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        self.source.read_at(offset, len).await
    }

    /// [`ReadAt::mapped`] of its content.
    pub fn mapped(&self, range: Range<u64>) -> Option<Bytes> {
        self.source.mapped(range)
    }
}

/// Whose fill a spool belongs to: what an earlier fill left is only continued from the upstream
/// that it came from, because nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpoolKey {
    /// The upstream that is asked.
    pub upstream: UpstreamName,
    /// The blob.
    pub digest: Digest,
}

/// How much of a blob a spool is going to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// All of it: that many bytes, where it is known. They are reserved at once.
    Whole(Option<u64>),
    /// Parts of it, which may be small and far apart: space is reserved as they are written.
    Parts,
}

/// What of a spool survives a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The parts that have landed. Not verified, and not even hashed.
    pub landed: Spans,
    /// The blob's size in bytes, where upstream said it.
    pub size: Option<u64>,
}

/// A spool that nobody writes to: an earlier fill, or an earlier process, left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Whose it is.
    pub key: SpoolKey,
    /// What it takes of the store's room, in bytes.
    pub allocated: u64,
    /// What it has.
    pub recorded: Recorded,
    /// When it was last written to.
    pub since: Timestamp,
}

/// Writes down what of a spool has landed. Apart from the spool, so that it can be done while more
/// is written.
pub trait Recorder: Send + Sync + Debug {
    /// Makes what `recorded` says survive a crash: everything in it has been written before the
    /// call. Blocks for as long as the disk takes; one at a time for each spool.
    fn record(&self, recorded: &Recorded) -> io::Result<()>;
}

/// Content on its way in. Dropping it keeps what a [`Recorder`] wrote down of it, for the next
/// [`BlobStore::resume`] with its key, and discards everything else; its readers keep what they
/// have.
///
/// The methods block: call them on the blocking pool. Dropping waits for a record that is being
/// written, and then takes a few system calls.
pub trait Spool: Send + Debug {
    /// Writes all of `bytes` at `offset`, which may lie beyond what was written so far. After an
    /// error any part of them may have been written; writing them again is allowed.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Reads back what was written at `offset` into `buffer`: fewer bytes only at the end of what
    /// was written. For the one who writes, to hash what landed out of order.
    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// A reader of what has been written. It stays valid after a commit and after a drop.
    fn reader(&self) -> Arc<dyn ReadAt>;

    /// What an earlier fill left in it. Empty for a new one.
    fn recorded(&self) -> &Recorded;

    /// Writes down what has landed, where the spool can be found again: one without a key
    /// cannot.
    fn recorder(&self) -> Option<Arc<dyn Recorder>>;

    /// The whole blob of `size` bytes is going to be written after all: reserves what is lacking.
    ///
    /// Fails as [`StorageFull`](io::ErrorKind::StorageFull) where that is not possible; the spool
    /// stays as it was.
    fn expect_whole(&mut self, size: u64) -> io::Result<()>;

    /// What it has reserved so far, in bytes: so much less is lacking for what is to come. 0 where
    /// that is not known.
    fn reserved(&self) -> u64 {
        0
    }

    /// Removes it, with everything that was recorded: it is of no use.
    fn discard(self: Box<Self>);

    /// Makes the content a blob of the store that survives a crash of the machine.
    ///
    /// Refused as [`Corrupt`](super::StoreErrorKind::Corrupt) unless what was written is as long
    /// as what was verified. If the store has the blob already, it keeps that and discards this.
    /// After an error the content is discarded.
    fn commit(self: Box<Self>, verified: Verified) -> Result<Blob, StoreError>;
}

/// What became of a blob that was to be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// It is gone, and this many bytes are free.
    Freed(u64),
    /// Somebody reads it: it stays.
    InUse,
    /// It was not here.
    Absent,
}

/// The space of a store, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomUse {
    /// The cap. `u64::MAX`: there is none.
    pub max: u64,
    /// Taken by blobs.
    pub stored: u64,
    /// Reserved for what is on its way in, and taken by what waits to be continued, by removed
    /// blobs that are still being read, and by damaged ones that were put aside.
    pub reserved: u64,
    /// The part of `reserved` that spools take which wait to be continued.
    pub parked: u64,
    /// The part of `reserved` that damaged blobs take which were put aside.
    pub quarantined: u64,
    /// How many of those there are.
    pub quarantined_files: u64,
    /// Taken by everything else below the storage root, such as the database.
    pub others: u64,
    /// Free on the disk.
    pub free_on_disk: u64,
    /// To be kept free on the disk.
    pub min_free: u64,
    /// What may still be reserved.
    pub available: u64,
    /// What would have to go before anything may be reserved: the cap was lowered, or something
    /// else fills the disk.
    pub shortfall: u64,
}

/// A store of blobs, shared by everything in the process.
///
/// All of it is cancel-safe: an operation whose future is dropped either happens whole or not.
#[async_trait]
pub trait BlobStore: Send + Sync + Debug + 'static {
    /// The blob of that digest, or `None` if it is not here.
    async fn open(&self, digest: &Digest) -> Result<Option<Blob>, StoreError>;

    /// Whether [`BlobStore::open`] would find it.
    async fn contains(&self, digest: &Digest) -> Result<bool, StoreError>;

    /// Room for content on its way in. `size_hint` is the expected length in bytes; more or less
    /// may be written. What is expected is reserved now, and without a hint in steps while it is
    /// written.
    ///
    /// Fails as [`NoSpace`](super::StoreErrorKind::NoSpace) where that much cannot be reserved;
    /// so do later writes beyond what was expected.
    async fn spool(&self, size_hint: Option<u64>) -> Result<Box<dyn Spool>, StoreError>;

    /// The spool of `key` that an earlier fill left, or a new one where there is none, where it is
    /// of no use, or while somebody else writes to it; the last of these is nobody's, and is
    /// discarded when it is dropped. Fails as [`BlobStore::spool`] does.
    async fn resume(&self, key: &SpoolKey, expect: Expect) -> Result<Box<dyn Spool>, StoreError>;

    /// The spools that earlier fills left, the oldest first.
    async fn parked(&self) -> Result<Vec<Parked>, StoreError>;

    /// Removes a parked spool; how many bytes that freed. One that is being written to stays.
    async fn remove_parked(&self, key: &SpoolKey) -> Result<u64, StoreError>;

    /// Takes a blob that is not what its digest says out of sight, without losing it: whoever
    /// opens it finds nothing, and an operator finds the file. Whether it was here.
    async fn quarantine(&self, digest: &Digest) -> Result<bool, StoreError>;

    /// Removes what was quarantined, the oldest first, until `bytes` are free or nothing of it is
    /// left; how many bytes that freed. A store without such files frees nothing.
    async fn empty_quarantine(&self, _bytes: u64) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// Stores what is in memory whole. Refused as [`Corrupt`](super::StoreErrorKind::Corrupt)
    /// unless `bytes` is as long as what was verified.
    async fn put(&self, verified: Verified, bytes: Bytes) -> Result<Blob, StoreError> {
        // Checked before any room is taken for it.
        check_len(&verified, bytes.len() as u64)?;
        let mut spool = self.spool(Some(verified.len())).await?;
        blocking("store a blob", move || {
            spool.write_at(0, &bytes).map_err(|cause| {
                StoreError::io(format!("write the blob {}", verified.digest()), cause)
            })?;
            spool.commit(verified)
        })
        .await
    }

    /// Removes the blob; whether it was here. Its open readers read on, and its space is free
    /// when the last of them is gone.
    async fn remove(&self, digest: &Digest) -> Result<bool, StoreError>;

    /// Removes the blob unless somebody reads it, so that its space is free at once.
    async fn evict(&self, digest: &Digest) -> Result<Evicted, StoreError>;

    /// Who uses how much of the space that this store may take.
    async fn room(&self) -> Result<RoomUse, StoreError>;

    /// At most `limit` blobs with their lengths in bytes, in the order of their digests, from
    /// the first after `after` on. An answer of fewer than `limit` is the last. Blobs that come or
    /// go meanwhile may or may not be listed.
    async fn list(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError>;

    /// Whether a write would succeed now. It writes a little, so do not let strangers make it
    /// run at will: keep the answer for a second or more.
    async fn probe(&self) -> Result<(), StoreError>;
}

/// How much is reserved at a time while a length is not known, in bytes, in a store of `max` bytes.
pub fn reserve_step(max: u64) -> u64 {
    const STEP_BYTES: u64 = 64 << 20;
    /// The largest part of a small store that one step takes: one in so many.
    const STEP_SHARE: u64 = 8;
    STEP_BYTES.min(max / STEP_SHARE)
}

/// Refuses to store content under a proof that is about other content.
fn check_len(verified: &Verified, written: u64) -> Result<(), StoreError> {
    if written == verified.len() {
        return Ok(());
    }
    Err(StoreError::corrupt(
        format!("store the blob {}", verified.digest()),
        format!("{written} bytes were written and {} were verified", verified.len()),
    ))
}
