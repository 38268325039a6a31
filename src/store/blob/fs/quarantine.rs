//! Blobs that are not what their digests say, put aside for whoever wants to know why.
//!
//! ```text
//! <root>/quarantine-v1/<algorithm>-<hex>   as it was found
//! ```
//! They are worth less than anything else: they go first when room is needed.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::crash::{self, Point};
use super::files::{file_names, sync_dir};
use super::ledger::{Lease, allocated};
use super::{Shared, Whom};
use crate::oci::Digest;
use crate::store::StoreError;
use crate::store::blob::Evicted;

/// Damaged blobs that are kept; beyond them the oldest goes.
const QUARANTINE_FILES_MAX: usize = 16;

/// What they may take, in bytes.
const QUARANTINE_BYTES_MAX: u64 = 1 << 30;

/// The largest part of a small store that they may take: one byte in so many.
const QUARANTINE_SHARE: u64 = 64;

/// The files in quarantine.
#[derive(Debug)]
pub(super) struct Quarantine {
    dir: PathBuf,
    bytes_max: u64,
    /// The oldest first. Held while files come and go, so that the two always agree.
    files: Mutex<VecDeque<Quarantined>>,
}

#[derive(Debug)]
struct Quarantined {
    name: String,
    lease: Arc<Lease>,
}

/// The files that lie in `dir`, the oldest first, with their allocated bytes.
pub(super) fn look(dir: &Path) -> Result<Vec<(String, u64)>, StoreError> {
    let mut files = Vec::new();
    for name in file_names(dir)? {
        if let Ok(metadata) = fs::symlink_metadata(dir.join(&name))
            && metadata.is_file()
        {
            // A move changes nothing but this time.
            let since = (metadata.ctime(), metadata.ctime_nsec());
            files.push((since, name, allocated(&metadata)));
        }
    }
    files.sort_unstable();
    Ok(files.into_iter().map(|(_, name, bytes)| (name, bytes)).collect())
}

impl Quarantine {
    /// Of a store of `max` bytes, with the files that were found.
    pub(super) fn new(
        dir: PathBuf,
        max: u64,
        found: Vec<(String, u64)>,
        hold: impl Fn(u64) -> Arc<Lease>,
    ) -> Self {
        let files = found.into_iter().map(|(name, bytes)| Quarantined { name, lease: hold(bytes) });
        let quarantine = Self {
            dir,
            bytes_max: QUARANTINE_BYTES_MAX.min(max / QUARANTINE_SHARE),
            files: Mutex::new(files.collect()),
        };
        quarantine.bound(&mut quarantine.lock());
        quarantine
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many files there are, and what they take in bytes.
    pub(super) fn taken(&self) -> (u64, u64) {
        let files = self.lock();
        (files.len() as u64, bytes(&files))
    }

    /// Removes the oldest until `wanted` bytes are free; how many are.
    pub(super) fn free(&self, wanted: u64) -> u64 {
        let mut files = self.lock();
        let mut freed = 0_u64;
        while freed < wanted {
            let Some(file) = files.pop_front() else { break };
            freed = freed.saturating_add(self.remove(file));
        }
        freed
    }

    fn bound(&self, files: &mut VecDeque<Quarantined>) {
        while files.len() > QUARANTINE_FILES_MAX || bytes(files) > self.bytes_max {
            let Some(file) = files.pop_front() else { break };
            self.remove(file);
        }
    }

    /// How many bytes that freed.
    fn remove(&self, file: Quarantined) -> u64 {
        let path = self.dir.join(&file.name);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                // The next start counts it again.
                tracing::warn!(path = %path.display(), error = %cause, "a damaged blob stays in quarantine");
                return 0;
            }
            _ => {}
        }
        crash::point(Point::QuarantineFreed);
        // Who still reads it gives the space back later.
        if Arc::strong_count(&file.lease) == 1 { file.lease.bytes() } else { 0 }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Quarantined>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn bytes(files: &VecDeque<Quarantined>) -> u64 {
    files.iter().map(|file| file.lease.bytes()).fold(0, u64::saturating_add)
}

impl Shared {
    /// See [`BlobStore::quarantine`](crate::store::BlobStore::quarantine).
    pub(super) fn put_aside(&self, digest: &Digest) -> Result<bool, StoreError> {
        let path = self.blob_path(digest);
        let name = format!("{}-{}", digest.algorithm(), digest.encoded());
        let target = self.quarantine.dir().join(&name);
        crash::point(Point::QuarantineBegun);
        let mut files = self.quarantine.lock();
        let lease = {
            let mut leases = self.leases();
            self.open.invalidate(digest);
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(cause) => {
                    return Err(StoreError::io(format!("look at {}", path.display()), cause));
                }
            };
            match fs::rename(&path, &target) {
                Ok(()) => {
                    let lease = leases.get(digest);
                    let lease = lease.unwrap_or_else(|| self.ledger.stored(allocated(&metadata)));
                    leases.forget(digest);
                    lease.removed();
                    lease
                }
                Err(cause) => {
                    drop(leases);
                    // That it is served no more matters most.
                    let path = target.display();
                    tracing::warn!(%path, error = %cause, "a damaged blob cannot be put aside");
                    return Ok(self.take_away(digest, Whom::Anybody)? != Evicted::Absent);
                }
            }
        };
        crash::point(Point::Quarantined);
        // What lay there under this name is replaced.
        files.retain(|file| file.name != name);
        files.push_back(Quarantined { name, lease });
        self.quarantine.bound(&mut files);
        drop(files);
        for dir in path.parent().into_iter().chain([self.quarantine.dir()]) {
            if let Err(error) = sync_dir(dir) {
                tracing::warn!(%digest, %error, "after a crash a damaged blob may be back");
            }
        }
        Ok(true)
    }
}
