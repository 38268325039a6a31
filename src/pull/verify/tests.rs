//! What lands is verified, and only then kept.

use super::*;
use crate::pull::demand::Wanted;
use crate::pull::flight::{FlightKey, Flights, Joined, Progress, Role};
use crate::pull::follow::{BlobReader, Follower};
use crate::pull::private::testing::nowhere;
use crate::scope::Scope;
use crate::store::blob::MemoryBlobs;
use crate::store::{BlobStore, Expect, SpoolKey};

async fn land(expected: &[u8], bytes_max: u64, arrivals: Vec<Arrival>) -> (Landed, Joined) {
    let total = None;
    land_in(Lab { bytes_max, total, ..Lab::default() }, expected, arrivals).await
}

/// Where it lands.
struct Lab {
    store: MemoryBlobs,
    strict: bool,
    bytes_max: u64,
    total: Option<u64>,
}

impl Default for Lab {
    fn default() -> Self {
        Self { store: MemoryBlobs::new(1 << 20), strict: false, bytes_max: u64::MAX, total: None }
    }
}

async fn land_in(lab: Lab, expected: &[u8], arrivals: Vec<Arrival>) -> (Landed, Joined) {
    let scope = Scope { upstream: "docker.io".parse().unwrap(), repo: "a".parse().unwrap() };
    let expected = Digest::sha256(expected);
    let key = FlightKey::new(&scope, &expected);
    let Role::Lead(flight, permit) = Flights::default().join(&key, &scope, lab.strict) else {
        panic!("nobody else is here")
    };
    let key = SpoolKey { upstream: scope.upstream.clone(), digest: expected };
    let spool = lab.store.resume(&key, Expect::Parts).await.unwrap();
    let landed = spool.recorded().landed.clone();
    permit.growing(lab.total, landed.clone(), Content::Kept(spool.reader()));
    let (sender, receiver) = mpsc::channel(LANDING_CHUNKS_MAX);
    let landing = Landing {
        place: Place::Spool(spool),
        landed,
        total: lab.total,
        refetch: nowhere(&scope, &expected),
        expected,
        bytes_max: lab.bytes_max,
        offload: Offload::Pool,
    };
    let sending = async {
        for arrival in arrivals {
            // A landing that has failed does not listen any more.
            if sender.send(arrival).await.is_err() {
                break;
            }
        }
        drop(sender);
    };
    let (landed, ()) = tokio::join!(landing.run(&permit, receiver), sending);
    (landed, flight)
}

fn piece(at: u64, bytes: &[u8]) -> Arrival {
    Arrival::Piece(Piece { at, bytes: Bytes::copy_from_slice(bytes) })
}

/// `content` in pieces of `len`, in order.
fn pieces(content: &[u8], len: usize) -> Vec<Arrival> {
    content.chunks(len).enumerate().map(|(n, chunk)| piece((n * len) as u64, chunk)).collect()
}

fn random(len: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[tokio::test]
async fn right_content_is_stored() {
    let arrivals = vec![piece(0, b"con"), piece(3, b"tent"), Arrival::End];
    let (landed, flight) = land(b"content", 100, arrivals).await;
    assert!(matches!(landed, Landed::Stored(blob) if blob.len() == 7));
    assert!(flight.is_verified());
}

#[tokio::test]
async fn wrong_content_is_not() {
    let (landed, flight) = land(b"content", 100, vec![piece(0, b"contenu"), Arrival::End]).await;
    assert!(matches!(landed, Landed::Failed(FillError::Mismatch(_))));
    assert!(!flight.is_verified());
}

#[tokio::test]
async fn a_sender_that_vanishes_is_no_end() {
    let (landed, flight) = land(b"content", 100, vec![piece(0, b"content")]).await;
    assert!(matches!(&landed, Landed::Failed(FillError::Abandoned)));
    assert!(matches!(&*flight.watch().borrow(), Progress::Failed(_)));
}

#[tokio::test]
async fn too_much_is_refused_before_it_is_written() {
    let (landed, _) = land(b"content", 6, vec![piece(0, b"content"), Arrival::End]).await;
    assert!(matches!(landed, Landed::Failed(FillError::TooLarge { max: 6 })));
}

#[tokio::test]
async fn what_arrives_in_any_order_and_twice_is_verified_in_order() {
    let content = random(700_000);
    let mut arrivals = pieces(&content, 50_000);
    arrivals.reverse();
    // A second time, and wrong: what has landed is never written over.
    arrivals.insert(5, piece(600_000, &[0; 100_000]));
    let total = Some(content.len() as u64);
    let (landed, flight) = land_in(Lab { total, ..Lab::default() }, &content, arrivals).await;
    let Landed::Stored(blob) = landed else { panic!("{landed:?}") };
    assert_eq!(blob.read_at(0, content.len()).await.unwrap(), content);
    assert!(flight.is_verified());
}

#[tokio::test]
async fn what_was_parked_is_hashed_again_and_only_the_rest_is_needed() {
    let content = random(300_000);
    let store = MemoryBlobs::new(1 << 20);
    let total = Some(content.len() as u64);
    let lab = || Lab { store: store.clone(), total, ..Lab::default() };
    let arrivals =
        vec![piece(200_000, &content[200_000..]), piece(0, &content[..70_000]), Arrival::Park];
    let (landed, _) = land_in(lab(), &content, arrivals).await;
    assert!(matches!(landed, Landed::Parked), "{landed:?}");
    let arrivals = vec![piece(70_000, &content[70_000..200_000])];
    let (landed, _) = land_in(lab(), &content, arrivals).await;
    assert!(matches!(landed, Landed::Stored(_)), "{landed:?}");
}

#[tokio::test]
async fn what_was_wrong_is_not_parked() {
    let content = random(300_000);
    let store = MemoryBlobs::new(1 << 20);
    let total = Some(content.len() as u64);
    let lab = || Lab { store: store.clone(), total, ..Lab::default() };
    let arrivals = vec![piece(0, &[1; 200_000]), Arrival::Park];
    land_in(lab(), &content, arrivals).await;
    let arrivals = vec![piece(200_000, &content[200_000..])];
    let (landed, _) = land_in(lab(), &content, arrivals).await;
    assert!(matches!(landed, Landed::Failed(FillError::Mismatch(_))), "{landed:?}");
    let (landed, _) = land_in(lab(), &content, pieces(&content, 100_000)).await;
    assert!(matches!(landed, Landed::Stored(_)), "{landed:?}");
}

#[tokio::test]
async fn a_store_that_fails_on_the_way_fails_no_reader() {
    let content = random(400_000);
    let mut arrivals = pieces(&content, 60_000);
    arrivals.push(Arrival::End);
    let lab = Lab { store: MemoryBlobs::new(150_000), ..Lab::default() };
    let (landed, flight) = land_in(lab, &content, arrivals).await;
    assert!(matches!(landed, Landed::Passed), "{landed:?}");
    // One that comes only now finds the first part in the spool and the rest in the ring.
    let demand = flight.demands.reader(Wanted::Whole);
    let mut reader = BlobReader::Growing(Follower::ready(flight, demand).await.unwrap());
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
    let mut arrivals = pieces(&content, 60_000);
    arrivals.push(Arrival::End);
    let lab = Lab { store: MemoryBlobs::new(150_000), strict: true, ..Lab::default() };
    let (landed, _) = land_in(lab, &content, arrivals).await;
    assert!(matches!(landed, Landed::Failed(FillError::Store(_))), "{landed:?}");
}
