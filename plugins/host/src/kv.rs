//! Keys and values of a mount: in memory, bounded by a quota, shared by all calls of the mount.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::grants::KvGrant;
use crate::wit::UnixMs;
use crate::wit::imports::kv::KvError;

/// What an entry costs besides its key and its value, in bytes.
const ENTRY_BYTES: u64 = 96;

/// A key, in bytes, at most.
const KEY_BYTES_MAX: usize = 1024;

#[derive(Debug)]
struct Entry {
    value: Vec<u8>,
    ends: Option<UnixMs>,
}

impl Entry {
    fn is_over(&self, now: UnixMs) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }
}

#[derive(Debug, Default)]
struct Kept {
    buckets: HashMap<String, HashMap<String, Entry>>,
    bytes: u64,
}

/// All buckets of a mount.
#[derive(Debug, Default)]
pub(crate) struct Buckets(Mutex<Kept>);

fn cost(key: &str, value: &[u8]) -> u64 {
    ENTRY_BYTES + key.len() as u64 + value.len() as u64
}

impl Kept {
    fn remove(&mut self, bucket: &str, key: &str) {
        if let Some(entry) = self.buckets.get_mut(bucket).and_then(|bucket| bucket.remove(key)) {
            self.bytes = self.bytes.saturating_sub(cost(key, &entry.value));
        }
    }

    /// Forgets what is over.
    fn sweep(&mut self, now: UnixMs) {
        let mut freed = 0;
        for bucket in self.buckets.values_mut() {
            bucket.retain(|key, entry| {
                let over = entry.is_over(now);
                if over {
                    freed += cost(key, &entry.value);
                }
                !over
            });
        }
        self.bytes = self.bytes.saturating_sub(freed);
    }

    fn live(&self, bucket: &str, key: &str, now: UnixMs) -> Option<&Entry> {
        self.buckets.get(bucket)?.get(key).filter(|entry| !entry.is_over(now))
    }

    fn put(
        &mut self,
        quota: u64,
        bucket: &str,
        key: &str,
        entry: Entry,
        now: UnixMs,
    ) -> Result<(), KvError> {
        let new = cost(key, &entry.value);
        if new > quota {
            return Err(KvError::Quota);
        }
        let old = |kept: &Self| {
            let entry = kept.buckets.get(bucket).and_then(|bucket| bucket.get(key));
            entry.map_or(0, |entry| cost(key, &entry.value))
        };
        if self.bytes - old(self) + new > quota {
            self.sweep(now);
        }
        if self.bytes - old(self) + new > quota {
            return Err(KvError::Quota);
        }
        self.remove(bucket, key);
        self.bytes += new;
        self.buckets.entry(bucket.to_owned()).or_default().insert(key.to_owned(), entry);
        Ok(())
    }
}

impl Buckets {
    /// Nothing that panics runs under the lock; if something did, the entries are whole.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(
        &self,
        grant: &KvGrant,
        bucket: &str,
        key: &str,
        now: UnixMs,
    ) -> Result<Option<Vec<u8>>, KvError> {
        granted(grant, bucket, key)?;
        Ok(self.kept().live(bucket, key, now).map(|entry| entry.value.clone()))
    }

    pub(crate) fn set(
        &self,
        grant: &KvGrant,
        bucket: &str,
        key: &str,
        entry: (Vec<u8>, Option<u64>),
        now: UnixMs,
    ) -> Result<(), KvError> {
        granted(grant, bucket, key)?;
        let (value, ttl_ms) = entry;
        let ends = ttl_ms.map(|ttl| now.saturating_add(ttl));
        self.kept().put(grant.quota, bucket, key, Entry { value, ends }, now)
    }

    pub(crate) fn delete(&self, grant: &KvGrant, bucket: &str, key: &str) -> Result<(), KvError> {
        granted(grant, bucket, key)?;
        self.kept().remove(bucket, key);
        Ok(())
    }

    pub(crate) fn increment(
        &self,
        grant: &KvGrant,
        bucket: &str,
        key: &str,
        by: (i64, Option<u64>),
        now: UnixMs,
    ) -> Result<i64, KvError> {
        granted(grant, bucket, key)?;
        let (by, ttl_ms) = by;
        let mut kept = self.kept();
        let (number, ends) = match kept.live(bucket, key, now) {
            None => (0, ttl_ms.map(|ttl| now.saturating_add(ttl))),
            Some(entry) => {
                let text = std::str::from_utf8(&entry.value).ok();
                let number = text.and_then(|text| text.parse().ok());
                (number.ok_or(KvError::NotANumber)?, entry.ends)
            }
        };
        let sum: i64 = i64::checked_add(number, by).ok_or(KvError::NotANumber)?;
        let value = sum.to_string().into_bytes();
        kept.put(grant.quota, bucket, key, Entry { value, ends }, now)?;
        Ok(sum)
    }

    /// What is kept, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.kept().bytes
    }
}

fn granted(grant: &KvGrant, bucket: &str, key: &str) -> Result<(), KvError> {
    if !grant.buckets.iter().any(|name| name == bucket) {
        return Err(KvError::NoSuchBucket);
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(KvError::Other("the key is too long".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(quota: u64) -> KvGrant {
        KvGrant { buckets: vec!["b".to_owned()], quota }
    }

    #[test]
    fn values_end_and_quota_holds() {
        let kv = Buckets::default();
        let grant = grant(2 * (ENTRY_BYTES + 11));
        kv.set(&grant, "b", "k", (vec![0; 10], Some(100)), 0).expect("room");
        kv.set(&grant, "b", "l", (vec![0; 10], None), 0).expect("room");
        assert_eq!(kv.set(&grant, "b", "m", (vec![], None), 50), Err(KvError::Quota));
        assert_eq!(kv.get(&grant, "b", "k", 99).map(|v| v.is_some()), Ok(true));
        assert_eq!(kv.get(&grant, "b", "k", 100), Ok(None));
        // What is over makes room.
        kv.set(&grant, "b", "m", (vec![], None), 100).expect("room");
        kv.set(&grant, "b", "l", (vec![0; 10], None), 100).expect("the same size again");
        kv.delete(&grant, "b", "l").expect("granted");
        kv.delete(&grant, "b", "m").expect("granted");
        assert_eq!(kv.bytes(), 0);
    }

    #[test]
    fn other_buckets_are_not_there() {
        let kv = Buckets::default();
        assert_eq!(kv.get(&grant(1000), "c", "k", 0), Err(KvError::NoSuchBucket));
    }

    #[test]
    fn numbers_add_up_and_keep_their_end() {
        let kv = Buckets::default();
        let grant = grant(10_000);
        assert_eq!(kv.increment(&grant, "b", "n", (2, Some(100)), 0), Ok(2));
        assert_eq!(kv.increment(&grant, "b", "n", (3, Some(100)), 50), Ok(5));
        assert_eq!(kv.increment(&grant, "b", "n", (1, Some(100)), 100), Ok(1));
        kv.set(&grant, "b", "s", (b"x".to_vec(), None), 0).expect("room");
        assert_eq!(kv.increment(&grant, "b", "s", (1, None), 0), Err(KvError::NotANumber));
        assert_eq!(kv.increment(&grant, "b", "max", (i64::MAX, None), 0), Ok(i64::MAX));
        assert_eq!(kv.increment(&grant, "b", "max", (1, None), 0), Err(KvError::NotANumber));
    }
}
