//! Making room, on real files and in memory.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::oci::Verified;
use crate::spans::Spans;
use crate::store::blob::conformance::{commit, pattern, verified};
use crate::store::blob::{FsBlobs, FsOptions};
use crate::store::meta::MemoryMeta;
use crate::store::meta::conformance::{bare, record, scope};
use crate::store::{Expect, HotOptions, LinkKind, Recorded};

/// What every test blob takes.
const BLOB: u64 = 500_000;

/// Room for seven of them, and a little.
const MAX: u64 = 4 << 20;

struct Fixture {
    root: TempDir,
    registry: prometheus::Registry,
    meta: MemoryMeta,
    clock: Clock,
    tasks: Tasks,
    workers: Workers,
    keeper: Keeper,
    shelf: Arc<dyn BlobStore>,
}

async fn started(
    root: &Path,
    meta: &MemoryMeta,
    clock: &Clock,
    limits: HashMap<UpstreamName, UpstreamLimits>,
    registry: &prometheus::Registry,
) -> (Tasks, Workers, Keeper) {
    let tasks = Tasks::new(registry).unwrap();
    let workers = Workers::new(tasks.clone(), clock.clone());
    let options = FsOptions { max_bytes: Some(MAX), ..FsOptions::default() };
    let parts = Parts {
        blobs: Arc::new(FsBlobs::open(root, options).await.unwrap()),
        keeping: Arc::new(meta.clone()),
        meta: Arc::new(meta.clone()),
        hot: Hot::new(HotOptions::default()),
        limits,
        clock: clock.clone(),
        tasks: tasks.clone(),
        workers: workers.clone(),
    };
    let keeper = Keeper::start(parts, registry).await.unwrap();
    (tasks, workers, keeper)
}

impl Fixture {
    async fn new() -> Self {
        Self::with(HashMap::new()).await
    }

    async fn with(limits: HashMap<UpstreamName, UpstreamLimits>) -> Self {
        let root = TempDir::new().unwrap();
        let meta = MemoryMeta::default();
        let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
        let registry = prometheus::Registry::new();
        let (tasks, workers, keeper) = started(root.path(), &meta, &clock, limits, &registry).await;
        let shelf = keeper.shelf();
        Self { root, registry, meta, clock, tasks, workers, keeper, shelf }
    }

    /// An image of one layer of [`BLOB`] bytes: its manifest and its layer.
    async fn image(&self, seed: u64) -> (Digest, Digest) {
        let layer = self.blob(seed).await.unwrap();
        let (proof, bytes) = verified(format!("a manifest that names {layer}").as_bytes());
        self.keeper.uses().names(proof.digest(), vec![layer]);
        self.shelf.put(proof, bytes).await.unwrap();
        (*proof.digest(), layer)
    }

    async fn blob(&self, seed: u64) -> Result<Digest, StoreError> {
        let (proof, bytes) = content(seed, BLOB as usize);
        self.shelf.put(proof, bytes).await?;
        Ok(*proof.digest())
    }

    /// Everything that was stored or used so far was so a while ago.
    fn later(&self) {
        self.keeper.shared.catalogue.settle();
        self.clock.advance(images::ACTIVE_FOR * 2);
    }

    async fn has(&self, digest: &Digest) -> bool {
        self.shelf.contains(digest).await.unwrap()
    }
}

fn content(seed: u64, len: usize) -> (Verified, Bytes) {
    verified(&pattern(seed, len))
}

#[tokio::test]
async fn a_full_store_lets_the_coldest_image_go_as_a_whole() {
    let fixture = Fixture::new().await;
    let (cold, hot) = (fixture.image(1).await, fixture.image(2).await);
    fixture.later();
    for _ in 0..3 {
        // Only its manifest is asked for: the image is in use all the same.
        fixture.keeper.uses().used(&hot.0);
    }
    fixture.later();
    for seed in 10..16 {
        fixture.blob(seed).await.unwrap();
    }
    fixture.later();
    fixture.blob(20).await.unwrap();
    assert!(!fixture.has(&cold.0).await && !fixture.has(&cold.1).await);
    assert!(fixture.has(&hot.0).await && fixture.has(&hot.1).await);
}

#[tokio::test]
async fn pinned_images_stay_whatever_comes_and_by_tag_the_one_that_it_means() {
    let fixture = Fixture::new().await;
    let (old, new) = (fixture.image(1).await, fixture.image(2).await);
    let pin = Pin { scope: scope("a/b"), reference: "latest".parse().unwrap() };
    let tag = "latest".parse().unwrap();
    for image in [old.0, new.0] {
        fixture.meta.put_tag(&pin.scope, &tag, &record(image, 1)).await.unwrap();
    }
    assert!(fixture.keeper.pin(&pin).await.unwrap());
    for seed in 10..40 {
        fixture.later();
        fixture.blob(seed).await.unwrap();
    }
    assert!(!fixture.has(&old.1).await);
    assert!(fixture.has(&new.0).await && fixture.has(&new.1).await);
    let images = fixture.keeper.images().await.unwrap();
    assert_eq!(images.iter().filter(|image| image.is_pinned).count(), 1);
    assert!(fixture.keeper.unpin(&pin).await.unwrap());
    assert_eq!(fixture.keeper.usage().await.unwrap().pins, 0);
}

#[tokio::test]
async fn what_could_never_fit_evicts_nothing() {
    let fixture = Fixture::new().await;
    let image = fixture.image(1).await;
    fixture.later();
    let error = fixture.shelf.spool(Some(MAX + 1)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NoSpace);
    assert!(fixture.has(&image.1).await);
}

#[tokio::test]
async fn what_is_being_read_stays_and_so_does_its_image() {
    let fixture = Fixture::new().await;
    let read = fixture.image(1).await;
    fixture.later();
    let reader = fixture.shelf.open(&read.1).await.unwrap().unwrap();
    for seed in 10..30 {
        fixture.later();
        fixture.blob(seed).await.unwrap();
    }
    assert!(fixture.has(&read.0).await && fixture.has(&read.1).await);
    drop(reader);
    for seed in 40..60 {
        fixture.later();
        fixture.blob(seed).await.unwrap();
    }
    assert!(!fixture.has(&read.1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_unknown_length_makes_its_room_while_it_grows() {
    let fixture = Fixture::new().await;
    for seed in 0..8 {
        fixture.blob(seed).await.unwrap();
    }
    fixture.later();
    let (proof, bytes) = content(99, 3 * BLOB as usize);
    let mut spool = fixture.shelf.spool(None).await.unwrap();
    let written = bytes.clone();
    let spool = tokio::task::spawn_blocking(move || {
        for (n, chunk) in written.chunks(50_000).enumerate() {
            spool.write_at(n as u64 * 50_000, chunk).unwrap();
        }
        spool
    });
    commit(spool.await.unwrap(), proof).await.unwrap();
    let blob = fixture.shelf.open(proof.digest()).await.unwrap().unwrap();
    assert_eq!(blob.read_at(0, bytes.len()).await.unwrap(), bytes);
    assert!(fixture.keeper.usage().await.unwrap().room.stored <= MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_get_their_room_or_a_refusal_and_the_catalogue_knows_the_outcome() {
    let fixture = Fixture::new().await;
    let rounds = (0..8_u64).map(|client| {
        let shelf = Arc::clone(&fixture.shelf);
        async move {
            let mut stored = 0;
            for n in 0..20 {
                let (proof, bytes) = content(1_000 * client + n, BLOB as usize);
                match shelf.put(proof, bytes).await {
                    Ok(_) => stored += 1,
                    Err(error) => assert_eq!(error.kind(), StoreErrorKind::NoSpace, "{error}"),
                }
            }
            stored
        }
    });
    let stored: Vec<i32> = futures_util::future::join_all(rounds).await;
    assert!(stored.iter().all(|stored| *stored > 0), "{stored:?}");
    let room = fixture.keeper.usage().await.unwrap().room;
    assert!(room.stored <= MAX && room.reserved == 0, "{room:?}");
    let listed = fixture.shelf.list(None, 1000).await.unwrap();
    let known = fixture.keeper.shared.catalogue.all();
    assert!(listed.iter().all(|(digest, _)| known.contains_key(digest)));
    assert_eq!(listed.len(), known.len());
}

#[tokio::test]
async fn uses_survive_a_restart() {
    let fixture = Fixture::new().await;
    let image = fixture.image(1).await;
    fixture.later();
    for _ in 0..5 {
        fixture.keeper.uses().used(&image.0);
    }
    let Fixture { root, meta, clock, tasks, workers, keeper, shelf, .. } = fixture;
    keeper.shared.catalogue.settle();
    let before = keeper.shared.catalogue.get(&image.0).unwrap();
    tasks.stop();
    workers.stopped().await;
    drop((keeper, shelf));
    // The evictor lets go of the store once nobody can ask it any more.
    let reopened = async {
        loop {
            match FsBlobs::open(root.path(), FsOptions::default()).await {
                Err(error) if error.kind() == StoreErrorKind::Locked => {
                    tokio::task::yield_now().await;
                }
                opened => break opened.unwrap(),
            }
        }
    };
    drop(tokio::time::timeout(Duration::from_secs(10), reopened).await.unwrap());
    let registry = prometheus::Registry::new();
    let (_tasks, _workers, keeper) =
        started(root.path(), &meta, &clock, HashMap::new(), &registry).await;
    let after = keeper.shared.catalogue.get(&image.0).unwrap();
    assert_eq!((after.used, after.stored_at), (before.used, before.stored_at));
    assert_eq!(after.parts.unwrap()[..], [image.1]);
}

#[tokio::test]
async fn the_limits_of_an_upstream_are_enforced_on_its_content_only() {
    let limited: UpstreamName = "ghcr.io".parse().unwrap();
    let hour = Duration::from_secs(3600);
    let limits = UpstreamLimits { max_bytes: Some(2 * BLOB + 50_000), max_age: Some(hour) };
    let fixture = Fixture::with(HashMap::from([(limited.clone(), limits)])).await;
    let mut of_it = Vec::new();
    for seed in 0..4 {
        let digest = fixture.blob(seed).await.unwrap();
        fixture.keeper.uses().came_from(&digest, &limited);
        of_it.push(digest);
        fixture.later();
    }
    let other = fixture.blob(9).await.unwrap();
    fixture.later();
    let all = async || {
        let mut left = Vec::new();
        for digest in of_it.iter().chain([&other]) {
            left.push(fixture.has(digest).await);
        }
        left
    };
    let link = |digest| (digest, bare(LinkKind::Blob));
    let links: Vec<_> = of_it.iter().copied().chain([other]).map(link).collect();
    fixture.meta.put_links(&scope("a/b"), &links).await.unwrap();
    assert_eq!(fixture.keeper.collect().await.unwrap().blobs, 2);
    assert_eq!(all().await, [false, false, true, true, true], "the coldest of them went");
    fixture.clock.advance(hour);
    assert_eq!(fixture.keeper.collect().await.unwrap().blobs, 2);
    assert_eq!(all().await, [false, false, false, false, true], "the others are too old");
}

#[tokio::test]
async fn a_collection_takes_what_no_repository_has_a_link_to() {
    let fixture = Fixture::new().await;
    let (linked, unlinked) = (fixture.image(1).await, fixture.image(2).await);
    let link = (linked.0, bare(LinkKind::Manifest));
    fixture.meta.put_links(&scope("a/b"), &[link]).await.unwrap();
    assert_eq!(fixture.keeper.collect().await.unwrap().blobs, 0, "it may be on its way in");
    fixture.clock.advance(Duration::from_secs(3600));
    let collected = fixture.keeper.collect().await.unwrap();
    assert_eq!(collected.blobs, 2);
    assert!(collected.bytes >= BLOB);
    assert!(fixture.has(&linked.1).await && !fixture.has(&unlinked.1).await);
}

#[tokio::test]
async fn pins_are_bounded() {
    let fixture = Fixture::new().await;
    let pin = |n: usize| Pin { scope: scope(&format!("a/b{n}")), reference: "t".parse().unwrap() };
    for n in 0..PINS_MAX {
        fixture.keeper.pin(&pin(n)).await.unwrap();
    }
    assert!(matches!(fixture.keeper.pin(&pin(PINS_MAX)).await, Err(PinError::TooMany)));
    assert!(!fixture.keeper.pin(&pin(0)).await.unwrap(), "that one is pinned already");
}

/// Leaves half of a blob of [`BLOB`] bytes behind, recorded.
async fn park(shelf: &Arc<dyn BlobStore>, seed: u64) -> SpoolKey {
    let (proof, bytes) = content(seed, BLOB as usize);
    let key = SpoolKey { upstream: "ghcr.io".parse().unwrap(), digest: *proof.digest() };
    let mut spool = shelf.resume(&key, Expect::Whole(Some(BLOB))).await.unwrap();
    let half = BLOB / 2;
    spool.write_at(0, &bytes[..half as usize]).unwrap();
    let recorded = Recorded { landed: Spans::of(0..half), size: Some(BLOB) };
    spool.recorder().unwrap().record(&recorded).unwrap();
    key
}

async fn parked(fixture: &Fixture) -> Vec<SpoolKey> {
    fixture.shelf.parked().await.unwrap().into_iter().map(|parked| parked.key).collect()
}

#[tokio::test]
async fn what_nobody_goes_on_with_goes_before_any_image() {
    let fixture = Fixture::new().await;
    let image = fixture.image(1).await;
    let damaged = fixture.blob(2).await.unwrap();
    let left = park(&fixture.shelf, 3).await;
    // The quarantine of so small a store holds next to nothing.
    assert!(fixture.shelf.quarantine(&damaged).await.unwrap());
    let small = verified(b"small and damaged");
    fixture.shelf.put(small.0, small.1).await.unwrap();
    assert!(fixture.shelf.quarantine(small.0.digest()).await.unwrap());
    let room = fixture.keeper.usage().await.unwrap().room;
    assert!(room.parked >= BLOB / 2 && room.quarantined > 0, "{room:?}");
    assert_eq!(room.quarantined_files, 1);
    fixture.later();
    for seed in 10..15 {
        fixture.blob(seed).await.unwrap();
    }
    assert_eq!(parked(&fixture).await, [left], "there was room");
    fixture.blob(16).await.unwrap();
    assert!(parked(&fixture).await.is_empty());
    let room = fixture.keeper.usage().await.unwrap().room;
    assert_eq!((room.parked, room.quarantined_files), (0, 0));
    assert!(fixture.has(&image.1).await);
}

#[tokio::test]
async fn room_for_a_fill_that_goes_on_is_not_made_of_what_it_has() {
    let fixture = Fixture::new().await;
    let ours = park(&fixture.shelf, 1).await;
    let other = park(&fixture.shelf, 2).await;
    for seed in 10..16 {
        fixture.blob(seed).await.unwrap();
    }
    fixture.later();
    let spool = fixture.shelf.resume(&ours, Expect::Whole(Some(BLOB))).await.unwrap();
    assert_eq!(spool.recorded().landed, Spans::of(0..BLOB / 2));
    // One that is being written never goes, whatever is wanted.
    assert!(fixture.shelf.spool(Some(MAX)).await.is_err());
    let more = fixture.shelf.spool(Some(3 * BLOB)).await.unwrap();
    assert!(!parked(&fixture).await.contains(&other), "the other one made room");
    drop((spool, more));
    assert_eq!(parked(&fixture).await, [ours]);
}

#[tokio::test]
async fn a_collection_takes_spools_that_nobody_went_on_with_for_a_day() {
    let fixture = Fixture::new().await;
    // The disk's clock is the real one.
    let key = park(&fixture.shelf, 1).await;
    let since = fixture.shelf.parked().await.unwrap()[0].since;
    fixture.clock.advance(since.since(fixture.clock.now()));
    fixture.clock.advance(Duration::from_secs(23 * 3600));
    fixture.keeper.collect().await.unwrap();
    assert_eq!(parked(&fixture).await, [key]);
    fixture.clock.advance(Duration::from_secs(2 * 3600));
    let collected = fixture.keeper.collect().await.unwrap();
    assert!(collected.blobs == 0 && collected.bytes >= BLOB / 2, "{collected:?}");
    assert!(parked(&fixture).await.is_empty());
}

#[tokio::test]
async fn what_found_damage_is_counted() {
    let fixture = Fixture::new().await;
    let scrub = fixture.keeper.shelf_of(Finder::Scrub);
    let (a, b) = (fixture.blob(1).await.unwrap(), fixture.blob(2).await.unwrap());
    assert!(fixture.shelf.quarantine(&a).await.unwrap());
    assert!(!fixture.shelf.quarantine(&a).await.unwrap(), "counted once");
    assert!(scrub.quarantine(&b).await.unwrap());
    for finder in ["read", "scrub"] {
        let families = fixture.registry.gather();
        let family = families.iter().find(|f| f.name() == "pierhead_storage_quarantined_total");
        let metrics = family.unwrap().get_metric();
        let of = |m: &&prometheus::proto::Metric| m.get_label()[0].value() == finder;
        assert_eq!(metrics.iter().find(of).unwrap().get_counter().get_value(), 1.0, "{finder}");
    }
    assert_eq!(fixture.keeper.usage().await.unwrap().blobs, 0, "the catalogue knows");
}
