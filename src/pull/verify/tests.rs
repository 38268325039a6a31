//! What lands is verified, and only then kept.

use super::*;
use crate::pull::flight::{Flight, FlightKey, Flights, Progress, Role};
use crate::scope::Scope;
use crate::store::BlobStore;
use crate::store::blob::MemoryBlobs;

async fn land(expected: &[u8], bytes_max: u64, arrivals: Vec<Arrival>) -> (Landed, Arc<Flight>) {
    let store = MemoryBlobs::new(1 << 20);
    let scope = Scope { upstream: "docker.io".parse().unwrap(), repo: "a".parse().unwrap() };
    let expected = Digest::sha256(expected);
    let key = FlightKey::new(&scope, &expected);
    let Role::Lead(flight, permit) = Flights::default().join(&key, &scope, false) else {
        panic!("nobody else is here")
    };
    let spool = store.spool(None).await.unwrap();
    permit.growing(None, Content(spool.reader()));
    let (sender, receiver) = mpsc::channel(LANDING_CHUNKS_MAX);
    let landing = Landing { permit, spool, expected, bytes_max };
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
