//! Programs that go on until they are told to end.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use super::run::{kill_group, without_proxies};
use crate::http;

/// A running program, the leader of a process group that is killed when this is dropped (or when
/// the test's own process dies, in whatever way). What it prints goes to files, and to the test's
/// output if the test fails.
#[derive(Debug)]
pub struct Child {
    name: String,
    child: std::process::Child,
    watchdog: std::process::Child,
    status: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
    stdout_from: usize,
}

impl Child {
    /// Starts `command`. It appends to `NAME.stdout` and `NAME.stderr` in `log_dir`.
    #[track_caller]
    pub fn spawn(name: &str, mut command: Command, log_dir: &Path) -> Self {
        let stdout = log_dir.join(format!("{name}.stdout"));
        let stderr = log_dir.join(format!("{name}.stderr"));
        let open = |path| File::options().create(true).append(true).open(path).expect("a file");
        command.stdin(Stdio::null()).stdout(open(&stdout)).stderr(open(&stderr)).process_group(0);
        without_proxies(&mut command);
        let stdout_from = fs::metadata(&stdout).map_or(0, |meta| meta.len()) as usize;
        let child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        // Its input ends when this process does, however that happens.
        let watchdog = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -s KILL -- -\"$1\"", "watchdog"])
            .arg(child.id().to_string())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        let name = name.to_owned();
        Self { name, child, watchdog, status: None, stdout, stderr, stdout_from }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where standard output goes.
    pub fn stdout_path(&self) -> &Path {
        &self.stdout
    }

    /// What this run has printed to standard output so far.
    pub fn stdout(&self) -> String {
        let all = fs::read(&self.stdout).unwrap_or_default();
        String::from_utf8_lossy(all.get(self.stdout_from..).unwrap_or_default()).into_owned()
    }

    /// What was printed to standard error so far, by earlier runs too.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// The ends of both outputs, for messages.
    pub fn logs(&self) -> String {
        let tail = |text: String| {
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        };
        let (name, out, err) = (&self.name, tail(self.stdout()), tail(self.stderr()));
        format!("--- {name} stdout\n{out}\n--- {name} stderr\n{err}\n---")
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("our own child");
        }
        self.status
    }

    /// Asks `ready` until it answers `Some`. An error says why it came to nothing: the program
    /// ended, or the deadline passed.
    pub fn try_wait_ready<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut ready: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T, String> {
        let end = Instant::now() + deadline;
        loop {
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            if let Some(status) = self.status() {
                return Err(format!("{} ended ({status})\n{}", self.name, self.logs()));
            }
            if Instant::now() > end {
                let name = &self.name;
                return Err(format!("{name}: no {what} in {deadline:?}\n{}", self.logs()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for `ready`, or panics with the logs.
    #[track_caller]
    pub fn wait_ready<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        ready: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        self.try_wait_ready(what, deadline, ready).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Waits for a complete line on standard output that holds `text`; returns what follows it.
    #[track_caller]
    pub fn wait_line(&mut self, text: &str, deadline: Duration) -> String {
        self.wait_ready(text, deadline, |child| child.line_after(text))
    }

    pub(super) fn line_after(&self, text: &str) -> Option<String> {
        let out = self.stdout();
        let mut lines = out.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.find_map(|line| line.split_once(text).map(|(_, rest)| rest.trim().to_owned()))
    }

    /// Waits until something accepts connections there.
    #[track_caller]
    pub fn wait_tcp(&mut self, addr: SocketAddr, deadline: Duration) {
        let open = |_: &Self| TcpStream::connect(addr).ok();
        self.wait_ready(&format!("listener on {addr}"), deadline, open);
    }

    /// Waits until that URL answers 200.
    #[track_caller]
    pub fn wait_http(&mut self, url: &str, deadline: Duration) {
        let good = |_: &Self| {
            let answer = http::Request::new("GET", url).try_send();
            answer.ok().filter(|answer| answer.status == 200)
        };
        self.wait_ready(&format!("200 from {url}"), deadline, good);
    }

    /// Sends a signal to the program itself.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none()
            && let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGTERM, and waits for the end; panics when that takes longer than `deadline`.
    #[track_caller]
    pub fn terminate(&mut self, deadline: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        let end = Instant::now() + deadline;
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            let late = Instant::now() > end;
            assert!(!late, "{} did not end {deadline:?} after SIGTERM\n{}", self.name, self.logs());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL to the whole group.
    pub fn kill9(&mut self) {
        if self.status().is_none() {
            kill_group(self.pid());
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        // The leader may have ended and left others of its group. The group's number is not given
        // to anybody else before it is empty; and after that it is given again only once the
        // numbers have gone round.
        kill_group(self.pid());
        let _ = self.child.wait();
    }
}
