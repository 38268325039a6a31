//! Points in time as the API writes them: RFC 3339 in UTC, to the millisecond.

use std::time::{Duration, UNIX_EPOCH};

use crate::clock::Timestamp;

/// The last moment that RFC 3339 can write, in milliseconds since the Unix epoch.
const LAST_MS: u64 = 253_402_300_799_999;

pub(super) fn rfc3339(at: Timestamp) -> String {
    let since = Duration::from_millis(at.unix_ms().min(LAST_MS));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_can_be_written() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (784_111_777_001, "1994-11-06T08:49:37.001Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(Timestamp::from_unix_ms(ms)), text);
        }
    }
}
