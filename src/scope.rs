//! Whose content it is: an upstream, and a repository there.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::oci::RepoName;

/// The longest upstream name, in bytes: a host name of 253 and a port.
pub const UPSTREAM_NAME_BYTES_MAX: usize = 253 + 6;

/// The name that clients call an upstream by: a host, with a port where it is part of the name.
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName(Arc<str>);

/// Why a text is not the name of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an upstream's name is a host name in lower case, with a port if clients use one")]
pub struct UpstreamNameError;

impl UpstreamName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UpstreamName {
    type Err = UpstreamNameError;

    fn from_str(text: &str) -> Result<Self, UpstreamNameError> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|b| {
                    b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_')
                })
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let ok = text.len() <= UPSTREAM_NAME_BYTES_MAX
            && host.split('.').all(label)
            && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|p| p.to_string() == port));
        if ok { Ok(Self(text.into())) } else { Err(UpstreamNameError) }
    }
}

impl fmt::Display for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository of one upstream: the unit to which access to content is tied.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// Which upstream.
    pub upstream: UpstreamName,
    /// Which repository, in that upstream's own words (`library/` included).
    pub repo: RepoName,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.upstream, self.repo)
    }
}
