//! containerd and its client ctr.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Child, Output, Run, require, require_root, unmount_below};

/// A containerd of its own.
#[derive(Debug)]
pub struct Containerd {
    child: Option<Child>,
    ctr: PathBuf,
    dir: TempDir,
}

impl Containerd {
    /// Starts one; `None` where containerd cannot run.
    #[track_caller]
    pub fn start() -> Option<Self> {
        let containerd = require("containerd")?;
        let ctr = require("ctr")?;
        if !require_root("containerd") {
            return None;
        }
        let dir = TempDir::with_prefix("pierhead-containerd-").expect("a temporary directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
            at("sock.ttrpc"),
            at("opt"),
        );
        fs::write(at("config.toml"), config).expect("a file");
        let mut command = Command::new(containerd);
        command.arg("--config").arg(at("config.toml"));
        let mut child = Child::spawn("containerd", command, dir.path());
        let containerd = |child: Option<Child>, dir| Self { child, ctr: ctr.clone(), dir };
        let socket = at("sock");
        child.wait_ready("socket", Duration::from_secs(60), |_| UnixStream::connect(&socket).ok());
        let containerd = containerd(Some(child), dir);
        containerd.ctr(["version"]).ok();
        Some(containerd)
    }

    /// Makes `mirror` (a URL) the only place that images of `host` (such as `docker.io`) come from.
    pub fn set_mirror(&self, host: &str, mirror: &str) {
        self.set_hosts_toml(
            host,
            &format!(
                "server = \"{mirror}\"\n[host.\"{mirror}\"]\n\
                 capabilities = [\"pull\", \"resolve\"]\n"
            ),
        );
    }

    /// Makes `content` the `hosts.toml` of `host`, which may be `_default`.
    pub fn set_hosts_toml(&self, host: &str, content: &str) {
        let dir = self.dir.path().join("hosts").join(host);
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("hosts.toml"), content).expect("a file");
    }

    /// Runs ctr.
    pub fn ctr<A: Into<std::ffi::OsString>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        Run::new(&self.ctr)
            .arg("--address")
            .arg(self.dir.path().join("sock"))
            .args(args)
            .deadline(Duration::from_secs(300))
            .output()
    }

    /// `ctr images pull` for this machine's platform, unpacked.
    pub fn pull(&self, image: &str) -> Output {
        let hosts = self.dir.path().join("hosts").display().to_string();
        self.ctr(["images", "pull", "--hosts-dir", &hosts, image])
    }

    /// The same as somebody who logs in.
    pub fn pull_as(&self, user: &str, password: &str, image: &str) -> Output {
        let hosts = self.dir.path().join("hosts").display().to_string();
        let user = format!("{user}:{password}");
        self.ctr(["images", "pull", "--hosts-dir", &hosts, "--user", &user, image])
    }

    /// `ctr content fetch` of all platforms, not unpacked.
    pub fn fetch_all(&self, image: &str) -> Output {
        let hosts = self.dir.path().join("hosts").display().to_string();
        self.ctr(["content", "fetch", "--hosts-dir", &hosts, "--all-platforms", image])
    }

    /// The digests of all content that it holds; containerd has checked them.
    pub fn content(&self) -> BTreeSet<String> {
        let out = self.ctr(["content", "ls", "--quiet"]).ok();
        out.text().lines().map(str::to_owned).collect()
    }

    /// The bytes of one piece of content.
    pub fn read(&self, digest: &str) -> Vec<u8> {
        let store = self.dir.path().join("root/io.containerd.content.v1.content/blobs");
        fs::read(store.join(digest.replace(':', "/"))).expect("content that was pulled")
    }

    /// Forgets all images and their content.
    #[track_caller]
    pub fn forget_images(&self) {
        let names = self.ctr(["images", "ls", "--quiet"]).ok();
        for name in names.text().lines() {
            self.ctr(["images", "rm", "--sync", name]).ok();
        }
        for digest in self.content() {
            let _ = self.ctr(["content", "rm", &digest]);
        }
    }
}

impl Drop for Containerd {
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
