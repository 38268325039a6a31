//! Each way from one state of a circuit to another.

use tokio::time::advance;

use super::*;
use crate::upstream::Phase as Waiting;

const MAX: TroubleMax = TroubleMax { server: TROUBLE_MAX, about: TROUBLE_MAX };

fn breaker() -> Arc<Breaker> {
    let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000));
    Breaker::new(MAX, clock, &[b"a", b"reg.example"])
}

fn refused() -> Failure {
    Failure::Unreachable { cause: "connection refused".into() }
}

fn server_error() -> Failure {
    Failure::ServerError { status: 500 }
}

/// A question about `about` to which the server says that it cannot.
fn fail_about(breaker: &Arc<Breaker>, about: &str) {
    breaker.admit(about).expect("leave to ask").troubled(&server_error(), Some(about));
}

fn fail(breaker: &Arc<Breaker>) {
    breaker.admit("a").expect("leave to ask").troubled(&refused(), None);
}

fn opened() -> Arc<Breaker> {
    let breaker = breaker();
    (0..TROUBLE_MAX).for_each(|_| fail(&breaker));
    assert_eq!(breaker.status().circuit, Circuit::Open);
    breaker
}

fn rest(breaker: &Arc<Breaker>) -> (Failure, Duration) {
    match breaker.admit("a") {
        Err(Failure::Resting { last, retry_after }) => ((*last).clone(), retry_after),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn trouble_in_a_row_opens_and_an_answer_begins_anew() {
    let breaker = breaker();
    for _ in 0..3 {
        (1..TROUBLE_MAX).for_each(|_| fail(&breaker));
        assert!(breaker.is_closed());
        breaker.admit("a").expect("leave to ask").answered();
    }
    (0..TROUBLE_MAX).for_each(|_| fail(&breaker));
    let (last, retry_after) = rest(&breaker);
    assert_eq!(last, refused());
    assert!(retry_after <= BACK_OFF_FIRST && retry_after >= BACK_OFF_FIRST * 3 / 4);
    let status = breaker.status();
    assert_eq!(status.since, Some(Timestamp::from_unix_ms(1_000_000)));
    assert_eq!(status.next_probe, Some(Timestamp::from_unix_ms(1_000_000).plus(retry_after)));
}

#[tokio::test(start_paused = true)]
async fn what_waited_in_vain_opens_sooner() {
    let breaker = breaker();
    let late = Failure::TimedOut { phase: Waiting::Connect };
    for asked in 0..3 {
        assert!(breaker.is_closed(), "after {asked}");
        breaker.admit("a").expect("leave to ask").troubled(&late, None);
    }
    assert_eq!(rest(&breaker).0, late);
}

#[tokio::test(start_paused = true)]
async fn what_failed_together_counts_once() {
    let breaker = breaker();
    let permits: Vec<_> = (0..100).map(|_| breaker.admit("a").expect("leave to ask")).collect();
    for mut permit in permits {
        permit.troubled(&refused(), None);
    }
    assert!(breaker.is_closed());
    (1..TROUBLE_MAX).for_each(|_| fail(&breaker));
    assert!(!breaker.is_closed());
}

#[tokio::test(start_paused = true)]
async fn one_broken_repository_opens_nothing() {
    let breaker = breaker();
    (0..100).for_each(|_| fail_about(&breaker, "a"));
    fail_about(&breaker, "b");
    fail(&breaker);
    assert!(breaker.is_closed(), "what failed beside it is too little");
    (0..100).for_each(|_| fail_about(&breaker, "a"));
    assert!(breaker.is_closed());
    fail_about(&breaker, "c");
    assert_eq!(rest(&breaker).0, server_error());
}

#[tokio::test(start_paused = true)]
async fn what_opens_differs_with_whose_fault_it_is() {
    let clock = Clock::manual(Timestamp::from_unix_ms(0));
    let breaker = Breaker::new(TroubleMax { server: 1, about: 3 }, clock, &[]);
    fail_about(&breaker, "a");
    fail_about(&breaker, "b");
    assert!(breaker.is_closed());
    fail_about(&breaker, "a");
    assert!(!breaker.is_closed());
    advance(BACK_OFF_FIRST).await;
    breaker.admit("a").expect("a probe").answered();
    fail(&breaker);
    assert!(!breaker.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_failed_about_one_repository_keeps_no_other_out() {
    let breaker = opened();
    advance(BACK_OFF_FIRST).await;
    fail_about(&breaker, "a");
    let (last, after) = rest(&breaker);
    assert_eq!(last, server_error());
    assert!(breaker.is_asked());
    // A caller that goes away changes nothing for either.
    drop(breaker.admit("b").expect("a probe at once"));
    assert_eq!(rest(&breaker).1, after);
    let mut probe = breaker.admit("b").expect("a probe at once");
    assert!(breaker.admit("c").is_err(), "one at a time");
    probe.answered();
    assert!(breaker.is_closed());
}

#[tokio::test(start_paused = true)]
async fn probes_about_two_repositories_that_fail_keep_everybody_out() {
    let breaker = opened();
    advance(BACK_OFF_FIRST).await;
    fail_about(&breaker, "a");
    advance(rest(&breaker).1).await;
    fail_about(&breaker, "a");
    assert!(breaker.is_asked(), "it is still one alone");
    fail_about(&breaker, "b");
    assert!(!breaker.is_asked());
    assert!(breaker.admit("c").is_err());
}

#[tokio::test(start_paused = true)]
async fn one_probe_at_a_time_and_its_answer_closes() {
    let breaker = opened();
    advance(rest(&breaker).1).await;
    assert!(breaker.is_asked());
    let mut probe = breaker.admit("a").expect("a probe");
    assert_eq!(breaker.status().circuit, Circuit::HalfOpen);
    assert!(!breaker.is_asked());
    assert_eq!(rest(&breaker), (refused(), PROBE_WAIT));
    probe.answered();
    assert!(breaker.is_closed());
    // The next trouble begins from the shortest back-off.
    (0..TROUBLE_MAX).for_each(|_| fail(&breaker));
    assert!(rest(&breaker).1 <= BACK_OFF_FIRST);
}

#[tokio::test(start_paused = true)]
async fn the_back_off_grows_to_its_cap() {
    let breaker = opened();
    let mut before = Duration::ZERO;
    for round in 0..40 {
        let (_, after) = rest(&breaker);
        assert!(after <= BACK_OFF_MAX && after >= before.min(BACK_OFF_MAX * 3 / 4), "{round}");
        before = after * 4 / 3;
        advance(after).await;
        fail(&breaker);
    }
    assert!(rest(&breaker).1 >= BACK_OFF_MAX * 3 / 4);
}

#[tokio::test(start_paused = true)]
async fn back_offs_differ_and_can_be_repeated() {
    let seeded = |name: &[u8]| Breaker::new(MAX, Clock::system(), &[name]);
    let offs = |breaker: &Breaker| (1..20).map(|n| breaker.back_off(9, n)).collect::<Vec<_>>();
    assert_eq!(offs(&seeded(b"a")), offs(&seeded(b"a")));
    assert_ne!(offs(&seeded(b"a")), offs(&seeded(b"b")));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_leaves_its_place() {
    let breaker = opened();
    advance(rest(&breaker).1).await;
    drop(breaker.admit("a").expect("a probe"));
    assert_eq!(breaker.status().circuit, Circuit::Open);
    breaker.admit("a").expect("the next probe").answered();
    assert!(breaker.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_closes_and_late_trouble_says_nothing() {
    let breaker = breaker();
    let (mut early, mut other) =
        (breaker.admit("a").expect("leave"), breaker.admit("a").expect("leave"));
    (0..TROUBLE_MAX).for_each(|_| fail(&breaker));
    let (_, after) = rest(&breaker);
    other.troubled(&refused(), None);
    assert_eq!(rest(&breaker).1, after);
    early.answered();
    assert!(breaker.is_closed());
}

#[tokio::test(start_paused = true)]
async fn who_wants_to_be_left_alone_is_and_then_asked_once() {
    let breaker = breaker();
    let mut early = breaker.admit("a").expect("leave to ask");
    breaker.admit("a").expect("leave to ask").limited(Duration::from_secs(17));
    assert_eq!(breaker.status().circuit, Circuit::Limited);
    advance(Duration::from_secs(7)).await;
    early.answered();
    let (last, retry_after) = rest(&breaker);
    assert!(matches!(last, Failure::RateLimited { .. }));
    assert_eq!(retry_after, Duration::from_secs(10));
    assert_eq!(breaker.limited_for(), Some(Duration::from_secs(10)));
    advance(Duration::from_secs(10)).await;
    assert_eq!(breaker.limited_for(), None);
    let mut probe = breaker.admit("a").expect("a probe");
    rest(&breaker);
    probe.answered();
    assert!(breaker.is_closed());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_left_alone_for_a_day() {
    let breaker = breaker();
    breaker.admit("a").expect("leave to ask").limited(Duration::from_secs(86400));
    assert_eq!(rest(&breaker).1, LEFT_ALONE_MAX);
    breaker.status();
}
