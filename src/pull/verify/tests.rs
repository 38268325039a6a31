//! What lands is verified, and only then kept.

use super::*;
use crate::pull::flight::{Flight, FlightKey, Flights, Progress, Role};
use crate::pull::follow::{BlobReader, Follower};
use crate::pull::private::testing::nowhere;
use crate::scope::Scope;
use crate::store::BlobStore;
use crate::store::blob::MemoryBlobs;

async fn land(expected: &[u8], bytes_max: u64, arrivals: Vec<Arrival>) -> (Landed, Arc<Flight>) {
    land_in(1 << 20, false, expected, bytes_max, arrivals).await
}

/// With a store of `room` bytes.
async fn land_in(
    room: u64,
    strict: bool,
    expected: &[u8],
    bytes_max: u64,
    arrivals: Vec<Arrival>,
) -> (Landed, Arc<Flight>) {
    let store = MemoryBlobs::new(room);
    let scope = Scope { upstream: "docker.io".parse().unwrap(), repo: "a".parse().unwrap() };
    let expected = Digest::sha256(expected);
    let key = FlightKey::new(&scope, &expected);
    let Role::Lead(flight, permit) = Flights::default().join(&key, &scope, strict) else {
        panic!("nobody else is here")
    };
    let spool = store.spool(None).await.unwrap();
    permit.growing(None, Content::Kept(spool.reader()));
    let (sender, receiver) = mpsc::channel(LANDING_CHUNKS_MAX);
    let refetch = nowhere(&scope, &expected);
    let landing = Landing { permit, place: Place::Spool(spool), refetch, expected, bytes_max };
    let landing = tokio::task::spawn_blocking(move || landing.run(receiver));
    for arrival in arrivals {
        // A landing that has failed does not listen any more.
        if sender.send(arrival).await.is_err() {
            break;
        }
    }
    drop(sender);
    (landing.await.unwrap(), flight)
}

fn chunk(bytes: &'static [u8]) -> Arrival {
    Arrival::Chunk(Bytes::from_static(bytes))
}

#[tokio::test]
async fn right_content_is_stored() {
    let arrivals = vec![chunk(b"con"), chunk(b"tent"), Arrival::End];
    let (landed, flight) = land(b"content", 100, arrivals).await;
    assert!(matches!(landed, Landed::Stored(blob) if blob.len() == 7));
    assert!(flight.is_verified());
}

#[tokio::test]
async fn wrong_content_is_not() {
    let (landed, flight) = land(b"content", 100, vec![chunk(b"contenu"), Arrival::End]).await;
    assert!(matches!(landed, Landed::Failed(_, FillError::Mismatch(_))));
    assert!(!flight.is_verified());
}

#[tokio::test]
async fn a_sender_that_vanishes_is_no_end() {
    let (landed, flight) = land(b"content", 100, vec![chunk(b"content")]).await;
    assert!(matches!(&landed, Landed::Failed(_, FillError::Abandoned)));
    drop(landed);
    assert!(matches!(&*flight.watch().borrow(), Progress::Failed(_)));
}

#[tokio::test]
async fn too_much_is_refused_before_it_is_written() {
    let (landed, _) = land(b"content", 6, vec![chunk(b"content"), Arrival::End]).await;
    assert!(matches!(landed, Landed::Failed(_, FillError::TooLarge { max: 6 })));
}

#[tokio::test]
async fn a_store_that_fails_on_the_way_fails_no_reader() {
    let content = [1_u8, 2, 3, 4].repeat(100_000);
    let chunks: Vec<&'static [u8]> = content.clone().leak().chunks(60_000).collect();
    let arrivals = chunks.into_iter().map(chunk).chain([Arrival::End]).collect();
    let (landed, flight) = land_in(150_000, false, &content, u64::MAX, arrivals).await;
    assert!(matches!(landed, Landed::Passed), "{landed:?}");
    // One that comes only now finds the first part in the spool and the rest in the ring.
    let mut reader = BlobReader::Growing(Follower::ready(&flight).await.unwrap());
    let mut read = Vec::new();
    while read.len() < content.len() {
        let span = read.len() as u64..content.len() as u64;
        read.extend_from_slice(&reader.read(span, false).await.unwrap().unwrap());
    }
    assert_eq!(read, content);
}

#[tokio::test]
async fn what_must_be_verified_first_is_not_passed_on() {
    let content = [7_u8; 200_000];
    let chunks: Vec<&'static [u8]> = content.to_vec().leak().chunks(60_000).collect();
    let arrivals = chunks.into_iter().map(chunk).chain([Arrival::End]).collect();
    let (landed, _) = land_in(150_000, true, &content, u64::MAX, arrivals).await;
    assert!(matches!(landed, Landed::Failed(_, FillError::Store(_))), "{landed:?}");
}
