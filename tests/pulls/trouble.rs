//! Local trouble: disks and databases that fail under a running server, and between two runs.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use pierhead_kit::http::{self, End, Request};
use pierhead_kit::program::{Pierhead, Run};
use pierhead_kit::random::Random;
use pierhead_kit::space::{ReadOnly, TinyFs};
use pierhead_kit::upstream::{FaultyUpstream, ImageDigests};
use pierhead_kit::{sha256, wait_until};

use super::encryption::Site;
use super::{DEADLINE, PIERHEAD, blob_url, pierhead, pull_image, wait_until_stored};

const MIB: u64 = 1024 * 1024;

/// Layers of these tests: large enough to be read from files.
const LAYER: u64 = MIB;

fn image(upstream: &FaultyUpstream, n: u64) -> ImageDigests {
    let layer = |seed| Random::new(seed, LAYER).part(0, LAYER as usize);
    upstream.add_image(&name(n), "v1", [layer(2 * n), layer(2 * n + 1)])
}

fn name(n: u64) -> String {
    format!("library/image{n}")
}

/// How often upstream was asked for the layers.
fn gets(upstream: &FaultyUpstream, image: &ImageDigests) -> usize {
    image.layers.iter().map(|layer| upstream.count("GET", layer)).sum()
}

fn ready(pierhead: &Pierhead) -> String {
    http::get(format!("{}/readyz", pierhead.url())).expect(200).text()
}

/// What `pierhead status` prints.
fn status(pierhead: &Pierhead) -> String {
    let run = Run::new(PIERHEAD)
        .args(["status"])
        .env("PIERHEAD_URL", pierhead.admin_url())
        .env("PIERHEAD_TOKEN_FILE", pierhead.storage().join("admin.token"));
    run.output().ok().stdout
}

#[track_caller]
fn wait_until_degraded(pierhead: &Pierhead, part: &str, is_degraded: f64) {
    wait_until("the state of a part", DEADLINE, || {
        let now = pierhead.metric("pierhead_degraded", &[("part", part)]);
        (now == is_degraded).then_some(())
    });
}

/// What needs the right to mount is left out where that is not given, except in CI.
fn mounted<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Ok(mounted) => Some(mounted),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: cannot mount a file system: {error}");
            None
        }
        Err(error) => panic!("cannot mount a file system: {error}"),
    }
}

fn blob_path(pierhead: &Pierhead, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    pierhead.storage().join("blobs-v1/sha256").join(&hex[..2]).join(hex)
}

fn cut(path: &Path, len: u64) {
    fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap();
    File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn database(pierhead: &Pierhead) -> PathBuf {
    pierhead.storage().join("meta-v1.sqlite")
}

#[test]
fn a_read_only_store_fails_no_pull_and_keeps_again_when_it_can() {
    let upstream = FaultyUpstream::start_blocking();
    let images: Vec<_> = (0..2).map(|n| image(&upstream, n)).collect();
    let pierhead = pierhead(&upstream, "tag_ttl = \"0s\"");
    pull_image(&pierhead, &name(0), "v1", &images[0]);
    wait_until_stored(&pierhead, 3.0);
    let Some(read_only) = mounted(ReadOnly::over(pierhead.storage())) else { return };
    pull_image(&pierhead, &name(1), "v1", &images[1]);
    pull_image(&pierhead, &name(1), "v1", &images[1]);
    pull_image(&pierhead, &name(0), "v1", &images[0]);
    assert_eq!(gets(&upstream, &images[0]), 2, "what is stored is served");
    assert_eq!(gets(&upstream, &images[1]), 4, "what cannot be stored passes");
    wait_until_degraded(&pierhead, "store", 1.0);
    assert_eq!(pierhead.metric("pierhead_ready", &[]), 1.0);
    let text = ready(&pierhead);
    assert!(text.starts_with("ready\ndegraded: store: blobs cannot be written"), "{text}");
    assert!(text.contains("read-only"), "{text}");
    let text = status(&pierhead);
    assert!(text.lines().next().unwrap().contains("ready, DEGRADED"), "{text}");
    assert!(text.lines().nth(1).unwrap().contains("store: blobs cannot be written"), "{text}");

    drop(read_only);
    wait_until_degraded(&pierhead, "store", 0.0);
    assert_eq!(ready(&pierhead), "ready\n");
    pull_image(&pierhead, &name(1), "v1", &images[1]);
    wait_until_stored(&pierhead, 6.0);
    pull_image(&pierhead, &name(1), "v1", &images[1]);
    assert_eq!(gets(&upstream, &images[1]), 6, "kept again, without a restart");
}

#[test]
fn a_disk_that_fills_up_and_empties_fails_no_pull() {
    let Some(disk) = mounted(TinyFs::mount(24 * MIB)) else { return };
    let upstream = FaultyUpstream::start_blocking();
    let images: Vec<_> = (0..2).map(|n| image(&upstream, n)).collect();
    let storage = disk.path().join("storage");
    let config = format!("[storage]\npath = \"{}\"\nmin_free = \"0B\"", storage.display());
    let pierhead = pierhead(&upstream, &config);
    pull_image(&pierhead, &name(0), "v1", &images[0]);
    wait_until_stored(&pierhead, 3.0);
    let filler = disk.fill().unwrap();
    // Room may be made of what is cached, and that is taken too.
    let again = disk.path().join("more");
    pull_image(&pierhead, &name(1), "v1", &images[1]);
    fs::write(&again, vec![7; 2 * MIB as usize]).unwrap_or_default();
    wait_until_degraded(&pierhead, "store", 1.0);
    pull_image(&pierhead, &name(1), "v1", &images[1]);
    drop(filler);
    fs::remove_file(&again).unwrap();
    wait_until_degraded(&pierhead, "store", 0.0);
    wait_until_degraded(&pierhead, "database", 0.0);
    pull_image(&pierhead, &name(1), "v1", &images[1]);
    wait_until("it is kept", DEADLINE, || {
        let before = gets(&upstream, &images[1]);
        pull_image(&pierhead, &name(1), "v1", &images[1]);
        (gets(&upstream, &images[1]) == before).then_some(())
    });
    drop(pierhead);
}

#[test]
fn a_database_that_is_garbage_or_gone_at_the_start_costs_no_blob() {
    let garbage = |path: &Path| fs::write(path, "this is no database ".repeat(9_000)).unwrap();
    let gone = |path: &Path| fs::remove_file(path).unwrap();
    for (what, damage) in [("garbage", &garbage as &dyn Fn(&Path)), ("gone", &gone)] {
        let upstream = FaultyUpstream::start_blocking();
        let image = image(&upstream, 0);
        let mut pierhead = pierhead(&upstream, "");
        pull_image(&pierhead, &name(0), "v1", &image);
        wait_until_stored(&pierhead, 3.0);
        pierhead.terminate();
        damage(&database(&pierhead));
        pierhead.restart();
        pull_image(&pierhead, &name(0), "v1", &image);
        assert_eq!(gets(&upstream, &image), 2, "{what}: nothing is fetched again");
        let remade = |from| pierhead.metric("pierhead_database_remade_total", &[("from", from)]);
        assert_eq!((remade("nothing"), remade("backup")), (1.0, 0.0), "{what}");
        assert_eq!(ready(&pierhead), "ready\n");
        let text = status(&pierhead);
        assert!(text.contains("! the metadata database was made anew"), "{what}: {text}");
        let aside = fs::read_dir(pierhead.storage()).unwrap();
        let aside = aside.filter(|e| {
            let name = e.as_ref().unwrap().file_name();
            name.to_str().unwrap().starts_with("meta-v1.sqlite.damaged-")
        });
        assert_eq!(aside.count(), usize::from(what == "garbage"));
        // What was proven again is known again.
        pierhead.restart();
        let heads = image.layers.iter().map(|layer| upstream.count("HEAD", layer)).sum::<usize>();
        pull_image(&pierhead, &name(0), "v1", &image);
        let after = image.layers.iter().map(|layer| upstream.count("HEAD", layer)).sum::<usize>();
        assert_eq!((heads, after), (2, 2), "{what}");
        assert_eq!(gets(&upstream, &image), 2, "{what}");
    }
}

#[test]
fn a_lost_database_opens_no_blob_to_a_repository_that_has_it_not() {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, 0);
    upstream.add_image("library/other", "v1", [vec![1; 10]]);
    let mut pierhead = pierhead(&upstream, "");
    pull_image(&pierhead, &name(0), "v1", &image);
    wait_until_stored(&pierhead, 3.0);
    pierhead.terminate();
    fs::remove_file(database(&pierhead)).unwrap();
    pierhead.restart();
    let answer = http::get(blob_url(&pierhead, "library/other", &image.layers[0]));
    assert_eq!(answer.status, 404, "{answer:?}");
}

#[test]
fn a_database_overwritten_while_it_is_used_heals() {
    let upstream = FaultyUpstream::start_blocking();
    let images: Vec<_> = (0..3).map(|n| image(&upstream, n)).collect();
    let mut pierhead = pierhead(&upstream, "");
    pull_image(&pierhead, &name(0), "v1", &images[0]);
    wait_until_stored(&pierhead, 3.0);
    // What the log still has would hide the damage.
    pierhead.restart();
    let len = fs::metadata(database(&pierhead)).unwrap().len();
    fs::write(database(&pierhead), vec![0x5a; len as usize]).unwrap();
    pull_image(&pierhead, &name(0), "v1", &images[0]);
    pull_image(&pierhead, &name(1), "v1", &images[1]);
    wait_until("the database is made anew", DEADLINE, || {
        let remade = pierhead.metric("pierhead_database_remade_total", &[]);
        (remade >= 1.0).then_some(())
    });
    wait_until_degraded(&pierhead, "database", 0.0);
    assert!(status(&pierhead).contains("! the metadata database was made anew"));
    for n in 0..3 {
        pull_image(&pierhead, &name(n), "v1", &images[n as usize]);
    }
    assert_eq!(gets(&upstream, &images[0]) + gets(&upstream, &images[1]), 4);
    assert!(pierhead.stderr().contains("the metadata database was made anew"));
}

/// Cuts the file of a blob while a client reads it, and looks at what becomes of both.
fn cut_while_read(
    upstream: &FaultyUpstream,
    pierhead: &Pierhead,
    request: impl Fn(&str) -> Request,
) {
    const SIZE: u64 = 40 * MIB;
    const CUT: u64 = 24 * MIB + 1000;
    let digest = upstream.add_random_blob("library/large", 9, SIZE);
    let url = blob_url(pierhead, "library/large", &digest);
    assert_eq!(sha256(&request(&url).send().expect(200).body), digest);
    wait_until_stored(pierhead, 1.0);
    let path = blob_path(pierhead, &digest);

    let (mut got, mut is_cut) = (Vec::new(), false);
    let answer = request(&url).try_stream(|part| {
        got.extend_from_slice(part);
        if !is_cut && got.len() as u64 >= MIB {
            cut(&path, CUT);
            is_cut = true;
        }
    });
    assert_eq!(answer.unwrap().end, End::Short);
    let right = Random::new(9, SIZE);
    let page = got.len() as u64 - CUT.min(got.len() as u64);
    assert!(page < 4096, "at most the rest of a page lies beyond the cut: {page}");
    got.truncate(CUT as usize);
    assert!(got == right.part(0, got.len()), "wrong bytes");

    wait_until("the blob is taken out", DEADLINE, || {
        (pierhead.metric("pierhead_storage_quarantined_total", &[("found_by", "read")]) >= 1.0)
            .then_some(())
    });
    assert!(!path.exists());
    assert_eq!(sha256(&request(&url).send().expect(200).body), digest);
    assert_eq!(upstream.count("GET", &digest), 2);
    assert!(pierhead.stderr().contains("took a damaged blob out of the store"));
}

#[test]
fn a_file_cut_under_a_plain_reader_ends_the_answer_short_and_is_fetched_again() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "");
    cut_while_read(&upstream, &pierhead, |url| Request::new("GET", url));
}

#[test]
fn a_file_cut_under_a_tls_reader_ends_the_answer_short_and_is_fetched_again() {
    let (site, upstream) = (Site::new(), FaultyUpstream::start_blocking());
    let pierhead = site.pierhead(&upstream, "", "");
    cut_while_read(&upstream, &pierhead, |url| site.request(url, None));
}

#[test]
fn a_file_cut_between_two_runs_is_fetched_again_without_a_failure() {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, 0);
    let mut pierhead = pierhead(&upstream, "");
    pull_image(&pierhead, &name(0), "v1", &image);
    wait_until_stored(&pierhead, 3.0);
    pierhead.terminate();
    cut(&blob_path(&pierhead, &image.layers[0]), LAYER / 2);
    cut(&blob_path(&pierhead, &image.layers[1]), 10_000);
    pierhead.restart();
    pull_image(&pierhead, &name(0), "v1", &image);
    assert_eq!(gets(&upstream, &image), 4);
    assert_eq!(pierhead.metric("pierhead_storage_quarantined_total", &[("found_by", "read")]), 2.0);
}
