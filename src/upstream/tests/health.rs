//! Endpoints that are not asked, as they are down or said so.

use std::future::pending;
use std::time::Duration;

use tokio::time::timeout;

use super::super::breaker::{BACK_OFF_FIRST, TROUBLE_MAX};
use super::*;

fn one() -> Lab {
    Lab::at("https://one.example")
}

fn two() -> Lab {
    Lab::new(&settings(&["https://one.example", "https://two.example"]))
}

async fn head(lab: &Lab) -> Result<ManifestHead, UpstreamError> {
    lab.upstream.head_manifest(&repo("a"), &tag("1")).await
}

fn hosts(lab: &Lab) -> Vec<String> {
    lab.asked().iter().map(|asked| asked.url()[8..11].to_owned()).collect()
}

fn refused() -> TransportError {
    TransportError::Connect("connection refused".into())
}

fn circuit(lab: &Lab) -> Circuit {
    lab.upstream.status()[0].circuit
}

async fn dead(lab: &Lab) {
    for _ in 0..TROUBLE_MAX {
        lab.fails(refused());
        failure(head(lab).await);
    }
    lab.asked();
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_is_not_asked_and_every_question_says_so() {
    let lab = one();
    dead(&lab).await;
    let last = Failure::Unreachable { cause: "connection refused".into() };
    for _ in 0..10 {
        let error = head(&lab).await.expect_err("a failure");
        assert_eq!(error.kind(), ErrorKind::Unreachable);
        assert!(error.to_string().contains("not before 1 s from now: cannot be"), "{error}");
        let Failure::Resting { last: told, retry_after } = error.failure else { panic!("{error}") };
        assert!(*told == last && retry_after <= BACK_OFF_FIRST);
        failure(lab.upstream.get_manifest(&repo("b"), &tag("1")).await);
        failure(lab.upstream.get_blob(&repo("a"), &blob(), &BlobPart::whole()).await);
        failure(lab.upstream.tags(&repo("a"), None, None).await);
        failure(lab.upstream.referrers(&repo("a"), &blob()).await);
    }
    assert_eq!(lab.asked().len(), 0);
    assert_eq!(
        lab.metric("pierhead_upstream_withheld_total", &[("reason", "failing")]),
        Some(50.0)
    );
    assert_eq!(lab.counted("manifest_head", "unreachable"), f64::from(TROUBLE_MAX));
    let status = lab.upstream.status().remove(0);
    assert_eq!((status.circuit, status.resting), (Circuit::Open, true));
    assert_eq!(status.circuit_since, Some(lab.clock.now()));
    assert!(status.next_probe > Some(lab.clock.now()));
    assert_eq!(status.failure, Some(last));
    let state = |state| lab.metric("pierhead_upstream_endpoint_state", &[("state", state)]);
    assert_eq!((state("open"), state("closed")), (Some(1.0), Some(0.0)));
}

#[tokio::test(start_paused = true)]
async fn one_question_finds_out_that_it_works_again() {
    let lab = one();
    dead(&lab).await;
    lab.pass(BACK_OFF_FIRST).await;
    lab.fails(refused());
    failure(head(&lab).await);
    failure(head(&lab).await);
    assert_eq!(lab.asked().len(), 1, "the probe, and nobody after it");
    lab.pass(BACK_OFF_FIRST).await;
    assert_eq!(circuit(&lab), Circuit::Open, "the back-off grows");
    lab.pass(BACK_OFF_FIRST).await;
    lab.says(answer(404));
    assert_eq!(failure(head(&lab).await), Failure::NotFound);
    assert_eq!(circuit(&lab), Circuit::Closed);
    lab.says(answer(200)).says(answer(200));
    head(&lab).await.expect("a head");
    head(&lab).await.expect("a head");
}

#[tokio::test(start_paused = true)]
async fn answers_about_a_repository_open_nothing() {
    for said in [answer(404), answer(403), answer(401), answer(400), answer(429), answer(500)] {
        let lab = one();
        for _ in 0..20 {
            lab.says(said.clone());
            failure(head(&lab).await);
        }
        assert_eq!((lab.asked().len(), circuit(&lab)), (20, Circuit::Closed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_for_two_repositories_is_failing() {
    let lab = one();
    for name in ["a", "b", "a", "b", "a"] {
        lab.says(answer(503));
        failure(lab.upstream.head_manifest(&repo(name), &tag("1")).await);
    }
    assert_eq!(circuit(&lab), Circuit::Open);
}

#[tokio::test(start_paused = true)]
async fn storage_that_cannot_be_reached_is_not_the_endpoint() {
    let lab = one();
    for _ in 0..10 {
        lab.says(answer(307).to("https://cdn.example/x")).fails(refused());
        failure(lab.upstream.get_blob(&repo("a"), &blob(), &BlobPart::whole()).await);
    }
    assert_eq!(circuit(&lab), Circuit::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_costs_nothing_where_there_is_another() {
    let lab = two();
    for _ in 0..TROUBLE_MAX {
        lab.fails(refused()).says(answer(200));
        head(&lab).await.expect("a head");
        lab.pass(Duration::from_secs(10)).await;
    }
    lab.asked();
    // It was time for a probe by now; from this one's failure on, the second alone is asked.
    lab.fails(refused()).says(answer(200)).says(answer(200)).says(answer(404));
    head(&lab).await.expect("a head");
    head(&lab).await.expect("a head");
    let error = head(&lab).await.expect_err("a failure");
    assert_eq!(hosts(&lab), ["one", "two", "two", "two"]);
    // Nobody knows whether the first one has it.
    assert_eq!((error.kind(), &*error.host), (ErrorKind::Unreachable, "one.example"));
    lab.pass(Duration::from_secs(30)).await;
    lab.says(answer(200)).says(answer(200));
    head(&lab).await.expect("a head");
    head(&lab).await.expect("a head");
    assert_eq!(hosts(&lab), ["one", "one"], "it is found out that it works again");
}

#[tokio::test(start_paused = true)]
async fn who_says_when_to_come_back_is_left_alone_until_then() {
    let lab = one();
    lab.says(answer(429).header("retry-after", "17"));
    let limited =
        |seconds| Failure::RateLimited { retry_after: Some(Duration::from_secs(seconds)) };
    assert_eq!(failure(head(&lab).await), limited(17));
    lab.pass(Duration::from_secs(7)).await;
    assert_eq!(failure(head(&lab).await), limited(10));
    assert_eq!(failure(lab.upstream.get_manifest(&repo("b"), &tag("1")).await), limited(10));
    assert_eq!(lab.asked().len(), 1);
    assert_eq!(circuit(&lab), Circuit::Limited);
    let until = lab.clock.now().plus(Duration::from_secs(10));
    assert_eq!(lab.upstream.exhausted_until(), Some(until));
    let withheld = lab.metric("pierhead_upstream_withheld_total", &[("reason", "rate_limited")]);
    assert_eq!(withheld, Some(2.0));
    lab.pass(Duration::from_secs(10)).await;
    assert_eq!(lab.upstream.exhausted_until(), None);
    lab.says(answer(200)).says(answer(200));
    head(&lab).await.expect("a head");
    head(&lab).await.expect("a head");
    assert_eq!(circuit(&lab), Circuit::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_allowance_that_is_used_up_is_told_and_stops_no_head() {
    let lab = one();
    let docker = |left: &str| {
        let answer = answer(200).header("ratelimit-limit", "100;w=21600");
        answer.header("ratelimit-remaining", &format!("{left};w=21600"))
    };
    lab.says(docker("40"));
    head(&lab).await.expect("a head");
    assert_eq!(lab.upstream.exhausted_until(), None);
    lab.pass(Duration::from_secs(600)).await;
    lab.says(docker("20"));
    head(&lab).await.expect("a head");
    let gauge = |name| lab.metric(name, &[]);
    let (limit, remaining) =
        ("pierhead_upstream_ratelimit_limit", "pierhead_upstream_ratelimit_remaining");
    let exhausted_in = "pierhead_upstream_ratelimit_exhausted_in_seconds";
    let restored_in = "pierhead_upstream_ratelimit_restored_in_seconds";
    assert_eq!((gauge(limit), gauge(remaining)), (Some(100.0), Some(20.0)));
    assert_eq!(gauge(exhausted_in), Some(600.0));
    assert_eq!(gauge(restored_in), Some(21600.0));
    lab.says(docker("0")).says(docker("0"));
    head(&lab).await.expect("a head");
    head(&lab).await.expect("a head");
    let until = lab.clock.now().plus(Duration::from_secs(21600));
    assert_eq!(lab.upstream.exhausted_until(), Some(until));
    assert_eq!(gauge(exhausted_in), Some(0.0));
    lab.pass(Duration::from_secs(21600)).await;
    assert_eq!(lab.upstream.exhausted_until(), None);
    assert_eq!(gauge(exhausted_in), None);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_is_exhausted_when_all_its_endpoints_are() {
    let lab = two();
    lab.says(answer(429).header("retry-after", "60")).says(answer(200));
    head(&lab).await.expect("a head");
    assert_eq!(lab.upstream.exhausted_until(), None);
    lab.says(answer(429).header("retry-after", "30"));
    let limited = Failure::RateLimited { retry_after: Some(Duration::from_secs(30)) };
    assert_eq!(failure(head(&lab).await), limited);
    let until = lab.clock.now().plus(Duration::from_secs(30));
    assert_eq!(lab.upstream.exhausted_until(), Some(until));
}

#[tokio::test(start_paused = true)]
async fn what_storage_says_about_its_own_limit_is_not_the_registrys() {
    let lab = one();
    let stored = answer(200).header("ratelimit-remaining", "0").body("0123456789");
    lab.says(answer(307).to("https://cdn.example/x")).says(stored);
    lab.upstream.get_blob(&repo("a"), &blob(), &BlobPart::whole()).await.expect("a body");
    assert_eq!((lab.upstream.rate_limit(), lab.upstream.exhausted_until()), (None, None));
}

/// Refuses, until it is told to be silent.
#[derive(Default)]
struct Silent(std::sync::atomic::AtomicBool);

#[async_trait]
impl Transport for Silent {
    async fn send(&self, _: Request, _: Reach) -> Result<Response, TransportError> {
        if self.0.load(std::sync::atomic::Ordering::SeqCst) {
            pending::<()>().await;
        }
        Err(refused())
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_caller_goes_away_leaves_its_place() {
    let transport = Arc::new(Silent::default());
    let settings = settings(&["https://one.example"]);
    let clock = Clock::manual(Timestamp::from_unix_ms(0));
    let shared = Arc::clone(&transport) as Arc<dyn Transport>;
    let upstream = Upstream::new(&settings, parts(&settings, shared, &Registry::new(), &clock));
    let (repo, tag) = (repo("a"), tag("1"));
    for _ in 0..TROUBLE_MAX {
        failure(upstream.head_manifest(&repo, &tag).await);
    }
    transport.0.store(true, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..3 {
        let second = Duration::from_secs(1);
        tokio::time::advance(second).await;
        let probe = timeout(second, upstream.head_manifest(&repo, &tag));
        tokio::pin!(probe);
        assert!(futures_util::poll!(&mut probe).is_pending());
        assert_eq!(upstream.status()[0].circuit, Circuit::HalfOpen);
        // Others are answered at once meanwhile.
        let other = timeout(Duration::from_millis(1), upstream.head_manifest(&repo, &tag)).await;
        assert!(matches!(failure(other.expect("at once")), Failure::Resting { .. }));
        probe.await.expect_err("the caller's patience ends first");
    }
    // A time-out of our own is trouble.
    let error = upstream.head_manifest(&repo, &tag).await;
    assert_eq!(failure(error), Failure::TimedOut { phase: Phase::Headers });
    assert_eq!(upstream.status()[0].circuit, Circuit::Open);
}
