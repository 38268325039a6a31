//! What an upstream says about how often it may be asked.
//!
//! Sources: RFC 9110 section 10.2.3 (`Retry-After`); Docker's `ratelimit-limit: 100;w=21600` and
//! `ratelimit-remaining`, after draft-ietf-httpapi-ratelimit-headers.

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::clock::Timestamp;

/// The longest `Retry-After` that is believed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// What the upstream last said about our allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How many pulls there are in a window.
    pub limit: Option<u64>,
    /// How many are left.
    pub remaining: u64,
    /// How long a window is.
    pub window: Option<Duration>,
    /// When it said so.
    pub at: Timestamp,
}

impl RateLimit {
    /// What `headers` say, if anything: an image or account without limit has none.
    pub(super) fn parse(headers: &HeaderMap, now: Timestamp) -> Option<Self> {
        let field = |name| headers.get(name)?.to_str().ok();
        let (remaining, window) = quota(field("ratelimit-remaining")?)?;
        let limit = field("ratelimit-limit").and_then(quota);
        let window = window.or_else(|| limit.and_then(|(_, window)| window));
        Some(Self { limit: limit.map(|(limit, _)| limit), remaining, window, at: now })
    }
}

/// `100;w=21600`: a number, and perhaps a window in seconds.
fn quota(text: &str) -> Option<(u64, Option<Duration>)> {
    let mut parts = text.split(';');
    let number = parts.next()?.trim().parse().ok()?;
    let window = parts
        .filter_map(|part| part.trim().strip_prefix("w="))
        .find_map(|seconds| seconds.parse().ok())
        .map(Duration::from_secs);
    Some((number, window))
}

/// How long to stay away: `Retry-After` in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let after = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
            let ms = u64::try_from(date.as_millis()).ok()?;
            Timestamp::from_unix_ms(ms).since(now)
        }
    };
    Some(after.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_ms(784_111_777_000); // 1994-11-06 08:49:37

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn retry_after_has_two_forms() {
        for (text, expected) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:40:37 GMT", Some(0)),
            ("99999999999", Some(86400)),
            ("-1", None),
            ("soon", None),
        ] {
            let after = retry_after(&headers(&[("retry-after", text)]), NOW);
            assert_eq!(after, expected.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), NOW), None);
    }

    #[test]
    fn docker_hub_says_what_is_left() {
        let said =
            headers(&[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "98;w=21600")]);
        let expected = RateLimit {
            limit: Some(100),
            remaining: 98,
            window: Some(Duration::from_secs(21600)),
            at: NOW,
        };
        assert_eq!(RateLimit::parse(&said, NOW), Some(expected));
        assert_eq!(RateLimit::parse(&HeaderMap::new(), NOW), None);
        assert_eq!(RateLimit::parse(&headers(&[("ratelimit-remaining", "x")]), NOW), None);
    }
}
