//! Manifests and tags: kept as they came, confirmed by HEAD, stale only where it can be served to
//! its end.

use pierhead_kit::http::{self, Request, Response, head};
use pierhead_kit::program::Pierhead;
use pierhead_kit::upstream::{Auth, Bearer, Fault, FaultyUpstream, ImageDigests, On};

use super::{PIERHEAD, blob_url, code, config, manifest_url, pierhead, pull_image};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// No tag is served without asking upstream.
const ASK_ALWAYS: &str = "tag_ttl = \"0s\"\nabsent_ttl = \"0s\"\n";

fn image(upstream: &FaultyUpstream, tag: &str, seed: u8) -> ImageDigests {
    upstream.add_image("library/a", tag, vec![vec![seed; 3000]])
}

fn basic(password: &str) -> Auth {
    Auth::Basic { username: "user".into(), password: password.into() }
}

#[track_caller]
fn warning(response: &Response) -> &str {
    let warning = response.header("warning").unwrap_or_else(|| panic!("no warning: {response:?}"));
    assert!(warning.starts_with("299 - \""), "{warning}");
    warning
}

#[test]
fn bytes_and_type_stay_as_they_came() {
    let upstream = FaultyUpstream::start_blocking();
    // Spaces, order and unknown fields are part of the digest.
    let bytes = format!(
        "{{ \"x\": 1,\n\"mediaType\":\"{OCI_MANIFEST}\" , \"schemaVersion\":2,\n\"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\"digest\":\"sha256:{0}\",\"size\":2}},\"layers\":[]}}",
        "0".repeat(64)
    );
    let digest = upstream.put_manifest("library/a", "v1", bytes.clone().into_bytes(), OCI_MANIFEST);
    let pierhead = pierhead(&upstream, "");
    for reference in ["v1", &digest] {
        for _ in 0..2 {
            let answer = http::get(manifest_url(&pierhead, "library/a", reference)).expect(200);
            assert_eq!(answer.text(), bytes);
            assert_eq!(answer.header("content-type"), Some(OCI_MANIFEST));
            assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
        }
    }
    assert_eq!(upstream.count("GET", "/manifests/"), 1);
}

#[test]
fn a_fresh_tag_is_not_asked_for_again() {
    let upstream = FaultyUpstream::start_blocking();
    image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, "tag_ttl = \"1h\"\n");
    for _ in 0..3 {
        http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
        assert_eq!(head(manifest_url(&pierhead, "library/a", "v1")).status, 200);
    }
    assert_eq!(upstream.log().len(), 1, "{:?}", upstream.log());
}

#[test]
fn an_expired_tag_is_confirmed_by_head_and_never_by_get() {
    let upstream = FaultyUpstream::start_blocking();
    image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    for _ in 0..3 {
        http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    }
    assert_eq!(upstream.count("GET", "/manifests/"), 1);
    assert_eq!(upstream.count("HEAD", "/manifests/v1"), 2);
}

#[test]
fn a_herd_confirms_a_tag_once() {
    let upstream = FaultyUpstream::start_blocking();
    image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    upstream
        .fault(On::manifests().head(), Fault::DelayHeaders(std::time::Duration::from_millis(500)));
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200));
        }
    });
    // Clients that came after the answer may have asked once more; twenty did not.
    assert!(upstream.count("HEAD", "/manifests/v1") <= 2, "{:?}", upstream.log());
}

#[test]
fn a_head_costs_upstream_a_head() {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    for reference in ["v1", &image.manifest] {
        let answer = head(manifest_url(&pierhead, "library/a", reference));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("docker-content-digest"), Some(image.manifest.as_str()));
        assert_eq!(answer.header("content-type"), Some(OCI_MANIFEST));
        assert!(answer.header("content-length").unwrap().parse::<u64>().unwrap() > 100);
    }
    assert_eq!(upstream.count("GET", ""), 0, "{:?}", upstream.log());
}

#[test]
fn an_upstream_without_head_is_asked_by_get() {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, "v1", 1);
    upstream.fault(On::manifests(), Fault::HeadUnsupported);
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    let answer = head(manifest_url(&pierhead, "library/a", "v1"));
    assert_eq!(answer.header("docker-content-digest"), Some(image.manifest.as_str()));
    http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
}

#[test]
fn a_moved_tag_is_noticed() {
    let upstream = FaultyUpstream::start_blocking();
    let old = image(&upstream, "v1", 1);
    let new = image(&upstream, "v2", 2);
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    let answer = http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    assert_eq!(answer.header("docker-content-digest"), Some(old.manifest.as_str()));
    upstream.set_tag("library/a", "v1", &new.manifest);
    let answer = http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    assert_eq!(answer.header("docker-content-digest"), Some(new.manifest.as_str()));
    // The old one stays reachable by digest.
    http::get(manifest_url(&pierhead, "library/a", &old.manifest)).expect(200);
}

#[test]
fn a_digest_is_pulled_before_any_tag_was() {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, "");
    pull_image(&pierhead, "library/a", &image.manifest, &image);
    upstream.down();
    pull_image(&pierhead, "library/a", &image.manifest, &image);
}

#[test]
fn every_failure_of_upstream_is_answered_stale_with_a_warning() {
    let faults = [
        Fault::status(500),
        Fault::html(503),
        Fault::too_many_requests("60"),
        Fault::status(401),
        Fault::status(404),
        Fault::Drop,
        Fault::NoHeaders,
    ];
    for fault in faults {
        let upstream = FaultyUpstream::start_blocking();
        let image = image(&upstream, "v1", 1);
        let pierhead = pierhead(&upstream, ASK_ALWAYS);
        pull_image(&pierhead, "library/a", "v1", &image);
        upstream.fault(On::any(), fault.clone());
        let answer = pull_image(&pierhead, "library/a", "v1", &image);
        assert!(warning(&answer).contains("library/a:v1"), "{fault:?}: {answer:?}");
        assert_eq!(answer.header("docker-content-digest"), Some(image.manifest.as_str()));
        assert_eq!(head(manifest_url(&pierhead, "library/a", "v1")).status, 200, "{fault:?}");
    }
}

#[test]
fn garbage_from_upstream_is_answered_stale() {
    let upstream = FaultyUpstream::start_blocking();
    let old = image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    pull_image(&pierhead, "library/a", "v1", &old);
    let new = image(&upstream, "v1", 2);
    upstream.fault(On::path(&*new.manifest).get(), Fault::FlipByte(5));
    let answer = pull_image(&pierhead, "library/a", "v1", &old);
    warning(&answer);
    assert_eq!(answer.header("docker-content-digest"), Some(old.manifest.as_str()));
}

#[test]
fn an_incomplete_image_is_not_served_stale() {
    let upstream = FaultyUpstream::start_blocking();
    image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    upstream.down();
    let answer = http::get(manifest_url(&pierhead, "library/a", "v1"));
    assert_eq!((answer.status, code(&answer).as_str()), (502, "UNAVAILABLE"));
}

#[test]
fn one_complete_platform_of_an_index_is_enough() {
    let upstream = FaultyUpstream::start_blocking();
    let amd64 = upstream.add_image_for("library/a", "amd64", "amd64", vec![vec![1_u8; 500]]);
    let arm64 = upstream.add_image_for("library/a", "arm64", "arm64", vec![vec![2_u8; 500]]);
    upstream.add_index(
        "library/a",
        "v1",
        &[("amd64", &amd64.manifest), ("arm64", &arm64.manifest)],
    );
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    upstream.down();
    assert_eq!(http::get(manifest_url(&pierhead, "library/a", "v1")).status, 502);
    upstream.up();
    pull_image(&pierhead, "library/a", &amd64.manifest, &amd64);
    http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    upstream.down();
    let answer = http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    warning(&answer);
}

#[test]
fn when_the_newest_image_is_incomplete_the_last_complete_one_is_served() {
    let upstream = FaultyUpstream::start_blocking();
    let old = image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    pull_image(&pierhead, "library/a", "v1", &old);
    image(&upstream, "v1", 2);
    http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    upstream.down();
    let answer = pull_image(&pierhead, "library/a", "v1", &old);
    assert_eq!(answer.header("docker-content-digest"), Some(old.manifest.as_str()));
    warning(&answer);
}

#[test]
fn stale_answers_survive_a_restart() {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, "v1", 1);
    let mut pierhead = pierhead(&upstream, ASK_ALWAYS);
    pull_image(&pierhead, "library/a", "v1", &image);
    upstream.down();
    pierhead.restart();
    warning(&pull_image(&pierhead, "library/a", "v1", &image));
}

#[test]
fn absences_are_remembered_for_a_short_while() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "absent_ttl = \"1h\"\n");
    for _ in 0..5 {
        let answer = http::get(manifest_url(&pierhead, "library/none", "v1"));
        assert_eq!((answer.status, code(&answer).as_str()), (404, "MANIFEST_UNKNOWN"));
    }
    assert_eq!(upstream.log().len(), 1, "{:?}", upstream.log());
}

#[test]
fn a_rate_limit_is_no_absence_and_no_429() {
    let upstream = FaultyUpstream::start_blocking();
    image(&upstream, "v1", 1);
    upstream.fault(On::any(), Fault::too_many_requests("17"));
    let pierhead = pierhead(&upstream, "");
    let answer = http::get(manifest_url(&pierhead, "library/a", "v1"));
    assert_eq!((answer.status, code(&answer).as_str()), (503, "TOOMANYREQUESTS"));
    assert_eq!(answer.header("retry-after"), Some("17"));
    upstream.clear_faults();
}

#[test]
fn a_wrong_manifest_is_a_502_and_not_kept() {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, "v1", 1);
    let fault = upstream.fault(On::manifests().get(), Fault::FlipByte(30));
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    for reference in ["v1", &image.manifest] {
        let answer = http::get(manifest_url(&pierhead, "library/a", reference));
        assert_eq!((answer.status, code(&answer).as_str()), (502, "DIGEST_INVALID"));
    }
    upstream.clear(fault);
    pull_image(&pierhead, "library/a", "v1", &image);
}

#[test]
fn a_manifest_over_the_limit_is_refused() {
    let upstream = FaultyUpstream::start_blocking();
    upstream.put_huge_manifest("library/a", "v1", 5 * 1024 * 1024);
    let pierhead = pierhead(&upstream, "");
    let answer = http::get(manifest_url(&pierhead, "library/a", "v1"));
    assert_eq!(answer.status, 502, "{answer:?}");
}

#[test]
fn a_generic_content_type_gives_way_to_the_manifests_own() {
    for content_type in ["text/plain", "text/plain; charset=utf-8", "application/json"] {
        let upstream = FaultyUpstream::start_blocking();
        image(&upstream, "v1", 1);
        upstream.fault(On::manifests(), Fault::ContentType(content_type.into()));
        let pierhead = pierhead(&upstream, ASK_ALWAYS);
        let url = manifest_url(&pierhead, "library/a", "v1");
        assert_eq!(head(&*url).header("content-type"), Some(OCI_MANIFEST), "{content_type}");
        assert_eq!(http::get(&*url).expect(200).header("content-type"), Some(OCI_MANIFEST));
    }
}

#[test]
fn bearer_tokens_are_fetched_once_per_repository() {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, "v1", 1);
    upstream.set_auth(Auth::Bearer(Bearer::default()));
    let pierhead = pierhead(&upstream, ASK_ALWAYS);
    for _ in 0..3 {
        pull_image(&pierhead, "library/a", "v1", &image);
    }
    assert_eq!(upstream.count("GET", "/token"), 1, "{:?}", upstream.log());
    upstream.forget_tokens();
    http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    assert_eq!(upstream.count("GET", "/token"), 2);
}

#[test]
fn lost_access_with_credentials_is_served_stale_for_an_hour_only() {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, "v1", 1);
    upstream.set_auth(basic("secret"));
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let more = format!("username = \"user\"\npassword_file = {password:?}\n{ASK_ALWAYS}");
    let pierhead = Pierhead::start(PIERHEAD, &config(&upstream, &more));
    let answer = pull_image(&pierhead, "library/a", "v1", &image);
    assert_eq!(answer.header("warning"), None);
    // The hour itself is a unit test of `pull::decide`; here: the first answers are stale ones.
    upstream.set_auth(basic("changed"));
    warning(&pull_image(&pierhead, "library/a", "v1", &image));
}

#[test]
fn unknown_credentials_of_clients_do_not_matter_and_are_not_passed_on() {
    let upstream = FaultyUpstream::start_blocking();
    image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, "");
    for value in ["Basic dXNlcjpwYXNz", "Bearer abc", "nonsense"] {
        Request::new("GET", manifest_url(&pierhead, "library/a", "v1"))
            .header("Authorization", value)
            .send()
            .expect(200);
    }
    assert!(upstream.log().iter().all(|entry| !entry.authorization));
}

#[test]
fn the_full_accept_set_and_identity_are_asked_for() {
    let upstream = FaultyUpstream::start_blocking();
    upstream.set_strict_accept(true);
    let image = image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, "");
    let answer = Request::new("GET", manifest_url(&pierhead, "library/a", "v1"))
        .header("Accept", "application/vnd.docker.distribution.manifest.v2+json")
        .send()
        .expect(200);
    assert_eq!(answer.header("content-type"), Some(OCI_MANIFEST));
    Request::new("GET", blob_url(&pierhead, "library/a", &image.layers[0]))
        .header("Accept-Encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")
        .send()
        .expect(200);
    for entry in upstream.log() {
        assert_eq!(entry.accept_encoding.as_deref(), Some("identity"), "{entry:?}");
    }
}

#[test]
fn several_endpoints_are_tried_in_order() {
    let (first, second) = (FaultyUpstream::start_blocking(), FaultyUpstream::start_blocking());
    let image = image(&second, "v1", 1);
    first.refuse_connections();
    let pierhead = Pierhead::start(
        PIERHEAD,
        &format!(
            "[upstream.\"docker.io\"]\nendpoints = [\"{}\", \"{}\"]\n",
            first.url(),
            second.url()
        ),
    );
    pull_image(&pierhead, "library/a", "v1", &image);
}
