//! `pierhead plugin build`: from a project to a file that can be mounted, whatever the language.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::toolchain::{TARGET, Toolchain, ToolchainError};

/// Why a project cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is no project.
    #[error("{0} is no plugin project: it has neither a Cargo.toml nor a package.json")]
    NoProject(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot {doing} {path}: {source}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is nothing that compiles for WebAssembly.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// A program cannot be started.
    #[error("cannot start {program}: {source}; is it installed?")]
    Start {
        /// Which one.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program failed; it has said why.
    #[error("{0} failed")]
    Failed(String),
    /// What a program said is not what was expected.
    #[error("{program} said something unexpected: {why}")]
    Unexpected {
        /// Which one.
        program: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// Builds the project in `dir`; the tools that do it talk to the terminal. Returns the plugin's
/// file, which lies in `dir`.
///
/// # Errors
/// When it cannot be built.
pub fn build(dir: &Path) -> Result<PathBuf, BuildError> {
    if dir.join("Cargo.toml").is_file() {
        cargo(dir)
    } else if dir.join("package.json").is_file() {
        npm(dir)
    } else {
        Err(BuildError::NoProject(dir.to_owned()))
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

fn cargo(dir: &Path) -> Result<PathBuf, BuildError> {
    let toolchain = Toolchain::find()?;
    let unexpected = |why: String| BuildError::Unexpected { program: "cargo", why };
    let mut command = Command::new("cargo");
    command.current_dir(dir).args(["metadata", "--format-version=1", "--no-deps"]);
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|source| BuildError::Start { program: "cargo".to_owned(), source })?;
    if !output.status.success() {
        return Err(BuildError::Failed("cargo metadata".to_owned()));
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).map_err(|error| unexpected(error.to_string()))?;
    let manifest = file("find", &dir.join("Cargo.toml"), |path| path.canonicalize())?;
    let here = |package: &&Package| {
        package.manifest_path.canonicalize().is_ok_and(|path| path == manifest)
    };
    let package = metadata.packages.iter().find(here);
    let package =
        package.ok_or_else(|| unexpected("the project is not among its packages".into()))?;
    let library = package.targets.iter().find(|target| target.kind.iter().any(|k| k == "cdylib"));
    let library = library.ok_or_else(|| {
        unexpected(
            "the library is no cdylib; add crate-type = [\"cdylib\", \"rlib\"] to [lib]".into(),
        )
    })?;
    let mut command = Command::new("cargo");
    command.current_dir(dir).args(["build", "--release", "--lib", "--target", TARGET]);
    command.args(["--package", &package.name]);
    toolchain.apply(&mut command);
    run(command, "cargo build")?;
    let artifact = metadata
        .target_directory
        .join(TARGET)
        .join("release")
        .join(format!("{}.wasm", library.name.replace('-', "_")));
    let plugin = dir.join(format!("{}.wasm", package.name));
    copy(&artifact, &plugin)?;
    Ok(plugin)
}

#[derive(Deserialize)]
struct NpmPackage {
    name: String,
}

fn npm(dir: &Path) -> Result<PathBuf, BuildError> {
    let text = file("read", &dir.join("package.json"), |path| fs::read_to_string(path))?;
    let package: NpmPackage = serde_json::from_str(&text).map_err(|error| {
        BuildError::Unexpected { program: "package.json", why: error.to_string() }
    })?;
    if !dir.join("node_modules").is_dir() {
        let mut command = Command::new("npm");
        command.current_dir(dir).args(["install", "--no-audit", "--no-fund"]);
        run(command, "npm install")?;
    }
    let mut command = Command::new("npm");
    command.current_dir(dir).args(["run", "--silent", "build"]);
    run(command, "npm run build")?;
    let plugin = dir.join(format!("{}.wasm", package.name));
    file("find", &plugin, |path| path.metadata().map(drop))?;
    Ok(plugin)
}

fn run(mut command: Command, program: &str) -> Result<(), BuildError> {
    let status = command
        .status()
        .map_err(|source| BuildError::Start { program: program.to_owned(), source })?;
    if status.success() { Ok(()) } else { Err(BuildError::Failed(program.to_owned())) }
}

/// Puts a whole new file in the place of the old one: a running Pierhead may be watching it.
fn copy(from: &Path, to: &Path) -> Result<(), BuildError> {
    let part = to.with_extension("wasm.part");
    file("read", from, |from| fs::copy(from, &part).map(drop))?;
    file("write", to, |to| fs::rename(&part, to))
}

fn file<T>(
    doing: &'static str,
    path: &Path,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> Result<T, BuildError> {
    act(path).map_err(|source| BuildError::File { doing, path: path.to_owned(), source })
}
