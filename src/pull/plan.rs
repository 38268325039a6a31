//! Which part of a growing blob is asked for next. Pure: what is known goes in, one step comes out.
//!
//! Readers come first, in the order of their coming: the bytes that one of them waits for, then
//! those it will read. What nobody needs yet is fetched from the front. No byte is asked for twice:
//! a transfer that runs towards a part that somebody needs earlier ends where that part begins.

use std::ops::Range;

use super::demand::Wishes;
use crate::spans::Spans;

/// A reader waits for a transfer that is at most this far behind it, in bytes: a request of its own
/// would hardly be quicker.
pub const NEAR_BYTES: u64 = 8 << 20;

/// Bounded ranges are asked for in multiples of this, in bytes: their neighbours are mostly wanted
/// next, and a request costs more than that.
pub const GRAIN_BYTES: u64 = 1 << 20;

/// How much one request asks for while readers jump about, in bytes.
pub const SEGMENT_MIN_BYTES: u64 = 16 << 20;

/// The most that one request asks for of a blob that is fetched in several, in bytes.
pub const SEGMENT_MAX_BYTES: u64 = 256 << 20;

/// In how many requests a large blob is fetched.
const SEGMENTS: u64 = 16;

/// A transfer that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Where its next byte stands.
    pub at: u64,
    /// Where it is to end. `u64::MAX`: wherever the blob does.
    pub until: u64,
}

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The blob's size in bytes, where it is known.
    pub total: Option<u64>,
    /// What has landed, or is going to by a transfer that runs.
    pub claimed: &'a Spans,
    /// The transfers that run.
    pub running: &'a [Running],
    /// What readers want.
    pub wishes: &'a Wishes,
    /// Upstream sends no ranges, or the blob passes through memory: one transfer, in order.
    pub sequential: bool,
    /// The most transfers at a time.
    pub connections_max: usize,
    /// How many are worth it where nobody waits.
    pub connections_paced: usize,
    /// Blobs above this size, in bytes, are fetched in several requests.
    pub parallel_above: u64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask for these bytes. The end is `u64::MAX` where the size is not known.
    Fetch(Range<u64>),
    /// The transfer with this index is to end here: what follows is going to be asked for alone.
    Cut {
        /// Which of [`View::running`].
        index: usize,
        /// Where.
        at: u64,
    },
}

/// The next step; nothing if there is nothing to do until something changes.
pub fn next(view: &View<'_>) -> Option<Step> {
    let Some(total) = view.total.filter(|_| !view.sequential) else {
        let gap = view.claimed.first_gap(0..view.total.unwrap_or(u64::MAX))?;
        return view.running.is_empty().then_some(Step::Fetch(gap));
    };
    if view.running.len() >= view.connections_max.max(1) {
        return None;
    }
    urgent(view, total).or_else(|| foreseen(view, total)).or_else(|| front(view, total))
}

/// What a reader waits for now.
fn urgent(view: &View<'_>, total: u64) -> Option<Step> {
    for reader in &view.wishes.readers {
        let at = reader.start;
        if at >= reader.end.min(total) {
            continue;
        }
        if !view.claimed.covers(at) {
            return fetch(view, at..total, reader.end);
        }
        let running = |run: &Running| (run.at..run.until).contains(&at);
        if let Some(index) = view.running.iter().position(running)
            && view.running.get(index).is_some_and(|run| is_far(run, at))
        {
            return Some(Step::Cut { index, at });
        }
    }
    None
}

/// Whether a reader that is at `at` should not wait for that transfer. A short one has been asked
/// for, and is on its way, whole.
const fn is_far(run: &Running, at: u64) -> bool {
    at - run.at > NEAR_BYTES && run.until - run.at > SEGMENT_MIN_BYTES
}

/// What a reader will wait for.
fn foreseen(view: &View<'_>, total: u64) -> Option<Step> {
    let ahead = view.wishes.readers.iter().filter(|_| view.wishes.in_parts);
    let ahead = ahead.map(|reader| reader.start..reader.end.min(total));
    ahead.chain(view.wishes.asked.iter()).find_map(|wanted| {
        let gap = view.claimed.first_gap(wanted.clone())?;
        fetch(view, gap.start..total, wanted.end)
    })
}

/// What is still lacking of a blob that is wanted whole.
fn front(view: &View<'_>, total: u64) -> Option<Step> {
    if !view.wishes.whole || view.running.len() >= view.connections_paced.max(1) {
        return None;
    }
    fetch(view, 0..total, total)
}

/// The first gap within `within`, as much of it as one request asks for when `wanted_end` is how
/// far somebody reads.
fn fetch(view: &View<'_>, within: Range<u64>, wanted_end: u64) -> Option<Step> {
    let total = within.end;
    let gap = view.claimed.first_gap(within)?;
    let wanted_end = if view.wishes.whole { total } else { wanted_end };
    let wanted_end = whole_grains(wanted_end.max(gap.start + 1));
    let end = gap.end.min(wanted_end).min(gap.start.saturating_add(segment(view, total)));
    Some(Step::Fetch(gap.start..end))
}

/// The end of the grain in which `end` lies.
pub fn whole_grains(end: u64) -> u64 {
    end.checked_next_multiple_of(GRAIN_BYTES).unwrap_or(u64::MAX)
}

/// How much one request asks for.
fn segment(view: &View<'_>, total: u64) -> u64 {
    segment_of(total, view.wishes.in_parts, view.parallel_above)
}

/// How much one request asks for of a blob of `total` bytes.
pub fn segment_of(total: u64, in_parts: bool, parallel_above: u64) -> u64 {
    if in_parts {
        SEGMENT_MIN_BYTES
    } else if total <= parallel_above {
        u64::MAX
    } else {
        (total / SEGMENTS).clamp(SEGMENT_MIN_BYTES, SEGMENT_MAX_BYTES)
    }
}

#[cfg(test)]
mod tests;
