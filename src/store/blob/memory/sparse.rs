//! Bytes with gaps, in pages that copies share until one of them is written.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::spans::Spans;

/// How much is allocated at a time, in bytes.
const PAGE_BYTES: usize = 16 << 10;

/// What the bytes of a gap read as: nothing that could be taken for content.
const GAP: u8 = 0xdb;

type Page = Arc<[u8; PAGE_BYTES]>;

/// Bytes at positions. Copies are cheap.
#[derive(Clone, Default)]
pub(super) struct Sparse {
    pages: BTreeMap<u64, Page>,
    /// Behind the last byte that was written.
    len: u64,
}

impl fmt::Debug for Sparse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sparse").field("len", &self.len).finish_non_exhaustive()
    }
}

/// The pages of `span`, each with the part of it that lies in there.
fn pages(span: Range<u64>) -> impl Iterator<Item = (u64, Range<usize>)> {
    const PAGE: u64 = PAGE_BYTES as u64;
    let last = span.end.div_ceil(PAGE);
    (span.start / PAGE..last).map(move |number| {
        let within = |at: u64| at.saturating_sub(number * PAGE).min(PAGE) as usize;
        (number, within(span.start)..within(span.end))
    })
}

impl Sparse {
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Writes `bytes` at `offset`; their end must be a position.
    pub(super) fn write(&mut self, offset: u64, mut bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        for (number, part) in pages(offset..end) {
            let page = self.pages.entry(number).or_insert_with(|| Arc::new([GAP; PAGE_BYTES]));
            let (here, rest) = bytes.split_at(part.len());
            Arc::make_mut(page)[part].copy_from_slice(here);
            bytes = rest;
        }
        self.len = self.len.max(end);
    }

    /// Fills `buffer` from `offset` on; how many bytes there are.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let left = self.len.saturating_sub(offset);
        let len = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let mut rest = &mut buffer[..len];
        for (number, part) in pages(offset..offset.saturating_add(len as u64)) {
            let (here, behind) = std::mem::take(&mut rest).split_at_mut(part.len());
            match self.pages.get(&number) {
                Some(page) => here.copy_from_slice(&page[part]),
                None => here.fill(GAP),
            }
            rest = behind;
        }
        len
    }

    /// Only the bytes of `spans`; everything else is a gap.
    pub(super) fn only(&self, spans: &Spans) -> Self {
        let mut kept = Self { pages: BTreeMap::new(), len: spans.end().min(self.len) };
        for span in spans.iter() {
            let end = span.end.min(self.len);
            if span.start >= end {
                break;
            }
            for (number, part) in pages(span.start..end) {
                let Some(page) = self.pages.get(&number) else { continue };
                if part.len() == PAGE_BYTES {
                    kept.pages.insert(number, Arc::clone(page));
                } else {
                    let into = kept.pages.entry(number);
                    let into = into.or_insert_with(|| Arc::new([GAP; PAGE_BYTES]));
                    Arc::make_mut(into)[part.clone()].copy_from_slice(&page[part]);
                }
            }
        }
        kept
    }

    /// All of it in one piece, page by page, so that it is not in memory twice.
    pub(super) fn into_vec(mut self) -> Vec<u8> {
        let mut whole = vec![GAP; usize::try_from(self.len).unwrap_or(usize::MAX)];
        while let Some((number, page)) = self.pages.pop_first() {
            let start = number as usize * PAGE_BYTES;
            let end = whole.len().min(start + PAGE_BYTES);
            whole[start..end].copy_from_slice(&page[..end - start]);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_was_written_and_only_what_is_kept(
            writes in prop::collection::vec((0..100_000_u64, 1..30_000_usize, any::<u8>()), 1..8),
            kept in prop::collection::vec((0..100_000_u64, 1..30_000_u64), 0..4),
        ) {
            let (mut sparse, mut model) = (Sparse::default(), Vec::new());
            for (offset, len, byte) in writes {
                sparse.write(offset, &vec![byte; len]);
                let (start, end) = (offset as usize, offset as usize + len);
                if end > model.len() {
                    model.resize(end, GAP);
                }
                model[start..end].fill(byte);
            }
            let spans: Spans = kept.into_iter().map(|(at, len)| at..at + len).collect();
            let only = sparse.only(&spans);
            let mut read = vec![0; model.len()];
            prop_assert_eq!(sparse.read(0, &mut read), model.len());
            prop_assert_eq!(&read, &model);
            let mut some = vec![0; 500];
            let count = sparse.read(9_900, &mut some);
            prop_assert_eq!(&some[..count], model.get(9_900..).map_or(&[][..], |m| &m[..m.len().min(500)]));
            let copy = only.into_vec();
            for (at, byte) in copy.iter().enumerate() {
                let expected = if spans.covers(at as u64) { model[at] } else { GAP };
                prop_assert_eq!(*byte, expected, "at {}", at);
            }
            prop_assert_eq!(copy.len() as u64, spans.end().min(model.len() as u64));
            prop_assert_eq!(sparse.into_vec(), model);
        }
    }
}
