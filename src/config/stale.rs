//! `stale` of an upstream: how old its tags may be.

use toml::de::DeValue;

use super::defaults;
use super::table::table;
use super::values::{List, Period, Refusal, Text, Value, read_text};
use crate::pull::pattern::TagPattern;
use crate::pull::settings::{Lifetime, StalePolicy};

table! {
    /// `upstream."NAME".stale`
    StaleTable {
        on_error: Lasting,
        on_401: Lasting,
        on_429: Lasting,
        on_404: Lasting,
        while_revalidate: Period,
        pinned: List<Pinned>,
    }
}

/// A duration, or `"forever"`, or `"never"`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lasting(Lifetime);

impl Text for Lasting {
    const EXPECTED: &'static str = "a duration such as \"7d\", or \"forever\", or \"never\"";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "forever" => Ok(Self(Lifetime::Forever)),
            "never" => Ok(Self(Lifetime::NEVER)),
            _ => match Period::parse(text) {
                Ok(Period(duration)) => Ok(Self(Lifetime::For(duration))),
                Err(why) => Err(format!("{why}; or it is \"forever\" or \"never\"")),
            },
        }
    }
}

impl Value for Lasting {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        read_text(value)
    }
}

/// Tags that are not asked about.
#[derive(Clone, Debug)]
pub(super) struct Pinned(TagPattern);

impl Text for Pinned {
    const EXPECTED: &'static str = "a tag such as \"library/nginx:1.25\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|error: crate::pull::pattern::PatternError| error.to_string())
    }
}

impl Value for Pinned {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        read_text(value)
    }
}

/// The policy that follows from what was set. `prefix` is what the upstream's names of one
/// component get (`library` on docker.io).
pub(super) fn policy(
    set: Option<&StaleTable>,
    has_credentials: bool,
    prefix: Option<&str>,
) -> StalePolicy {
    let lasting = |key: fn(&StaleTable) -> Option<Lasting>, default: Lifetime| {
        set.and_then(key).map_or(default, |Lasting(lifetime)| lifetime)
    };
    let on_401 =
        if has_credentials { defaults::STALE_ON_401_WITH_CREDENTIALS } else { defaults::STALE };
    let pinned = set.and_then(|set| set.pinned.as_ref()).map_or(&[][..], |(list, _)| &list.0);
    StalePolicy {
        on_error: lasting(|set| set.on_error.as_ref().map(|at| at.0), defaults::STALE),
        on_401: lasting(|set| set.on_401.as_ref().map(|at| at.0), on_401),
        on_429: lasting(|set| set.on_429.as_ref().map(|at| at.0), defaults::STALE),
        on_404: lasting(|set| set.on_404.as_ref().map(|at| at.0), defaults::STALE),
        while_revalidate: set
            .and_then(|set| set.while_revalidate.as_ref())
            .map_or(defaults::STALE_WHILE_REVALIDATE, |(Period(duration), _)| *duration),
        pinned: pinned
            .iter()
            .map(|(Pinned(pattern), _)| match prefix {
                Some(prefix) => pattern.clone().below(prefix),
                None => pattern.clone(),
            })
            .collect(),
    }
}
