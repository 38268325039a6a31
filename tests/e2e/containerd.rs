//! containerd with Pierhead in `hosts.toml`: every request says `?ns=docker.io`.

use pierhead_kit::images::{Layout, multi_arch};
use pierhead_kit::program::Containerd;

use super::{Bench, NAME};

/// Pulls and unpacks one platform, fetches all others, and compares all content.
#[track_caller]
fn pull(containerd: &Containerd, layout: &Layout, image: &str) {
    containerd.forget_images();
    containerd.pull(image).ok();
    containerd.fetch_all(image).ok();
    let content = containerd.content();
    let manifests = layout.manifests().into_iter().map(|(digest, _)| digest);
    for digest in layout.blobs().into_keys().chain(manifests) {
        assert!(content.contains(&digest), "{image}: {digest} is missing in {content:?}");
        assert!(containerd.read(&digest) == layout.read(&digest), "{image}: {digest} differs");
    }
}

#[test]
fn pulls_cold_warm_and_without_upstream() {
    let Some(mut bench) = Bench::start() else { return };
    let Some(containerd) = Containerd::start() else { return };
    containerd.set_mirror("docker.io", bench.pierhead.url());
    let layout = multi_arch(1_500_000);
    let digest = bench.push(&layout, "1");
    let images =
        [format!("docker.io/library/{NAME}:1"), format!("docker.io/library/{NAME}@{digest}")];
    for image in images.iter().chain(&images) {
        pull(&containerd, &layout, image);
    }
    bench.nothing_was_fetched_twice(&layout);
    // The namespace is for Pierhead alone.
    assert!(bench.registry.access_log().iter().all(|r| !r.query.contains("ns=")));

    bench.pierhead.wait_for_fills();
    bench.registry.stop();
    for image in &images {
        pull(&containerd, &layout, image);
    }
    bench.tag_is_stale("1");
}

#[test]
fn pulls_cold_by_digest() {
    let Some(bench) = Bench::start() else { return };
    let Some(containerd) = Containerd::start() else { return };
    containerd.set_mirror("docker.io", bench.pierhead.url());
    let layout = multi_arch(1_500_000);
    let digest = bench.push(&layout, "1");
    pull(&containerd, &layout, &format!("docker.io/library/{NAME}@{digest}"));
    bench.nothing_was_fetched_twice(&layout);
}

#[test]
fn an_unknown_namespace_is_refused() {
    let Some(bench) = Bench::start() else { return };
    let Some(containerd) = Containerd::start() else { return };
    containerd.set_mirror("registry.example", bench.pierhead.url());
    bench.push(&multi_arch(1000), "1");
    containerd.pull(&format!("registry.example/library/{NAME}:1")).fails();
    let answer = bench.ask("GET", "manifests/1?ns=registry.example").expect(404);
    assert_eq!(answer.json()["errors"][0]["code"], "NAME_UNKNOWN");
}
