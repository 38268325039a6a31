//! HEADs that take long are asked twice.

use std::collections::HashMap;
use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::*;

/// Answers by host, after a while.
#[derive(Default)]
struct Slow {
    hosts: Mutex<HashMap<&'static str, (Duration, Answer)>>,
    seen: Mutex<Vec<String>>,
}

#[async_trait]
impl Transport for Slow {
    async fn send(&self, request: Request, _: Reach) -> Result<Response, TransportError> {
        let host = request.url.expose().host_str().expect("a host").to_owned();
        let (delay, answer) = self.hosts.lock().expect("a lock")[host.as_str()].clone();
        self.seen.lock().expect("a lock").push(host);
        let _ = timeout(delay, pending::<()>()).await;
        let status = StatusCode::from_u16(answer.status).expect("a status");
        Ok(Response {
            status,
            headers: answer.headers,
            body: Box::pin(stream::iter(answer.chunks)),
        })
    }
}

struct Pair {
    transport: Arc<Slow>,
    upstream: Upstream,
    registry: Registry,
}

impl Pair {
    fn new(first: (u64, Answer), second: (u64, Answer)) -> Self {
        let pair = Self::unset();
        pair.set("one", first);
        pair.set("two", second);
        pair
    }

    fn unset() -> Self {
        let (transport, registry) = (Arc::new(Slow::default()), Registry::new());
        let settings = settings(&["https://one", "https://two"]);
        let shared = Arc::clone(&transport) as Arc<dyn Transport>;
        let clock = Clock::manual(Timestamp::from_unix_ms(0));
        let upstream = Upstream::new(&settings, parts(&settings, shared, &registry, &clock));
        Self { transport, upstream, registry }
    }

    fn set(&self, host: &'static str, (ms, answer): (u64, Answer)) {
        let slow = (Duration::from_millis(ms), answer);
        self.transport.hosts.lock().expect("a lock").insert(host, slow);
    }

    /// The outcome of a HEAD, how long it took in milliseconds, and who was asked for it.
    async fn head(&self) -> (Result<ManifestHead, UpstreamError>, u128, String) {
        let began = Instant::now();
        let outcome = self.upstream.head_manifest(&repo("a"), &tag("1")).await;
        let seen = std::mem::take(&mut *self.transport.seen.lock().expect("a lock"));
        (outcome, began.elapsed().as_millis(), seen.join(" "))
    }

    fn counted(&self) -> (f64, f64) {
        let value = |name| metric(&self.registry, name, &[]).expect("a counter");
        (value("pierhead_upstream_hedges_total"), value("pierhead_upstream_hedges_won_total"))
    }
}

#[tokio::test(start_paused = true)]
async fn what_takes_long_is_also_asked_elsewhere_and_the_first_answer_wins() {
    let pair = Pair::new((5000, answer(200)), (30, answer(200)));
    let (outcome, took, asked) = pair.head().await;
    outcome.expect("a head");
    assert_eq!((took, asked.as_str()), (1030, "one two"));
    assert_eq!(pair.counted(), (1.0, 1.0));
    // The one that was dropped is not in trouble for it.
    assert!(!pair.upstream.status()[0].resting);
    pair.set("one", (1010, answer(200)));
    let (outcome, took, asked) = pair.head().await;
    outcome.expect("a head");
    assert_eq!((took, asked.as_str()), (1010, "one two"));
    assert_eq!(pair.counted(), (2.0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn what_is_long_follows_from_what_is_usual() {
    let pair = Pair::new((100, answer(200)), (10, answer(200)));
    for _ in 0..20 {
        let (_, took, asked) = pair.head().await;
        assert_eq!((took, asked.as_str()), (100, "one"));
    }
    pair.set("one", (5000, answer(200)));
    assert_eq!(pair.head().await.1, 110);
    let blob_head = Instant::now();
    pair.upstream.head_blob(&repo("a"), &blob()).await.expect("a head");
    assert!(blob_head.elapsed().as_millis() < 1020, "blobs too");
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_either_waits_for_the_other() {
    for (first, second) in
        [((1500, answer(200)), (10, answer(404))), ((1010, answer(500)), (490, answer(200)))]
    {
        let pair = Pair::new(first, second);
        let (outcome, took, asked) = pair.head().await;
        outcome.expect("a head");
        assert!((1490..=1500).contains(&took), "{took}");
        assert_eq!(asked, "one two");
    }
    let pair = Pair::new((1500, answer(404)), (10, answer(403)));
    assert_eq!(failure(pair.head().await.0), Failure::Denied { status: 403 });
}

#[tokio::test(start_paused = true)]
async fn who_limits_the_rate_or_has_nothing_left_is_not_asked_as_well() {
    for second in [
        answer(429),
        answer(429).header("retry-after", "3600"),
        answer(404).header("ratelimit-remaining", "0;w=3600"),
    ] {
        let pair = Pair::new((10, answer(404)), (10, second));
        failure(pair.head().await.0);
        pair.set("one", (3000, answer(200)));
        let (outcome, took, asked) = pair.head().await;
        outcome.expect("a head");
        assert_eq!((took, asked.as_str()), (3000, "one"));
        assert_eq!(pair.counted(), (0.0, 0.0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_hour_does_not_double_the_load_on_the_next() {
    let pair = Pair::new((3000, answer(200)), (10, answer(200)));
    let mut hedged = 0;
    for _ in 0..200 {
        hedged += usize::from(pair.head().await.2 == "one two");
    }
    assert!((5..=25).contains(&hedged), "{hedged}");
}

#[tokio::test(start_paused = true)]
async fn a_get_is_never_asked_twice() {
    let pair = Pair::new((5000, answer(200).body("{}")), (10, answer(200).body("{}")));
    pair.upstream.get_manifest(&repo("a"), &tag("1")).await.expect("a manifest");
    assert_eq!(*pair.transport.seen.lock().expect("a lock"), ["one"]);
}
