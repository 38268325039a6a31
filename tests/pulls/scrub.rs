//! What is stored is verified again and again, and damage heals.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use pierhead_kit::http;
use pierhead_kit::random::Random;
use pierhead_kit::upstream::FaultyUpstream;
use pierhead_kit::wait_until;

use super::{DEADLINE, blob_url, pierhead, wait_until_stored};

#[test]
fn a_damaged_file_is_found_put_aside_and_fetched_again() {
    let size = 3 << 20;
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/a", 5, size);
    let pierhead = pierhead(&upstream, "[storage]\nscrub_every = \"100ms\"\nscrub_rate = 0\n");
    let url = blob_url(&pierhead, "library/a", &digest);
    http::get(&*url).expect(200);
    wait_until_stored(&pierhead, 1.0);

    let hex = digest.strip_prefix("sha256:").unwrap();
    let path = pierhead.storage().join("blobs-v1/sha256").join(&hex[..2]).join(hex);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let flipped = fs::read(&path).unwrap()[1 << 20] ^ 0x20;
    // In place, as a disk does it: the program may have the file mapped.
    File::options().write(true).open(&path).unwrap().write_at(&[flipped], 1 << 20).unwrap();

    wait_until("the damage is found", DEADLINE, || {
        let damaged = pierhead.metric("pierhead_scrub_blobs_total", &[("result", "damaged")]);
        (damaged >= 1.0).then_some(())
    });
    let body = http::get(&*url).expect(200).body;
    assert!(body == Random::new(5, size).part(0, size as usize), "wrong bytes");
    assert_eq!(upstream.count("GET", &digest), 2);
    assert!(pierhead.stderr().contains("put a blob aside that was damaged"));
    let found_by = [("found_by", "scrub")];
    assert_eq!(pierhead.metric("pierhead_storage_quarantined_total", &found_by), 1.0);
    let aside = fs::read(pierhead.storage().join(format!("quarantine-v1/sha256-{hex}"))).unwrap();
    assert_eq!(aside[1 << 20], flipped, "the damage can be looked at");
    assert!(pierhead.stderr().contains(&digest));
}
