//! Logins that are being decided: who presents the same at the same time gets the one answer.
//!
//! Other than [`crate::single_flight`], the work is nobody's but theirs who wait for it: when the
//! last one goes away, it ends. Who sends credentials and hangs up has no hash computed.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use super::logins::{Key, Known};

type Flight = Shared<BoxFuture<'static, Known>>;

/// By key; the number tells a flight from an earlier one of the same key.
type Table = Arc<Mutex<HashMap<Key, (u64, WeakShared<BoxFuture<'static, Known>>)>>>;

/// What is under way. There are never more than requests.
#[derive(Default)]
pub(super) struct Flights(Table);

impl Flights {
    /// The work that is under way for `key`, or else `work`.
    ///
    /// Cancel-safe: the flight goes on as long as anybody waits for it.
    pub(super) fn join<F>(&self, key: Key, work: impl FnOnce() -> F) -> Flight
    where
        F: Future<Output = Known> + Send + 'static,
    {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = table.get(&key).and_then(|(_, flight)| flight.upgrade()) {
            return flight;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let landing = Landing { key, number, table: Arc::clone(&self.0) };
        let work = work();
        let flight = async move {
            let known = work.await;
            // Whoever comes from here on starts anew.
            drop(landing);
            known
        };
        let flight = flight.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            table.insert(key, (number, weak));
        }
        flight
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

/// Takes a flight off the table when it ends, however it ends.
struct Landing {
    key: Key,
    number: u64,
    table: Table,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.get(&self.key).is_some_and(|(number, _)| *number == self.number) {
            table.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::poll;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::hooks::chain::logins::Logins;
    use crate::hooks::{Client, Presented};

    fn key(generation: u64) -> Key {
        let client = Client {
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            encrypted: false,
            user_agent: None,
            tls_subject: None,
        };
        static LOGINS: std::sync::LazyLock<Logins> = std::sync::LazyLock::new(Logins::new);
        LOGINS.key(generation, &Presented::Anonymous, &client).unwrap()
    }

    #[tokio::test]
    async fn a_flight_goes_on_for_those_who_wait_and_ends_with_them() {
        let flights = Flights::default();
        let (begun, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let join = |generation| {
            let (begun, gate) = (Arc::clone(&begun), Arc::clone(&gate));
            flights.join(key(generation), || async move {
                begun.fetch_add(1, Ordering::SeqCst);
                let open = gate.acquire().await;
                drop(open);
                Ok(None)
            })
        };
        let (mut first, second, mut other) = (join(1), join(1), join(2));
        assert!(poll!(&mut first).is_pending() && poll!(&mut other).is_pending());
        assert_eq!(begun.load(Ordering::SeqCst), 2);
        // Who began it goes away.
        drop(first);
        drop(other);
        assert_eq!(flights.0.lock().unwrap().len(), 1);
        gate.add_permits(1);
        assert_eq!(second.await, Ok(None));
        assert!(flights.0.lock().unwrap().is_empty());
        assert_eq!(join(1).await, Ok(None));
        assert_eq!(begun.load(Ordering::SeqCst), 3);
    }
}
