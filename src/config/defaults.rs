//! The values of keys that were not set. A test holds the commented example to them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::pull::settings::Lifetime;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(super) const LISTEN: SocketAddr = SocketAddr::new(LOOPBACK, 5000);
pub(super) const ADMIN_LISTEN: SocketAddr = SocketAddr::new(LOOPBACK, 5001);
pub(super) const CONNECTIONS_MAX: usize = 4096;
pub(super) const CONNECTIONS_PER_CLIENT_MAX: u32 = 1024;
pub(super) const REQUESTS_MAX: u32 = 8192;
pub(super) const REQUESTS_PER_CLIENT_MAX: u32 = 2048;
pub(super) const BODY_MEMORY_MAX: u64 = 1 << 30;
pub(super) const SERVER_HEADER_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const HEADER_BYTES_MAX: usize = 64 << 10;
pub(super) const WRITE_SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const WRITE_RATE_MIN: u64 = 4 << 10;
pub(super) const HTTP2_STREAMS_MAX: u32 = 256;
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) const ACME_DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";

pub(super) const STORAGE_PATH: &str = "pierhead-data";
pub(super) const STORAGE_MIN_FREE: u64 = 1 << 30;
pub(super) const SCRUB_RATE: u64 = 50 << 20;
pub(super) const SCRUB_EVERY: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) const TAG_TTL: Duration = Duration::from_secs(60);
pub(super) const ABSENT_TTL: Duration = Duration::from_secs(10);
pub(super) const STALE: Lifetime = Lifetime::Forever;
/// Whoever lost access upstream must not keep it through the cache for long.
pub(super) const STALE_ON_401_WITH_CREDENTIALS: Lifetime = Lifetime::For(Duration::from_secs(3600));
pub(super) const STALE_WHILE_REVALIDATE: Duration = Duration::ZERO;
pub(super) const REFRESH_AHEAD: Duration = Duration::ZERO;
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const UPSTREAM_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) const HOSTED_PREFIX: &str = "hosted/";

pub(super) const FILL_CONCURRENT_MAX: usize = 256;
pub(super) const FILL_PER_CLIENT_MAX: u32 = 64;
pub(super) const FILL_FOLLOWERS_MAX: u32 = 4096;
pub(super) const FILL_PRIVATE_MAX: usize = 64;
pub(super) const BLOB_SIZE_MAX: u64 = 1 << 40;
pub(super) const SERVE_UNVERIFIED_RANGES: bool = true;
pub(super) const FILL_CONNECTIONS: usize = 4;
pub(super) const PARALLEL_ABOVE: u64 = 256 << 20;
pub(super) const RETRY_FOR: Duration = Duration::from_secs(120);
pub(super) const PAUSE_AFTER: Duration = Duration::from_secs(30);
pub(super) const CONDEMNED_FOR: Duration = Duration::from_secs(600);
pub(super) const SAMPLE_RATIO: f64 = 1.0;
pub(super) const SERVICE_NAME: &str = "pierhead";

/// containerd 2.3 and later gives up after 30 s.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(25);
