//! Stored blobs that turn out to be damaged when they are read.
//!
//! Disks forget, and files get cut. An answer that runs into that ends short, because the bytes
//! are not there to complete it. Then the blob is looked into, once for all its readers and as a
//! task of the process; what is not its digest's content is taken out of the store, so that the
//! next request fetches it anew.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;
use rustix::io::Errno;

use super::follow::{MAPPED_BYTES_MAX, ReadError, read_exactly};
use crate::background::Tasks;
use crate::oci::{Digest, Hasher};
use crate::single_flight::SingleFlight;
use crate::store::{Blob, BlobStore, Hot};

/// What is read and hashed at a time, in bytes.
const CHUNK_BYTES: usize = 1 << 20;

/// For how long a blob that was found intact is not looked into again because a manifest promises
/// another size: manifests are anybody's.
const INTACT_FOR: Duration = Duration::from_secs(600);

/// Blobs that are remembered to be intact.
const INTACT_MAX: u64 = 1024;

/// What the system says of content that a disk has lost, beside `EIO`: checksums of file systems
/// that do not match, and blocks without data.
const LOST: [Errno; 4] = [Errno::IO, Errno::BADMSG, Errno::UCLEAN, Errno::NODATA];

/// Looks into blobs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Damage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: Arc<dyn BlobStore>,
    hot: Hot,
    tasks: Tasks,
    looks: SingleFlight<Digest, Found>,
    intact: Cache<Digest, ()>,
}

/// What a stored blob turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Its digest's content.
    Intact,
    /// Something else; it is not in the store any more.
    TakenOut,
    /// Something else, and it could not be taken out.
    Stays,
    /// Not there.
    Absent,
    /// It could not be read for a reason that says nothing about it.
    Unknown,
}

impl Damage {
    /// Takes damaged blobs out of `blobs` and `hot`.
    pub fn new(blobs: Arc<dyn BlobStore>, hot: Hot, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            blobs,
            hot,
            looks: SingleFlight::new("damage_look", tasks.clone()),
            tasks,
            intact: Cache::builder().max_capacity(INTACT_MAX).time_to_live(INTACT_FOR).build(),
        }))
    }

    /// The blob's content could not be read, or sent, at or after `offset`. It is looked into in
    /// the background.
    pub fn suspect(&self, digest: Digest, offset: u64) {
        let damage = self.clone();
        self.0.tasks.spawn("damage", async move { damage.look(digest, offset).await });
    }

    /// Whether the stored blob is its digest's content after all. One that is not is taken out
    /// before this answers. Cancel-safe: what was begun goes on as a task of the process.
    pub async fn is_intact(&self, digest: &Digest) -> bool {
        self.0.intact.contains_key(digest) || self.look(*digest, 0).await == Found::Intact
    }

    /// The blob could not be read whole and is of no use if that says something about the blob
    /// itself.
    pub(super) async fn unreadable(&self, digest: &Digest, error: &io::Error) {
        if says_damaged(error) {
            self.0.take_out(digest, &error.to_string()).await;
        }
    }

    /// The blob is not its digest's content.
    pub(super) async fn wrong(&self, digest: &Digest, why: &str) {
        self.0.take_out(digest, why).await;
    }

    async fn look(&self, digest: Digest, offset: u64) -> Found {
        let inner = Arc::clone(&self.0);
        let looked = self.0.looks.run(digest, || async move { inner.look(&digest, offset).await });
        // Where too many are being looked into, the next reader reports it again.
        looked.await.unwrap_or(Found::Unknown)
    }
}

impl Inner {
    async fn look(&self, digest: &Digest, offset: u64) -> Found {
        let judged = match self.blobs.open(digest).await {
            Ok(None) => return Found::Absent,
            Ok(Some(blob)) => judge(&blob, offset).await,
            Err(error) => {
                tracing::error!(%digest, %error, "cannot open a stored blob");
                return Found::Unknown;
            }
        };
        match judged {
            Ok(()) => {
                self.intact.insert(*digest, ());
                Found::Intact
            }
            Err(Fault::Unreadable(error)) if !says_damaged(&error) => {
                tracing::error!(%digest, %error, "cannot read a stored blob");
                Found::Unknown
            }
            Err(fault) => self.take_out(digest, &fault.to_string()).await,
        }
    }

    async fn take_out(&self, digest: &Digest, why: &str) -> Found {
        self.intact.invalidate(digest);
        self.hot.forget_bytes(digest);
        match self.blobs.quarantine(digest).await {
            Ok(true) => {
                tracing::error!(%digest, why, "took a damaged blob out of the store");
                Found::TakenOut
            }
            Ok(false) => Found::Absent,
            Err(error) => {
                tracing::error!(%digest, why, %error, "a damaged blob cannot be taken out");
                Found::Stays
            }
        }
    }
}

/// What is wrong with a blob.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("its file ends at {0}")]
    Short(u64),
    #[error("{0}")]
    Mismatch(String),
}

/// Reads the blob: first where trouble is likely, then all of it.
async fn judge(blob: &Blob, offset: u64) -> Result<(), Fault> {
    let last = blob.len().saturating_sub(1);
    for likely in [last, offset.min(last)] {
        if !blob.is_empty() && blob.read_at(likely, 1).await?.is_empty() {
            return Err(Fault::Short(likely));
        }
    }
    let mut hasher = Hasher::new(blob.digest().algorithm());
    while hasher.len() < blob.len() {
        let chunk = blob.read_at(hasher.len(), CHUNK_BYTES).await?;
        if chunk.is_empty() {
            return Err(Fault::Short(hasher.len()));
        }
        let hashed = tokio::task::spawn_blocking(move || {
            hasher.update(&chunk);
            hasher
        });
        // It fails only when the runtime is being shut down.
        hasher = hashed.await.map_err(io::Error::other)?;
    }
    hasher.verify(blob.digest()).map(drop).map_err(|error| Fault::Mismatch(error.to_string()))
}

/// Whether an error says that the content is lost, and not that the system is short of something.
fn says_damaged(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
        || error.raw_os_error().is_some_and(|code| LOST.iter().any(|e| e.raw_os_error() == code))
}

/// One reader's way through a stored blob.
#[derive(Clone, Debug)]
pub struct StoredReader {
    blob: Blob,
    damage: Damage,
}

impl StoredReader {
    /// Reads `blob`, and reports it to `damage` where that fails.
    pub const fn new(blob: Blob, damage: Damage) -> Self {
        Self { blob, damage }
    }

    /// The blob's size in bytes.
    pub const fn size(&self) -> u64 {
        self.blob.len()
    }

    /// The next bytes of `span`; see [`BlobReader::read`](super::BlobReader::read).
    pub(super) async fn read(&self, span: Range<u64>, mapped: bool) -> Result<Bytes, ReadError> {
        let read = self.read_once(&span, mapped).await;
        if read.is_err() {
            self.damage.suspect(*self.blob.digest(), span.start);
        }
        read
    }

    async fn read_once(&self, span: &Range<u64>, mapped: bool) -> Result<Bytes, ReadError> {
        if mapped {
            let end = span.end.min(span.start.saturating_add(MAPPED_BYTES_MAX));
            if end == self.blob.len() && end > span.start {
                // Of a file that was cut within its last page a mapping shows zeros to the end.
                read_exactly(self.blob.source().as_ref(), end - 1..end).await?;
            }
            if let Some(bytes) = self.blob.mapped(span.start..end) {
                return Ok(bytes);
            }
        }
        read_exactly(self.blob.source().as_ref(), span.clone()).await
    }

    /// Who is to be told that a mapped view of the blob could not be sent.
    pub fn mapping(&self) -> Mapping {
        Mapping { digest: *self.blob.digest(), damage: self.damage.clone() }
    }
}

/// A blob of which mapped views are being sent. It does not keep the blob open.
#[derive(Clone, Debug)]
pub struct Mapping {
    digest: Digest,
    damage: Damage,
}

impl Mapping {
    /// The system could not read a view while it sent it: the blob is looked into in the
    /// background.
    pub fn failed(&self) {
        self.damage.suspect(self.digest, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::*;
    use crate::store::HotOptions;
    use crate::store::blob::conformance::{pattern, verified};
    use crate::store::blob::{FsBlobs, FsOptions};

    struct Fixture {
        root: TempDir,
        blobs: FsBlobs,
        damage: Damage,
        digest: Digest,
    }

    const SIZE: u64 = 300_000;

    impl Fixture {
        async fn new() -> Self {
            let root = TempDir::new().unwrap();
            let blobs = FsBlobs::open(root.path(), FsOptions::default()).await.unwrap();
            let (proof, bytes) = verified(&pattern(1, SIZE as usize));
            blobs.put(proof, bytes).await.unwrap();
            let tasks = Tasks::new(&prometheus::Registry::new()).unwrap();
            let hot = Hot::new(HotOptions::default());
            let damage = Damage::new(Arc::new(blobs.clone()), hot, tasks);
            Self { root, blobs, damage, digest: *proof.digest() }
        }

        async fn reader(&self) -> StoredReader {
            let blob = self.blobs.open(&self.digest).await.unwrap().unwrap();
            StoredReader::new(blob, self.damage.clone())
        }

        fn path(&self) -> PathBuf {
            let hex = self.digest.encoded();
            self.root.path().join("blobs-v1/sha256").join(&hex[..2]).join(hex)
        }

        fn cut(&self, len: u64) {
            fs::set_permissions(self.path(), fs::Permissions::from_mode(0o640)).unwrap();
            File::options().write(true).open(self.path()).unwrap().set_len(len).unwrap();
        }
    }

    #[tokio::test]
    async fn an_intact_blob_stays() {
        let fixture = Fixture::new().await;
        assert!(fixture.damage.is_intact(&fixture.digest).await);
        fixture.reader().await.mapping().failed();
        assert_eq!(fixture.damage.look(fixture.digest, 7).await, Found::Intact);
        assert!(fixture.blobs.contains(&fixture.digest).await.unwrap());
    }

    #[tokio::test]
    async fn a_cut_blob_fails_its_reader_and_is_taken_out() {
        for (mapped, len) in [(false, 100_000), (true, SIZE - 1), (true, 100_000)] {
            let fixture = Fixture::new().await;
            let reader = fixture.reader().await;
            fixture.cut(len);
            let read = reader.read(SIZE - 10..SIZE, mapped).await;
            assert!(read.is_err(), "{mapped} {len}: {read:?}");
            assert!(!fixture.damage.is_intact(&fixture.digest).await);
            assert!(!fixture.blobs.contains(&fixture.digest).await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_changed_blob_is_found_out() {
        let fixture = Fixture::new().await;
        fs::set_permissions(fixture.path(), fs::Permissions::from_mode(0o640)).unwrap();
        let mut bytes = fs::read(fixture.path()).unwrap();
        bytes[150_000] ^= 1;
        fs::write(fixture.path(), bytes).unwrap();
        assert_eq!(fixture.damage.look(fixture.digest, 0).await, Found::TakenOut);
        assert_eq!(fixture.damage.look(fixture.digest, 0).await, Found::Absent);
    }

    #[tokio::test]
    async fn a_disk_error_takes_the_blob_out() {
        for (error, stays) in [(Errno::IO, false), (Errno::UCLEAN, false), (Errno::MFILE, true)] {
            let fixture = Fixture::new().await;
            let error = io::Error::from_raw_os_error(error.raw_os_error());
            fixture.damage.unreadable(&fixture.digest, &error).await;
            assert_eq!(fixture.blobs.contains(&fixture.digest).await.unwrap(), stays, "{error}");
        }
    }

    #[test]
    fn only_lost_content_is_damage() {
        assert!(says_damaged(&io::Error::from_raw_os_error(Errno::IO.raw_os_error())));
        assert!(says_damaged(&io::ErrorKind::UnexpectedEof.into()));
        // Out of file descriptors, out of memory, the end of the process.
        assert!(!says_damaged(&io::Error::from_raw_os_error(Errno::MFILE.raw_os_error())));
        assert!(!says_damaged(&io::Error::from_raw_os_error(Errno::NOMEM.raw_os_error())));
        assert!(!says_damaged(&io::Error::other("the runtime is being shut down")));
    }
}
