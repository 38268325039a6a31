//! The `Content-Range` header: which part of a blob an answer has.
//!
//! Source: RFC 9110 section 14.4.

use std::fmt;

use super::ByteSpan;

/// A valid `Content-Range` header in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContentRange {
    /// `bytes first-last/size`, with a 206.
    Part {
        /// The part, not empty and inside the size.
        span: ByteSpan,
        /// The size of the whole, where the server knows.
        size: Option<u64>,
    },
    /// `bytes */size`, with a 416.
    Unsatisfied {
        /// The size of the whole.
        size: u64,
    },
}

impl ContentRange {
    /// Reads a `Content-Range` header. Nothing if it is malformed, in another unit than bytes, or
    /// contradicts itself.
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, rest) = value.trim_matches(SPACE).split_once(SPACE)?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (part, size) = rest.trim_matches(SPACE).split_once('/')?;
        let size = if size == "*" { None } else { Some(number(size)?) };
        if part == "*" {
            return size.map(|size| Self::Unsatisfied { size });
        }
        let (first, last) = part.split_once('-')?;
        let span = ByteSpan { start: number(first)?, end_exclusive: number(last)?.checked_add(1)? };
        if span.is_empty() || size.is_some_and(|size| size < span.end_exclusive) {
            return None;
        }
        Some(Self::Part { span, size })
    }

    /// The size of the whole, where it is known.
    pub const fn size(&self) -> Option<u64> {
        match self {
            Self::Part { size, .. } => *size,
            Self::Unsatisfied { size } => Some(*size),
        }
    }
}

const SPACE: [char; 2] = [' ', '\t'];

fn number(digits: &str) -> Option<u64> {
    let only_digits = digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| only_digits)
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part { span, size } => {
                write!(f, "bytes {}-{}/", span.start, span.end_exclusive.saturating_sub(1))?;
                match size {
                    Some(size) => size.fmt(f),
                    None => f.write_str("*"),
                }
            }
            Self::Unsatisfied { size } => write!(f, "bytes */{size}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(start: u64, end_exclusive: u64, size: Option<u64>) -> Option<ContentRange> {
        Some(ContentRange::Part { span: ByteSpan { start, end_exclusive }, size })
    }

    #[test]
    fn examples() {
        assert_eq!(ContentRange::parse("bytes 42-1233/1234"), part(42, 1234, Some(1234)));
        assert_eq!(ContentRange::parse("bytes 42-1233/*"), part(42, 1234, None));
        assert_eq!(ContentRange::parse("Bytes  0-0/1 "), part(0, 1, Some(1)));
        let unsatisfied = ContentRange::Unsatisfied { size: 1234 };
        assert_eq!(ContentRange::parse("bytes */1234"), Some(unsatisfied));
        assert_eq!(unsatisfied.size(), Some(1234));
    }

    #[test]
    fn malformed() {
        for value in [
            "",
            "bytes",
            "bytes */*",
            "bytes=0-1/2",
            "bytes 0-1",
            "bytes 0-1/",
            "bytes 5-2/10",
            "bytes 0-10/10",
            "bytes 0-18446744073709551615/*",
            "bytes 0-1/99999999999999999999",
            "bytes +0-1/2",
            "bytes -1/2",
            "bytes 0 - 1/2",
            "items 0-1/2",
        ] {
            assert_eq!(ContentRange::parse(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn display_parses_back(start in 0..u64::MAX, len in 1..u64::MAX, more in prop::option::of(0..9u64)) {
            let end_exclusive = start.saturating_add(len);
            let size = more.map(|more| end_exclusive.saturating_add(more));
            let range = part(start, end_exclusive, size).unwrap();
            prop_assert_eq!(ContentRange::parse(&range.to_string()), Some(range));
            let range = ContentRange::Unsatisfied { size: start };
            prop_assert_eq!(ContentRange::parse(&range.to_string()), Some(range));
        }

        #[test]
        fn never_panics(value in "bytes [0-9*/ -]{0,30}|\\PC*") {
            if let Some(range) = ContentRange::parse(&value) {
                prop_assert_eq!(ContentRange::parse(&range.to_string()), Some(range));
            }
        }
    }
}
