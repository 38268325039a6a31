//! The programs that are measured or measure: found, built, and named with their versions.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pierhead_kit::program::which;
use serde_json::Value;
use tempfile::TempDir;

use crate::Result;

/// A program that is needed, with the Debian package that has it.
pub(crate) type Needed = (&'static str, &'static str);

/// The web server with which everybody compares.
pub(crate) const NGINX: Needed = ("nginx", "nginx-light");
/// The distribution project's registry.
pub(crate) const DOCKER_REGISTRY: Needed = ("docker-registry", "docker-registry");
/// The load generator.
pub(crate) const WRK: Needed = ("wrk", "wrk");
/// One client as people use it.
pub(crate) const CURL: Needed = ("curl", "curl");

/// Where a program is, or how to get it.
pub(crate) fn find((name, package): Needed) -> Result<PathBuf> {
    which(name).ok_or_else(|| {
        format!("{name} is not installed: apt-get install --no-install-recommends {package}").into()
    })
}

/// Fails with one message about everything that is missing.
pub(crate) fn check(needed: &[Needed]) -> Result<()> {
    let missing: Vec<_> = needed.iter().filter(|(name, _)| which(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    let (names, packages) = (names.join(", "), packages.join(" "));
    Err(format!("not installed: {names}\n  apt-get install --no-install-recommends {packages}")
        .into())
}

/// Pierhead as it is released, in a place where no later build replaces it.
#[derive(Debug)]
pub(crate) struct Built {
    program: PathBuf,
    _dir: TempDir,
}

impl Built {
    /// Where it is.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }
}

/// Builds Pierhead as it is released.
pub(crate) fn build_pierhead() -> Result<Built> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask has no parent")?;
    println!("building Pierhead (cargo build --release)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "pierhead", "--bin", "pierhead"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("Pierhead does not build".into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let executable = messages
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .ok_or("cargo did not say where the program is")?;
    let dir = TempDir::with_prefix("pierhead-build-")?;
    let program = dir.path().join("pierhead");
    std::fs::copy(executable, &program)?;
    Ok(Built { program, _dir: dir })
}

/// What a program calls its version: the first line that has one.
pub(crate) fn version(program: &Path, argument: &str) -> String {
    let Ok(output) = Command::new(program).arg(argument).stdin(Stdio::null()).output() else {
        return "unknown".to_owned();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.bytes().any(|byte| byte.is_ascii_digit()));
    line.unwrap_or("unknown").trim().to_owned()
}

/// The processors and the kernel of this machine.
pub(crate) fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| "unknown processor".to_owned());
    let sha = field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "sha_ni"));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let sha = if sha { "with" } else { "without" };
    format!("{cpus} x {model}, {sha} SHA instructions, Linux {}", kernel.trim())
}
