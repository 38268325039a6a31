//! What a plugin can be asked: one hook for each exported interface.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A hook. Its name is that of the interface that a plugin exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Who is it?
    Authenticator,
    /// What may they do?
    Authorizer,
    /// Is the request acceptable?
    RequestPolicy,
    /// Is the manifest acceptable?
    ManifestPolicy,
    /// What does a name mean?
    Resolver,
    /// Which credentials does an upstream want?
    UpstreamCredentials,
    /// What is in the image?
    Scanner,
    /// What is to be where?
    Replicator,
    /// What happened?
    Observer,
}

impl Hook {
    /// All of them, in the order in which a request meets them.
    pub const ALL: [Self; 9] = [
        Self::Authenticator,
        Self::Authorizer,
        Self::Resolver,
        Self::RequestPolicy,
        Self::ManifestPolicy,
        Self::UpstreamCredentials,
        Self::Scanner,
        Self::Replicator,
        Self::Observer,
    ];

    /// The interface's name in WIT, without package and version.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authenticator => "authenticator",
            Self::Authorizer => "authorizer",
            Self::RequestPolicy => "request-policy",
            Self::ManifestPolicy => "manifest-policy",
            Self::Resolver => "resolver",
            Self::UpstreamCredentials => "upstream-credentials",
            Self::Scanner => "scanner",
            Self::Replicator => "replicator",
            Self::Observer => "observer",
        }
    }

    /// Whether it is background work, which has an engine of its own so that it never takes a
    /// place that a request waits for.
    pub const fn is_batch(self) -> bool {
        matches!(self, Self::Scanner | Self::Replicator | Self::Observer)
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no hook of this name.
#[derive(Debug, thiserror::Error)]
#[error("there is no hook {0:?}; the hooks are {names}", names = Hook::ALL.map(Hook::name).join(", "))]
pub struct UnknownHook(String);

impl FromStr for Hook {
    type Err = UnknownHook;

    fn from_str(name: &str) -> Result<Self, UnknownHook> {
        Self::ALL
            .into_iter()
            .find(|hook| hook.name() == name)
            .ok_or_else(|| UnknownHook(name.chars().take(64).collect()))
    }
}

impl<'de> Deserialize<'de> for Hook {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for Hook {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
