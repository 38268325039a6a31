//! What stays of an unfinished fill, and of a damaged blob, on real files.

use super::*;
use crate::spans::Spans;
use crate::store::blob::Recorded;

const LEN: usize = 200_000;

struct Fill {
    key: SpoolKey,
    proof: Verified,
    bytes: Bytes,
}

fn fill(seed: u64) -> Fill {
    let (proof, bytes) = verified(&pattern(seed, LEN));
    let key = SpoolKey { upstream: "docker.io".parse().unwrap(), digest: *proof.digest() };
    Fill { key, proof, bytes }
}

impl Fill {
    /// Half of it has landed and is recorded, and a little more has landed.
    async fn half(&self, store: &FsBlobs, expect: Expect) -> Box<dyn Spool> {
        let mut spool = store.resume(&self.key, expect).await.unwrap();
        spool.write_at(0, &self.bytes[..LEN / 2 + 999]).unwrap();
        let landed = Spans::of(0..LEN as u64 / 2);
        let recorded = Recorded { landed, size: Some(LEN as u64) };
        spool.recorder().unwrap().record(&recorded).unwrap();
        spool
    }

    async fn landed(&self, store: &FsBlobs) -> Spans {
        store.resume(&self.key, Expect::Parts).await.unwrap().recorded().landed.clone()
    }
}

fn spool_file(root: &TempDir, extension: &str) -> PathBuf {
    let entries = fs::read_dir(root.path().join("spool-v1")).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path());
    paths.find(|path| path.extension().is_some_and(|found| found == extension)).unwrap()
}

/// The ledger says what the directories take.
async fn books_balance(root: &TempDir, store: &FsBlobs) {
    let room = store.room().await.unwrap();
    let files = |dir: &str| {
        let entries = fs::read_dir(root.path().join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().blocks() * 512).sum::<u64>()
    };
    assert_eq!(room.parked, files("spool-v1"));
    assert_eq!(room.quarantined, files("quarantine-v1"));
    assert_eq!(room.reserved, room.parked + room.quarantined);
}

#[tokio::test]
async fn a_fill_goes_on_after_a_restart() {
    let root = TempDir::new().unwrap();
    let fill = fill(1);
    {
        let store = store(&root).await;
        drop(fill.half(&store, Expect::Whole(Some(LEN as u64))).await);
        books_balance(&root, &store).await;
    }
    let mode = fs::metadata(spool_file(&root, "part")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let store = store(&root).await;
    books_balance(&root, &store).await;
    let mut spool = store.resume(&fill.key, Expect::Whole(Some(LEN as u64))).await.unwrap();
    assert_eq!(spool.recorded().landed, Spans::of(0..LEN as u64 / 2));
    assert_eq!(spool.recorded().size, Some(LEN as u64));
    assert!(spool.reserved() >= LEN as u64);
    spool.write_at(LEN as u64 / 2, &fill.bytes[LEN / 2..]).unwrap();
    let blob = commit(spool, fill.proof).await.unwrap();
    assert_eq!(blob.read_at(0, LEN).await.unwrap(), fill.bytes);
    assert_eq!(spool_files(&root), 0);
    books_balance(&root, &store).await;
}

#[tokio::test]
async fn what_was_set_aside_beyond_the_record_is_given_back() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let fill = fill(2);
    let spool = fill.half(&store, Expect::Whole(Some(50 << 20))).await;
    assert!(fs::metadata(spool_file(&root, "part")).unwrap().blocks() * 512 >= 50 << 20);
    assert!(store.room().await.unwrap().reserved >= 50 << 20);
    let reader = spool.reader();
    drop(spool);
    // Not while somebody reads what was not recorded.
    assert_eq!(
        reader.read_at(LEN as u64 / 2, 999).await.unwrap(),
        fill.bytes[LEN / 2..LEN / 2 + 999]
    );
    assert!(store.parked().await.unwrap()[0].allocated >= 50 << 20);
    drop(reader);
    assert!(store.parked().await.unwrap()[0].allocated < LEN as u64);
    assert_eq!(fs::metadata(spool_file(&root, "part")).unwrap().len(), LEN as u64 / 2);
    books_balance(&root, &store).await;
}

#[tokio::test]
async fn a_torn_or_foreign_spool_is_removed_at_the_start_and_begun_anew() {
    type Damage = fn(&Path, &Path);
    let damages: [(&str, Damage); 9] = [
        ("a sidecar that was cut", |_, state| {
            let text = fs::read(state).unwrap();
            fs::write(state, &text[..text.len() / 2]).unwrap();
        }),
        ("a changed sidecar", |_, state| {
            let text = fs::read_to_string(state).unwrap();
            fs::write(state, text.replace("100000", "100001")).unwrap();
        }),
        ("an empty sidecar", |_, state| fs::write(state, "").unwrap()),
        ("no sidecar", |_, state| fs::remove_file(state).unwrap()),
        ("a huge sidecar", |_, state| fs::write(state, vec![b' '; 1 << 20]).unwrap()),
        ("no data", |part, _| fs::remove_file(part).unwrap()),
        ("data that was cut", |part, _| {
            OpenOptions::new().write(true).open(part).unwrap().set_len(99_999).unwrap();
        }),
        ("data that is no file", |part, _| {
            fs::remove_file(part).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", part).unwrap();
        }),
        ("names of something else", |part, state| {
            for path in [part, state] {
                let name = path.file_name().unwrap().to_str().unwrap();
                let other = if name.starts_with('0') { "1" } else { "0" };
                fs::rename(path, path.with_file_name(format!("{other}{}", &name[1..]))).unwrap();
            }
        }),
    ];
    for (what, damage) in damages {
        let root = TempDir::new().unwrap();
        let fill = fill(3);
        drop(fill.half(&store(&root).await, Expect::Whole(None)).await);
        damage(&spool_file(&root, "part"), &spool_file(&root, "state"));
        let store = store(&root).await;
        assert_eq!(spool_files(&root), 0, "{what}");
        assert!(store.parked().await.unwrap().is_empty(), "{what}");
        assert_eq!(fill.landed(&store).await, Spans::new(), "{what}");
        books_balance(&root, &store).await;
    }
}

#[tokio::test]
async fn damage_within_the_life_of_the_process_is_no_error_either() {
    for extension in ["part", "state"] {
        let root = TempDir::new().unwrap();
        let store = store(&root).await;
        let fill = fill(4);
        drop(fill.half(&store, Expect::Whole(None)).await);
        OpenOptions::new()
            .write(true)
            .open(spool_file(&root, extension))
            .unwrap()
            .set_len(50)
            .unwrap();
        assert_eq!(fill.landed(&store).await, Spans::new());
        assert_eq!(spool_files(&root), 0);
        books_balance(&root, &store).await;
    }
}

#[tokio::test]
async fn a_spool_that_a_commit_had_protected_is_gone_on_with() {
    let root = TempDir::new().unwrap();
    let fill = fill(5);
    drop(fill.half(&store(&root).await, Expect::Whole(None)).await);
    let part = spool_file(&root, "part");
    fs::set_permissions(&part, fs::Permissions::from_mode(0o440)).unwrap();
    let store = store(&root).await;
    assert_eq!(fill.landed(&store).await, Spans::of(0..LEN as u64 / 2));
    assert_eq!(fs::metadata(&part).unwrap().permissions().mode() & 0o777, 0o640);
}

#[tokio::test]
async fn a_full_store_refuses_to_resume_and_keeps_what_is_parked() {
    const MAX: u64 = 4 << 20;
    let root = TempDir::new().unwrap();
    let options = FsOptions { max_bytes: Some(MAX), ..FsOptions::default() };
    let store = FsBlobs::open(root.path(), options).await.unwrap();
    let fill = fill(6);
    drop(fill.half(&store, Expect::Whole(None)).await);
    let error = store.resume(&fill.key, Expect::Whole(Some(MAX))).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NoSpace);
    books_balance(&root, &store).await;
    let mut spool = store.resume(&fill.key, Expect::Parts).await.unwrap();
    let reserved = spool.reserved();
    assert_eq!(spool.expect_whole(MAX).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(spool.reserved(), reserved, "it stays as it was");
    assert_eq!(spool.recorded().landed, Spans::of(0..LEN as u64 / 2));
}

#[tokio::test]
async fn a_spool_dir_that_is_gone_is_an_error_and_no_panic() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let fill = fill(7);
    let mut spool = store.resume(&fill.key, Expect::Parts).await.unwrap();
    spool.write_at(0, &fill.bytes).unwrap();
    fs::remove_dir_all(root.path().join("spool-v1")).unwrap();
    let recorded = Recorded { landed: Spans::of(0..LEN as u64), size: None };
    assert!(spool.recorder().unwrap().record(&recorded).is_err());
    drop(spool);
    let error = store.resume(&fill.key, Expect::Parts).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Io);
    fs::create_dir(root.path().join("spool-v1")).unwrap();
    assert_eq!(fill.landed(&store).await, Spans::new(), "the key is free again");
}

#[tokio::test]
async fn records_while_writing_never_say_more_than_has_landed() {
    let root = TempDir::new().unwrap();
    let fill = fill(8);
    {
        let store = store(&root).await;
        let mut spool = store.resume(&fill.key, Expect::Whole(None)).await.unwrap();
        let recorder = spool.recorder().unwrap();
        let (ends, told) = tokio::sync::watch::channel(0_u64);
        let (recorded, mut records) = tokio::sync::watch::channel(0_u64);
        let recording = tokio::task::spawn_blocking(move || {
            loop {
                let end = *told.borrow();
                let landed = Recorded { landed: Spans::of(0..end), size: None };
                if recorder.record(&landed).is_err() {
                    break;
                }
                recorded.send_modify(|records| *records += 1);
            }
        });
        for (n, chunk) in fill.bytes.chunks(1_000).enumerate() {
            spool.write_at(n as u64 * 1_000, chunk).unwrap();
            ends.send_replace((n as u64 + 1) * 1_000);
            tokio::task::yield_now().await;
        }
        // A busy machine may begin to record only now.
        records.wait_for(|records| *records > 0).await.unwrap();
        // Waits for the record that is being written, and ends them.
        drop(spool);
        recording.await.unwrap();
    }
    let store = store(&root).await;
    for parked in store.parked().await.unwrap() {
        let spool = store.resume(&parked.key, Expect::Parts).await.unwrap();
        let mut back = vec![0; parked.recorded.landed.end() as usize];
        assert_eq!(spool.read_back(0, &mut back).unwrap(), back.len());
        assert_eq!(back, fill.bytes[..back.len()]);
    }
    books_balance(&root, &store).await;
}

#[tokio::test]
async fn the_quarantine_is_bounded_and_survives_a_restart() {
    let root = TempDir::new().unwrap();
    let dir = root.path().join("quarantine-v1");
    let mut digests = Vec::new();
    {
        let store = store(&root).await;
        for seed in 0..20 {
            let (proof, bytes) = verified(&pattern(seed, 5_000));
            store.put(proof, bytes).await.unwrap();
            assert!(store.quarantine(proof.digest()).await.unwrap());
            digests.push(*proof.digest());
        }
        assert_eq!(store.room().await.unwrap().quarantined_files, 16);
        books_balance(&root, &store).await;
    }
    let path = |digest: &Digest| dir.join(format!("sha256-{}", digest.encoded()));
    assert!(digests[..4].iter().all(|digest| !path(digest).exists()), "the oldest went");
    assert_eq!(fs::read(path(&digests[4])).unwrap(), pattern(4, 5_000));
    let store = store(&root).await;
    assert_eq!(store.room().await.unwrap().quarantined_files, 16);
    books_balance(&root, &store).await;
    assert!(store.open(&digests[19]).await.unwrap().is_none());
    // Who reads one holds its space, in quarantine or not.
    let (proof, bytes) = verified(&pattern(50, 5_000));
    let blob = store.put(proof, bytes.clone()).await.unwrap();
    assert!(store.quarantine(proof.digest()).await.unwrap());
    let reserved = store.room().await.unwrap().reserved;
    store.empty_quarantine(u64::MAX).await.unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    let room = store.room().await.unwrap();
    assert!(room.quarantined == 0 && room.reserved > 0 && room.reserved < reserved, "{room:?}");
    assert_eq!(blob.read_at(0, 5_000).await.unwrap(), bytes);
    drop(blob);
    assert_eq!(store.room().await.unwrap().reserved, 0);
}

#[tokio::test]
async fn of_a_small_store_the_quarantine_takes_a_small_part() {
    let root = TempDir::new().unwrap();
    let options = FsOptions { max_bytes: Some(4 << 20), ..FsOptions::default() };
    let store = FsBlobs::open(root.path(), options).await.unwrap();
    let (proof, bytes) = verified(&pattern(1, 100_000));
    store.put(proof, bytes).await.unwrap();
    assert!(store.quarantine(proof.digest()).await.unwrap());
    let room = store.room().await.unwrap();
    assert_eq!((room.stored, room.reserved, room.quarantined_files), (0, 0, 0));
}
