//! What a running Pierhead takes: memory, files, threads, tasks, and space.

use std::fmt;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use pierhead_kit::program::Pierhead;
use pierhead_kit::space::allocated_bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Result;
use crate::process::own_memory_bytes;

/// How often it is looked whether everything has come to rest.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often the storage is walked for one sample.
const WALKS: usize = 3;

/// Bytes as MiB.
pub(super) fn mib(bytes: u64) -> f64 {
    crate::streams::mib(bytes)
}

/// What is measured, each with its name and unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// `RssAnon` and `RssShmem`, in bytes.
    Memory,
    /// Open files that are not blobs of the store: sockets, the database, the log.
    Files,
    /// Threads.
    Threads,
    /// Tasks of the process: `pierhead_tasks_running`.
    Tasks,
    /// Files in the spool.
    SpoolFiles,
    /// What they take, in bytes.
    SpoolBytes,
    /// The write-ahead log of the database, in bytes.
    Wal,
}

impl Measure {
    pub(super) const ALL: [Self; 7] = [
        Self::Memory,
        Self::Files,
        Self::Threads,
        Self::Tasks,
        Self::SpoolFiles,
        Self::SpoolBytes,
        Self::Wal,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "own memory, MiB",
            Self::Files => "open files but blobs",
            Self::Threads => "threads",
            Self::Tasks => "tasks",
            Self::SpoolFiles => "files in the spool",
            Self::SpoolBytes => "the spool, MiB",
            Self::Wal => "write-ahead log, MiB",
        }
    }

    /// A value of it, as it is shown.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Memory | Self::SpoolBytes | Self::Wal => format!("{:.1}", value / 1_048_576.0),
            _ => format!("{value:.0}"),
        }
    }
}

/// One look at a process.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// How long after the beginning.
    pub(super) at: Duration,
    pub(super) values: [u64; Measure::ALL.len()],
    /// Open files that were removed: they still take room.
    pub(super) removed_open: u64,
    /// Everything that is allocated below the storage, in bytes.
    pub(super) storage: u64,
    /// Fills that run.
    pub(super) fills: u64,
    /// Answers that read from them.
    pub(super) followers: u64,
}

impl Sample {
    /// Looks.
    pub(super) fn take(pierhead: &Pierhead) -> Result<Self> {
        let pid = pierhead.pid();
        let metrics = pierhead.metrics();
        let tasks = sum(&metrics, "pierhead_tasks_running", "");
        let (spool_files, spool_bytes) = spool(pierhead.storage());
        let (files, removed_open) = open_files(pid)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
        let threads = threads.and_then(|number| number.trim().parse().ok());
        let wal = pierhead.storage().join("meta-v1.sqlite-wal");
        Ok(Self {
            at: Duration::ZERO,
            values: [
                own_memory_bytes(pid)?,
                files,
                threads.ok_or("no Threads in /proc/PID/status")?,
                tasks,
                spool_files,
                spool_bytes,
                fs::metadata(wal).map_or(0, |metadata| metadata.len()),
            ],
            removed_open,
            storage: storage_bytes(pierhead.storage()),
            fills: sum(&metrics, "pierhead_tasks_running", "kind=\"fill\""),
            followers: sum(&metrics, "pierhead_fill_followers", ""),
        })
    }

    /// One of its values.
    pub(super) fn value(&self, measure: Measure) -> f64 {
        self.values[measure as usize] as f64
    }

    /// Whether nobody is at work.
    pub(super) fn is_idle(&self) -> bool {
        self.fills == 0 && self.followers == 0
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |measure: Measure| measure.show(self.value(measure));
        write!(
            f,
            "{} MiB, {} files, {} threads, {} tasks, {} fills, {:.0} MiB stored",
            show(Measure::Memory),
            show(Measure::Files),
            show(Measure::Threads),
            show(Measure::Tasks),
            self.fills,
            mib(self.storage),
        )
    }
}

/// Looks until `is_settled`, but no longer than `within`; the last look.
pub(super) fn settled(
    pierhead: &Pierhead,
    within: Duration,
    is_settled: impl Fn(&Sample) -> bool,
) -> Result<Sample> {
    let until = Instant::now() + within;
    loop {
        let sample = Sample::take(pierhead)?;
        if is_settled(&sample) || Instant::now() >= until {
            return Ok(sample);
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// The samples of a metric whose labels hold `label`, summed up.
fn sum(metrics: &str, name: &str, label: &str) -> u64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        labels.contains(label).then(|| value.trim().parse::<u64>().ok())?
    });
    values.sum()
}

/// Everything that is allocated below a storage, in bytes. What is moved or replaced while its
/// directories are walked counts twice, so the least of some walks is nearer to the truth.
fn storage_bytes(storage: &Path) -> u64 {
    (0..WALKS).map(|_| allocated_bytes(storage)).min().unwrap_or(0)
}

/// How many files are in the spool of that storage, and what they take in bytes.
fn spool(storage: &Path) -> (u64, u64) {
    let entries = fs::read_dir(storage.join("spool-v1")).into_iter().flatten().flatten();
    entries
        .fold((0, 0), |(files, bytes), entry| (files + 1, bytes + allocated_bytes(&entry.path())))
}

/// How many files a process has open that are not blobs, and how many of all were removed.
fn open_files(pid: u32) -> Result<(u64, u64)> {
    let (mut files, mut removed) = (0, 0);
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was just closed leads nowhere.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        let is_removed = target.ends_with(" (deleted)") && target.contains("/storage/");
        removed += u64::from(is_removed);
        files += u64::from(!target.contains("/blobs-v1/"));
    }
    Ok((files, removed))
}

/// All samples, for whoever wants to plot them.
pub(super) fn json(samples: &[Sample]) -> Value {
    let sample = |sample: &Sample| {
        let mut json = json!({
            "seconds": sample.at.as_secs_f64(),
            "removed but open": sample.removed_open,
            "storage": sample.storage,
            "fills": sample.fills,
            "followers": sample.followers,
        });
        for measure in Measure::ALL {
            json[measure.as_str()] = sample.value(measure).into();
        }
        json
    };
    samples.iter().map(sample).collect()
}

#[cfg(test)]
impl Sample {
    /// A sample with that value.
    pub(super) fn with(mut self, measure: Measure, value: u64) -> Self {
        self.values[measure as usize] = value;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn metrics_are_summed_by_name_and_label() {
        let text = "# HELP a b\na{kind=\"fill\"} 2\na{kind=\"listener\"} 3\na_total 9\nb 4\n";
        assert_eq!(sum(text, "a", ""), 5);
        assert_eq!(sum(text, "a", "kind=\"fill\""), 2);
        assert_eq!(sum(text, "b", ""), 4);
        assert_eq!(sum(text, "c", ""), 0);
    }
}
