//! The distribution project's registry, as Debian packages it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Child, require};
use crate::images::{Layout, push_layout};
use crate::port::Port;
use crate::wait_until;

/// A request in the registry's access log. It is written when the answer is over, so just after
/// the client has it.
#[derive(Clone, Debug)]
pub struct Request {
    /// GET, HEAD and so on.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query, without the question mark.
    pub query: String,
    /// The answer's status.
    pub status: u16,
    /// The bytes of the answer's body.
    pub bytes: u64,
}

/// A real registry with data in a temporary directory.
#[derive(Debug)]
pub struct DockerRegistry {
    child: Option<Child>,
    program: PathBuf,
    port: Port,
    dir: TempDir,
}

impl DockerRegistry {
    /// Starts one; `None` where docker-registry is not installed.
    #[track_caller]
    pub fn start() -> Option<Self> {
        Self::start_with("")
    }

    /// Starts one that is a pull-through cache of `remote`.
    #[track_caller]
    pub fn start_proxy(remote: &str) -> Option<Self> {
        Self::start_with(&format!("proxy:\n  remoteurl: {remote}\n"))
    }

    #[track_caller]
    fn start_with(more: &str) -> Option<Self> {
        let program = require("docker-registry")?;
        let dir = TempDir::with_prefix("pierhead-registry-").expect("a temporary directory");
        let port = Port::reserve();
        let data = dir.path().join("data");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: false\n\
             storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
             http:\n  addr: {}\n{more}",
            data.display(),
            port.addr(),
        );
        fs::write(dir.path().join("config.yml"), config).expect("a file");
        let mut registry = Self { child: None, program, port, dir };
        registry.resume();
        Some(registry)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.port.addr())
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.port.addr().to_string()
    }

    /// The process id; `None` while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::pid)
    }

    /// Pushes a layout; `name` is `library/app:1`. Returns the digest.
    #[track_caller]
    pub fn push(&self, layout: &Layout, name: &str) -> String {
        push_layout(layout, &self.host(), name)
    }

    /// Stops it. Its port refuses connections until [`resume`](Self::resume).
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.terminate(Duration::from_secs(20));
        }
    }

    /// Starts it again, with its data and at its port.
    #[track_caller]
    pub fn resume(&mut self) {
        if self.child.is_none() {
            let mut command = Command::new(&self.program);
            command.arg("serve").arg(self.dir.path().join("config.yml"));
            let mut child = Child::spawn("docker-registry", command, self.dir.path());
            child.wait_http(&format!("{}/v2/", self.url()), Duration::from_secs(20));
            self.child = Some(child);
        }
    }

    /// All requests so far, over all runs.
    pub fn access_log(&self) -> Vec<Request> {
        let log = fs::read(self.dir.path().join("docker-registry.stdout")).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().filter_map(parse).collect()
    }

    /// How many requests of that method had a path that contains `path_contains`.
    pub fn count(&self, method: &str, path_contains: &str) -> usize {
        let log = self.access_log();
        log.iter().filter(|r| r.method == method && r.path.contains(path_contains)).count()
    }

    /// Waits until the access log meets a condition.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut condition: impl FnMut(&[Request]) -> bool) {
        let met = || condition(&self.access_log()).then_some(());
        wait_until(what, Duration::from_secs(10), met);
    }
}

/// `127.0.0.1 - - [date] "GET /v2/ HTTP/1.1" 200 2 "" "agent"`
fn parse(line: &str) -> Option<Request> {
    let mut quoted = line.split('"');
    let mut words = quoted.nth(1)?.split(' ');
    let method = words.next()?.to_owned();
    let target = words.next()?;
    let mut numbers = quoted.next()?.split_whitespace();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(Request {
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        status: numbers.next()?.parse().ok()?,
        bytes: numbers.next()?.parse().unwrap_or(0),
    })
}
