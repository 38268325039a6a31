//! Fixtures for Pierhead's tests. Nothing here knows Pierhead's own code: it stands on the outside,
//! as clients and upstream registries do.
//!
//! * [`upstream`]: an in-process registry that misbehaves on demand and remembers what it was asked.
//! * [`program`]: real programs (Pierhead, docker-registry, dockerd, containerd, podman, buildkit,
//!   skopeo, pebble), ended when their handle is dropped.
//! * [`images`]: images made on the spot, without the internet.
//! * [`http`]: a small blocking HTTP/1.1 client that shows what really came over the wire.
//! * [`tls`]: certificates made on the spot, and clients that use them.
//! * [`collector`]: takes traces and shows them.
//! * [`issuer`]: issues tokens of OpenID Connect, as CI systems do.
//! * [`random`]: content that is the same each time and need not be held in memory.
//!
//! Everything binds 127.0.0.1 at a port that the kernel picks, keeps its files in temporary
//! directories and waits with a deadline instead of sleeping and hoping.

#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "fixtures fail the test that uses them"
)]
#![allow(clippy::print_stderr, reason = "skips and logs of failed tests go to the test's output")]

pub mod collector;
pub mod http;
pub mod images;
pub mod issuer;
pub mod port;
pub mod program;
pub mod random;
pub mod space;
pub mod tls;
pub mod upstream;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

/// `sha256:` and the hexadecimal digest of `bytes`.
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Asks `ready` every few milliseconds until it answers `Some`, or panics after `deadline`, naming
/// `what`.
pub fn wait_until<T>(what: &str, deadline: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = tokio::time::Instant::now() + deadline;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(tokio::time::Instant::now() < end, "{what}: not within {deadline:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sets the flag that ends the threads of a scope, however the scope is left. It waits for them:
/// without, a failed assertion would never be told.
#[derive(Debug)]
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
