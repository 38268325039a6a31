//! What only a store in memory does.

use super::*;
use crate::store::blob::conformance::{self, commit, pattern, verified};

const ROOM: u64 = 64 << 20;

#[tokio::test]
async fn conforms() {
    conformance::all(&MemoryBlobs::new(ROOM)).await;
}

#[tokio::test]
async fn a_full_store_says_so_and_has_room_again_later() {
    let store = MemoryBlobs::new(10);
    let (proof, bytes) = verified(b"ten bytes.");
    store.put(proof, bytes.clone()).await.unwrap();
    assert_eq!(store.probe().await.unwrap_err().kind(), StoreErrorKind::NoSpace);
    let (other, other_bytes) = verified(b"x");
    let refused = store.put(other, other_bytes.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::NoSpace);
    assert_eq!(store.used(), 10, "what was refused takes no room");
    assert!(store.remove(proof.digest()).await.unwrap());
    store.put(other, other_bytes).await.unwrap();
    assert_eq!(store.used(), 1);
}

#[tokio::test]
async fn a_blob_put_twice_counts_once() {
    let store = MemoryBlobs::new(ROOM);
    let (proof, bytes) = verified(b"twice");
    store.put(proof, bytes.clone()).await.unwrap();
    store.put(proof, bytes).await.unwrap();
    assert_eq!(store.used(), 5);
}

/// A spool of `key` with `written` at its front, of which the first `recorded` bytes are recorded.
async fn begun(
    store: &MemoryBlobs,
    key: &SpoolKey,
    written: &[u8],
    recorded: u64,
) -> Box<dyn Spool> {
    let mut spool = store.resume(key, Expect::Whole(None)).await.unwrap();
    spool.write_at(0, written).unwrap();
    let landed = Spans::of(0..recorded);
    spool.recorder().unwrap().record(&Recorded { landed, size: None }).unwrap();
    spool
}

fn key(digest: &Digest) -> SpoolKey {
    SpoolKey { upstream: "docker.io".parse().unwrap(), digest: *digest }
}

#[tokio::test]
async fn a_crash_loses_what_was_neither_committed_nor_recorded() {
    let store = MemoryBlobs::new(ROOM);
    let (proof, bytes) = verified(&pattern(7, 100_000));
    let (stored, kept) = verified(b"stored before");
    store.put(stored, kept).await.unwrap();
    let mut spool = begun(&store, &key(proof.digest()), &bytes[..70_000], 50_000).await;
    let recorder = spool.recorder().unwrap();
    let reader = spool.reader();
    let unkeyed = store.spool(Some(1_000)).await.unwrap();
    store.crash();
    assert_eq!(store.used(), 50_000 + stored.len());
    assert!(store.contains(stored.digest()).await.unwrap());

    // Those of before do no harm.
    assert!(spool.write_at(70_000, &bytes[70_000..]).is_err());
    assert!(recorder.record(&Recorded { landed: Spans::of(0..60_000), size: None }).is_err());
    assert!(spool.expect_whole(100_000).is_err());
    assert_eq!(reader.read_at(0, 70_000).await.unwrap(), bytes[..70_000]);
    drop(unkeyed);
    let mut next = store.resume(&key(proof.digest()), Expect::Whole(None)).await.unwrap();
    assert!(spool.commit(proof).is_err());
    assert_eq!(next.recorded().landed, Spans::of(0..50_000));
    next.write_at(50_000, &bytes[50_000..]).unwrap();
    let blob = commit(next, proof).await.unwrap();
    assert_eq!(blob.read_at(0, 100_000).await.unwrap(), bytes);
    assert_eq!(store.used(), 100_000 + stored.len());
    assert!(store.parked().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_was_not_recorded_comes_back_as_nothing_like_content() {
    let store = MemoryBlobs::new(ROOM);
    let (proof, bytes) = verified(&pattern(8, 40_000));
    drop(begun(&store, &key(proof.digest()), &bytes, 10_000).await);
    let spool = store.resume(&key(proof.digest()), Expect::Parts).await.unwrap();
    let mut back = vec![0; 40_000];
    let read = spool.read_back(0, &mut back).unwrap();
    assert_eq!(back[..10_000], bytes[..10_000]);
    assert!(back[10_000..read].iter().all(|byte| *byte == 0xdb));
}
