//! Load by `wrk`, with exact numbers.

use std::fs;
use std::time::Duration;

use pierhead_kit::program::Run;
use tempfile::TempDir;

use crate::Result;
use crate::process::cpu_seconds;
use crate::programs::{WRK, find};

/// wrk's own threads: one a processor is enough for it, and two is what it needs for more.
const THREADS: &str = "2";
/// How much longer than its run wrk may take.
const GRACE: Duration = Duration::from_secs(60);

/// docker-registry hides manifests of types that a client does not name.
const ACCEPT: &str = "Accept: application/vnd.oci.image.manifest.v1+json, */*";

const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("exact %d %d %d %d %d %d\n", summary.requests, summary.bytes,
    summary.duration, e.connect + e.read + e.write, e.status, latency:percentile(99)))
end
"#;

/// What wrk measured, and what that cost the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Whole answers a second.
    pub(crate) requests_per_second: f64,
    /// Bytes a second, also of answers that were not over.
    pub(crate) bytes_per_second: f64,
    /// The server's processor seconds for each whole answer.
    pub(crate) cpu_per_request: f64,
    /// The server's processor seconds for each byte.
    pub(crate) cpu_per_byte: f64,
    /// 99 of 100 answers took no longer.
    pub(crate) p99: Duration,
}

/// Loads `url`, served by `pid`, over `connections` connections for `seconds`.
pub(crate) fn load(url: &str, pid: u32, connections: u32, seconds: u64) -> Result<Load> {
    let wrk = find(WRK)?;
    let dir = TempDir::with_prefix("pierhead-wrk-")?;
    let script = dir.path().join("exact.lua");
    fs::write(&script, SCRIPT)?;
    let threads = if connections == 1 { "1" } else { THREADS };
    let before = cpu_seconds(pid)?;
    let output = Run::new(wrk)
        .args(["-t", threads, "-c", &connections.to_string()])
        .args(["-d", &format!("{seconds}s"), "--timeout", "60s", "-H", ACCEPT, "-s"])
        .arg(script)
        .arg(url)
        .deadline(Duration::from_secs(seconds) + GRACE)
        .output();
    let cpu = cpu_seconds(pid)? - before;
    let numbers = output.stdout.lines().find_map(|line| line.strip_prefix("exact "));
    let numbers: Vec<f64> = numbers
        .map(|line| line.split(' ').filter_map(|number| number.parse().ok()).collect())
        .unwrap_or_default();
    let [requests, bytes, micros, broken, bad, p99] = numbers[..] else {
        return Err(format!("wrk failed: {output}").into());
    };
    if broken > 0.0 || bad > 0.0 {
        return Err(format!("{url}: {broken} broken and {bad} bad answers: {output}").into());
    }
    let seconds = micros / 1e6;
    Ok(Load {
        requests_per_second: requests / seconds,
        bytes_per_second: bytes / seconds,
        cpu_per_request: cpu / requests.max(1.0),
        cpu_per_byte: cpu / bytes.max(1.0),
        p99: Duration::from_secs_f64(p99 / 1e6),
    })
}
