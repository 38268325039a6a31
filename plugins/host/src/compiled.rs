//! Compiled code on disk, so that a restart does not compile again.
//!
//! A file is named by what it was made of, and carries a MAC over that and over itself. Whatever
//! does not match is taken for nothing: the plugin is compiled again and the file replaced. Nothing
//! here comes from outside, and nothing goes there.

mod trusted;

use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{Hash as _, Hasher};
use std::io::Write as _;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::host::CompiledCache;
use crate::plugin::Isolation;

/// All files together, in bytes, at most.
const CACHE_BYTES_MAX: u64 = 1 << 30;

/// A file, in bytes, at most.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// What the end of a file's name says.
const EXTENSION: &str = "compiled";

/// Raised whenever what is kept changes its meaning.
const FORMAT: &str = "pierhead compiled plugin 2";

const MAC_BYTES: usize = 32;

/// What compiled code was made of.
pub(crate) struct Origin<'a> {
    /// The plugin's digest.
    pub(crate) plugin: &'a str,
    /// Its settings, as it was told them.
    pub(crate) settings: &'a str,
    /// How much memory it may have, in bytes: what `configure` does may depend on it.
    pub(crate) memory_bytes: usize,
    pub(crate) engine: &'a Engine,
}

/// What is kept besides the code.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// Why there is no snapshot, if there is none.
    refused: Option<String>,
    configured: bool,
}

impl Note {
    fn of(isolation: &Isolation) -> Self {
        match isolation {
            Isolation::Snapshot => Self { refused: None, configured: true },
            Isolation::ConfigurePerCall(why) => {
                Self { refused: Some(why.clone()), configured: true }
            }
            Isolation::Plain => Self { refused: None, configured: false },
        }
    }

    fn isolation(self) -> Isolation {
        match (self.refused, self.configured) {
            (Some(why), _) => Isolation::ConfigurePerCall(why),
            (None, true) => Isolation::Snapshot,
            (None, false) => Isolation::Plain,
        }
    }
}

/// A directory of compiled code, if there is one that can be trusted.
pub(crate) struct Compiled {
    dir: PathBuf,
    key: hmac::Key,
}

impl Compiled {
    /// Makes the directory, or looks whether it is the process's own.
    pub(crate) fn open(cache: &CompiledCache) -> std::io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(&cache.dir)?;
        let found = fs::symlink_metadata(&cache.dir)?;
        if let Some(why) =
            distrust(found.uid(), found.permissions().mode(), rustix::process::geteuid().as_raw())
        {
            return Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, why));
        }
        Ok(Self { dir: cache.dir.clone(), key: hmac::Key::new(hmac::HMAC_SHA256, &cache.key) })
    }

    fn path(&self, name: &[u8; 32]) -> PathBuf {
        self.dir.join(hex::encode(name)).with_extension(EXTENSION)
    }

    /// The code that was made of this, if it is here and whole.
    pub(crate) fn get(&self, origin: &Origin<'_>) -> Option<(Component, Isolation)> {
        let name = origin.name();
        let path = self.path(&name);
        let length = fs::metadata(&path).ok()?.len();
        let file = if length <= FILE_BYTES_MAX { fs::read(&path).ok() } else { None };
        let found = file.and_then(|file| {
            let body = self.verified(&name, &file)?;
            let (note, code) = note(body)?;
            match trusted::component(origin.engine, trusted::Own::verified(code)) {
                Ok(component) => Some((component, note.isolation())),
                Err(error) => {
                    tracing::warn!(%error, "compiled code does not fit the engine");
                    None
                }
            }
        });
        if found.is_none() {
            tracing::warn!(path = %path.display(), "compiled code is damaged or not ours; compiling");
            // It is replaced anyway; if it cannot be removed, it is refused again.
            let _ = fs::remove_file(&path);
        }
        found
    }

    fn verified<'a>(&self, name: &[u8; 32], file: &'a [u8]) -> Option<&'a [u8]> {
        let (mac, body) = file.split_at_checked(MAC_BYTES)?;
        hmac::verify(&self.key, &covered(name, body), mac).ok()?;
        Some(body)
    }

    /// Keeps code. What goes wrong costs a compilation later, and is only logged.
    pub(crate) fn put(&self, origin: &Origin<'_>, component: &Component, isolation: &Isolation) {
        if let Err(error) = self.write(origin, component, isolation) {
            tracing::warn!(%error, dir = %self.dir.display(), "compiled code cannot be kept");
        }
        if let Err(error) = shrink(&self.dir, CACHE_BYTES_MAX) {
            tracing::warn!(%error, dir = %self.dir.display(), "old compiled code cannot be removed");
        }
    }

    fn write(
        &self,
        origin: &Origin<'_>,
        component: &Component,
        isolation: &Isolation,
    ) -> std::io::Result<()> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let code = component.serialize().map_err(std::io::Error::other)?;
        let note = serde_json::to_vec(&Note::of(isolation))?;
        let length = u32::try_from(note.len()).map_err(std::io::Error::other)?;
        if code.len() as u64 > FILE_BYTES_MAX {
            tracing::debug!(bytes = code.len(), "compiled code is too large to be kept");
            return Ok(());
        }
        let body = [&length.to_le_bytes(), note.as_slice(), &code].concat();
        let name = origin.name();
        let mac = hmac::sign(&self.key, &covered(&name, &body));
        let number = NUMBER.fetch_add(1, Relaxed);
        let temporary = self.dir.join(format!("{}-{number}.part", run()?));
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let written = file
            .write_all(mac.as_ref())
            .and_then(|()| file.write_all(&body))
            .and_then(|()| fs::rename(&temporary, self.path(&name)));
        if written.is_err() {
            // The first error says more than this one could.
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

/// Why a directory with this owner and mode is not used, if it is not.
fn distrust(owner: u32, mode: u32, me: u32) -> Option<&'static str> {
    if owner != me {
        Some("it belongs to another user")
    } else if mode & 0o077 != 0 {
        Some("others may read or write it; it has to have mode 0700")
    } else {
        None
    }
}

/// What the names of this run's unfinished files begin with. A number of the process would be the
/// same in every container.
fn run() -> std::io::Result<&'static str> {
    static RUN: OnceLock<String> = OnceLock::new();
    if let Some(run) = RUN.get() {
        return Ok(run);
    }
    let mut id = [0; 16];
    let no_numbers = |_| std::io::Error::other("the system has no random numbers");
    SystemRandom::new().fill(&mut id).map_err(no_numbers)?;
    Ok(RUN.get_or_init(|| hex::encode(id)))
}

/// What a MAC stands for: the body alone could be moved to another name.
fn covered(name: &[u8; 32], body: &[u8]) -> [u8; 64] {
    let mut covered = [0; 64];
    let (first, second) = covered.split_at_mut(32);
    first.copy_from_slice(name);
    second.copy_from_slice(&Sha256::digest(body));
    covered
}

fn note(body: &[u8]) -> Option<(Note, &[u8])> {
    let (length, rest) = body.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (note, code) = rest.split_at_checked(length)?;
    Some((serde_json::from_slice(note).ok()?, code))
}

impl Origin<'_> {
    fn name(&self) -> [u8; 32] {
        let mut hash = Bytes(Sha256::new());
        for part in [FORMAT, env!("CARGO_PKG_VERSION"), self.plugin, self.settings] {
            hash.0.update((part.len() as u64).to_le_bytes());
            hash.0.update(part);
        }
        hash.0.update((self.memory_bytes as u64).to_le_bytes());
        self.engine.precompile_compatibility_hash().hash(&mut hash);
        hash.0.finalize().into()
    }
}

/// Feeds what wasmtime hashes to a hash that cannot be guessed.
struct Bytes(Sha256);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
    }
}

/// Removes the oldest files until the rest is small enough, and what a crash left behind.
fn shrink(dir: &Path, bytes_max: u64) -> std::io::Result<()> {
    let ours = format!("{}-", run()?);
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let Some(extension) = path.extension().and_then(|extension| extension.to_str()) else {
            continue;
        };
        let abandoned =
            extension == "part" && !entry.file_name().to_string_lossy().starts_with(&ours);
        if abandoned {
            fs::remove_file(&path)?;
        } else if extension == EXTENSION {
            let metadata = entry.metadata()?;
            files.push((metadata.modified()?, metadata.len(), path));
        }
    }
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    // The newest stays, whatever its size.
    files.pop();
    for (_, length, path) in files {
        if bytes <= bytes_max {
            break;
        }
        fs::remove_file(path)?;
        bytes = bytes.saturating_sub(length);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, seconds) in [("a", 1), ("b", 2), ("c", 3)] {
            let path = dir.path().join(name).with_extension(EXTENSION);
            fs::write(&path, [0; 100]).expect("written");
            let file = OpenOptions::new().write(true).open(&path).expect("there");
            let then = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            file.set_modified(then).expect("set");
        }
        fs::write(dir.path().join("0-0.part"), "left by a crash").expect("written");
        let ours = dir.path().join(format!("{}-9.part", run().expect("random")));
        fs::write(&ours, "being written").expect("written");
        shrink(dir.path(), 200).expect("removed");
        let left = |name: &str| dir.path().join(name).exists();
        assert!(!left("a.compiled") && left("b.compiled") && left("c.compiled"));
        assert!(!left("0-0.part") && ours.exists());
        shrink(dir.path(), 0).expect("removed");
        assert!(!left("b.compiled") && left("c.compiled"), "the newest stays");
    }

    #[test]
    fn a_directory_of_another_user_is_not_used() {
        assert_eq!(distrust(7, 0o40700, 7), None);
        assert!(distrust(0, 0o40700, 7).is_some());
        assert!(distrust(7, 0o40710, 7).is_some() && distrust(7, 0o40702, 7).is_some());
    }
}
