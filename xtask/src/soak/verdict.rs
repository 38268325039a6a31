//! What the samples of a soak say: a leak is what grows while the load does not, or what stays
//! when everybody is gone.

use super::load::Counts;
use super::measure::{Measure, Sample, mib};

/// How much more of something a process may have at rest than it had before: what is opened once
/// and kept.
const FILES_LEFT_MAX: f64 = 8.0;
const THREADS_LEFT_MAX: f64 = 8.0;

impl Measure {
    /// How much it may grow over the second half, along the line that fits best: what chance makes
    /// of a load that goes up and down.
    const fn growth_max(self) -> f64 {
        const MIB: f64 = 1_048_576.0;
        match self {
            Self::Memory => 24.0 * MIB,
            Self::Files | Self::Threads | Self::Tasks => 32.0,
            Self::SpoolFiles => 16.0,
            Self::SpoolBytes => 48.0 * MIB,
            Self::Wal => 8.0 * MIB,
        }
    }

    /// How much of it may be there at rest, of a process that had `base` before; `None` where a
    /// process keeps what it once had.
    const fn rest_max(self, base: f64) -> Option<f64> {
        match self {
            // The allocator and SQLite keep what they have, up to a limit that growth is held to.
            Self::Memory | Self::Wal => None,
            Self::Files => Some(base + FILES_LEFT_MAX),
            Self::Threads => Some(base + THREADS_LEFT_MAX),
            Self::Tasks => Some(base),
            Self::SpoolFiles | Self::SpoolBytes => Some(0.0),
        }
    }
}

/// Whether the process is back to what it was.
pub(super) fn is_at_rest(base: &Sample, now: &Sample) -> bool {
    let back = |measure: Measure| {
        measure.rest_max(base.value(measure)).is_none_or(|max| now.value(measure) <= max)
    };
    now.is_idle() && now.removed_open == 0 && Measure::ALL.into_iter().all(back)
}

/// How much a measure grew over those samples, along the line that fits them best.
fn growth(samples: &[Sample], measure: Measure) -> f64 {
    let [first, .., last] = samples else { return 0.0 };
    let span = (last.at - first.at).as_secs_f64();
    let points = || samples.iter().map(|s| (s.at.as_secs_f64(), s.value(measure)));
    let count = samples.len() as f64;
    let (at, value) = points().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    let (at, value) = (at / count, value / count);
    let (with, square) = points().fold((0.0, 0.0), |sum, point| {
        let off = point.0 - at;
        (sum.0 + off * (point.1 - value), sum.1 + off * off)
    });
    if square > 0.0 { with / square * span } else { 0.0 }
}

/// What was found wrong.
#[derive(Debug, Default)]
pub(super) struct Checks {
    wrong: Vec<String>,
}

impl Checks {
    fn check(&mut self, kept: bool, what: impl FnOnce() -> String) -> &'static str {
        if kept {
            return "";
        }
        self.wrong.push(what());
        " LEAK"
    }

    /// What grew in the second half of the time.
    pub(super) fn growth(&mut self, base: &Sample, all: &[Sample], second_half: &[Sample]) {
        println!(
            "{:<22} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "", "before", "most", "last", "growth", "allowed"
        );
        for measure in Measure::ALL {
            let grown = growth(second_half, measure);
            let allowed = measure.growth_max();
            let leak = self.check(grown <= allowed, || {
                format!("{} grew by {}", measure.as_str(), measure.show(grown))
            });
            let most = all.iter().map(|sample| sample.value(measure)).fold(0.0, f64::max);
            let last = all.last().map_or(0.0, |sample| sample.value(measure));
            println!(
                "{:<22} {:>9} {:>9} {:>9} {:>9} {:>9}{leak}",
                measure.as_str(),
                measure.show(base.value(measure)),
                measure.show(most),
                measure.show(last),
                measure.show(grown),
                measure.show(allowed),
            );
        }
    }

    /// What is left at rest.
    pub(super) fn rest(&mut self, base: &Sample, rest: &Sample) {
        println!("\n{:<22} {:>9} {:>9}", "", "at rest", "allowed");
        let mut row = |what: &str, value: f64, max: Option<f64>, show: &dyn Fn(f64) -> String| {
            let leak = self.check(max.is_none_or(|max| value <= max), || {
                format!("{what} at rest: {}", show(value))
            });
            let max = max.map_or("-".to_owned(), show);
            println!("{what:<22} {:>9} {max:>9}{leak}", show(value));
        };
        for measure in Measure::ALL {
            let value = rest.value(measure);
            let max = measure.rest_max(base.value(measure));
            row(measure.as_str(), value, max, &|value| measure.show(value));
        }
        let plain = |value: f64| format!("{value:.0}");
        row("fills", rest.fills as f64, Some(0.0), &plain);
        row("followers", rest.followers as f64, Some(0.0), &plain);
        row("removed but open", rest.removed_open as f64, Some(0.0), &plain);
    }

    /// Whether the cap held at every sample.
    pub(super) fn cap(&mut self, samples: &[Sample], cap_bytes: u64) {
        let most = samples.iter().map(|sample| sample.storage).max().unwrap_or(0);
        let broken = self.check(most <= cap_bytes, || {
            format!("{:.1} MiB below the storage, over its cap", mib(most))
        });
        let (most, cap) = (mib(most), mib(cap_bytes));
        println!("\nbelow the storage: {most:.1} MiB at the most, of {cap:.1} allowed{broken}");
    }

    /// What the clients got. `at_last` went wrong when upstream was well.
    pub(super) fn clients(&mut self, counts: &Counts, at_last: &[String]) {
        let Counts { right, left, refused, broken, wrong } = counts;
        println!(
            "answers: {right} right, {left} left by their clients, {refused} refused, \
             {broken} broken off, {} wrong",
            wrong.len()
        );
        self.check(*right > 0, || "no client got anything".to_owned());
        self.wrong.extend(wrong.iter().cloned());
        self.wrong.extend(at_last.iter().map(|why| format!("from upstreams that are well: {why}")));
    }

    /// Prints it; whether nothing is wrong.
    pub(super) fn verdict(&self) -> bool {
        match self.wrong.as_slice() {
            [] => println!("\nnothing leaks, and every answer was right"),
            wrong => println!("\nFAILED:\n  {}", wrong.join("\n  ")),
        }
        self.wrong.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn samples(value: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample = |n| Sample { at: Duration::from_secs(n), ..Sample::default() };
        (0..100).map(|n| sample(n).with(Measure::Tasks, value(n))).collect()
    }

    #[test]
    fn a_leak_grows_and_a_load_goes_up_and_down() {
        let grown = growth(&samples(|n| 10 + 2 * n), Measure::Tasks);
        assert!((grown - 198.0).abs() < 0.001, "{grown}");
        let noise = growth(&samples(|n| 50 + (n * 37) % 41), Measure::Tasks);
        assert!(noise.abs() < Measure::Tasks.growth_max(), "{noise}");
        assert_eq!(growth(&samples(|_| 7)[..1], Measure::Tasks), 0.0);
        for (leaks, value) in [(true, 2), (false, 0)] {
            let samples = samples(|n| value * n);
            let mut checks = Checks::default();
            checks.growth(&Sample::default(), &samples, &samples);
            assert_eq!(!checks.verdict(), leaks);
        }
    }

    #[test]
    fn at_rest_everything_is_as_before() {
        let base = Sample::default().with(Measure::Tasks, 4).with(Measure::Files, 20);
        assert!(is_at_rest(&base, &base));
        let left = [
            base.clone().with(Measure::Tasks, 5),
            base.clone().with(Measure::Files, 29),
            base.clone().with(Measure::SpoolFiles, 1),
            Sample { removed_open: 1, ..base.clone() },
            Sample { fills: 1, ..base.clone() },
            Sample { followers: 1, ..base.clone() },
        ];
        for rest in left {
            assert!(!is_at_rest(&base, &rest), "{rest:?}");
            let mut checks = Checks::default();
            checks.rest(&base, &rest);
            assert!(!checks.verdict(), "{rest:?}");
        }
        let mut checks = Checks::default();
        checks.rest(&base, &base.clone().with(Measure::Memory, u64::MAX >> 20));
        checks.cap(&[], 0);
        assert!(checks.verdict());
    }

    #[test]
    fn a_wrong_answer_fails() {
        let counts = Counts { right: 1, ..Counts::default() };
        let verdict = |counts: &Counts, at_last: &[String]| {
            let mut checks = Checks::default();
            checks.clients(counts, at_last);
            checks.verdict()
        };
        assert!(verdict(&counts, &[]));
        assert!(!verdict(&counts, &["refused".to_owned()]));
        assert!(!verdict(&Counts { wrong: vec!["other bytes".to_owned()], ..counts }, &[]));
        assert!(!verdict(&Counts::default(), &[]));
        let mut checks = Checks::default();
        checks.cap(&[Sample { storage: 2, ..Sample::default() }], 1);
        assert!(!checks.verdict());
    }
}
