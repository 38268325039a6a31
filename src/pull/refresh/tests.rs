//! The queue. What is asked, and what comes of it, is in `tests/pulls/stale`.

use prometheus::Registry;

use super::*;
use crate::background::Tasks;
use crate::clock::Clock;

fn refresher() -> Refresher {
    let tasks = Tasks::new(&Registry::new()).unwrap();
    Refresher::new(Workers::new(tasks, Clock::manual(Timestamp::from_unix_ms(0))))
}

fn key(tag: &str) -> Key {
    let scope = Scope { upstream: "docker.io".parse().unwrap(), repo: "a/b".parse().unwrap() };
    (scope, tag.parse().unwrap())
}

fn job(tag: &str) -> Job {
    let cause = RefreshCause::WhileRevalidate;
    Job { key: key(tag), cause, hops: Hops::default(), answer: None }
}

#[test]
fn a_tag_waits_once_and_again_only_when_it_was_asked_about() {
    let refresher = refresher();
    refresher.put(job("a")).unwrap();
    refresher.put(job("a")).unwrap();
    assert_eq!(refresher.waiting(), 1);
    let (_, in_hand) = refresher.take().unwrap();
    refresher.put(job("a")).unwrap();
    assert_eq!(refresher.waiting(), 0, "it is being asked about");
    drop(in_hand);
    refresher.put(job("a")).unwrap();
    assert_eq!(refresher.waiting(), 1);
}

#[test]
fn the_newest_is_refused_when_there_is_no_room() {
    let refresher = refresher();
    for n in 0..WAITING_MAX {
        refresher.put(job(&format!("t{n}"))).unwrap();
    }
    let refused = refresher.put(job("late")).unwrap_err();
    assert_eq!(refused.key, key("late"));
    refresher.put(job("t7")).expect("it waits already");
    let (first, _) = refresher.take().unwrap();
    assert_eq!(first.key, key("t0"));
    refresher.put(refused).expect("there is room again");
}

#[test]
fn who_waits_for_an_answer_goes_first_and_hears_of_the_end() {
    let refresher = refresher();
    refresher.put(job("a")).unwrap();
    let (answer, mut answered) = oneshot::channel();
    let asked = Job { cause: RefreshCause::Asked, answer: Some(answer), ..job("a") };
    refresher.put(asked).unwrap();
    assert_eq!(refresher.waiting(), 2, "an answer is owed");
    assert!(refresher.take().unwrap().0.answer.is_some());
    let (answer, mut closed) = oneshot::channel();
    refresher.put(Job { answer: Some(answer), ..job("b") }).unwrap();
    refresher.close();
    let gone = Err(oneshot::error::TryRecvError::Closed);
    assert_eq!(answered.try_recv().map(drop), gone);
    assert_eq!(closed.try_recv().map(drop), gone);
    assert!(refresher.put(job("c")).is_err(), "nobody will ask any more");
}

#[test]
fn a_confirmation_ends_doubt_and_counts_for_tags_in_use() {
    let refresher = refresher();
    let (scope, tag) = key("a");
    let at = Timestamp::from_unix_ms;
    refresher.used(&scope, &tag, at(1), at(2));
    refresher.doubted.insert(key("a"), ());
    assert!(refresher.is_doubted(&scope, &tag));
    refresher.confirmed(&scope, &tag, at(9));
    assert!(!refresher.is_doubted(&scope, &tag));
    let in_use = refresher.in_use.get(&key("a")).unwrap();
    assert_eq!((in_use.pulled_at, in_use.confirmed_at), (at(2), at(9)));
    let (scope, other) = key("b");
    refresher.confirmed(&scope, &other, at(9));
    assert!(refresher.in_use.get(&key("b")).is_none(), "nobody pulled it");
}

#[test]
fn a_tag_in_use_is_asked_about_before_its_time_runs_out() {
    assert_eq!(ahead_after(Duration::from_secs(80)), Duration::from_secs(70));
    assert_eq!(ahead_after(Duration::ZERO), Duration::ZERO);
}

#[test]
fn a_confirmation_in_the_future_is_due() {
    let at = |seconds: u64| Timestamp::from_unix_ms(seconds * 1000);
    let after = Duration::from_secs(60);
    for (confirmed, left) in [(100, 60), (70, 30), (40, 0), (1, 0), (101, 0), (9_999, 0)] {
        let due = due_in(at(confirmed), after, at(100));
        assert_eq!(due, Duration::from_secs(left), "{confirmed}");
    }
}
