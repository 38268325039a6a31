//! The buildkit daemon and its client buildctl.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Child, Output, Run, require, require_root, unmount_below};

/// A buildkitd of its own.
#[derive(Debug)]
pub struct Buildkit {
    child: Option<Child>,
    buildctl: PathBuf,
    dir: TempDir,
}

impl Buildkit {
    /// Starts one with that `buildkitd.toml`; `None` where buildkitd cannot run.
    #[track_caller]
    pub fn start(config: &str) -> Option<Self> {
        let buildkitd = require("buildkitd")?;
        let buildctl = require("buildctl")?;
        require("runc")?;
        if !require_root("buildkitd in these tests") {
            return None;
        }
        let dir = TempDir::with_prefix("pierhead-buildkit-").expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("buildkitd.toml"), config).expect("a file");
        let mut command = Command::new(buildkitd);
        command.arg("--config").arg(at("buildkitd.toml")).arg("--root").arg(at("root"));
        command.arg("--addr").arg(format!("unix://{}", at("sock").display()));
        // No other daemon, no networks, no file system that the kernel may lack.
        command.args(["--containerd-worker=false", "--oci-worker=true", "--oci-worker-net=host"]);
        command.arg("--oci-worker-snapshotter=native");
        let mut child = Child::spawn("buildkitd", command, dir.path());
        let socket = at("sock");
        child.wait_ready("socket", Duration::from_secs(60), |_| {
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
        let buildkit = Self { child: Some(child), buildctl, dir };
        buildkit.buildctl(["debug", "workers"]).ok();
        Some(buildkit)
    }

    /// Runs buildctl.
    pub fn buildctl<A: Into<std::ffi::OsString>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Output {
        Run::new(&self.buildctl)
            .arg("--addr")
            .arg(format!("unix://{}", self.dir.path().join("sock").display()))
            .args(args)
            .env("HOME", self.dir.path())
            .deadline(Duration::from_secs(300))
            .output()
    }

    /// Builds a Dockerfile with nothing beside it, into nothing.
    pub fn build(&self, dockerfile: &str) -> Output {
        let context = self.dir.path().join("context");
        fs::create_dir_all(&context).expect("a directory");
        fs::write(context.join("Dockerfile"), dockerfile).expect("a file");
        let local = |name: &str| format!("{name}={}", context.display());
        self.buildctl([
            "build",
            "--progress=plain",
            "--frontend=dockerfile.v0",
            "--local",
            &local("context"),
            "--local",
            &local("dockerfile"),
            "--output",
            &format!("type=oci,dest={}", self.dir.path().join("built.tar").display()),
        ])
    }
}

impl Drop for Buildkit {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child
            && !std::thread::panicking()
        {
            child.terminate(Duration::from_secs(30));
        }
        self.child = None;
        unmount_below(self.dir.path());
    }
}
