//! The image that `Dockerfile` makes, from the program that was built for these tests.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pierhead_kit::http;
use pierhead_kit::images::debootstrap_rootfs;
use pierhead_kit::program::{Child, Run, require, require_root};
use pierhead_kit::upstream::FaultyUpstream;
use serde_json::Value;
use tempfile::TempDir;

use super::{PIERHEAD, read, root};

/// The user that the image runs as.
const USER: u32 = 65532;

const BASE: &str = "localhost/base:1";
const IMAGE: &str = "localhost/pierhead:test";

const BUILD: Duration = Duration::from_secs(300);
const START: Duration = Duration::from_secs(30);

/// A buildah with a storage of its own.
struct Buildah {
    program: PathBuf,
    dir: TempDir,
}

impl Buildah {
    fn new() -> Option<Self> {
        let program = require("buildah")?;
        let dir = TempDir::with_prefix("pierhead-buildah-").unwrap();
        require_root("buildah in these tests").then_some(Self { program, dir })
    }

    fn global(&self) -> [String; 6] {
        let at = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        ["--root".into(), at("root"), "--runroot".into(), at("run")]
            .into_iter()
            .chain(["--storage-driver".into(), "vfs".into()])
            .collect::<Vec<_>>()
            .try_into()
            .unwrap()
    }

    fn run(&self, args: &[&str]) -> String {
        let run = Run::new(&self.program).args(self.global()).args(args.iter().copied());
        run.env("TMPDIR", self.dir.path()).deadline(BUILD).output().ok().text().to_owned()
    }
}

#[test]
fn the_image_serves_as_nobody() {
    let Some(buildah) = Buildah::new() else { return };
    let Some(rootfs) = debootstrap_rootfs() else { return };
    let binary = buildah.dir.path().join("binary");
    fs::create_dir(&binary).unwrap();
    fs::copy(PIERHEAD, binary.join("pierhead")).unwrap();

    let base = buildah.run(&["pull", "--quiet", &format!("oci:{}", rootfs.dir().display())]);
    buildah.run(&["tag", &base, BASE]);
    let context = format!("binary={}", binary.display());
    buildah.run(&[
        "build",
        "--isolation",
        "chroot",
        "--pull-never",
        "--layers=false",
        "--quiet",
        "--build-arg",
        &format!("RUNTIME_IMAGE={BASE}"),
        "--build-context",
        &context,
        "--tag",
        IMAGE,
        root().to_str().unwrap(),
    ]);
    let image: Value =
        serde_json::from_str(&buildah.run(&["inspect", "--type", "image", IMAGE])).unwrap();
    let config = &image["OCIv1"]["config"];
    assert_eq!(config["User"], format!("{USER}:{USER}"));
    assert_eq!(config["Entrypoint"], serde_json::json!(["/usr/local/bin/pierhead"]));
    assert!(config["ExposedPorts"]["5000/tcp"].is_object(), "{config}");
    assert!(config["Volumes"]["/var/lib/pierhead"].is_object(), "{config}");
    assert_eq!(config["Labels"]["org.opencontainers.image.title"], "Pierhead");

    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/a", "1", [vec![7_u8; 200_000]]);
    let data = buildah.dir.path().join("data");
    fs::create_dir(&data).unwrap();
    chown(&data, Some(USER), Some(USER)).unwrap();
    let container = buildah.run(&["from", "--pull-never", IMAGE]);
    let mut command = Command::new(&buildah.program);
    command.args(buildah.global()).args(["run", "--isolation", "chroot"]);
    command.arg("--volume").arg(format!("{}:/var/lib/pierhead", data.display()));
    for (name, value) in [
        ("SERVER__LISTEN", "127.0.0.1:0".to_owned()),
        ("SERVER__ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ("UPSTREAM__DOCKER_IO__ENDPOINTS", format!("[\"{}\"]", upstream.url())),
    ] {
        command.arg("--env").arg(format!("PIERHEAD_{name}={value}"));
    }
    command.args([&container, "--", "/usr/local/bin/pierhead", "serve"]);
    command.env("TMPDIR", buildah.dir.path());
    let mut child = Child::spawn("buildah", command, buildah.dir.path());
    let address = child.wait_line("listening on http://", START);
    let url = format!("http://{}", address.trim());
    http::get(format!("{url}/v2/library/a/manifests/1")).expect(200);
    let blob = http::get(format!("{url}/v2/library/a/blobs/{}", image.layers[0])).expect(200);
    assert_eq!(blob.body, vec![7_u8; 200_000]);
    http::get(format!("{url}/readyz")).expect(200);
    let database = fs::metadata(data.join("meta-v1.sqlite")).unwrap();
    assert_eq!((database.uid(), database.gid()), (USER, USER));
    child.terminate(START);
}

#[test]
fn the_context_has_what_cargo_needs() {
    let context = TempDir::with_prefix("pierhead-context-").unwrap();
    for path in read(".dockerignore").lines().filter_map(|line| line.strip_prefix('!')) {
        let target = context.path().join(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        Run::new("/bin/cp").arg("-a").arg(root().join(path)).arg(target).output().ok();
    }
    let manifest = context.path().join("Cargo.toml");
    let metadata = Run::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--no-deps", "--format-version", "1"])
        .arg("--manifest-path")
        .arg(&manifest)
        .output()
        .ok();
    let metadata: Value = serde_json::from_str(metadata.text()).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let targets = packages.iter().flat_map(|package| package["targets"].as_array().unwrap());
    for target in targets {
        let source = target["src_path"].as_str().unwrap();
        assert!(Path::new(source).exists(), "{source} is not in the context");
    }
    assert!(packages.iter().any(|package| package["name"] == "pierhead"));
}
