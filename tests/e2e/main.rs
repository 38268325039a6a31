//! Pierhead between a real registry and real clients: nothing here is simulated but the internet.
//!
//! A test whose programs are not installed says so and passes, except in continuous integration.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail the test"
)]

mod acme;
mod auth;
mod containerd;
mod curl;
mod dockerd;
mod node_config;
mod oidc;
mod plugin;
mod podman;
mod recipes;
mod registry;
mod skopeo;
mod tls;
mod transfer;

use std::collections::BTreeMap;

use pierhead_kit::http::{Request, Response};
use pierhead_kit::images::{Layout, media};
use pierhead_kit::program::{DockerRegistry, Options, Pierhead, Run, Skopeo};
use pierhead_kit::sha256;

/// A name that docker.io does not have: dockerd falls back to it without a word.
const NAME: &str = "pierhead-e2e-image";

/// A real registry as docker.io, and a Pierhead with an empty cache in front of it.
struct Bench {
    pierhead: Pierhead,
    registry: DockerRegistry,
    skopeo: Skopeo,
}

impl Bench {
    /// `None` where a program is missing.
    #[track_caller]
    fn start() -> Option<Self> {
        let skopeo = Skopeo::find()?;
        let registry = DockerRegistry::start()?;
        let pierhead = pierhead(&registry.url());
        Some(Self { pierhead, registry, skopeo })
    }

    /// Pushes a layout to the upstream as `library/NAME:TAG`. Returns its digest.
    #[track_caller]
    fn push(&self, layout: &Layout, tag: &str) -> String {
        self.registry.push(layout, &format!("library/{NAME}:{tag}"))
    }

    /// An answer of Pierhead for something of that image.
    #[track_caller]
    fn ask(&self, method: &str, what: &str) -> Response {
        ask(method, &format!("{}/v2/library/{NAME}/{what}", self.pierhead.url()))
    }

    /// Checks that Pierhead serves every byte of the layout, by tag and by digest.
    #[track_caller]
    fn serves_all(&self, layout: &Layout, tag: &str) {
        let root = &layout.root().digest;
        for method in ["HEAD", "GET"] {
            let answer = self.ask(method, &format!("manifests/{tag}")).expect(200);
            check_manifest(&answer, method, root, &layout.root().media_type, layout);
            for (digest, media_type) in layout.manifests() {
                let answer = self.ask(method, &format!("manifests/{digest}")).expect(200);
                check_manifest(&answer, method, &digest, &media_type, layout);
            }
            for (digest, size) in layout.blobs() {
                let answer = self.ask(method, &format!("blobs/{digest}")).expect(200);
                assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
                assert_eq!(answer.header("content-length"), Some(size.to_string().as_str()));
                assert_eq!(answer.header("accept-ranges"), Some("bytes"));
                if method == "GET" {
                    assert_eq!(sha256(&answer.body), digest);
                }
            }
        }
    }

    /// Checks that the answers under a tag say that they are stale.
    #[track_caller]
    fn tag_is_stale(&self, tag: &str) {
        for method in ["HEAD", "GET"] {
            let answer = self.ask(method, &format!("manifests/{tag}")).expect(200);
            let warning = answer.header("warning").unwrap_or_default();
            assert!(warning.starts_with("299 "), "{answer:?}");
        }
    }

    /// Checks that the answers under a tag do not say that they are stale.
    #[track_caller]
    fn tag_is_fresh(&self, tag: &str) {
        let answer = self.ask("GET", &format!("manifests/{tag}")).expect(200);
        assert_eq!(answer.header("warning"), None);
    }

    /// Checks that upstream sent no byte of a blob twice.
    #[track_caller]
    fn nothing_was_fetched_twice(&self, layout: &Layout) {
        for (digest, size, gets) in self.no_byte_was_fetched_twice(layout) {
            let small = size <= 256 * 1024 * 1024;
            assert!(gets <= 1 || !small, "{digest} of {size} bytes: {gets} GETs");
        }
    }

    /// Also of blobs that were asked for in parts. Each blob with its size and how many GETs it
    /// cost.
    #[track_caller]
    fn no_byte_was_fetched_twice(&self, layout: &Layout) -> Vec<(String, u64, usize)> {
        let mut sent = BTreeMap::<_, (u64, usize)>::new();
        for request in self.registry.access_log() {
            if request.method == "GET"
                && matches!(request.status, 200 | 206)
                && let Some((_, digest)) = request.path.split_once("/blobs/")
            {
                let entry = sent.entry(digest.to_owned()).or_default();
                entry.0 += request.bytes;
                entry.1 += 1;
            }
        }
        let blobs = layout.blobs().into_iter().map(|(digest, size)| {
            let (bytes, gets) = sent.get(&digest).copied().unwrap_or_default();
            assert!(bytes <= size, "{digest} of {size} bytes: {bytes} by {gets} GETs");
            (digest, size, gets)
        });
        blobs.collect()
    }
}

/// A Pierhead whose docker.io is at that URL. It asks about a tag each time. `PIERHEAD_BINARY` puts
/// another program in the place of the one that cargo has built.
#[track_caller]
fn pierhead(upstream: &str) -> Pierhead {
    options(upstream, "").start()
}

/// The same, not started yet. `more` is TOML below that table.
fn options(upstream: &str, more: &str) -> Options {
    let config = format!(
        "[upstream.\"docker.io\"]\nendpoints = [\"{upstream}\"]\ndefault = true\n\
         tag_ttl = \"0s\"\n{more}"
    );
    Options::new(binary()).config(&config)
}

fn binary() -> std::ffi::OsString {
    let binary = std::env::var_os("PIERHEAD_BINARY");
    binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_pierhead").into())
}

/// A command of Pierhead's, such as `config example`.
fn command<A: Into<std::ffi::OsString>>(args: impl IntoIterator<Item = A>) -> Run {
    Run::new(binary()).args(args)
}

/// A request that takes all types.
#[track_caller]
fn ask(method: &str, url: &str) -> Response {
    Request::new(method, url).header("accept", media::ACCEPT_ALL).send()
}

#[track_caller]
fn check_manifest(
    answer: &Response,
    method: &str,
    digest: &str,
    media_type: &str,
    layout: &Layout,
) {
    let wanted = layout.read(digest);
    assert_eq!(answer.header("docker-content-digest"), Some(digest));
    assert_eq!(answer.header("content-type"), Some(media_type));
    assert_eq!(answer.header("content-length"), Some(wanted.len().to_string().as_str()));
    if method == "GET" {
        assert_eq!(answer.body, wanted);
    }
}
