//! What only a file system can get wrong.

mod kept;

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::oci::Verified;
use crate::store::StoreErrorKind;
use crate::store::blob::conformance::{self, commit, pattern, verified};

/// Opens it. The crash tests start processes, which hold every lock of this one from their fork to
/// their `exec`: one that was let go of may take a moment to be free.
async fn store(root: &TempDir) -> FsBlobs {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match FsBlobs::open(root.path(), FsOptions::default()).await {
            Err(error)
                if error.kind() == StoreErrorKind::Locked
                    && tokio::time::Instant::now() < deadline =>
            {
                tokio::task::yield_now().await;
            }
            opened => return opened.unwrap(),
        }
    }
}

fn path_of(root: &TempDir, digest: &Digest) -> PathBuf {
    let hex = digest.encoded();
    root.path().join("blobs-v1").join(digest.algorithm().as_str()).join(&hex[..2]).join(hex)
}

fn spool_files(root: &TempDir) -> usize {
    fs::read_dir(root.path().join("spool-v1")).unwrap().count()
}

#[tokio::test]
async fn conforms() {
    let root = TempDir::new().unwrap();
    conformance::all(&store(&root).await).await;
    assert_eq!(spool_files(&root), 0, "nothing stays in the spool");
}

#[tokio::test]
async fn conforms_without_keeping_blobs_open() {
    let root = TempDir::new().unwrap();
    let store = FsBlobs::open(root.path(), FsOptions { open_blobs_max: 0, ..FsOptions::default() })
        .await
        .unwrap();
    conformance::all(&store).await;
}

#[tokio::test]
async fn a_second_pierhead_is_refused_until_the_first_is_gone() {
    let root = TempDir::new().unwrap();
    let first = store(&root).await;
    let error = FsBlobs::open(root.path(), FsOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Locked);
    assert!(error.to_string().contains("another Pierhead uses this storage"), "{error}");
    assert!(error.to_string().contains(root.path().to_str().unwrap()), "{error}");
    // A spool may still be writing: it holds the lock too.
    let spool = first.spool(None).await.unwrap();
    drop(first);
    assert!(FsBlobs::open(root.path(), FsOptions::default()).await.is_err());
    drop(spool);
    store(&root).await;
}

#[tokio::test]
async fn blobs_lie_where_the_format_says_and_survive_a_restart() {
    let root = TempDir::new().unwrap();
    let (proof, bytes) = verified(b"lies where the format says");
    let long = Digest::of(Algorithm::Sha512, b"sha512");
    {
        let store = store(&root).await;
        store.put(proof, bytes.clone()).await.unwrap();
        store
            .put(Verified::check(b"sha512", &long).unwrap(), Bytes::from_static(b"sha512"))
            .await
            .unwrap();
    }
    assert_eq!(fs::read(path_of(&root, proof.digest())).unwrap(), bytes);
    assert_eq!(fs::read(path_of(&root, &long)).unwrap(), b"sha512");
    let store = store(&root).await;
    let blob = store.open(proof.digest()).await.unwrap().unwrap();
    assert_eq!(blob.read_at(0, 100).await.unwrap(), bytes);
    assert_eq!(blob.mapped(0..4).unwrap(), b"lies"[..]);
}

#[tokio::test]
async fn a_crash_before_the_commit_leaves_no_blob_and_the_next_start_no_file() {
    let root = TempDir::new().unwrap();
    let (proof, bytes) = verified(b"torn by a crash");
    let first = store(&root).await;
    let mut spool = first.spool(None).await.unwrap();
    spool.write_at(0, &bytes[..7]).unwrap();
    // A crash runs no destructor; the lock goes with the process, which we play by hand.
    let stale = fs::read_dir(root.path().join("spool-v1")).unwrap().next().unwrap().unwrap().path();
    drop(spool);
    drop(first);
    fs::write(&stale, &bytes[..7]).unwrap();

    let second = store(&root).await;
    assert_eq!(spool_files(&root), 0);
    assert!(second.open(proof.digest()).await.unwrap().is_none());
    second.put(proof, bytes).await.unwrap();
}

#[tokio::test]
async fn nothing_is_writable_by_others_and_blobs_by_nobody() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let (proof, bytes) = verified(b"permissions");
    store.put(proof, bytes).await.unwrap();
    let spool = store.spool(None).await.unwrap();
    let mut dirs = vec![root.path().join("blobs-v1"), root.path().join("spool-v1")];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        let mode = fs::metadata(&dir).unwrap().permissions().mode();
        assert_eq!(mode & 0o027, 0, "{} has mode {mode:o}", dir.display());
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            seen += 1;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o027, 0, "{} has mode {mode:o}", path.display());
        }
    }
    assert_eq!(seen, 2);
    let mode = fs::metadata(path_of(&root, proof.digest())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o440);
    drop(spool);
}

#[tokio::test]
async fn a_newer_format_is_left_alone() {
    let root = TempDir::new().unwrap();
    let newer = root.path().join("blobs-v2/sha256/00");
    fs::create_dir_all(&newer).unwrap();
    fs::write(newer.join("thing"), b"theirs").unwrap();
    let store = store(&root).await;
    assert!(store.list(None, 10).await.unwrap().is_empty());
    assert_eq!(fs::read(newer.join("thing")).unwrap(), b"theirs");
}

#[tokio::test]
async fn a_file_that_lost_its_content_is_absent_and_gets_replaced() {
    let root = TempDir::new().unwrap();
    let (proof, bytes) = verified(b"lost in a crash of the machine");
    store(&root).await.put(proof, bytes.clone()).await.unwrap();
    let path = path_of(&root, proof.digest());
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"").unwrap();
    let store = store(&root).await;
    assert!(store.open(proof.digest()).await.unwrap().is_none());
    assert!(!store.contains(proof.digest()).await.unwrap());
    let blob = store.put(proof, bytes.clone()).await.unwrap();
    assert_eq!(blob.read_at(0, 100).await.unwrap(), bytes);
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn foreign_files_are_not_listed() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let (proof, bytes) = verified(b"the only one");
    store.put(proof, bytes.clone()).await.unwrap();
    let sha256 = root.path().join("blobs-v1/sha256");
    let wrong = sha256.join(if proof.digest().encoded().starts_with("00") { "01" } else { "00" });
    fs::create_dir(&wrong).unwrap();
    fs::write(wrong.join(proof.digest().encoded()), &bytes).unwrap();
    fs::write(path_of(&root, proof.digest()).with_file_name("README"), b"x").unwrap();
    fs::write(sha256.join("zz"), b"x").unwrap();
    let listed = store.list(None, 10).await.unwrap();
    assert_eq!(listed, [(*proof.digest(), proof.len())]);
}

#[tokio::test]
async fn a_truncated_file_is_an_error_and_not_an_end() {
    let root = TempDir::new().unwrap();
    let (proof, bytes) = verified(&pattern(9, 10_000));
    let store = store(&root).await;
    let blob = store.put(proof, bytes).await.unwrap();
    let path = path_of(&root, proof.digest());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
    let error = blob.read_at(0, 10_000).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_blob_that_is_there_already_keeps_its_file() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let (proof, bytes) = verified(b"keeps its file");
    store.put(proof, bytes.clone()).await.unwrap();
    let inode = fs::metadata(path_of(&root, proof.digest())).unwrap().ino();
    let mut spool = store.spool(None).await.unwrap();
    spool.write_at(0, &bytes).unwrap();
    commit(spool, proof).await.unwrap();
    assert_eq!(fs::metadata(path_of(&root, proof.digest())).unwrap().ino(), inode);
    assert_eq!(spool_files(&root), 0);
}

#[tokio::test]
async fn a_warm_open_touches_no_file_and_views_share_one_mapping() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let (proof, bytes) = verified(&pattern(10, 100_000));
    store.put(proof, bytes.clone()).await.unwrap();
    // With the file gone behind the store's back only what is kept open can answer.
    fs::remove_file(path_of(&root, proof.digest())).unwrap();
    let first = store.open(proof.digest()).await.unwrap().unwrap();
    let second = store.open(proof.digest()).await.unwrap().unwrap();
    let (a, b) = (first.mapped(0..100_000).unwrap(), second.mapped(0..100_000).unwrap());
    assert_eq!(a, bytes);
    assert_eq!(a.as_ptr(), b.as_ptr());
}

#[tokio::test]
async fn removal_lets_go_of_the_file() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let held = || {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
            .filter(|target| target.starts_with(root.path().join("blobs-v1")))
            .count()
    };
    for n in 0..100 {
        let (proof, bytes) = verified(&pattern(n, 10_000));
        store.put(proof, bytes).await.unwrap();
        let blob = store.open(proof.digest()).await.unwrap().unwrap();
        blob.mapped(0..10).unwrap();
        drop(blob);
        assert!(store.remove(proof.digest()).await.unwrap());
    }
    assert_eq!(held(), 0, "a removed file's space is free only when nobody has it open");
}

#[tokio::test]
async fn a_spool_dir_that_cannot_be_written_is_reported() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    store.probe().await.unwrap();
    fs::remove_dir(root.path().join("spool-v1")).unwrap();
    let error = store.probe().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Io);
    assert!(error.to_string().contains("spool-v1"), "{error}");
    assert!(store.spool(None).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn opening_and_removing_at_once_never_serves_what_is_gone() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let (proof, bytes) = verified(b"opened and removed at once");
    for _ in 0..200 {
        store.put(proof, bytes.clone()).await.unwrap();
        store.0.open.invalidate_all();
        let (opened, _, removed) = tokio::join!(
            store.open(proof.digest()),
            store.open(proof.digest()),
            store.remove(proof.digest())
        );
        opened.unwrap();
        assert!(removed.unwrap());
        assert!(store.open(proof.digest()).await.unwrap().is_none());
    }
}

/// What `du` would say of everything below the root.
fn allocated_below(root: &Path) -> u64 {
    let mut total = 0;
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        total += metadata.blocks() * 512;
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    total
}

#[tokio::test]
async fn the_cap_holds_whatever_is_tried() {
    const MAX: u64 = 4 << 20;
    let root = TempDir::new().unwrap();
    let options = FsOptions { max_bytes: Some(MAX), ..FsOptions::default() };
    let store = FsBlobs::open(root.path(), options).await.unwrap();
    let mut kept = 0;
    for seed in 0..20 {
        let (proof, bytes) = verified(&pattern(seed, 600_000));
        match store.put(proof, bytes).await {
            Ok(_) => kept += 1,
            Err(error) => assert_eq!(error.kind(), StoreErrorKind::NoSpace, "{error}"),
        }
        assert!(allocated_below(root.path()) <= MAX);
    }
    assert!(kept >= 5, "{kept} of at most six fit");
    let room = store.room().await.unwrap();
    assert!(room.available < 600_000 && room.reserved == 0, "{room:?}");
    // The same after a restart.
    drop(store);
    let store = FsBlobs::open(root.path(), options).await.unwrap();
    assert_eq!(store.room().await.unwrap().stored, room.stored);
}

#[tokio::test]
async fn a_spool_of_unknown_length_stops_at_the_cap() {
    const MAX: u64 = 4 << 20;
    let root = TempDir::new().unwrap();
    let options = FsOptions { max_bytes: Some(MAX), ..FsOptions::default() };
    let store = FsBlobs::open(root.path(), options).await.unwrap();
    let mut spool = store.spool(None).await.unwrap();
    let chunk = pattern(1, 100_000);
    let refused = (0..100_u64).find_map(|n| spool.write_at(n * 100_000, &chunk).err()).unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert!(allocated_below(root.path()) <= MAX);
    assert!(store.spool(Some(MAX)).await.is_err());
    drop(spool);
    assert_eq!(store.room().await.unwrap().reserved, 0);
}

#[tokio::test]
async fn what_is_read_is_not_evicted_and_what_is_removed_counts_until_it_is_let_go() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let (proof, bytes) = verified(&pattern(3, 300_000));
    store.put(proof, bytes.clone()).await.unwrap();
    let stored = store.room().await.unwrap().stored;
    assert!(stored >= 300_000);
    // A reader, a view of the mapped file, and a reader from the time before the commit.
    let blob = store.open(proof.digest()).await.unwrap().unwrap();
    assert_eq!(store.evict(proof.digest()).await.unwrap(), Evicted::InUse);
    let view = blob.mapped(0..300_000).unwrap();
    drop(blob);
    assert_eq!(store.evict(proof.digest()).await.unwrap(), Evicted::InUse);
    assert!(store.remove(proof.digest()).await.unwrap());
    let room = store.room().await.unwrap();
    assert_eq!((room.stored, room.reserved), (0, stored), "the disk still has it");
    assert_eq!(view, bytes);
    drop(view);
    assert_eq!(store.room().await.unwrap().reserved, 0);
    assert_eq!(store.evict(proof.digest()).await.unwrap(), Evicted::Absent);
    // Kept open for a reader that may never come is not in use.
    let mut spool = store.spool(Some(proof.len())).await.unwrap();
    spool.write_at(0, &bytes).unwrap();
    let early = spool.reader();
    commit(spool, proof).await.unwrap();
    assert_eq!(store.evict(proof.digest()).await.unwrap(), Evicted::InUse);
    drop(early);
    assert_eq!(store.evict(proof.digest()).await.unwrap(), Evicted::Freed(stored));
    assert_eq!(store.room().await.unwrap().stored, 0);
    assert_eq!(spool_files(&root), 0);
}

#[tokio::test]
async fn one_digest_committed_by_many_at_once_is_counted_once() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let (proof, bytes) = verified(&pattern(4, 200_000));
    let puts = (0..8).map(|_| store.put(proof, bytes.clone()));
    for put in futures_util::future::join_all(puts).await {
        put.unwrap();
    }
    let room = store.room().await.unwrap();
    let file = fs::metadata(path_of(&root, proof.digest())).unwrap();
    assert_eq!((room.stored, room.reserved), (file.blocks() * 512, 0));
}
