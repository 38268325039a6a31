//! A store with a cap, and stores that have no room at all.

use std::thread;

use pierhead_kit::http::{self, End, Request};
use pierhead_kit::random::Random;
use pierhead_kit::space::{SpaceSampler, TinyFs};
use pierhead_kit::upstream::{Fault, FaultyUpstream, ImageDigests, On};
use pierhead_kit::{sha256, wait_until};

use super::{DEADLINE, blob_url, code, pierhead, pull_image, read_image};

const MIB: u64 = 1024 * 1024;

/// What one image of these tests has, in bytes.
const IMAGE: u64 = 2 * MIB;

fn image(upstream: &FaultyUpstream, n: u64) -> ImageDigests {
    let layer = |seed| Random::new(seed, IMAGE / 2).part(0, (IMAGE / 2) as usize);
    upstream.add_image(&repository(n), "v1", [layer(2 * n), layer(2 * n + 1)])
}

fn repository(n: u64) -> String {
    format!("library/image{n}")
}

/// Eight clients pull images at random, every second time one of two hot ones.
fn pull_at_random(pierhead: &pierhead_kit::program::Pierhead, images: &[ImageDigests]) {
    thread::scope(|scope| {
        for client in 0..8_u64 {
            scope.spawn(move || {
                for (turn, byte) in Random::new(1_000 + client, 24).part(0, 24).iter().enumerate() {
                    let n = u64::from(*byte);
                    let n = if turn % 2 == 0 { n % 2 } else { n % images.len() as u64 };
                    read_image(pierhead, &repository(n), "v1", &images[n as usize]);
                }
            });
        }
    });
}

#[test]
fn the_cap_holds_every_pull_succeeds_and_hot_images_stay() {
    const CAP: u64 = 24 * MIB;
    let upstream = FaultyUpstream::start_blocking();
    let images: Vec<_> = (0..24).map(|n| image(&upstream, n)).collect();
    let pierhead =
        pierhead(&upstream, &format!("[storage]\nmax_size = \"{CAP}B\"\nmin_free = \"0B\""));
    for n in [0, 1, 0, 1] {
        pull_image(&pierhead, &repository(n), "v1", &images[n as usize]);
    }
    let sampler = SpaceSampler::watch(pierhead.storage());
    pull_at_random(&pierhead, &images);
    let (most, samples) = sampler.most();
    assert!(most <= CAP, "{most} bytes at the most, of {samples} samples");
    assert!(
        samples > 0 && pierhead.metric("pierhead_evictions_total", &[("reason", "room")]) > 0.0
    );
    for hot in &images[..2] {
        for layer in &hot.layers {
            assert_eq!(upstream.count("GET", layer), 1, "a hot layer was evicted");
        }
    }
    // Eight clients can be in the middle of more than fits: then some blobs are passed on.
    let ended = |result| pierhead.metric("pierhead_fills_total", &[("result", result)]);
    assert!(ended("passed") * 10.0 < ended("stored"), "{}", pierhead.metrics());
}

#[test]
fn a_disk_with_next_to_no_room_fails_no_pull() {
    let disk = match TinyFs::mount(10 * MIB) {
        Ok(disk) => disk,
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: cannot mount a file system: {error}");
            return;
        }
        Err(error) => panic!("cannot mount a file system: {error}"),
    };
    let upstream = FaultyUpstream::start_blocking();
    let images: Vec<_> = (0..12).map(|n| image(&upstream, n)).collect();
    let large = upstream.add_random_blob("library/large", 7, 24 * MIB);
    let storage = disk.path().join("storage");
    let config = format!("[storage]\npath = \"{}\"\nmin_free = \"0B\"", storage.display());
    let pierhead = pierhead(&upstream, &config);
    thread::scope(|scope| {
        scope.spawn(|| pull_at_random(&pierhead, &images));
        let blob = http::get(blob_url(&pierhead, "library/large", &large)).expect(200);
        assert_eq!(sha256(&blob.body), large);
    });
    http::get(format!("{}/readyz", pierhead.url()));
    assert!(pierhead.metric("pierhead_fills_total", &[("result", "passed")]) > 0.0);
    assert!(pierhead.metric("pierhead_fills_total", &[("result", "stored")]) > 0.0);
    drop(pierhead);
}

const TIGHT: &str = "[storage]\nmax_size = \"8MiB\"\nmin_free = \"0B\"\n";

#[test]
fn a_blob_beyond_the_cap_is_passed_on_whole_and_fetched_once_for_who_keeps_up() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 40 * MIB;
    let digest = upstream.add_random_blob("library/a", 1, size);
    let pierhead = pierhead(&upstream, TIGHT);
    let url = blob_url(&pierhead, "library/a", &digest);
    let sampler = SpaceSampler::watch(pierhead.storage());
    assert_eq!(sha256(&http::get(&*url).expect(200).body), digest);
    assert_eq!(upstream.count("GET", &digest), 1);
    assert!(sampler.most().0 <= 8 * MIB);
    assert_eq!(pierhead.metric("pierhead_fills_total", &[("result", "passed")]), 1.0);
    // Ranges of it, in the same way.
    let part = Request::new("GET", &*url).header("Range", "bytes=30000000-30000999").send();
    assert_eq!(part.expect(206).body.len(), 1000);
    let rest = Request::new("GET", &*url).header("Range", "bytes=41000000-").send().expect(206);
    assert_eq!(rest.body, Random::new(1, size).part(41_000_000, (size - 41_000_000) as usize));
}

#[test]
fn who_comes_too_late_for_a_passing_blob_fetches_it_alone() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 40 * MIB;
    let digest = upstream.add_random_blob("library/a", 2, size);
    // The first transfer stops near the end, where the ring does not reach back to the start.
    upstream.fault(On::path(&*digest).get().once(), Fault::StallAfter(36 * MIB));
    let config = format!("{TIGHT}[fill]\nprivate_max = 1\n");
    let pierhead = pierhead(&upstream, &config);
    let url = blob_url(&pierhead, "library/a", &digest);
    thread::scope(|scope| {
        let first = scope.spawn(|| http::get(&*url));
        wait_until("the first one is far ahead", DEADLINE, || {
            (upstream.bytes_sent(&digest) >= 36 * MIB).then_some(())
        });
        let late = scope.spawn(|| http::get(&*url));
        assert_eq!(sha256(&late.join().unwrap().expect(200).body), digest);
        // The one that stalled goes on where it was.
        assert_eq!(sha256(&first.join().unwrap().expect(200).body), digest);
    });
    assert_eq!(pierhead.metric("pierhead_private_transfers_total", &[]), 1.0);
}

#[test]
fn private_transfers_are_bounded_and_refused_with_a_status() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/a", 3, 40 * MIB);
    upstream.fault(On::path(&*digest).get().once(), Fault::StallAfter(36 * MIB));
    let config = format!("{TIGHT}[fill]\nprivate_max = 0\n");
    let pierhead = pierhead(&upstream, &config);
    let url = blob_url(&pierhead, "library/a", &digest);
    thread::scope(|scope| {
        scope.spawn(|| http::get(&*url));
        wait_until("the first one is far ahead", DEADLINE, || {
            (upstream.bytes_sent(&digest) >= 36 * MIB).then_some(())
        });
        let refused = http::get(&*url);
        assert_eq!((refused.status, code(&refused).as_str()), (503, "UNAVAILABLE"));
    });
}

#[test]
fn a_wrong_byte_in_a_passing_blob_is_not_passed_as_good() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/a", 4, 40 * MIB);
    upstream.fault(On::path(&*digest).get(), Fault::FlipByte(20_000_000));
    let pierhead = pierhead(&upstream, TIGHT);
    let answer = http::get(blob_url(&pierhead, "library/a", &digest));
    assert!(answer.status != 200 || answer.end == End::Short, "{answer:?}");
    // Until it is trusted again nothing goes out unverified, and there is no room to verify it in.
    let strict = http::get(blob_url(&pierhead, "library/a", &digest));
    assert_eq!(strict.status, 503, "{strict:?}");
}

/// How one client fares that stops reading at its first bytes until another one has left it behind:
/// how its answer ends, and the digest of what came. The other one waits, in the middle of the blob,
/// until the first goes on by a transfer of its own, and reads `most` bytes; how its answer ends is
/// the third.
fn left_behind(
    upstream: &FaultyUpstream,
    pierhead: &pierhead_kit::program::Pierhead,
    digest: &str,
    most: u64,
) -> (End, String, End) {
    let url = blob_url(pierhead, "library/a", digest);
    let goes_alone = || {
        wait_until("the slow one goes on alone", DEADLINE, || {
            let alone = pierhead.metric("pierhead_private_transfers_total", &[]);
            (alone > 0.0).then_some(())
        });
    };
    thread::scope(|scope| {
        let slow = scope.spawn(|| {
            let mut body = Vec::new();
            let answer = Request::new("GET", &*url).try_stream(|part| {
                if body.is_empty() {
                    wait_until("the ring has moved on", DEADLINE, || {
                        (upstream.bytes_sent(digest) >= 44 * MIB).then_some(())
                    });
                }
                body.extend_from_slice(part);
            });
            (answer.unwrap().end, sha256(&body))
        });
        wait_until("the slow one has begun", DEADLINE, || {
            (upstream.bytes_sent(digest) > 0).then_some(())
        });
        let mut taken = 0_u64;
        let fast = Request::new("GET", &*url).stop_after(most).try_stream(|part| {
            let before = taken;
            taken += part.len() as u64;
            if before < 40 * MIB && taken >= 40 * MIB {
                goes_alone();
            }
        });
        let (end, digest) = slow.join().unwrap();
        (end, digest, fast.unwrap().end)
    })
}

#[test]
fn an_answer_that_began_with_wrong_bytes_does_not_end_well_by_another_transfer() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/a", 5, 96 * MIB);
    // The first transfer has a wrong byte early on, and every other one is right.
    upstream.fault(On::path(&*digest).get().once(), Fault::FlipByte(100_000));
    let pierhead = pierhead(&upstream, TIGHT);
    let (slow, _, fast) = left_behind(&upstream, &pierhead, &digest, u64::MAX);
    assert_eq!((slow, fast), (End::Short, End::Short), "both had the wrong byte");
}

#[test]
fn who_fell_behind_gets_it_whole_although_the_fast_one_leaves() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/a", 6, 96 * MIB);
    let pierhead = pierhead(&upstream, TIGHT);
    let (slow, got, _) = left_behind(&upstream, &pierhead, &digest, 48 * MIB);
    assert_eq!((slow, got), (End::Complete, digest));
}

#[test]
fn the_limits_of_one_upstream_hold() {
    let upstream = FaultyUpstream::start_blocking();
    let images: Vec<_> = (0..6).map(|n| image(&upstream, n)).collect();
    let pierhead = pierhead(&upstream, &format!("max_size = \"{}B\"\n", 3 * IMAGE));
    for (n, image) in images.iter().enumerate() {
        pull_image(&pierhead, &repository(n as u64), "v1", image);
    }
    wait_until("the oldest images are gone", DEADLINE, || {
        let evicted = pierhead.metric("pierhead_evictions_total", &[("reason", "quota")]);
        (evicted > 0.0).then_some(())
    });
}
