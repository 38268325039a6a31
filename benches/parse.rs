//! What parsing costs at the edge: `cargo bench --bench parse`.
//!
//! Each request parses one path, and each manifest that comes in is parsed once. Neither may show
//! beside the tens of microseconds that a request takes.

#![allow(missing_docs, clippy::print_stdout, reason = "a benchmark is a program that prints")]
#![allow(clippy::expect_used, reason = "the input is ours, and known to be good")]

use std::hint::black_box;

use pierhead::http::route;
use pierhead::oci::Manifest;
use tokio::time::Instant;

const ROUNDS: usize = 7;
const RUNS: u32 = 20_000;
const LAYERS: usize = 8;
const HEX: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn main() {
    let manifest = manifest();
    let by_digest = format!("/v2/library/debian/manifests/sha256:{HEX}");
    let blob = format!("/v2/ghcr.io/some/long/name/of-an/image/blobs/sha256:{HEX}");
    bench("route, manifest by tag", || route::parse(black_box("/v2/library/debian/manifests/12")));
    bench("route, manifest by digest", || route::parse(black_box(&by_digest)));
    bench("route, blob of a long name", || route::parse(black_box(&blob)));
    let name = format!("manifest of {LAYERS} layers, {} bytes", manifest.len());
    bench(&name, || Manifest::parse(black_box(&manifest), None));
}

/// Prints the fastest round, which is what the code can do: the others shared the processor.
fn bench<T, E: std::fmt::Debug>(name: &str, run: impl Fn() -> Result<T, E>) {
    run().expect("good input");
    let rounds = (0..ROUNDS).map(|_| {
        let began = Instant::now();
        for _ in 0..RUNS {
            let _ = black_box(run());
        }
        began.elapsed().as_nanos() as f64 / f64::from(RUNS)
    });
    println!("{name}: {:.0} ns", rounds.fold(f64::INFINITY, f64::min));
}

fn manifest() -> Vec<u8> {
    let descriptor = |kind: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{HEX}","size":31357311}}"#
        )
    };
    let layers = vec![descriptor("layer.v1.tar+gzip"); LAYERS].join(",");
    let config = descriptor("config.v1+json");
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[{layers}]}}"#
    )
    .into_bytes()
}
