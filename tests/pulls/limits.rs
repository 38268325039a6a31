//! Memory, connections, time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use pierhead_kit::http::{self, Request};
use pierhead_kit::upstream::{Fault, FaultyUpstream, On};
use pierhead_kit::wait_until;
use tokio::time::Instant;

use super::{DEADLINE, blob_url, code, manifest_url, pierhead, wait_until_stored};

const MIB: u64 = 1024 * 1024;

/// What a hundred pulls of a large blob may use: anonymous and shared memory, in bytes.
const MEMORY_MAX: u64 = 100 * MIB;

#[test]
fn memory_stays_bounded_with_a_hundred_pulls() {
    // The large run, with 1 GB, is `cargo xtask acceptance`; this one keeps the suite short.
    let size = 128 * MIB;
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/big", 1, size);
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/big", &digest);
    for round in ["cold", "warm"] {
        let highest = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..100)
                .map(|_| {
                    scope.spawn(|| {
                        let mut bytes = 0;
                        // Nothing is kept: the clients share this machine's memory.
                        let response = Request::new("GET", &*url)
                            .try_stream(|part| bytes += part.len() as u64);
                        assert_eq!(response.unwrap().status, 200);
                        bytes
                    })
                })
                .collect();
            let mut highest = 0;
            wait_until("all clients have the blob", 4 * DEADLINE, || {
                highest = highest.max(pierhead.rss_anon_shmem_bytes());
                clients.iter().all(|client| client.is_finished()).then_some(())
            });
            for client in clients {
                assert_eq!(client.join().unwrap(), size);
            }
            highest
        });
        assert!(highest < MEMORY_MAX, "{round}: {} MiB", highest / MIB);
    }
    assert_eq!(upstream.count("GET", &digest), 1);
}

#[test]
fn a_client_that_sends_no_request_is_closed() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "[server]\nheader_timeout = \"300ms\"\n");
    for head in [&b""[..], b"PRI * HTT", b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX: "] {
        let mut stream = TcpStream::connect(pierhead.host()).unwrap();
        stream.write_all(head).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let began = Instant::now();
        let mut rest = Vec::new();
        // Closed or reset: both are ends.
        let _ = stream.read_to_end(&mut rest);
        assert!(began.elapsed() < DEADLINE, "{head:?} was left open");
    }
}

#[test]
fn a_client_that_stops_reading_is_closed_and_holds_up_nobody() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 64 * MIB;
    let digest = upstream.add_random_blob("library/a", 2, size);
    let pierhead = pierhead(&upstream, "[server]\nwrite_silence_timeout = \"500ms\"\n");
    let mut stream = TcpStream::connect(pierhead.host()).unwrap();
    write!(stream, "GET /v2/library/a/blobs/{digest} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    wait_until_stored(&pierhead, 1.0);
    http::get(blob_url(&pierhead, "library/a", &digest)).expect(200);
    wait_until("the idle reader lost its connection", DEADLINE, || {
        let open = pierhead.metric("pierhead_http_connections", &[("listener", "registry")]);
        (open == 0.0).then_some(())
    });
    drop(stream);
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "");
    let answer = Request::new("GET", format!("{}/v2/", pierhead.url()))
        .header("X-Large", "x".repeat(200_000))
        .try_send();
    assert!(answer.map_or(true, |answer| answer.status == 431));
    http::get(format!("{}/v2/", pierhead.url())).expect(200);
}

#[test]
fn an_upstream_that_does_not_answer_costs_a_status_in_time() {
    let upstream = FaultyUpstream::start_blocking();
    upstream.add_image("library/a", "v1", vec![vec![1_u8; 10]]);
    upstream.fault(On::any(), Fault::NoHeaders);
    let pierhead = pierhead(&upstream, "[fill]\nanswer_within = \"500ms\"\n");
    let began = Instant::now();
    let answer = http::get(manifest_url(&pierhead, "library/a", "v1"));
    assert_eq!((answer.status, code(&answer).as_str()), (504, "UNAVAILABLE"));
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn fills_beyond_the_limit_are_refused_at_once() {
    let upstream = FaultyUpstream::start_blocking();
    let one = upstream.add_random_blob("library/a", 1, 4 * MIB);
    let other = upstream.add_random_blob("library/a", 2, 4 * MIB);
    upstream.fault(On::path(&*one).get(), Fault::StallAfter(MIB));
    let pierhead = pierhead(&upstream, "[fill]\nconcurrent_max = 1\n");
    std::thread::scope(|scope| {
        scope.spawn(|| http::get(blob_url(&pierhead, "library/a", &one)));
        upstream.wait_for_blocking(|log| log.iter().any(|e| e.bytes_sent > 0), DEADLINE);
        let refused = http::get(blob_url(&pierhead, "library/a", &other));
        assert_eq!((refused.status, code(&refused).as_str()), (503, "UNAVAILABLE"));
        upstream.clear_faults();
    });
    wait_until("there is a place again", DEADLINE, || {
        let answer = http::get(blob_url(&pierhead, "library/a", &other));
        (answer.status == 200).then_some(())
    });
}

#[test]
fn sigterm_lets_running_answers_finish() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 3 * MIB;
    let digest = upstream.add_random_blob("library/a", 3, size);
    upstream.fault(On::blobs().get(), Fault::Throttle(2 * MIB));
    let mut pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| http::get(&*url));
        upstream.wait_for_blocking(|log| log.iter().any(|e| e.bytes_sent > 0), DEADLINE);
        let status = pierhead.terminate();
        assert!(status.success(), "{status}");
        assert_eq!(client.join().unwrap().expect(200).body.len() as u64, size);
    });
}
