//! A real registry as upstream that goes away and comes back, and as another cache behind us.

use std::time::Duration;

use pierhead_kit::images::{multi_arch, random_layers};
use pierhead_kit::program::DockerRegistry;
use pierhead_kit::sha256;
use pierhead_kit::wait_until;

use super::{Bench, NAME, ask};

#[test]
fn everything_cached_outlives_upstream() {
    let Some(mut bench) = Bench::start() else { return };
    let layout = multi_arch(1_500_000);
    bench.push(&layout, "1");
    bench.push(&random_layers(1, 2_000), "cold");
    for _ in 0..2 {
        bench.serves_all(&layout, "1");
        bench.tag_is_fresh("1");
    }
    bench.nothing_was_fetched_twice(&layout);

    bench.pierhead.wait_for_fills();
    bench.registry.stop();
    bench.serves_all(&layout, "1");
    bench.tag_is_stale("1");
    // What was never asked for cannot be served, and the answer is one that clients can read.
    let missing = bench.ask("GET", "manifests/cold");
    assert!(missing.status >= 500 || missing.status == 404, "{missing:?}");
    assert!(missing.json()["errors"][0]["code"].is_string(), "{missing:?}");

    bench.registry.resume();
    // It is left alone for a moment after it failed so often, and then asked by one.
    wait_until("upstream is asked again", Duration::from_secs(60), || {
        let answer = bench.ask("GET", "manifests/1").expect(200);
        answer.header("warning").is_none().then_some(())
    });
    bench.tag_is_fresh("1");
    bench.ask("GET", "manifests/cold").expect(200);
}

#[test]
fn everything_cached_outlives_a_restart() {
    let Some(mut bench) = Bench::start() else { return };
    let layout = multi_arch(1_500_000);
    bench.push(&layout, "1");
    bench.serves_all(&layout, "1");
    bench.pierhead.wait_for_fills();
    bench.registry.stop();
    assert!(bench.pierhead.terminate().success());
    bench.pierhead.restart();
    bench.serves_all(&layout, "1");
    bench.pierhead.kill9();
    bench.pierhead.restart();
    bench.serves_all(&layout, "1");
    bench.tag_is_stale("1");
}

#[test]
fn a_moved_tag_is_seen() {
    let Some(bench) = Bench::start() else { return };
    let (old, new) = (multi_arch(10_000), random_layers(2, 10_000));
    bench.push(&old, "1");
    bench.serves_all(&old, "1");
    bench.push(&new, "1");
    bench.serves_all(&new, "1");
    // The old one is still there by digest.
    let digest = &old.root().digest;
    let answer = bench.ask("GET", &format!("manifests/{digest}")).expect(200);
    assert_eq!(&sha256(answer.body), digest);
}

#[test]
fn a_registry_can_cache_from_us() {
    let Some(bench) = Bench::start() else { return };
    let layout = multi_arch(100_000);
    bench.push(&layout, "1");
    let Some(behind) = DockerRegistry::start_proxy(bench.pierhead.url()) else { return };
    let url = |what: &str| format!("{}/v2/library/{NAME}/{what}", behind.url());
    let answer = ask("GET", &url("manifests/1")).expect(200);
    assert_eq!(sha256(answer.body), layout.root().digest);
    for (manifest, _) in layout.manifests() {
        assert_eq!(sha256(ask("GET", &url(&format!("manifests/{manifest}"))).body), manifest);
    }
    for digest in layout.blobs().into_keys() {
        let answer = ask("GET", &url(&format!("blobs/{digest}"))).expect(200);
        assert_eq!(sha256(answer.body), digest);
    }
}

#[test]
fn nothing_is_pushed_to_an_upstream() {
    let Some(bench) = Bench::start() else { return };
    let image = format!("{}/library/{NAME}:mine", bench.pierhead.host());
    let layout = random_layers(1, 1_000);
    let source = format!("oci:{}:latest", layout.dir().display());
    let target = format!("docker://{image}");
    let push = ["copy", "--quiet", "--dest-tls-verify=false", &source, &target];
    bench.skopeo.run(push).fails();
    assert_eq!(bench.registry.count("POST", "/"), 0);
}
