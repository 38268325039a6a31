//! skopeo, which copies whole indexes and checks what it gets.

use std::collections::BTreeMap;

use pierhead_kit::images::{many_layers, multi_arch};
use pierhead_kit::program::files;

use super::{Bench, NAME, pierhead};

impl Bench {
    /// What a copy through `host` consists of.
    #[track_caller]
    fn copy(&self, host: &str, image: &str) -> BTreeMap<String, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        self.skopeo.copy_to_dir(&format!("{host}/{image}"), dir.path()).ok();
        files(dir.path())
    }
}

#[test]
fn copies_are_the_same_cold_warm_and_without_upstream() {
    let Some(mut bench) = Bench::start() else { return };
    let layout = multi_arch(1_500_000);
    let digest = bench.push(&layout, "1");
    let tag = format!("library/{NAME}:1");
    let by_digest = format!("library/{NAME}@{digest}");
    let host = bench.pierhead.host().to_owned();
    let names = [&tag, &by_digest, &format!("docker.io/{tag}"), &format!("{NAME}:1")];
    let cold = bench.copy(&host, &tag);
    for image in names {
        assert_eq!(bench.copy(&host, image), cold, "warm: {image}");
    }
    bench.nothing_was_fetched_twice(&layout);
    let direct = bench.copy(&bench.registry.host(), &tag);
    assert_eq!(cold, direct);

    bench.pierhead.wait_for_fills();
    bench.registry.stop();
    for image in names {
        assert_eq!(bench.copy(&host, image), direct, "upstream is gone: {image}");
    }
    bench.tag_is_stale("1");
}

#[test]
fn cold_by_digest() {
    let Some(bench) = Bench::start() else { return };
    let layout = multi_arch(1_500_000);
    let digest = bench.push(&layout, "1");
    let image = format!("library/{NAME}@{digest}");
    let direct = bench.copy(&bench.registry.host(), &image);
    assert_eq!(bench.copy(bench.pierhead.host(), &image), direct);
    // The same blobs through another instance, whose upstream is the first.
    let second = pierhead(bench.pierhead.url());
    assert_eq!(bench.copy(second.host(), &image), direct);
}

#[test]
fn many_small_layers() {
    let Some(bench) = Bench::start() else { return };
    let layout = many_layers();
    bench.push(&layout, "many");
    let image = format!("library/{NAME}:many");
    let cold = bench.copy(bench.pierhead.host(), &image);
    assert_eq!(cold.len(), 120 + 3, "layers, configuration, manifest and version");
    assert_eq!(bench.copy(bench.pierhead.host(), &image), cold);
    bench.nothing_was_fetched_twice(&layout);
}

#[test]
fn unknown_images_are_unknown() {
    let Some(bench) = Bench::start() else { return };
    bench.push(&multi_arch(1000), "1");
    for image in [format!("library/{NAME}:none"), "library/pierhead-e2e-none:1".to_owned()] {
        let out = bench.skopeo.inspect_raw(&format!("{}/{image}", bench.pierhead.host())).fails();
        let said = out.stderr.to_lowercase();
        assert!(said.contains("unknown"), "{out}");
    }
}
