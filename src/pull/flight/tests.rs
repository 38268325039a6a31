//! Nobody is left waiting, however a leader ends.

use super::*;
use crate::store::blob::InMemory;

fn scope(repo: &str) -> Scope {
    Scope { upstream: "docker.io".parse().unwrap(), repo: repo.parse().unwrap() }
}

fn key() -> FlightKey {
    FlightKey::new(&scope("a"), &Digest::sha256(b"content"))
}

fn lead(flights: &Flights) -> (Joined, Permit) {
    match flights.join(&key(), &scope("a"), false) {
        Role::Lead(flight, permit) => (flight, permit),
        Role::Follow(_) => panic!("somebody leads already"),
    }
}

fn content() -> Content {
    Content::Kept(Arc::new(InMemory::new(bytes::Bytes::from_static(b"content"))))
}

#[test]
fn the_first_leads_and_all_others_follow() {
    let flights = Flights::default();
    let (_flight, permit) = lead(&flights);
    for repo in ["a", "b"] {
        let role = flights.join(&key(), &scope(repo), true);
        assert!(matches!(&role, Role::Follow(flight) if flight.led_by == scope("a")));
    }
    assert_eq!(flights.len(), 1);
    drop(permit);
    assert!(flights.is_empty());
}

#[test]
fn a_leader_that_vanishes_fails_its_followers_and_frees_the_key() {
    let flights = Flights::default();
    let (flight, permit) = lead(&flights);
    permit.growing(Some(7), Spans::new(), content());
    drop(permit);
    let progress = flight.watch();
    assert!(matches!(&*progress.borrow(), Progress::Failed(FillError::Abandoned)));
    lead(&flights);
}

#[test]
fn a_failure_frees_the_key_before_it_is_heard() {
    let flights = Flights::default();
    let (flight, permit) = lead(&flights);
    permit.fail(FillError::Busy);
    assert!(matches!(&*flight.watch().borrow(), Progress::Failed(FillError::Busy)));
    assert!(flights.is_empty());
}

#[test]
fn a_verified_flight_stays_until_its_permit_is_dropped() {
    let flights = Flights::default();
    let (flight, permit) = lead(&flights);
    permit.growing(Some(7), Spans::new(), content());
    permit.landed(&Spans::of(0..7));
    permit.verified(7, content());
    assert!(flight.is_verified());
    assert!(flights.get(&key()).is_some(), "the store may not have it yet");
    drop(permit);
    assert!(flights.get(&key()).is_none());
    assert!(flight.is_verified(), "what was verified stays so for those who follow");
}

#[test]
fn a_late_end_does_not_take_its_successor_off_the_table() {
    let flights = Flights::default();
    let (_first, first_permit) = lead(&flights);
    first_permit.leave();
    let (_second, _second_permit) = lead(&flights);
    drop(first_permit);
    assert_eq!(flights.len(), 1);
}

#[test]
fn a_flight_that_is_followed_stays_on_the_table() {
    let flights = Flights::default();
    let (flight, permit) = lead(&flights);
    assert!(!permit.leave_unless_followed());
    drop(flight);
    let again = flights.get(&key());
    assert!(again.is_some() && !permit.leave_unless_followed());
    drop(again);
    assert!(permit.leave_unless_followed());
    assert!(flights.is_empty());
}
