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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn upstream_names() {
        for text in
            ["docker.io", "localhost:5000", "registry_1", "10.0.0.1:443", "a-b.c", "x:65535"]
        {
            assert_eq!(text.parse::<UpstreamName>().map(|n| n.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "Docker.io",
            "-a.b",
            "a-.b",
            "a/b",
            "a b",
            "a:",
            ":5000",
            "a:x",
            "a:00",
            "a:080",
            "a:+80",
            "a:65536",
            "a:b:1",
            "[::1]:5000",
            "a@b",
            "\u{e4}.io",
            "a\0",
        ] {
            assert_eq!(text.parse::<UpstreamName>(), Err(UpstreamNameError), "{text:?}");
        }
        assert!("a".repeat(UPSTREAM_NAME_BYTES_MAX).parse::<UpstreamName>().is_ok());
        assert!("a".repeat(UPSTREAM_NAME_BYTES_MAX + 1).parse::<UpstreamName>().is_err());
    }

    #[test]
    fn a_scope_reads_as_an_image_without_its_tag() {
        let scope =
            Scope { upstream: "docker.io".parse().unwrap(), repo: "library/a".parse().unwrap() };
        assert_eq!(scope.to_string(), "docker.io/library/a");
    }

    proptest! {
        #[test]
        fn display_parses_back(text in "[a-z0-9_]{1,9}(\\.[a-z0-9_]{1,9}){0,3}(:[1-9][0-9]{0,3})?") {
            let name: UpstreamName = text.parse().unwrap();
            prop_assert_eq!(name.to_string(), text);
        }

        #[test]
        fn never_panics(text in "[a-b.:0-9-]{0,9}|\\PC*") {
            if let Ok(name) = text.parse::<UpstreamName>() {
                prop_assert_eq!(name.as_str(), text);
            }
        }
    }
}
