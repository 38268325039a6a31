//! `cargo xtask bench`: which measures there are, in which order, and what limits they have.

use std::path::Path;
use std::time::Duration;

use crate::herd::{self, Summary};
use crate::origin::{Blob, Origin, pierhead, registry_proxy};
use crate::programs::{self, Built, CURL, DOCKER_REGISTRY, NGINX, WRK};
use crate::relay::Relay;
use crate::report::{self, Row, Samples, Who, percentile, times};
use crate::streams::{self, mib};
use crate::warm::{Warm, wait_for_hit};
use crate::{BenchArgs, Result};

/// The most memory of its own that Pierhead may have, in bytes.
pub(crate) const MEMORY_BYTES_MAX: u64 = 100 << 20;
/// Clients of the memory measure.
pub(crate) const MEMORY_CLIENTS: usize = 100;
/// The blob of the memory measure: 1 GB as the promise has it.
pub(crate) const MEMORY_BLOB_BYTES: u64 = 1_000_000_000;

const HERD_CLIENTS: usize = 16;
const HERD_BLOB_BYTES: u64 = 200_000_000;
const STAGGERED_CLIENTS: u64 = 40;
const STAGGERED_WINDOW: Duration = Duration::from_secs(3);
/// The blob takes 4 s at this rate.
const STAGGERED_RATE: u64 = 50_000_000;
const STREAM_BLOB_BYTES: u64 = 1 << 30;
/// Larger than what is held back until the digest is known.
const FIRST_BYTE_BLOB_BYTES: u64 = 4 << 20;
const FIRST_BYTE_BLOBS: u64 = 15;
const LOAD_SECONDS: u64 = 4;
const QUICK_LOAD_SECONDS: u64 = 2;
const QUICK_BLOB_BYTES: u64 = 256 << 20;
/// The random moments are the same in each run, so that runs can be compared.
const SEED: u64 = 20;

#[derive(Debug)]
struct Bench {
    built: Built,
    rounds: usize,
    quick: bool,
}

/// Runs the command; whether every limit was kept.
pub(crate) fn run(args: &BenchArgs) -> Result<bool> {
    programs::check(&[NGINX, DOCKER_REGISTRY, WRK, CURL])?;
    let built = programs::build_pierhead()?;
    let rounds = if args.quick { 1 } else { 3 };
    let about = about(built.program(), rounds)?;
    for (name, value) in &about {
        println!("{name:<16} {value}");
    }
    let bench = Bench { built, rounds, quick: args.quick };
    let all: [(&str, Measure); 8] = [
        ("manifest", Bench::manifests),
        ("blob", Bench::blobs),
        ("herd", Bench::herd),
        ("stagger", Bench::staggered),
        ("first", Bench::first_byte),
        ("cold", Bench::cold_stream),
        ("memory", Bench::memory),
        ("policy", Bench::policies),
    ];
    let wanted = |name: &str| {
        args.only.is_empty() || args.only.iter().any(|only| name.contains(only.as_str()))
    };
    let mut rows = Vec::new();
    for (name, measure) in all.into_iter().filter(|(name, _)| wanted(name)) {
        eprintln!("measuring: {name}");
        rows.extend(measure(&bench)?);
    }
    if rows.is_empty() {
        return Err("--only leaves nothing to measure".into());
    }
    println!();
    report::print(&rows);
    println!(
        "\nRatios of this run; more is better for requests and bytes per second, less for the \
         rest.\n\"without log\" is Pierhead with log.level = \"warn\" over nginx, which logs \
         nothing here.\nregistry is docker-registry as a pull-through cache of the same upstream."
    );
    if let Some(file) = &args.json {
        let json = report::to_json(&about, &rows);
        std::fs::write(file, format!("{json:#}\n"))
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    Ok(rows.iter().all(|row| row.limit.as_ref().is_none_or(|(_, kept)| *kept)))
}

type Measure = fn(&Bench) -> Result<Vec<Row>>;

fn about(binary: &Path, rounds: usize) -> Result<Vec<(String, String)>> {
    let version = |needed, argument| Ok(programs::version(&programs::find(needed)?, argument));
    let about: [(&str, Result<String>); 7] = [
        ("machine", Ok(programs::machine())),
        (
            "pierhead",
            Ok(format!(
                "{}, {:.1} MiB with its symbols",
                programs::version(binary, "--version"),
                streams::size_mib(binary)
            )),
        ),
        ("nginx", version(NGINX, "-v")),
        ("docker-registry", version(DOCKER_REGISTRY, "--version")),
        ("wrk", version(WRK, "-v")),
        ("curl", version(CURL, "--version")),
        ("rounds", Ok(format!("{rounds}, medians"))),
    ];
    about.into_iter().map(|(name, value)| Ok((name.to_owned(), value?))).collect()
}

impl Bench {
    const fn seconds(&self) -> u64 {
        if self.quick { QUICK_LOAD_SECONDS } else { LOAD_SECONDS }
    }

    fn manifests(&self) -> Result<Vec<Row>> {
        Warm::start(self.built.program())?.manifests(self.rounds, self.seconds())
    }

    fn policies(&self) -> Result<Vec<Row>> {
        crate::policy::policies(self.built.program(), self.rounds, self.seconds())
    }

    fn blobs(&self) -> Result<Vec<Row>> {
        Warm::start(self.built.program())?.blobs(self.rounds, self.seconds())
    }

    /// 16 clients at once on a cold blob.
    fn herd(&self) -> Result<Vec<Row>> {
        let (mut gets, mut bytes, mut wall) =
            (Samples::default(), Samples::default(), Samples::default());
        for round in 0..self.rounds {
            let direct = self.cold(Who::Direct, None, HERD_BLOB_BYTES, |host, blob| {
                let began = tokio::time::Instant::now();
                herd::run(host, blob, &herd::at_once(1))?;
                Ok(began.elapsed().as_secs_f64())
            })?;
            let direct = direct.result;
            for who in [Who::Pierhead, Who::Registry] {
                let ran = self.cold(who, None, HERD_BLOB_BYTES, |host, blob| {
                    let plans = herd::at_once(HERD_CLIENTS);
                    let began = tokio::time::Instant::now();
                    let outcomes = herd::run(host, blob, &plans)?;
                    Ok((outcomes, began.elapsed().as_secs_f64()))
                })?;
                let (outcomes, seconds) = ran.result;
                check(who, &outcomes, &ran.blob)?;
                gets.add(who, ran.gets);
                bytes.add(who, ran.bytes / ran.blob.len() as f64);
                wall.add(who, seconds / direct);
            }
            eprintln!("  round {} of {}", round + 1, self.rounds);
        }
        let name = "herd: 16 clients on one cold blob of 200 MB";
        Ok(vec![
            gets_row(&format!("{name}: upstream GETs"), gets),
            ratio_row(&format!("{name}: upstream bytes over the blob's"), bytes),
            ratio_row(&format!("{name}: time over one direct transfer"), wall),
        ])
    }

    /// 40 clients at random moments, half of them killed, behind a slow upstream.
    fn staggered(&self) -> Result<Vec<Row>> {
        let (mut gets, mut bytes) = (Samples::default(), Samples::default());
        let (mut p50, mut max) = (Samples::default(), Samples::default());
        for round in 0..self.rounds {
            for who in [Who::Pierhead, Who::Registry] {
                // One round of forty transfers each is enough to know docker-registry.
                if who == Who::Registry && round > 0 {
                    continue;
                }
                let seed = SEED + round as u64;
                let ran = self.cold(who, Some(STAGGERED_RATE), HERD_BLOB_BYTES, |host, blob| {
                    let plans = herd::plans(seed, STAGGERED_CLIENTS, STAGGERED_WINDOW, blob);
                    herd::run(host, blob, &plans)
                })?;
                let summary = check(who, &ran.result, &ran.blob)?;
                gets.add(who, ran.gets);
                bytes.add(who, ran.bytes / ran.blob.len() as f64);
                let waits = summary.joined_ms;
                p50.add(who, percentile(waits.clone(), 0.5).unwrap_or_default());
                max.add(who, percentile(waits, 1.0).unwrap_or_default());
            }
            eprintln!("  round {} of {}", round + 1, self.rounds);
        }
        let name = "40 staggered clients, half killed";
        let ms = |samples: &Samples| {
            samples.median(Who::Pierhead).map(|ms| format!("{ms:.1} ms")).unwrap_or_default()
        };
        let (p50_own, max_own) = (ms(&p50), ms(&max));
        Ok(vec![
            gets_row(&format!("{name}: upstream GETs"), gets),
            ratio_row(&format!("{name}: upstream bytes over the blob's"), bytes),
            Row::new("joiners' first byte: p50", p50).own(p50_own),
            Row::new("joiners' first byte: longest", max).own(max_own),
        ])
    }

    /// The first byte of a cold blob over the upstream's own.
    fn first_byte(&self) -> Result<Vec<Row>> {
        let origin = Origin::start()?;
        let (pierhead, registry) =
            (pierhead(self.built.program(), &origin.url(), "")?, registry_proxy(&origin.url())?);
        let mut samples = Samples::default();
        for n in 0..FIRST_BYTE_BLOBS {
            let blob = origin.add_blob(100 + n, FIRST_BYTE_BLOB_BYTES)?;
            let direct = streams::first_byte(&origin.host(), &blob)?.as_secs_f64();
            let own = streams::first_byte(pierhead.host(), &blob)?.as_secs_f64();
            let other = streams::first_byte(&registry.host(), &blob)?.as_secs_f64();
            samples.add(Who::Pierhead, own / direct);
            samples.add(Who::Registry, other / direct);
        }
        Ok(vec![ratio_row("first byte of a cold blob over upstream's own", samples)])
    }

    /// One curl on a cold blob.
    fn cold_stream(&self) -> Result<Vec<Row>> {
        let len = if self.quick { QUICK_BLOB_BYTES } else { STREAM_BLOB_BYTES };
        let mut samples = Samples::default();
        for round in 0..self.rounds {
            let direct = self.direct_seconds(len)?;
            for who in [Who::Pierhead, Who::Registry] {
                let ran = self.cold(who, None, len, streams::curl)?;
                samples.add(who, ran.result.as_secs_f64() / direct);
            }
            eprintln!("  round {} of {}", round + 1, self.rounds);
        }
        let name = if self.quick { "256 MiB" } else { "1 GiB" };
        Ok(vec![ratio_row(&format!("cold stream of {name} by one curl over direct"), samples)])
    }

    /// 100 clients at once, cold and warm.
    fn memory(&self) -> Result<Vec<Row>> {
        let len = if self.quick { QUICK_BLOB_BYTES } else { MEMORY_BLOB_BYTES };
        let origin = Origin::start()?;
        let blob = origin.add_blob(SEED, len)?;
        let pierhead = pierhead(self.built.program(), &origin.url(), "")?;
        let mut rows = Vec::new();
        for state in ["cold", "warm"] {
            let bytes = streams::memory(pierhead.pid(), pierhead.host(), &blob, MEMORY_CLIENTS)?;
            let mut samples = Samples::default();
            samples.add(Who::Pierhead, mib(bytes));
            let name = format!("memory of 100 pulls of {} MB at once, {state}", len / 1_000_000);
            rows.push(
                Row::new(name, samples)
                    .own(format!("{:.0} MiB", mib(bytes)))
                    .limit("100 MiB", bytes < MEMORY_BYTES_MAX),
            );
            wait_for_hit(&format!("{}{}", pierhead.url(), blob.path()));
        }
        Ok(rows)
    }

    /// Seconds of one transfer straight from a fresh upstream.
    fn direct_seconds(&self, len: u64) -> Result<f64> {
        Ok(self.cold(Who::Direct, None, len, streams::curl)?.result.as_secs_f64())
    }

    /// Runs `measure` against `who` with nothing cached, before an upstream of its own that sends
    /// `rate` bytes a second on each connection, or as fast as it can.
    fn cold<T>(
        &self,
        who: Who,
        rate: Option<u64>,
        len: u64,
        measure: impl FnOnce(&str, &Blob) -> Result<T>,
    ) -> Result<Cold<T>> {
        let origin = Origin::start()?;
        let blob = origin.add_blob(SEED, len)?;
        let relay = rate.map(|rate| Relay::start(&origin.host(), rate)).transpose()?;
        let upstream = relay.as_ref().map_or_else(|| origin.url(), Relay::url);
        let result = match who {
            Who::Pierhead | Who::PierheadQuiet | Who::Nginx => {
                let pierhead = pierhead(self.built.program(), &upstream, "")?;
                measure(pierhead.host(), &blob)?
            }
            Who::Registry => measure(&registry_proxy(&upstream)?.host(), &blob)?,
            Who::Direct | Who::Cached | Who::Called | Who::CalledElsewhere => {
                measure(&origin.host(), &blob)?
            }
        };
        // Whoever asked it is gone now, so every request of theirs comes to its end.
        let (gets, bytes) = origin.settled_gets(&blob)?;
        Ok(Cold { result, blob, gets: gets as f64, bytes: bytes as f64 })
    }
}

/// A measure against an empty cache.
struct Cold<T> {
    result: T,
    blob: Blob,
    gets: f64,
    bytes: f64,
}

fn check(who: Who, outcomes: &[herd::Outcome], blob: &Blob) -> Result<Summary> {
    let summary = Summary::of(outcomes, blob);
    if summary.wrong > 0 {
        return Err(format!("{who:?}: {} clients got wrong bytes", summary.wrong).into());
    }
    Ok(summary)
}

fn gets_row(name: &str, samples: Samples) -> Row {
    let most = samples.max(Who::Pierhead).unwrap_or_default();
    Row::new(name, samples).own(format!("{most}")).limit("1", most <= 1.0)
}

/// A row whose samples are ratios already.
fn ratio_row(name: &str, samples: Samples) -> Row {
    let own = samples.median(Who::Pierhead).map(times).unwrap_or_default();
    Row::new(name, samples).own(own)
}
