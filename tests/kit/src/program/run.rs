//! Programs that run to their end.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::Instant;

/// A program to be run to its end.
#[derive(Debug)]
pub struct Run {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    deadline: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// How it ended; `None` when it had to be killed after the deadline.
    pub status: Option<ExitStatus>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// Runs `program`, for a minute at most.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        Self { program, args: Vec::new(), env: Vec::new(), deadline: Duration::from_secs(60) }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the environment.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// How long it may take before its process group is killed.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it.
    #[track_caller]
    pub fn output(self) -> Output {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (out, err) = (dir.path().join("stdout"), dir.path().join("stderr"));
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(n, v)| (n, v)));
        without_proxies(&mut command);
        command.stdin(Stdio::null()).process_group(0);
        command.stdout(File::create(&out).expect("a file"));
        command.stderr(File::create(&err).expect("a file"));
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let end = Instant::now() + self.deadline;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(status) = child.try_wait().expect("our own child") {
                break Some(status);
            }
            if Instant::now() > end {
                kill_group(child.id());
                let _ = child.wait();
                break None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        let read =
            |path| String::from_utf8_lossy(&std::fs::read(path).expect("a file")).into_owned();
        let command = format!("{:?} {:?}", self.program, self.args);
        Output { command, status, stdout: read(out), stderr: read(err) }
    }
}

impl Output {
    /// Whether it ended well.
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Panics with everything that is known, unless it ended well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.success(), "failed: {self}");
        self
    }

    /// Panics unless it ended badly by itself.
    #[track_caller]
    pub fn fails(self) -> Self {
        let failed = self.status.is_some_and(|status| !status.success());
        assert!(failed, "should have failed: {self}");
        self
    }

    /// Standard output without the white space around it.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let status = match self.status {
            Some(status) => status.to_string(),
            None => "killed after its deadline".to_owned(),
        };
        let Self { command, stdout, stderr, .. } = self;
        write!(f, "{command}\n{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

/// Everything is on loopback: a proxy of the machine has no part in it.
pub(super) fn without_proxies(command: &mut Command) {
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        // debootstrap alone goes out, and may need them.
        if !command.get_program().to_string_lossy().ends_with("debootstrap") {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
    }
}

pub(super) fn kill_group(pid: u32) {
    if let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}
