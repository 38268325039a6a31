//! Keys and values of the mount, which outlive a call and a reload. Needs `grants.kv`.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::bindings::imports::pierhead::plugin::kv::KvError;
use crate::host;

/// A bucket that the mount grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket<'a>(
    /// Its name.
    pub &'a str,
);

impl Bucket<'_> {
    /// The value of a key.
    ///
    /// # Errors
    /// When the mount does not grant the bucket.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, KvError> {
        host::kv::get(self.0, key)
    }

    /// The value of a key, from JSON. What is no such JSON counts as not there.
    ///
    /// # Errors
    /// When the mount does not grant the bucket.
    pub fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, KvError> {
        Ok(self.get(key)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Sets a value, for good or for a time.
    ///
    /// # Errors
    /// When the mount does not grant the bucket, or its quota is used up.
    pub fn set(&self, key: &str, value: &[u8], ttl: Option<Duration>) -> Result<(), KvError> {
        host::kv::set(self.0, key, value, ttl.map(milliseconds))
    }

    /// Sets a value as JSON, for good or for a time.
    ///
    /// # Errors
    /// When the mount does not grant the bucket, or its quota is used up.
    pub fn set_json<T: Serialize>(
        &self,
        key: &str,
        value: &T,
        ttl: Option<Duration>,
    ) -> Result<(), KvError> {
        let json = serde_json::to_vec(value).map_err(|error| KvError::Other(error.to_string()))?;
        self.set(key, &json, ttl)
    }

    /// Removes a key.
    ///
    /// # Errors
    /// When the mount does not grant the bucket.
    pub fn delete(&self, key: &str) -> Result<(), KvError> {
        host::kv::delete(self.0, key)
    }

    /// Adds to a number, atomically, and returns the sum. A key that is not there counts as zero,
    /// and is given the end that `ttl` says.
    ///
    /// # Errors
    /// When the mount does not grant the bucket, or the value is not a number.
    pub fn increment(&self, key: &str, by: i64, ttl: Option<Duration>) -> Result<i64, KvError> {
        host::kv::increment(self.0, key, by, ttl.map(milliseconds))
    }
}

/// What the host calls a time.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
