//! Air-gapped sites: images go out of one Pierhead as an OCI layout and into another, whose
//! upstream never answers.

use std::path::Path;

use pierhead_kit::images::{Layout, multi_arch};
use pierhead_kit::program::{Options, Output, Pierhead, Run, files};
use serde_json::Value;

use super::{Bench, NAME, binary, command, pierhead};

/// Runs a command against a running Pierhead.
fn told(pierhead: &Pierhead, args: &[&str]) -> Output {
    let token = pierhead.storage().join("admin.token");
    command(args).args(["--url", pierhead.admin_url(), "--token-file"]).arg(token).output()
}

/// What a command printed in JSON, and its exit status.
#[track_caller]
fn json(output: Output) -> (Option<i32>, Value) {
    let value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output}"));
    (output.status.and_then(|status| status.code()), value)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

impl Bench {
    /// Every file of a copy of the image from that registry.
    #[track_caller]
    fn copied(&self, host: &str, tag: &str) -> std::collections::BTreeMap<String, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        self.skopeo.copy_to_dir(&format!("{host}/library/{NAME}:{tag}"), dir.path()).ok();
        files(dir.path())
    }

    /// Pulls one platform, as a machine of it would.
    #[track_caller]
    fn pull_amd64(&self, from: &str, to: &Path) {
        let to = format!("dir:{}", to.display());
        let machine = ["--override-os", "linux", "--override-arch", "amd64"];
        let copy = ["copy", "--quiet", "--src-tls-verify=false", from, &to];
        self.skopeo.run(machine.into_iter().chain(copy)).ok();
    }
}

/// Checks that every byte of the layout comes out of `pierhead` as it is.
#[track_caller]
fn serves_all(pierhead: &Pierhead, layout: &Layout) {
    let ask = |what: String| {
        super::ask("GET", &format!("{}/v2/library/{NAME}/{what}", pierhead.url())).expect(200)
    };
    for (digest, media_type) in layout.manifests() {
        let answer = ask(format!("manifests/{digest}"));
        assert!(answer.body == layout.read(&digest), "{digest} differs");
        assert_eq!(answer.header("content-type"), Some(media_type.as_str()));
    }
    for digest in layout.blobs().keys() {
        assert!(ask(format!("blobs/{digest}")).body == layout.read(digest), "{digest} differs");
    }
}

#[test]
fn what_was_pulled_here_is_served_there_without_upstream() {
    let Some(mut bench) = Bench::start() else { return };
    let layout = multi_arch(1_500_000);
    let digest = bench.push(&layout, "1");
    let direct = bench.copied(&bench.registry.host(), "1");
    assert_eq!(bench.copied(bench.pierhead.host(), "1"), direct);
    bench.pierhead.wait_for_fills();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let archive = dir.path().join("images.tar");
    let image = format!("{NAME}:1");
    let export = ["export", &image, "--to", text(&archive), "--output", "json"];
    let (status, report) = json(told(&bench.pierhead, &export));
    assert_eq!(status, Some(0), "{report}");
    assert_eq!(report["images"][0]["image"], format!("docker.io/library/{NAME}:1"));
    assert_eq!(report["images"][0]["digest"], digest);
    assert_eq!(report["images"][0]["missing"], serde_json::json!([]));

    // skopeo reads the same archive, by the full name.
    let copy = dir.path().join("copy");
    let from = format!("oci-archive:{}:docker.io/library/{NAME}:1", archive.display());
    let to = format!("dir:{}", copy.display());
    bench.skopeo.run(["copy", "--quiet", "--all", "--preserve-digests", &from, &to]).ok();
    assert_eq!(files(&copy), direct);

    bench.registry.stop();
    let there = pierhead(&bench.registry.url());
    let (status, report) = json(told(&there, &["import", text(&archive), "--output", "json"]));
    assert_eq!(status, Some(0), "{report}");
    assert_eq!(report["new_blobs"], report["blobs"]);
    assert_eq!(bench.copied(there.host(), "1"), direct);
    serves_all(&there, &layout);
    let tag = format!("{}/v2/library/{NAME}/manifests/1", there.url());
    let answer = super::ask("GET", &tag).expect(200);
    assert!(answer.header("warning").is_some_and(|text| text.starts_with("299 ")), "{answer:?}");
    assert_eq!(there.metric("pierhead_upstream_body_bytes_total", &[]), 0.0);

    // Once more changes nothing.
    let (status, report) = json(told(&there, &["import", text(&archive), "--output", "json"]));
    assert_eq!((status, &report["new_blobs"]), (Some(0), &0.into()), "{report}");
    assert_eq!(report["images"][0]["tag"], "known");
}

#[test]
fn one_platform_goes_where_only_one_was_pulled() {
    let Some(mut bench) = Bench::start() else { return };
    let layout = multi_arch(200_000);
    bench.push(&layout, "1");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| dir.path().join(name);
    let here = format!("docker://{}/library/{NAME}:1", bench.pierhead.host());
    bench.pull_amd64(&here, &at("here"));
    bench.pierhead.wait_for_fills();
    let folder = format!("{}/", at("layout").display());
    let out = told(&bench.pierhead, &["export", "--all", "--to", &folder]).ok();
    assert!(out.stdout.contains("parts that were not pulled"), "{out}");
    assert!(!out.stdout.contains("INCOMPLETE"), "{out}");
    let from = format!("oci:{}:docker.io/library/{NAME}:1", at("layout").display());
    bench.pull_amd64(&from, &at("layout-copy"));
    assert_eq!(files(&at("layout-copy")), files(&at("here")));

    bench.registry.stop();
    let there = pierhead(&bench.registry.url());
    told(&there, &["import", &folder]).ok();
    let from = format!("docker://{}/library/{NAME}:1", there.host());
    bench.pull_amd64(&from, &at("there"));
    assert_eq!(files(&at("there")), files(&at("here")));
    // The other platform is as unknown as it was.
    let arm64 = layout.platform("arm64");
    let missing = format!("{}/v2/library/{NAME}/manifests/{arm64}", there.url());
    super::ask("GET", &missing).expect(502);
}

#[test]
fn the_storage_is_opened_directly_where_no_server_runs() {
    let Some(mut bench) = Bench::start() else { return };
    let layout = multi_arch(100_000);
    bench.push(&layout, "1");
    let direct = bench.copied(bench.pierhead.host(), "1");
    bench.pierhead.wait_for_fills();
    bench.registry.stop();
    let toml = format!("[upstream.\"docker.io\"]\nendpoints = [\"{}\"]\n", bench.registry.url());
    // Both at fixed addresses from now on, where nobody listens yet or any more.
    let mut there = Options::new(binary()).config(&toml).start();
    for pierhead in [&mut bench.pierhead, &mut there] {
        pierhead.set_config(&toml);
        pierhead.terminate();
    }
    let script = "\"$0\" export --all --to - --config \"$1\" | \"$0\" import - --config \"$2\"";
    let run = Run::new("sh").args(["-c", script]).arg(binary());
    let out = run.arg(bench.pierhead.config_path()).arg(there.config_path()).output().ok();
    assert!(out.stderr.contains("opened directly"), "{out}");
    there.restart();
    assert_eq!(bench.copied(there.host(), "1"), direct);

    // A running server holds the storage: who cannot reach it there is told so.
    let elsewhere = there.config_path().with_file_name("elsewhere.toml");
    let config = std::fs::read_to_string(there.config_path()).expect("its configuration");
    let mut config: toml::Table = config.parse().expect("TOML");
    config["server"]["admin_listen"] = "127.0.0.1:1".into();
    std::fs::write(&elsewhere, config.to_string()).expect("a file");
    let out = command(["export", "--all", "--to", "x.tar", "--config", text(&elsewhere)]).output();
    assert_eq!(out.status.and_then(|status| status.code()), Some(3), "{out}");
    assert!(out.stderr.contains("another Pierhead uses this storage"), "{out}");
}

#[test]
fn layouts_of_skopeo_come_in_by_a_name_that_is_given() {
    let Some(mut bench) = Bench::start() else { return };
    let layout = multi_arch(100_000);
    bench.push(&layout, "1");
    let direct = bench.copied(&bench.registry.host(), "1");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let archive = dir.path().join("skopeo.tar");
    let from = format!("docker://{}/library/{NAME}:1", bench.registry.host());
    let to = format!("oci-archive:{}:latest", archive.display());
    let copy = ["copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false"];
    bench.skopeo.run(copy.into_iter().chain([from.as_str(), &to])).ok();
    bench.registry.stop();

    let there = pierhead(&bench.registry.url());
    let out = told(&there, &["import", text(&archive)]).fails();
    assert_eq!(out.status.and_then(|status| status.code()), Some(1), "{out}");
    assert!(out.stderr.contains("--as NAME:TAG"), "{out}");
    told(&there, &["import", text(&archive), "--as", &format!("{NAME}:mine")]).ok();
    assert_eq!(bench.copied(there.host(), "mine"), direct);
}

#[test]
fn failures_are_named_and_have_their_status() {
    let Some(bench) = Bench::start() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let archive = dir.path().join("x.tar");
    let to = text(&archive);
    let status = |out: &Output| out.status.and_then(|status| status.code());
    let out = told(&bench.pierhead, &["export", "never/pulled:1", "--to", to]);
    assert_eq!(status(&out), Some(1), "{out}");
    assert!(out.stderr.contains("docker.io/never/pulled:1: it was never pulled"), "{out}");
    assert!(!archive.exists(), "an archive without images");
    let out = told(&bench.pierhead, &["export", "no such name", "--to", to]);
    assert_eq!(status(&out), Some(2), "{out}");
    std::fs::write(&archive, b"no archive, however long it is".repeat(100)).expect("a file");
    let out = told(&bench.pierhead, &["import", to]);
    assert_eq!(status(&out), Some(1), "{out}");
    assert!(out.stderr.contains("no tar archive"), "{out}");
    let out = command(["import", to, "--url", "http://127.0.0.1:1", "--token-file"])
        .arg(bench.pierhead.storage().join("admin.token"))
        .output();
    assert_eq!(status(&out), Some(3), "{out}");
}

#[test]
fn a_storage_is_not_opened_or_made_by_mistake() {
    let mut pierhead = pierhead("http://127.0.0.1:1");
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(dir.path().join("x.tar"), b"no archive".repeat(100)).expect("a file");
    let (_, address) = pierhead.admin_url().split_once("://").expect("a URL");
    let server = format!("[server]\nadmin_listen = \"{address}\"\n");
    let storage = "[storage]\npath = \"storage\"\n";
    // In another directory, with what is configured there.
    let run = |config: &str, args: &str| {
        std::fs::write(dir.path().join("here.toml"), config).expect("a file");
        let script = format!("cd \"$1\" && exec \"$0\" {args} --config here.toml");
        let run = Run::new("sh").args(["-c", &script]).arg(binary()).arg(dir.path());
        let out = run.output();
        (out.status.and_then(|status| status.code()), out)
    };
    let made = || {
        let entries = std::fs::read_dir(dir.path()).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> = names.filter_map(|name| name.into_string().ok()).collect();
        names.retain(|name| !matches!(name.as_str(), "here.toml" | "x.tar"));
        names
    };
    let (import, export) = ("import x.tar", "export --all --to y.tar");

    // One runs, and its token is elsewhere.
    for config in [server.clone(), format!("{server}{storage}")] {
        for args in [import, export] {
            let (status, out) = run(&config, args);
            assert_eq!(status, Some(3), "{out}");
            assert!(out.stderr.contains("a Pierhead seems to run"), "{out}");
            assert!(out.stderr.contains("--config, or the file with --token-file"), "{out}");
            assert_eq!(made(), [""; 0]);
        }
    }

    // None runs: only an import, and only where its place was chosen, makes a storage.
    pierhead.terminate();
    for (config, args) in
        [(&server, import), (&server, export), (&format!("{server}{storage}"), export)]
    {
        let (status, out) = run(config, args);
        assert_eq!(status, Some(1), "{out}");
        assert!(out.stderr.contains("there is no storage at"), "{out}");
        assert_eq!(made(), [""; 0]);
    }
    let (status, out) = run(&format!("{server}{storage}"), import);
    assert_eq!(status, Some(1), "{out}");
    assert!(out.stderr.contains("opened directly"), "{out}");
    assert!(out.stderr.contains("no tar archive"), "{out}");
    assert_eq!(made(), ["storage"]);
}
