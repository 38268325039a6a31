//! The decisions about tags, as functions of what is known: no I/O, no clock of their own.
//!
//! `docs/staleness.md` has them as a table, whose rows are the [`Row`]s.

use std::time::Duration;

use super::error::PullError;
use super::outcome::StaleReason;
use super::settings::{Lifetime, TagSettings};
use crate::clock::Timestamp;
use crate::upstream::ErrorKind;

/// A row of the table: what decides about an answer for a tag that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Row {
    /// It was confirmed within `tag_ttl`.
    Fresh,
    /// The operator has pinned it.
    Pinned,
    /// Its `tag_ttl` has run out a short while ago, and upstream is asked in the background.
    WhileRevalidate,
    /// Upstream cannot be reached, fails, or answers nonsense.
    OnError,
    /// Upstream refuses access.
    On401,
    /// Upstream limits the rate, or our allowance there is used up.
    On429,
    /// Upstream has it no more.
    On404,
    /// No image that it meant is complete here.
    Incomplete,
}

impl Row {
    /// Those that upstream is not needed for.
    pub const WITHOUT_ASKING: [Self; 3] = [Self::Fresh, Self::Pinned, Self::WhileRevalidate];

    /// Those that say for how long a failure of upstream is bridged.
    pub const FAILING: [Self; 4] = [Self::OnError, Self::On401, Self::On429, Self::On404];

    /// Its name in logs, metrics and answers to operators; never to be changed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Pinned => "pinned",
            Self::WhileRevalidate => "while_revalidate",
            Self::OnError => "on_error",
            Self::On401 => "on_401",
            Self::On429 => "on_429",
            Self::On404 => "on_404",
            Self::Incomplete => "incomplete",
        }
    }

    /// The key of an upstream's that says how long it lasts, if one does.
    pub const fn key(self) -> Option<&'static str> {
        match self {
            Self::Fresh => Some("tag_ttl"),
            Self::Pinned => Some("stale.pinned"),
            Self::WhileRevalidate => Some("stale.while_revalidate"),
            Self::OnError => Some("stale.on_error"),
            Self::On401 => Some("stale.on_401"),
            Self::On429 => Some("stale.on_429"),
            Self::On404 => Some("stale.on_404"),
            Self::Incomplete => None,
        }
    }
}

impl StaleReason {
    /// The row that this failure of upstream's leads to.
    pub const fn row(self) -> Row {
        match self {
            Self::Unreachable | Self::UpstreamError => Row::OnError,
            Self::RateLimited => Row::On429,
            Self::Denied => Row::On401,
            Self::Gone => Row::On404,
        }
    }
}

/// What becomes of a pull, and by which row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// What is known is served.
    Served(Row),
    /// Upstream's failure is the answer.
    Refused(Row),
}

/// How a pull of a known tag begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opening {
    /// What is known is served; upstream is not waited for.
    Serve(Row),
    /// The same, if an image that the tag meant is complete here; else upstream is asked.
    ServeIfComplete(Row),
    /// Upstream is asked.
    Ask,
}

/// What the decision about a tag depends on.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// What the operator says of the upstream's tags.
    pub settings: &'a TagSettings,
    /// Whether the operator has pinned the tag.
    pub is_pinned: bool,
    /// When upstream last said that the tag means this.
    pub confirmed_at: Timestamp,
    /// Since when upstream refuses the repository, if it does.
    pub denied_since: Option<Timestamp>,
    /// The time.
    pub now: Timestamp,
}

/// What is known of an upstream before it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prospect {
    /// Our allowance there is used up.
    pub is_exhausted: bool,
    /// The last question in the background about this tag had no answer.
    pub is_doubted: bool,
}

impl Known<'_> {
    /// For how much longer `row` serves the tag, completeness aside; `None` if it does not.
    ///
    /// Once access is lost for good, only a confirmation brings the tag back: a pull asks for one
    /// whatever the other rows say.
    pub fn left(&self, row: Row) -> Option<Lifetime> {
        let TagSettings { tag_ttl, stale, .. } = self.settings;
        let age = self.now.since(self.confirmed_at);
        let own = match row {
            // A time in the future, after a step of the clock, is no confirmation.
            Row::Fresh | Row::WhileRevalidate if self.confirmed_at > self.now => return None,
            Row::Fresh => return Lifetime::For(*tag_ttl).left(age),
            Row::Pinned if self.is_pinned => Some(Lifetime::Forever),
            Row::Pinned | Row::Incomplete => None,
            Row::WhileRevalidate if stale.while_revalidate.is_zero() => None,
            Row::WhileRevalidate => {
                Lifetime::For(tag_ttl.saturating_add(stale.while_revalidate)).left(age)
            }
            Row::OnError => stale.on_error.left(age),
            Row::On401 => Some(Lifetime::Forever),
            Row::On429 => stale.on_429.left(age),
            Row::On404 => stale.on_404.left(age),
        };
        let access = match (self.denied_since, row) {
            (Some(since), _) => stale.on_401.left(self.now.since(since)),
            (None, Row::On401) => stale.on_401.left(Duration::ZERO),
            (None, _) => Some(Lifetime::Forever),
        };
        Some(own?.min(access?))
    }

    /// Whether access was lost for longer than is bridged.
    pub fn has_lost_access(&self) -> bool {
        self.denied_since.is_some() && self.left(Row::On401).is_none()
    }

    /// What a pull does first.
    pub fn opening(&self, prospect: Prospect) -> Opening {
        let serves = |row| self.left(row).is_some();
        if let Some(row) = [Row::Fresh, Row::Pinned].into_iter().find(|row| serves(*row)) {
            return Opening::Serve(row);
        }
        // Nobody could be asked in the background either.
        if prospect.is_exhausted {
            return if serves(Row::On429) {
                Opening::ServeIfComplete(Row::On429)
            } else {
                Opening::Ask
            };
        }
        if !prospect.is_doubted && serves(Row::WhileRevalidate) {
            return Opening::Serve(Row::WhileRevalidate);
        }
        Opening::Ask
    }

    /// What a pull gets after upstream failed to confirm the tag.
    pub fn after_failure(&self, reason: StaleReason, is_complete: bool) -> Decision {
        let row = reason.row();
        if self.has_lost_access() {
            Decision::Refused(Row::On401)
        } else if self.left(row).is_none() {
            Decision::Refused(row)
        } else if is_complete {
            Decision::Served(row)
        } else {
            Decision::Refused(Row::Incomplete)
        }
    }
}

/// Whether what was confirmed at `confirmed_at` may be served without asking upstream. A time in
/// the future, after a step of the clock, is no confirmation.
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

#[cfg(test)]
mod tests;
