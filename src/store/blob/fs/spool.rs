//! A spool file and its way into the store.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::read::GrowingFile;
use super::{BLOB_MODE, Shared, create_new, stored_len, sync_dir};
use crate::oci::Verified;
use crate::store::StoreError;
use crate::store::blob::{Blob, ReadAt, Spool, check_len};

#[derive(Debug)]
pub(super) struct FsSpool {
    shared: Arc<Shared>,
    path: PathBuf,
    file: Arc<File>,
    /// The file has its blob's name: there is nothing to discard any more.
    renamed: bool,
}

impl FsSpool {
    pub(super) fn create(shared: Arc<Shared>, path: PathBuf) -> Result<Self, StoreError> {
        let file = create_new(&path)
            .map_err(|cause| StoreError::io(format!("create {}", path.display()), cause))?;
        Ok(Self { shared, path, file: Arc::new(file), renamed: false })
    }
}

impl Spool for FsSpool {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        Arc::new(GrowingFile::new(Arc::clone(&self.file)))
    }

    fn commit(mut self: Box<Self>, verified: Verified) -> Result<Blob, StoreError> {
        let doing = |what: &str| format!("{what} {}", self.path.display());
        let removals = self.shared.removals.load(Ordering::SeqCst);
        let metadata =
            self.file.metadata().map_err(|cause| StoreError::io(doing("look at"), cause))?;
        check_len(&verified, metadata.len())?;

        let target = self.shared.blob_path(verified.digest());
        if stored_len(&target, verified.digest())? == Some(verified.len())
            && let Some(blob) = self.shared.open_blob(verified.digest())?
        {
            return Ok(blob);
        }
        // Also against a slip of our own: from here on this file is read-only and may be mapped.
        self.file
            .set_permissions(Permissions::from_mode(BLOB_MODE))
            .map_err(|cause| StoreError::io(doing("protect"), cause))?;
        self.file.sync_all().map_err(|cause| StoreError::io(doing("sync"), cause))?;
        let dir = self.shared.rename_into_place(&self.path, verified.digest())?;
        self.renamed = true;
        sync_dir(&dir)?;
        let file = Arc::clone(&self.file);
        Ok(self.shared.keep_open(verified.digest(), file, verified.len(), removals))
    }
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
