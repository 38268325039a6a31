//! Tags by pattern: `library/nginx:1.25`, `team/*:v*`.

use std::fmt;
use std::str::FromStr;

use crate::oci::name::NAME_BYTES_MAX;
use crate::oci::tag::TAG_BYTES_MAX;
use crate::oci::{RepoName, Tag};

/// Tags of repositories. A `*` stands for any number of characters, `/` included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPattern {
    repo: String,
    tag: String,
}

/// Why a text is no pattern of tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It names no tag.
    #[error("a tag is written REPOSITORY:TAG, such as \"library/nginx:1.25\" or \"team/*:v*\"")]
    NoTag,
    /// The repository could not be one.
    #[error(
        "a repository is lower-case letters, digits, '.', '_', '-' and '/', without the \
         upstream's host; '*' stands for any number of characters"
    )]
    Repository,
    /// The tag could not be one.
    #[error(
        "a tag is letters, digits, '.', '_' and '-', at most 128 of them; '*' stands for any \
         number of characters"
    )]
    Tag,
}

impl TagPattern {
    /// Whether it means that tag.
    pub fn matches(&self, repo: &RepoName, tag: &Tag) -> bool {
        fits(self.repo.as_bytes(), repo.as_str().as_bytes())
            && fits(self.tag.as_bytes(), tag.as_str().as_bytes())
    }

    /// The pattern for an upstream whose names of one component get `prefix`: `nginx:1` is
    /// `library/nginx:1` on Docker Hub, for clients as well as here.
    #[must_use]
    pub fn below(mut self, prefix: &str) -> Self {
        if !self.repo.contains(['/', '*']) {
            self.repo = format!("{prefix}/{}", self.repo);
        }
        self
    }
}

impl FromStr for TagPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (repo, tag) = text.split_once(':').ok_or(PatternError::NoTag)?;
        let of_repo = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-/*".contains(&byte)
        };
        let of_tag = |byte: u8| byte.is_ascii_alphanumeric() || b"._-*".contains(&byte);
        if repo.is_empty() || repo.len() > NAME_BYTES_MAX || !repo.bytes().all(of_repo) {
            return Err(PatternError::Repository);
        }
        if tag.is_empty() || tag.len() > TAG_BYTES_MAX || !tag.bytes().all(of_tag) {
            return Err(PatternError::Tag);
        }
        Ok(Self { repo: repo.to_owned(), tag: tag.to_owned() })
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repo, self.tag)
    }
}

/// Whether `text` fits `pattern`, whose stars stand for anything. Where a star took too little, only
/// the last one takes more: an earlier one need not, so this ends after `pattern` times `text` steps.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(byte) if text.get(read) == Some(byte) => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                at = star_at + 1;
                read = taken + 1;
            }
        }
    }
    pattern.get(at..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, repo: &str, tag: &str) -> bool {
        let pattern: TagPattern = pattern.parse().unwrap();
        pattern.matches(&repo.parse().unwrap(), &tag.parse().unwrap())
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, repo, tag, fits) in [
            ("library/nginx:1.25", "library/nginx", "1.25", true),
            ("library/nginx:1.25", "library/nginx", "1.250", false),
            ("library/nginx:1.25", "library/nginx2", "1.25", false),
            ("team/*:v*", "team/a/b", "v1", true),
            ("team/*:v*", "team/a", "1", false),
            ("team/*:v*", "teams/a", "v1", false),
            ("*:*", "a", "b", true),
            ("*/app:*-rc*", "x/y/app", "1-rc-rc2", true),
            ("*/app:*-rc*2", "x/app", "1-rc-rc3", false),
            ("**a:**", "a", "t", true),
            ("a*a:t", "a", "t", false),
        ] {
            assert_eq!(matches(pattern, repo, tag), fits, "{pattern} {repo}:{tag}");
        }
    }

    #[test]
    fn what_could_never_fit_is_refused() {
        for (text, error) in [
            ("library/nginx", PatternError::NoTag),
            ("", PatternError::NoTag),
            (":1", PatternError::Repository),
            ("Library/a:1", PatternError::Repository),
            ("a:", PatternError::Tag),
            ("localhost:5000/a:1", PatternError::Tag),
            ("a:1 ", PatternError::Tag),
        ] {
            assert_eq!(text.parse::<TagPattern>(), Err(error), "{text}");
        }
        assert_eq!(format!("a:{}", "t".repeat(129)).parse::<TagPattern>(), Err(PatternError::Tag));
    }

    #[test]
    fn names_of_one_component_are_those_that_clients_mean() {
        let below = |text: &str| text.parse::<TagPattern>().unwrap().below("library").to_string();
        assert_eq!(below("nginx:1"), "library/nginx:1");
        assert_eq!(below("team/nginx:1"), "team/nginx:1");
        assert_eq!(below("*:1"), "*:1");
    }
}
