//! The policies: each says which unit goes next. What a unit is (a blob or an image) is the
//! cache's affair.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pierhead::clock::Timestamp;
use pierhead::keep::policy::{Use, Worth, worth};

use crate::random::Random;

/// What the cache tells a policy of itself.
pub(crate) struct View<'a> {
    /// Bytes that the cache may hold.
    pub(crate) capacity: u64,
    pub(crate) now_ms: u64,
    /// How many bytes would be free if the unit went.
    pub(crate) frees: &'a dyn Fn(u32) -> u64,
}

pub(crate) trait Policy {
    /// `unit`, of `bytes`, was used. It is new if it was not in the cache.
    fn used(&mut self, unit: u32, bytes: u64, new: bool, view: &View<'_>);

    /// The unit that goes, which the policy then forgets. Called only while there is one.
    fn victim(&mut self, view: &View<'_>) -> u32;
}

/// What of the units is known, by their numbers.
#[derive(Debug)]
struct Table<T>(Vec<Option<T>>);

impl<T> Table<T> {
    const fn new() -> Self {
        Self(Vec::new())
    }

    fn get(&mut self, unit: u32) -> Option<&mut T> {
        self.0.get_mut(unit as usize)?.as_mut()
    }

    fn put(&mut self, unit: u32, value: T) -> Option<T> {
        if self.0.len() <= unit as usize {
            self.0.resize_with(unit as usize + 1, || None);
        }
        self.0[unit as usize].replace(value)
    }

    fn take(&mut self, unit: u32) -> Option<T> {
        self.0.get_mut(unit as usize)?.take()
    }
}

/// What a priority is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Fifo,
    Lru,
    /// LFU with dynamic ageing (Arlitt et al., 2000): uses, plus the priority that was last
    /// evicted.
    LfuDa,
    /// Greedy dual size frequency (Cherkasova, 1998): the same, with uses divided by bytes.
    Gdsf,
}

/// The smallest priority goes; priorities change only when a unit is used.
#[derive(Debug)]
pub(crate) struct Ordered {
    kind: Kind,
    tick: u64,
    age: f64,
    /// (bits of the priority, tick): positive floating point numbers sort as their bits do.
    queue: BTreeMap<(u64, u64), u32>,
    places: Table<((u64, u64), f64)>,
}

impl Ordered {
    pub(crate) const fn new(kind: Kind) -> Self {
        Self { kind, tick: 0, age: 0.0, queue: BTreeMap::new(), places: Table::new() }
    }
}

impl Policy for Ordered {
    fn used(&mut self, unit: u32, bytes: u64, new: bool, _: &View<'_>) {
        self.tick += 1;
        if !new && self.kind == Kind::Fifo {
            return;
        }
        let uses = match self.places.take(unit) {
            Some((place, uses)) => {
                self.queue.remove(&place);
                uses + 1.0
            }
            None => 1.0,
        };
        let priority = match self.kind {
            Kind::Fifo | Kind::Lru => 0.0,
            Kind::LfuDa => self.age + uses,
            Kind::Gdsf => self.age + uses / bytes.max(1) as f64,
        };
        let place = (priority.to_bits(), self.tick);
        self.queue.insert(place, unit);
        self.places.put(unit, (place, uses));
    }

    fn victim(&mut self, _: &View<'_>) -> u32 {
        let ((priority, _), unit) = self.queue.pop_first().expect("a unit is left");
        self.age = f64::from_bits(priority);
        self.places.take(unit);
        unit
    }
}

/// S3-FIFO (Yang et al., SOSP 2023), with its queues measured in bytes.
#[derive(Debug)]
pub(crate) struct S3Fifo {
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    small_bytes: u64,
    units: Table<S3Unit>,
    ghosts: BTreeSet<u32>,
    ghost_order: VecDeque<u32>,
}

#[derive(Debug)]
struct S3Unit {
    uses: u8,
    bytes: u64,
}

impl S3Fifo {
    pub(crate) const fn new() -> Self {
        Self {
            small: VecDeque::new(),
            main: VecDeque::new(),
            small_bytes: 0,
            units: Table::new(),
            ghosts: BTreeSet::new(),
            ghost_order: VecDeque::new(),
        }
    }
}

impl Policy for S3Fifo {
    fn used(&mut self, unit: u32, bytes: u64, new: bool, _: &View<'_>) {
        if !new {
            if let Some(known) = self.units.get(unit) {
                known.uses = (known.uses + 1).min(3);
            }
            return;
        }
        self.units.put(unit, S3Unit { uses: 0, bytes });
        if self.ghosts.remove(&unit) {
            self.main.push_back(unit);
        } else {
            self.small.push_back(unit);
            self.small_bytes += bytes;
        }
    }

    fn victim(&mut self, view: &View<'_>) -> u32 {
        loop {
            // A tenth of the space, as in the paper.
            if self.small_bytes > view.capacity / 10 || self.main.is_empty() {
                let unit = self.small.pop_front().expect("a unit is left");
                let known = self.units.get(unit).expect("what is queued is known");
                self.small_bytes -= known.bytes;
                if known.uses > 1 {
                    known.uses = 0;
                    self.main.push_back(unit);
                    continue;
                }
                self.units.take(unit);
                if self.ghosts.insert(unit) {
                    self.ghost_order.push_back(unit);
                }
                while self.ghost_order.len() > self.main.len().max(16) {
                    if let Some(oldest) = self.ghost_order.pop_front() {
                        self.ghosts.remove(&oldest);
                    }
                }
                return unit;
            }
            let unit = self.main.pop_front().expect("it is not empty");
            let known = self.units.get(unit).expect("what is queued is known");
            if known.uses > 0 {
                known.uses -= 1;
                self.main.push_back(unit);
                continue;
            }
            self.units.take(unit);
            return unit;
        }
    }
}

/// W-TinyLFU (Einziger et al., 2017): a window of 1 %, then probation and protection, and the
/// more frequent of two candidates stays. Its sketch is replaced by exact counts, which favours
/// it.
#[derive(Debug)]
pub(crate) struct TinyLfu {
    tick: u64,
    segments: [Segment; 3],
    units: Table<(usize, u64, u64)>,
    counts: Table<u32>,
    counted: u64,
    /// Counts are halved after this many uses.
    period: u64,
}

#[derive(Debug, Default)]
struct Segment {
    queue: BTreeMap<u64, u32>,
    bytes: u64,
}

const WINDOW: usize = 0;
const PROBATION: usize = 1;
const PROTECTED: usize = 2;

impl TinyLfu {
    pub(crate) fn new() -> Self {
        Self {
            tick: 0,
            segments: Default::default(),
            units: Table::new(),
            counts: Table::new(),
            counted: 0,
            period: 1_000,
        }
    }

    fn count(&mut self, unit: u32) -> u32 {
        self.counts.get(unit).copied().unwrap_or(0)
    }

    fn oldest(&self, segment: usize) -> Option<u32> {
        self.segments[segment].queue.first_key_value().map(|(_, unit)| *unit)
    }

    fn leave(&mut self, unit: u32) -> Option<u64> {
        let (segment, tick, bytes) = self.units.take(unit)?;
        self.segments[segment].queue.remove(&tick);
        self.segments[segment].bytes -= bytes;
        Some(bytes)
    }

    fn enter(&mut self, unit: u32, bytes: u64, segment: usize) {
        self.tick += 1;
        self.segments[segment].queue.insert(self.tick, unit);
        self.segments[segment].bytes += bytes;
        self.units.put(unit, (segment, self.tick, bytes));
    }

    fn moves(&mut self, unit: u32, segment: usize) {
        if let Some(bytes) = self.leave(unit) {
            self.enter(unit, bytes, segment);
        }
    }
}

impl Policy for TinyLfu {
    fn used(&mut self, unit: u32, bytes: u64, new: bool, view: &View<'_>) {
        let count = self.count(unit) + 1;
        self.counts.put(unit, count);
        self.counted += 1;
        let kept: usize = self.segments.iter().map(|segment| segment.queue.len()).sum();
        // As in the paper: ten uses for each unit that the cache holds.
        self.period = self.period.max(10 * kept as u64);
        if self.counted > self.period {
            self.counted = 0;
            self.counts.0.iter_mut().flatten().for_each(|count| *count /= 2);
        }
        let known = self.units.get(unit).map(|(segment, ..)| *segment);
        self.leave(unit);
        match known {
            None | Some(WINDOW) => self.enter(unit, bytes, WINDOW),
            Some(_) => self.enter(unit, bytes, PROTECTED),
        }
        debug_assert_eq!(new, known.is_none());
        // Four fifths of the main part are protected.
        while self.segments[PROTECTED].bytes > view.capacity / 5 * 4 {
            let Some(oldest) = self.oldest(PROTECTED) else { break };
            self.moves(oldest, PROBATION);
        }
        let total: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        // While there is room, nothing needs to be compared.
        while total <= view.capacity && self.segments[WINDOW].bytes > view.capacity / 100 {
            let Some(oldest) = self.oldest(WINDOW) else { break };
            self.moves(oldest, PROBATION);
        }
    }

    fn victim(&mut self, view: &View<'_>) -> u32 {
        let main = self.oldest(PROBATION).or_else(|| self.oldest(PROTECTED));
        let over = self.segments[WINDOW].bytes > view.capacity / 100;
        let goes = match (self.oldest(WINDOW).filter(|_| over || main.is_none()), main) {
            (Some(candidate), Some(main)) if self.count(candidate) > self.count(main) => {
                self.moves(candidate, PROBATION);
                main
            }
            (Some(candidate), _) => candidate,
            (None, main) => main.expect("a unit is left"),
        };
        self.leave(goes);
        goes
    }
}

/// Hyperbolic caching (Blankstein et al., ATC 2017): uses by time in the cache, the least of a
/// sample of 64.
#[derive(Debug)]
pub(crate) struct Hyperbolic {
    by_bytes: bool,
    random: Random,
    kept: Vec<u32>,
    /// Place in `kept`, first use, uses, bytes.
    units: Table<(usize, u64, f64, u64)>,
}

impl Hyperbolic {
    pub(crate) const fn new(by_bytes: bool) -> Self {
        Self { by_bytes, random: Random::new(64), kept: Vec::new(), units: Table::new() }
    }
}

impl Policy for Hyperbolic {
    fn used(&mut self, unit: u32, bytes: u64, _: bool, view: &View<'_>) {
        if let Some(known) = self.units.get(unit) {
            known.2 += 1.0;
            known.3 = bytes;
        } else {
            self.units.put(unit, (self.kept.len(), view.now_ms, 1.0, bytes));
            self.kept.push(unit);
        }
    }

    fn victim(&mut self, view: &View<'_>) -> u32 {
        let mut least = (f64::INFINITY, self.kept[0]);
        for _ in 0..64 {
            let unit = self.kept[self.random.below(self.kept.len())];
            let (_, first, uses, bytes) = *self.units.get(unit).expect("what is kept is known");
            let size = if self.by_bytes { bytes.max(1) as f64 } else { 1.0 };
            let priority = uses / (view.now_ms - first + 1) as f64 / size;
            if priority < least.0 {
                least = (priority, unit);
            }
        }
        let (place, ..) = self.units.take(least.1).expect("what is kept is known");
        self.kept.swap_remove(place);
        if let Some(moved) = self.kept.get(place).copied() {
            self.units.get(moved).expect("what is kept is known").0 = place;
        }
        least.1
    }
}

/// How a score falls with the time since the last use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decay {
    /// Halves in that many days; so does the count of uses.
    HalfLife(f64),
    /// `uses / (1 + idle / step)^power`, where uses halve in some days.
    Power { power: f64, step_ms: f64, days: f64 },
    /// What the engine does.
    Pierhead,
}

/// Evicts by a score of each unit, computed for all of them now and then: the engine's way.
pub(crate) struct Scored {
    decay: Decay,
    /// Bytes to this power divide the score.
    size: f64,
    /// Whether what is known of a unit outlives its eviction.
    remembers: bool,
    kept: Vec<u32>,
    units: Table<ScoredUnit>,
    /// Of what was evicted.
    past: Table<(Use, f64)>,
    /// The next victims, the first to go last, and when each was last used when it was listed.
    doomed: Vec<(u32, u64)>,
    uses: u64,
}

#[derive(Clone, Copy)]
enum Score {
    Own(f64),
    Pierhead(Worth),
}

impl Score {
    /// Scores of one policy are all of one kind.
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Own(a), Self::Own(b)) => a.total_cmp(b),
            (Self::Pierhead(a), Self::Pierhead(b)) => a.cmp(b),
            _ => Ordering::Equal,
        }
    }
}

struct ScoredUnit {
    place: usize,
    used: Use,
    /// The count of uses, by the half-life that is measured.
    heat: f64,
    last_ms: u64,
    /// The number of its last use.
    stamp: u64,
}

/// Score, unit, the number of its last use, the bytes that its eviction frees.
type Candidate = (Score, u32, u64, u64);

/// A pass over all units frees this share of the cache.
const PASS: u64 = 50;

impl Scored {
    pub(crate) const fn new(decay: Decay, size: f64, remembers: bool) -> Self {
        Self {
            decay,
            size,
            remembers,
            kept: Vec::new(),
            units: Table::new(),
            past: Table::new(),
            doomed: Vec::new(),
            uses: 0,
        }
    }

    fn half_life_ms(&self) -> f64 {
        match self.decay {
            Decay::HalfLife(days) | Decay::Power { days, .. } => days * crate::trace::DAY_MS as f64,
            Decay::Pierhead => f64::INFINITY,
        }
    }

    /// Logarithms, to base 2: ages of many half-lives would round to zero.
    fn score(&self, unit: &ScoredUnit, bytes: u64, now_ms: u64) -> Score {
        let age = (now_ms - unit.last_ms) as f64;
        let size = self.size * (bytes.max(1) as f64).log2();
        let halved = unit.heat.log2() - age / self.half_life_ms();
        match self.decay {
            Decay::HalfLife(_) => Score::Own(halved - size),
            Decay::Power { power, step_ms, .. } => {
                Score::Own(halved - power * (1.0 + age / step_ms).log2() - size)
            }
            Decay::Pierhead => {
                Score::Pierhead(worth(&unit.used, bytes, Timestamp::from_unix_ms(now_ms)))
            }
        }
    }

    fn pass(&mut self, view: &View<'_>) {
        let mut scores = Vec::with_capacity(self.kept.len());
        for n in 0..self.kept.len() {
            let unit = self.kept[n];
            let bytes = (view.frees)(unit);
            let known = self.units.0[unit as usize].as_ref().expect("what is kept is known");
            scores.push((self.score(known, bytes, view.now_ms), unit, known.stamp, bytes));
        }
        // A pass takes few: the rest is put in order only if they do not do.
        let order = |a: &Candidate, b: &Candidate| a.0.cmp(&b.0).then(a.1.cmp(&b.1));
        let few = scores.len() / 16;
        scores.select_nth_unstable_by(few, order);
        scores[..few].sort_unstable_by(order);
        if scores[..few].iter().map(|(.., bytes)| bytes).sum::<u64>() <= view.capacity / PASS {
            scores[few..].sort_unstable_by(order);
        }
        let mut freed = 0;
        for (_, unit, stamp, bytes) in scores {
            self.doomed.push((unit, stamp));
            freed += bytes;
            if freed > view.capacity / PASS {
                break;
            }
        }
        self.doomed.reverse();
    }
}

impl Policy for Scored {
    fn used(&mut self, unit: u32, _: u64, _: bool, view: &View<'_>) {
        self.uses += 1;
        let now = Timestamp::from_unix_ms(view.now_ms);
        let (stamp, half_life) = (self.uses, self.half_life_ms());
        if let Some(known) = self.units.get(unit) {
            let age = (view.now_ms - known.last_ms) as f64;
            known.heat = known.heat * (-age / half_life).exp2() + 1.0;
            known.last_ms = view.now_ms;
            known.used.again(now, 1);
            known.stamp = stamp;
            return;
        }
        let mut used = Use::first(now);
        let mut heat = 1.0;
        if let Some((past, past_heat)) = self.past.take(unit) {
            let age = (view.now_ms - past.last().unix_ms()) as f64;
            heat += past_heat * (-age / half_life).exp2();
            used = past.merged(used);
        }
        let place = self.kept.len();
        self.kept.push(unit);
        self.units.put(unit, ScoredUnit { place, used, heat, last_ms: view.now_ms, stamp });
    }

    fn victim(&mut self, view: &View<'_>) -> u32 {
        loop {
            let Some((unit, stamp)) = self.doomed.pop() else {
                self.pass(view);
                continue;
            };
            if self.units.get(unit).is_none_or(|known| known.stamp != stamp) {
                continue; // used since
            }
            let known = self.units.take(unit).expect("it was looked at");
            self.kept.swap_remove(known.place);
            if let Some(moved) = self.kept.get(known.place).copied() {
                self.units.get(moved).expect("what is kept is known").place = known.place;
            }
            if self.remembers {
                self.past.put(unit, (known.used, known.heat));
            }
            return unit;
        }
    }
}
