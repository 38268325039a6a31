//! Sets of byte positions: which parts of a blob have landed, which are still to come.

use std::ops::Range;

/// A set of byte positions, kept as disjoint ranges in order; neighbours are one range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans(Vec<Range<u64>>);

impl Spans {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The set of the positions of `span`.
    pub fn of(span: Range<u64>) -> Self {
        let mut spans = Self::new();
        spans.insert(span);
        spans
    }

    /// Adds the positions of `span`. An empty one adds nothing.
    pub fn insert(&mut self, span: Range<u64>) {
        if span.start >= span.end {
            return;
        }
        // Bytes mostly land behind others: then nothing has to be searched or moved.
        if let Some(last) = self.0.last_mut()
            && last.end == span.start
        {
            last.end = span.end;
            return;
        }
        let from = self.0.partition_point(|held| held.end < span.start);
        let to = from + self.0[from..].partition_point(|held| held.start <= span.end);
        let start = self.0.get(from).filter(|_| from < to).map_or(span.start, |h| h.start);
        let end = if from < to { self.0[to - 1].end } else { span.end };
        self.0.splice(from..to, std::iter::once(start.min(span.start)..end.max(span.end)));
    }

    /// Takes the positions of `span` out.
    pub fn remove(&mut self, span: Range<u64>) {
        if span.start >= span.end {
            return;
        }
        let from = self.0.partition_point(|held| held.end <= span.start);
        let to = from + self.0[from..].partition_point(|held| held.start < span.end);
        let mut kept = Vec::new();
        for held in &self.0[from..to] {
            if held.start < span.start {
                kept.push(held.start..span.start);
            }
            if held.end > span.end {
                kept.push(span.end..held.end);
            }
        }
        self.0.splice(from..to, kept);
    }

    /// Where the run that covers `at` ends; `at` itself if nothing covers it.
    pub fn end_of_run(&self, at: u64) -> u64 {
        let index = self.0.partition_point(|held| held.end <= at);
        match self.0.get(index) {
            Some(held) if held.start <= at => held.end,
            _ => at,
        }
    }

    /// Whether the position `at` is in the set.
    pub fn covers(&self, at: u64) -> bool {
        self.end_of_run(at) > at
    }

    /// Whether all of `span` is in the set; the empty span always is.
    pub fn covers_all(&self, span: Range<u64>) -> bool {
        span.start >= span.end || self.end_of_run(span.start) >= span.end
    }

    /// The first gap within `within`, up to the next covered position or its end.
    pub fn first_gap(&self, within: Range<u64>) -> Option<Range<u64>> {
        let start = self.end_of_run(within.start);
        if start >= within.end {
            return None;
        }
        let next = self.0.partition_point(|held| held.start < start);
        let end = self.0.get(next).map_or(within.end, |held| held.start.min(within.end));
        Some(start..end)
    }

    /// How many positions there are.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|held| held.end - held.start).sum()
    }

    /// How many positions of `within` are in the set.
    pub fn len_within(&self, within: Range<u64>) -> u64 {
        let clipped = self
            .0
            .iter()
            .map(|held| held.end.min(within.end).saturating_sub(held.start.max(within.start)));
        clipped.sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The behind of the last position; 0 for the empty set.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |held| held.end)
    }

    /// The ranges, in order; no two of them touch.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }
}

impl FromIterator<Range<u64>> for Spans {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(spans: I) -> Self {
        let mut set = Self::new();
        for span in spans {
            set.insert(span);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POSITIONS: u64 = 40;

    /// The same set, position by position.
    fn positions(spans: &Spans) -> Vec<bool> {
        (0..POSITIONS).map(|at| spans.iter().any(|held| held.contains(&at))).collect()
    }

    proptest! {
        #[test]
        fn it_is_a_set_of_positions(
            steps in prop::collection::vec((any::<bool>(), 0..POSITIONS, 0..10_u64), 0..30)
        ) {
            let (mut spans, mut model) = (Spans::new(), vec![false; POSITIONS as usize]);
            for (add, start, len) in steps {
                let span = start..(start + len).min(POSITIONS);
                if add {
                    spans.insert(span.clone());
                } else {
                    spans.remove(span.clone());
                }
                for at in span {
                    model[at as usize] = add;
                }
                prop_assert_eq!(&positions(&spans), &model);
                let held: Vec<_> = spans.iter().collect();
                prop_assert!(held.iter().all(|held| held.start < held.end));
                prop_assert!(held.windows(2).all(|two| two[0].end < two[1].start), "{held:?}");
                prop_assert_eq!(spans.len(), model.iter().filter(|held| **held).count() as u64);
                for at in 0..POSITIONS {
                    let run = model[at as usize..].iter().take_while(|held| **held).count() as u64;
                    prop_assert_eq!(spans.end_of_run(at), at + run);
                    prop_assert_eq!(spans.covers(at), run > 0);
                    let gap = model[at as usize..].iter().position(|held| !*held);
                    let gap = gap.map(|gap| {
                        let start = at + gap as u64;
                        let rest = &model[start as usize..];
                        start..start + rest.iter().take_while(|held| !**held).count() as u64
                    });
                    prop_assert_eq!(spans.first_gap(at..POSITIONS), gap);
                    let within = model[at as usize..].iter().filter(|held| **held).count() as u64;
                    prop_assert_eq!(spans.len_within(at..POSITIONS), within);
                }
            }
        }
    }

    #[test]
    fn empty_spans_change_nothing() {
        let mut spans = Spans::of(2..5);
        spans.insert(7..7);
        spans.remove(3..3);
        assert_eq!(spans, Spans::of(2..5));
        assert!(spans.covers_all(9..9) && spans.covers_all(2..5) && !spans.covers_all(2..6));
        assert_eq!((spans.end(), Spans::new().end()), (5, 0));
    }
}
