//! The circuit breaker of an endpoint or a token service: whether it is asked at all.
//!
//! Closed: everybody asks. Open: nobody does, and everybody is told at once why and for how long.
//! When the back-off has passed, exactly one question goes through (half-open): an answer closes
//! the circuit, trouble opens it for longer. Where that trouble may be one repository's, the next
//! question about another one goes through at once, so that who asks for a broken repository in a
//! loop shuts out nobody else. A server that asks to be left alone (`Retry-After`) is not broken,
//! but is left alone in the same way.
//!
//! Durations are measured with tokio's clock: a step of the wall clock neither opens nor closes
//! anything.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{Clock, Timestamp};

use super::error::Failure;

/// How much trouble in a row opens an endpoint's circuit: five refused connections, or three
/// questions that waited in vain. Much less, and a registry that restarts behind its balancer
/// would look dead to users who have no other; much more, and every user of a dead one waits for
/// the timeouts again and again.
pub(super) const TROUBLE_MAX: u32 = 5;
/// How long a circuit is open for the first time. Short, so that a false alarm costs a second.
pub(super) const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
/// The longest that a circuit is open before one question is let through: what users wait at most
/// when an upstream is back, and how often one of them waits for a timeout while it is not.
pub(super) const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// The longest that an upstream is left alone on its own word. Then one question is asked, so that
/// one wrong `Retry-After` does not take an upstream away for a day.
pub(super) const LEFT_ALONE_MAX: Duration = Duration::from_secs(3600);
/// What others are told to wait while one question is on its way to see whether it works again.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// The state of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Circuit {
    /// It is asked.
    Closed,
    /// It failed too often in a row, and is not asked.
    Open,
    /// One question is on its way, to see whether it works again.
    HalfOpen,
    /// It said how long it wants to be left alone, and is.
    Limited,
}

impl Circuit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Closed, Self::Open, Self::HalfOpen, Self::Limited];

    /// The label in metrics and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Limited => "limited",
        }
    }
}

/// A circuit, as it is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CircuitStatus {
    pub(super) circuit: Circuit,
    /// Since when; nothing if it was never anything but closed.
    pub(super) since: Option<Timestamp>,
    /// From when on one question is let through again.
    pub(super) next_probe: Option<Timestamp>,
}

/// How much trouble in a row opens a circuit.
#[derive(Clone, Copy, Debug)]
pub(super) struct TroubleMax {
    /// Where the last of it is the server's for sure.
    pub(super) server: u32,
    /// Where the last of it may be the fault of what was asked about. Trouble about one thing
    /// alone never opens it.
    pub(super) about: u32,
}

/// A circuit breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    trouble_max: TroubleMax,
    clock: Clock,
    /// Spreads the back-offs of several servers and several Pierheads.
    seed: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Option<Timestamp>,
    /// Rises with each trouble that counts.
    generation: u64,
    /// How often it was opened since the last answer.
    opened: u32,
    /// How often it was opened at all, for the spread.
    openings: u64,
    last: Arc<Failure>,
}

#[derive(Clone, Debug)]
enum Phase {
    Closed {
        trouble: u32,
        last: Last,
    },
    Open {
        rest: Rest,
    },
    /// `rest` is what it comes back to if nothing becomes of the question on its way.
    HalfOpen {
        rest: Rest,
    },
}

/// What the last trouble was about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Last {
    /// There was none since the last answer.
    Nothing,
    /// This, and so was all since the last answer.
    Only(Box<str>),
    /// This, after other trouble.
    Another(Box<str>),
    /// The server.
    Server,
}

/// How long nobody asks.
#[derive(Clone, Debug)]
struct Rest {
    until: Instant,
    limited: bool,
    /// The last probe failed, but only this may be broken: whoever asks about anything else need
    /// not wait.
    only: Option<Box<str>>,
}

impl Rest {
    /// Whether a question about `about` is let through.
    fn is_over(&self, about: &str) -> bool {
        self.until <= Instant::now() || self.only.as_deref().is_some_and(|only| only != about)
    }
}

/// Leave to ask. What came of it is said by one of its methods; dropped without, nothing is known,
/// and a probe leaves its place to the next question.
#[derive(Debug)]
pub(super) struct Permit {
    breaker: Arc<Breaker>,
    generation: u64,
    is_probe: bool,
}

impl Breaker {
    /// A closed circuit that `trouble_max` opens. `spread` makes its back-offs differ from those
    /// of others.
    pub(super) fn new(trouble_max: TroubleMax, clock: Clock, spread: &[&[u8]]) -> Arc<Self> {
        let mut hasher = DefaultHasher::new();
        spread.hash(&mut hasher);
        let state = State {
            phase: Phase::Closed { trouble: 0, last: Last::Nothing },
            since: None,
            generation: 0,
            opened: 0,
            openings: 0,
            last: Arc::new(Failure::Abandoned),
        };
        Arc::new(Self { trouble_max, clock, seed: hasher.finish(), state: Mutex::new(state) })
    }

    /// Leave to ask about a repository or a scope, or [`Failure::Resting`].
    pub(super) fn admit(self: &Arc<Self>, about: &str) -> Result<Permit, Failure> {
        let mut state = self.lock();
        let is_probe = match &state.phase {
            Phase::Closed { .. } => false,
            Phase::Open { rest } if rest.is_over(about) => {
                let rest = rest.clone();
                self.turn(&mut state, Phase::HalfOpen { rest });
                true
            }
            Phase::Open { rest } => {
                let left = rest.until.saturating_duration_since(Instant::now());
                return Err(resting(&state, left));
            }
            Phase::HalfOpen { .. } => return Err(resting(&state, PROBE_WAIT)),
        };
        let generation = state.generation;
        Ok(Permit { breaker: Arc::clone(self), generation, is_probe })
    }

    /// Whether a question would be let through, about one thing at least.
    pub(super) fn is_asked(&self) -> bool {
        match &self.lock().phase {
            Phase::Closed { .. } => true,
            Phase::Open { rest } => rest.only.is_some() || rest.until <= Instant::now(),
            Phase::HalfOpen { .. } => false,
        }
    }

    /// Whether nothing is wrong with it.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.lock().phase, Phase::Closed { .. })
    }

    /// For how long it still wants to be left alone, if it said so.
    pub(super) fn limited_for(&self) -> Option<Duration> {
        match self.lock().phase {
            Phase::Open { rest: Rest { until, limited: true, .. } } => {
                Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
            }
            _ => None,
        }
    }

    /// Its state now.
    pub(super) fn status(&self) -> CircuitStatus {
        let state = self.lock();
        let (circuit, next_probe) = match state.phase {
            Phase::Closed { .. } => (Circuit::Closed, None),
            Phase::Open { rest: Rest { until, limited, .. } } => {
                let left = until.saturating_duration_since(Instant::now());
                let circuit = if limited { Circuit::Limited } else { Circuit::Open };
                (circuit, Some(self.clock.now().plus(left)))
            }
            Phase::HalfOpen { .. } => (Circuit::HalfOpen, None),
        };
        CircuitStatus { circuit, since: state.since, next_probe }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, state: &mut State, phase: Phase) {
        state.phase = phase;
        state.since = Some(self.clock.now());
    }

    fn close(&self, state: &mut State) {
        state.opened = 0;
        match &mut state.phase {
            Phase::Closed { trouble, last } => (*trouble, *last) = (0, Last::Nothing),
            _ => self.turn(state, Phase::Closed { trouble: 0, last: Last::Nothing }),
        }
    }

    /// `only` is what alone may be broken.
    fn open(&self, state: &mut State, only: Option<Box<str>>) {
        state.opened = state.opened.saturating_add(1);
        state.openings += 1;
        let after = self.back_off(state.opened, state.openings);
        let rest = Rest { until: Instant::now() + after, limited: false, only };
        self.turn(state, Phase::Open { rest });
    }

    /// Three to four quarters of a time that doubles, so that many who lost the same server do not
    /// come back to it at the same moment.
    fn back_off(&self, opened: u32, openings: u64) -> Duration {
        let doubled = 1_u32.checked_shl(opened.saturating_sub(1)).unwrap_or(u32::MAX);
        let longest = BACK_OFF_FIRST.saturating_mul(doubled).min(BACK_OFF_MAX);
        let mut hasher = DefaultHasher::new();
        (self.seed, openings).hash(&mut hasher);
        let thousandths = u32::try_from(hasher.finish() % 251).unwrap_or(0);
        longest * (750 + thousandths) / 1000
    }
}

impl Permit {
    /// The server answered, if only with a refusal.
    pub(super) fn answered(&mut self) {
        let is_probe = std::mem::take(&mut self.is_probe);
        let mut state = self.breaker.lock();
        match state.phase {
            // What was asked before it wanted to be left alone proves nothing about that.
            Phase::Open { rest: Rest { limited: true, .. } }
            | Phase::HalfOpen { rest: Rest { limited: true, .. } }
                if !is_probe => {}
            _ => self.breaker.close(&mut state),
        }
    }

    /// The server did not answer, or could not; `about` is the repository or the scope where that
    /// may be its fault alone.
    pub(super) fn troubled(&mut self, failure: &Failure, about: Option<&str>) {
        let is_probe = std::mem::take(&mut self.is_probe);
        let breaker = &self.breaker;
        let mut state = breaker.lock();
        // Questions that were on their way together failed together: that is one piece of
        // evidence, and a balancer that drops fifty connections at once is none of its own.
        let is_news = self.generation == state.generation;
        state.last = Arc::new(failure.clone());
        match &mut state.phase {
            Phase::Closed { trouble, last } if is_news => {
                // One repository that its registry cannot serve must not take the others along:
                // however often it fails in a row, that is known already.
                let is_known = match &*last {
                    Last::Only(known) | Last::Another(known) => about == Some(&**known),
                    Last::Nothing | Last::Server => false,
                };
                if !is_known {
                    *trouble = trouble.saturating_add(weight(failure));
                    *last = match (&*last, about) {
                        (Last::Nothing, Some(about)) => Last::Only(about.into()),
                        (_, Some(about)) => Last::Another(about.into()),
                        (_, None) => Last::Server,
                    };
                    let is_enough = match last {
                        Last::Nothing | Last::Only(_) => false,
                        Last::Another(_) => *trouble >= breaker.trouble_max.about,
                        Last::Server => *trouble >= breaker.trouble_max.server,
                    };
                    if is_enough {
                        breaker.open(&mut state, None);
                    }
                }
            }
            Phase::HalfOpen { rest } if is_probe => {
                // Two that fail one after the other are the server's trouble.
                let only = about
                    .filter(|about| rest.only.as_deref().is_none_or(|before| before == *about));
                let only = only.map(Into::into);
                breaker.open(&mut state, only);
            }
            _ => return,
        }
        state.generation += 1;
    }

    /// The server wants to be left alone for `after`.
    pub(super) fn limited(&mut self, after: Duration) {
        self.is_probe = false;
        let mut state = self.breaker.lock();
        state.last = Arc::new(Failure::RateLimited { retry_after: Some(after) });
        let mut until = Instant::now() + after.min(LEFT_ALONE_MAX);
        if let Phase::Open { rest: Rest { until: longer, limited: true, .. } } = state.phase {
            until = until.max(longer);
        }
        let rest = Rest { until, limited: true, only: None };
        self.breaker.turn(&mut state, Phase::Open { rest });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_probe {
            return;
        }
        let mut state = self.breaker.lock();
        if let Phase::HalfOpen { rest } = &state.phase {
            let rest = rest.clone();
            self.breaker.turn(&mut state, Phase::Open { rest });
        }
    }
}

/// What waited in vain weighs more: it costs each user a timeout.
const fn weight(failure: &Failure) -> u32 {
    match failure {
        Failure::TimedOut { .. } => 2,
        _ => 1,
    }
}

fn resting(state: &State, retry_after: Duration) -> Failure {
    Failure::Resting { last: Arc::clone(&state.last), retry_after }
}

#[cfg(test)]
mod tests;
