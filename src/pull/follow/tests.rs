//! How much of a growing blob may be seen, and that readers get exactly that.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::timeout;

use super::*;
use crate::oci::Digest;
use crate::pull::demand::Wanted;
use crate::pull::flight::{FlightKey, Flights, Permit, Role};
use crate::scope::Scope;
use crate::spans::Spans;
use crate::store::blob::InMemory;

const SIZE: u64 = 200_000;

/// On a paused clock: until nothing else can happen.
const A_WHILE: Duration = Duration::from_secs(1);

fn content() -> Content {
    let bytes: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
    Content::Kept(Arc::new(InMemory::new(Bytes::from(bytes))))
}

fn growing(total: Option<u64>, landed: u64) -> Progress {
    Progress::Growing { total, landed: Spans::of(0..landed), spool: content() }
}

fn flight(strict: bool) -> (Joined, Permit) {
    let scope = Scope { upstream: "docker.io".parse().unwrap(), repo: "a".parse().unwrap() };
    let key = FlightKey::new(&scope, &Digest::sha256(b"a"));
    match Flights::default().join(&key, &scope, strict) {
        Role::Lead(flight, permit) => (flight, permit),
        Role::Follow(_) => panic!("nobody else is here"),
    }
}

async fn ready(flight: &Joined) -> Result<Follower, FillError> {
    Follower::ready(flight.clone(), flight.demands.reader(Wanted::Whole)).await
}

proptest! {
    #[test]
    fn an_unverified_answer_is_never_complete(total in 0_u64..1 << 40, landed in 0_u64..1 << 40) {
        let landed = landed.min(total);
        let seen = visible(&growing(Some(total), landed), Trust::HoldBack, 0).unwrap().unwrap();
        prop_assert!(seen <= landed);
        prop_assert!(seen + HOLD_BACK_BYTES <= total || seen == 0);
        let seen = visible(&growing(None, landed), Trust::HoldBack, 0).unwrap().unwrap();
        prop_assert!(seen + HOLD_BACK_BYTES <= landed || seen == 0);
        prop_assert_eq!(visible(&growing(Some(total), landed), Trust::Strict, 0).unwrap(), Some(0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_gets_what_has_landed_and_the_rest_when_it_is_verified() {
    let (flight, permit) = flight(false);
    permit.growing(Some(SIZE), Spans::new(), content());
    permit.landed(&Spans::of(0..SIZE));
    let follower = ready(&flight).await.unwrap();
    let mut reader = BlobReader::Growing(follower);
    let mut at = 0;
    while at < SIZE - HOLD_BACK_BYTES {
        at += reader.read(at..SIZE, false).await.unwrap().unwrap().len() as u64;
    }
    assert_eq!(at, SIZE - HOLD_BACK_BYTES);
    let early = timeout(A_WHILE, reader.read(at..SIZE, false)).await;
    assert!(early.is_err(), "held back until it is verified");
    permit.verified(SIZE, content());
    let rest = reader.read(at..SIZE, false).await.unwrap().unwrap();
    assert_eq!(rest.len() as u64, HOLD_BACK_BYTES);
}

#[tokio::test]
async fn a_reader_of_a_lost_flight_gets_an_error_and_no_end() {
    let (flight, permit) = flight(false);
    permit.growing(None, Spans::new(), content());
    permit.landed(&Spans::of(0..SIZE));
    let mut reader = BlobReader::Growing(ready(&flight).await.unwrap());
    assert!(reader.read(0..u64::MAX, false).await.unwrap().is_some());
    drop(permit);
    let error = reader.read(100..u64::MAX, false).await.unwrap_err();
    assert!(matches!(error, ReadError::Fill(FillError::Abandoned)));
}

#[tokio::test]
async fn the_end_of_a_blob_of_unknown_size_is_an_end() {
    let (flight, permit) = flight(false);
    permit.growing(None, Spans::new(), content());
    let mut reader = BlobReader::Growing(ready(&flight).await.unwrap());
    permit.verified(SIZE, content());
    assert!(reader.read(SIZE..u64::MAX, false).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_small_or_strict_blob_waits_for_its_verification() {
    for (strict, total) in [(false, HOLD_BACK_BYTES), (true, SIZE)] {
        let (flight, permit) = flight(strict);
        permit.growing(Some(total), Spans::new(), content());
        permit.landed(&Spans::of(0..total));
        assert!(timeout(A_WHILE, ready(&flight)).await.is_err());
        permit.verified(total, content());
        assert_eq!(ready(&flight).await.unwrap().size(), Some(total));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_far_ahead_gets_what_landed_there() {
    let (flight, permit) = flight(false);
    permit.growing(Some(SIZE), Spans::new(), content());
    permit.demands().has_size(Some(SIZE));
    let mut reader = BlobReader::Growing(ready(&flight).await.unwrap());
    let early = timeout(A_WHILE, reader.read(100_000..SIZE, false)).await;
    assert!(early.is_err());
    let needs = permit.demands().wishes().readers;
    assert_eq!(needs.first(), Some(&(100_000..SIZE)), "it is known what it needs");
    permit.landed(&[0..10, 100_000..120_000].into_iter().collect());
    let read = reader.read(100_000..SIZE, false).await.unwrap().unwrap();
    assert_eq!((read.len(), read[0]), (20_000, (100_000 % 251) as u8));
    assert!(timeout(A_WHILE, reader.read(120_000..SIZE, false)).await.is_err());
}
