//! Logins that fail: who guesses is slowed down.
//!
//! Counted are attempts of one client with one user name, and of one client with any: the first
//! keeps people behind one address from locking each other out, the second keeps one client from
//! trying every name. An attempt counts as failed until it is known not to be, so that neither many
//! at once nor those that are given up are free.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::client_id::ClientId;

/// How long failures count, from the first one on.
pub const FAILURES_WINDOW: Duration = Duration::from_secs(60);

/// Failures of one client with one user name within that time.
pub const FAILURES_PER_USER_MAX: u32 = 10;

/// Failures of one client, whatever the names, within that time.
pub const FAILURES_PER_CLIENT_MAX: u32 = 100;

/// Logins of one client that are being decided at a time, beside those that have failed.
pub const PENDING_MAX: u32 = 64;

/// How many clients and user names are remembered. Beyond it the oldest is forgotten.
pub const ATTEMPTS_KEPT_MAX: usize = 8192;

/// A client, and a user name as a number that means nothing outside of this process.
type Key = (ClientId, Option<u64>);

/// Remembers failures. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Attempts(Arc<Table>);

#[derive(Debug, Default)]
struct Table {
    names: RandomState,
    entries: Mutex<HashMap<Key, Entry>>,
}

#[derive(Debug)]
struct Entry {
    failures: u32,
    since: Instant,
    pending: u32,
}

impl Entry {
    /// How long nobody may try; none if somebody may.
    fn wait(&self, failures_max: u32, now: Instant) -> Option<Duration> {
        if self.failures >= failures_max {
            return Some(FAILURES_WINDOW.saturating_sub(now.duration_since(self.since)));
        }
        (self.pending >= PENDING_MAX).then_some(Duration::from_secs(1))
    }

    fn is_over(&self, now: Instant) -> bool {
        self.pending == 0 && now.duration_since(self.since) >= FAILURES_WINDOW
    }
}

/// Too many logins have failed: how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany(pub Duration);

impl Attempts {
    /// Begins a login of `client` as `user`; without a name, such as by a token, it counts for the
    /// client alone.
    ///
    /// # Errors
    /// When too many have failed.
    pub fn begin(&self, client: &ClientId, user: Option<&str>) -> Result<Attempt, TooMany> {
        let now = Instant::now();
        let whole = (client.clone(), None);
        let named = user.map(|user| (client.clone(), Some(self.0.names.hash_one(user))));
        let keys: Vec<Key> = std::iter::once(whole).chain(named).collect();
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &keys {
            let Some(entry) = entries.get_mut(key) else { continue };
            if now.duration_since(entry.since) >= FAILURES_WINDOW {
                (entry.failures, entry.since) = (0, now);
            }
            let max = if key.1.is_some() { FAILURES_PER_USER_MAX } else { FAILURES_PER_CLIENT_MAX };
            if let Some(wait) = entry.wait(max, now) {
                return Err(TooMany(wait));
            }
        }
        for key in &keys {
            if !entries.contains_key(key) {
                make_room(&mut entries, now);
            }
            let entry = || Entry { failures: 0, since: now, pending: 0 };
            entries.entry(key.clone()).or_insert_with(entry).pending += 1;
        }
        Ok(Attempt { table: Arc::clone(&self.0), keys, failed: true })
    }
}

/// Forgets what is over, and one more if that is not enough. What is being decided stays: there
/// are never more of those than requests.
fn make_room(entries: &mut HashMap<Key, Entry>, now: Instant) {
    if entries.len() < ATTEMPTS_KEPT_MAX {
        return;
    }
    entries.retain(|_, entry| !entry.is_over(now));
    if entries.len() >= ATTEMPTS_KEPT_MAX {
        let idle = entries.iter().filter(|(_, entry)| entry.pending == 0);
        let oldest = idle.min_by_key(|(_, entry)| entry.since).map(|(key, _)| key.clone());
        if let Some(oldest) = oldest {
            entries.remove(&oldest);
        }
    }
}

/// A login that is being decided. It has failed, unless somebody says otherwise before it is
/// dropped.
#[derive(Debug)]
pub struct Attempt {
    table: Arc<Table>,
    keys: Vec<Key>,
    failed: bool,
}

impl Attempt {
    /// It was no failed login.
    pub fn excuse(mut self) {
        self.failed = false;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut entries = self.table.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            let Some(entry) = entries.get_mut(key) else { continue };
            entry.pending = entry.pending.saturating_sub(1);
            if self.failed {
                if entry.failures == 0 {
                    entry.since = now;
                }
                entry.failures = entry.failures.saturating_add(1);
            } else if entry.failures == 0 && entry.pending == 0 {
                entries.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn client(last: u8) -> ClientId {
        ClientId::at(IpAddr::from([192, 0, 2, last]))
    }

    fn kept(attempts: &Attempts) -> usize {
        attempts.0.entries.lock().unwrap().len()
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_too_often_has_to_wait() {
        let attempts = Attempts::default();
        for _ in 0..FAILURES_PER_USER_MAX {
            drop(attempts.begin(&client(1), Some("ci")).unwrap());
        }
        assert_eq!(attempts.begin(&client(1), Some("ci")).unwrap_err(), TooMany(FAILURES_WINDOW));
        // Others are not meant, neither another name nor another client.
        attempts.begin(&client(1), Some("dev")).unwrap().excuse();
        attempts.begin(&client(2), Some("ci")).unwrap().excuse();
        let second = Duration::from_secs(1);
        tokio::time::advance(FAILURES_WINDOW - second).await;
        assert_eq!(attempts.begin(&client(1), Some("ci")).unwrap_err(), TooMany(second));
        tokio::time::advance(second).await;
        attempts.begin(&client(1), Some("ci")).unwrap().excuse();
    }

    #[tokio::test(start_paused = true)]
    async fn logins_that_go_well_are_not_counted_nor_kept() {
        let attempts = Attempts::default();
        for _ in 0..10 * FAILURES_PER_CLIENT_MAX {
            attempts.begin(&client(1), Some("ci")).unwrap().excuse();
            attempts.begin(&client(1), None).unwrap().excuse();
        }
        assert_eq!(kept(&attempts), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_cannot_try_every_name() {
        let attempts = Attempts::default();
        for n in 0..FAILURES_PER_CLIENT_MAX {
            drop(attempts.begin(&client(1), Some(&n.to_string())).unwrap());
        }
        attempts.begin(&client(1), Some("another")).unwrap_err();
        attempts.begin(&client(1), None).unwrap_err();
        attempts.begin(&client(2), None).unwrap().excuse();
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_are_not_free() {
        let attempts = Attempts::default();
        let begin = || attempts.begin(&client(1), Some("ci"));
        let volley: Vec<_> = std::iter::from_fn(|| begin().ok()).collect();
        assert_eq!(volley.len(), PENDING_MAX as usize);
        // Given up, they have failed.
        drop(volley);
        assert_eq!(begin().unwrap_err(), TooMany(FAILURES_WINDOW));
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded() {
        let attempts = Attempts::default();
        let flood = |from: u32| {
            for n in from..from + 2 * ATTEMPTS_KEPT_MAX as u32 {
                let address = IpAddr::V4(Ipv4Addr::from_bits(n));
                drop(attempts.begin(&ClientId::at(address), Some("ci")).unwrap());
            }
        };
        flood(0);
        assert_eq!(kept(&attempts), ATTEMPTS_KEPT_MAX);
        tokio::time::advance(FAILURES_WINDOW).await;
        drop(attempts.begin(&client(1), None).unwrap());
        assert_eq!(kept(&attempts), 1);
    }
}
