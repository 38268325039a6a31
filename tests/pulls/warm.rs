//! `pierhead warm`: a client that keeps nothing, so that the server has everything.

use pierhead_kit::http;
use pierhead_kit::images::multi_arch;
use pierhead_kit::program::{Output, Pierhead, Run};
use pierhead_kit::upstream::{Entry, Fault, FaultyUpstream, On};
use serde_json::{Value, json};

use super::{DEADLINE, PIERHEAD, blob_url, manifest_url, pierhead};

fn warm(pierhead: &Pierhead, args: &[&str]) -> Output {
    Run::new(PIERHEAD)
        .arg("warm")
        .args(args.iter().copied())
        .args(["--registry", pierhead.url()])
        .output()
}

#[track_caller]
fn warmed(pierhead: &Pierhead, args: &[&str]) -> (Option<i32>, Value) {
    let out = warm(pierhead, &[args, &["--output", "json"]].concat());
    let report = serde_json::from_str(&out.stdout).unwrap_or_else(|_| panic!("{out}"));
    (out.status.and_then(|status| status.code()), report)
}

#[test]
fn what_is_warm_outlives_upstream() {
    let upstream = FaultyUpstream::start_blocking();
    let layout = multi_arch(300_000);
    upstream.add_layout(&layout, "library/a", "1");
    let pierhead = pierhead(&upstream, "tag_ttl = \"0s\"\n");
    let platform = ["a:1", "--platform", "linux/arm64"];
    let (status, report) = warmed(&pierhead, &platform);
    assert_eq!(status, Some(0), "{report}");
    let image = &report["images"][0];
    assert_eq!(image["digest"], layout.root().digest);
    assert_eq!((&image["platforms"], &image["cached"]), (&json!(["linux/arm64"]), &json!(0)));
    // Once more, everything is there.
    let (_, report) = warmed(&pierhead, &platform);
    let image = &report["images"][0];
    let parts = image["manifests"].as_u64().unwrap() + image["blobs"].as_u64().unwrap();
    assert_eq!(image["cached"].as_u64(), Some(parts), "{report}");

    upstream.down();
    let arm64 = layout.platform("arm64");
    for reference in ["1", &layout.root().digest, &arm64] {
        http::get(manifest_url(&pierhead, "library/a", reference)).expect(200);
    }
    for blob in layout.image_blobs(&arm64) {
        let answer = http::get(blob_url(&pierhead, "library/a", &blob)).expect(200);
        assert!(answer.body == layout.read(&blob), "{blob} differs");
    }
    // The other platform was not asked for.
    let amd64 = layout.platform("amd64");
    http::get(manifest_url(&pierhead, "library/a", &amd64)).expect(502);
    for digest in layout.blobs().keys() {
        assert!(upstream.count("GET", digest) <= 1, "{digest} was fetched again");
    }
}

#[test]
fn all_is_every_platform_and_what_belongs_to_it() {
    let upstream = FaultyUpstream::start_blocking();
    let layout = multi_arch(10_000);
    upstream.add_layout(&layout, "library/a", "1");
    let pierhead = pierhead(&upstream, "");
    let (status, report) = warmed(&pierhead, &["docker.io/a:1", "--platform", "all"]);
    assert_eq!(status, Some(0), "{report}");
    assert_eq!(report["images"][0]["platforms"], json!(["linux/amd64", "linux/arm64"]));
    for digest in layout.blobs().keys() {
        assert_eq!(upstream.count("GET", digest), 1, "{digest}");
    }
}

#[test]
fn no_more_layers_at_a_time_than_allowed() {
    let upstream = FaultyUpstream::start_blocking();
    let layers: Vec<Vec<u8>> = (0..9).map(|i| vec![i; 60_000]).collect();
    upstream.add_image("library/a", "1", layers);
    // A tenth of a second each, so that those of one time are seen together.
    upstream.fault(On::blobs().get(), Fault::Throttle(600_000));
    for (concurrency, allowed) in [("1", 1), ("3", 3)] {
        let pierhead = pierhead(&upstream, "");
        let before = upstream.log().len();
        let mut most = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| warm(&pierhead, &["a:1", "--concurrency", concurrency]).ok());
            let all_blobs = |log: &[Entry]| {
                let gets = || log[before..].iter().filter(|entry| entry.is_blob_get());
                most = most.max(gets().filter(|entry| !entry.finished).count());
                gets().filter(|entry| entry.finished).count() == 10
            };
            upstream.wait_for_blocking(all_blobs, DEADLINE);
        });
        // A busy machine may keep the last of them from being seen together.
        let expected = usize::min(allowed, 2)..=allowed;
        assert!(expected.contains(&most), "{most} at a time with --concurrency {concurrency}");
    }
}

#[test]
fn what_fails_is_named_and_the_rest_is_warmed() {
    let upstream = FaultyUpstream::start_blocking();
    upstream.add_image("library/a", "1", vec![vec![1; 3000]]);
    let pierhead = pierhead(&upstream, "");
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("images.txt");
    std::fs::write(&list, "nobody.example/x:1 # an unknown registry\na:none\na:1\n").unwrap();
    let (status, report) = warmed(&pierhead, &["--from-file", list.to_str().unwrap()]);
    assert_eq!(status, Some(1), "{report}");
    assert_eq!(report["images"].as_array().unwrap().len(), 1);
    let failed = report["failed"].as_array().unwrap();
    assert_eq!(
        (&failed[0]["image"], &failed[0]["code"]),
        (&json!("nobody.example/x:1"), &json!("name_unknown"))
    );
    assert!(failed[0]["reason"].as_str().unwrap().contains("[upstream]"), "{report}");
    assert_eq!(failed[1]["code"], "manifest_unknown");

    let out = warm(&pierhead, &["a:none"]);
    assert_eq!(out.status.and_then(|status| status.code()), Some(1), "{out}");
    assert!(out.stderr.contains("pierhead: a:none: "), "{out}");
    let out = warm(&pierhead, &["NOT A NAME"]);
    assert_eq!(out.status.and_then(|status| status.code()), Some(2), "{out}");
    let nowhere = ["warm", "a:1", "--registry", "http://127.0.0.1:1"];
    let out = Run::new(PIERHEAD).args(nowhere).output();
    assert_eq!(out.status.and_then(|status| status.code()), Some(3), "{out}");
}

#[test]
fn a_platform_that_there_is_not_is_said() {
    let upstream = FaultyUpstream::start_blocking();
    upstream.add_layout(&multi_arch(1000), "library/a", "1");
    let pierhead = pierhead(&upstream, "");
    let (status, report) = warmed(&pierhead, &["a:1", "--platform", "windows/amd64"]);
    assert_eq!(status, Some(1));
    let reason = report["failed"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("linux/amd64, linux/arm64"), "{reason}");
}

#[test]
fn what_is_pinned_is_known_to_the_operator() {
    let upstream = FaultyUpstream::start_blocking();
    upstream.add_image("library/a", "1", vec![vec![1; 3000]]);
    let pierhead = pierhead(&upstream, "");
    let token = pierhead.storage().join("admin.token");
    let operator = ["--url", pierhead.admin_url(), "--token-file", token.to_str().unwrap()];
    let (status, report) = warmed(&pierhead, &[&["a:1", "--pin"], &operator[..]].concat());
    assert_eq!(status, Some(0), "{report}");
    let pins = Run::new(PIERHEAD).arg("pins").args(operator).output().ok();
    assert!(pins.stdout.contains("docker.io/library/a:1"), "{pins}");
}

#[test]
fn a_rate_limit_and_a_broken_connection_are_waited_out() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/a", "1", vec![vec![1; 300_000]]);
    let pierhead = pierhead(&upstream, "absent_ttl = \"0s\"\n");
    upstream.fault(On::manifests().get().once(), Fault::too_many_requests("1"));
    upstream.fault(On::path(&image.layers[0]).get().once(), Fault::CutAfter(100_000));
    let (status, report) = warmed(&pierhead, &["a:1"]);
    assert_eq!(status, Some(0), "{report}");
    pierhead.wait_for_fills();
    upstream.down();
    http::get(blob_url(&pierhead, "library/a", &image.layers[0])).expect(200);
}
