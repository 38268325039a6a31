//! How much of something is borne at a time. Whoever comes beyond that is told at once: nobody
//! waits at a gate.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

/// A map that was this much larger than what it holds gives memory back, in entries.
const SPARE_ENTRIES_MAX: usize = 1024;

/// Something of which only so much is borne at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Open connections of the registry's listener.
    Connections,
    /// Open connections of one client.
    ConnectionsPerClient,
    /// Open connections of the operator's listener.
    AdminConnections,
    /// Connections that are only told that there are too many.
    Refusals,
    /// Requests that are not answered to the end.
    Requests,
    /// Those of one client.
    RequestsPerClient,
    /// Bytes of answers in memory.
    BodyMemory,
    /// Answers that read blobs while these arrive.
    Followers,
    /// Fills.
    Fills,
    /// Fills that one client has begun.
    FillsPerClient,
    /// Transfers for one reader alone, of blobs that cannot be stored.
    PrivateTransfers,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Connections,
        Self::ConnectionsPerClient,
        Self::AdminConnections,
        Self::Refusals,
        Self::Requests,
        Self::RequestsPerClient,
        Self::BodyMemory,
        Self::Followers,
        Self::Fills,
        Self::FillsPerClient,
        Self::PrivateTransfers,
    ];

    /// Its name in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerClient => "connections_per_client",
            Self::AdminConnections => "admin_connections",
            Self::Refusals => "refusals",
            Self::Requests => "requests",
            Self::RequestsPerClient => "requests_per_client",
            Self::BodyMemory => "body_memory",
            Self::Followers => "followers",
            Self::Fills => "fills",
            Self::FillsPerClient => "fills_per_client",
            Self::PrivateTransfers => "private_transfers",
        }
    }

    /// What there is too much of, and what sets how much that is.
    const fn words(self) -> &'static str {
        match self {
            Self::Connections => "too many connections are open (server.connections_max)",
            Self::ConnectionsPerClient => {
                "this client has too many connections open (server.connections_per_client_max)"
            }
            Self::AdminConnections => "too many connections are open to the operator's side",
            Self::Refusals => "too many connections are being refused",
            Self::Requests => "too many requests are being answered (server.requests_max)",
            Self::RequestsPerClient => {
                "this client has too many requests (server.requests_per_client_max)"
            }
            Self::BodyMemory => "answers take too much memory (server.body_memory_max)",
            Self::Followers => "too many answers wait for blobs to arrive (fill.followers_max)",
            Self::Fills => "too many blobs are being filled (fill.concurrent_max)",
            Self::FillsPerClient => {
                "too many blobs are being filled for this client (fill.per_client_max)"
            }
            Self::PrivateTransfers => {
                "too many blobs that cannot be stored are being passed on (fill.private_max)"
            }
        }
    }
}

/// There is no place left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}; try again", .0.words())]
pub struct Full(pub Limit);

/// Makes gates, and shows how full they are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gates {
    used: IntGaugeVec,
    max: IntGaugeVec,
}

impl Gates {
    /// Registers the gauges.
    ///
    /// # Errors
    /// When there are some already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let used = IntGaugeVec::new(
            Opts::new("pierhead_limit_used", "How much of a limit is taken, by limit"),
            &["limit"],
        )?;
        let max = IntGaugeVec::new(Opts::new("pierhead_limit_max", "The limits"), &["limit"])?;
        registry.register(Box::new(used.clone()))?;
        registry.register(Box::new(max.clone()))?;
        Ok(Self { used, max })
    }

    /// A gate that lets `max` in.
    pub fn gate(&self, limit: Limit, max: u64) -> Gate {
        let shown = self.used.with_label_values(&[limit.as_str()]);
        let most = self.max.with_label_values(&[limit.as_str()]);
        most.set(i64::try_from(max).unwrap_or(i64::MAX));
        Gate(Arc::new(Inside { limit, max, used: AtomicU64::new(0), shown }))
    }
}

/// Lets so much in at a time. Cheap to clone; clones share what is inside.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    limit: Limit,
    max: u64,
    used: AtomicU64,
    shown: IntGauge,
}

impl Gate {
    /// Lets in what weighs `weight`, for as long as the permit lives.
    ///
    /// # Errors
    /// When it would be more than the gate bears.
    pub fn enter(&self, weight: u64) -> Result<Permit, Full> {
        let Inside { limit, max, used, shown } = &*self.0;
        let more = |used: u64| used.checked_add(weight).filter(|sum| sum <= max);
        match used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => {
                shown.add(i64::try_from(weight).unwrap_or(i64::MAX));
                Ok(Permit { gate: self.clone(), weight })
            }
            Err(_) => Err(Full(*limit)),
        }
    }

    /// How much is inside.
    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Acquire)
    }
}

/// What a [`Gate`] has let in, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Gate,
    weight: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Inside { used, shown, .. } = &*self.gate.0;
        used.fetch_sub(self.weight, Ordering::AcqRel);
        shown.sub(i64::try_from(self.weight).unwrap_or(i64::MAX));
    }
}

/// Lets each client have so many at a time. It remembers only those that have one, so it is never
/// larger than what it counts. Cheap to clone; clones share the counts.
#[derive(Debug)]
pub struct PerClient<K>(Arc<Counts<K>>);

#[derive(Debug)]
struct Counts<K> {
    limit: Limit,
    /// 0 is no limit.
    each_max: u32,
    held: Mutex<HashMap<K, u32>>,
}

impl<K> Clone for PerClient<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Clone + Eq + Hash> PerClient<K> {
    /// Each client may have `each_max` at a time; 0 is no limit.
    pub fn new(limit: Limit, each_max: u32) -> Self {
        Self(Arc::new(Counts { limit, each_max, held: Mutex::default() }))
    }

    /// Lets `client` have one more, for as long as the place lives.
    ///
    /// # Errors
    /// When it has as many as it may have.
    pub fn enter(&self, client: &K) -> Result<Place<K>, Full> {
        if self.0.each_max == 0 {
            return Ok(Place(None));
        }
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(client) {
            if *count >= self.0.each_max {
                return Err(Full(self.0.limit));
            }
            *count += 1;
        } else {
            held.insert(client.clone(), 1);
        }
        Ok(Place(Some((Arc::clone(&self.0), client.clone()))))
    }

    /// How many clients have one or more.
    pub fn clients(&self) -> usize {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// One of what a client may have, until it is dropped.
#[derive(Debug)]
pub struct Place<K: Eq + Hash>(Option<(Arc<Counts<K>>, K)>);

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let Some((counts, client)) = &self.0 else { return };
        let mut held = counts.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(client) {
            *count -= 1;
            if *count == 0 {
                held.remove(client);
            }
        }
        // A flood of clients leaves nothing behind.
        let enough = held.len() + SPARE_ENTRIES_MAX;
        if held.capacity() > 4 * enough {
            held.shrink_to(enough);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gates() -> Gates {
        Gates::new(&Registry::new()).unwrap()
    }

    #[test]
    fn a_gate_lets_in_what_it_bears_and_no_more() {
        let gates = gates();
        let gate = gates.gate(Limit::BodyMemory, 10);
        let shown = || gates.used.with_label_values(&["body_memory"]).get();
        let seven = gate.enter(7).unwrap();
        assert_eq!(gate.enter(4).unwrap_err(), Full(Limit::BodyMemory));
        let three = gate.enter(3).unwrap();
        assert_eq!((gate.used(), shown()), (10, 10));
        assert!(gate.enter(1).is_err());
        assert!(gate.enter(u64::MAX).is_err());
        drop(seven);
        assert_eq!((gate.used(), shown()), (3, 3));
        gate.clone().enter(7).unwrap();
        drop(three);
        assert_eq!((gate.used(), shown()), (0, 0));
        assert_eq!(gates.max.with_label_values(&["body_memory"]).get(), 10);
    }

    #[test]
    fn threads_that_push_get_no_more_than_there_is() {
        let gate = gates().gate(Limit::Requests, 8);
        let let_in = AtomicU64::new(0);
        let (begin, done) = (std::sync::Barrier::new(16), std::sync::Barrier::new(16));
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    begin.wait();
                    let permit = gate.enter(1);
                    let_in.fetch_add(u64::from(permit.is_ok()), Ordering::Relaxed);
                    // Nobody leaves before everybody has asked.
                    done.wait();
                });
            }
        });
        assert_eq!((let_in.into_inner(), gate.used()), (8, 0));
    }

    #[test]
    fn each_client_has_its_own_count() {
        let clients = PerClient::new(Limit::FillsPerClient, 2);
        let first = clients.enter(&"a").unwrap();
        let _second = clients.enter(&"a").unwrap();
        assert_eq!(clients.enter(&"a").unwrap_err(), Full(Limit::FillsPerClient));
        let other = clients.enter(&"b").unwrap();
        drop(first);
        assert!(clients.enter(&"a").is_ok());
        assert_eq!(clients.clients(), 2);
        drop(other);
        assert_eq!(clients.clients(), 1);
    }

    #[test]
    fn nothing_is_left_of_a_flood() {
        let clients = PerClient::new(Limit::ConnectionsPerClient, 1);
        let places: Vec<_> = (0..50_000).map(|client| clients.enter(&client).unwrap()).collect();
        drop(places);
        assert_eq!(clients.clients(), 0);
        let capacity = clients.0.held.lock().unwrap().capacity();
        assert!(capacity <= 4 * SPARE_ENTRIES_MAX, "{capacity}");
    }

    #[test]
    fn zero_is_no_limit_for_a_client() {
        let clients = PerClient::new(Limit::FillsPerClient, 0);
        let _places: Vec<_> = (0..100).map(|_| clients.enter(&"a").unwrap()).collect();
        assert_eq!(clients.clients(), 0);
    }

    #[test]
    fn every_limit_has_a_name_of_its_own() {
        let mut names = Limit::ALL.map(Limit::as_str).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Limit::ALL.len());
    }
}
