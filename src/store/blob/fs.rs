//! Blobs as files.
//!
//! ```text
//! <root>/lock                                     held by the Pierhead that uses the root
//! <root>/blobs-v1/<algorithm>/<first two>/<hex>   one file per blob, never changed once there
//! <root>/spool-v1/<number>                        content on its way in or out; removed at start
//! <root>/spool-v1/<digest>-<upstream>-<number>.*  content that can be continued: see [`sidecar`]
//! <root>/quarantine-v1/<algorithm>-<hex>          blobs that were found damaged
//! ```
//! The version in a path is that of the format below it. A newer one beside it belongs to a newer
//! Pierhead and is left alone.
//!
//! A commit survives a crash at any point, because of its order: the file's content reaches the
//! disk, then the file gets its name, then the name reaches the disk. So a name always stands for
//! whole content.

mod crash;
mod files;
mod leases;
mod ledger;
mod list;
mod parked;
mod quarantine;
mod read;
mod sidecar;
mod spool;

#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use moka::sync::Cache;

use super::{Blob, BlobStore, Evicted, Expect, Parked, RoomUse, Spool, SpoolKey};
use crate::oci::{Algorithm, Digest, Verified};
use crate::store::{StoreError, blocking};
use crash::Point;
use files::{create_dirs, create_new, lock, sync_dir};
use leases::{Kept, Leases};
use ledger::{Lease, Ledger, allocated};
use parked::Spools;
use quarantine::Quarantine;
use read::CommittedFile;
use spool::FsSpool;

const BLOBS_DIR: &str = "blobs-v1";
const SPOOL_DIR: &str = "spool-v1";
const QUARANTINE_DIR: &str = "quarantine-v1";
const LOCK_FILE: &str = "lock";

/// Hexadecimal digits of a digest that name its directory: 256 directories keep each of them
/// small up to millions of blobs.
const SHARD_DIGITS: usize = 2;

/// The algorithms, in the order of their digests.
const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

/// Choices of an [`FsBlobs`].
#[derive(Clone, Copy, Debug)]
pub struct FsOptions {
    /// Blobs that are kept open for their next reader, each with a file descriptor and a mapping.
    pub open_blobs_max: u64,
    /// The cap in allocated bytes: everything below the root counts. `u64::MAX`: none. `None`:
    /// [`DEFAULT_MAX_BYTES`], or [`DEFAULT_MAX_PERCENT`] of what is free or ours if that is less.
    pub max_bytes: Option<u64>,
    /// What is kept free on the disk, in bytes.
    pub min_free_bytes: u64,
}

/// The cap where the operator names none, in bytes.
pub const DEFAULT_MAX_BYTES: u64 = 50 << 30;

/// The most that such a cap takes of a smaller disk.
pub const DEFAULT_MAX_PERCENT: u64 = 80;

/// Well below the 1024 file descriptors that many systems allow a process.
const OPEN_BLOBS_MAX: u64 = 256;

impl Default for FsOptions {
    fn default() -> Self {
        Self { open_blobs_max: OPEN_BLOBS_MAX, max_bytes: Some(u64::MAX), min_free_bytes: 0 }
    }
}

/// A [`BlobStore`] in a directory of its own. Cheap to clone; clones share the directory's lock,
/// which is released when the last of them, and of their spools, is gone.
#[derive(Clone, Debug)]
pub struct FsBlobs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    blobs: PathBuf,
    spool: PathBuf,
    /// Opened blobs with their mappings: a hit that is warm costs no system call.
    open: Cache<Digest, Arc<Kept>>,
    /// The space of files that somebody has open. Whoever changes what stands below a name, or
    /// opens it, holds this lock: so nobody opens a file whose removal is being counted.
    leases: Mutex<Leases>,
    ledger: Arc<Ledger>,
    max_bytes: u64,
    spools: Spools,
    quarantine: Quarantine,
    /// The next number that no spool file was given yet.
    next_number: AtomicU64,
    /// Held, not read: closing it releases the lock.
    _lock: File,
}

impl FsBlobs {
    /// Opens the store below `root`, creating what is missing and removing what an earlier
    /// process left in the spool, but for what can be continued.
    ///
    /// Fails with [`StoreErrorKind::Locked`] if another process uses `root`. Cancel-safe.
    pub async fn open(root: &Path, options: FsOptions) -> Result<Self, StoreError> {
        let root = root.to_owned();
        blocking("open the storage", move || Self::open_blocking(&root, options)).await
    }

    fn open_blocking(root: &Path, options: FsOptions) -> Result<Self, StoreError> {
        create_dirs(root)?;
        let lock = lock(&root.join(LOCK_FILE))?;
        let blobs = root.join(BLOBS_DIR);
        for algorithm in ALGORITHMS {
            create_dirs(&blobs.join(algorithm.as_str()))?;
        }
        let spool = root.join(SPOOL_DIR);
        let quarantine = root.join(QUARANTINE_DIR);
        for dir in [&spool, &quarantine] {
            create_dirs(dir)?;
        }
        let (parked, next_number) = parked::sort_out(&spool)?;
        let quarantined = quarantine::look(&quarantine)?;
        // The directories themselves must survive a crash as surely as what is put into them.
        for dir in [blobs.as_path(), root] {
            sync_dir(dir)?;
        }
        let stored = ledger::measure(&blobs)
            .map_err(|cause| StoreError::io(format!("measure {}", blobs.display()), cause))?;
        let FsOptions { open_blobs_max, max_bytes, min_free_bytes } = options;
        let max_bytes = max_bytes.unwrap_or_else(|| {
            let held = parked.iter().map(|found| found.allocated);
            let held = held.chain(quarantined.iter().map(|(_, bytes)| *bytes));
            let ours = held.fold(stored, u64::saturating_add);
            let ours = ledger::free_on_disk(root).saturating_add(ours);
            DEFAULT_MAX_BYTES.min(ours / 100 * DEFAULT_MAX_PERCENT)
        });
        let ledger = Arc::new(Ledger::new(root, max_bytes, min_free_bytes, stored));
        let hold = |bytes| ledger.held(bytes);
        let shared = Shared {
            blobs,
            spool,
            open: Cache::builder()
                .name("open blobs")
                .max_capacity(open_blobs_max)
                .eviction_listener(|_, kept: Arc<Kept>, _| kept.release())
                .build(),
            leases: Mutex::default(),
            max_bytes,
            spools: Spools::found(parked, hold),
            quarantine: Quarantine::new(quarantine, max_bytes, quarantined, hold),
            next_number: AtomicU64::new(next_number),
            ledger,
            _lock: lock,
        };
        let shared = Arc::new(shared);
        shared.trim_parked();
        shared.measure_directories()?;
        Ok(Self(shared))
    }
}

#[async_trait]
impl BlobStore for FsBlobs {
    async fn open(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        if let Some(blob) = self.0.open.get(digest).and_then(|kept| kept.blob()) {
            return Ok(Some(blob));
        }
        let (shared, digest) = (Arc::clone(&self.0), *digest);
        blocking("open a blob", move || shared.open_blob(&digest)).await
    }

    async fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        if self.0.open.contains_key(digest) {
            return Ok(true);
        }
        let (shared, digest) = (Arc::clone(&self.0), *digest);
        blocking("look for a blob", move || {
            let path = shared.blob_path(&digest);
            Ok(stored_len(&path, &digest)?.is_some())
        })
        .await
    }

    async fn spool(&self, size_hint: Option<u64>) -> Result<Box<dyn Spool>, StoreError> {
        let shared = Arc::clone(&self.0);
        blocking("create a spool file", move || {
            let spool: Box<dyn Spool> =
                Box::new(FsSpool::create(&shared, Expect::Whole(size_hint))?);
            Ok(spool)
        })
        .await
    }

    async fn resume(&self, key: &SpoolKey, expect: Expect) -> Result<Box<dyn Spool>, StoreError> {
        let (shared, key) = (Arc::clone(&self.0), key.clone());
        blocking("resume a spool file", move || {
            let spool: Box<dyn Spool> = Box::new(FsSpool::resume(&shared, &key, expect)?);
            Ok(spool)
        })
        .await
    }

    async fn parked(&self) -> Result<Vec<Parked>, StoreError> {
        let shared = Arc::clone(&self.0);
        blocking("list the parked spools", move || Ok(shared.parked())).await
    }

    async fn remove_parked(&self, key: &SpoolKey) -> Result<u64, StoreError> {
        let (shared, key) = (Arc::clone(&self.0), key.clone());
        blocking("remove a parked spool", move || Ok(shared.remove_parked(&key))).await
    }

    async fn quarantine(&self, digest: &Digest) -> Result<bool, StoreError> {
        let (shared, digest) = (Arc::clone(&self.0), *digest);
        blocking("put a damaged blob aside", move || shared.put_aside(&digest)).await
    }

    async fn empty_quarantine(&self, bytes: u64) -> Result<u64, StoreError> {
        let shared = Arc::clone(&self.0);
        blocking("empty the quarantine", move || Ok(shared.quarantine.free(bytes))).await
    }

    async fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        let (shared, digest) = (Arc::clone(&self.0), *digest);
        let removed = blocking("remove a blob", move || shared.take_away(&digest, Whom::Anybody));
        Ok(removed.await? != Evicted::Absent)
    }

    async fn evict(&self, digest: &Digest) -> Result<Evicted, StoreError> {
        let (shared, digest) = (Arc::clone(&self.0), *digest);
        blocking("evict a blob", move || shared.take_away(&digest, Whom::Unused)).await
    }

    async fn room(&self) -> Result<RoomUse, StoreError> {
        let shared = Arc::clone(&self.0);
        blocking("look at the room", move || {
            shared.measure_directories()?;
            let (quarantined_files, quarantined) = shared.quarantine.taken();
            let parked = shared.spools.parked_bytes();
            Ok(RoomUse { parked, quarantined, quarantined_files, ..shared.ledger.room() })
        })
        .await
    }

    async fn list(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        let (shared, after) = (Arc::clone(&self.0), after.copied());
        blocking("list the blobs", move || shared.list_blobs(after.as_ref(), limit)).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.0);
        blocking("probe the storage", move || {
            let path = shared.next_spool_path();
            let written = create_new(&path).and_then(|mut file| {
                file.write_all(b"probe")?;
                // Some file systems find out only now that there is no room.
                file.sync_all()
            });
            let removed = fs::remove_file(&path);
            written
                .and(removed)
                .map_err(|cause| StoreError::io(format!("write {}", path.display()), cause))
        })
        .await
    }
}

impl Shared {
    fn shard_path(&self, algorithm: Algorithm, shard: &str) -> PathBuf {
        self.blobs.join(algorithm.as_str()).join(shard)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        let encoded = digest.encoded();
        self.shard_path(digest.algorithm(), &encoded[..SHARD_DIGITS]).join(encoded)
    }

    /// No two of one process are the same, and none is one that an earlier process left.
    fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    fn next_spool_path(&self) -> PathBuf {
        self.spool.join(format!("{:016x}", self.next_number()))
    }

    fn open_blob(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        let path = self.blob_path(digest);
        let doing = || format!("open {}", path.display());
        let mut leases = self.leases();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(StoreError::io(doing(), cause)),
        };
        let metadata = file.metadata().map_err(|cause| StoreError::io(doing(), cause))?;
        if !is_sane(&metadata, digest) {
            warn_insane(&path);
            return Ok(None);
        }
        let lease = leases.get(digest).unwrap_or_else(|| {
            let lease = self.ledger.stored(allocated(&metadata));
            leases.put(digest, &lease);
            lease
        });
        Ok(Some(self.keep_open(digest, Arc::new(file), metadata.len(), lease)))
    }

    /// The blob, if what was verified is stored already.
    fn stored_already(&self, verified: &Verified) -> Result<Option<Blob>, StoreError> {
        let digest = verified.digest();
        if stored_len(&self.blob_path(digest), digest)? != Some(verified.len()) {
            return Ok(None);
        }
        self.open_blob(digest)
    }

    /// Hands out a committed file and keeps it open for its next reader. Whoever calls holds the
    /// lock of the leases.
    fn keep_open(&self, digest: &Digest, file: Arc<File>, len: u64, lease: Arc<Lease>) -> Blob {
        let blob = Blob::new(*digest, len, Arc::new(CommittedFile::new(file, len, lease)));
        self.open.insert(*digest, Arc::new(Kept::new(blob.clone())));
        blob
    }

    fn take_away(&self, digest: &Digest, whom: Whom) -> Result<Evicted, StoreError> {
        let path = self.blob_path(digest);
        let doing = || format!("remove {}", path.display());
        let doomed = self.next_spool_path();
        let (lease, metadata) = {
            let mut leases = self.leases();
            // What is only kept open for a reader that may never come is not in use.
            self.open.invalidate(digest);
            let lease = leases.get(digest);
            if lease.is_some() && whom == Whom::Unused {
                return Ok(Evicted::InUse);
            }
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                    return Ok(Evicted::Absent);
                }
                Err(cause) => return Err(StoreError::io(doing(), cause)),
            };
            crash::point(Point::RemovalBegun);
            // Taking the name away is quick. Giving the blocks back may not be, and waits until
            // the lock is free; a crash before that leaves what the next start removes.
            fs::rename(&path, &doomed).map_err(|cause| StoreError::io(doing(), cause))?;
            leases.forget(digest);
            (lease, metadata)
        };
        crash::point(Point::RemovalRenamed);
        if let Err(cause) = fs::remove_file(&doomed) {
            // Its space stays counted until the next start, which removes it.
            return Err(StoreError::io(format!("remove {}", doomed.display()), cause));
        }
        match lease {
            Some(lease) => lease.removed(),
            None => self.ledger.removed(allocated(&metadata)),
        }
        Ok(Evicted::Freed(allocated(&metadata)))
    }

    fn measure_directories(&self) -> Result<(), StoreError> {
        let bytes = ledger::measure_directories(&self.blobs, [&self.spool, self.quarantine.dir()])
            .map_err(|cause| StoreError::io(format!("measure {}", self.blobs.display()), cause))?;
        self.ledger.set_directories(bytes);
        Ok(())
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory of that blob, created if it is the first one there.
    fn shard_of(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let shard = self.shard_path(digest.algorithm(), &digest.encoded()[..SHARD_DIGITS]);
        if !shard.is_dir() {
            create_dirs(&shard)?;
            sync_dir(&self.blobs.join(digest.algorithm().as_str()))?;
        }
        Ok(shard)
    }
}

/// Which blobs may be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    /// Also one that is being read.
    Anybody,
    /// Only one that nobody reads.
    Unused,
}

/// The length of the blob at `path`, or `None` if there is none, or none that can be right.
fn stored_len(path: &Path, digest: &Digest) -> Result<Option<u64>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if is_sane(&metadata, digest) => Ok(Some(metadata.len())),
        Ok(_) => {
            warn_insane(path);
            Ok(None)
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(StoreError::io(format!("look at {}", path.display()), cause)),
    }
}

/// Whether this can be the file of that blob at all. A file system that lost a write in a crash
/// leaves a file of no bytes: that must never be served as a blob.
fn is_sane(metadata: &fs::Metadata, digest: &Digest) -> bool {
    metadata.is_file() && (metadata.len() > 0 || Digest::of(digest.algorithm(), b"") == *digest)
}

fn warn_insane(path: &Path) {
    // It counts as absent, so the next fill of that digest replaces it.
    tracing::warn!(path = %path.display(), "a blob's file is empty or no file, and is not used");
}
