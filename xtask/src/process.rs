//! What a running process costs: processor time and memory, from `/proc`.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Result;

/// Seconds of processor time that a process and its children have taken so far.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that has just ended has no file any more.
        let Ok(stat) = fs::read_to_string(format!("/proc/{id}/stat")) else { continue };
        let Some((parent, taken)) = parse_stat(&stat) else { continue };
        if id == pid || parent == pid {
            ticks += taken;
        }
    }
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The parent and the ticks in user and kernel mode, of `/proc/PID/stat`.
fn parse_stat(stat: &str) -> Option<(u32, u64)> {
    // The name in the second field may hold anything, also a parenthesis.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<_> = rest.split(' ').collect();
    let parent = fields.get(1)?.parse().ok()?;
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some((parent, user + system))
}

/// Memory that is a process's own, in bytes: `RssAnon` and `RssShmem`, without mapped files.
pub(crate) fn own_memory_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
    };
    let sum = kib("RssAnon:").zip(kib("RssShmem:")).map(|(anon, shmem)| anon + shmem);
    Ok(sum.ok_or("no RssAnon in /proc/PID/status")? * 1024)
}

/// Samples the memory of a process until it is stopped.
#[derive(Debug)]
pub(crate) struct MemorySampler {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl MemorySampler {
    /// Starts sampling, every `interval`.
    pub(crate) fn start(pid: u32, interval: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let peak = Arc::new(AtomicU64::new(0));
        let thread = std::thread::spawn({
            let (stop, peak) = (Arc::clone(&stop), Arc::clone(&peak));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(bytes) = own_memory_bytes(pid) {
                        peak.fetch_max(bytes, Ordering::Relaxed);
                    }
                    std::thread::park_timeout(interval);
                }
            }
        });
        Self { stop, peak, thread }
    }

    /// Ends it: the most that was seen, in bytes.
    pub(crate) fn peak_bytes(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().map_err(|_| "the memory sampler panicked")?;
        match self.peak.load(Ordering::Relaxed) {
            0 => Err("the process ended while its memory was being sampled".into()),
            peak => Ok(peak),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse_stat;

    #[test]
    fn stat_is_read_behind_the_name() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 50 60 7 8 20 0 1 0 5 6 7";
        assert_eq!(parse_stat(stat), Some((3, 110)));
        assert_eq!(parse_stat("7 (a"), None);
    }
}
