//! What an upstream says about how often it may be asked.
//!
//! Sources: RFC 9110 section 10.2.3 (`Retry-After`); Docker's `ratelimit-limit: 100;w=21600` and
//! `ratelimit-remaining`; draft-ietf-httpapi-ratelimit-headers, which had `ratelimit-reset` beside
//! these (to -06), then one field `RateLimit: limit=100, remaining=50, reset=5` (-07), then
//! `RateLimit: "name";r=50;t=5` with `RateLimit-Policy: "name";q=100;w=60` (from -08 on).

use std::time::{Duration, UNIX_EPOCH};

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::clock::Timestamp;

/// The longest `Retry-After`, window or reset that is believed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// A `ratelimit-reset` from here on (three years) is a point in time, which some servers send in
/// place of a number of seconds.
const RESET_IS_TIME: u64 = 100_000_000;

/// What the upstream last said about our allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// How many pulls there are in a window.
    pub limit: Option<u64>,
    /// How many are left.
    pub remaining: u64,
    /// How long a window is.
    pub window: Option<Duration>,
    /// How long it was, at `at`, until there is a new allowance.
    pub reset: Option<Duration>,
    /// When it said so.
    pub at: Timestamp,
    /// How long until none is left, if pulls go on as they did in the last hour. Nothing if they
    /// would last for ever.
    pub exhausted_in: Option<Duration>,
    /// How long until there is a new allowance, at the latest. Nothing if there is one by now.
    pub restored_in: Option<Duration>,
}

impl RateLimit {
    /// What `headers` say, if anything: an image or account without limit has none.
    pub(super) fn parse(headers: &HeaderMap, now: Timestamp) -> Option<Self> {
        let field = |name| Some(Quota::parse(headers.get(name)?.to_str().ok()?));
        let policy = field("ratelimit-policy").unwrap_or_default();
        let said = match field("ratelimit-remaining") {
            Some(remaining) => {
                let limit = field("ratelimit-limit").unwrap_or_default();
                Quota {
                    limit: limit.number,
                    remaining: Some(remaining.number?),
                    window: remaining.window.or(limit.window),
                    reset: field("ratelimit-reset").and_then(|reset| reset.number),
                    number: None,
                }
            }
            None => field("ratelimit")?,
        };
        let reset = said.reset.map(|seconds| match seconds {
            RESET_IS_TIME.. => Timestamp::from_unix_ms(seconds.saturating_mul(1000)).since(now),
            _ => Duration::from_secs(seconds),
        });
        let window = said.window.or(policy.window).map(Duration::from_secs);
        Some(Self {
            limit: said.limit.or(policy.limit).or(policy.number),
            remaining: said.remaining?,
            window: window.map(|window| window.min(RETRY_AFTER_MAX)),
            reset: reset.map(|reset| reset.min(RETRY_AFTER_MAX)),
            at: now,
            exhausted_in: None,
            restored_in: None,
        })
    }
}

/// The numbers in one of these fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Quota {
    /// One that stands alone.
    number: Option<u64>,
    limit: Option<u64>,
    remaining: Option<u64>,
    /// In seconds.
    window: Option<u64>,
    /// In seconds.
    reset: Option<u64>,
}

impl Quota {
    /// All the numbers. Of several policies, which are told apart by `r=`, the tightest.
    fn parse(text: &str) -> Self {
        let mut whole = Self::default();
        let mut tightest: Option<Self> = None;
        for item in text.split(',') {
            let mut one = Self::default();
            let mut is_policy = false;
            for part in item.split(';').map(str::trim) {
                let (key, value) = part.split_once('=').unwrap_or(("", part));
                let Ok(value) = value.trim().parse() else { continue };
                let place = match key.trim() {
                    "" => &mut one.number,
                    "limit" | "q" => &mut one.limit,
                    "remaining" => &mut one.remaining,
                    "r" => {
                        is_policy = true;
                        &mut one.remaining
                    }
                    "reset" | "t" => &mut one.reset,
                    "w" => &mut one.window,
                    _ => continue,
                };
                place.get_or_insert(value);
            }
            if is_policy && tightest.is_none_or(|tightest| one.remaining < tightest.remaining) {
                tightest = Some(one);
            }
            whole.number = whole.number.or(one.number);
            whole.limit = whole.limit.or(one.limit);
            whole.remaining = whole.remaining.or(one.remaining);
            whole.window = whole.window.or(one.window);
            whole.reset = whole.reset.or(one.reset);
        }
        tightest.unwrap_or(whole)
    }
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
            ("99999999999999999999999", None),
            ("-1", None),
            ("soon", None),
        ] {
            let after = retry_after(&headers(&[("retry-after", text)]), NOW);
            assert_eq!(after, expected.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), NOW), None);
    }

    fn said(
        limit: Option<u64>,
        remaining: u64,
        window: Option<u64>,
        reset: Option<u64>,
    ) -> Option<RateLimit> {
        let (window, reset) = (window.map(Duration::from_secs), reset.map(Duration::from_secs));
        let (exhausted_in, restored_in) = (None, None);
        Some(RateLimit { limit, remaining, window, reset, at: NOW, exhausted_in, restored_in })
    }

    #[test]
    fn docker_hub_says_what_is_left() {
        let fields =
            headers(&[("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "98;w=21600")]);
        assert_eq!(RateLimit::parse(&fields, NOW), said(Some(100), 98, Some(21600), None));
        assert_eq!(RateLimit::parse(&HeaderMap::new(), NOW), None);
        for bad in ["x", "", "-1", ";w=3"] {
            let fields = headers(&[("ratelimit-remaining", bad)]);
            assert_eq!(RateLimit::parse(&fields, NOW), None, "{bad}");
        }
    }

    #[test]
    fn the_drafts_say_it_in_three_ways() {
        for (fields, expected) in [
            (
                &[
                    ("ratelimit-limit", "100, 100;w=60, 1000;w=3600"),
                    ("ratelimit-remaining", "50"),
                    ("ratelimit-reset", "30"),
                ][..],
                said(Some(100), 50, Some(60), Some(30)),
            ),
            (
                &[("ratelimit-remaining", "0"), ("ratelimit-reset", "784111837")],
                said(None, 0, None, Some(60)),
            ),
            (
                &[
                    ("ratelimit", "limit=100, remaining=50, reset=5"),
                    ("ratelimit-policy", "100;w=60"),
                ],
                said(Some(100), 50, Some(60), Some(5)),
            ),
            (
                &[
                    ("ratelimit", r#""day";r=500;t=3600, "burst";r=3;t=9"#),
                    ("ratelimit-policy", r#""burst";q=10;w=10"#),
                ],
                said(Some(10), 3, Some(10), Some(9)),
            ),
            (&[("ratelimit", r#""day";t=3600"#)], None),
            (
                &[("ratelimit", "remaining=0, reset=99999999")],
                said(None, 0, None, Some(RETRY_AFTER_MAX.as_secs())),
            ),
        ] {
            assert_eq!(RateLimit::parse(&headers(fields), NOW), expected, "{fields:?}");
        }
    }
}
