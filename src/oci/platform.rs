//! Platforms: what an entry of an index runs on.
//!
//! Source: OCI image-spec, `image-index.md`, property `platform`.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// The longest part of a platform, in bytes.
pub const PLATFORM_PART_BYTES_MAX: usize = 64;

/// An operating system, a CPU architecture, and which version of that: `linux/arm/v7`.
///
/// The JSON object may have more fields, such as `os.version`; they are not kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Platform {
    architecture: String,
    os: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

/// Why a text is not a platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a platform is os/architecture or os/architecture/variant, each of 1 to \
     {PLATFORM_PART_BYTES_MAX} letters, digits, '.', '_' or '-'"
)]
pub struct PlatformError;

impl Platform {
    /// A platform of these parts. An empty variant counts as none.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Result<Self, PlatformError> {
        let variant = variant.filter(|variant| !variant.is_empty());
        if !is_part(os) || !is_part(architecture) || !variant.is_none_or(is_part) {
            return Err(PlatformError);
        }
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }

    /// The operating system: `linux`.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The CPU architecture in Go's words: `amd64`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Which version of the architecture, where it has several: `v8`.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }
}

fn is_part(part: &str) -> bool {
    (1..=PLATFORM_PART_BYTES_MAX).contains(&part.len())
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let (os, rest) = text.split_once('/').ok_or(PlatformError)?;
        match rest.split_once('/') {
            Some((_, "")) => Err(PlatformError),
            Some((architecture, variant)) => Self::new(os, architecture, Some(variant)),
            None => Self::new(os, rest, None),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// A platform object as it may stand in a descriptor, parts missing or odd: those of signatures
/// and attestations often say nothing.
#[derive(Deserialize)]
pub(super) struct LooseObject {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

impl LooseObject {
    /// The platform, if the object has what makes one.
    pub(super) fn platform(&self) -> Result<Platform, PlatformError> {
        let os = self.os.as_deref().unwrap_or_default();
        let architecture = self.architecture.as_deref().unwrap_or_default();
        Platform::new(os, architecture, self.variant.as_deref())
    }
}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        LooseObject::deserialize(deserializer)?.platform().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn examples() {
        for text in ["linux/amd64", "linux/arm/v7", "windows/amd64", "unknown/unknown"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v7/x", "a b/c"] {
            assert_eq!(text.parse::<Platform>(), Err(PlatformError), "{text:?}");
        }
        let long = "a".repeat(PLATFORM_PART_BYTES_MAX + 1);
        assert_eq!(format!("{long}/b").parse::<Platform>(), Err(PlatformError));
    }

    #[test]
    fn json_may_have_more_fields() {
        let json = r#"{"architecture":"amd64","os":"windows","os.version":"10.0.17763.1",
            "os.features":["win32k"],"variant":""}"#;
        let platform: Platform = serde_json::from_str(json).unwrap();
        assert_eq!(platform, Platform::new("windows", "amd64", None).unwrap());
        assert_eq!(
            serde_json::to_string(&platform).unwrap(),
            r#"{"architecture":"amd64","os":"windows"}"#
        );
        assert!(serde_json::from_str::<Platform>(r#"{"os":"linux"}"#).is_err());
    }

    proptest! {
        #[test]
        fn display_parses_back(text in "[a-zA-Z0-9._-]{1,9}/[a-z0-9._-]{1,9}(/[a-z0-9._-]{1,9})?") {
            let platform: Platform = text.parse().unwrap();
            prop_assert_eq!(platform.to_string(), text);
            let json = serde_json::to_vec(&platform).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Platform>(&json).unwrap(), platform);
        }

        #[test]
        fn never_panics(text in "\\PC*") {
            if let Ok(platform) = text.parse::<Platform>() {
                prop_assert_eq!(platform.to_string(), text);
            }
        }
    }
}
