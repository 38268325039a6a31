//! What every [`BlobStore`] does. Run on each implementation by its tests.

mod spools;

use std::sync::Arc;

use bytes::Bytes;

use super::{Blob, BlobStore, ReadAt, Spool};
use crate::oci::{Algorithm, Digest, Hasher, Verified};
use crate::store::{StoreError, StoreErrorKind};

/// All of the suite, each part on content of its own.
pub(crate) async fn all(store: &dyn BlobStore) {
    put_then_open(store).await;
    put_of_another_length_is_refused(store).await;
    missing_is_none(store).await;
    dropped_spool_leaves_nothing(store).await;
    wrong_length_is_refused(store).await;
    readers_outlive_commit_and_drop(store).await;
    concurrent_commits_of_one_digest(store).await;
    existing_blob_is_kept(store).await;
    removal_spares_readers(store).await;
    removed_can_come_back(store).await;
    empty_blob(store).await;
    sha512_blob(store).await;
    reads_past_the_end(store).await;
    writes_out_of_order(store).await;
    mapped_views_equal_reads(store).await;
    listing_pages_in_order(store).await;
    quarantined_is_out_of_sight(store).await;
    spools::all(store).await;
    store.probe().await.unwrap();
}

/// Content with the proof of its digest.
pub(crate) fn verified(content: &[u8]) -> (Verified, Bytes) {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(content);
    (hasher.finish(), Bytes::copy_from_slice(content))
}

/// Bytes in which every part differs from every other.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// A commit where it belongs: on the blocking pool.
pub(crate) async fn commit(spool: Box<dyn Spool>, proof: Verified) -> Result<Blob, StoreError> {
    tokio::task::spawn_blocking(move || spool.commit(proof)).await.unwrap()
}

async fn content(blob: &Blob) -> Bytes {
    blob.read_at(0, usize::try_from(blob.len()).unwrap()).await.unwrap()
}

async fn put_then_open(store: &dyn BlobStore) {
    let (proof, bytes) = verified(b"put then open");
    let put = store.put(proof, bytes.clone()).await.unwrap();
    let opened = store.open(proof.digest()).await.unwrap().unwrap();
    for blob in [&put, &opened] {
        assert_eq!(blob.digest(), proof.digest());
        assert_eq!(blob.len(), bytes.len() as u64);
        assert_eq!(content(blob).await, bytes);
    }
    assert!(store.contains(proof.digest()).await.unwrap());
}

async fn put_of_another_length_is_refused(store: &dyn BlobStore) {
    let (proof, _) = verified(b"the length of this");
    let error = store.put(proof, Bytes::from_static(b"is not of this")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert!(!store.contains(proof.digest()).await.unwrap());
}

async fn missing_is_none(store: &dyn BlobStore) {
    let digest = Digest::sha256(b"never stored");
    assert!(store.open(&digest).await.unwrap().is_none());
    assert!(!store.contains(&digest).await.unwrap());
    assert!(!store.remove(&digest).await.unwrap());
}

async fn dropped_spool_leaves_nothing(store: &dyn BlobStore) {
    let before = store.list(None, usize::MAX).await.unwrap();
    let (proof, bytes) = verified(b"dropped before its commit");
    let mut spool = store.spool(Some(proof.len())).await.unwrap();
    spool.write_at(0, &bytes).unwrap();
    drop(spool);
    assert!(store.open(proof.digest()).await.unwrap().is_none());
    assert_eq!(store.list(None, usize::MAX).await.unwrap(), before);
}

async fn wrong_length_is_refused(store: &dyn BlobStore) {
    let (proof, bytes) = verified(b"committed at another length");
    for written in [&bytes[1..], b"" as &[u8], b"longer than what was verified, by far"] {
        let mut spool = store.spool(None).await.unwrap();
        spool.write_at(0, written).unwrap();
        let error = commit(spool, proof).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
        assert!(store.open(proof.digest()).await.unwrap().is_none());
    }
}

async fn readers_outlive_commit_and_drop(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(1, 100_000));
    let mut spool = store.spool(Some(proof.len())).await.unwrap();
    let early = spool.reader();
    assert!(early.read_at(0, 10).await.unwrap().is_empty(), "nothing is there yet");
    spool.write_at(0, &bytes[..60_000]).unwrap();
    let late = spool.reader();
    for reader in [&early, &late] {
        assert_eq!(reader.read_at(100, 500).await.unwrap(), bytes[100..600]);
        assert_eq!(reader.read_at(59_000, 5_000).await.unwrap(), bytes[59_000..60_000]);
    }
    spool.write_at(60_000, &bytes[60_000..]).unwrap();

    // One reads all the time while the commit happens.
    let during = read_all(Arc::clone(&early), bytes.len());
    let (committed, read) = tokio::join!(commit(spool, proof), during);
    let blob = committed.unwrap();
    assert_eq!(read, bytes);
    for reader in [&early, &late, blob.source()] {
        assert_eq!(reader.read_at(0, bytes.len()).await.unwrap(), bytes);
    }
    assert!(store.remove(proof.digest()).await.unwrap());
    assert_eq!(early.read_at(0, bytes.len()).await.unwrap(), bytes);

    let mut spool = store.spool(None).await.unwrap();
    spool.write_at(0, &bytes).unwrap();
    let reader = spool.reader();
    drop(spool);
    assert_eq!(reader.read_at(0, bytes.len()).await.unwrap(), bytes);
}

async fn read_all(reader: Arc<dyn ReadAt>, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < len {
        let part = reader.read_at(all.len() as u64, 1000).await.unwrap();
        assert!(!part.is_empty());
        all.extend_from_slice(&part);
    }
    all
}

async fn concurrent_commits_of_one_digest(store: &dyn BlobStore) {
    const WRITERS: usize = 8;
    let (proof, bytes) = verified(&pattern(2, 10_000));
    let mut commits = Vec::new();
    for _ in 0..WRITERS {
        let mut spool = store.spool(None).await.unwrap();
        spool.write_at(0, &bytes).unwrap();
        commits.push(commit(spool, proof));
    }
    for blob in futures_util::future::join_all(commits).await {
        assert_eq!(content(&blob.unwrap()).await, bytes);
    }
    let listed = store.list(None, usize::MAX).await.unwrap();
    assert_eq!(listed.iter().filter(|(digest, _)| digest == proof.digest()).count(), 1);
}

async fn existing_blob_is_kept(store: &dyn BlobStore) {
    let (proof, bytes) = verified(b"kept, not replaced");
    let first = store.put(proof, bytes.clone()).await.unwrap();
    let second = store.put(proof, bytes.clone()).await.unwrap();
    assert_eq!(content(&first).await, bytes);
    assert_eq!(content(&second).await, bytes);
}

async fn removal_spares_readers(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(3, 200_000));
    store.put(proof, bytes.clone()).await.unwrap();
    let unmapped = store.open(proof.digest()).await.unwrap().unwrap();
    let view = unmapped.mapped(10..20);
    assert!(store.remove(proof.digest()).await.unwrap());
    assert!(!store.remove(proof.digest()).await.unwrap(), "it is gone already");
    assert!(store.open(proof.digest()).await.unwrap().is_none());
    assert!(!store.contains(proof.digest()).await.unwrap());
    assert_eq!(content(&unmapped).await, bytes);
    if let Some(view) = view {
        assert_eq!(view, bytes[10..20]);
    }
}

async fn quarantined_is_out_of_sight(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(6, 50_000));
    assert!(!store.quarantine(proof.digest()).await.unwrap(), "it was never here");
    for _ in 0..3 {
        store.put(proof, bytes.clone()).await.unwrap();
        let reader = store.open(proof.digest()).await.unwrap().unwrap();
        assert!(store.quarantine(proof.digest()).await.unwrap());
        assert!(!store.quarantine(proof.digest()).await.unwrap(), "it is gone already");
        assert!(store.open(proof.digest()).await.unwrap().is_none());
        assert!(!store.contains(proof.digest()).await.unwrap());
        assert!(!store.remove(proof.digest()).await.unwrap());
        let listed = store.list(None, usize::MAX).await.unwrap();
        assert!(listed.iter().all(|(digest, _)| digest != proof.digest()));
        assert_eq!(content(&reader).await, bytes, "whoever reads it reads on");
    }
    // A good copy is stored as usual.
    let blob = store.put(proof, bytes.clone()).await.unwrap();
    assert_eq!(content(&blob).await, bytes);
    drop(blob);
    let quarantined = store.room().await.unwrap().quarantined;
    assert_eq!(store.empty_quarantine(u64::MAX).await.unwrap(), quarantined);
    assert_eq!(store.room().await.unwrap().quarantined, 0);
    assert!(store.contains(proof.digest()).await.unwrap(), "the good copy stays");
}

async fn removed_can_come_back(store: &dyn BlobStore) {
    let (proof, bytes) = verified(b"here, gone, here");
    for _ in 0..3 {
        store.put(proof, bytes.clone()).await.unwrap();
        assert!(store.contains(proof.digest()).await.unwrap());
        assert!(store.remove(proof.digest()).await.unwrap());
        assert!(!store.contains(proof.digest()).await.unwrap());
    }
}

async fn empty_blob(store: &dyn BlobStore) {
    let (proof, bytes) = verified(b"");
    store.put(proof, bytes).await.unwrap();
    let blob = store.open(proof.digest()).await.unwrap().unwrap();
    assert!(blob.is_empty());
    assert!(blob.read_at(0, 10).await.unwrap().is_empty());
    assert!(blob.mapped(0..0).is_none_or(|view| view.is_empty()));
    assert!(blob.mapped(0..1).is_none());
    // Also as a spool to which nothing was ever written.
    assert!(store.remove(proof.digest()).await.unwrap());
    let spool = store.spool(Some(0)).await.unwrap();
    commit(spool, proof).await.unwrap();
    assert!(store.contains(proof.digest()).await.unwrap());
}

async fn sha512_blob(store: &dyn BlobStore) {
    let digest = Digest::of(Algorithm::Sha512, b"sha512");
    let proof = Verified::check(b"sha512", &digest).unwrap();
    store.put(proof, Bytes::from_static(b"sha512")).await.unwrap();
    let blob = store.open(&digest).await.unwrap().unwrap();
    assert_eq!(*blob.digest(), digest);
    assert_eq!(content(&blob).await, b"sha512"[..]);
    let short = Digest::sha256(b"sha512");
    assert!(store.open(&short).await.unwrap().is_none(), "another algorithm is another blob");
}

async fn reads_past_the_end(store: &dyn BlobStore) {
    let (proof, bytes) = verified(b"0123456789");
    let mut spool = store.spool(None).await.unwrap();
    spool.write_at(0, &bytes).unwrap();
    let growing = spool.reader();
    let blob = commit(spool, proof).await.unwrap();
    for reader in [&growing, blob.source()] {
        assert_eq!(reader.read_at(4, 100).await.unwrap(), b"456789"[..]);
        assert_eq!(reader.read_at(0, usize::MAX).await.unwrap(), bytes);
        assert!(reader.read_at(10, 1).await.unwrap().is_empty());
        assert!(reader.read_at(11, 1).await.unwrap().is_empty());
        assert!(reader.read_at(u64::MAX, usize::MAX).await.unwrap().is_empty());
        assert!(reader.read_at(3, 0).await.unwrap().is_empty());
    }
    #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake must not panic")]
    for range in [0..11, 11..12, 5..4, u64::MAX - 1..u64::MAX] {
        assert!(blob.mapped(range).is_none());
    }
}

async fn writes_out_of_order(store: &dyn BlobStore) {
    let (proof, bytes) = verified(&pattern(4, 30_000));
    let mut spool = store.spool(Some(proof.len())).await.unwrap();
    spool.write_at(20_000, &bytes[20_000..]).unwrap();
    spool.write_at(0, &bytes[..10_000]).unwrap();
    spool.write_at(9_000, &bytes[9_000..20_000]).unwrap();
    spool.write_at(0, b"").unwrap();
    let blob = commit(spool, proof).await.unwrap();
    assert_eq!(content(&blob).await, bytes);
}

async fn mapped_views_equal_reads(store: &dyn BlobStore) {
    const SLICE: u64 = 256 * 1024;
    let (proof, bytes) = verified(&pattern(5, (3 << 20) + 17));
    store.put(proof, bytes.clone()).await.unwrap();
    let blob = store.open(proof.digest()).await.unwrap().unwrap();
    let mut offset = 0;
    while offset < blob.len() {
        let end = (offset + SLICE).min(blob.len());
        let read = blob.read_at(offset, usize::try_from(end - offset).unwrap()).await.unwrap();
        let expected = bytes.slice(usize::try_from(offset).unwrap()..usize::try_from(end).unwrap());
        assert_eq!(read, expected);
        if let Some(view) = blob.mapped(offset..end) {
            assert_eq!(view, expected);
        }
        offset = end;
    }
}

async fn listing_pages_in_order(store: &dyn BlobStore) {
    for n in 0..40_u8 {
        let (proof, bytes) = verified(&vec![n; usize::from(n) + 1]);
        store.put(proof, bytes).await.unwrap();
        let digest = Digest::of(Algorithm::Sha512, &[n]);
        let proof = Verified::check(&[n], &digest).unwrap();
        store.put(proof, Bytes::from(vec![n])).await.unwrap();
    }
    let whole = store.list(None, usize::MAX).await.unwrap();
    assert!(whole.len() >= 80);
    assert!(whole.is_sorted_by(|a, b| a.0 < b.0));
    for n in 0..40_u8 {
        let digest = Digest::sha256(&vec![n; usize::from(n) + 1]);
        assert!(whole.contains(&(digest, u64::from(n) + 1)));
    }
    let mut paged = Vec::new();
    loop {
        let page = store.list(paged.last().map(|(digest, _)| digest), 7).await.unwrap();
        let last = page.len() < 7;
        paged.extend(page);
        if last {
            break;
        }
    }
    assert_eq!(paged, whole);
    assert!(store.list(None, 0).await.unwrap().is_empty());
}
