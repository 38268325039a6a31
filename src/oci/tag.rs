//! Tags.
//!
//! Source: OCI distribution-spec, section "Pulling manifests", `<reference>` as a tag.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 128;

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// Why a text is not a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tag has 1 to {TAG_BYTES_MAX} letters, digits, '.', '_' or '-', and starts with none of '.' \
     and '-'"
)]
pub struct TagError;

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let ok = match text.as_bytes() {
            [first, rest @ ..] => {
                text.len() <= TAG_BYTES_MAX
                    && word(*first)
                    && rest.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
            }
            [] => false,
        };
        if ok { Ok(Self(text.into())) } else { Err(TagError) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tags() {
        for text in ["latest", "1.0.0", "_", "A-b_c.D", "sha256-abc", "0"] {
            assert_eq!(text.parse::<Tag>().map(|tag| tag.to_string()), Ok(text.to_owned()));
        }
        for text in ["", ".a", "-a", "a/b", "a:b", "a b", "a+b", "\u{e4}", "a\n", ".."] {
            assert_eq!(text.parse::<Tag>(), Err(TagError), "{text:?}");
        }
        assert!("a".repeat(TAG_BYTES_MAX).parse::<Tag>().is_ok());
        assert!("a".repeat(TAG_BYTES_MAX + 1).parse::<Tag>().is_err());
    }

    proptest! {
        #[test]
        fn the_specification_s_tags_are_tags(text in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}") {
            let tag: Tag = text.parse().unwrap();
            prop_assert_eq!(tag.as_str(), text);
        }

        #[test]
        fn never_panics(text in "\\PC*") {
            if let Ok(tag) = text.parse::<Tag>() {
                prop_assert_eq!(tag.to_string(), text);
            }
        }
    }
}
