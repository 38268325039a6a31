//! Every byte once, and what is needed first comes first.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

struct State {
    total: Option<u64>,
    claimed: Spans,
    running: Vec<Running>,
    wishes: Wishes,
    sequential: bool,
    paced: usize,
}

impl State {
    fn new(total: u64) -> Self {
        Self {
            total: Some(total),
            claimed: Spans::new(),
            running: Vec::new(),
            wishes: Wishes::default(),
            sequential: false,
            paced: 1,
        }
    }

    fn whole(total: u64) -> Self {
        let mut state = Self::new(total);
        state.wishes.whole = true;
        state.wishes.readers.push(0..total);
        state
    }

    fn next(&self) -> Option<Step> {
        next(&View {
            total: self.total,
            claimed: &self.claimed,
            running: &self.running,
            wishes: &self.wishes,
            sequential: self.sequential,
            connections_max: 4,
            connections_paced: self.paced,
            parallel_above: 256 * MIB,
        })
    }

    /// Does what is to be done until nothing is; what was asked for.
    fn all(&mut self) -> Vec<Range<u64>> {
        let mut asked = Vec::new();
        while let Some(step) = self.next() {
            match step {
                Step::Fetch(span) => {
                    assert!(span.start < span.end);
                    assert_eq!(self.claimed.len_within(span.clone()), 0, "asked for twice");
                    self.claimed.insert(span.clone());
                    self.running.push(Running { at: span.start, until: span.end });
                    asked.push(span);
                }
                Step::Cut { index, at } => {
                    let run = &mut self.running[index];
                    assert!(run.at < at && at < run.until);
                    self.claimed.remove(at..run.until);
                    run.until = at;
                }
            }
        }
        asked
    }

    fn end(&mut self, index: usize) {
        self.running.remove(index);
    }
}

#[test]
fn a_small_blob_is_one_request() {
    let mut state = State::whole(256 * MIB);
    assert_eq!(state.all(), vec![0..256 * MIB]);
    state.end(0);
    assert_eq!(state.next(), None);
}

#[test]
fn what_broke_off_is_continued_where_it_stopped() {
    let mut state = State::whole(100 * MIB);
    state.claimed.insert(0..30 * MIB + 7);
    assert_eq!(state.all(), vec![30 * MIB + 7..100 * MIB]);
}

#[test]
fn a_large_blob_is_a_few_requests_and_several_at_once_where_that_is_quicker() {
    let mut state = State::whole(1600 * MIB);
    assert_eq!(state.all(), vec![0..100 * MIB]);
    state.paced = 3;
    assert_eq!(state.all(), vec![100 * MIB..200 * MIB, 200 * MIB..300 * MIB]);
}

#[test]
fn a_probe_costs_one_grain() {
    let mut state = State::new(10 << 30);
    state.wishes.in_parts = true;
    state.wishes.asked.insert(0..2);
    state.wishes.readers.push(0..2);
    assert_eq!(state.all(), vec![0..MIB]);
    state.end(0);
    assert_eq!(state.next(), None, "nobody asked for more");
}

#[test]
fn a_far_reader_is_served_next_and_the_stream_ends_where_its_part_begins() {
    let mut state = State::whole(200 * MIB);
    state.all();
    state.running[0].at = 10 * MIB;
    state.wishes.readers.push(120 * MIB + 5..200 * MIB);
    state.wishes.in_parts = true;
    let far = 120 * MIB + 5;
    assert_eq!(state.next(), Some(Step::Cut { index: 0, at: far }));
    let asked = state.all();
    assert_eq!(asked[0], far..far + 16 * MIB);
    assert_eq!(state.running[0], Running { at: 10 * MIB, until: far });
}

#[test]
fn a_reader_close_behind_a_transfer_waits_for_it() {
    let mut state = State::whole(200 * MIB);
    state.all();
    state.wishes.readers.push(NEAR_BYTES..200 * MIB);
    assert_eq!(state.next(), None);
}

#[test]
fn the_parallel_pattern_of_containerd_takes_every_byte_once() {
    let total = 500 * MIB;
    let mut state = State::new(total);
    state.wishes = Wishes { whole: true, in_parts: true, ..Wishes::default() };
    for chunk in 0..8 {
        state.wishes.readers.push(chunk * 8 * MIB..total);
    }
    let mut asked = Spans::new();
    let mut requests = 0;
    loop {
        for span in state.all() {
            assert_eq!(asked.len_within(span.clone()), 0, "{span:?} twice");
            asked.insert(span);
            requests += 1;
        }
        if state.running.is_empty() {
            break;
        }
        // What a transfer claimed it brings, unless it was cut.
        state.end(0);
        for reader in &mut state.wishes.readers {
            reader.start = (reader.start + 3 * MIB).min(total);
        }
    }
    assert_eq!(asked, Spans::of(0..total));
    assert!(requests < 80, "{requests}");
}

#[test]
fn without_ranges_or_a_size_there_is_one_transfer_from_the_front() {
    let mut state = State::whole(100 * MIB);
    state.sequential = true;
    state.wishes.readers.push(90 * MIB..100 * MIB);
    assert_eq!(state.all(), vec![0..100 * MIB]);
    let mut state = State::whole(1);
    state.total = None;
    state.claimed.insert(0..5);
    assert_eq!(state.all(), vec![5..u64::MAX]);
}

proptest! {
    #[test]
    fn every_byte_is_fetched_once_whoever_reads(
        total in 1..2000 * MIB,
        readers in prop::collection::vec((0..2000 * MIB, 1..200 * MIB), 0..6),
        whole: bool,
        paced in 1..5_usize,
        progress in prop::collection::vec((0..4_usize, 0..300 * MIB, any::<bool>()), 1..40),
    ) {
        let mut state = State::new(total);
        state.paced = paced;
        state.wishes.whole = whole;
        state.wishes.in_parts = !readers.is_empty();
        for (start, len) in readers {
            let span = start.min(total)..start.saturating_add(len).min(total);
            if !whole {
                state.wishes.asked.insert(span.clone());
            }
            state.wishes.readers.push(span);
        }
        let mut landed = Spans::new();
        for (index, bytes, breaks) in progress.into_iter().chain((0..3000).map(|_| (0, u64::MAX, false))) {
            state.all();
            if state.running.is_empty() {
                break;
            }
            let index = index % state.running.len();
            let run = state.running[index];
            let at = run.at.saturating_add(bytes).min(run.until);
            prop_assert_eq!(landed.len_within(run.at..at), 0, "landed twice");
            landed.insert(run.at..at);
            state.running[index].at = at;
            if at == run.until || breaks {
                state.claimed.remove(at..run.until);
                state.end(index);
            }
        }
        prop_assert!(state.running.is_empty(), "it comes to an end");
        if whole {
            prop_assert_eq!(landed, Spans::of(0..total));
        } else {
            for asked in state.wishes.asked.iter() {
                prop_assert!(landed.covers_all(asked));
            }
        }
    }
}
