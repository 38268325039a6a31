//! A real root file system, from Debian's packages.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use flate2::Compression;

use super::{Layout, Writer};
use crate::program;

/// Debian bookworm's minbase as an image of one layer (about 70 MB), or `None` where debootstrap or
/// root's rights are missing; see [`program::require`].
///
/// The packages come through the mirror of this machine's apt sources. The image is made once and
/// kept in the directory that `PIERHEAD_TEST_CACHE` names, by default `test-cache` in cargo's
/// target directory.
pub fn debootstrap_rootfs() -> Option<Layout> {
    let cache = cache_dir();
    let done = cache.join("bookworm-minbase");
    if done.join("index.json").exists() {
        return Some(Layout::open(done));
    }
    let debootstrap = program::require("debootstrap")?;
    if !program::require_root("debootstrap") {
        return None;
    }
    fs::create_dir_all(&cache).expect("a cache directory");
    let lock = File::create(cache.join("bookworm-minbase.lock")).expect("a lock file");
    lock.lock().expect("a lock");
    if !done.join("index.json").exists() {
        let work = tempfile::TempDir::with_prefix_in("making-", &cache).expect("a directory");
        let root = work.path().join("root");
        program::Run::new(debootstrap)
            .args(["--variant=minbase", "--include=ca-certificates", "bookworm"])
            .arg(&root)
            .arg(mirror())
            .deadline(Duration::from_secs(600))
            .output()
            .ok();
        let _ = fs::remove_dir_all(root.join("var/cache/apt/archives"));
        let layout = work.path().join("layout");
        let writer = Writer::new(&layout);
        let mut tar = Command::new("tar")
            .args(["--create", "--sort=name", "--numeric-owner", "--one-file-system", "--mtime=@0"])
            .arg("--directory")
            .arg(&root)
            .arg(".")
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar");
        let layer = writer.layer_from_tar(tar.stdout.take().expect("a pipe"), Compression::fast());
        assert!(tar.wait().expect("tar").success(), "tar failed");
        let image = writer.image("amd64", &[layer]);
        let _ = writer.finish(image);
        fs::rename(&layout, &done).expect("the cache's own directory");
    }
    Some(Layout::open(done))
}

fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("PIERHEAD_TEST_CACHE") {
        return dir.into();
    }
    // TARGET/release/deps/TEST-hash
    let test = std::env::current_exe().expect("the test's own path");
    let target = test.ancestors().nth(3).expect("it lies in cargo's target directory");
    target.join("test-cache")
}

/// The mirror that apt uses for Debian's main suite.
fn mirror() -> String {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let more = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(more.map(|entry| entry.path()));
    let found = files.iter().find_map(|file| debian_mirror(file));
    found.expect("apt's sources name a mirror of Debian's main suite")
}

fn debian_mirror(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let is_main = |uri: &str| {
        let uri = uri.trim_end_matches('/');
        uri.ends_with("/debian") && (uri.starts_with("http") || uri.starts_with("file"))
    };
    // Both formats name the address as a word of its own: `deb URI SUITE ...` and `URIs: URI`.
    let lines =
        text.lines().map(str::trim).filter(|l| l.starts_with("deb ") || l.starts_with("URIs:"));
    let mut words = lines.flat_map(str::split_whitespace);
    words.find(|word| is_main(word)).map(str::to_owned)
}
