//! Repository names.
//!
//! Source: OCI distribution-spec, section "Pulling manifests", `<name>`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest repository name, in bytes. Clients limit registry host and name together to 255;
/// the name alone can never be longer.
pub const NAME_BYTES_MAX: usize = 255;

/// A repository name: lower-case path components of letters and digits, joined by `.`, `_`, `__`
/// or dashes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoName(Arc<str>);

/// Why a text is not a repository name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("a repository name has at most {NAME_BYTES_MAX} characters")]
    TooLong,
    /// A component does not match `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
    #[error(
        "a repository name has lower-case letters and digits, joined by '.', '_', '__' or '-', \
         in components between '/'"
    )]
    Malformed,
}

impl RepoName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first path component and the rest, if there is more than one component.
    pub fn split_first(&self) -> Option<(&str, &str)> {
        self.0.split_once('/')
    }
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    // Between two alphanumeric runs stands one separator.
    bytes.split(|b| alphanumeric(*b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

impl FromStr for RepoName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong);
        }
        if !text.split('/').all(is_component) {
            return Err(NameError::Malformed);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names() {
        for text in [
            "a",
            "0",
            "library/redis",
            "a/b/c/d",
            "a--b",
            "a---b",
            "a.b",
            "a_b",
            "a__b",
            "a-b/c.d_e",
        ] {
            assert_eq!(text.parse::<RepoName>().map(|n| n.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn what_is_not_a_name() {
        for text in [
            "", "/", "/a", "a/", "a//b", "A", "a/B", "a..b", "a___b", "a._b", "a.-b", "a_-b", "-a",
            "a-", ".a", "a.", "_a", "a_", "a/../b", "..", ".", "a b", "a:b", "a@b", "a%2fb",
            "\u{e4}", "a\0", "a\n", "a\\b",
        ] {
            assert_eq!(text.parse::<RepoName>(), Err(NameError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn names_have_a_limit() {
        assert!("a".repeat(NAME_BYTES_MAX).parse::<RepoName>().is_ok());
        assert_eq!("a".repeat(NAME_BYTES_MAX + 1).parse::<RepoName>(), Err(NameError::TooLong));
    }

    #[test]
    fn the_first_component_splits_off() {
        let split = |text: &str| {
            let name: RepoName = text.parse().unwrap();
            name.split_first().map(|(first, rest)| (first.to_owned(), rest.to_owned()))
        };
        assert_eq!(split("a/b/c"), Some(("a".to_owned(), "b/c".to_owned())));
        assert_eq!(split("a"), None);
    }

    proptest! {
        #[test]
        fn the_specification_s_names_are_names(
            text in "[a-z0-9]{1,3}((\\.|_|__|-{1,3})[a-z0-9]{1,3}){0,3}(/[a-z0-9]{1,3}((\\.|_|__|-{1,3})[a-z0-9]{1,3}){0,3}){0,4}"
        ) {
            let name: RepoName = text.parse().unwrap();
            prop_assert_eq!(name.as_str(), text);
        }

        #[test]
        fn never_panics(text in "[a-b._/-]{0,9}|\\PC*") {
            if let Ok(name) = text.parse::<RepoName>() {
                prop_assert_eq!(name.to_string(), text.clone());
                prop_assert!(!text.contains("..") && !text.starts_with('/'));
            }
        }
    }
}
