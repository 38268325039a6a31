//! podman, which is no daemon.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::{Output, Run, require, require_root, unmount_below};

/// A podman with a storage and a registries.conf of its own.
#[derive(Debug)]
pub struct Podman {
    podman: PathBuf,
    dir: TempDir,
}

impl Podman {
    /// `None` where podman cannot run. `registries_conf` is TOML in podman's version 2.
    #[track_caller]
    pub fn new(registries_conf: &str) -> Option<Self> {
        let podman = require("podman")?;
        if !require_root("podman in these tests") {
            return None;
        }
        let dir = TempDir::with_prefix("pierhead-podman-").expect("a temporary directory");
        fs::write(dir.path().join("registries.conf"), registries_conf).expect("a file");
        Some(Self { podman, dir })
    }

    /// One whose docker.io is `location` (`127.0.0.1:PORT/docker.io`), without TLS.
    #[track_caller]
    pub fn with_docker_io_at(location: &str) -> Option<Self> {
        Self::new(&format!(
            "unqualified-search-registries = [\"docker.io\"]\n\
             [[registry]]\nprefix = \"docker.io\"\nlocation = \"{location}\"\ninsecure = true\n"
        ))
    }

    /// Runs podman.
    pub fn podman<A: Into<std::ffi::OsString>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        let at = |name: &str| self.dir.path().join(name);
        Run::new(&self.podman)
            .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"])
            .args(["--storage-driver", "overlay"])
            .arg("--root")
            .arg(at("root"))
            .arg("--runroot")
            .arg(at("run"))
            .arg("--tmpdir")
            .arg(at("tmp"))
            .args(args)
            .env("CONTAINERS_REGISTRIES_CONF", at("registries.conf"))
            .env("HOME", at("home"))
            .env("XDG_RUNTIME_DIR", at("run"))
            .env("TMPDIR", self.dir.path())
            .deadline(Duration::from_secs(300))
            .output()
    }

    /// `podman pull`.
    pub fn pull(&self, image: &str) -> Output {
        self.podman(["pull", "--quiet", image])
    }

    /// Forgets all images.
    #[track_caller]
    pub fn forget_images(&self) {
        self.podman(["rmi", "--all", "--force"]).ok();
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        unmount_below(self.dir.path());
    }
}
