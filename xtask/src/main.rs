//! Developer commands: `cargo xtask --help`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool prints")]

mod acceptance;
mod bench;
mod download;
mod herd;
mod load;
mod nginx;
mod origin;
mod plugins;
mod policy;
mod process;
mod programs;
mod relay;
mod report;
mod soak;
mod space;
mod streams;
// A file of plugins/tools, whose crate would bring wasmtime along: plugins build without it.
#[allow(unreachable_pub, reason = "public in the crate that owns it")]
#[path = "../../plugins/tools/src/toolchain.rs"]
mod toolchain;
mod warm;

use std::hash::{BuildHasher as _, Hasher as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// What goes wrong here is told to a person, and ends the command.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The result of a step.
pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", about = "Developer commands of Pierhead")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures Pierhead against nginx and Debian's docker-registry, in one run
    ///
    /// Everything is on loopback and in temporary directories. The contenders take turns, and what
    /// is printed are ratios of the same run: machines differ, and the same machine differs from
    /// hour to hour. Fails if a limit that has a number is broken (memory, GETs of one blob).
    ///
    /// Needs nginx (Debian: nginx-light), docker-registry, wrk and curl.
    Bench(BenchArgs),
    /// Checks the promises about herds, memory and space, with numbers
    ///
    /// 40 clients start at random moments while an upstream takes 12 s for one blob, and half of
    /// them are killed; then 100 clients pull 1 GB at once, cold and warm; then eight pull 3 GB at
    /// random through a cap of 500 MB, and again from a file system of 10 MB. Fails if a promise is
    /// not kept. Needs docker-registry, the right to mount, and about five minutes.
    Acceptance(AcceptanceArgs),
    /// Holds Pierhead in bad weather for a long time, and reports what leaks
    ///
    /// Twelve clients pull, read ranges, read slowly and go away, through a store that holds half
    /// of what they want, from two upstreams that reset, stall, lie, refuse and vanish. In the
    /// first half of the time the process is killed and restarted now and then. Memory, files,
    /// threads, tasks, spool, store and write-ahead log are sampled. Fails if something grows in
    /// the second half, if something is left when the clients are gone, if the store's cap is
    /// broken, or if any answer was wrong. Needs nothing but this machine.
    Soak(soak::SoakArgs),
    /// Builds the bundled plugins for WebAssembly, into target/bundled
    ///
    /// Pierhead embeds what is there when it is built. Needs a Rust with the target
    /// wasm32-unknown-unknown, which rustup adds if it can.
    Plugins(plugins::PluginsArgs),
}

/// Choices of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Also writes all samples there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// One round instead of three, shorter ones, and smaller blobs where that changes nothing
    #[arg(long)]
    quick: bool,
    /// Only measures whose name contains this; may be repeated
    /// (manifest, blob, herd, stagger, first, cold, memory)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
}

/// Choices of `acceptance`.
#[derive(Debug, Args)]
pub(crate) struct AcceptanceArgs {
    /// Repeats an earlier run's random moments
    #[arg(long)]
    seed: Option<u64>,
    /// Only promises whose name contains this (herd, memory, space)
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// A seed for whoever does not name one.
pub(crate) fn random_seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(args) => bench::run(&args),
        Command::Acceptance(args) => acceptance::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Plugins(args) => plugins::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
