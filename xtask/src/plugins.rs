//! Builds the bundled plugins for WebAssembly: `target/bundled/NAME.wasm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::Result;
use crate::toolchain::{self, TARGET, Toolchain};

/// The bundled plugins, each of which is a crate under `plugins/` or [`ENGINES`].
const NAMES: &str = include_str!("../../plugins/bundled/names.txt");

/// The workspace of those with an engine.
const ENGINES: &str = "plugins/engines";

/// Flags for the compiler, of that target alone.
const FLAGS_VARIABLE: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS";

/// As in the projects of `plugin new`: what a call may have written is put back after it, so that
/// less memory is a faster call. The engines evaluate deeply nested policies, and keep their
/// megabyte.
const SMALL_STACK: &str = "-Clink-arg=-zstack-size=131072";

/// The profile that they are built with.
const PROFILE: &str = "plugin";

/// Choices of `plugins`.
#[derive(Debug, Args)]
pub(crate) struct PluginsArgs {
    /// Installs Debian's Rust if there is no other way to WebAssembly, after saying so
    #[arg(long)]
    install_toolchain: bool,
    /// Only these; all, if none is named
    #[arg(value_name = "NAME")]
    only: Vec<String>,
}

/// Builds them.
pub(crate) fn run(args: &PluginsArgs) -> Result<bool> {
    let names: Vec<&str> = NAMES.lines().collect();
    if let Some(unknown) = args.only.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(format!("there is no bundled plugin {unknown}: {}", names.join(", ")).into());
    }
    let wanted = |name: &&str| args.only.is_empty() || args.only.iter().any(|only| only == name);
    let names: Vec<&str> = names.into_iter().filter(wanted).collect();

    let toolchain = if args.install_toolchain {
        toolchain::install(&mut |text| println!("{text}"))?
    } else {
        Toolchain::find()?
    };
    println!("{} for {TARGET}", toolchain.describe());

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("xtask has no parent")?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    // A folder of its own: another compiler at work in the same one makes both wait.
    let target = target.join("plugins");
    for workspace in [".", ENGINES] {
        let here = |name: &&&str| root.join(ENGINES).join(name).is_dir() == (workspace == ENGINES);
        let packages: Vec<&str> = names.iter().filter(here).copied().collect();
        if packages.is_empty() {
            continue;
        }
        // All at once: the two that take minutes share no more than their dependencies.
        let mut command = Command::new("cargo");
        command
            .current_dir(root.join(workspace))
            .args(["build", "--locked", "--lib", "--profile", PROFILE, "--target", TARGET])
            .arg("--target-dir")
            .arg(&target)
            .args(packages.iter().flat_map(|name| ["--package", name]))
            .env_remove("RUSTFLAGS");
        if workspace != ENGINES {
            command.env(FLAGS_VARIABLE, SMALL_STACK);
        }
        toolchain.apply(&mut command);
        if !command.status()?.success() {
            return Err(format!("{} were not built", packages.join(", ")).into());
        }
    }

    let folder = root.join("target/bundled");
    fs::create_dir_all(&folder)?;
    for name in names {
        let library = format!("{}.wasm", name.replace('-', "_"));
        let bytes = fs::read(target.join(TARGET).join(PROFILE).join(library))?;
        println!("{name:<16} {:>8} bytes", bytes.len());
        let place = folder.join(name).with_extension("wasm");
        // Writing the same again would build whatever embeds it again.
        if fs::read(&place).ok().as_ref() != Some(&bytes) {
            fs::write(place, bytes)?;
        }
    }
    Ok(true)
}
