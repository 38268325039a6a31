//! Where a plugin comes from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::oci::{Digest, RepoName, Tag};
use crate::scope::UpstreamName;

/// Where a plugin comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file with WebAssembly in it.
    File(PathBuf),
    /// A policy in one text file, which a bundled plugin evaluates.
    Policy(PathBuf, Language),
    /// A plugin that is a part of the program.
    Builtin(String),
    /// An artifact in a registry.
    Oci(Artifact),
}

/// A language of policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Open Policy Agent's.
    Rego,
    /// Amazon's.
    Cedar,
}

impl Language {
    /// The bundled plugin that evaluates it, and the ending of its files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rego => "rego",
            Self::Cedar => "cedar",
        }
    }
}

/// An artifact in a registry. What a digest names cannot be changed by anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// The upstream that it comes from.
    pub upstream: UpstreamName,
    /// The repository there.
    pub repository: RepoName,
    /// The digest of its manifest.
    pub digest: Digest,
}

/// Why a text says of no plugin where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It has none of the known beginnings.
    #[error("a source is \"file:PATH\", \"builtin:NAME\" or \"oci:HOST/REPOSITORY@sha256:DIGEST\"")]
    Kind,
    /// There is nothing behind `file:`.
    #[error("a path stands behind `file:`, such as \"file:house-rules.wasm\"")]
    Path,
    /// The name is none.
    #[error("a bundled plugin's name is lower-case letters, digits and '-'")]
    Name,
    /// It is no name of an artifact.
    #[error("an artifact is written \"oci:HOST/REPOSITORY@sha256:DIGEST\"")]
    Artifact,
    /// The digest is missing.
    #[error(
        "the digest is missing: a tag can come to mean another plugin. \
         `pierhead plugin push` and `docker buildx imagetools inspect` show it; write \
         \"oci:HOST/REPOSITORY@sha256:DIGEST\""
    )]
    Digest,
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        let (kind, rest) = text.split_once(':').ok_or(SourceError::Kind)?;
        match kind {
            "file" if rest.is_empty() || rest.contains('\0') => Err(SourceError::Path),
            "file" => {
                let path = PathBuf::from(rest);
                let ending = path.extension().and_then(|ending| ending.to_str());
                Ok(match ending {
                    Some("rego") => Self::Policy(path, Language::Rego),
                    Some("cedar") => Self::Policy(path, Language::Cedar),
                    _ => Self::File(path),
                })
            }
            "builtin" => {
                let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
                if rest.is_empty() || !rest.bytes().all(fits) {
                    return Err(SourceError::Name);
                }
                Ok(Self::Builtin(rest.to_owned()))
            }
            "oci" => artifact(rest).map(Self::Oci),
            _ => Err(SourceError::Kind),
        }
    }
}

fn artifact(text: &str) -> Result<Artifact, SourceError> {
    let (host, rest) = text.split_once('/').ok_or(SourceError::Artifact)?;
    let upstream = host.parse().map_err(|_| SourceError::Artifact)?;
    let (name, digest) = rest.split_once('@').ok_or(SourceError::Digest)?;
    // A tag beside the digest is a note for people.
    let name = match name.split_once(':') {
        Some((name, tag)) => {
            tag.parse::<Tag>().map_err(|_| SourceError::Artifact)?;
            name
        }
        None => name,
    };
    let repository = name.parse().map_err(|_| SourceError::Artifact)?;
    let digest = digest.parse().map_err(|_| SourceError::Digest)?;
    Ok(Artifact { upstream, repository, digest })
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::Policy(path, _) => write!(f, "file:{}", path.display()),
            Self::Builtin(name) => write!(f, "builtin:{name}"),
            Self::Oci(Artifact { upstream, repository, digest }) => {
                write!(f, "oci:{upstream}/{repository}@{digest}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read() {
        let digest = Digest::sha256(b"x");
        let oci = format!("oci:ghcr.io/acme/rules@{digest}");
        for text in ["file:a.wasm", "file:/etc/x.rego", "builtin:house-rules", &oci] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), text);
        }
        let policy = Source::Policy("p.cedar".into(), Language::Cedar);
        assert_eq!("file:p.cedar".parse(), Ok(policy));
        let tagged = format!("oci:ghcr.io/acme/rules:v1@{digest}");
        assert_eq!(tagged.parse::<Source>().unwrap().to_string(), oci);
    }

    #[test]
    fn what_is_no_source_says_what_would_be_one() {
        let digest = Digest::sha256(b"x");
        for (text, error) in [
            ("rules.wasm", SourceError::Kind),
            ("https://x/y.wasm", SourceError::Kind),
            ("file:", SourceError::Path),
            ("builtin:", SourceError::Name),
            ("builtin:../x", SourceError::Name),
            ("oci:ghcr.io", SourceError::Artifact),
            ("oci:ghcr.io/acme/rules", SourceError::Digest),
            ("oci:ghcr.io/acme/rules:v1", SourceError::Digest),
            ("oci:ghcr.io/acme/rules@sha256:12", SourceError::Digest),
            (&format!("oci:ghcr.io/Acme@{digest}"), SourceError::Artifact),
            (&format!("oci:ghcr.io/acme:?@{digest}"), SourceError::Artifact),
        ] {
            assert_eq!(text.parse::<Source>(), Err(error), "{text}");
        }
    }
}
