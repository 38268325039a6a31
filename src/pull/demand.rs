//! What the readers of a growing blob want of it: the fill fetches in the order of their need.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::follow::HOLD_BACK_BYTES;
use crate::oci::{ByteRanges, RangeSpec, Resolved};
use crate::spans::Spans;

/// A reader that has moved further than this since it was last heard of has jumped, in bytes: what
/// it needs now may not be on its way.
const JUMP_BYTES: u64 = 4 << 20;

/// What one answer takes of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of it.
    Whole,
    /// Parts of it.
    Ranges(ByteRanges),
}

/// What is needed first of a blob whose size may not be known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstNeed {
    /// From here on, to the end.
    From(u64),
    /// Only these bytes.
    Span(Range<u64>),
    /// So many of the last bytes.
    Last(u64),
}

/// What all readers together want.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Where each reader is, and how far it will read; the eldest reader first.
    pub readers: Vec<Range<u64>>,
    /// What was asked for by bounded ranges.
    pub asked: Spans,
    /// Whether all of it is to be fetched, whoever is still there.
    pub whole: bool,
    /// Whether a reader wanted anything but the whole from its beginning.
    pub in_parts: bool,
}

/// The wants of all readers of one flight.
#[derive(Debug, Default)]
pub struct Demands {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The blob's size in bytes, once it is known.
    total: Option<u64>,
    readers: BTreeMap<u64, Want>,
    next: u64,
    asked: Spans,
    whole: bool,
    in_parts: bool,
}

#[derive(Debug)]
struct Want {
    wanted: Wanted,
    /// What it reads next; nothing as long as the size is not known.
    span: Option<Range<u64>>,
}

impl Demands {
    /// Counts a reader in, until what comes back is dropped.
    pub fn reader(self: &Arc<Self>, wanted: Wanted) -> Reader {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.in_parts |= wanted != Wanted::Whole;
        state.whole |= wanted.is_open_ended();
        state.readers.insert(id, Want { wanted, span: None });
        if state.total.is_some() {
            state.resolve();
        }
        drop(state);
        self.changed.notify_one();
        Reader { demands: Arc::clone(self), id }
    }

    /// What the eldest reader needs first.
    pub fn first_need(&self) -> FirstNeed {
        let state = self.lock();
        let Some(want) = state.readers.values().next() else { return FirstNeed::From(0) };
        match &want.wanted {
            Wanted::Whole => FirstNeed::From(0),
            Wanted::Ranges(ranges) => match ranges.specs().first() {
                Some(RangeSpec::FromTo { first, last }) => {
                    FirstNeed::Span(*first..last.saturating_add(1))
                }
                Some(RangeSpec::From { first }) => FirstNeed::From(*first),
                Some(RangeSpec::Suffix { len }) => FirstNeed::Last(*len),
                None => FirstNeed::From(0),
            },
        }
    }

    /// The blob has `total` bytes, if that is known: what was asked for has a place now.
    pub fn has_size(&self, total: Option<u64>) {
        let mut state = self.lock();
        state.total = total;
        if total.is_some() {
            state.resolve();
        }
        // Without a size nobody can say where a range of it ends, and nothing of a small blob is
        // seen before all of it is verified.
        state.whole |= total.is_none_or(|total| total <= HOLD_BACK_BYTES);
    }

    /// All of it is to be fetched.
    pub fn want_whole(&self) {
        self.lock().whole = true;
    }

    /// What all of them want now.
    pub fn wishes(&self) -> Wishes {
        let mut state = self.lock();
        // Who asks for half of it in pieces is going to ask for the rest.
        if state.total.is_some_and(|total| state.asked.len() >= total.div_ceil(2)) {
            state.whole = true;
        }
        Wishes {
            readers: state.readers.values().filter_map(|want| want.span.clone()).collect(),
            asked: state.asked.clone(),
            whole: state.whole,
            in_parts: state.in_parts,
        }
    }

    /// Waits until there is a wish that there was not before, or [`Demands::poke`]. One waits at a
    /// time. Cancel-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Has the one who waits look again.
    pub fn poke(&self) {
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    /// Whether it reaches to the end, wherever that is, from wherever it begins.
    fn is_open_ended(&self) -> bool {
        match self {
            Self::Whole => true,
            Self::Ranges(ranges) => {
                ranges.specs().iter().any(|spec| matches!(spec, RangeSpec::From { .. }))
            }
        }
    }
}

impl State {
    /// Gives every reader its place that has none yet.
    fn resolve(&mut self) {
        let Some(total) = self.total else { return };
        for want in self.readers.values_mut().filter(|want| want.span.is_none()) {
            let resolved = match &want.wanted {
                Wanted::Whole => Resolved::Whole,
                Wanted::Ranges(ranges) => ranges.resolve(total),
            };
            want.span = match resolved {
                Resolved::Whole => {
                    self.whole = true;
                    Some(0..total)
                }
                Resolved::Unsatisfiable => Some(total..total),
                Resolved::Satisfiable(spans) => {
                    if !want.wanted.is_open_ended() {
                        for span in &spans {
                            self.asked.insert(span.start..span.end_exclusive);
                        }
                    }
                    spans.first().map(|span| span.start..span.end_exclusive)
                }
            };
        }
    }
}

/// One who reads a growing blob; leaves when dropped.
#[derive(Debug)]
pub struct Reader {
    demands: Arc<Demands>,
    id: u64,
}

impl Reader {
    /// It can use nothing before all of it is there.
    pub fn wants_whole(&self) {
        self.demands.want_whole();
        self.demands.poke();
    }

    /// It waits for the bytes at the beginning of `span`, and will read on to its end.
    pub fn waits_for(&self, span: Range<u64>) {
        let mut state = self.demands.lock();
        let Some(want) = state.readers.get_mut(&self.id) else { return };
        let has_jumped = want.span.as_ref().is_none_or(|before| {
            !(before.start..=before.start.saturating_add(JUMP_BYTES)).contains(&span.start)
        });
        want.span = Some(span);
        drop(state);
        if has_jumped {
            self.demands.changed.notify_one();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.demands.lock().readers.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOTAL: u64 = 100 << 20;

    fn ranges(text: &str) -> Wanted {
        Wanted::Ranges(ByteRanges::parse(text).unwrap())
    }

    #[test]
    fn ranges_have_a_place_when_the_size_is_known() {
        let demands = Arc::new(Demands::default());
        let _suffix = demands.reader(ranges("bytes=-10"));
        assert_eq!(demands.first_need(), FirstNeed::Last(10));
        assert!(demands.wishes().readers.is_empty());
        demands.has_size(Some(TOTAL));
        let _probe = demands.reader(ranges("bytes=0-1,20-29"));
        let wishes = demands.wishes();
        assert_eq!(wishes.readers, [TOTAL - 10..TOTAL, 0..2]);
        assert_eq!(wishes.asked, [0..2, 20..30, TOTAL - 10..TOTAL].into_iter().collect());
        assert!(!wishes.whole && wishes.in_parts);
    }

    #[test]
    fn who_reads_to_the_end_wants_the_whole_fetched_also_after_leaving() {
        for wanted in [Wanted::Whole, ranges("bytes=5-"), ranges("bytes=0-1,7-")] {
            let demands = Arc::new(Demands::default());
            let reader = demands.reader(wanted);
            demands.has_size(Some(TOTAL));
            assert_eq!(demands.wishes().readers.len(), 1);
            drop(reader);
            let wishes = demands.wishes();
            assert!(wishes.whole && wishes.readers.is_empty() && wishes.asked.is_empty());
        }
    }

    #[test]
    fn half_of_it_in_pieces_is_the_whole() {
        let demands = Arc::new(Demands::default());
        demands.has_size(Some(100_000));
        drop(demands.reader(ranges("bytes=0-39999")));
        assert!(!demands.wishes().whole);
        drop(demands.reader(ranges("bytes=90000-99999")));
        assert!(demands.wishes().whole);
    }

    #[test]
    fn of_a_small_blob_everything_is_needed_to_verify_it() {
        for range in ["bytes=-47", "bytes=40000-40010", "bytes=70000-70001"] {
            let demands = Arc::new(Demands::default());
            let _reader = demands.reader(ranges(range));
            demands.has_size(Some(60_000));
            assert!(demands.wishes().whole, "{range}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_jumps_are_told() {
        let wait = std::time::Duration::from_secs(1);
        let demands = Arc::new(Demands::default());
        demands.has_size(Some(TOTAL));
        let reader = demands.reader(Wanted::Whole);
        demands.changed().await;
        reader.waits_for(1000..TOTAL);
        assert!(tokio::time::timeout(wait, demands.changed()).await.is_err());
        reader.waits_for(TOTAL / 2..TOTAL);
        demands.changed().await;
        assert_eq!(demands.wishes().readers.first(), Some(&(TOTAL / 2..TOTAL)));
        reader.waits_for(0..TOTAL);
        demands.changed().await;
    }

    #[test]
    fn what_lies_behind_the_end_wants_nothing() {
        let demands = Arc::new(Demands::default());
        let _reader = demands.reader(ranges("bytes=500000-500600"));
        assert_eq!(demands.first_need(), FirstNeed::Span(500_000..500_601));
        demands.has_size(Some(100_000));
        let wishes = demands.wishes();
        assert!(!wishes.whole && wishes.asked.is_empty());
    }
}
