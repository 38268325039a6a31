//! One mount of a plugin: its name, settings, secrets, grants and limits.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::grants::Grants;
use crate::hook::Hook;

/// A password, token or key. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretString(String);

impl SecretString {
    /// Takes a value into custody.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the guest that it is granted to.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// One mount of a plugin.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// Its name in the configuration. What it keeps in `kv` is found again by it.
    pub name: String,
    /// Its settings, handed to the plugin as JSON.
    pub config: serde_json::Value,
    /// Secrets by name. A plugin sees those that [`Grants::secrets`] names.
    pub secrets: BTreeMap<String, SecretString>,
    /// What it may do.
    pub grants: Grants,
    /// What a call may take.
    pub limits: Limits,
}

/// What one call may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long it may take.
    pub deadline: Duration,
    /// How much memory the guest may have, all of its memories together, in bytes.
    pub memory_bytes: usize,
    /// How much it may hand to the host in one call of a host function, or as its answer, in
    /// bytes.
    pub host_bytes: usize,
    /// How much it may log, in bytes. What goes beyond is dropped and counted.
    pub log_bytes: usize,
    /// How many requests it may send.
    pub http_calls: u32,
    /// How often it may read content: a manifest, what refers to one, an opened blob and each
    /// piece of it count alike.
    pub content_calls: u32,
    /// How many handles it may hold at a time.
    pub handles: usize,
}

/// How often a call that a request waits for may read content, unless something else is set.
const CONTENT_CALLS_USUAL: u32 = 64;

/// The same in the background: an image has thousands of pieces.
const BATCH_CONTENT_CALLS_USUAL: u32 = 100_000;

/// Handles of a call that a request waits for, unless something else is set.
const HANDLES_USUAL: usize = 16;

/// The same in the background.
const BATCH_HANDLES_USUAL: usize = 256;

const MIB: usize = 1 << 20;

impl Limits {
    /// What is usual for a hook.
    pub const fn for_hook(hook: Hook) -> Self {
        let (deadline, memory_bytes, host_bytes) = match hook {
            Hook::RequestPolicy | Hook::ManifestPolicy | Hook::Resolver | Hook::Authorizer => {
                (Duration::from_millis(5), 32 * MIB, MIB)
            }
            // They call out, or hash passwords on purpose slowly.
            Hook::Authenticator | Hook::UpstreamCredentials => {
                (Duration::from_secs(2), 32 * MIB, 4 * MIB)
            }
            Hook::Observer | Hook::Replicator => (Duration::from_secs(10), 64 * MIB, 4 * MIB),
            Hook::Scanner => (Duration::from_secs(600), 512 * MIB, 64 * MIB),
        };
        let (content_calls, handles) = if hook.is_batch() {
            (BATCH_CONTENT_CALLS_USUAL, BATCH_HANDLES_USUAL)
        } else {
            (CONTENT_CALLS_USUAL, HANDLES_USUAL)
        };
        Self {
            deadline,
            memory_bytes,
            host_bytes,
            log_bytes: 16 << 10,
            http_calls: 8,
            content_calls,
            handles,
        }
    }
}
