//! `cargo xtask acceptance`: the promises that take minutes to check.

use std::path::Path;
use std::time::Duration;

use pierhead_kit::space::TinyFs;
use pierhead_kit::upstream::{Fault, FaultyUpstream, On};
use tokio::time::Instant;

use crate::bench::{MEMORY_BLOB_BYTES, MEMORY_BYTES_MAX, MEMORY_CLIENTS};
use crate::herd::{self, Summary};
use crate::origin::{Blob, Origin, REPOSITORY, pierhead};
use crate::programs::{self, DOCKER_REGISTRY};
use crate::relay::Relay;
use crate::report::percentile;
use crate::streams::{self, mib};
use crate::warm::wait_for_hit;
use crate::{AcceptanceArgs, Result, space};

const HERD_BLOB_BYTES: u64 = 200_000_000;
/// So that the blob takes at least 12 s.
const HERD_RATE: u64 = 16_000_000;
const HERD_TIME_MIN: Duration = Duration::from_secs(12);
const HERD_CLIENTS: u64 = 40;
const HERD_WINDOW: Duration = Duration::from_secs(10);
const FIRST_BYTE_MS_MAX: f64 = 50.0;

#[derive(Debug, Default)]
struct Checks {
    failed: usize,
}

impl Checks {
    fn check(&mut self, what: &str, kept: bool, measured: impl std::fmt::Display) {
        println!("{} {what}: {measured}", if kept { "pass" } else { "FAIL" });
        self.failed += usize::from(!kept);
    }
}

/// Runs the command; whether every promise was kept.
pub(crate) fn run(args: &AcceptanceArgs) -> Result<bool> {
    programs::check(&[DOCKER_REGISTRY])?;
    let built = programs::build_pierhead()?;
    let binary = built.program();
    let seed = args.seed.unwrap_or_else(crate::random_seed);
    println!("machine: {}", programs::machine());
    println!("repeat the herds with: cargo xtask acceptance --seed {seed}");
    let mut checks = Checks::default();
    let wanted = |name: &str| args.only.as_deref().is_none_or(|only| name.contains(only));
    if wanted("herd") {
        behind_docker_registry(binary, seed, &mut checks)?;
        behind_faulty_upstream(binary, seed, &mut checks)?;
    }
    if wanted("memory") {
        memory(binary, &mut checks)?;
    }
    if wanted("space") {
        space(binary, seed, &mut checks)?;
    }
    match checks.failed {
        0 => println!("\nevery promise was kept"),
        n => println!("\n{n} promises were BROKEN"),
    }
    Ok(checks.failed == 0)
}

fn behind_docker_registry(binary: &Path, seed: u64, checks: &mut Checks) -> Result<()> {
    println!("\nherd behind docker-registry, throttled by a relay");
    let origin = Origin::start()?;
    let blob = origin.add_blob(seed, HERD_BLOB_BYTES)?;
    let relay = Relay::start(&origin.host(), HERD_RATE)?;
    herd(binary, &relay.url(), &blob, seed, checks)?;
    let (gets, bytes) = origin.settled_gets(&blob)?;
    gets_are_one(gets, bytes, &blob, checks);
    Ok(())
}

fn behind_faulty_upstream(binary: &Path, seed: u64, checks: &mut Checks) -> Result<()> {
    println!("\nherd behind the test kit's upstream, throttled by itself");
    let upstream = FaultyUpstream::start_blocking();
    let content = pierhead_kit::random::Random::new(seed, HERD_BLOB_BYTES);
    let digest = upstream.add_random_blob(REPOSITORY, seed, HERD_BLOB_BYTES);
    let blob = Blob { digest, content };
    upstream.fault(On::blobs().get(), Fault::Throttle(HERD_RATE));
    herd(binary, &upstream.url(), &blob, seed, checks)?;
    let log = upstream.log();
    let gets = log.iter().filter(|entry| entry.is_blob_get()).count();
    gets_are_one(gets as u64, upstream.bytes_sent(&blob.digest), &blob, checks);
    Ok(())
}

fn herd(binary: &Path, url: &str, blob: &Blob, seed: u64, checks: &mut Checks) -> Result<()> {
    let pierhead = pierhead(binary, url, "")?;
    let plans = herd::plans(seed, HERD_CLIENTS, HERD_WINDOW, blob);
    let began = Instant::now();
    let outcomes = herd::run(pierhead.host(), blob, &plans)?;
    let took = began.elapsed();
    let Summary { survivors, killed, wrong, joined_ms } = Summary::of(&outcomes, blob);
    let seconds = format!("{:.1} s", took.as_secs_f64());
    checks.check("the upstream took at least 12 s", took >= HERD_TIME_MIN, seconds);
    let half = HERD_CLIENTS as usize / 2;
    let counts = format!("{killed} of {HERD_CLIENTS}");
    checks.check("half of the clients were killed", killed == half, counts);
    let right = format!("{} of {survivors}", survivors - wrong);
    checks.check("every survivor has the right bytes", survivors == half && wrong == 0, right);
    let of = |share| percentile(joined_ms.clone(), share).unwrap_or(f64::INFINITY);
    let measured = format!(
        "p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms, of {} who came after the fill had begun",
        of(0.5),
        of(0.99),
        of(1.0),
        joined_ms.len()
    );
    checks.check("first byte within 50 ms", of(1.0) <= FIRST_BYTE_MS_MAX, measured);
    Ok(())
}

fn gets_are_one(gets: u64, bytes: u64, blob: &Blob, checks: &mut Checks) {
    let times = bytes as f64 / blob.len() as f64;
    let measured = format!("{gets}, and {times:.2} times its bytes");
    checks.check(
        "upstream's log has one GET of the blob",
        gets == 1 && bytes == blob.len(),
        measured,
    );
}

fn space(binary: &Path, seed: u64, checks: &mut Checks) -> Result<()> {
    let origin = Origin::start()?;
    let blobs = space::content(&origin, seed)?;
    println!("\n3 GB at random by 8 clients through a cap of 500 MB");
    let outcome = space::run(binary, &origin, &blobs, seed, &space::capped())?;
    pulled(&outcome, checks);
    let (most, samples) = (outcome.most_bytes, outcome.samples);
    let measured = format!("{most} bytes at the most, of {samples} samples of 100 ms");
    checks.check("the cap holds at every sample", most <= space::CAP_BYTES, measured);
    let again = format!("{} fetched again", outcome.hot_again);
    checks.check("hot blobs stay warm", outcome.hot_again == 0, again);

    println!("\nthe same with a file system of 10 MB below the store");
    let disk = TinyFs::mount(space::TINY_BYTES)?;
    let outcome = space::run(binary, &origin, &blobs, seed, &space::tiny(&disk))?;
    pulled(&outcome, checks);
    Ok(())
}

fn pulled(outcome: &space::Outcome, checks: &mut Checks) {
    let space::Outcome { pulls, wrong, pulled_bytes, gets, .. } = outcome;
    let enough = *pulled_bytes >= space::PULLED_BYTES;
    let measured = format!("{} of {pulls}, {pulled_bytes} bytes, {gets} GETs", pulls - wrong.len());
    checks.check("every pull has the right bytes", wrong.is_empty() && enough, measured);
    wrong.iter().take(3).for_each(|why| println!("     {why}"));
}

fn memory(binary: &Path, checks: &mut Checks) -> Result<()> {
    println!("\n100 clients at once on a blob of 1 GB");
    let origin = Origin::start()?;
    let blob = origin.add_blob(1, MEMORY_BLOB_BYTES)?;
    let pierhead = pierhead(binary, &origin.url(), "")?;
    for state in ["cold", "warm"] {
        let bytes = streams::memory(pierhead.pid(), pierhead.host(), &blob, MEMORY_CLIENTS)?;
        let measured = format!("{:.1} MiB", mib(bytes));
        let what = format!("own memory below 100 MiB, {state}");
        checks.check(&what, bytes < MEMORY_BYTES_MAX, measured);
        wait_for_hit(&format!("{}{}", pierhead.url(), blob.path()));
    }
    drop(pierhead);
    let (gets, bytes) = origin.settled_gets(&blob)?;
    gets_are_one(gets, bytes, &blob, checks);
    Ok(())
}
