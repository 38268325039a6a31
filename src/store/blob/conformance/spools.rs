//! Spools that can be continued.

use std::sync::Arc;

use super::{commit, content, pattern, verified};
use crate::oci::Digest;
use crate::spans::Spans;
use crate::store::StoreErrorKind;
use crate::store::blob::{BlobStore, Expect, Parked, Recorded, Spool, SpoolKey};

pub(super) async fn all(store: &dyn BlobStore) {
    without_a_record_nothing_stays(store).await;
    what_was_recorded_is_found_and_nothing_else(store).await;
    records_are_replaced_and_added_to(store).await;
    of_another_upstream_nothing_is_found(store).await;
    while_one_writes_another_gets_its_own(store).await;
    discarded_is_gone(store).await;
    a_resumed_spool_becomes_a_blob(store).await;
    a_commit_ends_what_was_recorded(store).await;
    what_was_not_written_cannot_be_recorded(store).await;
    parked_spools_are_listed_and_removed(store).await;
    parts_take_what_is_written(store).await;
    readers_outlive_parking(store).await;
}

fn key(digest: &Digest) -> SpoolKey {
    SpoolKey { upstream: "docker.io".parse().unwrap(), digest: *digest }
}

fn recorded(spans: &[std::ops::Range<u64>], size: Option<u64>) -> Recorded {
    Recorded { landed: spans.iter().cloned().collect(), size }
}

/// One part in one piece.
fn run(span: std::ops::Range<u64>, size: Option<u64>) -> Recorded {
    Recorded { landed: Spans::of(span), size }
}

fn write(spool: &mut Box<dyn Spool>, bytes: &[u8], span: std::ops::Range<u64>) {
    spool.write_at(span.start, &bytes[span.start as usize..span.end as usize]).unwrap();
}

/// What the spool has is what was written.
fn holds(spool: &dyn Spool, bytes: &[u8]) {
    for span in spool.recorded().landed.iter() {
        let expected = &bytes[span.start as usize..span.end as usize];
        let mut back = vec![0; expected.len()];
        assert_eq!(spool.read_back(span.start, &mut back).unwrap(), expected.len());
        assert_eq!(back, expected, "{span:?}");
    }
}

async fn parked(store: &dyn BlobStore, key: &SpoolKey) -> Option<Parked> {
    store.parked().await.unwrap().into_iter().find(|parked| parked.key == *key)
}

async fn without_a_record_nothing_stays(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(100, 50_000));
    let key = key(proof.digest());
    let reserved = store.room().await.unwrap().reserved;
    let mut spool = store.resume(&key, Expect::Whole(Some(50_000))).await.unwrap();
    assert_eq!(*spool.recorded(), Recorded::default());
    write(&mut spool, &bytes, 0..50_000);
    // That nothing has landed is nothing, whatever the size.
    spool.recorder().unwrap().record(&recorded(&[], Some(50_000))).unwrap();
    drop(spool);
    assert_eq!(parked(store, &key).await, None);
    assert_eq!(store.room().await.unwrap().reserved, reserved);
    let spool = store.resume(&key, Expect::Parts).await.unwrap();
    assert_eq!(*spool.recorded(), Recorded::default());
}

async fn what_was_recorded_is_found_and_nothing_else(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(101, 300_000));
    let key = key(proof.digest());
    let mut spool = store.resume(&key, Expect::Whole(Some(300_000))).await.unwrap();
    write(&mut spool, &bytes, 200_000..250_000);
    write(&mut spool, &bytes, 0..70_000);
    let recorder = spool.recorder().unwrap();
    let said = recorded(&[0..70_000, 200_000..250_000], Some(300_000));
    recorder.record(&said).unwrap();
    write(&mut spool, &bytes, 70_000..150_000);
    drop(spool);
    assert!(recorder.record(&run(0..150_000, None)).is_err(), "the spool is gone");
    for expect in [Expect::Parts, Expect::Whole(Some(300_000)), Expect::Whole(None)] {
        let spool = store.resume(&key, expect).await.unwrap();
        assert_eq!(*spool.recorded(), said);
        holds(&*spool, &bytes);
        // Dropped as it is, it can be found again.
    }
    let parked = parked(store, &key).await.unwrap();
    assert_eq!(parked.recorded, said);
    assert!((120_000..300_000).contains(&parked.allocated), "{parked:?}");
    assert!(store.remove_parked(&key).await.unwrap() >= 120_000);
}

async fn records_are_replaced_and_added_to(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(102, 90_000));
    let key = key(proof.digest());
    let mut spool = store.resume(&key, Expect::Whole(None)).await.unwrap();
    for end in [10_000, 40_000, 60_000] {
        write(&mut spool, &bytes, end - 10_000..end);
        let landed = Spans::of(end - 10_000..end);
        spool.recorder().unwrap().record(&Recorded { landed, size: None }).unwrap();
    }
    drop(spool);
    let mut spool = store.resume(&key, Expect::Whole(None)).await.unwrap();
    assert_eq!(*spool.recorded(), run(50_000..60_000, None), "the last one counts");
    write(&mut spool, &bytes, 0..50_000);
    spool.recorder().unwrap().record(&run(0..60_000, Some(90_000))).unwrap();
    drop(spool);
    let spool = store.resume(&key, Expect::Whole(None)).await.unwrap();
    assert_eq!(*spool.recorded(), run(0..60_000, Some(90_000)));
    holds(&*spool, &bytes);
    spool.discard();
}

async fn of_another_upstream_nothing_is_found(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(103, 20_000));
    let ours = key(proof.digest());
    let theirs = SpoolKey { upstream: "ghcr.io".parse().unwrap(), ..ours.clone() };
    let mut spool = store.resume(&ours, Expect::Parts).await.unwrap();
    write(&mut spool, &bytes, 0..20_000);
    spool.recorder().unwrap().record(&run(0..20_000, None)).unwrap();
    drop(spool);
    let spool = store.resume(&theirs, Expect::Parts).await.unwrap();
    assert_eq!(*spool.recorded(), Recorded::default());
    assert!(spool.recorder().is_some(), "it has a key of its own");
    drop(spool);
    assert!(parked(store, &theirs).await.is_none());
    store.resume(&ours, Expect::Parts).await.unwrap().discard();
}

async fn while_one_writes_another_gets_its_own(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(104, 20_000));
    let key = key(proof.digest());
    let mut first = store.resume(&key, Expect::Whole(Some(20_000))).await.unwrap();
    write(&mut first, &bytes, 0..5_000);
    first.recorder().unwrap().record(&run(0..5_000, None)).unwrap();
    assert_eq!(store.remove_parked(&key).await.unwrap(), 0, "it is being written to");
    assert!(parked(store, &key).await.is_none());
    let mut second = store.resume(&key, Expect::Whole(Some(20_000))).await.unwrap();
    assert_eq!(*second.recorded(), Recorded::default());
    assert!(second.recorder().is_none(), "nobody could find it again");
    write(&mut second, &bytes, 0..20_000);
    assert_eq!(content(&commit(second, proof).await.unwrap()).await, bytes);
    drop(first);
    assert_eq!(parked(store, &key).await.unwrap().recorded, run(0..5_000, None));
    store.remove_parked(&key).await.unwrap();
    assert!(parked(store, &key).await.is_none());
}

async fn discarded_is_gone(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(105, 20_000));
    let key = key(proof.digest());
    let reserved = store.room().await.unwrap().reserved;
    let mut spool = store.resume(&key, Expect::Whole(Some(20_000))).await.unwrap();
    write(&mut spool, &bytes, 0..20_000);
    spool.recorder().unwrap().record(&run(0..20_000, None)).unwrap();
    drop(spool);
    store.resume(&key, Expect::Parts).await.unwrap().discard();
    assert!(parked(store, &key).await.is_none());
    assert_eq!(store.room().await.unwrap().reserved, reserved);
    let spool = store.resume(&key, Expect::Parts).await.unwrap();
    assert_eq!(*spool.recorded(), Recorded::default());
}

async fn a_resumed_spool_becomes_a_blob(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(106, 100_000));
    let key = key(proof.digest());
    let mut spool = store.resume(&key, Expect::Parts).await.unwrap();
    write(&mut spool, &bytes, 60_000..100_000);
    spool.recorder().unwrap().record(&run(60_000..100_000, Some(100_000))).unwrap();
    drop(spool);
    let room = store.room().await.unwrap();
    assert!(room.parked >= 40_000 && room.parked <= room.reserved, "{room:?}");
    let mut spool = store.resume(&key, Expect::Parts).await.unwrap();
    spool.expect_whole(100_000).unwrap();
    write(&mut spool, &bytes, 0..60_000);
    let early = spool.reader();
    let blob = commit(spool, proof).await.unwrap();
    assert_eq!(content(&blob).await, bytes);
    assert_eq!(early.read_at(0, 100_000).await.unwrap(), bytes);
    assert_eq!(store.room().await.unwrap().parked, 0);
    assert!(store.parked().await.unwrap().is_empty());
}

async fn a_commit_ends_what_was_recorded(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(107, 30_000));
    let key = key(proof.digest());
    for wrong in [true, false] {
        let mut spool = store.resume(&key, Expect::Whole(Some(30_000))).await.unwrap();
        assert_eq!(*spool.recorded(), Recorded::default());
        let written = if wrong { 0..29_000 } else { 0..30_000 };
        write(&mut spool, &bytes, written.clone());
        let recorder = spool.recorder().unwrap();
        recorder.record(&run(written.clone(), None)).unwrap();
        match commit(spool, proof).await {
            Err(error) => assert!(wrong && error.kind() == StoreErrorKind::Corrupt, "{error}"),
            Ok(_) => assert!(!wrong, "it is too short"),
        }
        assert!(recorder.record(&run(written, None)).is_err());
        assert!(parked(store, &key).await.is_none());
    }
}

async fn what_was_not_written_cannot_be_recorded(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(108, 30_000));
    let mut spool = store.resume(&key(proof.digest()), Expect::Whole(None)).await.unwrap();
    write(&mut spool, &bytes, 0..10_000);
    let recorder = spool.recorder().unwrap();
    assert!(recorder.record(&run(0..20_000, None)).is_err());
    assert!(recorder.record(&run(0..10_000, Some(9_000))).is_err(), "beyond the size");
}

async fn parked_spools_are_listed_and_removed(store: &dyn BlobStore) {
    let mut keys = Vec::new();
    for seed in 110..113 {
        let (proof, bytes) = verified(&pattern(seed, 20_000));
        let key = key(proof.digest());
        let mut spool = store.resume(&key, Expect::Whole(Some(20_000))).await.unwrap();
        write(&mut spool, &bytes, 0..10_000);
        spool.recorder().unwrap().record(&run(0..10_000, Some(20_000))).unwrap();
        drop(spool);
        keys.push(key);
    }
    let listed = store.parked().await.unwrap();
    assert!(listed.is_sorted_by_key(|parked| parked.since));
    assert_eq!(listed.len(), 3);
    let room = store.room().await.unwrap();
    assert_eq!(listed.iter().map(|parked| parked.allocated).sum::<u64>(), room.parked);
    for key in &keys {
        let freed = store.remove_parked(key).await.unwrap();
        assert!(freed >= 10_000, "{freed}");
        assert_eq!(store.remove_parked(key).await.unwrap(), 0, "it is gone");
    }
    assert!(store.parked().await.unwrap().is_empty());
    let after = store.room().await.unwrap();
    assert_eq!((after.parked, room.reserved - room.parked), (0, after.reserved));
}

async fn parts_take_what_is_written(store: &dyn BlobStore) {
    const FAR: u64 = 10 << 30;
    let key = key(&Digest::sha256(b"ten gigabytes"));
    let before = store.room().await.unwrap();
    let mut spool = store.resume(&key, Expect::Parts).await.unwrap();
    spool.write_at(FAR - 2, b"ab").unwrap();
    spool.write_at(0, b"cd").unwrap();
    spool.write_at(FAR / 2, b"ef").unwrap();
    let room = store.room().await.unwrap();
    let step = super::super::reserve_step(room.max);
    assert!(room.reserved - before.reserved <= step, "{before:?} {room:?}");
    assert!(spool.reserved() <= step);
    let said = recorded(&[0..2, FAR / 2..FAR / 2 + 2, FAR - 2..FAR], Some(FAR));
    spool.recorder().unwrap().record(&said).unwrap();
    drop(spool);
    let parked = parked(store, &key).await.unwrap();
    assert!(parked.allocated < 1 << 20, "{parked:?}");
    let spool = store.resume(&key, Expect::Parts).await.unwrap();
    assert_eq!(*spool.recorded(), said);
    let mut back = [0; 2];
    assert_eq!(spool.read_back(FAR - 2, &mut back).unwrap(), 2);
    assert_eq!(&back, b"ab");
    spool.discard();
    assert_eq!(store.room().await.unwrap().reserved, before.reserved);
}

async fn readers_outlive_parking(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(109, 80_000));
    let key = key(proof.digest());
    let mut spool = store.resume(&key, Expect::Whole(Some(80_000))).await.unwrap();
    write(&mut spool, &bytes, 0..80_000);
    spool.recorder().unwrap().record(&run(0..10_000, None)).unwrap();
    let reader = spool.reader();
    drop(spool);
    assert_eq!(reader.read_at(0, 80_000).await.unwrap(), bytes, "also what was not recorded");
    // It is resumed, and written by somebody who does not trust the rest, while that one reads.
    let mut spool = store.resume(&key, Expect::Whole(Some(80_000))).await.unwrap();
    assert_eq!(*spool.recorded(), run(0..10_000, None));
    write(&mut spool, &bytes, 10_000..80_000);
    let blob = commit(spool, proof).await.unwrap();
    assert_eq!(content(&blob).await, bytes);
    assert_eq!(reader.read_at(0, 80_000).await.unwrap(), bytes);
    let _: Arc<_> = reader;
}
