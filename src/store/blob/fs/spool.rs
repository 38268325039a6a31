//! A spool file and its way into the store.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use super::ledger::{Lease, allocated, set_aside};
use super::read::GrowingFile;
use super::{BLOB_MODE, Shared, create_new, stored_len, sync_dir};
use crate::oci::Verified;
use crate::store::StoreError;
use crate::store::blob::{Blob, ReadAt, Recorded, Recorder, Spool, check_len, reserve_step};

#[derive(Debug)]
pub(super) struct FsSpool {
    shared: Arc<Shared>,
    path: PathBuf,
    file: Arc<File>,
    lease: Arc<Lease>,
    /// How far the file has been written, in bytes.
    end: u64,
    /// The file has its blob's name: there is nothing to discard any more.
    renamed: bool,
    recorded: Recorded,
}

impl FsSpool {
    /// A spool file in the space of `lease`.
    pub(super) fn create(
        shared: Arc<Shared>,
        path: PathBuf,
        lease: Arc<Lease>,
    ) -> Result<Self, StoreError> {
        let file = create_new(&path)
            .map_err(|cause| StoreError::io(format!("create {}", path.display()), cause))?;
        let spool = Self {
            shared,
            path,
            file: Arc::new(file),
            lease,
            end: 0,
            renamed: false,
            recorded: Recorded::default(),
        };
        let reserved = spool.lease.bytes();
        match set_aside(&spool.file, reserved) {
            Ok(true) => spool.lease.allocated(),
            Ok(false) => {}
            Err(cause) => {
                let doing = format!("set {reserved} bytes aside for {}", spool.path.display());
                return Err(StoreError::io(doing, cause));
            }
        }
        Ok(spool)
    }

    /// Reserves what writing up to `end` needs.
    fn reserve(&mut self, end: u64) -> io::Result<()> {
        let reserved = self.lease.bytes();
        if end > reserved {
            let step = reserve_step(self.shared.max_bytes);
            let needed = end - reserved;
            self.lease
                .grow(needed.max(step))
                .map_err(|error| io::Error::new(io::ErrorKind::StorageFull, error))?;
        }
        self.end = self.end.max(end);
        Ok(())
    }
}

impl Spool for FsSpool {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset
            .checked_add(bytes.len() as u64)
            .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        if end > self.end {
            self.reserve(end)?;
        }
        self.file.write_all_at(bytes, offset)
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        Arc::new(GrowingFile::new(Arc::clone(&self.file), Arc::clone(&self.lease)))
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_full(&self.file, offset, buffer)
    }

    fn recorded(&self) -> &Recorded {
        &self.recorded
    }

    fn recorder(&self) -> Option<Arc<dyn Recorder>> {
        None
    }

    fn expect_whole(&mut self, size: u64) -> io::Result<()> {
        if size > self.end { self.reserve(size) } else { Ok(()) }
    }

    fn discard(self: Box<Self>) {}

    fn commit(mut self: Box<Self>, verified: Verified) -> Result<Blob, StoreError> {
        let doing = |what: &str| format!("{what} {}", self.path.display());
        let metadata =
            self.file.metadata().map_err(|cause| StoreError::io(doing("look at"), cause))?;
        check_len(&verified, metadata.len())?;
        let digest = *verified.digest();
        if let Some(blob) = self.shared.stored_already(&verified)? {
            return Ok(blob);
        }
        // Also against a slip of our own: from here on this file is read-only and may be mapped.
        self.file
            .set_permissions(Permissions::from_mode(BLOB_MODE))
            .map_err(|cause| StoreError::io(doing("protect"), cause))?;
        self.file.sync_all().map_err(|cause| StoreError::io(doing("sync"), cause))?;
        // Only now does every file system know what the file takes.
        let metadata =
            self.file.metadata().map_err(|cause| StoreError::io(doing("look at"), cause))?;
        let dir = self.shared.shard_of(&digest)?;
        let blob = {
            let mut leases = self.shared.leases();
            let target = self.shared.blob_path(&digest);
            if stored_len(&target, &digest)? == Some(verified.len()) {
                // Another one was quicker. Ours is discarded.
                None
            } else {
                // One that cannot be right has its name, and loses it now.
                let replaced = fs::symlink_metadata(&target).ok();
                fs::rename(&self.path, &target)
                    .map_err(|cause| StoreError::io(doing("give its name to"), cause))?;
                self.renamed = true;
                if let Some(replaced) = replaced {
                    match leases.get(&digest) {
                        Some(lease) => lease.removed(),
                        None => self.shared.ledger.removed(allocated(&replaced)),
                    }
                }
                self.lease.stored(allocated(&metadata));
                leases.put(&digest, &self.lease);
                let (file, lease) = (Arc::clone(&self.file), Arc::clone(&self.lease));
                Some(self.shared.keep_open(&digest, file, verified.len(), lease))
            }
        };
        if let Some(blob) = blob {
            // The content is there, under its name, and right. Should the machine crash before the
            // name is on the disk, it is fetched again.
            if let Err(error) = sync_dir(&dir) {
                tracing::warn!(%digest, %error, "a blob's name may not survive a crash");
            }
            return Ok(blob);
        }
        match self.shared.open_blob(&digest)? {
            Some(blob) => Ok(blob),
            None => Err(StoreError::corrupt(doing("store"), "the blob vanished".to_owned())),
        }
    }
}

/// Reads until `buffer` is full or the file ends.
fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl Drop for FsSpool {
    fn drop(&mut self) {
        if self.renamed {
            return;
        }
        if let Err(cause) = fs::remove_file(&self.path) {
            // The next start removes it.
            tracing::warn!(path = %self.path.display(), error = %cause, "a spool file stays behind");
        }
    }
}
