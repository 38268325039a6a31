//! Bytes are shared between repositories, access to them is not.

use pierhead_kit::http::{self, head};
use pierhead_kit::program::Pierhead;
use pierhead_kit::random::Random;
use pierhead_kit::upstream::{Entry, Fault, FaultyUpstream, On};
use pierhead_kit::wait_until;

use super::{DEADLINE, PIERHEAD, blob_url, code, manifest_url, pierhead, wait_until_stored};

const MIB: u64 = 1024 * 1024;

#[test]
fn a_cached_blob_is_unknown_through_a_repository_that_lacks_it() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_blob("team/private", vec![1; 5000]);
    upstream.add_blob("team/other", vec![2; 5000]);
    let pierhead = pierhead(&upstream, "");
    http::get(blob_url(&pierhead, "team/private", &digest)).expect(200);
    wait_until_stored(&pierhead, 1.0);
    for name in ["team/other", "team/none"] {
        let answer = http::get(blob_url(&pierhead, name, &digest));
        assert_eq!((answer.status, code(&answer).as_str()), (404, "BLOB_UNKNOWN"), "{name}");
        assert_eq!(head(blob_url(&pierhead, name, &digest)).status, 404, "{name}");
    }
    http::get(blob_url(&pierhead, "team/private", &digest)).expect(200);
}

#[test]
fn a_growing_blob_is_unknown_through_a_repository_that_lacks_it() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("team/private", 1, 4 * MIB);
    upstream.fault(On::blobs().get(), Fault::Throttle(2 * MIB));
    let pierhead = pierhead(&upstream, "");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| http::get(blob_url(&pierhead, "team/private", &digest)));
        upstream.wait_for_blocking(|log| log.iter().any(|e| e.bytes_sent > 0), DEADLINE);
        let other = http::get(blob_url(&pierhead, "team/other", &digest));
        assert_eq!((other.status, code(&other).as_str()), (404, "BLOB_UNKNOWN"));
        first.join().unwrap().expect(200);
    });
    assert_eq!(upstream.count("GET", "team/other"), 0, "a HEAD is enough to know");
}

#[test]
fn a_repository_that_has_it_too_gets_the_stored_bytes_for_one_head() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("team/a", 2, MIB);
    upstream.add_random_blob("team/b", 2, MIB);
    let pierhead = pierhead(&upstream, "");
    http::get(blob_url(&pierhead, "team/a", &digest)).expect(200);
    wait_until_stored(&pierhead, 1.0);
    for _ in 0..2 {
        let answer = http::get(blob_url(&pierhead, "team/b", &digest)).expect(200);
        assert!(answer.body == Random::new(2, MIB).part(0, MIB as usize));
    }
    assert_eq!(upstream.count("GET", "team/b/blobs"), 0);
    assert_eq!(upstream.count("HEAD", "team/b/blobs"), 1);
}

#[test]
fn a_blob_of_one_upstream_is_unknown_through_another() {
    let (one, other) = (FaultyUpstream::start_blocking(), FaultyUpstream::start_blocking());
    let digest = one.add_blob("library/a", vec![3; 100]);
    let pierhead = Pierhead::start(
        PIERHEAD,
        &format!(
            "[upstream.\"docker.io\"]\nendpoints = [\"{}\"]\n\
             [upstream.\"ghcr.io\"]\nendpoints = [\"{}\"]\n",
            one.url(),
            other.url()
        ),
    );
    http::get(blob_url(&pierhead, "library/a", &digest)).expect(200);
    wait_until_stored(&pierhead, 1.0);
    let answer = http::get(blob_url(&pierhead, "ghcr.io/library/a", &digest));
    assert_eq!((answer.status, code(&answer).as_str()), (404, "BLOB_UNKNOWN"));
}

#[test]
fn a_manifest_is_unknown_through_a_repository_that_lacks_it() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("team/private", "v1", vec![vec![1_u8; 100]]);
    let pierhead = pierhead(&upstream, "");
    http::get(manifest_url(&pierhead, "team/private", &image.manifest)).expect(200);
    let answer = http::get(manifest_url(&pierhead, "team/other", &image.manifest));
    assert_eq!((answer.status, code(&answer).as_str()), (404, "MANIFEST_UNKNOWN"));
}

#[test]
fn links_survive_a_restart() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/a", "v1", vec![vec![1_u8; 100]]);
    let mut pierhead = pierhead(&upstream, "");
    http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    http::get(blob_url(&pierhead, "library/a", &image.layers[0])).expect(200);
    wait_until_stored(&pierhead, 1.0);
    upstream.down();
    pierhead.restart();
    http::get(manifest_url(&pierhead, "library/a", &image.manifest)).expect(200);
    http::get(blob_url(&pierhead, "library/a", &image.layers[0])).expect(200);
}

#[test]
fn a_descriptor_with_a_wrong_size_fails_its_own_repository_only() {
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_blob("library/good", vec![4; 2000]);
    upstream.add_blob("library/bad", vec![4; 2000]);
    let config = upstream.add_blob("library/bad", b"{}".to_vec());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 1999
        }],
    });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    upstream.put_manifest("library/bad", "v1", manifest.to_string().into_bytes(), media_type);
    let pierhead = pierhead(&upstream, "");
    http::get(manifest_url(&pierhead, "library/bad", "v1")).expect(200);
    for _ in 0..2 {
        let answer = http::get(blob_url(&pierhead, "library/bad", &digest));
        assert_eq!((answer.status, code(&answer).as_str()), (502, "SIZE_INVALID"));
        http::get(blob_url(&pierhead, "library/good", &digest)).expect(200);
    }
}

#[test]
fn naming_a_blob_in_a_manifest_opens_nothing() {
    let upstream = FaultyUpstream::start_blocking();
    let secret = upstream.add_blob("team/private", vec![5; 4000]);
    let config = upstream.add_blob("evil/image", b"{}".to_vec());
    // This upstream does not check what a pushed manifest names.
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": secret, "size": 4000
        }],
    });
    upstream.put_manifest("evil/image", "v1", manifest.to_string().into_bytes(), media_type);
    let pierhead = pierhead(&upstream, "");
    http::get(blob_url(&pierhead, "team/private", &secret)).expect(200);
    wait_until_stored(&pierhead, 1.0);
    http::get(manifest_url(&pierhead, "evil/image", "v1")).expect(200);
    let answer = http::get(blob_url(&pierhead, "evil/image", &secret));
    assert_eq!((answer.status, code(&answer).as_str()), (404, "BLOB_UNKNOWN"));
    assert_eq!(head(blob_url(&pierhead, "evil/image", &secret)).status, 404);
}

#[test]
fn shared_layers_are_proven_before_upstream_is_gone() {
    let upstream = FaultyUpstream::start_blocking();
    let base = vec![6_u8; 2000];
    let one = upstream.add_image("library/one", "v1", vec![base.clone()]);
    let two = upstream.add_image("library/two", "v1", vec![base, vec![7; 2000]]);
    let pierhead = pierhead(&upstream, "tag_ttl = \"0s\"\n");
    http::get(manifest_url(&pierhead, "library/one", "v1")).expect(200);
    for blob in [&one.config, &one.layers[0]] {
        http::get(blob_url(&pierhead, "library/one", blob)).expect(200);
    }
    wait_until_stored(&pierhead, 2.0);
    // A client that has the first image asks only for what is new in the second.
    http::get(manifest_url(&pierhead, "library/two", "v1")).expect(200);
    for blob in [&two.config, &two.layers[1]] {
        http::get(blob_url(&pierhead, "library/two", blob)).expect(200);
    }
    let proofs = |log: &[Entry]| log.iter().filter(|entry| entry.method == "HEAD").count();
    upstream.wait_for_blocking(|log| proofs(log) >= 1, DEADLINE);
    let proven = || pierhead.metric("pierhead_tasks_running", &[("kind", "link_proof")]) == 0.0;
    wait_until("the proofs are recorded", DEADLINE, || proven().then_some(()));
    upstream.down();
    let stale = http::get(manifest_url(&pierhead, "library/two", "v1")).expect(200);
    assert!(stale.header("warning").is_some(), "{stale:?}");
    http::get(blob_url(&pierhead, "library/two", &two.layers[0])).expect(200);
}
