//! Times and amounts, as settings and images write them.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
const WEEK_MS: u64 = 7 * DAY_MS;

/// What a time can be written in, and milliseconds of one.
const TIME_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", SECOND_MS), ("m", MINUTE_MS), ("h", HOUR_MS), ("d", DAY_MS), ("w", WEEK_MS)];

/// What an amount can be written in, and bytes of one.
const BYTE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// A number with one of these units.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A number in the largest unit in which it is whole.
fn in_unit(f: &mut Formatter<'_>, number: u64, units: &[(&str, u64)]) -> fmt::Result {
    let whole = units.iter().filter(|(_, factor)| number.is_multiple_of(*factor));
    let (unit, factor) = whole.max_by_key(|(_, factor)| *factor).copied().unwrap_or(("", 1));
    write!(f, "{}{unit}", number / factor)
}

/// A length of time in settings: `"500ms"`, `"90s"`, `"12h"`, `"3d"`, `"2w"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(
    /// The time.
    pub Duration,
);

impl Span {
    /// The time in milliseconds.
    #[must_use]
    pub fn as_ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || D::Error::custom(format!("{text:?} is no time, such as 90s, 12h or 3d"));
        with_unit(&text, TIME_UNITS).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(wrong)
    }
}

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        in_unit(f, self.as_ms(), TIME_UNITS)
    }
}

/// An amount of bytes in settings: `"512MiB"`, `"2GB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(
    /// How many.
    pub u64,
);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || D::Error::custom(format!("{text:?} is no amount, such as 512MiB or 2GB"));
        with_unit(&text, BYTE_UNITS).map(Self).ok_or_else(wrong)
    }
}

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        in_unit(f, self.0, BYTE_UNITS)
    }
}

/// A number of this many digits at the beginning, and the rest.
fn digits(text: &str, count: usize) -> Option<(u64, &str)> {
    let (number, rest) = text.split_at_checked(count)?;
    let all = number.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| number.parse().ok()).flatten().map(|number| (number, rest))
}

/// Milliseconds since 1970 of a moment in RFC 3339, such as `2026-01-31T12:00:00.5+02:00`. What lies
/// before 1970 is 0. Parts of a millisecond are dropped.
#[must_use]
pub fn rfc3339(text: &str) -> Option<u64> {
    let (year, text) = digits(text, 4)?;
    let (month, text) = digits(text.strip_prefix('-')?, 2)?;
    let (day, text) = digits(text.strip_prefix('-')?, 2)?;
    let (hour, text) = digits(text.strip_prefix(['T', 't', ' '])?, 2)?;
    let (minute, text) = digits(text.strip_prefix(':')?, 2)?;
    let (second, mut text) = digits(text.strip_prefix(':')?, 2)?;
    if !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    let mut ms = 0;
    if let Some(rest) = text.strip_prefix('.') {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let (fraction, rest) = rest.split_at(end);
        let first: String = fraction.chars().chain("000".chars()).take(3).collect();
        ms = if fraction.is_empty() { return None } else { first.parse().ok()? };
        text = rest;
    }
    // Years begin in March, so that leap days are their ends.
    let (year, month) =
        if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    // 1970-01-01, counted like this.
    const EPOCH_DAYS: u64 = 719_468;
    let local = days * DAY_MS + hour * HOUR_MS + minute * MINUTE_MS + second * SECOND_MS + ms;
    let epoch = EPOCH_DAYS * DAY_MS;
    if text == "Z" || text == "z" {
        return Some(local.saturating_sub(epoch));
    }
    let (sign, text) = text.split_at_checked(1)?;
    let (hours, text) = digits(text, 2)?;
    let (minutes, text) = digits(text.strip_prefix(':')?, 2)?;
    let offset = hours * HOUR_MS + minutes * MINUTE_MS;
    match (sign, text) {
        ("+", "") => Some(local.saturating_sub(epoch + offset)),
        ("-", "") => Some((local + offset).saturating_sub(epoch)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
        serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
    }

    #[test]
    fn times_and_amounts_are_read_and_shown() {
        for text in ["500ms", "90s", "12h", "3d", "2w"] {
            assert_eq!(read::<Span>(text).expect(text).to_string(), text);
        }
        assert_eq!(read::<Span>("14d").expect("a time").to_string(), "2w");
        for text in ["512MiB", "2GB", "1B", "3TiB"] {
            assert_eq!(read::<Bytes>(text).expect(text).to_string(), text);
        }
        assert_eq!(read::<Bytes>("2 GiB"), Some(Bytes(2 << 30)));
        for text in ["", "3", "d", "-1d", "3 days", "99999999999999999999d", "99999999999999w"] {
            assert_eq!(read::<Span>(text), None, "{text}");
        }
    }

    #[test]
    fn a_moment_is_read() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("0001-01-01T00:00:00Z", Some(0)),
            ("2024-02-29T12:30:15Z", Some(1_709_209_815_000)),
            ("2024-02-29T12:30:15.123456789Z", Some(1_709_209_815_123)),
            ("2024-02-29T12:30:15.5Z", Some(1_709_209_815_500)),
            ("2024-02-29T14:30:15+02:00", Some(1_709_209_815_000)),
            ("2024-02-29T11:00:15-01:30", Some(1_709_209_815_000)),
            ("2026-01-01T00:00:00Z", Some(1_767_225_600_000)),
            ("2024-02-29", None),
            ("2024-02-29T12:30:15", None),
            ("2024-13-29T12:30:15Z", None),
            ("2024-02-29T12:30:15.Z", None),
            ("2024-02-29T12:30:15.5", None),
            ("2024-02-29T12:30:15+2", None),
            ("2024-02-29T12:30:15Zx", None),
            ("yesterday", None),
            ("äöü", None),
        ] {
            assert_eq!(rfc3339(text), expected, "{text}");
        }
    }
}
