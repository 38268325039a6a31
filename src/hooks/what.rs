//! What is asked for, and what became of it.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::who::Context;
use crate::oci::{Digest, MediaType, Reference};
use crate::scope::Scope;

/// What the client wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Read a manifest or a blob.
    Pull,
    /// Write a manifest or a blob.
    Push,
    /// Remove something.
    Delete,
    /// List tags.
    ListTags,
    /// List the repositories.
    Catalog,
    /// List referrers.
    Referrers,
    /// Make a blob of another repository appear in this one.
    Mount,
    /// Change how the registry works.
    Admin,
}

/// Why a text is not an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an action is pull, push, delete, list-tags, catalog, referrers, mount or admin")]
pub struct ActionError;

impl Action {
    /// Every action.
    pub const ALL: [Self; 8] = [
        Self::Pull,
        Self::Push,
        Self::Delete,
        Self::ListTags,
        Self::Catalog,
        Self::Referrers,
        Self::Mount,
        Self::Admin,
    ];

    /// The word for it in configuration, scopes and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::ListTags => "list-tags",
            Self::Catalog => "catalog",
            Self::Referrers => "referrers",
            Self::Mount => "mount",
            Self::Admin => "admin",
        }
    }

    /// Whether it changes nothing.
    pub const fn is_read(self) -> bool {
        match self {
            Self::Pull | Self::ListTags | Self::Catalog | Self::Referrers => true,
            Self::Push | Self::Delete | Self::Mount | Self::Admin => false,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Action {
    type Err = ActionError;

    fn from_str(text: &str) -> Result<Self, ActionError> {
        Self::ALL.into_iter().find(|action| action.as_str() == text).ok_or(ActionError)
    }
}

/// What the client wants to do it to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// A manifest by tag or digest.
    Manifest(Reference),
    /// A blob.
    Blob(Digest),
    /// The repository's tags.
    Tags,
    /// The manifests that refer to this one.
    Referrers(Digest),
}

impl Object {
    /// The action that reading this object is.
    pub const fn action(&self) -> Action {
        match self {
            Self::Manifest(_) | Self::Blob(_) => Action::Pull,
            Self::Tags => Action::ListTags,
            Self::Referrers(_) => Action::Referrers,
        }
    }
}

/// An object in a repository of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where.
    pub scope: Scope,
    /// What.
    pub object: Object,
}

/// What somebody wants to do in one repository; of a token's request, or of a single one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedScope {
    /// The upstream's name, a slash and the repository there: `docker.io/library/debian`,
    /// whichever way the client wrote it. That is [`Scope`]'s own text.
    pub repository: String,
    /// What they want to do there.
    pub actions: Vec<Action>,
}

impl WantedScope {
    /// What a request for this target wants.
    pub fn of(target: &Target) -> Self {
        Self { repository: target.scope.to_string(), actions: vec![target.object.action()] }
    }
}

/// A manifest that is about to be served.
#[derive(Clone, Debug)]
pub struct AdmissionRequest {
    /// Where it was asked for, and by what.
    pub scope: Scope,
    /// The tag or digest that it was asked for by.
    pub reference: Reference,
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: MediaType,
    /// Its bytes, verified.
    pub bytes: Bytes,
    /// The bytes of the image's configuration, if they are at hand.
    pub config: Option<Bytes>,
}

/// What observers are told, once per request.
#[derive(Clone, Debug)]
pub struct Observation<'a> {
    /// The request.
    pub context: &'a Context,
    /// What it was about, where the route names an object.
    pub target: Option<&'a Target>,
    /// The status of the answer.
    pub status: u16,
    /// The cache's part in it, in the words of the metrics.
    pub outcome: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_words() {
        for action in Action::ALL {
            assert_eq!(action.to_string().parse(), Ok(action));
        }
        assert_eq!("PULL".parse::<Action>(), Err(ActionError));
    }

    #[test]
    fn a_target_is_wanted_by_its_whole_name() {
        let upstream = "docker.io".parse().unwrap();
        let scope = Scope { upstream, repo: "library/debian".parse().unwrap() };
        let wanted = WantedScope::of(&Target { scope, object: Object::Tags });
        assert_eq!(wanted.repository, "docker.io/library/debian");
        assert_eq!(wanted.actions, [Action::ListTags]);
    }
}
