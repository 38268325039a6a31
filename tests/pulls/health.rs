//! Upstreams that are down, or want to be left alone.

use std::time::Duration;

use pierhead_kit::http::{self, Response};
use pierhead_kit::program::Pierhead;
use pierhead_kit::upstream::{Fault, FaultyUpstream, ImageDigests, On};
use pierhead_kit::wait_until;
use tokio::time::Instant;

use super::{DEADLINE, code, manifest_url, pierhead, pull_image};

/// No tag is served without asking upstream, and no failure of a tag is remembered.
const ASK_ALWAYS: &str = "tag_ttl = \"0s\"\nabsent_ttl = \"0s\"\n";

/// How many ask at the same time, each for something else.
const HERD: u8 = 20;

/// How long an answer for which nobody is asked may take, on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);

/// An upstream with an image under `cached`, and others under `v0`, `v1` and so on.
fn upstream() -> (FaultyUpstream, ImageDigests) {
    let upstream = FaultyUpstream::start_blocking();
    let cached = upstream.add_image("library/a", "cached", vec![vec![1_u8; 500]]);
    for seed in 0..HERD {
        upstream.add_image("library/a", &format!("v{seed}"), vec![vec![seed; 10]]);
    }
    (upstream, cached)
}

/// Asks for everything that is not cached at the same time, and how long each answer took, the
/// quickest first.
fn herd(pierhead: &Pierhead) -> Vec<(Duration, Response)> {
    let ask = |seed| {
        let began = Instant::now();
        let answer = http::get(manifest_url(pierhead, "library/a", &format!("v{seed}")));
        (began.elapsed(), answer)
    };
    let mut answers: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..HERD).map(|seed| scope.spawn(move || ask(seed))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    answers.sort_by_key(|(took, _)| *took);
    answers
}

fn state(pierhead: &Pierhead, state: &str) -> f64 {
    let labels = [("upstream", "docker.io"), ("state", state)];
    pierhead.metric("pierhead_upstream_endpoint_state", &labels)
}

#[test]
fn a_dead_upstream_is_answered_for_at_once_and_one_question_finds_it_alive() {
    let (upstream, cached) = upstream();
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    pull_image(&pierhead, "library/a", "cached", &cached);
    assert_eq!(state(&pierhead, "closed"), 1.0);
    // It accepts connections and says nothing: the most expensive way to be down.
    let silence = upstream.fault(On::any(), Fault::NoHeaders);
    for _ in 0..3 {
        assert_eq!(http::get(manifest_url(&pierhead, "library/a", "v0")).status, 504);
    }
    assert_eq!(state(&pierhead, "open"), 1.0);

    let asked = upstream.log().len();
    let answers = herd(&pierhead);
    // One of them may have been let through, to see.
    let (took, _) = &answers[usize::from(HERD) - 2];
    assert!(*took < AT_ONCE, "{took:?}");
    assert!(upstream.log().len() <= asked + 1);
    for (took, answer) in &answers {
        assert_eq!((answer.status, code(answer).as_str()), (504, "UNAVAILABLE"));
        assert!(*took >= AT_ONCE || answer.header("retry-after").is_some(), "{answer:?}");
    }
    let mut quickest = DEADLINE;
    for _ in 0..2 {
        let began = Instant::now();
        assert!(pull_image(&pierhead, "library/a", "cached", &cached).header("warning").is_some());
        quickest = quickest.min(began.elapsed());
    }
    assert!(quickest < AT_ONCE, "cached content is served at once: {quickest:?}");

    upstream.clear(silence);
    // So slow that everybody comes before the first answer.
    let slow = upstream.fault(On::any(), Fault::DelayHeaders(Duration::from_secs(1)));
    let answers = wait_until("a question goes through", DEADLINE, || {
        let asked = upstream.log().len();
        let answers = herd(&pierhead);
        let more = upstream.log().len() - asked;
        assert!(more <= 1, "{more} questions went through");
        (more == 1).then_some(answers)
    });
    let served = answers.iter().filter(|(_, answer)| answer.status == 200).count();
    assert_eq!(served, 1, "{answers:?}");
    upstream.clear(slow);
    assert_eq!(state(&pierhead, "closed"), 1.0);
    assert!(herd(&pierhead).iter().all(|(_, answer)| answer.status == 200));
    assert!(pull_image(&pierhead, "library/a", "cached", &cached).header("warning").is_none());
}

#[test]
fn an_upstream_that_wants_to_be_left_alone_is() {
    let (upstream, cached) = upstream();
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    pull_image(&pierhead, "library/a", "cached", &cached);
    let limit = upstream.fault(On::any(), Fault::too_many_requests("4"));
    let began = Instant::now();
    let miss = || http::get(manifest_url(&pierhead, "library/a", "v0"));
    assert_eq!(miss().header("retry-after"), Some("4"));
    let asked = upstream.log().len();
    upstream.clear(limit);
    // Whatever is asked for while it wants to be left alone.
    while began.elapsed() < Duration::from_secs(3) {
        let answer = miss();
        assert_eq!((answer.status, code(&answer).as_str()), (503, "TOOMANYREQUESTS"));
        let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=4).contains(&seconds), "{seconds}");
        assert!(pull_image(&pierhead, "library/a", "cached", &cached).header("warning").is_some());
    }
    assert_eq!(upstream.log().len(), asked);
    assert_eq!(state(&pierhead, "limited"), 1.0);
    wait_until("it is asked again", DEADLINE, || (miss().status == 200).then_some(()));
    assert!(began.elapsed() >= Duration::from_secs(4));
    assert!(pull_image(&pierhead, "library/a", "cached", &cached).header("warning").is_none());
    assert_eq!(state(&pierhead, "closed"), 1.0);
}
