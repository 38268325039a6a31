//! TLS: what clients see of it, and certificates that change under load.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use pierhead_kit::http::{End, Request};
use pierhead_kit::program::{Pierhead, Run, require};
use pierhead_kit::tls::{Authority, Pair, client};
use pierhead_kit::upstream::{Fault, FaultyUpstream, On};
use pierhead_kit::{SetOnDrop, wait_until};

use super::{DEADLINE, PIERHEAD, blob_url, code, config};

const MIB: u64 = 1024 * 1024;

const HANDSHAKES: &str = "pierhead_tls_handshakes_total";

/// An authority, and a folder with a certificate of it.
pub(super) struct Site {
    authority: Authority,
    dir: tempfile::TempDir,
    first: Pair,
}

impl Site {
    pub(super) fn new() -> Self {
        let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
        let first = authority.server();
        first.write(dir.path(), "server");
        std::fs::write(dir.path().join("ca.crt"), authority.pem()).unwrap();
        Self { authority, dir, first }
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A Pierhead with that certificate. `tls` are further keys of the table, `server` further
    /// ones of the section.
    pub(super) fn pierhead(&self, upstream: &FaultyUpstream, tls: &str, server: &str) -> Pierhead {
        let dir = self.dir().display();
        let tls = format!("cert = \"{dir}/server.crt\"\nkey = \"{dir}/server.key\"\n{tls}");
        let text = config(upstream, &format!("[server]\n{server}\n[server.tls]\n{tls}"));
        let pierhead = Pierhead::start(PIERHEAD, &text);
        assert!(pierhead.url().starts_with("https://"), "{}", pierhead.url());
        assert!(pierhead.admin_url().starts_with("http://"), "{}", pierhead.admin_url());
        pierhead
    }

    /// A request by a client that trusts the authority.
    pub(super) fn request(&self, url: &str, identity: Option<&Pair>) -> Request {
        Request::new("GET", url).tls(&client(self.authority.pem(), identity))
    }

    /// The certificate that a new connection is shown.
    fn shown(&self, pierhead: &Pierhead) -> Vec<u8> {
        let url = format!("{}/livez", pierhead.url());
        self.request(&url, None).send().expect(200).certificate.unwrap()
    }
}

/// Waits until that many handshakes came to that. Clients may know of theirs a moment before.
#[track_caller]
fn wait_for_handshakes(pierhead: &Pierhead, result: &str, count: f64) {
    wait_until(result, DEADLINE, || {
        (pierhead.metric(HANDSHAKES, &[("result", result)]) == count).then_some(())
    });
}

fn curl(pierhead: &Pierhead, site: &Site, path: &str, args: &[&str]) -> Option<(bool, String)> {
    let out = Run::new(require("curl")?)
        .args(["--silent", "--show-error", "--output", "/dev/null"])
        .args(["--write-out", "%{http_code} %{http_version} %{size_download}"])
        .arg("--cacert")
        .arg(site.dir().join("ca.crt"))
        .args(args.iter().copied())
        .arg(format!("{}{path}", pierhead.url()))
        .output();
    Some((out.success(), out.stdout))
}

#[test]
fn clients_choose_http2_or_http1_over_tls() {
    let (site, upstream) = (Site::new(), FaultyUpstream::start_blocking());
    let digest = upstream.add_random_blob("library/a", 1, 3 * MIB);
    let pierhead = site.pierhead(&upstream, "", "");
    let path = format!("/v2/library/a/blobs/{digest}");
    // Cold, then from the store.
    for round in ["cold", "warm"] {
        for (args, version) in
            [("--http2", "2"), ("--http1.1", "1.1"), ("--tls-max 1.2 --http2", "2")]
        {
            let args: Vec<_> = args.split(' ').collect();
            let Some((good, seen)) = curl(&pierhead, &site, &path, &args) else { return };
            assert!(good, "{round}");
            assert_eq!(seen, format!("200 {version} {}", 3 * MIB), "{round}");
        }
    }
    let url = blob_url(&pierhead, "library/a", &digest);
    let answer = site.request(&url, None).header("range", "bytes=-1000").send().expect(206);
    assert_eq!(answer.body.len(), 1000);
    assert_eq!(upstream.count("GET", &digest), 1);
    // A disk error under a mapping that is being encrypted would end the process.
    let mapped = |pierhead: &Pierhead| {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", pierhead.pid())).unwrap();
        maps.contains(digest.split_once(':').unwrap().1)
    };
    assert!(!mapped(&pierhead));
    let plain = super::pierhead(&upstream, "");
    for _ in 0..2 {
        Request::new("GET", blob_url(&plain, "library/a", &digest)).send().expect(200);
        super::wait_until_stored(&plain, 1.0);
    }
    assert!(mapped(&plain), "the check can fail");
    // The metrics are where they were.
    assert!(pierhead.metric(HANDSHAKES, &[("result", "ok")]) >= 7.0);
    let expires = pierhead.metric("pierhead_tls_certificate_expires_timestamp_seconds", &[]);
    assert!(expires > 1.7e9, "{expires}");
    assert!(pierhead.stderr().contains("scheme=\"https\""), "{}", pierhead.stderr());
}

#[test]
fn plain_http_on_a_tls_port_is_told_so() {
    let (site, upstream) = (Site::new(), FaultyUpstream::start_blocking());
    let pierhead = site.pierhead(&upstream, "", "");
    let url = format!("http://{}/v2/", pierhead.host());
    let answer = Request::new("GET", url).send();
    assert_eq!((answer.status, code(&answer).as_str()), (400, "UNSUPPORTED"));
    assert!(answer.text().contains("https://"));
    wait_for_handshakes(&pierhead, "plain_http", 1.0);
}

#[test]
fn a_handshake_that_does_not_end_is_ended() {
    let (site, upstream) = (Site::new(), FaultyUpstream::start_blocking());
    let pierhead = site.pierhead(&upstream, "", "header_timeout = \"300ms\"");
    // Nothing, the beginning of a TLS record, and no TLS at all.
    for bytes in [&b""[..], b"\x16\x03\x01\x02\x00\x01", b"\x00nonsense"] {
        let mut stream = TcpStream::connect(pierhead.host()).unwrap();
        stream.write_all(bytes).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // Closed or reset: both are ends. A time-out would be neither.
        let mut rest = Vec::new();
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:?}");
        }
    }
    wait_for_handshakes(&pierhead, "timed_out", 2.0);
    wait_for_handshakes(&pierhead, "failed", 1.0);
    site.shown(&pierhead);
}

#[test]
fn a_connection_too_many_is_told_so_over_tls() {
    let (site, upstream) = (Site::new(), FaultyUpstream::start_blocking());
    let pierhead = site.pierhead(&upstream, "", "connections_max = 1");
    // One that has not even begun its handshake takes the place.
    let held = TcpStream::connect(pierhead.host()).unwrap();
    wait_until("it has its place", DEADLINE, || {
        let used = pierhead.metric("pierhead_limit_used", &[("limit", "connections")]);
        (used == 1.0).then_some(())
    });
    let url = |path: &str| format!("{}/{path}", pierhead.url());
    let refused = site.request(&url("v2/"), None).send();
    assert_eq!((refused.status, code(&refused).as_str()), (503, "UNAVAILABLE"));
    assert_eq!(refused.header("connection"), Some("close"));
    site.request(&url("readyz"), None).send().expect(200);
    drop(held);
    wait_until("there is a place again", DEADLINE, || {
        (site.request(&url("v2/"), None).send().status == 200).then_some(())
    });
}

#[test]
fn certificates_replaced_under_load_lose_no_connection() {
    const CLIENTS: usize = 8;
    const REPLACEMENTS: usize = 25;
    let (site, upstream) = (Site::new(), FaultyUpstream::start_blocking());
    let small = upstream.add_random_blob("library/a", 1, 200_000);
    let slow = upstream.add_random_blob("library/a", 2, 6 * MIB);
    upstream.fault(On::path(&*slow).get(), Fault::Throttle(2 * MIB));
    let pierhead = site.pierhead(&upstream, "", "");
    let slow_path = format!("/v2/library/a/blobs/{slow}");
    let (small, slow) =
        (blob_url(&pierhead, "library/a", &small), blob_url(&pierhead, "library/a", &slow));
    let done = AtomicBool::new(false);
    // What the clients were shown. Each certificate stays until one of them has met it.
    let seen = Mutex::new(BTreeSet::new());
    let wait_until_seen = |certificate: &Vec<u8>| {
        wait_until("a client meets the certificate", DEADLINE, || {
            seen.lock().unwrap().contains(certificate).then_some(())
        });
    };
    let issued = std::thread::scope(|scope| {
        // Answers that last over many replacements.
        let long = scope.spawn(|| site.request(&slow, None).send());
        let long_http2 = scope.spawn(|| curl(&pierhead, &site, &slow_path, &["--http2"]));
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                // One configuration for all pulls, so that sessions are resumed as well.
                let config = client(site.authority.pem(), None);
                while !done.load(Ordering::Relaxed) {
                    let answer = Request::new("GET", &*small).tls(&config).send().expect(200);
                    assert_eq!((answer.body.len(), answer.end), (200_000, End::Complete));
                    seen.lock().unwrap().insert(answer.certificate.unwrap());
                }
            });
        }
        let _ended = SetOnDrop(&done);
        wait_until_seen(&site.first.der);
        let mut issued = BTreeSet::from([site.first.der.clone()]);
        for _ in 0..REPLACEMENTS {
            let next = site.authority.server();
            next.write(site.dir(), "server");
            pierhead.hangup();
            wait_until("the new certificate is shown", DEADLINE, || {
                (site.shown(&pierhead) == next.der).then_some(())
            });
            wait_until_seen(&next.der);
            issued.insert(next.der);
        }
        assert_eq!(long.join().unwrap().expect(200).body.len() as u64, 6 * MIB);
        if let Some(pulled) = long_http2.join().unwrap() {
            assert_eq!(pulled, (true, format!("200 2 {}", 6 * MIB)));
        }
        issued
    });
    assert!(seen.into_inner().unwrap() == issued, "a certificate that nobody has issued");
    let changes = pierhead.metric("pierhead_tls_certificate_changes_total", &[]);
    assert_eq!(changes, 1.0 + REPLACEMENTS as f64);
    for result in ["failed", "gone", "timed_out", "incompatible", "no_certificate"] {
        assert_eq!(pierhead.metric(HANDSHAKES, &[("result", result)]), 0.0, "{result}");
    }
}

#[test]
fn files_that_changed_are_noticed_without_a_signal() {
    let (site, upstream) = (Site::new(), FaultyUpstream::start_blocking());
    let pierhead = site.pierhead(&upstream, "", "");
    let next = site.authority.server();
    next.write(site.dir(), "server");
    wait_until("the new certificate is shown", DEADLINE, || {
        (site.shown(&pierhead) == next.der).then_some(())
    });
}

#[test]
fn a_bad_pair_leaves_the_old_one_in_use() {
    let (site, upstream) = (Site::new(), FaultyUpstream::start_blocking());
    let pierhead = site.pierhead(&upstream, "", "");
    let failures = |pierhead: &Pierhead, words: &str| {
        let log = pierhead.stderr();
        log.lines().filter(|line| line.contains("ERROR") && line.contains(words)).count()
    };
    let other = site.authority.server();
    let spoil: [(&str, &dyn Fn()); 4] = [
        ("not that of the certificate", &|| {
            std::fs::write(site.dir().join("server.key"), &other.key).unwrap();
        }),
        ("no certificate in PEM form", &|| {
            std::fs::write(site.dir().join("server.crt"), "nonsense").unwrap();
        }),
        ("cannot read", &|| std::fs::remove_file(site.dir().join("server.crt")).unwrap()),
        ("expired", &|| {
            site.authority.expired_server().write(site.dir(), "server");
        }),
    ];
    for (words, spoil) in spoil {
        spoil();
        pierhead.hangup();
        wait_until(words, DEADLINE, || (failures(&pierhead, words) > 0).then_some(()));
        assert_eq!(site.shown(&pierhead), site.first.der, "{words}");
    }
    other.write(site.dir(), "server");
    pierhead.hangup();
    wait_until("the good one is shown", DEADLINE, || {
        (site.shown(&pierhead) == other.der).then_some(())
    });
}

#[test]
fn certificates_of_clients_are_required_verified_and_logged() {
    let (site, upstream) = (Site::new(), FaultyUpstream::start_blocking());
    let (inside, outside) = (site.authority.client("runner.example"), Authority::new().client("x"));
    let ca = format!("client_ca = \"{}/ca.crt\"\n", site.dir().display());
    for (auth, anonymous) in [("", false), ("client_auth = \"optional\"", true)] {
        let pierhead = site.pierhead(&upstream, &format!("{ca}{auth}"), "");
        let url = format!("{}/v2/", pierhead.url());
        site.request(&url, Some(&inside))
            // Docker sends its login for the Hub: it changes nothing.
            .header("Authorization", "Basic dXNlcjpwYXNz")
            .send()
            .expect(200);
        let known = "subject=\"runner.example\"";
        wait_until("the subject is logged", DEADLINE, || {
            pierhead.stderr().contains(known).then_some(())
        });
        let stranger = site.request(&url, None).try_send();
        assert_eq!(stranger.is_ok_and(|answer| answer.status == 200), anonymous);
        let missing = if anonymous { 0.0 } else { 1.0 };
        wait_for_handshakes(&pierhead, "client_certificate_missing", missing);
        // A certificate of others is worse than none.
        assert!(site.request(&url, Some(&outside)).try_send().is_err());
        wait_for_handshakes(&pierhead, "client_certificate_refused", 1.0);
        assert_eq!(pierhead.stderr().matches("subject=").count(), 1);
    }
}

#[test]
fn a_command_with_a_certificate_gets_in_where_clients_need_one() {
    let (site, upstream) = (Site::new(), FaultyUpstream::start_blocking());
    upstream.add_image("library/a", "1", [vec![7_u8; 100_000]]);
    let ca = site.dir().join("ca.crt");
    let pierhead = site.pierhead(&upstream, &format!("client_ca = \"{}\"\n", ca.display()), "");
    let (cert, key) = site.authority.client("warmer.example").write(site.dir(), "warmer");
    let warm = |files: &[&str]| {
        Run::new(PIERHEAD)
            .args(["warm", "a:1", "--registry", pierhead.url(), "--ca-file"])
            .arg(&ca)
            .args(files.iter().copied())
            .output()
    };
    let output = warm(&["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()]);
    assert!(output.success(), "{output}");
    assert!(!warm(&[]).success());
}

#[test]
fn client_authorities_change_with_their_file() {
    let (site, upstream) = (Site::new(), FaultyUpstream::start_blocking());
    let (old, new) = (Authority::new(), Authority::new());
    let path = site.dir().join("clients.crt");
    std::fs::write(&path, old.pem()).unwrap();
    let tls = format!("client_ca = \"{}\"", path.display());
    let pierhead = site.pierhead(&upstream, &tls, "");
    let (before, after) = (old.client("a"), new.client("a"));
    let url = format!("{}/livez", pierhead.url());
    // One configuration for both requests: a resumed session must not pass either.
    let config = client(site.authority.pem(), Some(&before));
    let ask = || Request::new("GET", &*url).tls(&config).try_send();
    assert_eq!(ask().unwrap().status, 200);
    assert!(site.request(&url, Some(&after)).try_send().is_err());
    std::fs::write(&path, new.pem()).unwrap();
    pierhead.hangup();
    wait_until("the new authority's client gets in", DEADLINE, || {
        site.request(&url, Some(&after)).try_send().ok()
    });
    assert!(ask().is_err());
}

#[test]
fn only_trusted_proxies_say_where_a_request_came_from() {
    let upstream = FaultyUpstream::start_blocking();
    for (trusted, client, scheme) in
        [("[]", "127.0.0.1", "http"), ("[\"127.0.0.0/8\", \"10.0.0.0/8\"]", "192.0.2.7", "https")]
    {
        let text = config(&upstream, &format!("[server]\ntrusted_proxies = {trusted}\n"));
        let pierhead = Pierhead::start(PIERHEAD, &text);
        Request::new("GET", format!("{}/v2/", pierhead.url()))
            .header("X-Forwarded-For", "198.51.100.1, 192.0.2.7, 10.0.0.9")
            .header("X-Forwarded-Proto", "https")
            .send()
            .expect(200);
        let line = wait_until("the line in the log", DEADLINE, || {
            pierhead.stderr().lines().find(|l| l.contains("path=\"/v2/\"")).map(str::to_owned)
        });
        assert!(line.contains(&format!("client={client} ")), "{line}");
        assert!(line.contains(&format!("scheme=\"{scheme}\"")), "{line}");
    }
}
