//! The docker daemon.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Child, Output, Run, require, require_root, unmount_below};

/// A docker daemon of its own, without networks, and the docker client that talks to it.
#[derive(Debug)]
pub struct Dockerd {
    child: Option<Child>,
    docker: PathBuf,
    dir: TempDir,
}

impl Dockerd {
    /// Starts one with these `registry-mirrors`; `None` where dockerd cannot run.
    #[track_caller]
    pub fn start(mirrors: &[&str]) -> Option<Self> {
        Self::start_with(&serde_json::json!({ "registry-mirrors": mirrors }))
    }

    /// Starts one whose `daemon.json` has these keys, beside those that keep it to itself.
    #[track_caller]
    pub fn start_with(keys: &serde_json::Value) -> Option<Self> {
        let dockerd = require("dockerd")?;
        let docker = require("docker")?;
        if !require_root("dockerd") {
            return None;
        }
        // Debian's package depends on containerd and runc, which dockerd starts itself.
        require("containerd")?;
        let dir = TempDir::with_prefix("pierhead-dockerd-").expect("a temporary directory");
        let at = |name: &str| dir.path().join(name);
        let mut config = serde_json::json!({
            "data-root": at("data"),
            "exec-root": at("exec"),
            "pidfile": at("pid"),
            "hosts": [format!("unix://{}", at("sock").display())],
            "bridge": "none",
            "iptables": false,
            "ip6tables": false,
            "insecure-registries": ["127.0.0.0/8"],
        });
        for (key, value) in keys.as_object().expect("an object") {
            config[key] = value.clone();
        }
        fs::write(at("daemon.json"), config.to_string()).expect("a file");
        let mut command = Command::new(dockerd);
        command.arg("--config-file").arg(at("daemon.json"));
        let mut child = Child::spawn("dockerd", command, dir.path());
        child.wait_ready("answer to a ping", Duration::from_secs(60), |_| ping(&at("sock")));
        Some(Self { child: Some(child), docker, dir })
    }

    /// Runs the docker client.
    pub fn docker<A: Into<std::ffi::OsString>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        Run::new(&self.docker)
            .arg("-H")
            .arg(format!("unix://{}", self.dir.path().join("sock").display()))
            .args(args)
            .env("DOCKER_CONFIG", self.dir.path().join("client"))
            .deadline(Duration::from_secs(300))
            .output()
    }

    /// `docker pull`.
    pub fn pull(&self, image: &str) -> Output {
        self.docker(["pull", image])
    }

    /// Forgets all images, so that the next pull fetches everything.
    #[track_caller]
    pub fn forget_images(&self) {
        let ids = self.docker(["image", "ls", "--all", "--quiet", "--no-trunc"]).ok();
        let ids: Vec<_> = ids.text().lines().map(str::to_owned).collect();
        if !ids.is_empty() {
            self.docker(["image", "rm", "--force"].map(str::to_owned).into_iter().chain(ids)).ok();
        }
    }

    /// What the daemon has logged (standard error).
    pub fn log(&self) -> String {
        self.child.as_ref().map(Child::stderr).unwrap_or_default()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child
            && !std::thread::panicking()
        {
            // It ends its containerd and takes its mounts down.
            child.terminate(Duration::from_secs(30));
        }
        // Its containerd has a session of its own, and dies with it (PDEATHSIG) at the latest.
        self.child = None;
        unmount_below(self.dir.path());
    }
}

fn ping(socket: &Path) -> Option<()> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nhost: docker\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains(" 200 ").then_some(())
}
