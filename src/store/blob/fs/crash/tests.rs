//! Kills a child process at every point, many times over, and looks at what it leaves behind.

use std::fs::{self, File};
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tempfile::TempDir;

use super::Point;
use crate::oci::Verified;
use crate::spans::Spans;
use crate::store::blob::conformance::{pattern, verified};
use crate::store::blob::{
    BlobStore, Evicted, Expect, FsBlobs, FsOptions, Recorded, Spool, SpoolKey,
};

/// Names the point and, behind a colon, how often it is passed before it kills.
const CRASH_AT: &str = "PIERHEAD_TEST_CRASH_AT";

pub(in crate::store::blob::fs) fn point(point: Point) {
    static CHOSEN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    let chosen = CHOSEN.get_or_init(|| {
        let chosen = std::env::var(CRASH_AT).ok()?;
        let (name, times) = chosen.split_once(':')?;
        Some((name.to_owned(), times.parse().ok()?))
    });
    if let Some((name, times)) = chosen
        && name == point.name()
        && PASSED.fetch_add(1, Ordering::SeqCst) == *times
    {
        std::process::abort();
    }
}

/// The storage of the child; beside it lies what it has done.
const ROOT: &str = "PIERHEAD_TEST_CRASH_ROOT";

const MAX: u64 = 16 << 20;

/// What the child has done, in order: all that it was promised then must be found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Nothing,
    OneStored,
    HalfRecorded,
    MoreRecorded,
    Parked,
    OtherParked,
    ResumedAndStored,
    OneEvicted,
    Quarantined,
    FetchedAgain,
    OtherRemoved,
    End,
}

const STEPS: [Step; 12] = [
    Step::Nothing,
    Step::OneStored,
    Step::HalfRecorded,
    Step::MoreRecorded,
    Step::Parked,
    Step::OtherParked,
    Step::ResumedAndStored,
    Step::OneEvicted,
    Step::Quarantined,
    Step::FetchedAgain,
    Step::OtherRemoved,
    Step::End,
];

struct Content {
    bytes: Bytes,
    proof: Verified,
    key: SpoolKey,
}

fn content(seed: u64, len: usize) -> Content {
    let (proof, bytes) = verified(&pattern(seed, len));
    let key = SpoolKey { upstream: "docker.io".parse().unwrap(), digest: *proof.digest() };
    Content { bytes, proof, key }
}

impl Content {
    fn write(&self, spool: &mut dyn Spool, span: Range<usize>) {
        spool.write_at(span.start as u64, &self.bytes[span]).unwrap();
    }
}

fn big() -> Content {
    content(1, 200_000)
}

fn other() -> Content {
    content(2, 100_000)
}

fn evicted() -> Content {
    content(3, 60_000)
}

fn damaged() -> Content {
    content(4, 50_000)
}

fn useless() -> Content {
    content(5, 40_000)
}

fn half() -> Spans {
    [0..50_000, 150_000..200_000].into_iter().collect()
}

fn more() -> Spans {
    [0..100_000, 150_000..200_000].into_iter().collect()
}

async fn open(root: &Path) -> FsBlobs {
    let options = FsOptions { max_bytes: Some(MAX), ..FsOptions::default() };
    FsBlobs::open(root, options).await.unwrap()
}

fn record(spool: &dyn Spool, landed: Spans, size: u64) {
    spool.recorder().unwrap().record(&Recorded { landed, size: Some(size) }).unwrap();
}

/// Passes every point: what the test below does in a child process.
async fn child(root: &Path) {
    let mut log = File::create(root.with_extension("steps")).unwrap();
    let mut done = |step: Step| writeln!(log, "{step:?}").unwrap();
    done(Step::Nothing);
    let store = open(root).await;

    drop(store.put(evicted().proof, evicted().bytes).await.unwrap());
    done(Step::OneStored);
    let mut spool = store.resume(&big().key, Expect::Whole(Some(200_000))).await.unwrap();
    big().write(&mut *spool, 150_000..200_000);
    big().write(&mut *spool, 0..50_000);
    record(&*spool, half(), 200_000);
    done(Step::HalfRecorded);
    big().write(&mut *spool, 50_000..100_000);
    record(&*spool, more(), 200_000);
    done(Step::MoreRecorded);
    big().write(&mut *spool, 100_000..120_000);
    drop(spool);
    done(Step::Parked);
    let mut spool = store.resume(&other().key, Expect::Parts).await.unwrap();
    other().write(&mut *spool, 70_000..90_000);
    record(&*spool, Spans::of(70_000..90_000), 100_000);
    drop(spool);
    done(Step::OtherParked);
    let mut spool = store.resume(&big().key, Expect::Whole(Some(200_000))).await.unwrap();
    assert_eq!(spool.recorded().landed, more());
    big().write(&mut *spool, 100_000..150_000);
    drop(spool.commit(big().proof).unwrap());
    done(Step::ResumedAndStored);
    assert!(matches!(store.evict(evicted().proof.digest()).await.unwrap(), Evicted::Freed(_)));
    done(Step::OneEvicted);
    drop(store.put(damaged().proof, damaged().bytes).await.unwrap());
    assert!(store.quarantine(damaged().proof.digest()).await.unwrap());
    done(Step::Quarantined);
    drop(store.put(damaged().proof, damaged().bytes).await.unwrap());
    done(Step::FetchedAgain);
    assert!(store.remove_parked(&other().key).await.unwrap() > 0);
    done(Step::OtherRemoved);
    let mut spool = store.resume(&useless().key, Expect::Whole(None)).await.unwrap();
    useless().write(&mut *spool, 0..40_000);
    record(&*spool, Spans::of(0..40_000), 40_000);
    spool.discard();
    drop(store.spool(Some(10_000)).await.unwrap());
    assert!(store.empty_quarantine(u64::MAX).await.unwrap() > 0);
    done(Step::End);
}

/// What a child that crashed at the `times`-th passing of `point` left, and the last thing that it
/// had done. `None` if it came to its end.
fn crashed(point: Point, times: u64) -> Option<(TempDir, PathBuf, Step)> {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("store::blob::fs::crash::tests::{TEST}")])
        .env(CRASH_AT, format!("{}:{times}", point.name()))
        .env(ROOT, &root)
        .output()
        .unwrap();
    let steps = fs::read_to_string(root.with_extension("steps")).unwrap();
    let last = steps.lines().last().unwrap();
    let step = STEPS.into_iter().find(|step| format!("{step:?}") == last).unwrap();
    if child.status.success() {
        assert_eq!(step, Step::End);
        return None;
    }
    let said = String::from_utf8_lossy(&child.stdout);
    assert_eq!(child.status.signal(), Some(6), "{point:?} {times}: {said}");
    Some((dir, root, step))
}

fn files_below(dir: &Path) -> Vec<fs::Metadata> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                open.push(path);
            } else {
                files.push(metadata);
            }
        }
    }
    files
}

fn allocated_below(dir: &Path) -> u64 {
    files_below(dir).iter().map(|metadata| metadata.blocks() * 512).sum()
}

/// A name stands for whole content; what was recorded reads back; the ledger is the disk.
async fn check(root: &Path, after: Step) {
    let store = open(root).await;
    let (blobs, spools) = (root.join("blobs-v1"), root.join("spool-v1"));
    let quarantine = root.join("quarantine-v1");

    let known = [big(), other(), evicted(), damaged(), useless()];
    for (digest, len) in store.list(None, usize::MAX).await.unwrap() {
        let whole = known.iter().find(|known| *known.proof.digest() == digest).unwrap();
        let blob = store.open(&digest).await.unwrap().unwrap();
        assert_eq!(blob.read_at(0, 1 << 20).await.unwrap(), whole.bytes);
        assert_eq!(len, whole.proof.len());
    }
    let parked = store.parked().await.unwrap();
    assert_eq!(files_below(&spools).len(), 2 * parked.len(), "nothing but pairs");
    assert!(files_below(&quarantine).len() <= 1);
    let room = store.room().await.unwrap();
    assert_eq!(room.stored, allocated_below(&blobs));
    assert_eq!(room.parked, allocated_below(&spools));
    assert_eq!(room.quarantined, allocated_below(&quarantine));
    assert_eq!(room.reserved, room.parked + room.quarantined);

    // Promises.
    let has = async |content: &Content| store.contains(content.proof.digest()).await.unwrap();
    let landed = |content: &Content| {
        let found = parked.iter().find(|parked| parked.key == content.key);
        found.map(|parked| parked.recorded.landed.clone())
    };
    if (Step::OneStored..Step::ResumedAndStored).contains(&after) {
        assert!(has(&evicted()).await);
    }
    if after >= Step::OneEvicted {
        assert!(!has(&evicted()).await);
    }
    match after {
        Step::HalfRecorded => {
            assert!(landed(&big()) == Some(half()) || landed(&big()) == Some(more()))
        }
        Step::MoreRecorded | Step::Parked => assert_eq!(landed(&big()), Some(more())),
        Step::OtherParked if !has(&big()).await => assert_eq!(landed(&big()), Some(more())),
        step if step >= Step::OtherParked => assert!(has(&big()).await && landed(&big()).is_none()),
        _ => {}
    }
    if (Step::OtherParked..Step::FetchedAgain).contains(&after) {
        assert_eq!(landed(&other()), Some(Spans::of(70_000..90_000)));
    }
    if after >= Step::OtherRemoved {
        assert_eq!(landed(&other()), None);
    }
    if after >= Step::FetchedAgain {
        assert!(has(&damaged()).await);
    }

    // What there is can be gone on with.
    for whole in &known {
        let mut spool =
            store.resume(&whole.key, Expect::Whole(Some(whole.proof.len()))).await.unwrap();
        let landed = spool.recorded().landed.clone();
        let mut at = 0;
        while let Some(gap) = landed.first_gap(at..whole.proof.len()) {
            whole.write(&mut *spool, gap.start as usize..gap.end as usize);
            at = gap.end;
        }
        let mut back = vec![0; whole.bytes.len()];
        assert_eq!(spool.read_back(0, &mut back).unwrap(), back.len());
        assert_eq!(back, whole.bytes, "what was recorded is what was written");
        let blob = spool.commit(whole.proof).unwrap();
        assert_eq!(blob.read_at(0, 1 << 20).await.unwrap(), whole.bytes);
    }
    let room = store.room().await.unwrap();
    assert_eq!((room.stored, room.parked), (allocated_below(&blobs), 0));
    assert!(files_below(&spools).is_empty());
}

const TEST: &str = "whenever_the_process_is_killed_the_next_one_finds_what_was_promised";

#[tokio::test]
async fn whenever_the_process_is_killed_the_next_one_finds_what_was_promised() {
    if let Some(root) = std::env::var_os(ROOT) {
        return child(Path::new(&root)).await;
    }
    for point in Point::ALL {
        let mut times = 0;
        while let Some((_dir, root, step)) = crashed(*point, times) {
            check(&root, step).await;
            times += 1;
        }
        assert!(times > 0, "{point:?} is never passed");
    }
}
