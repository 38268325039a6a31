//! Small files that nobody but the user who runs Pierhead may read: tokens and keys.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Who may read and write such a file: its owner.
pub const PRIVATE_MODE: u32 = 0o600;

/// The permissions of everybody but the owner.
const OTHERS: u32 = 0o077;

/// Permissions of those who are neither its owner nor of its group.
const EVERYBODY: u32 = 0o007;

/// What could not be done with a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}: {source}", path.display())]
pub struct FileError {
    /// What was tried.
    pub doing: &'static str,
    /// Which file.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

/// Whether there is such a file.
///
/// One that others may read becomes private, with a warning that calls it `what`: whoever could
/// read it may have done so, and only the operator knows whether that matters. One that is brought
/// along and cannot be changed, such as a mounted secret, may be readable by its group, and by
/// nobody else.
///
/// # Errors
/// When it cannot be looked at or protected.
pub fn find(path: &Path, what: &str) -> Result<bool, FileError> {
    // Of a link, what it leads to counts.
    let mode = match fs::metadata(path) {
        Ok(found) => found.permissions().mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("read", path)(error)),
    };
    if mode & OTHERS == 0 {
        return Ok(true);
    }
    let shown = format!("{:03o}", mode & 0o777);
    match fs::set_permissions(path, Permissions::from_mode(PRIVATE_MODE)) {
        Ok(()) => tracing::warn!(
            path = %path.display(),
            mode = shown,
            "others could read {what}; the file is private now. If somebody may have read it, \
             remove it and restart"
        ),
        Err(error) if mode & EVERYBODY == 0 => tracing::warn!(
            path = %path.display(), mode = shown, %error,
            "the group of this file can read {what}"
        ),
        Err(error) => return Err(failed("protect", path)(error)),
    }
    Ok(true)
}

/// What stands in it, up to `bytes_max`.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(bytes_max).read_to_end(&mut content))
        .map_err(failed("read", path))?;
    Ok(content)
}

/// Writes or replaces it: whole or not at all, and never readable by others. One writer at a time.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let unfinished = path.with_file_name(name);
    // What a crash left behind may have other permissions.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", &unfinished)(error));
        }
        _ => {}
    }
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(PRIVATE_MODE).open(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)
    };
    write().map_err(failed("write", path))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_written_is_private_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        assert!(!find(&path, "a key").unwrap());
        // What a crash left behind does not disturb, nor lend its permissions.
        fs::write(dir.path().join("a.key.new"), "half").unwrap();
        write(&path, b"one").unwrap();
        write(&path, b"other").unwrap();
        assert_eq!((read(&path, 100).unwrap().as_slice(), mode(&path)), (&b"other"[..], 0o600));
        assert_eq!(read(&path, 2).unwrap(), b"ot");
        assert!(!dir.path().join("a.key.new").exists());
    }

    #[test]
    fn what_others_can_read_becomes_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert!(find(&path, "a key").unwrap());
        assert_eq!(mode(&path), PRIVATE_MODE);
    }

    #[test]
    fn what_is_no_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = read(dir.path(), 1).unwrap_err();
        assert_eq!(error.doing, "read");
        assert!(write(&dir.path().join("none").join("a"), b"").is_err());
    }
}
