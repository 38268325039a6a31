//! curl: what plain HTTP sees, alone and as a herd.

use std::path::PathBuf;
use std::time::Duration;

use pierhead_kit::images::{multi_arch, random_layers};
use pierhead_kit::program::{Output, Run, require};
use pierhead_kit::sha256;

use super::Bench;

const MIB: u64 = 1024 * 1024;

struct Curl {
    curl: PathBuf,
    dir: tempfile::TempDir,
}

impl Curl {
    fn find() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Some(Self { curl: require("curl")?, dir })
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Downloads into a file; standard output is the status and the version of HTTP.
    fn download(&self, url: &str, name: &str, more: &[&str]) -> Output {
        Run::new(&self.curl)
            .args(["--silent", "--show-error", "--write-out", "%{http_code} %{http_version}"])
            .args(more.iter().copied())
            .arg("--output")
            .arg(self.out(name))
            .arg(url)
            .deadline(Duration::from_secs(120))
            .output()
    }
}

#[test]
fn parts_and_resumption() {
    let (Some(curl), Some(bench)) = (Curl::find(), Bench::start()) else { return };
    let layout = random_layers(1, 3 * MIB);
    bench.push(&layout, "1");
    let digest = layout.image_blobs(&layout.root().digest)[1].clone();
    let wanted = layout.read(&digest);
    bench.ask("GET", "manifests/1").expect(200);
    let url = format!("{}/v2/library/{}/blobs/{digest}", bench.pierhead.url(), super::NAME);

    // The first part comes before anything is cached.
    let first = curl.download(&url, "blob", &["--range", "0-999999"]).ok();
    assert_eq!(first.text(), "206 1.1");
    assert!(std::fs::read(curl.out("blob")).unwrap() == wanted[..1_000_000]);
    let rest = curl.download(&url, "blob", &["--continue-at", "-"]).ok();
    assert_eq!(rest.text(), "206 1.1");
    assert_eq!(sha256(std::fs::read(curl.out("blob")).unwrap()), digest);
    let tail = curl.download(&url, "tail", &["--range", "-10"]).ok();
    assert_eq!(tail.text(), "206 1.1");
    assert!(std::fs::read(curl.out("tail")).unwrap() == wanted[wanted.len() - 10..]);
    let beyond = curl.download(&url, "beyond", &["--range", "99999999-"]).ok();
    assert_eq!(beyond.text(), "416 1.1");
    let version2 = curl.download(&url, "two", &["--http2-prior-knowledge"]).ok();
    assert_eq!(version2.text(), "200 2");
    assert_eq!(sha256(std::fs::read(curl.out("two")).unwrap()), digest);
    bench.no_byte_was_fetched_twice(&layout);
}

#[test]
fn a_herd_costs_one_download() {
    let (Some(curl), Some(bench)) = (Curl::find(), Bench::start()) else { return };
    let layout = random_layers(1, 20 * MIB);
    bench.push(&layout, "1");
    let digest = layout.image_blobs(&layout.root().digest)[1].clone();
    bench.ask("GET", "manifests/1").expect(200);
    let url = format!("{}/v2/library/{}/blobs/{digest}", bench.pierhead.url(), super::NAME);
    std::thread::scope(|scope| {
        for i in 0..12 {
            let (curl, url, digest) = (&curl, &url, &digest);
            scope.spawn(move || {
                let name = format!("blob-{i}");
                assert_eq!(curl.download(url, &name, &[]).ok().text(), "200 1.1");
                assert_eq!(&sha256(std::fs::read(curl.out(&name)).unwrap()), digest);
            });
        }
    });
    bench.registry.wait_for("the GET in the access log", |log| {
        log.iter().any(|r| r.method == "GET" && r.path.ends_with(&digest))
    });
    bench.nothing_was_fetched_twice(&layout);
}

#[test]
fn a_layer_of_several_hundred_megabytes() {
    let (Some(curl), Some(mut bench)) = (Curl::find(), Bench::start()) else { return };
    let size = 300 * MIB;
    let layout = random_layers(1, size);
    bench.push(&layout, "big");
    let digest = layout.image_blobs(&layout.root().digest)[1].clone();
    bench.ask("GET", "manifests/big").expect(200);
    let url = format!("{}/v2/library/{}/blobs/{digest}", bench.pierhead.url(), super::NAME);
    std::thread::scope(|scope| {
        for name in ["one", "two"] {
            let (curl, url) = (&curl, &url);
            scope.spawn(move || curl.download(url, name, &[]).ok());
        }
    });
    let good = layout.dir().join("blobs").join(digest.replace(':', "/"));
    let same = |name: &str| {
        Run::new("cmp").arg(curl.out(name)).arg(&good).output().ok();
        std::fs::remove_file(curl.out(name)).unwrap();
    };
    same("one");
    same("two");
    bench.registry.wait_for("the GETs in the access log", |log| {
        let gets = log.iter().filter(|r| r.method == "GET" && r.path.ends_with(&digest));
        gets.map(|r| r.bytes).sum::<u64>() >= size
    });
    bench.nothing_was_fetched_twice(&layout);
    let memory = bench.pierhead.rss_anon_shmem_bytes();
    assert!(memory < size / 2, "{memory} bytes of memory for a blob of {size}");

    bench.pierhead.wait_for_fills();
    bench.registry.stop();
    curl.download(&url, "again", &[]).ok();
    same("again");
}

#[test]
fn headers_that_clients_need() {
    let Some(bench) = Bench::start() else { return };
    let layout = multi_arch(10_000);
    let digest = bench.push(&layout, "1");
    for path in ["/v2/", "/v2"] {
        let ping = super::ask("GET", &format!("{}{path}", bench.pierhead.url())).expect(200);
        let version = ping.header("docker-distribution-api-version");
        assert_eq!(version, Some("registry/2.0"));
    }
    let answer = bench.ask("GET", "manifests/1?ns=docker.io").expect(200);
    assert_eq!(answer.header("oci-namespace"), Some("docker.io"));
    assert_eq!(answer.header("docker-content-digest"), Some(digest.as_str()));
    let tags = bench.ask("GET", "tags/list").expect(200);
    assert_eq!(tags.json()["tags"], serde_json::json!(["1"]));
    // Single components mean library/, without a redirect.
    let short = format!("{}/v2/{}/manifests/1", bench.pierhead.url(), super::NAME);
    super::ask("GET", &short).expect(200);
    for probe in ["livez", "readyz"] {
        for side in [bench.pierhead.url(), bench.pierhead.admin_url()] {
            super::ask("GET", &format!("{side}/{probe}")).expect(200);
        }
    }
    assert!(bench.pierhead.metrics().contains("pierhead"));
}
