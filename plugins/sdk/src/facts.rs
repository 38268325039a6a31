//! What was found out about content, by whom.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

pub use crate::bindings::imports::pierhead::plugin::facts::Fact;
use crate::{Failure, host, kv};

impl Fact {
    /// What was found out. What is no JSON is `null`.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.json).unwrap_or_default()
    }
}

/// All that is known of a digest.
#[must_use]
pub fn about(digest: &str) -> Vec<Fact> {
    host::facts::about(digest, None)
}

/// What is known of a digest under this name, of every source.
#[must_use]
pub fn named(digest: &str, name: &str) -> Vec<Fact> {
    host::facts::about(digest, Some(name))
}

/// States something about a digest, in the mount's own name. Needs `grants.facts.write`.
///
/// # Errors
/// When it is not granted, or cannot be kept.
pub fn state<T: Serialize>(
    digest: &str,
    name: &str,
    what: &T,
    ttl: Option<Duration>,
) -> Result<(), Failure> {
    let json = serde_json::to_string(what).map_err(|error| Failure::internal(error.to_string()))?;
    host::facts::state(digest, name, &json, ttl.map(kv::milliseconds)).map_err(Failure::unavailable)
}
