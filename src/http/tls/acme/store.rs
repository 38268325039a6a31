//! What ACME keeps: the account, the certificate with its key, and when to try again.
//!
//! One folder for each directory, so that a change of the directory (say, from a test one to the
//! real one) never shows the other's certificate, and a change back finds its account again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::super::files::{Pair, PairError, pair};
use crate::clock::Timestamp;

/// The largest of these files, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How much of the digest of the directory's URL stands in the folder's name, in bytes.
const FOLDER_DIGEST_BYTES: usize = 8;

/// The account: its URL at the directory and its private key.
const ACCOUNT: &str = "account.json";

/// The key and the certificates in one file, so that they are always replaced together.
const CERTIFICATE: &str = "certificate.pem";

/// When to try again.
const TRIES: &str = "tries.json";

/// The folder of one directory. All functions block.
#[derive(Clone, Debug)]
pub(super) struct AcmeStore {
    folder: PathBuf,
}

/// How the last tries went: it outlives restarts, so that a process that crashes again and again
/// does not hammer the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tries {
    /// Tries that failed, one after the other.
    pub(super) failures: u32,
    /// When the last one began, in milliseconds since 1970.
    pub(super) last_unix_ms: u64,
    /// When the next one is due, in milliseconds since 1970.
    pub(super) next_unix_ms: u64,
    /// Until when the directory asked us to stay away, in milliseconds since 1970.
    pub(super) barred_unix_ms: u64,
    /// When the certificate is to be renewed, in milliseconds since 1970; 0 if there is none.
    #[serde(default)]
    pub(super) renew_unix_ms: u64,
    /// For which domains they were.
    #[serde(default)]
    pub(super) domains: Vec<String>,
    /// Why the last one failed.
    pub(super) error: String,
}

impl AcmeStore {
    /// The folder for `directory` below `root`, which is made if it is not there.
    pub(super) fn open(root: &Path, directory: &Url) -> io::Result<Self> {
        let digest = Sha256::digest(directory.as_str());
        let digest = hex::encode(&digest[..FOLDER_DIGEST_BYTES]);
        let host = directory.host_str().unwrap_or_default();
        let host: String = host
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' })
            .collect();
        let folder = root.join(format!("{host}-{digest}"));
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(Self { folder })
    }

    /// The account's credentials, as they were written.
    pub(super) fn account(&self) -> io::Result<Option<Vec<u8>>> {
        self.read(ACCOUNT)
    }

    /// Keeps the account's credentials.
    pub(super) fn set_account(&self, credentials: &[u8]) -> io::Result<()> {
        self.write(ACCOUNT, credentials)
    }

    /// Forgets the account: the directory does not know it.
    pub(super) fn forget_account(&self) -> io::Result<()> {
        fs::remove_file(self.folder.join(ACCOUNT))
    }

    /// The certificate, if there is one that is good at `now`.
    pub(super) fn certificate(
        &self,
        now: Timestamp,
    ) -> io::Result<Option<Result<Pair, PairError>>> {
        let content = self.read(CERTIFICATE)?;
        Ok(content.map(|pem| pair(&pem, &pem, now)))
    }

    /// Keeps the certificate with its key.
    pub(super) fn set_certificate(&self, key: &str, chain: &str) -> io::Result<()> {
        self.write(CERTIFICATE, format!("{}\n{chain}", key.trim_end()).as_bytes())
    }

    /// How the last tries went. A file that cannot be understood says nothing.
    pub(super) fn tries(&self) -> io::Result<Tries> {
        let content = self.read(TRIES)?.unwrap_or_default();
        Ok(serde_json::from_slice(&content).unwrap_or_default())
    }

    /// Keeps how the last tries went.
    pub(super) fn set_tries(&self, tries: &Tries) -> io::Result<()> {
        self.write(TRIES, &serde_json::to_vec(tries)?)
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.folder.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut content = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut content)?;
        Ok(Some(content))
    }

    /// All of it or nothing, also if the power fails.
    fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let next = self.folder.join(format!("{name}.new"));
        // One that a crash left behind may have other rights.
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&next, self.folder.join(name))?;
        File::open(&self.folder)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::super::files::tests::{NOW, made};
    use super::*;

    fn store(dir: &Path, directory: &str) -> AcmeStore {
        AcmeStore::open(&dir.join("acme"), &directory.parse().unwrap()).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_again_by_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = ("https://ca.example/dir", "https://ca.example/test");
        let kept = store(dir.path(), one);
        assert_eq!(kept.account().unwrap(), None);
        assert_eq!(kept.tries().unwrap(), Tries::default());
        assert!(kept.certificate(NOW).unwrap().is_none());
        let (chain, key) = made(5);
        kept.set_account(b"first").unwrap();
        kept.set_account(b"account").unwrap();
        kept.set_certificate(&key, &chain).unwrap();
        let tries = Tries { failures: 3, error: "why".into(), ..Tries::default() };
        kept.set_tries(&tries).unwrap();
        let again = store(dir.path(), one);
        assert_eq!(again.account().unwrap().unwrap(), b"account");
        assert_eq!(again.certificate(NOW).unwrap().unwrap().unwrap().facts.serial, "05");
        assert_eq!(again.tries().unwrap(), tries);
        assert_eq!(store(dir.path(), other).account().unwrap(), None);
        for entry in fs::read_dir(&kept.folder).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::metadata(&kept.folder).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_a_crash_left_behind_is_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let kept = store(dir.path(), "https://ca.example/");
        fs::write(kept.folder.join("account.json.new"), "half").unwrap();
        fs::write(kept.folder.join(TRIES), "{half").unwrap();
        kept.set_account(b"whole").unwrap();
        assert_eq!(kept.account().unwrap().unwrap(), b"whole");
        assert_eq!(kept.tries().unwrap(), Tries::default());
        kept.forget_account().unwrap();
        assert_eq!(kept.account().unwrap(), None);
    }
}
