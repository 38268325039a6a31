//! The decisions about tags, as functions of what is known: no I/O, no clock of their own.

use std::time::Duration;

use super::error::PullError;
use super::outcome::StaleReason;
use crate::clock::Timestamp;
use crate::upstream::ErrorKind;

/// How long a tag is still served after upstream began to refuse the credentials that are
/// configured for it: whoever lost access must not keep it through the cache for long.
pub const STALE_AFTER_DENIAL_MAX: Duration = Duration::from_secs(3600);

/// Whether a tag that was confirmed at `confirmed_at` may be served without asking upstream. A
/// time in the future, after a step of the clock, is no confirmation.
pub fn is_fresh(confirmed_at: Timestamp, now: Timestamp, ttl: Duration) -> bool {
    confirmed_at <= now && now.since(confirmed_at) < ttl
}

/// What upstream's failure is called when a stale answer is served because of it.
pub fn stale_reason(error: &PullError) -> StaleReason {
    let kind = match error {
        PullError::ManifestUnknown => return StaleReason::Gone,
        PullError::TimedOut => return StaleReason::Unreachable,
        PullError::Upstream(error) => error.kind(),
        _ => return StaleReason::UpstreamError,
    };
    match kind {
        ErrorKind::NotFound => StaleReason::Gone,
        ErrorKind::Denied => StaleReason::Denied,
        ErrorKind::RateLimited => StaleReason::RateLimited,
        ErrorKind::Unreachable | ErrorKind::TimedOut | ErrorKind::Interrupted => {
            StaleReason::Unreachable
        }
        _ => StaleReason::UpstreamError,
    }
}

/// Whether a complete cached image may be served although upstream could not confirm its tag.
///
/// Any failure allows it, with one limit: where credentials are configured, a denial does so for
/// [`STALE_AFTER_DENIAL_MAX`] from the first one on, whatever other failures come after it.
pub fn may_serve_stale(
    has_credentials: bool,
    denied_since: Option<Timestamp>,
    now: Timestamp,
) -> bool {
    match denied_since {
        Some(since) if has_credentials => now.since(since) < STALE_AFTER_DENIAL_MAX,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_ms(seconds * 1000)
    }

    #[test]
    fn a_tag_is_fresh_for_its_ttl_only() {
        let ttl = Duration::from_secs(60);
        assert!(is_fresh(at(100), at(100), ttl));
        assert!(is_fresh(at(100), at(159), ttl));
        assert!(!is_fresh(at(100), at(160), ttl));
        assert!(!is_fresh(at(100), at(99), ttl), "the clock was set back");
        assert!(!is_fresh(at(100), at(100), Duration::ZERO));
    }

    #[test]
    fn lost_access_ends_after_an_hour_where_credentials_are_configured() {
        assert!(may_serve_stale(true, None, at(0)));
        assert!(may_serve_stale(true, Some(at(0)), at(3599)));
        assert!(!may_serve_stale(true, Some(at(0)), at(3600)));
        assert!(may_serve_stale(false, Some(at(0)), at(1_000_000)));
    }
}
