//! Certificates, keys and authorities on disk: read, checked, and told from what they were.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificate::Facts;
use crate::clock::Timestamp;

/// The largest file of certificates or keys, in bytes.
pub const PEM_BYTES_MAX: usize = 4 << 20;

/// The most certificates of one chain.
const CHAIN_MAX: usize = 16;

/// Permission for others to read.
const READABLE_BY_OTHERS: u32 = 0o004;

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairFiles {
    /// The certificate, and behind it those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Whose certificates clients may show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authorities.
    pub authorities: PathBuf,
    /// Whether a client without a certificate is refused.
    pub required: bool,
}

/// A certificate with its key, checked.
#[derive(Clone, Debug)]
pub struct Pair {
    /// For rustls.
    pub key: Arc<CertifiedKey>,
    /// What the certificate says.
    pub facts: Facts,
}

/// What is wrong with certificates or keys. Never repeats their content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// The file of the certificate holds none.
    #[error("it holds no certificate in PEM form")]
    NoCertificate,
    /// A certificate cannot be read.
    #[error("{0}")]
    BadCertificate(String),
    /// The file of the key holds none.
    #[error("it holds no private key in PEM form (an encrypted one cannot be read)")]
    NoKey,
    /// The key cannot be used.
    #[error("its private key cannot be used: {0}")]
    BadKey(String),
    /// The key is another certificate's.
    #[error("its private key is not that of the certificate")]
    Mismatch,
    /// The certificate's time is over.
    #[error("its certificate expired on {0}")]
    Expired(String),
}

impl PairError {
    /// Whether it is about the key's file, and not the certificate's.
    pub const fn is_about_the_key(&self) -> bool {
        matches!(self, Self::NoKey | Self::BadKey(_) | Self::Mismatch)
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It cannot be used.
    #[error("cannot use {path}: {source}")]
    Content {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: PairError,
    },
}

/// The certificate and the key in PEM form, if they belong together and are good at `now`.
pub fn pair(certificate: &[u8], key: &[u8], now: Timestamp) -> Result<Pair, PairError> {
    let chain = certificates(certificate)?;
    let first = chain.first().ok_or(PairError::NoCertificate)?;
    let facts = Facts::of(first).map_err(PairError::BadCertificate)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| PairError::NoKey)?;
    let provider = rustls::crypto::ring::default_provider();
    let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => PairError::Mismatch,
        error => PairError::BadKey(error.to_string()),
    })?;
    if facts.expires <= now {
        return Err(PairError::Expired(date(facts.expires)));
    }
    Ok(Pair { key: Arc::new(key), facts })
}

/// The authorities in PEM form.
pub fn authorities(pem: &[u8]) -> Result<RootCertStore, PairError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| PairError::NoCertificate)?;
        let added = roots.add(certificate);
        added.map_err(|error| PairError::BadCertificate(error.to_string()))?;
    }
    if roots.is_empty() { Err(PairError::NoCertificate) } else { Ok(roots) }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PairError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).take(CHAIN_MAX).collect();
    chain.map_err(|_| PairError::NoCertificate)
}

/// A day and time for people.
fn date(time: Timestamp) -> String {
    let since = std::time::Duration::from_millis(time.unix_ms());
    httpdate::fmt_http_date(std::time::UNIX_EPOCH + since)
}

impl PairFiles {
    /// Reads both. Blocks.
    pub fn load(&self, now: Timestamp) -> Result<Pair, FilesError> {
        let (certificate, key) = (read(&self.certificate)?, read(&self.key)?);
        pair(&certificate, &key, now).map_err(|source| {
            let path =
                if source.is_about_the_key() { &self.key } else { &self.certificate }.clone();
            FilesError::Content { path, source }
        })
    }

    /// Whether everybody on this machine can read the key. Blocks.
    pub fn key_is_open(&self) -> bool {
        self.key.metadata().is_ok_and(|meta| meta.mode() & READABLE_BY_OTHERS != 0)
    }
}

impl ClientFiles {
    /// Reads the authorities. Blocks.
    pub fn load(&self) -> Result<RootCertStore, FilesError> {
        authorities(&read(&self.authorities)?)
            .map_err(|source| FilesError::Content { path: self.authorities.clone(), source })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FilesError> {
    let read = || {
        let mut content = Vec::new();
        File::open(path)?.take(PEM_BYTES_MAX as u64 + 1).read_to_end(&mut content)?;
        if content.len() > PEM_BYTES_MAX {
            let message = format!("it is larger than {PEM_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        Ok(content)
    };
    read().map_err(|source| FilesError::Read { path: path.to_owned(), source })
}

/// What tells one state of some files from another, without reading them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Vec<Option<FileStamp>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Also tells a file that was written in place and given its old time again.
    changed: (i64, i64),
}

impl Stamp {
    /// The state of `paths` now; symbolic links count as what they lead to. Blocks.
    pub fn of<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        let stamp = |meta: Metadata| FileStamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        };
        // A file that is not there is a state too.
        Self(paths.into_iter().map(|path| path.metadata().ok().map(stamp)).collect())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A certificate that is good for the year 2020, and its key, in PEM form.
    pub(in super::super) fn made(serial: u64) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        params.serial_number = Some(serial.into());
        let key = KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    /// A day of the year 2020.
    pub(in super::super) const NOW: Timestamp = Timestamp::from_unix_ms(1_590_000_000_000);

    #[test]
    fn a_pair_belongs_together_and_is_good() {
        let (certificate, key) = made(1);
        let pair = pair(certificate.as_bytes(), key.as_bytes(), NOW).unwrap();
        assert_eq!(pair.facts.dns_names, ["localhost"]);
        assert_eq!(pair.facts.serial, "01");
    }

    #[test]
    fn what_is_wrong_is_told() {
        let (certificate, key) = made(1);
        let (_, other) = made(2);
        let later = NOW.plus(std::time::Duration::from_secs(400 * 24 * 3600));
        let error = |certificate: &str, key: &str, now| {
            pair(certificate.as_bytes(), key.as_bytes(), now).unwrap_err()
        };
        assert_eq!(error(&certificate, &other, NOW), PairError::Mismatch);
        assert_eq!(error("", &key, NOW), PairError::NoCertificate);
        assert_eq!(error(&key, &key, NOW), PairError::NoCertificate);
        assert_eq!(error(&certificate, "", NOW), PairError::NoKey);
        assert_eq!(error(&certificate, &certificate, NOW), PairError::NoKey);
        let cut = certificate.replace("MII", "AAA");
        assert!(matches!(error(&cut, &key, NOW), PairError::BadCertificate(_)));
        let expired = error(&certificate, &key, later).to_string();
        assert!(expired.contains("01 Jan 2021"), "{expired}");
        assert!(authorities(b"nothing").is_err());
        assert_eq!(authorities(certificate.as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn any_way_of_replacing_a_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cert.pem");
        let stamp = || Stamp::of([path.as_path()]);
        let absent = stamp();
        std::fs::write(&path, "one").unwrap();
        let written = stamp();
        assert_ne!(absent, written);
        assert_eq!(written, stamp());
        // As Kubernetes does: the name stays, and what it leads to changes.
        for n in ["a", "b"] {
            std::fs::write(dir.path().join(n), "same").unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        symlink("a", &path).unwrap();
        let linked = stamp();
        symlink("b", dir.path().join("next")).unwrap();
        std::fs::rename(dir.path().join("next"), &path).unwrap();
        assert_ne!(linked, stamp());
    }

    #[test]
    fn a_key_for_everybody_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key.pem");
        std::fs::write(&key, "").unwrap();
        let files = PairFiles { certificate: key.clone(), key: key.clone() };
        for (mode, open) in [(0o600, false), (0o640, false), (0o644, true)] {
            std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(files.key_is_open(), open, "{mode:o}");
        }
    }
}
