//! Plugins and policies in files of this machine.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::verify::{PublicKey, SIGNATURE_BYTES_MAX};
use crate::hooks::chain::Broke;

/// The largest plugin, in bytes.
pub(super) const PLUGIN_BYTES_MAX: usize = 64 << 20;

/// The largest policy in a text file, in bytes.
pub(super) const POLICY_BYTES_MAX: usize = 1 << 20;

/// Write permissions of those who are not the owner.
const OTHERS_MAY_WRITE: u32 = 0o022;

/// What is seen of a file without reading it. Equal stamps mean that nothing was written, and that
/// nobody may write it who could not before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Option<(u64, u64, u64, i64, i64)>);

impl Stamp {
    pub(super) fn of(path: &Path) -> Self {
        let stamp = |found: Metadata| {
            (found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec())
        };
        Self(std::fs::metadata(path).ok().map(stamp))
    }
}

/// Reads a file that decides what others may do. Blocks.
///
/// # Errors
/// [`Broke::Fetch`]: it cannot be read, is too large, or others than its owner can write it.
pub(super) fn read(path: &Path, bytes_max: usize) -> Result<Bytes, Broke> {
    let shown = path.display();
    let cannot = |error: io::Error| Broke::Fetch(format!("cannot read {shown}: {error}"));
    let file = File::open(path).map_err(cannot)?;
    // Of the file that was opened, not of what the path means by then.
    let found = file.metadata().map_err(cannot)?;
    if !found.is_file() {
        return Err(Broke::Fetch(format!("{shown} is no file")));
    }
    let mode = found.permissions().mode() & 0o7777;
    if mode & OTHERS_MAY_WRITE != 0 {
        return Err(Broke::Fetch(format!(
            "{shown} can be written by others than its owner (mode {mode:04o}): whoever writes it \
             decides what this registry does; `chmod go-w {shown}`"
        )));
    }
    let mut content = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut content).map_err(cannot)?;
    if content.len() > bytes_max {
        return Err(Broke::Fetch(format!("{shown} is larger than {bytes_max} bytes")));
    }
    Ok(content.into())
}

/// Where the signature of a file is.
pub(super) fn signature_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Checks the detached signature beside a file. Blocks.
///
/// # Errors
/// [`Broke::Signature`].
pub(super) fn verify(path: &Path, content: &[u8], key: &PublicKey) -> Result<(), Broke> {
    let beside = signature_of(path);
    let shown = beside.display();
    let signature = read(&beside, SIGNATURE_BYTES_MAX)
        .map_err(|error| Broke::Signature(format!("{error} (a detached signature is wanted)")))?;
    if key.has_signed(content, &signature) {
        return Ok(());
    }
    Err(Broke::Signature(format!("{shown} is no signature of it by the key {key:?}")))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::super::verify::tests::Signer;
    use super::*;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.wasm");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn what_others_can_write_is_not_read() {
        for (mode, is_read) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            let (_dir, path) = file(b"x", mode);
            let read = read(&path, 10);
            assert_eq!(read.is_ok(), is_read, "{mode:o}");
            if let Err(error) = read {
                assert!(error.to_string().contains("chmod go-w"), "{error}");
            }
        }
    }

    #[test]
    fn files_are_bounded_and_files() {
        let (dir, path) = file(b"0123456789", 0o600);
        assert!(read(&path, 10).is_ok());
        assert!(read(&path, 9).unwrap_err().to_string().contains("larger than 9 bytes"));
        assert!(read(dir.path(), 10).is_err());
        assert!(matches!(read(&dir.path().join("none"), 10), Err(Broke::Fetch(_))));
    }

    #[test]
    fn a_signature_stands_beside_its_file() {
        let (_dir, path) = file(b"plugin", 0o600);
        let (signer, other) = (Signer::p256(), Signer::p256());
        assert!(matches!(verify(&path, b"plugin", &signer.key()), Err(Broke::Signature(_))));
        fs::write(signature_of(&path), signer.sign(b"plugin")).unwrap();
        fs::set_permissions(signature_of(&path), Permissions::from_mode(0o600)).unwrap();
        assert_eq!(verify(&path, b"plugin", &signer.key()), Ok(()));
        assert!(matches!(verify(&path, b"plugin", &other.key()), Err(Broke::Signature(_))));
        assert!(matches!(verify(&path, b"plugout", &signer.key()), Err(Broke::Signature(_))));
    }

    #[test]
    fn a_stamp_tells_that_a_file_or_its_mode_was_written() {
        let (_dir, path) = file(b"a", 0o600);
        let before = Stamp::of(&path);
        assert_eq!(Stamp::of(&path), before);
        fs::write(&path, b"ab").unwrap();
        let written = Stamp::of(&path);
        assert_ne!(written, before);
        fs::set_permissions(&path, Permissions::from_mode(0o620)).unwrap();
        assert_ne!(Stamp::of(&path), written, "others may write it now");
        fs::remove_file(&path).unwrap();
        assert_eq!(Stamp::of(&path), Stamp(None));
    }
}
