//! What the process uses, in the names that every Prometheus client has, and which build it is.
//!
//! Source: Prometheus, "Writing client libraries", process metrics; proc_pid_status(5).

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts, Registry};

/// The kinds of resident memory, as the kernel and as we call them.
const KINDS: [(&str, &str); 3] =
    [("RssAnon:", "anonymous"), ("RssShmem:", "shared"), ("RssFile:", "file")];

/// Registers `process_*`, `pierhead_memory_bytes` and `pierhead_build_info`.
pub fn register(registry: &Registry) -> Result<(), prometheus::Error> {
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    registry.register(Box::new(Memory::new()?))?;
    let build = IntGaugeVec::new(
        Opts::new("pierhead_build_info", "Always 1; the labels say which build this is"),
        &["version"],
    )?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(build))
}

/// Resident memory by kind. The sum alone misleads: blobs are served from mapped files, whose
/// pages count as resident, and the kernel takes them back whenever it likes.
struct Memory(IntGaugeVec);

impl Memory {
    fn new() -> Result<Self, prometheus::Error> {
        let opts = Opts::new("pierhead_memory_bytes", "Resident memory, by kind");
        Ok(Self(IntGaugeVec::new(opts, &["kind"])?))
    }
}

impl Collector for Memory {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Without /proc there is nothing to tell.
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (key, kind) in KINDS {
            if let Some(bytes) = bytes(&status, key) {
                self.0.with_label_values(&[kind]).set(bytes);
            }
        }
        self.0.collect()
    }
}

/// The number of kB behind `key`, in bytes.
fn bytes(status: &str, key: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: i64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let status = "Name:\tpierhead\nRssAnon:\t    1200 kB\nRssFile:\t   x kB\n";
        assert_eq!(bytes(status, "RssAnon:"), Some(1200 * 1024));
        assert_eq!(bytes(status, "RssFile:"), None);
        assert_eq!(bytes(status, "RssShmem:"), None);
    }

    #[test]
    fn this_process_is_told() {
        let registry = Registry::new();
        register(&registry).unwrap();
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for name in [
            "pierhead_build_info{version=\"",
            "pierhead_memory_bytes{kind=\"anonymous\"} ",
            "process_resident_memory_bytes ",
            "process_cpu_seconds_total ",
            "process_open_fds ",
            "process_max_fds ",
            "process_start_time_seconds ",
        ] {
            assert!(text.contains(name), "{name}\n{text}");
        }
    }
}
