//! Where a compiler is that makes WebAssembly of Rust, and how one is come by.
//!
//! In this order: the Rust that is in use has the target; Debian's Rust has it (of an earlier
//! [`install`]); rustup adds it; Debian's packages, which change the system and so come only by
//! [`install`].

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target that plugins in Rust are built for.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's compiler, when its packages are installed.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// Debian's packages: a compiler that knows the target, and the library's source.
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];

/// The variable by which cargo is told of another linker for the target.
const LINKER_VARIABLE: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER";

/// A compiler that makes WebAssembly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler, if it is not the one that cargo uses anyway.
    rustc: Option<PathBuf>,
    /// The linker, if that compiler does not know one.
    linker: Option<PathBuf>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ToolchainError {
    /// There is nothing that compiles for WebAssembly.
    #[error(
        "no Rust here can compile for {TARGET}; run `rustup target add {TARGET}`, or on Debian \
         without rustup's server `cargo xtask plugins --install-toolchain`, which installs {}",
        DEBIAN_PACKAGES.join(" and ")
    )]
    None,
    /// There is a compiler, and no linker for it.
    #[error(
        "{DEBIAN_RUSTC} can compile for {TARGET}, and there is no linker for it: neither rust-lld \
         in the active Rust nor wasm-ld; on Debian, install lld"
    )]
    NoLinker,
    /// A step failed.
    #[error("cannot {step}: {why}")]
    Step {
        /// Which one.
        step: String,
        /// Why.
        why: String,
    },
}

/// What a program says, if it succeeds.
fn ask(program: &OsStr, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout).ok())??;
    Some(text.trim().to_owned())
}

/// The compiler that cargo uses.
fn active() -> PathBuf {
    std::env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from)
}

/// Where a compiler looks for the target's libraries.
fn library_folder(rustc: &Path) -> Option<PathBuf> {
    let folder = ask(rustc.as_os_str(), &["--print", "target-libdir", "--target", TARGET])?;
    Some(PathBuf::from(folder))
}

/// Whether the standard library is in the folder.
fn has_library(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

fn compiles(rustc: &Path) -> bool {
    library_folder(rustc).is_some_and(|folder| has_library(&folder))
}

/// The linker that comes with a compiler.
fn own_linker(rustc: &Path) -> Option<PathBuf> {
    let sysroot = ask(rustc.as_os_str(), &["--print", "sysroot"])?;
    let version = ask(rustc.as_os_str(), &["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "))?;
    let linker = Path::new(&sysroot).join("lib/rustlib").join(host).join("bin/rust-lld");
    linker.is_file().then_some(linker)
}

/// A program on the path.
fn on_path(name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH")?;
    std::env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The toolchain of Debian's packages, once its library is built.
fn debian() -> Result<Option<Toolchain>, ToolchainError> {
    let rustc = Path::new(DEBIAN_RUSTC);
    if !rustc.is_file() || !compiles(rustc) {
        return Ok(None);
    }
    if own_linker(rustc).is_some() {
        return Ok(Some(Toolchain { rustc: Some(rustc.to_owned()), linker: None }));
    }
    let linker = own_linker(&active())
        .or_else(|| ["rust-lld", "wasm-ld"].iter().find_map(|name| on_path(name)));
    let linker = linker.ok_or(ToolchainError::NoLinker)?;
    Ok(Some(Toolchain { rustc: Some(rustc.to_owned()), linker: Some(linker) }))
}

impl Toolchain {
    /// Finds a compiler, and has rustup add the target if that is what it takes.
    ///
    /// # Errors
    /// When there is none, and rustup cannot help.
    pub fn find() -> Result<Self, ToolchainError> {
        let in_use = Self { rustc: None, linker: None };
        if compiles(&active()) {
            return Ok(in_use);
        }
        if let Some(debian) = debian()? {
            return Ok(debian);
        }
        // It tells the terminal what it does.
        let added = Command::new("rustup").args(["target", "add", TARGET]).status();
        if added.is_ok_and(|status| status.success()) && compiles(&active()) {
            return Ok(in_use);
        }
        Err(ToolchainError::None)
    }

    /// Makes a cargo command use it.
    pub fn apply(&self, command: &mut Command) {
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", rustc);
            // A wrapper would ask the other compiler.
            command.env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
        }
        if let Some(linker) = &self.linker {
            command.env(LINKER_VARIABLE, linker);
        }
    }

    /// The compiler's name, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let rustc = self.rustc.clone().unwrap_or_else(active);
        ask(rustc.as_os_str(), &["--version"]).unwrap_or_else(|| rustc.display().to_string())
    }
}

/// Runs a step of the installation; it talks to the terminal.
fn step(what: &str, command: &mut Command) -> Result<(), ToolchainError> {
    let failed = |why: String| ToolchainError::Step { step: what.to_owned(), why };
    let status = command.status().map_err(|error| failed(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(status.to_string())) }
}

/// A command of the system's administrator.
fn administrator(program: &str) -> Command {
    let root = ask(OsStr::new("id"), &["-u"]).is_some_and(|user| user == "0");
    if root {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Finds a compiler, or installs Debian's, which changes the system: `tell` says what will be done,
/// before it is.
///
/// # Errors
/// When a step fails.
pub fn install(tell: &mut dyn FnMut(&str)) -> Result<Toolchain, ToolchainError> {
    match Toolchain::find() {
        Err(ToolchainError::None) if on_path("apt-get").is_some() => {}
        found => return found,
    }
    tell(&format!(
        "no Rust here can compile for {TARGET}, and rustup cannot add it. Now, as root:\n\
         1. apt-get install {}\n\
         2. build the standard library for {TARGET} of the source in the second package\n\
         3. copy it to where {DEBIAN_RUSTC} looks for it\n\
         It takes a few minutes, once.",
        DEBIAN_PACKAGES.join(" ")
    ));
    step("read the package lists", administrator("apt-get").args(["update", "-qq"]))?;
    step(
        "install Debian's Rust",
        administrator("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends"])
            .args(DEBIAN_PACKAGES),
    )?;
    let folder = std::env::temp_dir().join(format!("pierhead-wasm-std-{}", std::process::id()));
    let built = library(&folder);
    // What is left of it is of no use to anybody.
    let _ = fs::remove_dir_all(&folder);
    built?;
    debian()?.ok_or(ToolchainError::None)
}

/// Builds the standard library, and copies it to its place.
fn library(folder: &Path) -> Result<(), ToolchainError> {
    let failed = |step: &str| {
        let step = step.to_owned();
        move |error: io::Error| ToolchainError::Step { step, why: error.to_string() }
    };
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder)).and_then(|()| fs::write(path, text))
    };
    // Any crate that is empty: its dependency on the standard library is what counts.
    let manifest = "[package]\nname = \"empty\"\nedition = \"2024\"\n\n[workspace]\n";
    write("Cargo.toml", manifest)
        .and_then(|()| write("src/lib.rs", ""))
        .map_err(failed("write an empty crate"))?;
    let mut command = Command::new("cargo");
    command
        .current_dir(folder)
        .args(["build", "--release", "--target", TARGET, "-Zbuild-std=std,panic_abort"])
        .env("RUSTC", DEBIAN_RUSTC)
        // The flag is one of nightly compilers.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env_remove("RUSTC_WRAPPER")
        // With what link-time optimization needs; plugins that want it would not build without.
        .env("RUSTFLAGS", "-Cembed-bitcode=yes")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    step("build the standard library", &mut command)?;

    let no_place = || ToolchainError::Step {
        step: "find the place of the library".to_owned(),
        why: format!("{DEBIAN_RUSTC} does not say"),
    };
    let place = library_folder(Path::new(DEBIAN_RUSTC)).ok_or_else(no_place)?;
    let made = folder.join("target").join(TARGET).join("release/deps");
    let entries = fs::read_dir(made).map_err(failed("find what was built"))?;
    let libraries: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rlib"))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            !name.starts_with("libempty-")
        })
        .collect();
    step("make the library's folder", administrator("mkdir").arg("-p").arg(&place))?;
    step("copy the library", administrator("cp").args(libraries).arg(&place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_uses_the_compiler_that_was_found() {
        let toolchain =
            Toolchain { rustc: Some("/a/rustc".into()), linker: Some("/b/rust-lld".into()) };
        let mut command = Command::new("cargo");
        toolchain.apply(&mut command);
        let value = |name: &str| {
            let found = command.get_envs().find(|(key, _)| *key == name);
            found.and_then(|(_, value)| value).map(OsStr::to_owned)
        };
        assert_eq!(value("RUSTC"), Some("/a/rustc".into()));
        assert_eq!(value(LINKER_VARIABLE), Some("/b/rust-lld".into()));

        let mut command = Command::new("cargo");
        Toolchain { rustc: None, linker: None }.apply(&mut command);
        assert_eq!(command.get_envs().count(), 0, "the compiler in use needs nothing");
    }

    #[test]
    fn a_library_is_one_of_rust() {
        let folder =
            std::env::temp_dir().join(format!("pierhead-toolchain-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder is made");
        assert!(!has_library(&folder));
        fs::write(folder.join("libcore-1.rlib"), "").expect("a file is written");
        assert!(!has_library(&folder));
        fs::write(folder.join("libstd-1.rlib"), "").expect("a file is written");
        assert!(has_library(&folder));
        fs::remove_dir_all(&folder).expect("the folder is removed");
        assert!(!has_library(&folder));
    }
}
