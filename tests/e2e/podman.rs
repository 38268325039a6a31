//! podman with Pierhead as docker.io's location in `registries.conf`.

use pierhead_kit::images::{Layout, multi_arch};
use pierhead_kit::program::Podman;

use super::{Bench, NAME};

#[track_caller]
fn pull(podman: &Podman, layout: &Layout, image: &str) {
    podman.forget_images();
    podman.pull(image).ok();
    let id = podman.podman(["image", "inspect", "--format", "{{.Id}}", image]).ok();
    let config = layout.image_blobs(&layout.platform("amd64"))[0].replace("sha256:", "");
    assert_eq!(id.text(), config);
    let digests = podman.podman(["image", "inspect", "--format", "{{.RepoDigests}}", image]).ok();
    assert!(digests.text().contains(&layout.root().digest), "{digests}");
}

#[test]
fn pulls_cold_warm_and_without_upstream() {
    let Some(mut bench) = Bench::start() else { return };
    let location = format!("{}/docker.io", bench.pierhead.host());
    let Some(podman) = Podman::with_docker_io_at(&location) else { return };
    let layout = multi_arch(1_500_000);
    let digest = bench.push(&layout, "1");
    let images =
        [format!("docker.io/library/{NAME}:1"), format!("docker.io/library/{NAME}@{digest}")];
    for image in images.iter().chain(&images) {
        pull(&podman, &layout, image);
    }
    bench.nothing_was_fetched_twice(&layout);

    bench.pierhead.wait_for_fills();
    bench.registry.stop();
    for image in &images {
        pull(&podman, &layout, image);
    }
    bench.tag_is_stale("1");
}

#[test]
fn pulls_cold_by_digest() {
    let Some(bench) = Bench::start() else { return };
    let location = format!("{}/docker.io", bench.pierhead.host());
    let Some(podman) = Podman::with_docker_io_at(&location) else { return };
    let layout = multi_arch(1_500_000);
    let digest = bench.push(&layout, "1");
    pull(&podman, &layout, &format!("docker.io/library/{NAME}@{digest}"));
    bench.nothing_was_fetched_twice(&layout);
}
