//! What goes wrong at the simulated registry, and when.

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;
use crate::trace::ms;

/// How bad it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Nothing goes wrong.
    Calm,
    /// One request in twelve.
    Breezy,
    /// One request in three, and endpoints that are gone for a while.
    Storm,
}

/// One thing that goes wrong with one request. Offsets are bytes of the answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No connection.
    Refused,
    /// The connection ends before the answer's head.
    Dropped,
    /// Nothing comes, ever.
    Silent,
    /// Another status: 404, 429 with `Retry-After`, 401, 5xx.
    Status(u16),
    /// A web page in place of the content, with status 200.
    Garbage,
    /// The connection is reset there.
    Reset(u64),
    /// The body ends there as if that were all.
    Closed(u64),
    /// Nothing more comes from there on.
    Stalled(u64),
    /// The byte there is another one.
    Flipped(u64),
    /// The content is another one of the same length, and its entity tag says so.
    Changed,
    /// The size that is announced is too large by this much, and the connection ends early.
    TooLong(u64),
    /// The size that is announced is too small by this much, and that is all that comes.
    TooShort(u64),
    /// No size is announced.
    NoLength,
    /// A range was asked for, and everything comes.
    RangeIgnored,
    /// A range was asked for, and the answer says that it is another one.
    WrongRange,
}

impl Fault {
    /// Whether bytes come that are not the content's.
    pub(crate) fn is_lie(self) -> bool {
        matches!(self, Self::Flipped(_) | Self::Changed | Self::Garbage)
    }

    /// Whether what came has to be fetched again by everybody, also by who can go on where a
    /// transfer broke off: it is wrong, of the wrong size, or was not asked for.
    pub(crate) fn wastes(self) -> bool {
        self.is_lie()
            || matches!(
                self,
                Self::TooLong(_) | Self::TooShort(_) | Self::NoLength | Self::RangeIgnored
            )
    }
}

/// A time in which every request to an endpoint goes wrong in the same way.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    /// `None`: all of them.
    endpoint: Option<usize>,
    from: Duration,
    until: Duration,
    fault: Fault,
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint.map_or("all".to_owned(), |endpoint| endpoint.to_string());
        let (from, until) = (self.from.as_secs(), self.until.as_secs());
        write!(f, "endpoints {endpoint} from {from} s to {until} s: {:?}", self.fault)
    }
}

/// How an endpoint is, whatever the weather.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nature {
    /// Whether every second blob that it sends is wrong, in any weather but the calm.
    pub(crate) lies: bool,
    /// Whether it names its content by an entity tag.
    pub(crate) has_etag: bool,
    /// How long it takes to answer, in milliseconds.
    pub(crate) latency_ms: u64,
    /// How long it takes between two chunks of a body, in milliseconds at most.
    pub(crate) pace_ms: u64,
    /// The largest chunk, in bytes.
    pub(crate) chunk_max: u64,
}

/// Everything that the seed decides about the registry's behaviour.
#[derive(Clone, Debug)]
pub(crate) struct Forecast {
    seed: u64,
    pub(crate) weather: Weather,
    pub(crate) endpoints: Vec<Nature>,
    pub(crate) outages: Vec<Outage>,
}

impl Forecast {
    /// The weather of that seed, for the first `time`.
    pub(crate) fn draw(seed: u64, time: Duration) -> Self {
        let mut dice = Dice::new(seed, "weather");
        let weather = *dice.pick(&[
            Weather::Calm,
            Weather::Breezy,
            Weather::Breezy,
            Weather::Storm,
            Weather::Storm,
        ]);
        let endpoints = (0..dice.within(1..4))
            .map(|_| Nature {
                lies: weather != Weather::Calm && dice.chance(20),
                has_etag: dice.chance(70),
                latency_ms: dice.within(1..300),
                pace_ms: dice.within(1..200),
                chunk_max: dice.within(2_000..64 * 1024),
            })
            .collect::<Vec<_>>();
        let mut outages = Vec::new();
        if weather == Weather::Storm {
            let span = u64::try_from(time.as_millis()).expect("a short time");
            for _ in 0..dice.within(0..4) {
                let from = dice.within(0..span);
                let fault = *dice.pick(&[
                    Fault::Refused,
                    Fault::Dropped,
                    Fault::Silent,
                    Fault::Status(503),
                    Fault::Status(429),
                    Fault::Status(401),
                    Fault::Garbage,
                ]);
                let one = usize::try_from(dice.within(0..endpoints.len() as u64)).expect("few");
                outages.push(Outage {
                    endpoint: dice.chance(50).then_some(one),
                    from: ms(from),
                    until: ms(from + dice.within(1..span)),
                    fault,
                });
            }
        }
        Self { seed, weather, endpoints, outages }
    }

    /// What goes wrong with the `nth` request of `what` to that endpoint, if anything. The answer's
    /// body would have `len` bytes, and `ranged` tells whether a part was asked for.
    pub(crate) fn fault(
        &self,
        at: Duration,
        endpoint: usize,
        (what, nth): (&str, u64),
        (len, ranged): (u64, bool),
    ) -> Option<Fault> {
        let out = self.outages.iter().find(|outage| {
            outage.endpoint.is_none_or(|one| one == endpoint)
                && (outage.from..outage.until).contains(&at)
        });
        if let Some(outage) = out {
            return Some(outage.fault);
        }
        let mut dice = Dice::new(self.seed, format_args!("fault {endpoint} {what} {nth}"));
        let is_blob = what.starts_with("GET ") && what.contains("/blobs/");
        if is_blob && self.endpoints[endpoint].lies && dice.chance(50) {
            let at = dice.within(0..len.max(1));
            return Some(*dice.pick(&[Fault::Flipped(at), Fault::Changed]));
        }
        let percent = match self.weather {
            Weather::Calm => 0,
            Weather::Breezy => 8,
            Weather::Storm => 33,
        };
        if !dice.chance(percent) {
            return None;
        }
        let somewhere = dice.within(0..len.max(1));
        Some(match dice.within(0..if ranged { 22 } else { 18 }) {
            0 => Fault::Refused,
            1 => Fault::Dropped,
            2 => Fault::Silent,
            3 => Fault::Status(*dice.pick(&[500, 502, 503, 504])),
            4 => Fault::Status(429),
            5 => Fault::Status(*dice.pick(&[401, 403, 404])),
            6..=8 => Fault::Reset(somewhere),
            9 | 10 => Fault::Closed(somewhere),
            11 | 12 => Fault::Stalled(somewhere),
            13 => Fault::Flipped(somewhere),
            14 => Fault::Changed,
            15 => Fault::TooLong(dice.within(1..50_000)),
            16 => Fault::TooShort(dice.within(1..50_000)),
            17 => Fault::NoLength,
            18 | 19 => Fault::RangeIgnored,
            20 => Fault::WrongRange,
            _ => Fault::Garbage,
        })
    }
}
