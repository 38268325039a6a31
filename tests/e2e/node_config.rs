//! What `pierhead node-config` prints, read by the clients that it is for.

use pierhead_kit::images::multi_arch;
use pierhead_kit::program::{Buildkit, Containerd, Dockerd, Podman, Skopeo};

use super::{Bench, NAME, command};

/// The files for a client, as paths with their contents.
#[track_caller]
fn printed(client: &str, bench: &Bench, more: &[&str]) -> Vec<(String, String)> {
    let args = ["node-config", client, "--output", "json", "--url", bench.pierhead.url()];
    let out = command(args.iter().chain(more)).output().ok();
    let files: serde_json::Value = serde_json::from_str(&out.stdout).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let files = files.as_array().expect("a list").iter();
    files.map(|file| (text(&file["path"]), text(&file["content"]))).collect()
}

/// Checks that the image came through Pierhead, once.
#[track_caller]
fn came_through(bench: &Bench, layout: &pierhead_kit::images::Layout) {
    let blobs = bench.pierhead.metric("pierhead_cache_answers_total", &[("kind", "blob")]);
    assert!(blobs > 0.0, "the client went elsewhere");
    bench.nothing_was_fetched_twice(layout);
}

#[test]
fn dockerd_reads_daemon_json() {
    let Some(bench) = Bench::start() else { return };
    let out = command(["node-config", "docker", "--url", bench.pierhead.url()]).output().ok();
    let keys = serde_json::from_str(&out.stdout).expect("the printed file is JSON");
    let Some(dockerd) = Dockerd::start_with(&keys) else { return };
    let layout = multi_arch(100_000);
    bench.push(&layout, "1");
    dockerd.pull(&format!("{NAME}:1")).ok();
    came_through(&bench, &layout);
}

#[test]
fn containerd_reads_hosts_toml() {
    let Some(bench) = Bench::start() else { return };
    let layout = multi_arch(100_000);
    bench.push(&layout, "1");
    for more in [&["--upstream", "docker.io"][..], &["--every-registry"]] {
        let Some(containerd) = Containerd::start() else { return };
        for (path, content) in printed("containerd", &bench, more) {
            let directory = path.strip_prefix("/etc/containerd/certs.d/").expect("its directory");
            let host = directory.strip_suffix("/hosts.toml").expect("its file");
            containerd.set_hosts_toml(host, &content);
        }
        containerd.pull(&format!("docker.io/library/{NAME}:1")).ok();
        came_through(&bench, &layout);
    }
}

#[test]
fn podman_reads_registries_conf() {
    let Some(bench) = Bench::start() else { return };
    let files = printed("podman", &bench, &[]);
    let Some(podman) = Podman::new(&files[0].1) else { return };
    let layout = multi_arch(100_000);
    bench.push(&layout, "1");
    podman.pull(&format!("docker.io/library/{NAME}:1")).ok();
    came_through(&bench, &layout);
}

#[test]
fn skopeo_reads_registries_conf() {
    let Some(bench) = Bench::start() else { return };
    let Some(skopeo) = Skopeo::find() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let args = ["node-config", "podman", "--url", bench.pierhead.url(), "--write"];
    let root = dir.path().display().to_string();
    command(args.iter().copied().chain([root.as_str()])).output().ok();
    let conf = dir.path().join("etc/containers/registries.conf.d/50-pierhead.conf");
    let layout = multi_arch(100_000);
    bench.push(&layout, "1");
    let image = format!("docker://docker.io/library/{NAME}:1");
    let to = format!("dir:{}", dir.path().join("copy").display());
    let conf = conf.display().to_string();
    skopeo.run(["--registries-conf", &conf, "copy", "--quiet", "--all", &image, &to]).ok();
    came_through(&bench, &layout);
}

#[test]
fn buildkitd_reads_buildkitd_toml() {
    let Some(bench) = Bench::start() else { return };
    let files = printed("buildkit", &bench, &[]);
    let Some(buildkit) = Buildkit::start(&files[0].1) else { return };
    let layout = multi_arch(100_000);
    bench.push(&layout, "1");
    // A short name too: buildkit means docker.io by it.
    for image in [format!("docker.io/library/{NAME}:1"), format!("{NAME}:1")] {
        let dockerfile = format!("FROM {image}\nCOPY Dockerfile /added\n");
        buildkit.build(&dockerfile).ok();
    }
    came_through(&bench, &layout);
}
