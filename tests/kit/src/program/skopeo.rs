//! skopeo.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Output, Run, require};
use crate::sha256;

/// skopeo, for registries without TLS.
#[derive(Clone, Debug)]
pub struct Skopeo {
    skopeo: PathBuf,
}

impl Skopeo {
    /// `None` where it is not installed.
    #[track_caller]
    pub fn find() -> Option<Self> {
        Some(Self { skopeo: require("skopeo")? })
    }

    /// Runs skopeo.
    pub fn run<A: Into<std::ffi::OsString>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        Run::new(&self.skopeo)
            .arg("--insecure-policy")
            .args(args)
            .deadline(Duration::from_secs(300))
            .output()
    }

    /// Copies an image (`HOST:PORT/NAME:TAG` or `...@DIGEST`), all platforms, into a directory.
    pub fn copy_to_dir(&self, image: &str, dir: &Path) -> Output {
        let mut args = ["copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false"]
            .map(str::to_owned)
            .to_vec();
        args.extend([format!("docker://{image}"), format!("dir:{}", dir.display())]);
        self.run(args)
    }

    /// The raw manifest, as the registry sent it.
    pub fn inspect_raw(&self, image: &str) -> Output {
        self.run(["inspect", "--raw", "--tls-verify=false", &format!("docker://{image}")])
    }
}

/// The names and digests of all files of a directory, to compare two copies.
pub fn files(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(dir).expect("a directory").flatten();
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, sha256(fs::read(entry.path()).expect("a file")))
    };
    entries.map(file).collect()
}
