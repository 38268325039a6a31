//! The misbehaving upstream does what it says, and nothing else.

use std::time::Duration;

use pierhead_kit::http::{End, Request, Response, get, head};
use pierhead_kit::images::media;
use pierhead_kit::random::Random;
use pierhead_kit::sha256;
use pierhead_kit::upstream::{Auth, Bearer, Fault, FaultyUpstream, On, Protocol};
use tokio::time::Instant;

const REPO: &str = "library/app";
const MIB: u64 = 1024 * 1024;

fn ranged(url: &str, range: &str) -> Response {
    Request::new("GET", url).header("range", range).send()
}

/// An upstream with one blob, and the URL of that.
fn with_blob(len: u64) -> (FaultyUpstream, Random, String) {
    let upstream = FaultyUpstream::start_blocking();
    let random = Random::new(1, len);
    let digest = upstream.add_random_blob(REPO, 1, len);
    let url = format!("{}/v2/{REPO}/blobs/{digest}", upstream.url());
    (upstream, random, url)
}

#[test]
fn random_content_is_the_same_from_every_offset() {
    let random = Random::new(9, 1000);
    let whole = random.part(0, 1000);
    for (from, len) in [(0, 1), (1, 7), (7, 2), (8, 8), (13, 900), (999, 1)] {
        assert_eq!(random.part(from, len), whole[from as usize..from as usize + len]);
    }
    assert_eq!(random.sha256(), sha256(&whole));
    assert_ne!(whole, Random::new(10, 1000).part(0, 1000));
}

#[tokio::test]
async fn a_well_behaved_upstream_serves_images() {
    let upstream = FaultyUpstream::start().await;
    let image = upstream.add_image(REPO, "1", [vec![1; 5000], vec![2; 7000]]);
    let index = upstream.add_index(REPO, "multi", &[("amd64", &image.manifest)]);
    let base = format!("{}/v2/{REPO}", upstream.url());

    get(format!("{}/v2/", upstream.url())).expect(200);
    let by_tag = get(format!("{base}/manifests/1")).expect(200);
    assert_eq!(by_tag.header("content-type"), Some(media::MANIFEST));
    assert_eq!(by_tag.header("docker-content-digest"), Some(image.manifest.as_str()));
    assert_eq!(sha256(&by_tag.body), image.manifest);
    let by_digest = get(format!("{base}/manifests/{}", image.manifest)).expect(200);
    assert_eq!(by_digest.body, by_tag.body);
    let asked = head(format!("{base}/manifests/multi")).expect(200);
    assert_eq!(asked.header("docker-content-digest"), Some(index.as_str()));
    assert!(asked.body.is_empty() && asked.header("content-length").is_some());
    for digest in image.layers.iter().chain([&image.config]) {
        let blob = get(format!("{base}/blobs/{digest}")).expect(200);
        assert_eq!(&sha256(&blob.body), digest);
        let asked = head(format!("{base}/blobs/{digest}")).expect(200);
        assert_eq!(asked.header("content-length"), Some(blob.body.len().to_string().as_str()));
    }
    get(format!("{base}/manifests/none")).expect(404);
    get(format!("{base}/blobs/sha256:00")).expect(404);
    // A blob belongs to the repositories that it was added to.
    get(format!("{}/v2/other/blobs/{}", upstream.url(), image.config)).expect(404);

    assert_eq!(upstream.count("GET", "/manifests/1"), 1);
    assert_eq!(upstream.count("HEAD", "/blobs/"), 3);
    upstream.wait_for(|log| log.iter().all(|e| e.finished), Duration::from_secs(5)).await;
    let log = upstream.log();
    assert!(log.iter().all(|e| e.complete), "{log:#?}");
    let layer = log.iter().find(|e| e.is_blob_get() && e.path.ends_with(&image.layers[0]));
    assert_eq!(layer.map(|e| (e.status, e.bytes_sent)), Some((200, 5000)));
    assert_eq!(upstream.bytes_sent(&image.layers[1]), 7000);
}

#[test]
fn ranges() {
    let (_upstream, random, url) = with_blob(1000);
    for (range, from, to) in [
        ("bytes=0-9", 0, 10),
        ("bytes=990-", 990, 1000),
        ("bytes=-5", 995, 1000),
        ("bytes=0-5000", 0, 1000),
    ] {
        let part = ranged(&url, range).expect(206);
        let content_range = format!("bytes {from}-{}/1000", to - 1);
        assert_eq!(part.header("content-range"), Some(content_range.as_str()));
        assert_eq!(part.body, random.part(from, (to - from) as usize));
    }
    let beyond = ranged(&url, "bytes=1000-").expect(416);
    assert_eq!(beyond.header("content-range"), Some("bytes */1000"));
    assert_eq!(ranged(&url, "lines=1-2").expect(200).body.len(), 1000);
    assert_eq!(ranged(&url, "bytes=0-1,5-6").expect(200).body.len(), 1000);
}

#[test]
fn a_cut_comes_after_exactly_that_many_bytes() {
    let (upstream, random, url) = with_blob(8 * MIB);
    for n in [0, 1, 100_000, 3 * MIB + 17] {
        upstream.fault(On::blobs().get().once(), Fault::CutAfter(n));
        let cut = get(&url);
        assert_eq!((cut.status, cut.end, cut.body.len() as u64), (200, End::Short, n));
        assert_eq!(cut.body, random.part(0, n as usize));
    }
    assert_eq!(sha256(&get(&url).expect(200).body), random.sha256());
    let log = upstream.log();
    assert_eq!(log.iter().map(|e| e.bytes_sent).take(4).sum::<u64>(), 3 * MIB + 17 + 100_001);
    assert!(log[..4].iter().all(|e| e.finished && !e.complete));
}

#[test]
fn a_stall_keeps_the_connection_open() {
    let (upstream, _, url) = with_blob(MIB);
    upstream.fault(On::blobs(), Fault::StallAfter(70_000));
    let stalled = Request::new("GET", &url).silence(Duration::from_millis(200)).send();
    assert_eq!((stalled.end, stalled.body.len()), (End::Stalled, 70_000));
    upstream.wait_for_blocking(|log| log[0].finished, Duration::from_secs(5));
    assert!(!upstream.log()[0].complete);

    upstream.clear_faults();
    upstream.fault(On::blobs(), Fault::NoHeaders);
    let silent = Request::new("GET", &url).silence(Duration::from_millis(100)).try_send();
    assert!(silent.is_err());
    upstream.wait_for_blocking(|log| log[1].finished, Duration::from_secs(5));
    assert_eq!(upstream.log()[1].status, 0);
}

#[test]
fn throttle_and_delay_take_their_time() {
    let (upstream, random, url) = with_blob(100_000);
    upstream.fault(On::blobs().once(), Fault::Throttle(200_000));
    let start = Instant::now();
    assert_eq!(get(&url).expect(200).body, random.part(0, 100_000));
    let took = start.elapsed();
    assert!(took > Duration::from_millis(400), "{took:?}");
    upstream.fault(On::blobs().once(), Fault::DelayHeaders(Duration::from_millis(150)));
    let start = Instant::now();
    get(&url).expect(200);
    assert!(start.elapsed() >= Duration::from_millis(150));
}

#[test]
fn wrong_bytes() {
    let (upstream, random, url) = with_blob(300_000);
    let id = upstream.fault(On::blobs(), Fault::FlipByte(200_001));
    let mut wanted = random.part(0, 300_000);
    wanted[200_001] ^= 0xff;
    assert_eq!(get(&url).expect(200).body, wanted);
    assert_eq!(ranged(&url, "bytes=200000-200009").expect(206).body, wanted[200_000..200_010]);
    upstream.clear(id);
    assert_eq!(get(&url).expect(200).body, random.part(0, 300_000));

    upstream.fault(On::blobs().once(), Fault::ExtraBytes(10));
    let extra = get(&url).expect(200);
    assert_eq!(extra.header("content-length"), Some("300010"));
    assert_eq!(extra.body[300_000..], [0; 10]);

    upstream.fault(On::blobs().once(), Fault::EndlessBody);
    let endless = Request::new("GET", &url).stop_after(5 * MIB).send();
    assert_eq!((endless.end, endless.body.len() as u64), (End::Stopped, 5 * MIB));

    upstream.fault(On::blobs().with_range(true).once(), Fault::ShiftRange(3));
    let shifted = ranged(&url, "bytes=10-19").expect(206);
    assert_eq!(shifted.header("content-range"), Some("bytes 10-19/300000"));
    assert_eq!(shifted.body, random.part(13, 10));
}

#[test]
fn wrong_lengths_and_headers() {
    let (upstream, random, url) = with_blob(1000);
    let once = |fault| upstream.fault(On::blobs().once(), fault);
    once(Fault::ContentLength(2000));
    let short = get(&url);
    assert_eq!((short.end, short.body.len()), (End::Short, 1000));
    assert_eq!(short.header("content-length"), Some("2000"));
    once(Fault::ContentLength(10));
    assert_eq!(get(&url).expect(200).body, random.part(0, 10));
    once(Fault::ContentLength(77));
    assert_eq!(head(&url).expect(200).header("content-length"), Some("77"));
    once(Fault::Chunked);
    let chunked = get(&url).expect(200);
    assert_eq!(chunked.header("content-length"), None);
    assert_eq!(chunked.header("transfer-encoding"), Some("chunked"));
    assert_eq!(chunked.body, random.part(0, 1000));
    once(Fault::Chunked);
    assert_eq!(head(&url).expect(200).header("content-length"), None);
    once(Fault::IgnoreRange);
    assert_eq!(ranged(&url, "bytes=5-").expect(200).body.len(), 1000);
    once(Fault::ContentRange("bytes 0-9/999".into()));
    let lie = ranged(&url, "bytes=5-9").expect(206);
    assert_eq!(lie.header("content-range"), Some("bytes 0-9/999"));
    once(Fault::Gzip);
    let gzip = get(&url).expect(200);
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    assert_eq!(gzip.body[..2], [0x1f, 0x8b]);
    once(Fault::DigestHeader("sha256:11".into()));
    assert_eq!(get(&url).header("docker-content-digest"), Some("sha256:11"));
    once(Fault::NoDigestHeader);
    assert_eq!(get(&url).header("docker-content-digest"), None);
    once(Fault::ContentType("text/plain; charset=utf-8".into()));
    assert_eq!(get(&url).header("content-type"), Some("text/plain; charset=utf-8"));
    once(Fault::Header("Warning".into(), "299 - \"x\"".into()));
    assert_eq!(get(&url).header("warning"), Some("299 - \"x\""));
    once(Fault::Drop);
    assert!(Request::new("GET", &url).try_send().is_err());
    get(&url).expect(200);
}

#[test]
fn statuses_come_as_often_as_asked() {
    let upstream = FaultyUpstream::start_blocking();
    upstream.add_image(REPO, "1", [vec![1; 10]]);
    let url = format!("{}/v2/{REPO}/manifests/1", upstream.url());
    upstream.fault(On::manifests().skip(1).times(2), Fault::too_many_requests("7"));
    get(&url).expect(200);
    for _ in 0..2 {
        let limited = get(&url).expect(429);
        assert_eq!(limited.header("retry-after"), Some("7"));
        assert_eq!(limited.json()["errors"][0]["code"], "TOOMANYREQUESTS");
    }
    get(&url).expect(200);
    upstream.fault("/v2/library/*/manifests/", Fault::html(503));
    assert_eq!(get(&url).expect(503).header("content-type"), Some("text/html; charset=utf-8"));
    assert!(head(&url).body.is_empty());
    get(format!("{}/v2/", upstream.url())).expect(200);
    upstream.clear_faults();
    upstream.fault(On::any(), Fault::HeadUnsupported);
    head(&url).expect(405);
    get(&url).expect(200);
}

#[test]
fn redirects() {
    let (upstream, random, url) = with_blob(1000);
    upstream.fault(On::path("/blobs/").once(), Fault::redirect_to_cdn());
    let moved = get(&url).expect(307);
    let target = moved.header("location").unwrap().to_owned();
    assert!(target.starts_with(&format!("{}/cdn/sha256:", upstream.url())), "{target}");
    assert_eq!(get(&target).expect(200).body, random.part(0, 1000));
    assert_eq!(ranged(&target, "bytes=1-2").expect(206).body.len(), 2);
    Request::new("GET", &target).header("authorization", "Bearer x").send().expect(400);

    upstream.fault(On::path("/blobs/").once(), Fault::redirect("/cdn/{digest}"));
    let relative = get(&url).expect(307);
    assert!(relative.header("location").is_some_and(|l| l.starts_with("/cdn/sha256:")));
    upstream.fault(On::path("/blobs/").once(), Fault::redirect("{self}{path}"));
    let looping = get(format!("{url}?a=b")).expect(307);
    assert_eq!(looping.header("location"), Some(format!("{url}?a=b").as_str()));
}

#[test]
fn down_and_up_again_at_the_same_port() {
    let (upstream, random, url) = with_blob(MIB);
    upstream.fault(On::blobs().once(), Fault::StallAfter(1000));
    let reader = {
        let url = url.clone();
        std::thread::spawn(move || get(&url))
    };
    upstream
        .wait_for_blocking(|log| log.iter().any(|e| e.bytes_sent == 1000), Duration::from_secs(5));
    upstream.refuse_connections();
    assert_eq!(upstream.open_connections(), 1);
    let refused = Request::new("GET", &url).try_send().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    upstream.down();
    let cut = reader.join().unwrap();
    assert_eq!((cut.end, cut.body.len()), (End::Short, 1000));
    for _ in 0..3 {
        upstream.up();
        assert_eq!(get(&url).expect(200).body, random.part(0, MIB as usize));
        upstream.down();
        assert!(Request::new("GET", &url).try_send().is_err());
    }
}

#[test]
fn bearer_tokens() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image(REPO, "1", [vec![1; 10]]);
    upstream.set_auth(Auth::Bearer(Bearer::with_credentials("user", "secret")));
    let url = format!("{}/v2/{REPO}/manifests/1", upstream.url());
    let asked = get(&url).expect(401);
    let realm = format!("{}/token", upstream.url());
    let challenge =
        format!(r#"Bearer realm="{realm}",service="kit",scope="repository:{REPO}:pull""#);
    assert_eq!(asked.header("www-authenticate"), Some(challenge.as_str()));
    let token_url = format!("{realm}?service=kit&scope=repository%3Alibrary%2Fapp%3Apull");
    get(&token_url).expect(401);
    let basic = "Basic dXNlcjpzZWNyZXQ=";
    let answer = Request::new("GET", &token_url).header("authorization", basic).send().expect(200);
    let bearer = format!("Bearer {}", answer.json()["token"].as_str().unwrap());
    let with = |url: &str| Request::new("GET", url).header("authorization", &bearer).send();
    with(&url).expect(200);
    with(&format!("{}/v2/", upstream.url())).expect(200);
    // Another repository needs another scope.
    let other = upstream.add_blob("other", "x");
    with(&format!("{}/v2/other/blobs/{other}", upstream.url())).expect(401);
    upstream.forget_tokens();
    with(&url).expect(401);

    let form = "grant_type=password&service=kit&username=user&password=secret\
        &scope=repository:library/app:pull";
    let posted = Request::new("POST", &realm).body(form).send().expect(200);
    let bearer = format!("Bearer {}", posted.json()["access_token"].as_str().unwrap());
    let blob = format!("{}/v2/{REPO}/blobs/{}", upstream.url(), image.config);
    Request::new("GET", &blob).header("authorization", &bearer).send().expect(200);
    assert!(upstream.log().iter().any(|e| e.method == "POST" && e.body.contains("secret")));

    upstream.fault("/token", Fault::EndlessBody);
    let endless = Request::new("POST", &realm).body(form).stop_after(MIB).send();
    assert_eq!(endless.end, End::Stopped);
    upstream.set_auth(Auth::Basic { username: "user".into(), password: "secret".into() });
    get(&url).expect(401);
    Request::new("GET", &url).header("authorization", basic).send().expect(200);
}

#[test]
fn tags_and_referrers_come_in_pages() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image(REPO, "b", [vec![1; 10]]);
    for tag in ["a", "d", "c"] {
        upstream.set_tag(REPO, tag, &image.manifest);
    }
    let first = get(format!("{}/v2/{REPO}/tags/list?n=3", upstream.url())).expect(200);
    assert_eq!(first.json()["tags"], serde_json::json!(["a", "b", "c"]));
    let next = format!("</v2/{REPO}/tags/list?n=3&last=c>; rel=\"next\"");
    assert_eq!(first.header("link"), Some(next.as_str()));
    let rest = get(format!("{}/v2/{REPO}/tags/list?n=3&last=c", upstream.url())).expect(200);
    assert_eq!(
        (rest.json()["tags"].clone(), rest.header("link")),
        (serde_json::json!(["d"]), None)
    );

    let url = format!("{}/v2/{REPO}/referrers/{}", upstream.url(), image.manifest);
    assert_eq!(get(&url).expect(200).json()["manifests"], serde_json::json!([]));
    let kinds = ["application/x-sbom", "application/x-signature", "application/x-sbom"];
    for (i, kind) in kinds.into_iter().enumerate() {
        let subject = if i == 2 { "sha256:ab" } else { &image.manifest };
        upstream.add_referrer(REPO, subject, kind);
    }
    assert_eq!(get(&url).json()["manifests"].as_array().unwrap().len(), 2);
    let filtered = get(format!("{url}?artifactType=application/x-sbom"));
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(filtered.json()["manifests"][0]["artifactType"], "application/x-sbom");
    upstream.set_page_size(1);
    assert!(get(&url).header("link").is_some());
    upstream.set_referrers(false);
    get(&url).expect(404);
}

#[test]
fn quirks_of_manifests() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image(REPO, "1", [vec![1; 10]]);
    let url = format!("{}/v2/{REPO}/manifests/1", upstream.url());
    upstream.set_strict_accept(true);
    Request::new("GET", &url).header("accept", "*/*").send().expect(404);
    Request::new("GET", &url).header("accept", media::ACCEPT_ALL).send().expect(200);
    upstream.set_strict_accept(false);
    let etag = format!("\"{}\"", image.manifest);
    Request::new("GET", &url).header("if-none-match", etag).send().expect(304);
    let huge = upstream.put_huge_manifest(REPO, "huge", 5_000_000);
    let body = get(format!("{}/v2/{REPO}/manifests/huge", upstream.url())).expect(200).body;
    assert!(body.len() > 5_000_000 && sha256(&body) == huge);
    upstream.delete_tag(REPO, "1");
    get(&url).expect(404);
    get(format!("{}/v2/{REPO}/manifests/{}", upstream.url(), image.manifest)).expect(200);
    upstream.delete_manifest(REPO, &image.manifest);
    get(format!("{}/v2/{REPO}/manifests/{}", upstream.url(), image.manifest)).expect(404);
}

#[test]
fn tls_and_http2() {
    let Some(curl) = pierhead_kit::program::require("curl") else { return };
    for http2 in [false, true] {
        let upstream = FaultyUpstream::start_with(Protocol { tls: true, http2 });
        let random = Random::new(1, MIB);
        let digest = upstream.add_random_blob(REPO, 1, MIB);
        let dir = tempfile::tempdir().unwrap();
        let (ca, out) = (dir.path().join("ca.pem"), dir.path().join("out"));
        std::fs::write(&ca, upstream.ca_pem().unwrap()).unwrap();
        let fetch = || {
            pierhead_kit::program::Run::new(&curl)
                .args(["--silent", "--show-error", "--write-out", "%{http_version} %{http_code}"])
                .arg("--cacert")
                .arg(&ca)
                .arg("--output")
                .arg(&out)
                .arg(format!("{}/v2/{REPO}/blobs/{digest}", upstream.url()))
                .output()
        };
        let version = if http2 { "2 200" } else { "1.1 200" };
        assert_eq!(fetch().ok().text(), version);
        assert_eq!(sha256(std::fs::read(&out).unwrap()), random.sha256());
        upstream.fault(On::blobs().once(), Fault::CutAfter(100_000));
        fetch().fails();
        // A reset of an HTTP/2 stream overtakes what was not sent before it.
        let part = std::fs::read(&out).unwrap_or_default();
        assert!(part.len() == 100_000 || (http2 && part.len() < 100_000), "{}", part.len());
        assert!(part == random.part(0, part.len()));
        fetch().ok();
    }
}
