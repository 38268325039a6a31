//! Fills that go on: after upstream broke off, after a restart, and after nobody had read them.

use std::time::Duration;

use pierhead_kit::http::{self, End, Request};
use pierhead_kit::program::Pierhead;
use pierhead_kit::random::Random;
use pierhead_kit::upstream::{Entry, Fault, FaultyUpstream, On};
use pierhead_kit::wait_until;

use super::{
    DEADLINE, PIERHEAD, blob_url, config, get_range, manifest_url, pierhead, wait_until_stored,
};

const MIB: u64 = 1024 * 1024;

/// How much may be fetched again after the process was killed.
const OVERLAP_MAX: u64 = 16 * MIB;

/// Where a GET of a blob began, and how much it brought.
fn brought(entry: &Entry) -> (u64, u64) {
    let from = entry.range.as_deref().map_or(0, |range| {
        let first = range.strip_prefix("bytes=").and_then(|range| range.split('-').next());
        first.and_then(|first| first.parse().ok()).unwrap()
    });
    (from, entry.bytes_sent)
}

/// What the GETs of blobs brought, in the order of their places in the blob.
fn transfers(upstream: &FaultyUpstream) -> Vec<(u64, u64)> {
    let log = upstream.log();
    let mut brought: Vec<_> = log.iter().filter(|e| e.is_blob_get()).map(brought).collect();
    brought.sort_unstable();
    brought
}

/// Every byte came once, and every transfer began where the one before it had ended.
#[track_caller]
fn assert_without_overlap(upstream: &FaultyUpstream, size: u64) {
    let transfers = transfers(upstream);
    let mut at = 0;
    for (from, bytes) in &transfers {
        assert_eq!(*from, at, "{transfers:?}");
        at += bytes;
    }
    assert_eq!(at, size, "{transfers:?}");
}

fn sent(log: &[Entry]) -> u64 {
    log.iter().filter(|entry| entry.is_blob_get()).map(|entry| entry.bytes_sent).sum()
}

/// Reads the whole blob, and compares it on the way.
#[track_caller]
fn assert_whole(url: &str, seed: u64, size: u64) {
    let random = Random::new(seed, size);
    let mut at = 0;
    let response = Request::new("GET", url)
        .try_stream(|part| {
            assert!(*part == random.part(at, part.len()), "wrong bytes at {at}");
            at += part.len() as u64;
        })
        .unwrap();
    assert_eq!((response.status, response.end, at), (200, End::Complete, size));
}

/// An image whose only layer is a random blob: a client that knows its manifest has told us the
/// layer's size before it asks for it.
fn layer(upstream: &FaultyUpstream, seed: u64, size: u64) -> String {
    let image = upstream.add_image("library/a", "latest", [Random::new(seed, size)]);
    image.layers[0].clone()
}

#[test]
fn cut_three_times_is_one_answer_and_no_byte_twice() {
    let size = 500_000_000;
    // In one request after the other, and in the segments that such a blob is fetched in.
    for more in ["[fill]\nparallel_above = \"1GiB\"\n", "[fill]\nconnections = 1\n"] {
        let upstream = FaultyUpstream::start_blocking();
        let digest = layer(&upstream, 1, size);
        let segment = size / 16;
        let cuts = if more.contains("1GiB") {
            // At 30, 60 and 90 percent; each request goes on where the one before it was cut.
            [(0, size * 3 / 10), (1, size * 3 / 10), (2, size * 3 / 10)]
        } else {
            // The same places: what follows a cut is in segments that begin there.
            [4, 9, 14].map(|request| (request, size * 3 / 10 - 4 * segment))
        };
        for (request, after) in cuts {
            upstream.fault(On::blobs().get().skip(request).once(), Fault::CutAfter(after));
        }
        let pierhead = pierhead(&upstream, more);
        http::get(manifest_url(&pierhead, "library/a", "latest")).expect(200);
        let url = blob_url(&pierhead, "library/a", &digest);
        assert_whole(&url, 1, size);
        assert_without_overlap(&upstream, size);
        let cut = upstream.log().iter().filter(|e| e.is_blob_get() && !e.complete).count();
        assert_eq!(cut, 3);
        assert_eq!(pierhead.metric("pierhead_fill_broken_transfers_total", &[]), 3.0);
        let starts: Vec<u64> = transfers(&upstream).into_iter().map(|(from, _)| from).collect();
        for percent in [30, 60, 90] {
            assert!(starts.contains(&(size / 100 * percent)), "{starts:?}");
        }
    }
}

#[test]
fn a_silent_upstream_is_left_and_the_answer_goes_on() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 4 * MIB;
    let digest = upstream.add_random_blob("library/a", 2, size);
    upstream.fault(On::blobs().get().once(), Fault::StallAfter(MIB));
    let pierhead = pierhead(&upstream, "");
    assert_whole(&blob_url(&pierhead, "library/a", &digest), 2, size);
    assert_without_overlap(&upstream, size);
}

#[test]
fn errors_between_the_parts_are_waited_out() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 4 * MIB;
    let digest = upstream.add_random_blob("library/a", 3, size);
    upstream.fault(On::blobs().get().once(), Fault::CutAfter(MIB));
    let ranged = || On::blobs().get().with_range(true);
    // As registry.k8s.io sometimes answers a resume.
    upstream.fault(ranged().once(), Fault::status(400));
    upstream.fault(ranged().skip(1).once(), Fault::html(503));
    upstream.fault(ranged().skip(2).once(), Fault::Drop);
    upstream.fault(ranged().skip(4).once(), Fault::too_many_requests("1"));
    let pierhead = pierhead(&upstream, "");
    assert_whole(&blob_url(&pierhead, "library/a", &digest), 3, size);
    assert_without_overlap(&upstream, size);
}

#[test]
fn another_endpoint_goes_on_where_the_first_one_died() {
    let (first, second) = (FaultyUpstream::start_blocking(), FaultyUpstream::start_blocking());
    let size = 8 * MIB;
    let digest = first.add_random_blob("library/a", 4, size);
    second.add_random_blob("library/a", 4, size);
    first.fault(On::blobs().get().once(), Fault::CutAfter(3 * MIB));
    first.fault(On::blobs().get().skip(1), Fault::Drop);
    let pierhead = Pierhead::start(
        PIERHEAD,
        &format!(
            "[upstream.\"docker.io\"]\nendpoints = [\"{}\", \"{}\"]\n",
            first.url(),
            second.url()
        ),
    );
    assert_whole(&blob_url(&pierhead, "library/a", &digest), 4, size);
    assert_eq!(transfers(&second), [(3 * MIB, 5 * MIB)]);
}

#[test]
fn an_upstream_without_ranges_sends_again_what_is_here_and_nobody_notices() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 4 * MIB;
    let digest = upstream.add_random_blob("library/a", 5, size);
    upstream.fault(On::blobs().get(), Fault::IgnoreRange);
    upstream.fault(On::blobs().get().once(), Fault::CutAfter(3 * MIB));
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    assert_whole(&url, 5, size);
    assert_eq!(transfers(&upstream), [(0, 3 * MIB), (3 * MIB, size)]);
    // And a range of a blob that is not here: in order, but right.
    let other = upstream.add_random_blob("library/a", 6, size);
    let url = blob_url(&pierhead, "library/a", &other);
    let part = get_range(&url, "bytes=3000000-3000099").expect(206);
    assert!(part.body == Random::new(6, size).part(3_000_000, 100));
}

#[test]
fn content_that_changed_between_the_parts_is_caught() {
    for changed in [Fault::FlipByte(2 * MIB), Fault::ShiftRange(-1)] {
        let upstream = FaultyUpstream::start_blocking();
        let size = 4 * MIB;
        let digest = upstream.add_random_blob("library/a", 7, size);
        upstream.fault(On::blobs().get().once(), Fault::CutAfter(MIB));
        let fault = upstream.fault(On::blobs().get().with_range(true), changed);
        let pierhead = pierhead(&upstream, "");
        let url = blob_url(&pierhead, "library/a", &digest);
        let broken = http::get(&*url);
        assert_eq!((broken.status, broken.end), (200, End::Short));
        assert_eq!(pierhead.metric("pierhead_verification_failures_total", &[]), 1.0);
        upstream.clear(fault);
        // Nothing of it was kept: neither the wrong part nor the right one.
        assert_whole(&url, 7, size);
    }
}

#[test]
fn another_size_between_the_parts_is_never_a_whole_answer() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 4 * MIB;
    let digest = upstream.add_random_blob("library/a", 8, size);
    upstream.fault(On::blobs().get().once(), Fault::CutAfter(MIB));
    let other = format!("bytes {MIB}-{}/{}", size - 1, size + 1);
    let fault = upstream.fault(On::blobs().get().with_range(true), Fault::ContentRange(other));
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    let broken = http::get(&*url);
    assert_eq!((broken.status, broken.end), (200, End::Short));
    upstream.clear(fault);
    assert_whole(&url, 8, size);
}

#[test]
fn an_upstream_that_stays_away_ends_the_answer_and_the_next_one_goes_on() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 40 * MIB;
    let digest = upstream.add_random_blob("library/a", 9, size);
    upstream.fault(On::blobs().get().once(), Fault::CutAfter(30 * MIB));
    let gone = upstream.fault(On::blobs().get().skip(1), Fault::Drop);
    let pierhead = pierhead(&upstream, "[fill]\nretry_for = \"1s\"\n");
    let url = blob_url(&pierhead, "library/a", &digest);
    let broken = http::get(&*url);
    assert_eq!((broken.status, broken.end), (200, End::Short));
    assert_eq!(broken.body.len() as u64, 30 * MIB);
    upstream.clear(gone);
    // A client that resumes itself, as dockerd and containerd do.
    let rest = wait_until("upstream is asked again", DEADLINE, || {
        Some(get_range(&url, &format!("bytes={}-", 30 * MIB))).filter(|rest| rest.status == 206)
    });
    assert!(rest.body == Random::new(9, size).part(30 * MIB, 10 * MIB as usize));
    assert_without_overlap(&upstream, size);
    assert_eq!(pierhead.metric("pierhead_fill_continued_bytes_total", &[]), 30.0 * MIB as f64);
}

/// A Pierhead that has fetched `percent` of a blob for a client that is still reading.
fn cut_off_at(percent: u64, size: u64, end: impl FnOnce(&mut Pierhead)) {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/a", 10, size);
    let throttle = upstream.fault(On::blobs().get(), Fault::Throttle(80 * MIB));
    let mut pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| Request::new("GET", &*url).try_send());
        upstream.wait_for_blocking(|log| sent(log) >= size / 100 * percent, DEADLINE);
        end(&mut pierhead);
        let response = reading.join().unwrap();
        assert!(response.is_err() || response.is_ok_and(|read| read.end != End::Complete));
    });
    upstream.clear(throttle);
    pierhead.restart();
    assert_whole(&blob_url(&pierhead, "library/a", &digest), 10, size);
    let again = sent(&upstream.log()) - size;
    assert!(again <= OVERLAP_MAX, "{again} bytes again: {:?}", transfers(&upstream));
    assert!(pierhead.metric("pierhead_fill_continued_bytes_total", &[]) > 0.0);
}

#[test]
fn killed_at_seventy_percent_it_goes_on_after_the_restart() {
    cut_off_at(70, 200_000_000, Pierhead::kill9);
}

#[test]
fn what_nobody_reads_is_kept_when_the_process_ends() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 400 * MIB;
    let digest = upstream.add_random_blob("library/a", 11, size);
    let throttle = upstream.fault(On::blobs().get(), Fault::Throttle(20 * MIB));
    let mut pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    Request::new("GET", &*url).stop_after(6 * MIB).send();
    assert!(pierhead.terminate().success());
    upstream.clear(throttle);
    pierhead.restart();
    assert_whole(&blob_url(&pierhead, "library/a", &digest), 11, size);
    // Nothing was lost but what was in the sockets.
    let again = sent(&upstream.log()) - size;
    assert!(again <= 4 * MIB, "{again} bytes again: {:?}", transfers(&upstream));
}

#[test]
fn what_nobody_reads_waits_for_its_next_reader() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 1024 * MIB;
    let digest = format!("sha256:{:064x}", 12);
    upstream.add_blob_under("library/a", &digest, Random::new(12, size));
    let throttle = upstream.fault(On::blobs().get(), Fault::Throttle(16 * MIB));
    let pierhead = Pierhead::start(PIERHEAD, &config(&upstream, "[fill]\npause_after = \"1s\"\n"));
    let url = blob_url(&pierhead, "library/a", &digest);
    Request::new("GET", &*url).stop_after(1).send();
    wait_until("the fill is parked", DEADLINE, || {
        let parked = pierhead.metric("pierhead_fills_total", &[("result", "parked")]);
        (parked == 1.0).then_some(())
    });
    let before = sent(&upstream.log());
    assert!(before < 128 * MIB, "{before} bytes for nobody");
    assert!(pierhead.metric("pierhead_storage_bytes", &[("kind", "parked")]) < before as f64 * 1.1);
    upstream.clear(throttle);
    let part = get_range(&url, "bytes=1000-1999").expect(206);
    assert!(part.body == Random::new(12, size).part(1000, 1000));
    assert_eq!(sent(&upstream.log()), before, "it was here");
}

#[test]
fn a_short_rest_is_finished_although_nobody_reads() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 24 * MIB;
    let digest = upstream.add_random_blob("library/a", 13, size);
    upstream.fault(On::blobs().get(), Fault::Throttle(8 * MIB));
    let pierhead =
        Pierhead::start(PIERHEAD, &config(&upstream, "[fill]\npause_after = \"500ms\"\n"));
    Request::new("GET", blob_url(&pierhead, "library/a", &digest)).stop_after(1).send();
    wait_until_stored(&pierhead, 1.0);
    assert_eq!(upstream.count("GET", &digest), 1);
}

#[test]
fn large_blobs_come_in_several_parts_at_once_where_that_is_quicker() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 320 * MIB;
    let digest = layer(&upstream, 14, size);
    // Each transfer is slow by itself.
    upstream.fault(On::blobs().get(), Fault::Throttle(16 * MIB));
    let pierhead = pierhead(&upstream, "");
    http::get(manifest_url(&pierhead, "library/a", "latest")).expect(200);
    let began = tokio::time::Instant::now();
    assert_whole(&blob_url(&pierhead, "library/a", &digest), 14, size);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(18), "{took:?} for what takes one transfer 20 s");
    assert_without_overlap(&upstream, size);
}
