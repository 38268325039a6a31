//! The circuit breaker of a mount: whether a plugin that keeps breaking is asked at all.
//!
//! Closed: it is asked. Open: its `on_error` answers at once. After a rest one call goes through;
//! an answer closes the circuit, another break opens it for twice as long.
//!
//! It opens only when most of its latest calls broke, and for several clients: who finds a request
//! that makes a plugin trap, or pushes an image that no policy can read in its time, must not
//! switch the plugin off for everybody else by repeating it. Where all clients look like one,
//! nothing is left alone, and each call costs what it may at most.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::client_id::ClientId;

/// So many breaks within [`WINDOW`] open the circuit, if they are also half of the calls.
pub(super) const BREAKS_MAX: usize = 5;

/// So many clients have to have met them.
pub(super) const CLIENTS_MIN: usize = 3;

/// How long a call is remembered.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// The most calls that are remembered.
const CALLS_MAX: usize = 64;

/// How long a plugin is left alone for the first time.
pub(super) const REST_FIRST: Duration = Duration::from_secs(1);

/// The longest that a plugin is left alone.
pub(super) const REST_MAX: Duration = Duration::from_secs(30);

/// How a circuit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// The plugin is asked.
    Closed,
    /// It is left alone.
    Open,
    /// One call is on its way, to see whether it works again.
    HalfOpen,
}

impl Circuit {
    /// The word for it in metrics and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A circuit breaker. Every method is told the time.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The latest calls, and for whom they broke if they did.
    calls: VecDeque<(Instant, Option<ClientId>)>,
    /// Until when the plugin is left alone, and how long that is.
    rest: Option<(Instant, Duration)>,
    probing: bool,
}

/// Leave to call. What came of it is said by [`Permit::end`]; dropped without, nothing is known,
/// and a probe leaves its place to the next call.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    is_over: bool,
}

impl Breaker {
    /// Leave to call, or none while the plugin rests.
    pub(super) fn admit(&self, now: Instant) -> Option<Permit<'_>> {
        let mut state = self.lock();
        let is_probe = match state.rest {
            None => false,
            Some((until, _)) if until <= now && !state.probing => {
                state.probing = true;
                true
            }
            Some(_) => return None,
        };
        Some(Permit { breaker: self, is_probe, is_over: false })
    }

    /// How the circuit is.
    pub(super) fn circuit(&self) -> Circuit {
        let state = self.lock();
        match state.rest {
            None => Circuit::Closed,
            Some(_) if state.probing => Circuit::HalfOpen,
            Some(_) => Circuit::Open,
        }
    }

    fn end(&self, now: Instant, is_probe: bool, broke_for: Option<ClientId>) {
        let mut state = self.lock();
        if is_probe {
            state.probing = false;
            let rest = state.rest.take();
            state.calls.clear();
            if broke_for.is_some() {
                let length = rest.map_or(REST_FIRST, |(_, length)| (length * 2).min(REST_MAX));
                state.rest = Some((now + length, length));
            }
            return;
        }
        // Calls that began before it opened say nothing new.
        if state.rest.is_some() {
            return;
        }
        let broke = broke_for.is_some();
        state.calls.push_back((now, broke_for));
        while state.calls.len() > CALLS_MAX
            || state.calls.front().is_some_and(|(at, _)| *at + WINDOW <= now)
        {
            state.calls.pop_front();
        }
        if !broke {
            return;
        }
        let breaks = || state.calls.iter().filter_map(|(_, broke_for)| broke_for.as_ref());
        let (count, clients) = (breaks().count(), breaks().collect::<HashSet<_>>().len());
        if count >= BREAKS_MAX && count * 2 >= state.calls.len() && clients >= CLIENTS_MIN {
            state.rest = Some((now + REST_FIRST, REST_FIRST));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// Whether this call is to find out whether the plugin works again.
    pub(super) const fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Says what came of the call, and for which client it broke if it did.
    pub(super) fn end(mut self, now: Instant, broke_for: Option<ClientId>) {
        self.is_over = true;
        self.breaker.end(now, self.is_probe, broke_for);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.is_over {
            self.breaker.lock().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: usize) -> ClientId {
        ClientId::at(std::net::Ipv4Addr::from(u32::try_from(number).unwrap()).into())
    }

    /// A call of a client of its own.
    fn call(breaker: &Breaker, now: Instant, broke: bool) -> bool {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let broke_for = broke.then(|| client(next));
        breaker.admit(now).map(|permit| permit.end(now, broke_for)).is_some()
    }

    #[test]
    fn few_clients_do_not_open_it_for_all() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for n in 0..10 * BREAKS_MAX {
            breaker.admit(start).unwrap().end(start, Some(client(n % (CLIENTS_MIN - 1))));
        }
        assert_eq!(breaker.circuit(), Circuit::Closed);
        breaker.admit(start).unwrap().end(start, Some(client(CLIENTS_MIN)));
        assert_eq!(breaker.circuit(), Circuit::Open);
    }

    #[test]
    fn it_opens_after_breaks_in_a_row_and_tries_again() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..BREAKS_MAX {
            assert_eq!(breaker.circuit(), Circuit::Closed);
            assert!(call(&breaker, start, true));
        }
        assert_eq!(breaker.circuit(), Circuit::Open);
        assert!(!call(&breaker, start + REST_FIRST / 2, false));
        // One probe, and nobody else meanwhile.
        let later = start + REST_FIRST;
        let probe = breaker.admit(later).unwrap();
        assert_eq!(breaker.circuit(), Circuit::HalfOpen);
        assert!(breaker.admit(later).is_none());
        // It broke again: twice as long.
        probe.end(later, Some(client(0)));
        assert!(breaker.admit(later + REST_FIRST).is_none());
        assert!(call(&breaker, later + REST_FIRST * 2, false));
        assert_eq!(breaker.circuit(), Circuit::Closed);
        // What broke before it rested is forgotten.
        assert!(call(&breaker, later + REST_FIRST * 2, true));
        assert_eq!(breaker.circuit(), Circuit::Closed);
    }

    #[test]
    fn a_rest_is_bounded() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        for _ in 0..BREAKS_MAX {
            call(&breaker, now, true);
        }
        for _ in 0..20 {
            now += REST_MAX;
            assert!(call(&breaker, now, true));
        }
        assert!(breaker.admit(now + REST_MAX).is_some());
    }

    #[test]
    fn a_probe_that_nobody_waited_for_leaves_its_place() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..BREAKS_MAX {
            call(&breaker, start, true);
        }
        drop(breaker.admit(start + REST_FIRST).unwrap());
        assert_eq!(breaker.circuit(), Circuit::Open);
        assert!(breaker.admit(start + REST_FIRST).is_some());
    }

    #[test]
    fn breaks_among_many_answers_do_not_open_it() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..10 * BREAKS_MAX {
            for broke in [false, true, false] {
                assert!(call(&breaker, start, broke));
            }
        }
        // Nor do breaks that lie far apart.
        for n in 1..20 {
            assert!(call(&breaker, start + WINDOW * n, true));
        }
        assert_eq!(breaker.circuit(), Circuit::Closed);
    }

    #[test]
    fn calls_that_began_before_it_opened_change_nothing() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        let late = breaker.admit(start).unwrap();
        for _ in 0..BREAKS_MAX {
            call(&breaker, start, true);
        }
        late.end(start, None);
        assert_eq!(breaker.circuit(), Circuit::Open);
    }
}
