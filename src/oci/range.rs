//! The `Range` header: which parts of a blob a client asks for.
//!
//! Source: RFC 9110 section 14.

use std::fmt;

/// The most ranges of one request. podman asks for up to 1024 of a zstd:chunked layer
/// (containers/storage, `pkg/chunked`, `maxNumberMissingChunks`).
pub const RANGES_MAX: usize = 1200;

/// A valid `Range` header in bytes: at least one range, at most [`RANGES_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteRanges(Vec<RangeSpec>);

/// One range as the client wrote it. Numbers too large for 64 bits stand as the largest one:
/// no content reaches there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSpec {
    /// `first-last`: bounded, both ends included.
    FromTo {
        /// The first byte.
        first: u64,
        /// The last byte, not before the first.
        last: u64,
    },
    /// `first-`: open-ended.
    From {
        /// The first byte.
        first: u64,
    },
    /// `-len`: the end of the content.
    Suffix {
        /// How many bytes.
        len: u64,
    },
}

/// A part of some content: `start..end_exclusive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteSpan {
    /// The first byte.
    pub start: u64,
    /// The byte after the last.
    pub end_exclusive: u64,
}

/// What a `Range` header means for content of a known size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// 206 with these parts, in the client's order; none is empty.
    Satisfiable(Vec<ByteSpan>),
    /// 416: no range begins inside the content.
    Unsatisfiable,
    /// 200 with everything: cheaper than what was asked for.
    Whole,
}

impl ByteRanges {
    /// Reads a `Range` header. Nothing if it is malformed, in another unit than bytes, or has more
    /// than [`RANGES_MAX`] ranges: then the header does not count, and the answer is the whole.
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, set) = value.split_once('=')?;
        if !unit.trim_matches(SPACE).eq_ignore_ascii_case("bytes") {
            return None;
        }
        let mut specs = Vec::new();
        // RFC 9110 section 5.6.1: empty elements of a list do not count.
        for spec in set.split(',').map(|spec| spec.trim_matches(SPACE)).filter(|s| !s.is_empty()) {
            if specs.len() == RANGES_MAX {
                return None;
            }
            specs.push(RangeSpec::parse(spec)?);
        }
        if specs.is_empty() { None } else { Some(Self(specs)) }
    }

    /// The ranges in the client's order.
    pub fn specs(&self) -> &[RangeSpec] {
        &self.0
    }

    /// The range, if there is only one.
    pub fn single(&self) -> Option<RangeSpec> {
        match self.0[..] {
            [spec] => Some(spec),
            _ => None,
        }
    }

    /// Whether it is one range without an end.
    pub fn is_open_ended(&self) -> bool {
        matches!(self.single(), Some(RangeSpec::From { .. }))
    }

    /// What it means for content of `size` bytes.
    pub fn resolve(&self, size: u64) -> Resolved {
        let asks_for_bytes = |spec: &RangeSpec| matches!(spec, RangeSpec::Suffix { len: 1.. });
        if size == 0 && self.0.iter().any(asks_for_bytes) {
            // The last bytes of nothing: satisfiable, yet no Content-Range can say so.
            return Resolved::Whole;
        }
        let spans: Vec<ByteSpan> = self.0.iter().filter_map(|spec| spec.span(size)).collect();
        // No more than RANGES_MAX numbers of 64 bits: the sum fits.
        let total: u128 = spans.iter().map(|span| u128::from(span.len())).sum();
        if spans.is_empty() {
            Resolved::Unsatisfiable
        } else if total > u128::from(size) {
            // They overlap. RFC 9110 section 14.2 allows to refuse such games.
            Resolved::Whole
        } else {
            Resolved::Satisfiable(spans)
        }
    }
}

const SPACE: [char; 2] = [' ', '\t'];

impl RangeSpec {
    fn parse(spec: &str) -> Option<Self> {
        match spec.split_once('-')? {
            ("", len) => Some(Self::Suffix { len: number(len)? }),
            (first, "") => Some(Self::From { first: number(first)? }),
            (first, last) => {
                // As written, not as numbers: both may be too large.
                if less(last, first) {
                    return None;
                }
                Some(Self::FromTo { first: number(first)?, last: number(last)? })
            }
        }
    }

    /// The part of content of `size` bytes; nothing if it has no byte there.
    fn span(self, size: u64) -> Option<ByteSpan> {
        let (start, end_exclusive) = match self {
            Self::FromTo { first, last } => (first, last.saturating_add(1).min(size)),
            Self::From { first } => (first, size),
            Self::Suffix { len } => (size.saturating_sub(len), size),
        };
        (start < end_exclusive).then_some(ByteSpan { start, end_exclusive })
    }
}

/// Reads a number, the largest one if it is larger.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

fn less(left: &str, right: &str) -> bool {
    let left = left.trim_start_matches('0');
    let right = right.trim_start_matches('0');
    (left.len(), left) < (right.len(), right)
}

impl ByteSpan {
    /// How many bytes.
    pub const fn len(&self) -> u64 {
        self.end_exclusive.saturating_sub(self.start)
    }

    /// Whether it has no byte.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for ByteRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, spec) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "bytes=" } else { "," })?;
            spec.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for RangeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromTo { first, last } => write!(f, "{first}-{last}"),
            Self::From { first } => write!(f, "{first}-"),
            Self::Suffix { len } => write!(f, "-{len}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolve(value: &str, size: u64) -> Resolved {
        ByteRanges::parse(value).unwrap().resolve(size)
    }

    fn parts<const N: usize>(spans: [(u64, u64); N]) -> Resolved {
        let span = |(start, end_exclusive)| ByteSpan { start, end_exclusive };
        Resolved::Satisfiable(spans.into_iter().map(span).collect())
    }

    #[test]
    fn single_ranges() {
        assert_eq!(resolve("bytes=0-0", 10), parts([(0, 1)]));
        assert_eq!(resolve("bytes=0-1", 10), parts([(0, 2)]));
        assert_eq!(resolve("Bytes = 2-5 ", 10), parts([(2, 6)]));
        assert_eq!(resolve("bytes=5-", 10), parts([(5, 10)]));
        assert_eq!(resolve("bytes=5-100", 10), parts([(5, 10)]));
        assert_eq!(resolve("bytes=-3", 10), parts([(7, 10)]));
        assert_eq!(resolve("bytes=-30", 10), parts([(0, 10)]));
        assert_eq!(resolve("bytes=0-18446744073709551615", 10), parts([(0, 10)]));
        assert_eq!(resolve("bytes=0-99999999999999999999999", 10), parts([(0, 10)]));
        assert_eq!(resolve("bytes=0-", u64::MAX), parts([(0, u64::MAX)]));
    }

    #[test]
    fn unsatisfiable() {
        for value in ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(resolve(value, 10), Resolved::Unsatisfiable, "{value}");
        }
        assert_eq!(resolve("bytes=0-", 0), Resolved::Unsatisfiable);
        assert_eq!(resolve("bytes=-0", 0), Resolved::Unsatisfiable);
        assert_eq!(resolve("bytes=-5", 0), Resolved::Whole);
        assert_eq!(resolve("bytes=18446744073709551615-", u64::MAX), Resolved::Unsatisfiable);
    }

    #[test]
    fn malformed() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-2",
            "bytes=99999999999999999999998-99999999999999999999997",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=0x1-2",
            "bytes=1 - 2",
            "bytes=--1",
            "bytes=0-1,x",
            "items=0-1",
            "0-1",
        ] {
            assert_eq!(ByteRanges::parse(value), None, "{value}");
        }
    }

    #[test]
    fn several_ranges() {
        assert_eq!(resolve("bytes=0-1, 4-5,,-2", 10), parts([(0, 2), (4, 6), (8, 10)]));
        assert_eq!(resolve("bytes=4-5,0-1,20-30", 10), parts([(4, 6), (0, 2)]));
        assert_eq!(resolve("bytes=0-9,0-0", 10), Resolved::Whole);
        assert_eq!(resolve("bytes=0-,0-,0-", u64::MAX), Resolved::Whole);
        let many = |n| format!("bytes={}", vec!["0-0"; n].join(","));
        assert!(ByteRanges::parse(&many(RANGES_MAX)).is_some());
        assert!(ByteRanges::parse(&many(RANGES_MAX + 1)).is_none());
    }

    #[test]
    fn forms_are_told_apart() {
        let ranges = |value| ByteRanges::parse(value).unwrap();
        assert!(ranges("bytes=5-").is_open_ended());
        assert!(!ranges("bytes=5-9").is_open_ended());
        assert!(!ranges("bytes=-9").is_open_ended());
        assert!(!ranges("bytes=5-,6-").is_open_ended());
        assert_eq!(ranges("bytes=-9").single(), Some(RangeSpec::Suffix { len: 9 }));
        assert_eq!(ranges("bytes=0-1,-9").single(), None);
        assert_eq!(ranges("bytes=0-1,-9").specs().len(), 2);
    }

    fn any_spec() -> impl Strategy<Value = RangeSpec> {
        let number = || prop_oneof![0..20u64, any::<u64>(), Just(u64::MAX)];
        prop_oneof![
            (number(), number())
                .prop_map(|(a, b)| RangeSpec::FromTo { first: a.min(b), last: a.max(b) }),
            number().prop_map(|first| RangeSpec::From { first }),
            number().prop_map(|len| RangeSpec::Suffix { len }),
        ]
    }

    proptest! {
        #[test]
        fn display_parses_back(specs in prop::collection::vec(any_spec(), 1..5)) {
            let ranges = ByteRanges(specs);
            prop_assert_eq!(ByteRanges::parse(&ranges.to_string()), Some(ranges));
        }

        #[test]
        fn parts_lie_inside(
            specs in prop::collection::vec(any_spec(), 1..5),
            size in prop_oneof![0..30u64, any::<u64>()],
        ) {
            if let Resolved::Satisfiable(spans) = ByteRanges(specs).resolve(size) {
                prop_assert!(!spans.is_empty());
                prop_assert!(spans.iter().all(|s| s.start < s.end_exclusive && s.end_exclusive <= size));
                prop_assert!(spans.iter().map(|s| u128::from(s.len())).sum::<u128>() <= size.into());
            }
        }

        #[test]
        fn never_panics(value in "bytes=[0-9, -]{0,60}|\\PC*", size in any::<u64>()) {
            if let Some(ranges) = ByteRanges::parse(&value) {
                ranges.resolve(size);
                prop_assert_eq!(ByteRanges::parse(&ranges.to_string()), Some(ranges));
            }
        }
    }
}
