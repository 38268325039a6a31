//! The docker daemon with Pierhead in `registry-mirrors`.

use pierhead_kit::images::{Layout, debootstrap_rootfs, many_layers, multi_arch};
use pierhead_kit::program::{DockerRegistry, Dockerd, Skopeo};

use super::{Bench, NAME, pierhead};

/// Pulls from nothing, and checks what the daemon has then. It verifies all digests itself.
#[track_caller]
fn pull(dockerd: &Dockerd, layout: &Layout, image: &str) {
    dockerd.forget_images();
    dockerd.pull(image).ok();
    let inspect = |format: &str| {
        let out = dockerd.docker(["image", "inspect", "--format", format, image]).ok();
        out.text().to_owned()
    };
    let manifest = layout.platform("amd64");
    assert_eq!(inspect("{{.Id}}"), layout.image_blobs(&manifest)[0]);
    let digests = inspect("{{.RepoDigests}}");
    assert!(digests.contains(&layout.root().digest), "{digests}");
}

#[test]
fn pulls_cold_warm_and_without_upstream() {
    let Some(mut bench) = Bench::start() else { return };
    let Some(dockerd) = Dockerd::start(&[bench.pierhead.url()]) else { return };
    let layout = multi_arch(1_500_000);
    let digest = bench.push(&layout, "1");
    let images = [format!("{NAME}:1"), format!("{NAME}@{digest}")];
    for image in images.iter().chain(&images) {
        pull(&dockerd, &layout, image);
    }
    bench.nothing_was_fetched_twice(&layout);

    bench.pierhead.wait_for_fills();
    bench.registry.stop();
    for image in &images {
        pull(&dockerd, &layout, image);
    }
    bench.tag_is_stale("1");
}

#[test]
fn pulls_cold_by_digest() {
    let Some(bench) = Bench::start() else { return };
    let Some(dockerd) = Dockerd::start(&[bench.pierhead.url()]) else { return };
    let layout = multi_arch(1_500_000);
    let digest = bench.push(&layout, "1");
    pull(&dockerd, &layout, &format!("{NAME}@{digest}"));
    bench.nothing_was_fetched_twice(&layout);
}

#[test]
fn runs_debian_that_came_through_the_cache() {
    let (Some(_), Some(mut registry)) = (Skopeo::find(), DockerRegistry::start()) else { return };
    let Some(layout) = debootstrap_rootfs() else { return };
    let pierhead = pierhead(&registry.url());
    let Some(dockerd) = Dockerd::start(&[pierhead.url()]) else { return };
    let image = "pierhead-e2e-debian:bookworm";
    registry.push(&layout, &format!("library/{image}"));
    pull(&dockerd, &layout, image);
    let run = ["run", "--rm", "--network", "none", image, "cat", "/etc/debian_version"];
    let version = dockerd.docker(run).ok();
    assert!(version.text().starts_with("12."), "{version}");
    pierhead.wait_for_fills();
    registry.stop();
    pull(&dockerd, &layout, image);
}

#[test]
fn pulls_as_many_layers_as_it_accepts() {
    let Some(bench) = Bench::start() else { return };
    let Some(dockerd) = Dockerd::start(&[bench.pierhead.url()]) else { return };
    let layout = many_layers();
    bench.push(&layout, "many");
    pull(&dockerd, &layout, &format!("{NAME}:many"));
    bench.nothing_was_fetched_twice(&layout);
}
