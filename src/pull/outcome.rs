//! What the cache did, as an enum: the log field, the metric label and the `Cache-Status` header
//! share its words.

/// The cache's part in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Served from what is stored, upstream not asked.
    Hit,
    /// Joined a fill that was running.
    Follow,
    /// Upstream had to be asked for the content.
    Miss(MissReason),
    /// A tag's time was up; upstream was asked by HEAD and the cached manifest is still right.
    Revalidated,
    /// A tag's time was up; served as it was known, while upstream is asked in the background.
    Revalidating,
    /// A tag that upstream is not asked about, because the operator said so.
    Pinned,
    /// Upstream could not be asked; a cached answer served with a warning.
    Stale(StaleReason),
    /// Passed on from upstream without being kept.
    Passed,
}

/// Why upstream had to be asked for content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MissReason {
    /// Never seen, or evicted.
    NotCached,
    /// The tag names something else now.
    TagMoved,
    /// The content is stored, but nothing proves yet that this repository has it.
    NotLinked,
}

/// Why an answer is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StaleReason {
    /// No connection, no answer in time, or an answer that broke off.
    Unreachable,
    /// Upstream answered with a server error or nonsense.
    UpstreamError,
    /// Upstream limits the rate, or our allowance there is used up.
    RateLimited,
    /// Upstream refuses access.
    Denied,
    /// Upstream does not have it any more.
    Gone,
}

impl StaleReason {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::Unreachable, Self::UpstreamError, Self::RateLimited, Self::Denied, Self::Gone];
}

impl Outcome {
    /// The kind, for the metric's `outcome` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Follow => "follow",
            Self::Miss(_) => "miss",
            Self::Revalidated => "revalidated",
            Self::Revalidating => "revalidating",
            Self::Pinned => "pinned",
            Self::Stale(_) => "stale",
            Self::Passed => "passed",
        }
    }

    /// The reason, for the metric's `reason` label; empty where there is none.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Hit
            | Self::Follow
            | Self::Revalidated
            | Self::Revalidating
            | Self::Pinned
            | Self::Passed => "",
            Self::Miss(MissReason::NotCached) => "not_cached",
            Self::Miss(MissReason::TagMoved) => "tag_moved",
            Self::Miss(MissReason::NotLinked) => "not_linked",
            Self::Stale(StaleReason::Unreachable) => "unreachable",
            Self::Stale(StaleReason::UpstreamError) => "upstream_error",
            Self::Stale(StaleReason::RateLimited) => "rate_limited",
            Self::Stale(StaleReason::Denied) => "denied",
            Self::Stale(StaleReason::Gone) => "gone",
        }
    }

    /// The value of the `Cache-Status` header (RFC 9211).
    pub const fn cache_status(self) -> &'static str {
        match self {
            Self::Hit => "pierhead; hit",
            Self::Follow => "pierhead; fwd=miss; collapsed",
            Self::Miss(MissReason::NotCached) => "pierhead; fwd=miss",
            Self::Miss(MissReason::TagMoved) => "pierhead; fwd=stale; detail=tag_moved",
            Self::Miss(MissReason::NotLinked) => "pierhead; fwd=request; detail=not_linked",
            Self::Revalidated => "pierhead; hit; detail=revalidated",
            Self::Revalidating => "pierhead; hit; detail=while_revalidate",
            Self::Pinned => "pierhead; hit; detail=pinned",
            Self::Stale(StaleReason::Unreachable) => "pierhead; hit; detail=stale_unreachable",
            Self::Stale(StaleReason::UpstreamError) => "pierhead; hit; detail=stale_upstream_error",
            Self::Stale(StaleReason::RateLimited) => "pierhead; hit; detail=stale_rate_limited",
            Self::Stale(StaleReason::Denied) => "pierhead; hit; detail=stale_denied",
            Self::Stale(StaleReason::Gone) => "pierhead; hit; detail=stale_gone",
            Self::Passed => "pierhead; fwd=bypass",
        }
    }
}
