//! One GET per blob, whoever asks and whenever; verified on the way; nothing wrong ever whole.

use std::sync::atomic::{AtomicU64, Ordering};

use pierhead_kit::http::{self, End, Request};
use pierhead_kit::random::Random;
use pierhead_kit::upstream::{Entry, Fault, FaultyUpstream, On};
use tokio::time::Instant;

use super::{DEADLINE, blob_url, code, get_range, pierhead, wait_until_stored};

const MIB: u64 = 1024 * 1024;

#[test]
fn a_herd_that_comes_and_goes_costs_one_get() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 12 * MIB;
    let digest = upstream.add_random_blob("library/big", 1, size);
    let whole = Random::new(1, size).part(0, size as usize);
    upstream.fault(On::blobs().get(), Fault::Throttle(4 * MIB));
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/big", &digest);

    // The first one begins the fill; the others come while it runs, and half of them leave.
    let slowest_first_byte = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| http::get(&*url).expect(200).body);
        upstream.wait_for_blocking(|log| log.iter().any(|e| e.bytes_sent > 0), DEADLINE);
        for client in 0..16_u64 {
            let (url, whole, slowest) = (&url, &whole, &slowest_first_byte);
            let upstream = &upstream;
            scope.spawn(move || {
                // Each comes when the fill has got a little further.
                let landed = client * size / 20;
                let sent = |log: &[Entry]| log.iter().map(|entry| entry.bytes_sent).sum::<u64>();
                upstream.wait_for_blocking(|log| sent(log) >= landed, DEADLINE);
                let began = Instant::now();
                let (mut first_byte, mut body) = (None, Vec::new());
                let mut request = Request::new("GET", &**url);
                if client % 2 == 0 {
                    request = request.stop_after(client * MIB / 4 + 1);
                }
                let response = request
                    .try_stream(|part| {
                        first_byte.get_or_insert_with(|| began.elapsed());
                        body.extend_from_slice(part);
                    })
                    .unwrap();
                let first_byte = first_byte.unwrap_or_default().as_millis() as u64;
                slowest.fetch_max(first_byte, Ordering::Relaxed);
                if client % 2 == 1 {
                    assert_eq!(response.end, End::Complete);
                    assert!(body == *whole, "wrong bytes");
                }
            });
        }
        assert!(first.join().unwrap() == whole, "wrong bytes");
    });
    assert_eq!(upstream.count("GET", &digest), 1, "{:?}", upstream.log());
    assert_eq!(upstream.bytes_sent(&digest), size);
    let slowest = slowest_first_byte.load(Ordering::Relaxed);
    assert!(slowest < 500, "a client waited {slowest} ms for its first byte");
}

#[test]
fn a_fill_outlives_all_its_clients() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/a", 2, 4 * MIB);
    upstream.fault(On::blobs().get(), Fault::Throttle(8 * MIB));
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    let left = Request::new("GET", &*url).stop_after(1).send();
    assert_eq!(left.end, End::Stopped);
    wait_until_stored(&pierhead, 1.0);
    upstream.down();
    let body = http::get(&*url).expect(200).body;
    assert!(body == Random::new(2, 4 * MIB).part(0, 4 * MIB as usize));
}

#[test]
fn a_flipped_byte_completes_no_answer_and_is_never_cached() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 3 * MIB;
    let digest = upstream.add_random_blob("library/a", 3, size);
    let fault = upstream.fault(On::blobs().get(), Fault::FlipByte(MIB));
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);

    let broken = http::get(&*url);
    assert_eq!(broken.end, End::Short, "{broken:?}");
    assert!((broken.body.len() as u64) <= size - 64 * 1024, "{}", broken.body.len());
    assert_eq!(pierhead.metric("pierhead_verification_failures_total", &[]), 1.0);

    // Condemned: the next answer begins only when the content is known to be right, so a client
    // that resumes what it has meets an error rather than more of the wrong bytes.
    let resumed = get_range(&url, "bytes=100-");
    assert_eq!((resumed.status, code(&resumed).as_str()), (502, "DIGEST_INVALID"));

    upstream.clear(fault);
    let healed = http::get(&*url).expect(200);
    assert!(healed.body == Random::new(3, size).part(0, size as usize));
}

#[test]
fn a_flipped_byte_of_a_small_blob_is_an_error_status() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_blob("library/a", vec![7; 1000]);
    let fault = upstream.fault(On::blobs().get(), Fault::FlipByte(10));
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    let broken = http::get(&*url);
    assert_eq!((broken.status, code(&broken).as_str()), (502, "DIGEST_INVALID"));
    upstream.clear(fault);
    assert_eq!(http::get(&*url).expect(200).body, vec![7; 1000]);
}

#[test]
fn wrong_lengths_never_pass() {
    for (seed, fault) in [
        (10, Fault::ContentLength(2 * MIB - 1)),
        (11, Fault::ContentLength(2 * MIB + 1)),
        (12, Fault::ExtraBytes(5)),
    ] {
        let upstream = FaultyUpstream::start_blocking();
        let digest = upstream.add_random_blob("library/a", seed, 2 * MIB);
        let right = Random::new(seed, 2 * MIB).part(0, 2 * MIB as usize);
        let id = upstream.fault(On::blobs().get(), fault.clone());
        let pierhead = pierhead(&upstream, "");
        let url = blob_url(&pierhead, "library/a", &digest);
        let answer = http::get(&*url);
        // Bytes after the announced end are not part of the answer; anything else breaks it.
        let whole = answer.status == 200 && answer.end == End::Complete;
        assert!(!whole || answer.body == right, "{fault:?} passed: {answer:?}");
        upstream.clear(id);
        assert!(http::get(&*url).expect(200).body == right, "{fault:?}");
    }
}

#[test]
fn an_unknown_size_is_asked_for_by_head_and_else_streamed_in_chunks() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/a", 5, MIB);
    upstream.fault(On::blobs().get(), Fault::Chunked);
    let known = pierhead(&upstream, "");
    let answer = http::get(blob_url(&known, "library/a", &digest)).expect(200);
    assert_eq!(answer.header("content-length"), Some(MIB.to_string().as_str()));

    upstream.fault(On::blobs().head(), Fault::status(500));
    let unknown = pierhead(&upstream, "");
    let answer = http::get(blob_url(&unknown, "library/a", &digest)).expect(200);
    assert_eq!(answer.header("content-length"), None);
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert!(answer.body == Random::new(5, MIB).part(0, MIB as usize));

    // With a flipped byte the chunked answer must not reach its end either.
    upstream.fault(On::blobs().get(), Fault::FlipByte(10));
    let wrong = pierhead(&upstream, "");
    let answer = http::get(blob_url(&wrong, "library/a", &digest));
    assert_eq!((answer.status, answer.end), (200, End::Short), "{answer:?}");
}

#[test]
fn ranges_of_a_growing_blob_are_served_as_it_lands() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 4 * MIB;
    let digest = upstream.add_random_blob("library/a", 6, size);
    let random = Random::new(6, size);
    upstream.fault(On::blobs().get(), Fault::Throttle(2 * MIB));
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    for (range, start, len) in [
        ("bytes=0-1", 0, 2),
        ("bytes=1000-1999", 1000, 1000),
        ("bytes=2000000-", 2_000_000, size - 2_000_000),
        ("bytes=-10", size - 10, 10),
    ] {
        let part = get_range(&url, range).expect(206);
        let content_range = format!("bytes {start}-{}/{size}", start + len - 1);
        assert_eq!(part.header("content-range"), Some(content_range.as_str()));
        assert!(part.body == random.part(start, len as usize), "{range}");
    }
    assert_eq!(upstream.bytes_sent(&digest), size, "every byte once");
    assert!(pierhead.metric("pierhead_unverified_range_bytes_total", &[]) >= 1002.0);
}

#[test]
fn a_range_that_is_the_whole_blob_is_held_back_like_the_whole() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/a", 7, MIB);
    upstream.fault(On::blobs().get(), Fault::FlipByte(10));
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    let answer = get_range(&url, &format!("bytes=0-{}", MIB - 1));
    assert_eq!(answer.end, End::Short, "{answer:?}");
}

#[test]
fn unverified_ranges_can_be_switched_off() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/a", 8, MIB);
    upstream.fault(On::blobs().get(), Fault::FlipByte(10));
    let pierhead = pierhead(&upstream, "[fill]\nserve_unverified_ranges = false\n");
    let url = blob_url(&pierhead, "library/a", &digest);
    for range in [format!("bytes={}-{}", MIB - 10, MIB - 2), "bytes=0-99".to_owned()] {
        let answer = get_range(&url, &range);
        assert!(answer.status != 206 || answer.body.is_empty(), "{range}: {answer:?}");
    }
}

#[test]
fn a_blob_over_the_limit_is_refused() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/a", 9, 2 * MIB);
    let pierhead = pierhead(&upstream, "[fill]\nblob_size_max = \"1MiB\"\n");
    let answer = http::get(blob_url(&pierhead, "library/a", &digest));
    assert_eq!((answer.status, code(&answer).as_str()), (502, "SIZE_INVALID"));
    // Also when upstream does not say how large it is.
    upstream.fault(On::blobs().get(), Fault::Chunked);
    upstream.fault(On::blobs().head(), Fault::status(500));
    let answer = http::get(blob_url(&pierhead, "library/a", &digest));
    assert!(answer.status == 502 || answer.end == End::Short, "{answer:?}");
}
