//! Damage is made on a real disk; time is the test's.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::background::{State, Tasks, WorkerStatus, Workers};
use crate::oci::Verified;
use crate::store::HotOptions;
use crate::store::blob::{FsBlobs, FsOptions, MemoryBlobs};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Site {
    root: TempDir,
    blobs: Arc<dyn BlobStore>,
    hot: Hot,
    clock: Clock,
    registry: Registry,
    tasks: Tasks,
    workers: Workers,
}

impl Site {
    fn new(root: TempDir, blobs: impl BlobStore) -> Self {
        let registry = Registry::new();
        let tasks = Tasks::new(&registry).unwrap();
        let clock = Clock::manual(Timestamp::from_unix_ms(1_000));
        Self {
            root,
            blobs: Arc::new(blobs),
            hot: Hot::new(HotOptions::default()),
            workers: Workers::new(tasks.clone(), clock.clone()),
            clock,
            registry,
            tasks,
        }
    }

    async fn on_disk() -> Self {
        let root = TempDir::new().unwrap();
        let blobs = FsBlobs::open(root.path(), FsOptions::default()).await.unwrap();
        Self::new(root, blobs)
    }

    async fn put(&self, content: Vec<u8>) -> Digest {
        let verified = Verified::check(&content, &Digest::sha256(&content)).unwrap();
        self.hot.put_bytes(&verified, &content);
        self.blobs.put(verified, Bytes::from(content)).await.unwrap();
        *verified.digest()
    }

    fn start(&self, rate: u64, every: Duration) -> Scrub {
        let (scrub, worker) = Scrub::new(ScrubParts {
            blobs: Arc::clone(&self.blobs),
            hot: self.hot.clone(),
            settings: ScrubSettings { rate, every },
            clock: self.clock.clone(),
            note: Note::new(self.root.path(), "scrub.json"),
            metrics: ScrubMetrics::new(&self.registry).unwrap(),
        });
        self.workers.start(worker);
        scrub
    }

    /// The same storage in a later process.
    fn restarted(self) -> Self {
        let registry = Registry::new();
        let tasks = Tasks::new(&registry).unwrap();
        Self { workers: Workers::new(tasks.clone(), self.clock.clone()), registry, tasks, ..self }
    }

    fn status(&self) -> WorkerStatus {
        self.workers.list().remove(0)
    }

    /// Waits for the end of that many rounds.
    async fn rounds(&self, rounds: u64) {
        while self.status().rounds < rounds {
            tokio::task::yield_now().await;
        }
    }

    fn counted(&self, result: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|f| f.name() == "pierhead_scrub_blobs_total");
        let metrics = family.map(|f| f.get_metric()).unwrap_or_default();
        let of = |m: &&prometheus::proto::Metric| m.get_label()[0].value() == result;
        metrics.iter().find(of).map_or(0, |m| m.get_counter().get_value() as u64)
    }
}

fn path_of(root: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.encoded();
    root.join("blobs-v1/sha256").join(&hex[..2]).join(hex)
}

fn writable(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).unwrap();
}

#[tokio::test]
async fn what_is_damaged_is_put_aside_and_the_rest_stays() {
    let site = Site::on_disk().await;
    let good = site.put(b"good".to_vec()).await;
    let empty = site.put(Vec::new()).await;
    let mut content = vec![7; CHUNK_BYTES + 9];
    let flipped = site.put(content.clone()).await;
    let cut = site.put(b"cut while it is open".to_vec()).await;
    content[CHUNK_BYTES + 3] ^= 1;
    let path = path_of(site.root.path(), &flipped);
    writable(&path);
    std::fs::write(&path, &content).unwrap();
    let open = site.blobs.open(&cut).await.unwrap().unwrap();
    let path = path_of(site.root.path(), &cut);
    writable(&path);
    std::fs::write(&path, b"cut").unwrap();

    let scrub = site.start(0, DAY);
    site.rounds(1).await;
    let summary = scrub.last().unwrap();
    assert_eq!((summary.checked, summary.damaged, summary.unreadable), (4, 2, 0));
    let mut damaged = vec![flipped, cut];
    damaged.sort();
    assert_eq!(summary.damaged_digests, damaged);
    assert_eq!((site.counted("intact"), site.counted("damaged")), (2, 2));
    for (digest, stays) in [(good, true), (empty, true), (flipped, false), (cut, false)] {
        assert_eq!(site.blobs.contains(&digest).await.unwrap(), stays, "{digest}");
        assert!(stays || site.hot.bytes(&digest).is_none(), "{digest}");
        let aside = site.root.path().join(format!("quarantine-v1/sha256-{}", digest.encoded()));
        assert_eq!(aside.exists(), !stays, "{digest}");
    }
    drop(open);

    // Whoever needs it fetches it again, and then all is well.
    content[CHUNK_BYTES + 3] ^= 1;
    assert_eq!(site.put(content).await, flipped);
    assert!(site.workers.wake("scrub"));
    site.rounds(2).await;
    assert_eq!(scrub.last().unwrap().damaged, 0);
}

#[tokio::test]
async fn a_restart_does_not_cause_a_round() {
    let site = Site::on_disk().await;
    site.put(b"content".to_vec()).await;
    let scrub = site.start(0, DAY);
    site.rounds(1).await;
    let noted = scrub.last().unwrap();
    assert_eq!(noted.checked, 1);

    site.clock.advance(DAY / 2);
    let site = site.restarted();
    let scrub = site.start(0, DAY);
    site.rounds(1).await;
    assert_eq!(site.counted("intact"), 0, "half a day is not a day");
    let last = scrub.last().unwrap();
    assert_eq!((last.ended, last.checked), (noted.ended, noted.checked));

    site.clock.advance(DAY / 2);
    let site = site.restarted();
    site.start(0, DAY);
    site.rounds(1).await;
    assert_eq!(site.counted("intact"), 1, "due");

    // The clock was set back since.
    let site = Site { clock: Clock::manual(Timestamp::from_unix_ms(0)), ..site }.restarted();
    site.start(0, DAY);
    site.rounds(1).await;
    assert_eq!(site.counted("intact"), 1, "a note from the future is none");

    std::fs::write(site.root.path().join("scrub.json"), "what?").unwrap();
    let site = site.restarted();
    site.start(0, DAY);
    site.rounds(1).await;
    assert_eq!(site.counted("intact"), 1, "without a note it is due");
}

#[tokio::test]
async fn without_a_period_it_waits_to_be_asked() {
    let site = Site::on_disk().await;
    site.put(b"content".to_vec()).await;
    let scrub = site.start(0, Duration::ZERO);
    site.rounds(1).await;
    assert_eq!(scrub.last(), None);
    site.workers.wake("scrub");
    site.rounds(2).await;
    assert_eq!(scrub.last().unwrap().checked, 1);
}

#[tokio::test(start_paused = true)]
async fn it_keeps_to_its_rate() {
    let site = Site::new(TempDir::new().unwrap(), MemoryBlobs::new(u64::MAX));
    let total = 5 * CHUNK_BYTES as u64;
    site.put(vec![1; 3 * CHUNK_BYTES]).await;
    site.put(vec![2; 2 * CHUNK_BYTES]).await;
    let scrub = site.start(total / 10, DAY);
    // The clock moves on by itself, but not while a chunk is hashed.
    let mut look = tokio::time::interval(Duration::from_secs(1));
    while scrub.last().is_none() {
        look.tick().await;
    }
    let took = scrub.last().unwrap().took;
    assert!((9_999..10_100).contains(&took.as_millis()), "{took:?}");
    let progress = site.status().progress.unwrap();
    assert_eq!((progress.done, progress.total), (total, Some(total)));
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_round_leaves_nothing_behind() {
    let site = Site::on_disk().await;
    let digest = site.put(vec![3; 2 * CHUNK_BYTES]).await;
    // A byte per second: it will not come to the end.
    let scrub = site.start(1, DAY);
    while site.status().progress.is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!(site.status().state, State::Running);
    site.tasks.stop();
    site.workers.stopped().await;
    assert_eq!((site.status().state, scrub.last()), (State::Stopped, None));
    assert!(site.blobs.contains(&digest).await.unwrap());
    assert!(!site.root.path().join("scrub.json").exists(), "half a round is none");
}

/// Lists what it cannot open.
#[derive(Debug)]
struct Unreadable(MemoryBlobs, Digest);

#[async_trait]
impl BlobStore for Unreadable {
    async fn open(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        if *digest == self.1 {
            return Err(StoreError::io("open a blob", io::Error::other("bad sector")));
        }
        self.0.open(digest).await
    }

    async fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.0.contains(digest).await
    }

    async fn spool(&self, hint: Option<u64>) -> Result<Box<dyn crate::store::Spool>, StoreError> {
        self.0.spool(hint).await
    }

    async fn resume(
        &self,
        key: &crate::store::SpoolKey,
        expect: crate::store::Expect,
    ) -> Result<Box<dyn crate::store::Spool>, StoreError> {
        self.0.resume(key, expect).await
    }

    async fn parked(&self) -> Result<Vec<crate::store::Parked>, StoreError> {
        self.0.parked().await
    }

    async fn remove_parked(&self, key: &crate::store::SpoolKey) -> Result<u64, StoreError> {
        self.0.remove_parked(key).await
    }

    async fn quarantine(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.0.quarantine(digest).await
    }

    async fn remove(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.0.remove(digest).await
    }

    async fn evict(&self, digest: &Digest) -> Result<crate::store::Evicted, StoreError> {
        self.0.evict(digest).await
    }

    async fn room(&self) -> Result<crate::store::RoomUse, StoreError> {
        self.0.room().await
    }

    async fn list(
        &self,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        self.0.list(after, limit).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.0.probe().await
    }
}

#[tokio::test]
async fn what_cannot_be_read_stays_and_does_not_end_the_round() {
    let bad = Digest::sha256(b"0");
    let blobs = Unreadable(MemoryBlobs::new(u64::MAX), bad);
    let site = Site::new(TempDir::new().unwrap(), blobs);
    // More than a page.
    for n in 0..PAGE_BLOBS + 3 {
        site.put(n.to_string().into_bytes()).await;
    }
    let scrub = site.start(0, DAY);
    site.rounds(1).await;
    let summary = scrub.last().unwrap();
    assert_eq!((summary.checked, summary.unreadable), (PAGE_BLOBS as u64 + 2, 1));
    assert_eq!(site.counted("unreadable"), 1);
    assert!(site.blobs.contains(&bad).await.unwrap());
}
