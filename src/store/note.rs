//! Small notes of the process to its next run, one file each.
//!
//! For what is nice to know again and costs little to lose. Content and knowledge about it have
//! their own stores.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{StoreError, blocking};

/// The longest note, in bytes.
pub const NOTE_BYTES_MAX: u64 = 64 << 10;

/// Nobody but the owner writes, the group may look.
const NOTE_MODE: u32 = 0o640;

/// A note of one name. Cheap to clone. One writer at a time.
#[derive(Clone, Debug)]
pub struct Note(Arc<PathBuf>);

impl Note {
    /// The note `name` (a file name of ours) in the storage at `root`, written or not.
    pub fn new(root: &Path, name: &'static str) -> Self {
        Self(Arc::new(root.join(name)))
    }

    /// What it says, or `None` if it was never written. A note longer than [`NOTE_BYTES_MAX`] is
    /// an error. Cancel-safe.
    pub async fn read(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let path = Arc::clone(&self.0);
        blocking("read a note", move || {
            let failed = |cause| StoreError::io(format!("read {}", path.display()), cause);
            let file = match File::open(path.as_path()) {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
                file => file.map_err(failed)?,
            };
            let mut text = Vec::new();
            file.take(NOTE_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
            if text.len() as u64 > NOTE_BYTES_MAX {
                return Err(StoreError::corrupt(
                    format!("read {}", path.display()),
                    format!("it is longer than {NOTE_BYTES_MAX} bytes"),
                ));
            }
            Ok(Some(text))
        })
        .await
    }

    /// Replaces what it says. After a crash it is the old or the new note, whole. Cancel-safe: it
    /// is written also if the future is dropped.
    pub async fn write(&self, text: Vec<u8>) -> Result<(), StoreError> {
        let path = Arc::clone(&self.0);
        blocking("write a note", move || {
            let on_its_way = path.with_extension("new");
            let write = || {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(NOTE_MODE);
                let mut file = options.open(&on_its_way)?;
                file.write_all(&text)?;
                file.sync_all()?;
                fs::rename(&on_its_way, path.as_path())
            };
            write().map_err(|cause| StoreError::io(format!("write {}", path.display()), cause))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn a_note_is_read_by_the_next_run() {
        let root = TempDir::new().unwrap();
        let note = Note::new(root.path(), "a.json");
        assert_eq!(note.read().await.unwrap(), None);
        note.write(b"one".to_vec()).await.unwrap();
        note.write(b"two".to_vec()).await.unwrap();
        assert_eq!(Note::new(root.path(), "a.json").read().await.unwrap().unwrap(), b"two");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_note_that_somebody_made_huge_is_refused() {
        let root = TempDir::new().unwrap();
        fs::write(root.path().join("a.json"), vec![b' '; NOTE_BYTES_MAX as usize + 1]).unwrap();
        assert!(Note::new(root.path(), "a.json").read().await.is_err());
    }
}
