//! Ranges of blobs that are not here: as clients with lazy or parallel loading ask for them.

use std::time::Duration;

use pierhead_kit::http::{End, Request};
use pierhead_kit::program::Pierhead;
use pierhead_kit::random::Random;
use pierhead_kit::upstream::{Fault, FaultyUpstream, On};
use pierhead_kit::wait_until;
use tokio::time::Instant;

use super::{DEADLINE, PIERHEAD, blob_url, config, get_range, pierhead, wait_until_stored};

const MIB: u64 = 1024 * 1024;

fn sent(upstream: &FaultyUpstream) -> u64 {
    upstream.log().iter().filter(|e| e.is_blob_get()).map(|entry| entry.bytes_sent).sum()
}

/// Reads `len` bytes from `from` on as containerd 2 does: an open-ended range, closed early.
fn read_chunk(url: &str, seed: u64, size: u64, from: u64, len: u64) {
    let random = Random::new(seed, size);
    let mut at = from;
    let response = Request::new("GET", url)
        .header("Range", format!("bytes={from}-"))
        .stop_after(len)
        .try_stream(|part| {
            assert!(*part == random.part(at, part.len()), "wrong bytes at {at}");
            at += part.len() as u64;
        })
        .unwrap();
    assert_eq!(response.status, 206);
    assert!(at >= from + len || response.end == End::Complete, "{at} of {from}+{len}");
}

#[test]
fn the_parallel_fetch_of_containerd_costs_every_byte_once() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 500_000_000_u64;
    let digest = upstream.add_random_blob("library/a", 1, size);
    upstream.fault(On::blobs().get(), Fault::Throttle(60 * MIB));
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    let chunk = 32 * MIB;
    let next = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(chunk, std::sync::atomic::Ordering::Relaxed);
                    if from >= size {
                        return;
                    }
                    read_chunk(&url, 1, size, from, chunk.min(size - from));
                }
            });
        }
    });
    wait_until_stored(&pierhead, 1.0);
    let sent = sent(&upstream);
    assert!(sent * 100 <= size * 101, "{sent} of {size}");
    // Not only what was sent: what was asked for, too.
    let mut asked = 0;
    for entry in upstream.log().iter().filter(|entry| entry.is_blob_get()) {
        let range = entry.range.as_deref().and_then(|range| range.strip_prefix("bytes="));
        let (first, last) = range.and_then(|range| range.split_once('-')).unwrap();
        asked += last.parse::<u64>().unwrap() + 1 - first.parse::<u64>().unwrap();
    }
    assert!(asked * 100 <= size * 101, "{asked} of {size}");
}

#[test]
fn a_probe_of_a_huge_blob_costs_little_and_takes_no_room() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 10_000_000_000;
    let digest = format!("sha256:{:064x}", 2);
    upstream.add_blob_under("library/a", &digest, Random::new(2, size));
    let more = "[fill]\npause_after = \"300ms\"\n[storage]\nmax_size = \"256MiB\"\n";
    let pierhead = Pierhead::start(PIERHEAD, &config(&upstream, more));
    let url = blob_url(&pierhead, "library/a", &digest);
    let probe = get_range(&url, "bytes=0-1").expect(206);
    assert_eq!(probe.header("content-range"), Some("bytes 0-1/10000000000"));
    assert_eq!(probe.body, Random::new(2, size).part(0, 2));
    wait_until("the fill is parked", DEADLINE, || {
        let parked = pierhead.metric("pierhead_fills_total", &[("result", "parked")]);
        (parked == 1.0).then_some(())
    });
    assert_eq!(sent(&upstream), MIB, "one grain");
    let footer = get_range(&url, "bytes=-100").expect(206);
    assert!(footer.body == Random::new(2, size).part(size - 100, 100));
    assert!(sent(&upstream) <= 2 * MIB, "{}", sent(&upstream));
}

#[test]
fn several_ranges_of_a_blob_that_is_not_here_cost_their_grains() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 200 * MIB;
    let digest = upstream.add_random_blob("library/a", 3, size);
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    let random = Random::new(3, size);
    let spans = [(0, 100), (30 * MIB, 1000), (31 * MIB - 5, 10), (150 * MIB, 70_000)];
    let ranges: Vec<_> = spans.iter().map(|(at, len)| format!("{at}-{}", at + len - 1)).collect();
    let answer = get_range(&url, &format!("bytes={}", ranges.join(","))).expect(206);
    let kind = answer.header("content-type").unwrap();
    assert!(kind.starts_with("multipart/byteranges"), "{kind}");
    assert_eq!(answer.end, End::Complete);
    for (at, len) in spans {
        let part = random.part(at, len as usize);
        assert!(answer.body.windows(part.len()).any(|window| window == part), "{at}+{len}");
    }
    assert!(sent(&upstream) <= 6 * MIB, "{}", sent(&upstream));
}

#[test]
fn a_range_far_ahead_is_fetched_next() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 96 * MIB;
    let digest = upstream.add_random_blob("library/a", 4, size);
    upstream.fault(On::blobs().get(), Fault::Throttle(8 * MIB));
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    let random = Random::new(4, size);
    std::thread::scope(|scope| {
        let whole = scope.spawn(|| Request::new("GET", &*url).send());
        upstream.wait_for_blocking(|log| log.iter().any(|entry| entry.bytes_sent > MIB), DEADLINE);
        let began = Instant::now();
        for (range, at, len) in [
            ("bytes=70000000-70000099", 70_000_000, 100),
            ("bytes=90000000-90000999", 90_000_000, 1000),
        ] {
            let part = get_range(&url, range).expect(206);
            assert!(part.body == random.part(at, len));
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?} for what is 8 s away in order");
        let whole = whole.join().unwrap().expect(200);
        assert!(whole.body == random.part(0, size as usize), "the first one gets all of it");
    });
    // The stream of the first one was cut where the other parts begin: the sockets held some more.
    let sent = sent(&upstream);
    assert!(sent <= size + 12 * MIB, "{sent} of {size}");
}

#[test]
fn a_range_behind_the_end_is_416_and_costs_nothing() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 4 * MIB;
    let digest = upstream.add_random_blob("library/a", 5, size);
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    let answer = get_range(&url, "bytes=5000000-5000009");
    assert_eq!(answer.status, 416, "{answer:?}");
    assert_eq!(answer.header("content-range"), Some(format!("bytes */{size}").as_str()));
    assert_eq!(sent(&upstream), 0);
    let answer = get_range(&url, "bytes=4000000-5000009").expect(206);
    assert!(answer.body == Random::new(5, size).part(4_000_000, size as usize - 4_000_000));
}

#[test]
fn parts_of_a_small_blob_are_verified_with_the_rest_of_it() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "");
    let size = 60_000;
    for (seed, range, at, len) in [
        (6, "bytes=-47", size - 47, 47),
        (7, "bytes=40000-40010", 40_000, 11),
        (8, "bytes=5-18446744073709551615", 5, size as usize - 5),
    ] {
        let digest = upstream.add_random_blob("library/a", seed, size);
        let part = get_range(&blob_url(&pierhead, "library/a", &digest), range).expect(206);
        assert!(part.body == Random::new(seed, size).part(at, len), "{range}");
    }
    let digest = upstream.add_random_blob("library/a", 9, size);
    let answer = get_range(&blob_url(&pierhead, "library/a", &digest), "bytes=70000-70001");
    assert_eq!(answer.status, 416, "{answer:?}");
}

#[test]
fn a_layer_whose_size_only_its_manifest_says_is_fetched_once() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 3 * MIB;
    let image = upstream.add_image("library/a", "latest", [Random::new(10, size)]);
    upstream.fault(On::blobs().get(), Fault::Chunked);
    upstream.fault(On::blobs().head(), Fault::status(500));
    let pierhead = pierhead(&upstream, "");
    let manifest = format!("{}/v2/library/a/manifests/latest", pierhead.url());
    pierhead_kit::http::get(manifest).expect(200);
    let url = blob_url(&pierhead, "library/a", &image.layers[0]);
    let answer = pierhead_kit::http::get(url).expect(200);
    assert!(answer.body == Random::new(10, size).part(0, size as usize));
    assert_eq!(upstream.count("GET", &image.layers[0]), 1);
}
