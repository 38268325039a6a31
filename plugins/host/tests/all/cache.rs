//! Compiled code that is kept.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use pierhead_plugin_host::{CompiledCache, Host, HostOptions, Isolation, Plugin};

use crate::kit::{ABSTAIN, Guest, World, ask, load, mount};

fn host(dir: &Path, key: u8) -> Host {
    let world = World::new();
    let compiled = Some(CompiledCache { dir: dir.to_owned(), key: [key; 32] });
    Host::new(HostOptions { compiled, ..world.options() }).expect("the host starts")
}

fn guest() -> Guest {
    Guest::policy(ABSTAIN).configured("(i32.const 2048)")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).expect("there").map(|entry| entry.expect("there").path()).collect()
}

async fn loaded(host: &Host) -> Plugin {
    let plugin = load(host, guest().module(), mount("m")).await.expect("it loads");
    ask(&plugin).await.result.expect("an answer");
    assert_eq!(plugin.info().isolation, Isolation::Snapshot);
    plugin
}

#[tokio::test]
async fn code_is_used_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("compiled");
    assert!(!loaded(&host(&dir, 1)).await.info().from_cache);
    assert!(loaded(&host(&dir, 1)).await.info().from_cache);
    let mode = fs::metadata(&dir).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let mode = fs::metadata(&files(&dir)[0]).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Other settings are another snapshot.
    let mut spec = mount("m");
    spec.config = serde_json::json!({});
    let plugin = load(&host(&dir, 1), guest().module(), spec).await.expect("it loads");
    assert!(!plugin.info().from_cache);
    assert_eq!(files(&dir).len(), 2);
    // So is another limit, by which `configure` may go.
    let mut spec = mount("m");
    spec.limits.memory_bytes /= 2;
    let plugin = load(&host(&dir, 1), guest().module(), spec).await.expect("it loads");
    assert!(!plugin.info().from_cache);
    assert_eq!(files(&dir).len(), 3);
}

#[tokio::test]
async fn what_was_tampered_with_is_thrown_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("compiled");
    loaded(&host(&dir, 1)).await;
    let [path] = files(&dir).try_into().expect("one file");
    let whole = fs::read(&path).expect("readable");
    for at in [0, 31, 32, 40, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).expect("writable");
        assert!(!loaded(&host(&dir, 1)).await.info().from_cache, "byte {at}");
        assert!(loaded(&host(&dir, 1)).await.info().from_cache, "it is replaced");
    }
    for cut in [0, 10, 32, 36, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).expect("writable");
        assert!(!loaded(&host(&dir, 1)).await.info().from_cache, "{cut} bytes");
    }
}

#[tokio::test]
async fn what_is_foreign_is_thrown_away() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("compiled");
    loaded(&host(&dir, 1)).await;
    // Of another node.
    assert!(!loaded(&host(&dir, 2)).await.info().from_cache);
    // Good code under another name.
    let [path] = files(&dir).try_into().expect("one file");
    let mut spec = mount("m");
    spec.config = serde_json::json!({});
    load(&host(&dir, 2), guest().module(), spec).await.expect("it loads");
    let other = files(&dir).into_iter().find(|found| *found != path).expect("another");
    fs::copy(&other, &path).expect("writable");
    assert!(!loaded(&host(&dir, 2)).await.info().from_cache);
}

#[tokio::test]
async fn a_directory_that_others_may_write_is_not_used() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("ours");
    assert!(!loaded(&host(dir.path(), 1)).await.info().from_cache);
    assert!(files(dir.path()).is_empty());
}
