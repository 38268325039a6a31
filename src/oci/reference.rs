//! What a manifest is asked for by: a tag or a digest.

use std::fmt;
use std::str::FromStr;

use super::{Digest, DigestError, Tag, TagError};

/// `<reference>` in `/v2/<name>/manifests/<reference>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A name that may come to mean something else.
    Tag(Tag),
    /// The content itself.
    Digest(Digest),
}

/// Why a text is neither a tag nor a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It has a colon, so it was meant as a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// It has no colon, so it was meant as a tag.
    #[error(transparent)]
    Tag(#[from] TagError),
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        // No tag has a colon, and every digest has one.
        if text.contains(':') {
            Ok(Self::Digest(text.parse()?))
        } else {
            Ok(Self::Tag(text.parse()?))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_colon_tells() {
        let digest = Digest::sha256(b"");
        assert_eq!(digest.to_string().parse(), Ok(Reference::Digest(digest)));
        assert_eq!("latest".parse(), Ok(Reference::Tag("latest".parse().unwrap())));
        let tag = digest.to_string().replace(':', "-");
        assert_eq!(tag.parse(), Ok(Reference::Tag(tag.parse().unwrap())));
        for (text, error) in [
            ("", ReferenceError::Tag(TagError)),
            ("a/b", ReferenceError::Tag(TagError)),
            ("latest:", ReferenceError::Digest(DigestError::UnsupportedAlgorithm)),
            ("sha256:abc", ReferenceError::Digest(DigestError::WrongLength)),
        ] {
            assert_eq!(text.parse::<Reference>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn display_parses_back(text in "(sha256:|sha512:)?[0-9a-f]{0,130}|\\PC*") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }
}
