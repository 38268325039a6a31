//! Real programs, run for a test and ended with it.

mod buildkit;
mod child;
mod containerd;
mod docker_registry;
mod dockerd;
mod pebble;
mod pierhead;
mod podman;
mod run;
mod skopeo;

pub use buildkit::Buildkit;
pub use child::Child;
pub use containerd::Containerd;
pub use docker_registry::{DockerRegistry, Request};
pub use dockerd::Dockerd;
pub use pebble::Pebble;
pub use pierhead::{Options, Pierhead};
pub use podman::Podman;
pub use run::{Output, Run};
pub use skopeo::{Skopeo, files};

use std::path::{Path, PathBuf};

/// What Debian does not have; `.ci/run` installs this version.
const PEBBLE: &str = "github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.1";

/// Finds a program on `PATH`, or where Debian keeps those for root.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let dirs = std::env::split_paths(&path).chain(system.iter().map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether a missing program fails the test: where `CI` or `PIERHEAD_REQUIRE_PROGRAMS` is set, to
/// anything but nothing, `0` or `false`.
fn strict() -> bool {
    ["CI", "PIERHEAD_REQUIRE_PROGRAMS"].iter().any(|name| {
        std::env::var(name).is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
    })
}

/// Finds a program that the test needs. Where it is missing, the test fails in continuous
/// integration (see `PIERHEAD_REQUIRE_PROGRAMS`), and elsewhere says so and gets `None`.
#[track_caller]
pub fn require(name: &str) -> Option<PathBuf> {
    let found = which(name);
    if found.is_none() {
        let package = match name {
            "dockerd" | "docker" => "docker.io",
            "ctr" => "containerd",
            "nginx" => "nginx-light",
            "ab" => "apache2-utils",
            "h2load" => "nghttp2-client",
            "buildkitd" | "buildctl" => {
                missing(&format!("{name} is not installed (.ci/run builds it)"));
                return None;
            }
            other => other,
        };
        missing(&match name {
            "pebble" => format!("{name} is not installed (go install {PEBBLE})"),
            _ => format!("{name} is not installed (apt-get install {package})"),
        });
    }
    found
}

/// Whether the test has root's rights; otherwise like a missing program.
#[track_caller]
pub fn require_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        missing(&format!("{what} needs root's rights"));
    }
    root
}

/// Something that the test needs is not there: fails it in continuous integration, and elsewhere
/// says that it is skipped.
#[track_caller]
pub fn missing(what: &str) {
    assert!(!strict(), "{what}");
    eprintln!("skipped: {what}");
}

/// Unmounts what a program left mounted below its directory, so that the directory can go.
fn unmount_below(dir: &Path) {
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo") else { return };
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut ours: Vec<_> = points.filter(|point| Path::new(point).starts_with(dir)).collect();
    ours.reverse();
    for point in ours {
        let _ = std::process::Command::new("umount").args(["-l", point]).status();
    }
}
