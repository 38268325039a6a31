//! A deterministic simulation of the engine: random schedules of clients, faults, crashes and
//! clock jumps, told by a seed, against the rules of [`model`]. `docs/proof.md` says what is
//! simulated and how a seed is told again.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]
#![allow(clippy::print_stdout, reason = "a simulation tells its seed")]

mod catalogue;
mod client;
mod dice;
mod engine;
mod model;
mod policies;
mod registry;
mod store;
mod story;
mod trace;
mod weather;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use story::{Told, tell};
use trace::Tally;

/// The seed to tell, whole.
const SEED: &str = "PIERHEAD_SEED";
/// How many seeds to tell.
const SEEDS: &str = "PIERHEAD_SEEDS";
/// The first of them.
const FIRST_SEED: &str = "PIERHEAD_FIRST_SEED";

/// How many seeds are told where nobody says how many.
const SEEDS_DEFAULT: u64 = 1_500;

/// From so many seeds on, everything that can happen must have happened.
const SEEDS_FOR_ALL: u64 = 100;

/// How many seeds are told twice.
const SEEDS_COMPARED: u64 = 12;

/// How long a seed may take by the real clock: whoever takes longer turns in circles.
const REAL_TIME_MAX: Duration = Duration::from_secs(120);

/// How many of the last lines of a story are shown when it fails.
const LINES_SHOWN: usize = 60;

/// What has to happen in so many seeds, lest the rules have nothing to say.
const HAPPENS: [&str; 10] = [
    "blobs",
    "blobs refused or broken off",
    "cached blobs",
    "cached manifests",
    "crashes",
    "evictions",
    "manifests",
    "manifests refused",
    "parked lies",
    "stale manifests",
];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// What to show of a story that broke a rule.
fn report(seed: u64, told: &Told) -> String {
    let Err(broken) = &told.result else { return String::new() };
    let from = told.lines.len().saturating_sub(LINES_SHOWN);
    format!(
        "\nseed {seed} broke {:?}: {}\n...\n{}\n\ntell it again: \
         {SEED}={seed} cargo test --test simulation every_seed -- --nocapture\n",
        broken.0,
        broken.1,
        told.lines[from..].join("\n"),
    )
}

/// Tells all seeds, on as many threads as there are processors; what was counted in them.
fn tell_all(first: u64, count: u64) -> Tally {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let next = Arc::new(Mutex::new(first));
    let running = Arc::new(Mutex::new(BTreeMap::new()));
    let (sender, told) = sync_channel(threads);
    for worker in 0..threads {
        let (next, running, sender) = (Arc::clone(&next), Arc::clone(&running), sender.clone());
        thread::spawn(move || {
            loop {
                let seed = {
                    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                    if *next >= first + count {
                        return;
                    }
                    *next += 1;
                    *next - 1
                };
                running.lock().unwrap_or_else(PoisonError::into_inner).insert(worker, seed);
                if sender.send((seed, tell(seed))).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut tally = Tally::new();
    loop {
        match told.recv_timeout(REAL_TIME_MAX) {
            Ok((seed, told)) => {
                assert!(told.result.is_ok(), "{}", report(seed, &told));
                for (what, times) in told.tally {
                    *tally.entry(what).or_default() += times;
                }
            }
            Err(RecvTimeoutError::Disconnected) => return tally,
            Err(RecvTimeoutError::Timeout) => {
                let running = running.lock().unwrap_or_else(PoisonError::into_inner);
                panic!("no end within {REAL_TIME_MAX:?}; running: {:?}", running.values());
            }
        }
    }
}

#[test]
fn every_seed_keeps_the_rules() {
    if let Some(seed) = number(SEED) {
        let told = tell(seed);
        println!("{}", told.lines.join("\n"));
        println!("seed {seed}: {:016x} {:?}", told.hash, told.tally);
        assert!(told.result.is_ok(), "{}", report(seed, &told));
        return;
    }
    let count = number(SEEDS).unwrap_or(SEEDS_DEFAULT);
    let first = number(FIRST_SEED).unwrap_or(0);
    let tally = tell_all(first, count);
    println!("{count} seeds from {first} on: {tally:?}");
    if count >= SEEDS_FOR_ALL {
        let missing: Vec<_> = HAPPENS.iter().filter(|what| !tally.contains_key(**what)).collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

#[test]
fn a_seed_always_tells_the_same_story() {
    for seed in 0..SEEDS_COMPARED {
        let (first, second) = (tell(seed), tell(seed));
        let differ = first.lines.iter().zip(&second.lines).find(|(a, b)| a != b);
        assert_eq!(first.hash, second.hash, "seed {seed}, from here on: {differ:?}");
    }
}

#[test]
fn seeds_differ() {
    let hashes: std::collections::BTreeSet<u64> = (0..8).map(|seed| tell(seed).hash).collect();
    assert_eq!(hashes.len(), 8);
}
