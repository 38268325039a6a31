//! Pulls through the program, from an upstream that misbehaves on demand.
//!
//! The same pulls from a real registry with real clients are in `tests/e2e`.

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(clippy::print_stderr, reason = "skips go to the test's output")]

mod access;
mod directory;
mod encryption;
mod fill;
mod health;
mod limits;
mod manifests;
mod naming;
mod operator;
mod overload;
mod ranges;
mod resume;
mod scrub;
mod space;
mod stale;
mod surface;
mod traces;
mod trouble;
mod warm;

use std::time::Duration;

use pierhead_kit::http::{self, Request, Response};
use pierhead_kit::program::Pierhead;
use pierhead_kit::upstream::{FaultyUpstream, ImageDigests};
use pierhead_kit::{sha256, wait_until};

/// The program under test.
const PIERHEAD: &str = env!("CARGO_BIN_EXE_pierhead");

/// How long a test waits for an event that is bound to come.
const DEADLINE: Duration = Duration::from_secs(30);

/// A Pierhead whose docker.io is `upstream`, with short limits. `more` is TOML below that table.
fn pierhead(upstream: &FaultyUpstream, more: &str) -> Pierhead {
    Pierhead::start(PIERHEAD, &config(upstream, more))
}

fn config(upstream: &FaultyUpstream, more: &str) -> String {
    format!(
        "[upstream.\"docker.io\"]\nendpoints = [\"{}\"]\nheader_timeout = \"2s\"\n\
         silence_timeout = \"2s\"\nconnect_timeout = \"2s\"\n{more}",
        upstream.url()
    )
}

fn manifest_url(pierhead: &Pierhead, name: &str, reference: &str) -> String {
    format!("{}/v2/{name}/manifests/{reference}", pierhead.url())
}

fn blob_url(pierhead: &Pierhead, name: &str, digest: &str) -> String {
    format!("{}/v2/{name}/blobs/{digest}", pierhead.url())
}

/// GET with a `Range`.
fn get_range(url: &str, range: &str) -> Response {
    Request::new("GET", url).header("Range", range).send()
}

/// The first error code of an answer that is an error in the specification's form.
#[track_caller]
fn code(response: &Response) -> String {
    assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
    let json = response.json();
    assert!(json["errors"][0]["message"].is_string(), "{response:?}");
    json["errors"][0]["code"].as_str().unwrap().to_owned()
}

/// Reads an image as clients do: the manifest, which is returned, then everything that it names.
#[track_caller]
fn read_image(pierhead: &Pierhead, name: &str, reference: &str, image: &ImageDigests) -> Response {
    let manifest = http::get(manifest_url(pierhead, name, reference)).expect(200);
    assert_eq!(sha256(&manifest.body), image.manifest);
    for digest in image.layers.iter().chain([&image.config]) {
        let blob = http::get(blob_url(pierhead, name, digest)).expect(200);
        assert_eq!(sha256(&blob.body), *digest);
    }
    manifest
}

/// Reads an image, and waits until the store has what was fetched for it.
#[track_caller]
fn pull_image(pierhead: &Pierhead, name: &str, reference: &str, image: &ImageDigests) -> Response {
    let manifest = read_image(pierhead, name, reference, image);
    pierhead.wait_for_fills();
    manifest
}

/// Waits until the store has committed a blob, so that no flight serves it any more.
fn wait_until_stored(pierhead: &Pierhead, fills: f64) {
    wait_until("the blob is stored", DEADLINE, || {
        let stored = pierhead.metric("pierhead_fills_total", &[("result", "stored")]);
        (stored >= fills).then_some(())
    });
}

#[test]
fn zero_configuration_serves() {
    let pierhead = Pierhead::start(PIERHEAD, "");
    http::get(format!("{}/v2/", pierhead.url())).expect(200);
    http::get(format!("{}/readyz", pierhead.url())).expect(200);
    http::get(format!("{}/livez", pierhead.admin_url())).expect(200);
}
