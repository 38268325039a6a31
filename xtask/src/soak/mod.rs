//! `cargo xtask soak`: hours of bad weather, and what they leave behind.
//!
//! The first half of the time has everything, kills and restarts included. In the second half one
//! process lives on, so that what it takes can be held against the time. Then the sun comes out,
//! and everything must go back to what it was.

mod load;
mod measure;
mod verdict;
mod weather;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pierhead_kit::program::Pierhead;
use pierhead_kit::random::Random;
use tokio::time::Instant;

use self::load::{CLIENTS, Clients, Images};
use self::measure::{Sample, mib};
use self::verdict::Checks;
use self::weather::{Upstreams, Weather};
use crate::{Result, programs};

/// What may lie below the storage, in bytes: less than half of what is pulled.
const CAP_BYTES: u64 = 96 << 20;

/// How many samples a run has, unless that would be more than one a second.
const SAMPLES: u32 = 720;
/// The shortest time between two samples.
const SAMPLE_EVERY_MIN: Duration = Duration::from_secs(1);
/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_millis(200);

/// How often the process is ended in the first half: in turns by SIGKILL and by SIGTERM.
const ENDS: u32 = 4;

/// How long the process may take to come to rest when nobody asks for anything: as long as its
/// idle connections to upstreams live, and more.
const REST_MAX: Duration = Duration::from_secs(240);

/// How many lines tell how far it is, where there is no terminal.
const LINES: u32 = 10;

/// Choices of `soak`.
#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    /// How long the bad weather lasts: "90s", "1h"
    #[arg(
        long = "for",
        value_name = "TIME",
        default_value = "1h",
        value_parser = humantime::parse_duration
    )]
    time: Duration,
    /// Repeats an earlier run's weather and clients
    #[arg(long)]
    seed: Option<u64>,
    /// That program, in place of one that is built now
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Also writes all samples there, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Numbers that a seed decides.
#[derive(Debug)]
struct Dice {
    random: Random,
    at: u64,
}

impl Dice {
    const fn new(seed: u64) -> Self {
        Self { random: Random::new(seed, u64::MAX), at: 0 }
    }

    /// A number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        let mut word = [0; 8];
        self.random.fill(self.at, &mut word);
        self.at += 8;
        u64::from_le_bytes(word) % end.max(1)
    }
}

/// Runs the command; whether nothing leaks and every answer was right.
pub(crate) fn run(args: &SoakArgs) -> Result<bool> {
    let seed = args.seed.unwrap_or_else(crate::random_seed);
    println!("machine: {}", programs::machine());
    let time = humantime::format_duration(args.time);
    println!("repeat the weather with: cargo xtask soak --for \"{time}\" --seed {seed}");
    match &args.program {
        Some(program) => soak(program, args, seed),
        None => soak(programs::build_pierhead()?.program(), args, seed),
    }
}

fn soak(program: &Path, args: &SoakArgs, seed: u64) -> Result<bool> {
    let upstreams = Upstreams::start();
    let images = Images::add(&upstreams, seed);
    let mut pierhead = Pierhead::start(program, &upstreams.config(CAP_BYTES));
    println!(
        "{} images, {:.0} MiB in all, through a cap of {:.0} MiB, pulled by {CLIENTS} clients",
        images.len(),
        mib(images.bytes()),
        mib(CAP_BYTES),
    );
    // What a process needs that has done everything once.
    let mut wrong = images.pull_all(pierhead.host());
    let base = measure::settled(&pierhead, REST_MAX, Sample::is_idle)?;

    let clients = Clients::start(pierhead.host(), &images, seed);
    let mut weather = Weather::new(&upstreams, seed);
    let mut course = Course::begin(args.time);
    while course.goes_on() {
        thread::sleep(TICK);
        weather.change();
        if let Some(signal) = course.end_due() {
            course.say(signal);
            if signal == "SIGKILL" {
                pierhead.kill9();
            }
            pierhead.restart();
        }
        if course.is_sample_due() {
            course.add(Sample::take(&pierhead)?);
            upstreams.forget_log();
        }
    }
    course.bar.finish_and_clear();
    let counts = clients.stop();
    weather.clear();

    // Everything can be had again, and what was parked is put to use.
    wrong.extend(images.pull_all(pierhead.host()));
    let began = Instant::now();
    let rest = measure::settled(&pierhead, REST_MAX, |now| verdict::is_at_rest(&base, now))?;
    println!("at rest {:.0} s after the last client\n", began.elapsed().as_secs_f64());

    let mut checks = Checks::default();
    checks.growth(&base, &course.samples, course.second_half());
    checks.rest(&base, &rest);
    checks.cap(&course.samples, CAP_BYTES);
    checks.clients(&counts, &wrong);
    if let Some(path) = &args.json {
        std::fs::write(path, measure::json(&course.samples).to_string())?;
    }
    Ok(checks.verdict())
}

/// The time of the bad weather: what is due in it, and what is measured.
struct Course {
    bar: ProgressBar,
    began: Instant,
    time: Duration,
    sample_every: Duration,
    samples: Vec<Sample>,
    ends: u32,
    lines: u32,
}

impl Course {
    fn begin(time: Duration) -> Self {
        let target = match std::io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(time.as_secs()), target);
        let style =
            ProgressStyle::with_template("{elapsed_precise} [{wide_bar}] {eta} left, {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            began: Instant::now(),
            time,
            sample_every: (time / SAMPLES).max(SAMPLE_EVERY_MIN),
            samples: Vec::new(),
            ends: 0,
            lines: 0,
        }
    }

    fn goes_on(&self) -> bool {
        self.began.elapsed() < self.time
    }

    /// The signal that ends the process now, if it is time.
    fn end_due(&mut self) -> Option<&'static str> {
        let due = self.time / 2 * (self.ends + 1) / (ENDS + 1);
        if self.ends == ENDS || self.began.elapsed() < due {
            return None;
        }
        self.ends += 1;
        Some(if self.ends % 2 == 1 { "SIGKILL" } else { "SIGTERM" })
    }

    fn is_sample_due(&self) -> bool {
        let samples = u32::try_from(self.samples.len()).unwrap_or(u32::MAX);
        self.began.elapsed() >= self.sample_every.saturating_mul(samples)
    }

    fn add(&mut self, mut sample: Sample) {
        sample.at = self.began.elapsed();
        self.bar.set_position(sample.at.as_secs());
        self.bar.set_message(sample.to_string());
        if self.bar.is_hidden() && sample.at >= self.time / LINES * self.lines {
            self.lines += 1;
            self.say(&sample.to_string());
        }
        self.samples.push(sample);
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| println!("{:>6.0} s: {line}", self.began.elapsed().as_secs_f64()));
    }

    /// The samples of the time in which no process was ended.
    fn second_half(&self) -> &[Sample] {
        let from = self.samples.partition_point(|sample| sample.at < self.time / 2);
        &self.samples[from..]
    }
}
