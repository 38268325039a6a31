//! More clients than are borne, and clients that take their time.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread::Scope;
use std::time::Duration;

use pierhead_kit::http::{self, End, Request, Response};
use pierhead_kit::program::Pierhead;
use pierhead_kit::upstream::{Fault, FaultyUpstream, On};
use pierhead_kit::wait_until;
use tokio::time::Instant;

use super::{DEADLINE, PIERHEAD, blob_url, code, manifest_url, pierhead, wait_until_stored};

const MIB: u64 = 1024 * 1024;

/// How long a refusal may take.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How long a client stays that is held up: longer than what is tried meanwhile takes.
const HELD_FOR: Duration = Duration::from_secs(6);

/// What fifty slow readers may cost: anonymous and shared memory, in bytes.
const MEMORY_MAX: u64 = 100 * MIB;

/// A connection that has had one answer, and so has a place.
fn settled(pierhead: &Pierhead) -> TcpStream {
    asks(TcpStream::connect(pierhead.host()).unwrap()).unwrap()
}

/// Asks `/v2/` on a connection and gives it back if the answer was 200, else the answer's head.
fn asks(mut stream: TcpStream) -> Result<TcpStream, String> {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n{}") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.starts_with("HTTP/1.1 200") { Ok(stream) } else { Err(head) }
}

/// A connection from another address of this machine's own network.
fn connect_from(address: [u8; 4], pierhead: &Pierhead) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let to: SocketAddr = pierhead.host().parse().unwrap();
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(IpAddr::from(address), 0)).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream
}

/// A GET that must be answered at once.
#[track_caller]
fn at_once(request: &Request) -> Response {
    let began = Instant::now();
    let response = request.send();
    let took = began.elapsed();
    assert!(took < AT_ONCE, "{took:?} for {response:?}");
    response
}

/// A refusal as it makes clients go elsewhere.
#[track_caller]
fn refused(request: &Request) {
    let response = at_once(request);
    assert_eq!((response.status, code(&response).as_str()), (503, "UNAVAILABLE"));
    assert_eq!(response.header("retry-after"), Some("5"), "{response:?}");
}

fn get(url: impl Into<String>) -> Request {
    Request::new("GET", url)
}

fn refusals(pierhead: &Pierhead, limit: &str) -> f64 {
    pierhead.metric("pierhead_http_refused_total", &[("limit", limit)])
}

fn used(pierhead: &Pierhead, limit: &str) -> f64 {
    pierhead.metric("pierhead_limit_used", &[("limit", limit)])
}

/// An upstream with blobs of 4 MiB, all of which stall in the middle.
fn stalling(blobs: u64) -> (FaultyUpstream, Vec<String>) {
    let upstream = FaultyUpstream::start_blocking();
    let digests = (0..blobs)
        .map(|seed| upstream.add_random_blob("library/a", seed + 1, 4 * MIB))
        .collect::<Vec<_>>();
    upstream.fault(On::blobs().get(), Fault::StallAfter(MIB));
    (upstream, digests)
}

/// A Pierhead that waits longer for `upstream` than the clients of [`holds`] do.
fn patient(upstream: &FaultyUpstream, more: &str) -> Pierhead {
    let config = format!(
        "[upstream.\"docker.io\"]\nendpoints = [\"{}\"]\nsilence_timeout = \"60s\"\n{more}",
        upstream.url()
    );
    Pierhead::start(PIERHEAD, &config)
}

/// A client that is being answered for as long as the rest of a test takes, and then leaves.
fn holds<'scope>(scope: &'scope Scope<'scope, '_>, request: Request) {
    let request = request.silence(HELD_FOR);
    scope.spawn(move || {
        let _ = request.try_send();
    });
}

#[test]
fn a_connection_too_many_gets_503_and_probes_are_answered() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "[server]\nconnections_max = 1\n");
    let held = settled(&pierhead);
    let base = format!("{}/v2/", pierhead.url());
    for _ in 0..20 {
        refused(&get(&*base));
    }
    // A connection that is refused is closed although its client wanted to keep it.
    let head = asks(TcpStream::connect(pierhead.host()).unwrap()).unwrap_err();
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("connection: close"), "{head}");
    for url in [pierhead.url(), pierhead.admin_url()] {
        for probe in ["livez", "readyz"] {
            at_once(&get(format!("{url}/{probe}"))).expect(200);
        }
    }
    assert!(refusals(&pierhead, "connections") >= 21.0);
    assert_eq!(used(&pierhead, "connections"), 1.0);
    let token = format!("Bearer {}", pierhead.admin_token());
    let url = format!("{}/api/v1/recent", pierhead.admin_url());
    let recent = get(url).header("Authorization", token).send().expect(200).json();
    let told = recent["recent"].as_array().unwrap();
    let told: Vec<_> = told.iter().filter(|event| event["trouble"] == "overload").collect();
    assert_eq!(told.len(), 1, "{recent}");
    assert_eq!(told[0]["reason"], "connections");
    let lines = pierhead.stderr().matches("too many connections are open").count();
    assert_eq!(lines, 1, "{}", pierhead.stderr());
    drop(held);
    wait_until("there is a place again", DEADLINE, || {
        (get(&*base).send().status == 200).then_some(())
    });
}

#[test]
fn connections_that_do_not_hear_their_refusal_do_not_stay() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "[server]\nconnections_max = 1\n");
    let _held = settled(&pierhead);
    // As many as one client may have, and then some: those are closed.
    let silent: Vec<_> = (0..100).map(|_| TcpStream::connect(pierhead.host()).unwrap()).collect();
    wait_until("the reserve is empty", DEADLINE, || {
        (used(&pierhead, "refusals") == 0.0).then_some(())
    });
    for mut stream in silent {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let ended = stream.read(&mut [0]);
        assert!(
            !matches!(&ended, Err(error) if error.kind() == ErrorKind::WouldBlock),
            "{ended:?}"
        );
    }
    refused(&get(format!("{}/v2/", pierhead.url())));
}

#[test]
fn one_client_cannot_take_all_connections() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "[server]\nconnections_per_client_max = 2\n");
    let _held = [settled(&pierhead), settled(&pierhead)];
    refused(&get(format!("{}/v2/", pierhead.url())));
    asks(connect_from([127, 0, 0, 2], &pierhead)).expect("another client is let in");
    assert!(refusals(&pierhead, "connections_per_client") >= 1.0);
}

#[test]
fn one_client_cannot_take_all_requests() {
    let (upstream, blobs) = stalling(1);
    let pierhead = patient(&upstream, "[server]\nrequests_per_client_max = 2\n");
    let url = blob_url(&pierhead, "library/a", &blobs[0]);
    std::thread::scope(|scope| {
        holds(scope, get(&*url));
        holds(scope, get(&*url));
        wait_until("two are being answered", DEADLINE, || {
            (used(&pierhead, "requests") == 2.0).then_some(())
        });
        refused(&get(&*url));
        at_once(&get(format!("{}/readyz", pierhead.url()))).expect(200);
    });
    assert_eq!(refusals(&pierhead, "requests_per_client"), 1.0);
}

#[test]
fn clients_behind_a_proxy_are_told_apart() {
    let (upstream, blobs) = stalling(1);
    let limits = "[server]\nrequests_per_client_max = 1\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let pierhead = patient(&upstream, limits);
    let from = |client: &str, url: String| get(url).header("X-Forwarded-For", client);
    let base = format!("{}/v2/", pierhead.url());
    std::thread::scope(|scope| {
        holds(scope, from("192.0.2.1", blob_url(&pierhead, "library/a", &blobs[0])));
        upstream.wait_for_blocking(|log| log.iter().any(|e| e.bytes_sent > 0), DEADLINE);
        refused(&from("192.0.2.1", base.clone()));
        at_once(&from("192.0.2.2", base.clone())).expect(200);
        // The proxy's own probes.
        at_once(&get(&*base)).expect(200);
    });
    wait_until("its request has ended", DEADLINE, || {
        (from("192.0.2.1", base.clone()).send().status == 200).then_some(())
    });
}

#[test]
fn a_herd_beyond_the_limit_has_its_status_within_a_second() {
    let (upstream, blobs) = stalling(1);
    let pierhead = patient(&upstream, "[server]\nrequests_max = 10\n");
    let url = blob_url(&pierhead, "library/a", &blobs[0]);
    std::thread::scope(|scope| {
        for _ in 0..10 {
            holds(scope, get(&*url));
        }
        wait_until("ten are being answered", DEADLINE, || {
            (used(&pierhead, "requests") == 10.0).then_some(())
        });
        let herd: Vec<_> = (0..100).map(|_| scope.spawn(|| refused(&get(&*url)))).collect();
        for client in herd {
            client.join().unwrap();
        }
        at_once(&get(format!("{}/readyz", pierhead.url()))).expect(200);
        at_once(&get(format!("{}/readyz", pierhead.admin_url()))).expect(200);
    });
    assert_eq!(refusals(&pierhead, "requests"), 100.0);
    assert_eq!(upstream.count("GET", &blobs[0]), 1);
}

#[test]
fn followers_are_limited() {
    let (upstream, blobs) = stalling(1);
    let pierhead = patient(&upstream, "[fill]\nfollowers_max = 2\n");
    let url = blob_url(&pierhead, "library/a", &blobs[0]);
    std::thread::scope(|scope| {
        holds(scope, get(&*url));
        holds(scope, get(&*url));
        wait_until("two follow", DEADLINE, || (used(&pierhead, "followers") == 2.0).then_some(()));
        refused(&get(&*url));
    });
    assert_eq!(refusals(&pierhead, "followers"), 1.0);
    wait_until("their places are free", DEADLINE, || {
        (used(&pierhead, "followers") == 0.0).then_some(())
    });
}

#[test]
fn one_client_cannot_take_all_fills() {
    let (upstream, blobs) = stalling(2);
    let limits = "[fill]\nper_client_max = 1\n[server]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let pierhead = patient(&upstream, limits);
    let from = |client: &str, blob: &str| {
        get(blob_url(&pierhead, "library/a", blob)).header("X-Forwarded-For", client)
    };
    std::thread::scope(|scope| {
        holds(scope, from("192.0.2.1", &blobs[0]));
        upstream.wait_for_blocking(|log| log.iter().any(|e| e.bytes_sent > 0), DEADLINE);
        refused(&from("192.0.2.1", &blobs[1]));
        // Joining what runs is no fill of one's own, and the other client has its own share.
        holds(scope, from("192.0.2.1", &blobs[0]));
        wait_until("it joined", DEADLINE, || (used(&pierhead, "followers") == 2.0).then_some(()));
        holds(scope, from("192.0.2.2", &blobs[1]));
        wait_until("the other fills", DEADLINE, || {
            (pierhead.metric("pierhead_tasks_running", &[("kind", "fill")]) == 2.0).then_some(())
        });
    });
    assert_eq!(refusals(&pierhead, "fills_per_client"), 1.0);
}

#[test]
fn memory_for_answers_is_limited() {
    let (upstream, blobs) = stalling(1);
    upstream.add_image("library/b", "v1", vec![vec![1_u8; 10]]);
    let pierhead = patient(&upstream, "[server]\nbody_memory_max = \"16MiB\"\n");
    let url = blob_url(&pierhead, "library/a", &blobs[0]);
    std::thread::scope(|scope| {
        // 256 KiB each.
        for _ in 0..64 {
            holds(scope, get(&*url));
        }
        wait_until("the memory is taken", DEADLINE, || {
            (used(&pierhead, "body_memory") == 16.0 * MIB as f64).then_some(())
        });
        refused(&get(&*url));
        // Small answers and heads take none.
        at_once(&Request::new("HEAD", &*url)).expect(200);
        http::get(manifest_url(&pierhead, "library/b", "v1")).expect(200);
    });
    assert_eq!(refusals(&pierhead, "body_memory"), 1.0);
    wait_until("it is given back", DEADLINE, || {
        (used(&pierhead, "body_memory") == 0.0).then_some(())
    });
}

#[test]
fn a_head_that_trickles_in_is_ended_in_time() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "[server]\nheader_timeout = \"500ms\"\n");
    let mut stream = TcpStream::connect(pierhead.host()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX-Long: ").unwrap();
    let began = Instant::now();
    let end = loop {
        assert!(began.elapsed() < DEADLINE, "a trickling head was left open");
        // Waiting for an answer is the pause between two bytes.
        match stream.read(&mut [0; 1024]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            other => break other,
        }
        if stream.write_all(b"x").is_err() {
            break Ok(0);
        }
    };
    drop(end);
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    wait_until("it is counted", DEADLINE, || {
        let name = "pierhead_http_connections_timed_out_total";
        (pierhead.metric(name, &[("listener", "registry")]) >= 1.0).then_some(())
    });
}

#[test]
fn a_body_that_never_ends_is_not_waited_for() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "");
    let upload = "POST /v2/library/a/blobs/uploads/ HTTP/1.1\r\nHost: a\r\n";
    for rest in [
        // Small, and it does not come; large; of no known size; and one that asks first.
        "Content-Length: 100\r\n\r\nbegins",
        "Content-Length: 100000000000\r\n\r\nbegins",
        "Transfer-Encoding: chunked\r\n\r\n6\r\nbegins\r\n",
        "Content-Length: 100\r\nExpect: 100-continue\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(pierhead.host()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let began = Instant::now();
        stream.write_all(format!("{upload}{rest}").as_bytes()).unwrap();
        let mut answer = Vec::new();
        // To its end: the connection is closed.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 403 "), "{rest}: {answer}");
        assert!(began.elapsed() < Duration::from_secs(5), "{rest}: {:?}", began.elapsed());
    }
    // What is small and comes costs nobody the connection.
    let mut stream = TcpStream::connect(pierhead.host()).unwrap();
    write!(stream, "{upload}Content-Length: 6\r\n\r\nsmall!").unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 403");
    let mut rest = Vec::new();
    while !rest.ends_with(b"}]}") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        rest.push(byte[0]);
    }
    asks(stream).expect("the connection goes on");
}

#[test]
fn a_trickling_reader_is_ended_and_disturbs_nobody() {
    const READERS: usize = 50;
    let upstream = FaultyUpstream::start_blocking();
    let size = 64 * MIB;
    let digest = upstream.add_random_blob("library/a", 1, size);
    // Only the rate can end them: they take something all the time.
    let limits = "[server]\nwrite_silence_timeout = \"5s\"\nwrite_rate_min = \"64MiB\"\n";
    let pierhead = pierhead(&upstream, limits);
    let url = blob_url(&pierhead, "library/a", &digest);
    http::get(&*url).expect(200);
    wait_until_stored(&pierhead, 1.0);
    let mut readers: Vec<_> = (0..READERS)
        .map(|_| {
            let mut stream = TcpStream::connect(pierhead.host()).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let head = format!("GET /v2/library/a/blobs/{digest} HTTP/1.1\r\nHost: a\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            (stream, 0)
        })
        .collect();
    let mut highest = 0;
    let mut quick = 0;
    let mut buffer = vec![0; 16 << 10];
    wait_until("all slow readers have lost their connections", 2 * DEADLINE, || {
        highest = highest.max(pierhead.rss_anon_shmem_bytes());
        if quick < 3 {
            quick += 1;
            assert_eq!(http::get(&*url).expect(200).body.len() as u64, size);
        }
        readers.retain_mut(|(stream, bytes)| match stream.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                *bytes += read as u64;
                assert!(*bytes < size, "a slow reader got everything");
                true
            }
        });
        let open = pierhead.metric("pierhead_http_connections", &[("listener", "registry")]);
        (open == 0.0).then_some(())
    });
    assert!(pierhead.metric("pierhead_http_slow_readers_total", &[]) >= 1.0);
    assert!(highest < MEMORY_MAX, "{} MiB", highest / MIB);
    let whole = http::get(&*url);
    assert_eq!((whole.end, whole.body.len() as u64), (End::Complete, size));
}

/// A frame of HTTP/2. Source: RFC 9113, section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[test]
fn a_flood_of_reset_streams_ends_its_connection_only() {
    const SETTINGS: u8 = 4;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    let upstream = FaultyUpstream::start_blocking();
    // Idleness would end it too, but not in the time that this test has.
    let pierhead = pierhead(&upstream, "[server]\nheader_timeout = \"10m\"\n");
    let mut stream = TcpStream::connect(pierhead.host()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    let mut opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    opening.extend(frame(SETTINGS, 0, 0, &[]));
    stream.write_all(&opening).unwrap();
    // GET, http, :authority a, :path /v2/, with the static table. Source: RFC 7541, appendix A.
    let head = b"\x82\x86\x01\x01a\x04\x04/v2/";
    let mut flood = Vec::new();
    for id in (1..200_000).step_by(2) {
        flood.extend(frame(HEADERS, 0x5, id, head));
        flood.extend(frame(RST_STREAM, 0, id, &CANCEL));
    }
    // It ends the connection before all of that is taken, or after.
    let _ = stream.write_all(&flood);
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(
        !matches!(&ended, Err(error) if error.kind() == ErrorKind::WouldBlock),
        "the connection was left open: {ended:?}"
    );
    at_once(&get(format!("{}/v2/", pierhead.url()))).expect(200);
    wait_until("nothing of it is left", DEADLINE, || {
        (used(&pierhead, "requests") == 0.0 && used(&pierhead, "connections") == 0.0).then_some(())
    });
}
