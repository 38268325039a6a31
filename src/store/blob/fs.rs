//! Blobs as files.
//!
//! ```text
//! <root>/lock                                     held by the Pierhead that uses the root
//! <root>/blobs-v1/<algorithm>/<first two>/<hex>   one file per blob, never changed once there
//! <root>/spool-v1/<number>                        content on its way in; removed at start
//! ```
//! The version in a path is that of the format below it. A newer one beside it belongs to a newer
//! Pierhead and is left alone.
//!
//! A commit survives a crash at any point, because of its order: the file's content reaches the
//! disk, then the file gets its name, then the name reaches the disk. So a name always stands for
//! whole content.

mod ledger;
mod read;
mod spool;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use moka::sync::Cache;

use super::{Blob, BlobStore, Evicted, Expect, Parked, RoomUse, Spool, SpoolKey};
use crate::oci::{Algorithm, Digest, Verified};
use crate::store::{StoreError, StoreErrorKind, blocking};
use ledger::{Lease, Ledger, allocated};
use read::CommittedFile;
use spool::FsSpool;

const BLOBS_DIR: &str = "blobs-v1";
const SPOOL_DIR: &str = "spool-v1";
const LOCK_FILE: &str = "lock";

/// Directories: nobody but the owner writes, the group may look (backups).
const DIR_MODE: u32 = 0o750;
/// Files on their way in.
const SPOOL_MODE: u32 = 0o640;
/// Committed files: nobody writes.
const BLOB_MODE: u32 = 0o440;

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
    spools: AtomicU64,
    /// Held, not read: closing it releases the lock.
    _lock: File,
}

impl FsBlobs {
    /// Opens the store below `root`, creating what is missing and removing what an earlier
    /// process left in the spool.
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
        create_dirs(&spool)?;
        remove_stale(&spool)?;
        // The directories themselves must survive a crash as surely as what is put into them.
        for dir in [blobs.as_path(), root] {
            sync_dir(dir)?;
        }
        let stored = ledger::measure(&blobs)
            .map_err(|cause| StoreError::io(format!("measure {}", blobs.display()), cause))?;
        let FsOptions { open_blobs_max, max_bytes, min_free_bytes } = options;
        let max_bytes = max_bytes.unwrap_or_else(|| {
            let ours = ledger::free_on_disk(root).saturating_add(stored);
            DEFAULT_MAX_BYTES.min(ours / 100 * DEFAULT_MAX_PERCENT)
        });
        let ledger = Ledger::new(root, max_bytes, min_free_bytes, stored);
        let shared = Shared {
            blobs,
            spool,
            open: Cache::builder()
                .name("open blobs")
                .max_capacity(open_blobs_max)
                .eviction_listener(|_, kept: Arc<Kept>, _| kept.release())
                .build(),
            leases: Mutex::default(),
            ledger: Arc::new(ledger),
            max_bytes,
            spools: AtomicU64::new(0),
            _lock: lock,
        };
        shared.measure_directories()?;
        Ok(Self(Arc::new(shared)))
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
            let lease = shared.ledger.take(size_hint.unwrap_or(0))?;
            let path = shared.next_spool_path();
            let spool: Box<dyn Spool> = Box::new(FsSpool::create(shared, path, lease)?);
            Ok(spool)
        })
        .await
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
            Ok(shared.ledger.room())
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

    /// No two of one process are the same, and of earlier processes none is left.
    fn next_spool_path(&self) -> PathBuf {
        let number = self.spools.fetch_add(1, Ordering::Relaxed);
        self.spool.join(format!("{number:016x}"))
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
            // Taking the name away is quick. Giving the blocks back may not be, and waits until
            // the lock is free; a crash before that leaves what the next start removes.
            fs::rename(&path, &doomed).map_err(|cause| StoreError::io(doing(), cause))?;
            leases.forget(digest);
            (lease, metadata)
        };
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
        let bytes = ledger::measure_directories(&self.blobs, &self.spool)
            .map_err(|cause| StoreError::io(format!("measure {}", self.blobs.display()), cause))?;
        self.ledger.set_directories(bytes);
        Ok(())
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn list_blobs(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        let mut page = Vec::new();
        let from_algorithm = after.map_or(ALGORITHMS[0], Digest::algorithm);
        for algorithm in ALGORITHMS.into_iter().filter(|algorithm| *algorithm >= from_algorithm) {
            let dir = self.blobs.join(algorithm.as_str());
            let after = after.filter(|after| after.algorithm() == algorithm);
            let from_shard = after.map(|after| after.encoded()[..SHARD_DIGITS].to_owned());
            let mut shards = file_names(&dir)?;
            shards.retain(|shard| {
                shard.len() == SHARD_DIGITS && from_shard.as_ref().is_none_or(|from| shard >= from)
            });
            shards.sort_unstable();
            for shard in shards {
                let dir = dir.join(&shard);
                let mut digests: Vec<Digest> = file_names(&dir)?
                    .into_iter()
                    .filter_map(|name| format!("{algorithm}:{name}").parse().ok())
                    // A copy in a directory that is not its own is no blob.
                    .filter(|digest: &Digest| digest.encoded().starts_with(&shard))
                    .filter(|digest| after.is_none_or(|after| digest > after))
                    .collect();
                digests.sort_unstable();
                for digest in digests {
                    if page.len() >= limit {
                        return Ok(page);
                    }
                    let path = self.blob_path(&digest);
                    match fs::metadata(&path) {
                        Ok(metadata) => page.push((digest, metadata.len())),
                        // Removed meanwhile.
                        Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                        Err(cause) => {
                            return Err(StoreError::io(
                                format!("look at {}", path.display()),
                                cause,
                            ));
                        }
                    }
                }
            }
        }
        Ok(page)
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

/// The leases of blobs that are open.
#[derive(Debug, Default)]
struct Leases {
    open: HashMap<Digest, Weak<Lease>>,
    /// At how many entries those that nobody holds any more are looked for.
    sweep_at: usize,
}

/// The fewest entries at which dead ones are looked for.
const LEASES_SWEPT_AT: usize = 1024;

impl Leases {
    fn get(&self, digest: &Digest) -> Option<Arc<Lease>> {
        self.open.get(digest)?.upgrade()
    }

    fn put(&mut self, digest: &Digest, lease: &Arc<Lease>) {
        if self.open.len() >= self.sweep_at {
            self.open.retain(|_, lease| lease.strong_count() > 0);
            self.sweep_at = LEASES_SWEPT_AT.max(self.open.len().saturating_mul(2));
        }
        self.open.insert(*digest, Arc::downgrade(lease));
    }

    fn forget(&mut self, digest: &Digest) {
        self.open.remove(digest);
    }
}

/// A blob that is kept open until the cache drops its entry.
///
/// The cache's memory is reclaimed some time later. The file must be let go of at once, since a
/// removed file takes space for as long as anybody has it open: hence the slot, emptied by the
/// cache's listener.
#[derive(Debug)]
struct Kept(Mutex<Option<Blob>>);

impl Kept {
    const fn new(blob: Blob) -> Self {
        Self(Mutex::new(Some(blob)))
    }

    fn blob(&self) -> Option<Blob> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn release(&self) {
        // Closed and unmapped outside the lock.
        let _blob = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
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

fn lock(path: &Path) -> Result<File, StoreError> {
    let doing = || format!("lock {}", path.display());
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(|cause| StoreError::io(doing(), cause))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::new(StoreErrorKind::Locked, doing(), None))
        }
        Err(TryLockError::Error(cause)) => Err(StoreError::io(doing(), cause)),
    }
}

fn create_dirs(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)
        .map_err(|cause| StoreError::io(format!("create {}", path.display()), cause))
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(SPOOL_MODE).open(path)
}

/// Makes the names in a directory survive a crash.
fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|cause| StoreError::io(format!("sync {}", path.display()), cause))
}

fn remove_stale(spool: &Path) -> Result<(), StoreError> {
    let names = file_names(spool)?;
    if !names.is_empty() {
        tracing::info!(files = names.len(), "removing what an earlier run left in the spool");
    }
    for name in names {
        let path = spool.join(name);
        if let Err(cause) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), error = %cause, "a stale file stays in the spool");
        }
    }
    Ok(())
}

/// The names in a directory; those that are no UTF-8 are none of ours. What is not there, or no
/// directory, has none.
fn file_names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let doing = || format!("list {}", dir.display());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(cause)
            if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(cause) => return Err(StoreError::io(doing(), cause)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|cause| StoreError::io(doing(), cause))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}
