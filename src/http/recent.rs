//! What went wrong lately, for operators: the last answers to clients that were stale, refused,
//! failed or slow.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;

use crate::clock::{Clock, Timestamp};
use crate::gate::Limit;

/// How many events are kept. The same thing happening again is one event.
pub const RECENT_EVENTS_MAX: usize = 64;

/// An answer whose head took at least this long is slow.
pub const SLOW_HEAD: Duration = Duration::from_secs(1);

/// An answer that took at least this long to its end is slow, unless it was quick for its size.
pub const SLOW_ANSWER: Duration = Duration::from_secs(10);

/// A body that went out at this many bytes a second or more is quick for its size.
pub const QUICK_BYTES_PER_SECOND: u64 = 1 << 20;

/// In which way an answer was not what a client hopes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// It was served although upstream could not confirm it.
    Stale,
    /// It was refused.
    Denied,
    /// It was not found.
    Absent,
    /// It was an error, or broke off.
    Failed,
    /// The client left before it began.
    Abandoned,
    /// It took long.
    Slow,
    /// A limit was reached.
    Overload,
}

impl Trouble {
    /// Its name in answers to operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Denied => "denied",
            Self::Absent => "absent",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
            Self::Slow => "slow",
            Self::Overload => "overload",
        }
    }
}

/// What decides whether an answer is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    pub(super) status: StatusCode,
    pub(super) stale: bool,
    pub(super) broke_off: bool,
    /// To the answer's head.
    pub(super) head: Duration,
    /// To the answer's end.
    pub(super) whole: Duration,
    /// How much went out.
    pub(super) bytes: u64,
}

impl Course {
    /// What was wrong with it, if anything was.
    pub(super) fn trouble(self) -> Option<Trouble> {
        match self.status.as_u16() {
            499 => Some(Trouble::Abandoned),
            401 | 403 => Some(Trouble::Denied),
            404 => Some(Trouble::Absent),
            400.. => Some(Trouble::Failed),
            _ if self.broke_off => Some(Trouble::Failed),
            _ if self.stale => Some(Trouble::Stale),
            _ if self.is_slow() => Some(Trouble::Slow),
            _ => None,
        }
    }

    fn is_slow(self) -> bool {
        let quick = self.bytes / QUICK_BYTES_PER_SECOND >= self.whole.as_secs();
        self.head >= SLOW_HEAD || (self.whole >= SLOW_ANSWER && !quick)
    }
}

/// Something that happened to an answer, perhaps more than once.
#[derive(Clone, Debug)]
pub struct Event {
    /// In which way.
    pub trouble: Trouble,
    /// When it happened last.
    pub at: Timestamp,
    /// How often it happened in a row of such events.
    pub times: u64,
    /// Where the name led: upstream and repository.
    pub image: Option<String>,
    /// The method and the path that were asked for.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
    /// The cache's part.
    pub cache: &'static str,
    /// The reason for that.
    pub reason: &'static str,
    /// What the client was told, or why the answer broke off.
    pub error: Option<String>,
    /// Who asked last.
    pub client: IpAddr,
    /// The last request's id.
    pub request_id: String,
    /// How long the last answer took to its head.
    pub head: Duration,
    /// How long it took to its end.
    pub whole: Duration,
    /// How many bytes of it went out.
    pub bytes: u64,
}

impl Event {
    /// Whether `other` is the same thing happening to somebody else, or again.
    fn is_like(&self, other: &Self) -> bool {
        self.trouble == other.trouble
            && self.path == other.path
            && self.status == other.status
            && (self.cache, self.reason) == (other.cache, other.reason)
    }
}

/// The last events. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Recent {
    events: Arc<Mutex<VecDeque<Event>>>,
    clock: Clock,
}

impl Recent {
    /// Nothing has happened yet.
    pub fn new(clock: Clock) -> Self {
        Self { events: Arc::default(), clock }
    }

    /// The time now.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Takes note of an event. One like it is brought up to date, so that a client that tries
    /// again and again does not push everything else out.
    pub(super) fn note(&self, mut event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = events.iter().position(|known| known.is_like(&event))
            && let Some(known) = events.remove(at)
        {
            event.times = known.times.saturating_add(1);
        }
        if events.len() >= RECENT_EVENTS_MAX {
            events.pop_back();
        }
        events.push_front(event);
    }

    /// Takes note that something from `client` was refused at `limit`, and what was said. What it
    /// was about says nothing: a limit is reached by whatever comes next.
    pub(super) fn overloaded(&self, limit: Limit, error: String, client: IpAddr) {
        self.note(Event {
            trouble: Trouble::Overload,
            at: self.now(),
            times: 1,
            image: None,
            method: String::new(),
            path: String::new(),
            status: StatusCode::SERVICE_UNAVAILABLE.as_u16(),
            cache: "",
            reason: limit.as_str(),
            error: Some(error),
            client,
            request_id: String::new(),
            head: Duration::ZERO,
            whole: Duration::ZERO,
            bytes: 0,
        });
    }

    /// The events, the last one first.
    pub fn list(&self) -> Vec<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(status: u16) -> Course {
        Course {
            status: StatusCode::from_u16(status).unwrap(),
            stale: false,
            broke_off: false,
            head: Duration::from_millis(5),
            whole: Duration::from_millis(9),
            bytes: 100,
        }
    }

    #[test]
    fn good_answers_are_not_remembered() {
        for status in [200, 206, 304] {
            assert_eq!(course(status).trouble(), None);
        }
        let large = Course { whole: SLOW_ANSWER * 6, bytes: 60 << 20, ..course(200) };
        assert_eq!(large.trouble(), None);
        let crawling = Course { bytes: 59 << 20, ..large };
        assert_eq!(crawling.trouble(), Some(Trouble::Slow));
        for (course, trouble) in [
            (course(403), Trouble::Denied),
            (course(404), Trouble::Absent),
            (course(416), Trouble::Failed),
            (course(502), Trouble::Failed),
            (course(499), Trouble::Abandoned),
            (Course { stale: true, ..course(200) }, Trouble::Stale),
            (Course { broke_off: true, ..course(200) }, Trouble::Failed),
            (Course { head: SLOW_HEAD, ..course(200) }, Trouble::Slow),
            (Course { whole: SLOW_ANSWER, ..course(200) }, Trouble::Slow),
        ] {
            assert_eq!(course.trouble(), Some(trouble), "{course:?}");
        }
    }

    fn event(path: &str) -> Event {
        Event {
            trouble: Trouble::Absent,
            at: Timestamp::from_unix_ms(1),
            times: 1,
            image: None,
            method: "GET".into(),
            path: path.into(),
            status: 404,
            cache: "",
            reason: "",
            error: None,
            client: IpAddr::from([127, 0, 0, 1]),
            request_id: String::new(),
            head: Duration::ZERO,
            whole: Duration::ZERO,
            bytes: 0,
        }
    }

    #[test]
    fn the_last_events_are_kept_and_repetitions_counted() {
        let recent = Recent::new(Clock::manual(Timestamp::from_unix_ms(1)));
        recent.note(event("/first"));
        for _ in 0..1000 {
            recent.note(event("/again"));
        }
        let list = recent.list();
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].path.as_str(), list[0].times), ("/again", 1000));
        for n in 0..2 * RECENT_EVENTS_MAX {
            recent.note(event(&format!("/{n}")));
        }
        let list = recent.list();
        assert_eq!(list.len(), RECENT_EVENTS_MAX);
        assert_eq!(list[0].path, format!("/{}", 2 * RECENT_EVENTS_MAX - 1));
    }
}
