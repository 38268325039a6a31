//! Single streams, and a hundred of them.

use std::path::Path;
use std::thread;
use std::time::Duration;

use pierhead_kit::program::Run;
use tokio::time::Instant;

use crate::Result;
use crate::download::Download;
use crate::origin::Blob;
use crate::process::MemorySampler;
use crate::programs::{CURL, find};

/// How often memory is looked at.
pub(crate) const MEMORY_INTERVAL: Duration = Duration::from_millis(50);
/// The longest that one transfer may take.
const DEADLINE: Duration = Duration::from_secs(600);

/// How long one curl takes for `blob`.
pub(crate) fn curl(host: &str, blob: &Blob) -> Result<Duration> {
    let curl = find(CURL)?;
    let began = Instant::now();
    let output = Run::new(curl)
        .args(["--silent", "--show-error", "--fail", "--output", "/dev/null"])
        .args(["--write-out", "%{size_download}"])
        .arg(format!("http://{host}{}", blob.path()))
        .deadline(DEADLINE)
        .output();
    let took = began.elapsed();
    if !output.success() || output.text() != blob.len().to_string() {
        return Err(format!("curl did not get the blob: {output}").into());
    }
    Ok(took)
}

/// How long the first byte of `blob` takes.
pub(crate) fn first_byte(host: &str, blob: &Blob) -> Result<Duration> {
    let download = Download::open(host, &blob.path())?;
    let took = download.first_byte;
    download.discard_all()?;
    Ok(took)
}

/// `clients` pull `blob` at once; the most memory that `pid` had of its own meanwhile, in bytes.
/// The first client checks what it gets.
pub(crate) fn memory(pid: u32, host: &str, blob: &Blob, clients: usize) -> Result<u64> {
    let path = blob.path();
    let sampler = MemorySampler::start(pid, MEMORY_INTERVAL);
    let pulled: Result<()> = thread::scope(|scope| {
        let pulls: Vec<_> = (0..clients)
            .map(|n| {
                let path = &path;
                scope.spawn(move || {
                    let download = Download::open(host, path)?;
                    if n > 0 {
                        return download.discard_all().map(drop);
                    }
                    match download.sha256()? {
                        digest if digest == blob.digest => Ok(()),
                        digest => Err(format!("got {digest} for {}", blob.digest).into()),
                    }
                })
            })
            .collect();
        pulls.into_iter().try_for_each(|pull| match pull.join() {
            Ok(result) => result,
            Err(_) => Err("a client panicked".into()),
        })
    });
    let peak = sampler.peak_bytes();
    pulled?;
    peak
}

/// A file's size in whole MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The size of a program, for the record.
pub(crate) fn size_mib(path: &Path) -> f64 {
    std::fs::metadata(path).map_or(0.0, |meta| mib(meta.len()))
}
