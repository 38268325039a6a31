//! The last good version of each mount's plugin, for a start at which its source fails.
//!
//! `<storage>/plugins/NAME.wasm`, and beside it `NAME.json` that says what it is. It is used only
//! for the place that it came from, and only if whoever has to sign it has signed it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::file::PLUGIN_BYTES_MAX;
use super::source::Source;
use super::verify::PublicKey;
use crate::oci::Digest;

/// The folder below `storage.path`.
const FOLDER: &str = "plugins";

/// The key that vouches for compiled code.
const KEY_FILE: &str = "compiled.key";

/// The folder of compiled code.
const COMPILED_FOLDER: &str = "compiled";

/// The permissions of files here.
const FILE_MODE: u32 = 0o600;

/// The permissions of folders here.
const FOLDER_MODE: u32 = 0o700;

/// The largest note beside a plugin, in bytes.
const NOTE_BYTES_MAX: u64 = 16 << 10;

/// The folder. Everything here blocks.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    folder: PathBuf,
}

/// What is written beside a plugin.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    digest: Digest,
    /// Where it came from, without what changes with every version.
    place: String,
    /// The key that signed it.
    signed_by: Option<String>,
}

/// Where a source leads, whatever version it names.
fn place(source: &Source) -> String {
    match source {
        Source::Oci(artifact) => format!("oci:{}/{}", artifact.upstream, artifact.repository),
        other => other.to_string(),
    }
}

impl Kept {
    /// Opens the folder, and makes it if there is none.
    pub(super) fn open(storage: &Path) -> io::Result<Self> {
        let folder = storage.join(FOLDER);
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&folder)?;
        Ok(Self { folder })
    }

    /// Keeps a plugin that was just loaded.
    pub(super) fn put(
        &self,
        name: &str,
        source: &Source,
        wasm: &[u8],
        key: Option<&PublicKey>,
    ) -> io::Result<()> {
        let note = Note {
            digest: Digest::sha256(wasm),
            place: place(source),
            signed_by: key.map(PublicKey::fingerprint),
        };
        if self.note(name).is_some_and(|known| known == note) {
            return Ok(());
        }
        let text = serde_json::to_vec(&note)?;
        // The note last: it vouches for what stands beside it by its digest.
        self.write(&format!("{name}.wasm"), wasm)?;
        self.write(&format!("{name}.json"), &text)
    }

    /// The plugin that was kept for this mount, if it may take the place of what `source` says.
    pub(super) fn get(
        &self,
        name: &str,
        source: &Source,
        key: Option<&PublicKey>,
    ) -> Option<Bytes> {
        let note = self.note(name)?;
        let signed = key.is_none_or(|key| note.signed_by == Some(key.fingerprint()));
        if note.place != place(source) || !signed {
            return None;
        }
        let file = File::open(self.folder.join(format!("{name}.wasm"))).ok()?;
        let mut wasm = Vec::new();
        file.take(PLUGIN_BYTES_MAX as u64).read_to_end(&mut wasm).ok()?;
        (Digest::sha256(&wasm) == note.digest).then(|| wasm.into())
    }

    fn note(&self, name: &str) -> Option<Note> {
        let file = File::open(self.folder.join(format!("{name}.json"))).ok()?;
        let mut text = Vec::new();
        file.take(NOTE_BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = self.folder.join(format!("{name}.new"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(FILE_MODE);
        let mut file = options.open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, self.folder.join(name))
    }

    /// Where compiled code is kept, and the key that vouches for it, made if there is none.
    pub(super) fn compiled(&self) -> io::Result<(PathBuf, [u8; 32])> {
        let path = self.folder.join(KEY_FILE);
        let mut key = [0; 32];
        let known = File::open(&path).and_then(|mut file| file.read_exact(&mut key));
        if known.is_err() {
            getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
            self.write(KEY_FILE, &key)?;
        }
        Ok((self.folder.join(COMPILED_FOLDER), key))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::verify::tests::Signer;
    use super::*;

    fn oci(digest: &str) -> Source {
        format!("oci:ghcr.io/acme/rules@{}", Digest::sha256(digest.as_bytes())).parse().unwrap()
    }

    #[test]
    fn a_kept_plugin_stands_in_for_other_versions_of_its_own_place() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        assert_eq!(kept.get("m", &oci("1"), None), None);
        kept.put("m", &oci("1"), b"plugin", None).unwrap();
        let plugin = Some(Bytes::from_static(b"plugin"));
        assert_eq!(kept.get("m", &oci("1"), None), plugin);
        assert_eq!(kept.get("m", &oci("2"), None), plugin);
        assert_eq!(kept.get("n", &oci("1"), None), None);
        assert_eq!(kept.get("m", &"builtin:rules".parse().unwrap(), None), None);
        // What was not signed when it was kept is not good enough for whoever wants it signed.
        let signer = Signer::p256();
        assert_eq!(kept.get("m", &oci("1"), Some(&signer.key())), None);
        kept.put("m", &oci("1"), b"plugin", Some(&signer.key())).unwrap();
        assert_eq!(kept.get("m", &oci("1"), Some(&signer.key())), plugin);
        assert_eq!(kept.get("m", &oci("1"), Some(&Signer::p256().key())), None);
        // Nor is what was changed.
        fs::write(dir.path().join("plugins/m.wasm"), b"another").unwrap();
        assert_eq!(kept.get("m", &oci("1"), None), None);
    }

    #[test]
    fn nobody_else_reads_it_and_the_key_stays() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::open(dir.path()).unwrap();
        kept.put("m", &oci("1"), b"plugin", None).unwrap();
        let (folder, key) = kept.compiled().unwrap();
        assert_eq!(Kept::open(dir.path()).unwrap().compiled().unwrap(), (folder, key));
        assert_ne!(key, [0; 32]);
        for (file, mode) in
            [("", 0o700), ("m.wasm", 0o600), ("m.json", 0o600), ("compiled.key", 0o600)]
        {
            let path = dir.path().join("plugins").join(file);
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode, "{file}");
        }
    }
}
