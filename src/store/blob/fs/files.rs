//! Files and directories with the rights and the durability that the store wants.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::store::{StoreError, StoreErrorKind};

/// Directories: nobody but the owner writes, the group may look (backups).
pub(super) const DIR_MODE: u32 = 0o750;
/// Files on their way in.
pub(super) const SPOOL_MODE: u32 = 0o640;
/// Committed files: nobody writes.
pub(super) const BLOB_MODE: u32 = 0o440;

pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
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

pub(super) fn create_dirs(path: &Path) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)
        .map_err(|cause| StoreError::io(format!("create {}", path.display()), cause))
}

pub(super) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(SPOOL_MODE).open(path)
}

/// Makes the names in a directory survive a crash.
pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|cause| StoreError::io(format!("sync {}", path.display()), cause))
}

/// The names in a directory; those that are no UTF-8 are none of ours. What is not there, or no
/// directory, has none.
pub(super) fn file_names(dir: &Path) -> Result<Vec<String>, StoreError> {
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
