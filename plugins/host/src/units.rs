//! Times and sizes as operators write them: `5s`, `8MiB`.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A time: a whole number with `ms`, `s`, `m` or `h`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let ms = match unit {
        "ms" => number,
        "s" => number.checked_mul(1000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    Some(Duration::from_millis(ms))
}

/// A size in bytes: a whole number with `B`, `KiB`, `MiB` or `GiB`, or nothing for bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    match unit {
        "" | "B" => Some(number),
        "KiB" => number.checked_mul(1 << 10),
        "MiB" => number.checked_mul(1 << 20),
        "GiB" => number.checked_mul(1 << 30),
        _ => None,
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

/// A time for people.
pub(crate) fn duration(time: Duration) -> String {
    match time.as_millis() {
        ms if ms >= 1000 && ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

/// For `#[serde(with)]`: a time.
pub(crate) fn deserialize_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .ok_or_else(|| D::Error::custom(format!("{text:?} is not a time; write it like \"5s\"")))
}

/// For `#[serde(with)]`: a size.
pub(crate) fn deserialize_size<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_size(&text)
        .ok_or_else(|| D::Error::custom(format!("{text:?} is not a size; write it like \"8MiB\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        assert_eq!(parse_duration("5ms"), Some(Duration::from_millis(5)));
        assert_eq!(parse_duration("2 m"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h"), Some(Duration::from_secs(3600)));
        assert_eq!(parse_size("8MiB"), Some(8 << 20));
        assert_eq!(parse_size("17"), Some(17));
        for wrong in ["", "s", "-1s", "5", "1.5s", "18446744073709551615h"] {
            assert_eq!(parse_duration(wrong), None, "{wrong:?}");
        }
        for wrong in ["", "MiB", "8MB", "18446744073709551615GiB"] {
            assert_eq!(parse_size(wrong), None, "{wrong:?}");
        }
    }
}
