//! Gigabytes at random through a store with a cap, and through one with next to no room.

use std::path::Path;
use std::thread;

use pierhead_kit::random::Random;
use pierhead_kit::space::{SpaceSampler, TinyFs};

use crate::Result;
use crate::download::Download;
use crate::origin::{Blob, Origin, pierhead};

const MB: u64 = 1_000_000;

/// The cap that has to hold.
pub(crate) const CAP_BYTES: u64 = 500 * MB;
/// The file system that has next to no room.
pub(crate) const TINY_BYTES: u64 = 10 * MB;
/// What the clients pull together, at least.
pub(crate) const PULLED_BYTES: u64 = 3_000 * MB;

const CLIENTS: u64 = 8;
/// Blobs that every second pull is of.
const HOT: usize = 3;
const HOT_BYTES: u64 = 30 * MB;
/// The others: twice the cap together.
const COLD: u64 = 25;
const COLD_BYTES: u64 = 40 * MB;
/// Small enough for the tiny file system.
const SMALL: u64 = 10;
const SMALL_BYTES: u64 = MB;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Pulls, and those of them that did not get the right bytes.
    pub(crate) pulls: usize,
    pub(crate) wrong: Vec<String>,
    pub(crate) pulled_bytes: u64,
    /// The most that was allocated below the storage, and how often that was looked at.
    pub(crate) most_bytes: u64,
    pub(crate) samples: u64,
    /// GETs of hot blobs at the origin, after the first of each.
    pub(crate) hot_again: u64,
    /// GETs at the origin in all.
    pub(crate) gets: u64,
}

/// The content that is pulled: the hot blobs first.
pub(crate) fn content(origin: &Origin, seed: u64) -> Result<Vec<Blob>> {
    let hot = (0..HOT as u64).map(|n| (n, HOT_BYTES));
    let cold = (100..100 + COLD).map(|n| (n, COLD_BYTES));
    let small = (200..200 + SMALL).map(|n| (n, SMALL_BYTES));
    hot.chain(cold)
        .chain(small)
        .map(|(n, len)| origin.add_blob(seed.wrapping_add(n), len))
        .collect()
}

/// Pulls at random with eight clients until [`PULLED_BYTES`] were pulled.
pub(crate) fn run(
    binary: &Path,
    origin: &Origin,
    blobs: &[Blob],
    seed: u64,
    storage: &str,
) -> Result<Outcome> {
    let before: u64 = blobs.iter().map(|blob| origin.gets(blob).0).sum();
    let pierhead = pierhead(binary, &origin.url(), storage)?;
    // Hot is what was pulled before, more than once.
    for blob in blobs[..HOT].iter().cycle().take(2 * HOT) {
        Download::open(pierhead.host(), &blob.path())?.sha256()?;
    }
    let warm: u64 = blobs[..HOT].iter().map(|blob| origin.gets(blob).0).sum();
    let sampler = SpaceSampler::watch(pierhead.storage());
    let results: Vec<(usize, u64, Vec<String>)> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let host = pierhead.host();
                scope.spawn(move || one_client(host, blobs, seed ^ client))
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap_or((0, 0, vec!["a client panicked".into()])))
            .collect()
    });
    let (most_bytes, samples) = sampler.most();
    // Its connections to the origin end with it, and then the origin's log is complete.
    drop(pierhead);
    origin.settled_gets(&blobs[0])?;
    let hot: u64 = blobs[..HOT].iter().map(|blob| origin.gets(blob).0).sum();
    let after: u64 = blobs.iter().map(|blob| origin.gets(blob).0).sum();
    Ok(Outcome {
        pulls: results.iter().map(|(pulls, ..)| pulls).sum(),
        pulled_bytes: results.iter().map(|(_, bytes, _)| bytes).sum(),
        wrong: results.into_iter().flat_map(|(.., wrong)| wrong).collect(),
        most_bytes,
        samples,
        hot_again: hot - warm,
        gets: after - before,
    })
}

fn one_client(host: &str, blobs: &[Blob], seed: u64) -> (usize, u64, Vec<String>) {
    let (mut pulls, mut bytes, mut wrong) = (0, 0, Vec::new());
    let choices = Random::new(seed, 1 << 20);
    while bytes < PULLED_BYTES / CLIENTS {
        let choice = choices.part(2 * pulls as u64, 2);
        let (kind, which) = (choice[0], usize::from(choice[1]));
        let blob = if kind % 2 == 0 {
            &blobs[which % HOT]
        } else {
            &blobs[HOT + which % (blobs.len() - HOT)]
        };
        pulls += 1;
        match Download::open(host, &blob.path()).and_then(Download::sha256) {
            Ok(digest) if digest == blob.digest => bytes += blob.len(),
            Ok(digest) => wrong.push(format!("{} came as {digest}", blob.digest)),
            Err(error) => wrong.push(error.to_string()),
        }
        if wrong.len() > 10 {
            break;
        }
    }
    (pulls, bytes, wrong)
}

/// `[storage]` with the cap.
pub(crate) fn capped() -> String {
    format!("[storage]\nmax_size = \"{CAP_BYTES}B\"\nmin_free = \"0B\"\n")
}

/// `[storage]` on the tiny file system.
pub(crate) fn tiny(disk: &TinyFs) -> String {
    let path = disk.path().join("storage");
    format!("[storage]\npath = \"{}\"\nmin_free = \"0B\"\n", path.display())
}
