//! Traces as a collector sees them, and what a collector in trouble costs.

use std::time::Duration;

use pierhead_kit::collector::{Collector, Manner, Span};
use pierhead_kit::http::{self, Request};
use pierhead_kit::program::Pierhead;
use pierhead_kit::upstream::{Auth, Bearer, Fault, FaultyUpstream, On};
use pierhead_kit::wait_until;
use tokio::time::Instant;

use super::{DEADLINE, PIERHEAD, blob_url, config, manifest_url, wait_until_stored};

/// What no trace may hold.
const PASSWORD: &str = "hunter2-secret";
const API_KEY: &str = "key-for-the-collector";

const PARENT_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT_SPAN: &str = "00f067aa0ba902b7";

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        std::fs::write(files.path("password"), PASSWORD).unwrap();
        std::fs::write(files.path("headers"), format!("X-Api-Key: {API_KEY}\n")).unwrap();
        files
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

fn traced(collector: &Collector, upstream: &FaultyUpstream, files: &Files, more: &str) -> String {
    let login = format!("username = \"u\"\npassword_file = \"{}\"\n", files.path("password"));
    config(upstream, &login)
        + &format!(
            "[telemetry]\notlp_endpoint = \"{}\"\notlp_headers_file = \"{}\"\n{more}",
            collector.url(),
            files.path("headers")
        )
}

fn request_to(collector: &Collector, name: &str, cache: &str) -> Span {
    collector.wait_for(&format!("a span {name:?} with {cache:?}"), DEADLINE, |span| {
        span.name == name && span.get("pierhead.cache") == cache
    })
}

#[test]
fn a_pull_is_told_from_the_request_to_upstreams_answers() {
    let (collector, files) = (Collector::start(), Files::new());
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/app", "1", [vec![7; 100_000]]);
    upstream.set_auth(Auth::Bearer(Bearer::with_credentials("u", PASSWORD)));
    upstream.fault(On::blobs().get().once(), Fault::redirect("{self}{path}"));
    let pierhead = Pierhead::start(PIERHEAD, &traced(&collector, &upstream, &files, ""));

    let traceparent = format!("00-{PARENT_TRACE}-{PARENT_SPAN}-01");
    let manifest = manifest_url(&pierhead, "library/app", "1");
    let answer = Request::new("GET", &*manifest)
        .header("traceparent", &*traceparent)
        .header("tracestate", "vendor=tracestate-of-a-stranger")
        .header("Authorization", "Basic bm9ib2R5OmNsaWVudC1zZWNyZXQ=")
        .send()
        .expect(200);
    http::get(blob_url(&pierhead, "library/app", &image.layers[0])).expect(200);
    wait_until_stored(&pierhead, 1.0);
    http::get(blob_url(&pierhead, "library/app", &image.layers[0])).expect(200);

    // The client's trace goes on here.
    let asked = request_to(&collector, "GET /v2/{name}/manifests/{reference}", "miss");
    assert_eq!((&*asked.trace, &*asked.parent), (PARENT_TRACE, PARENT_SPAN));
    assert_eq!(asked.resource["service.name"], "pierhead");
    assert_eq!(asked.get("pierhead.request_id"), answer.header("x-request-id").unwrap());
    for (key, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/v2/{name}/manifests/{reference}"),
        ("http.response.status_code", "200"),
        ("pierhead.cache.reason", "not_cached"),
        ("pierhead.upstream", "docker.io"),
        ("pierhead.repository", "library/app"),
    ] {
        assert_eq!(asked.get(key), value, "{key}: {asked:?}");
    }
    assert_eq!(asked.get("http.response.body.size"), answer.body.len().to_string());

    // Its question to upstream is its child: refused once, then with a token.
    let question = collector.wait_for("the question", DEADLINE, |span| {
        span.name == "upstream manifest_get" && span.get("http.response.status_code") == "200"
    });
    assert_eq!((&question.trace, &question.parent), (&asked.trace, &asked.id));
    assert_eq!(question.get("server.address"), upstream.addr().to_string());
    assert_eq!(question.get("http.request.resend_count"), "1");
    assert!(question.has_duration);
    let token = collector.wait_for("the token", DEADLINE, |s| s.name == "upstream token");
    assert_eq!((&token.trace, &token.parent), (&asked.trace, &asked.id));

    // The fill is a trace of its own, linked to the request that began it.
    let missed = request_to(&collector, "GET /v2/{name}/blobs/{digest}", "miss");
    let hit = request_to(&collector, "GET /v2/{name}/blobs/{digest}", "hit");
    assert_ne!(missed.trace, hit.trace);
    let fill = collector.wait_for("the fill", DEADLINE, |span| {
        span.name == "fill" && span.get("pierhead.digest") == image.layers[0]
    });
    assert_ne!(fill.trace, missed.trace);
    assert_eq!((fill.parent.as_str(), &fill.links), ("", &vec![missed.id.clone()]));
    assert_eq!(fill.get("pierhead.fill.result"), "stored");
    assert_eq!(fill.get("pierhead.bytes"), "100000");
    let get = collector.wait_for("the fill's question", DEADLINE, |span| {
        span.name == "upstream blob_get" && span.get("http.response.status_code") == "200"
    });
    assert_eq!((&get.trace, &get.parent), (&fill.trace, &fill.id));
    assert_eq!(get.get("pierhead.redirects"), "1");
    assert!(collector.spans().iter().all(|span| span.error.is_none() || span.name != "fill"));

    for request in collector.requests() {
        assert_eq!(request.uri.path(), "/v1/traces");
        assert_eq!(request.headers["x-api-key"], API_KEY);
    }
    for secret in [PASSWORD, API_KEY, "client-secret", "bm9ib2R5", "Bearer", "stranger"] {
        assert!(!collector.saw(secret), "{secret} reached the collector");
    }
    // No query of a URL either. What is no text may hold any byte.
    for span in collector.spans() {
        assert!(!span.attributes.values().any(|text| text.contains('?')), "{span:?}");
    }
    let asked_upstream = upstream.log();
    assert!(asked_upstream.iter().all(|entry| entry.header("traceparent").is_none()));
}

#[test]
fn failures_and_probes_and_samples() {
    let (collector, files) = (Collector::start(), Files::new());
    let upstream = FaultyUpstream::start_blocking();
    upstream.fault(On::path("library/broken/"), Fault::status(500));
    let more = "sample_ratio = 0\nservice_name = \"other\"";
    let pierhead = Pierhead::start(PIERHEAD, &traced(&collector, &upstream, &files, more));
    let ask = |name: &str, sampled: &str| {
        let traceparent = format!("00-{PARENT_TRACE}-{PARENT_SPAN}-{sampled}");
        let url = manifest_url(&pierhead, name, "1");
        Request::new("GET", url).header("traceparent", traceparent).send()
    };
    assert!(ask("library/unsampled", "00").status >= 400);
    http::get(manifest_url(&pierhead, "library/own", "1"));
    http::get(format!("{}/livez", pierhead.url())).expect(200);
    assert!(ask("library/broken", "01").status >= 500);

    let failed = collector.wait_for("the failure", DEADLINE, |span| {
        span.get("pierhead.repository") == "library/broken"
    });
    assert_eq!(failed.resource["service.name"], "other");
    assert!(failed.error.is_some(), "{failed:?}");
    let question = collector.wait_for("the question", DEADLINE, |span| {
        span.name.starts_with("upstream") && span.parent == failed.id
    });
    assert_eq!(question.error.as_deref(), Some("status 500"));
    // Whatever was to be sampled out ended before those.
    let names: Vec<_> = collector.spans().into_iter().map(|span| span.trace).collect();
    assert!(names.iter().all(|trace| trace == PARENT_TRACE), "{names:?}");
    let unsampled = |span: &Span| span.get("pierhead.repository") == "library/unsampled";
    assert!(!collector.spans().iter().any(unsampled));
}

#[test]
fn what_is_left_is_sent_at_the_end() {
    let (collector, files) = (Collector::start(), Files::new());
    let upstream = FaultyUpstream::start_blocking();
    upstream.add_image("library/app", "1", [vec![7; 100]]);
    let config = traced(&collector, &upstream, &files, "");
    let mut pierhead = Pierhead::start(PIERHEAD, &config);
    http::get(manifest_url(&pierhead, "library/app", "1")).expect(200);
    assert!(pierhead.terminate().success());
    assert!(collector.spans().iter().any(|span| span.get("pierhead.cache") == "miss"));
}

/// How often a text stands in the log.
fn logged(pierhead: &Pierhead, text: &str) -> usize {
    pierhead.stderr().matches(text).count()
}

#[test]
fn a_collector_in_trouble_costs_spans_and_nothing_else() {
    const TROUBLE: &str = "the collector takes no spans";
    let (collector, files) = (Collector::start(), Files::new());
    collector.set(Manner::Refuses);
    let upstream = FaultyUpstream::start_blocking();
    upstream.add_image("library/app", "1", [vec![7; 100]]);
    let pierhead = Pierhead::start(PIERHEAD, &traced(&collector, &upstream, &files, ""));
    let url = manifest_url(&pierhead, "library/app", "1");
    let spans = |result: &str| pierhead.metric("pierhead_trace_spans_total", &[("result", result)]);
    let batches = || collector.requests().len();
    // Three batches fail, and the log hears of it once.
    for round in 1..=3 {
        http::get(&*url).expect(200);
        wait_until("a batch", DEADLINE, || (batches() >= round).then_some(()));
    }
    wait_until("they are counted", DEADLINE, || (spans("failed") >= 3.0).then_some(()));
    assert_eq!(logged(&pierhead, TROUBLE), 1, "{}", pierhead.stderr());
    assert!(!pierhead.stderr().contains(API_KEY));

    collector.set(Manner::Takes);
    http::get(&*url).expect(200);
    wait_until("it is well again", DEADLINE, || (spans("exported") >= 1.0).then_some(()));
    wait_until("the log says so", DEADLINE, || {
        (logged(&pierhead, "the collector takes spans again") == 1).then_some(())
    });
}

#[test]
fn a_collector_that_stalls_holds_up_neither_requests_nor_the_end() {
    /// Above a stop without anything to wait for, and far below one that waits for the collector.
    const SOON: Duration = Duration::from_millis(4500);
    let (collector, files) = (Collector::start(), Files::new());
    collector.set(Manner::Stalls);
    let upstream = FaultyUpstream::start_blocking();
    upstream.add_image("library/app", "1", [vec![7; 100]]);
    let config = traced(&collector, &upstream, &files, "");
    let mut pierhead = Pierhead::start(PIERHEAD, &config);
    let url = manifest_url(&pierhead, "library/app", "1");
    http::get(&*url).expect(200);
    wait_until("a batch", DEADLINE, || (!collector.requests().is_empty()).then_some(()));
    let began = Instant::now();
    for _ in 0..100 {
        http::get(&*url).expect(200);
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let began = Instant::now();
    assert!(pierhead.terminate().success());
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(logged(&pierhead, "the last spans may not have reached the collector"), 1);
}
