//! Logins that fail: who guesses is slowed down.
//!
//! Counted are attempts of one client with one user name, and of one client with any: the first
//! keeps people behind one address from locking each other out, the second keeps one client from
//! trying every name. An attempt counts as failed from when it is decided about until it is known not
//! to be, so that those that are given up are not free.
//!
//! Few of one client are decided at a time, and the others wait: who sends many at once neither has
//! them all heard before the first has failed, nor keeps plugins from hearing somebody else.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::client_id::ClientId;

/// How long failures count, from the first one on.
pub const FAILURES_WINDOW: Duration = Duration::from_secs(60);

/// Failures of one client with one user name within that time.
pub const FAILURES_PER_USER_MAX: u32 = 10;

/// Failures of one client, whatever the names, within that time.
pub const FAILURES_PER_CLIENT_MAX: u32 = 100;

/// Logins of one client that are being decided at a time.
pub const DECIDED_AT_ONCE_MAX: usize = 4;

/// Logins of one client, or of one user name there, that are being decided or wait for it.
pub const PENDING_MAX: u32 = 64;

/// How long a login waits for others of its client.
pub const TURN_TIMEOUT: Duration = Duration::from_secs(10);

/// When to come again if too many are under way.
const AGAIN: Duration = Duration::from_secs(1);

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
    /// Of a client: places for what is being decided.
    places: Arc<Semaphore>,
}

impl Entry {
    fn new(now: Instant) -> Self {
        let places = Arc::new(Semaphore::new(DECIDED_AT_ONCE_MAX));
        Self { failures: 0, since: now, pending: 0, places }
    }

    /// How long nobody may try, if too many have failed. Forgets those that are over.
    fn locked(&mut self, failures_max: u32, now: Instant) -> Option<Duration> {
        let passed = now.duration_since(self.since);
        if passed >= FAILURES_WINDOW {
            (self.failures, self.since) = (0, now);
        }
        (self.failures >= failures_max).then(|| FAILURES_WINDOW.saturating_sub(passed))
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
    /// client alone. Waits until few others of the client are being decided.
    ///
    /// Cancel-safe: given up while it waits, it counts for nothing.
    ///
    /// # Errors
    /// When too many have failed, or are under way.
    pub async fn begin(&self, client: &ClientId, user: Option<&str>) -> Result<Attempt, TooMany> {
        let (mut attempt, places) = self.enter(client, user)?;
        let place = tokio::time::timeout(TURN_TIMEOUT, places.acquire_owned()).await;
        // They are never closed.
        let Ok(Ok(place)) = place else { return Err(TooMany(AGAIN)) };
        // Those that it waited for may have failed.
        let now = Instant::now();
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        check(&mut entries, &attempt.keys, now)?;
        drop(entries);
        (attempt.place, attempt.failed) = (Some(place), true);
        Ok(attempt)
    }

    /// Notes an attempt that is about to wait for a place among these.
    fn enter(
        &self,
        client: &ClientId,
        user: Option<&str>,
    ) -> Result<(Attempt, Arc<Semaphore>), TooMany> {
        let now = Instant::now();
        let whole = (client.clone(), None);
        let named = user.map(|user| (client.clone(), Some(self.0.names.hash_one(user))));
        let keys: Vec<Key> = std::iter::once(whole).chain(named).collect();
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        check(&mut entries, &keys, now)?;
        let is_full = |key| entries.get(key).is_some_and(|entry| entry.pending >= PENDING_MAX);
        if keys.iter().any(is_full) {
            return Err(TooMany(AGAIN));
        }
        let mut places = None;
        for key in &keys {
            if !entries.contains_key(key) {
                make_room(&mut entries, now);
            }
            let entry = entries.entry(key.clone()).or_insert_with(|| Entry::new(now));
            entry.pending += 1;
            // The client as a whole comes first.
            places.get_or_insert_with(|| Arc::clone(&entry.places));
        }
        drop(entries);
        let attempt = Attempt { table: Arc::clone(&self.0), keys, failed: false, place: None };
        places.map(|places| (attempt, places)).ok_or(TooMany(AGAIN))
    }
}

/// Whether too many attempts under one of these keys have failed.
fn check(entries: &mut HashMap<Key, Entry>, keys: &[Key], now: Instant) -> Result<(), TooMany> {
    for key in keys {
        let max = if key.1.is_some() { FAILURES_PER_USER_MAX } else { FAILURES_PER_CLIENT_MAX };
        if let Some(wait) = entries.get_mut(key).and_then(|entry| entry.locked(max, now)) {
            return Err(TooMany(wait));
        }
    }
    Ok(())
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
    /// Given back after the failure is counted, so that who waits for it knows.
    place: Option<OwnedSemaphorePermit>,
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
            drop(attempts.begin(&client(1), Some("ci")).await.unwrap());
        }
        assert_eq!(
            attempts.begin(&client(1), Some("ci")).await.unwrap_err(),
            TooMany(FAILURES_WINDOW)
        );
        // Others are not meant, neither another name nor another client.
        attempts.begin(&client(1), Some("dev")).await.unwrap().excuse();
        attempts.begin(&client(2), Some("ci")).await.unwrap().excuse();
        let second = Duration::from_secs(1);
        tokio::time::advance(FAILURES_WINDOW - second).await;
        assert_eq!(attempts.begin(&client(1), Some("ci")).await.unwrap_err(), TooMany(second));
        tokio::time::advance(second).await;
        attempts.begin(&client(1), Some("ci")).await.unwrap().excuse();
    }

    #[tokio::test(start_paused = true)]
    async fn logins_that_go_well_are_not_counted_nor_kept() {
        let attempts = Attempts::default();
        for _ in 0..10 * FAILURES_PER_CLIENT_MAX {
            attempts.begin(&client(1), Some("ci")).await.unwrap().excuse();
            attempts.begin(&client(1), None).await.unwrap().excuse();
        }
        assert_eq!(kept(&attempts), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_cannot_try_every_name() {
        let attempts = Attempts::default();
        for n in 0..FAILURES_PER_CLIENT_MAX {
            drop(attempts.begin(&client(1), Some(&n.to_string())).await.unwrap());
        }
        attempts.begin(&client(1), Some("another")).await.unwrap_err();
        attempts.begin(&client(1), None).await.unwrap_err();
        attempts.begin(&client(2), None).await.unwrap().excuse();
    }

    #[tokio::test(start_paused = true)]
    async fn many_at_once_wait_for_each_other_and_learn_from_it() {
        let attempts = Attempts::default();
        let volley = (0..PENDING_MAX).map(|_| async {
            let attempt = attempts.begin(&client(1), Some("ci")).await?;
            tokio::task::yield_now().await;
            drop(attempt);
            Ok::<_, TooMany>(())
        });
        let volley = futures_util::future::join_all(volley).await;
        let heard = volley.iter().filter(|heard| heard.is_ok()).count();
        // The last places are taken before the tenth has failed.
        let most = FAILURES_PER_USER_MAX as usize + DECIDED_AT_ONCE_MAX;
        assert!((FAILURES_PER_USER_MAX as usize..most).contains(&heard), "{heard}");
        let refused = attempts.begin(&client(1), Some("ci")).await.unwrap_err();
        assert_eq!(refused, TooMany(FAILURES_WINDOW));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_bounded_and_may_go_away() {
        let attempts = Attempts::default();
        let one = client(1);
        let begin = || Box::pin(attempts.begin(&one, Some("ci")));
        let mut decided = Vec::new();
        for _ in 0..DECIDED_AT_ONCE_MAX {
            decided.push(begin().await.unwrap());
        }
        let mut waiting: Vec<_> = (decided.len()..PENDING_MAX as usize).map(|_| begin()).collect();
        for one in &mut waiting {
            assert!(futures_util::poll!(one).is_pending());
        }
        assert_eq!(begin().await.unwrap_err(), TooMany(AGAIN));
        // Another client does not wait.
        attempts.begin(&client(2), Some("ci")).await.unwrap().excuse();
        assert_eq!(waiting.pop().unwrap().await.unwrap_err(), TooMany(AGAIN));
        // Who did not have a turn has not failed.
        drop(waiting);
        for attempt in decided {
            attempt.excuse();
        }
        assert_eq!(kept(&attempts), 0);
        begin().await.unwrap().excuse();
        // Given up while it is decided, it has.
        for _ in 0..FAILURES_PER_USER_MAX {
            drop(begin().await.unwrap());
        }
        assert_eq!(begin().await.unwrap_err(), TooMany(FAILURES_WINDOW));
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded() {
        let attempts = Attempts::default();
        for n in 0..2 * ATTEMPTS_KEPT_MAX as u32 {
            let address = IpAddr::V4(Ipv4Addr::from_bits(n));
            drop(attempts.begin(&ClientId::at(address), Some("ci")).await.unwrap());
        }
        assert_eq!(kept(&attempts), ATTEMPTS_KEPT_MAX);
        tokio::time::advance(FAILURES_WINDOW).await;
        drop(attempts.begin(&client(1), None).await.unwrap());
        assert_eq!(kept(&attempts), 1);
    }
}
