//! Media types, and which of them are manifests.
//!
//! Source: RFC 6838 section 4.2 for the grammar; OCI image-spec, `media-types.md`, and docker's
//! `manifest-v2-2.md` for the well-known types.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest type or subtype name, in bytes (RFC 6838 section 4.2).
pub const RESTRICTED_NAME_BYTES_MAX: usize = 127;

/// The `Accept` header for manifests that Pierhead sends upstream, whatever the client asked for.
///
/// ghcr.io answers 404 to a manifest whose type was not asked for, and quay.io converts to
/// schema 1 when only docker's types are, so everything is asked for, schema 1 last.
pub const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.2, \
     application/vnd.docker.distribution.manifest.v1+json;q=0.2, \
     */*;q=0.1";

/// A media type: `type/subtype` without parameters, in the case it was written in. Cheap to clone.
#[derive(Clone)]
pub struct MediaType(Text);

// Constants borrow, all others share.
#[derive(Clone)]
enum Text {
    Static(&'static str),
    Shared(Arc<str>),
}

/// Why a text is not a media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a media type is type/subtype, each of 1 to {RESTRICTED_NAME_BYTES_MAX} letters, digits and \
     any of !#$&-^_.+, starting with a letter or digit"
)]
pub struct MediaTypeError;

/// What a manifest of some media type is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ManifestKind {
    /// One image or artifact: a config and layers.
    Image,
    /// A list of manifests.
    Index,
    /// Docker's schema 1: names its layers, without their sizes.
    Schema1,
    /// Any other type, known or not.
    Other,
}

impl MediaType {
    /// An OCI image index.
    pub const OCI_INDEX: Self = Self::known("application/vnd.oci.image.index.v1+json");
    /// An OCI image manifest, also that of artifacts.
    pub const OCI_MANIFEST: Self = Self::known("application/vnd.oci.image.manifest.v1+json");
    /// An OCI image configuration.
    pub const OCI_CONFIG: Self = Self::known("application/vnd.oci.image.config.v1+json");
    /// The two bytes `{}`, the config of artifacts that have none.
    pub const OCI_EMPTY: Self = Self::known("application/vnd.oci.empty.v1+json");
    /// Docker's manifest list.
    pub const DOCKER_MANIFEST_LIST: Self =
        Self::known("application/vnd.docker.distribution.manifest.list.v2+json");
    /// Docker's image manifest, version 2, schema 2.
    pub const DOCKER_MANIFEST: Self =
        Self::known("application/vnd.docker.distribution.manifest.v2+json");
    /// Docker's image manifest, schema 1, without signatures.
    pub const DOCKER_SCHEMA1: Self =
        Self::known("application/vnd.docker.distribution.manifest.v1+json");
    /// Docker's image manifest, schema 1, with signatures.
    pub const DOCKER_SCHEMA1_SIGNED: Self =
        Self::known("application/vnd.docker.distribution.manifest.v1+prettyjws");
    /// Docker's image configuration.
    pub const DOCKER_CONFIG: Self = Self::known("application/vnd.docker.container.image.v1+json");
    /// Bytes, nothing known about them. Blobs are served as this.
    pub const OCTET_STREAM: Self = Self::known("application/octet-stream");
    /// JSON of any kind.
    pub const JSON: Self = Self::known("application/json");

    const fn known(text: &'static str) -> Self {
        Self(Text::Static(text))
    }

    /// Reads a `Content-Type` header as servers really write it: parameters and surrounding white
    /// space are dropped, and the rest becomes lower-case.
    pub fn from_content_type(header: &str) -> Result<Self, MediaTypeError> {
        let essence = header.split(';').next().unwrap_or_default().trim();
        if essence.bytes().any(|b| b.is_ascii_uppercase()) {
            essence.to_ascii_lowercase().parse()
        } else {
            essence.parse()
        }
    }

    /// The media type as text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Static(text) => text,
            Text::Shared(text) => text,
        }
    }

    /// What a manifest of this type is made of. Media types are compared as clients do: exactly.
    pub fn kind(&self) -> ManifestKind {
        match self.as_str() {
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => ManifestKind::Image,
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => ManifestKind::Index,
            "application/vnd.docker.distribution.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v1+prettyjws" => ManifestKind::Schema1,
            _ => ManifestKind::Other,
        }
    }

    /// Whether it says nothing about the content, so that a manifest's own `mediaType` decides.
    /// registry.access.redhat.com labels manifests `text/plain`, object storage
    /// `binary/octet-stream`.
    pub fn is_generic(&self) -> bool {
        matches!(
            self.as_str(),
            "application/json"
                | "application/octet-stream"
                | "binary/octet-stream"
                | "text/html"
                | "text/plain"
        )
    }

    /// Whether it is a layer that registries need not have: clients may fetch it from the
    /// descriptor's `urls`.
    pub fn is_foreign_layer(&self) -> bool {
        matches!(
            self.as_str(),
            "application/vnd.docker.image.rootfs.foreign.diff.tar"
                | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        )
    }

    /// Whether both name the same type: RFC 6838 has names without regard to case.
    pub fn eq_ignore_case(&self, other: &Self) -> bool {
        self.as_str().eq_ignore_ascii_case(other.as_str())
    }
}

fn is_restricted_name(name: &str) -> bool {
    name.len() <= RESTRICTED_NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
}

impl FromStr for MediaType {
    type Err = MediaTypeError;

    fn from_str(text: &str) -> Result<Self, MediaTypeError> {
        let (kind, subtype) = text.split_once('/').ok_or(MediaTypeError)?;
        if is_restricted_name(kind) && is_restricted_name(subtype) {
            Ok(Self(Text::Shared(text.into())))
        } else {
            Err(MediaTypeError)
        }
    }
}

impl PartialEq for MediaType {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for MediaType {}

impl Hash for MediaType {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialOrd for MediaType {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MediaType {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn constants_are_media_types_of_the_right_kind() {
        for (constant, kind) in [
            (MediaType::OCI_INDEX, ManifestKind::Index),
            (MediaType::DOCKER_MANIFEST_LIST, ManifestKind::Index),
            (MediaType::OCI_MANIFEST, ManifestKind::Image),
            (MediaType::DOCKER_MANIFEST, ManifestKind::Image),
            (MediaType::DOCKER_SCHEMA1, ManifestKind::Schema1),
            (MediaType::DOCKER_SCHEMA1_SIGNED, ManifestKind::Schema1),
            (MediaType::OCI_CONFIG, ManifestKind::Other),
            (MediaType::OCI_EMPTY, ManifestKind::Other),
            (MediaType::DOCKER_CONFIG, ManifestKind::Other),
            (MediaType::OCTET_STREAM, ManifestKind::Other),
            (MediaType::JSON, ManifestKind::Other),
        ] {
            assert_eq!(constant.as_str().parse(), Ok(constant.clone()));
            assert_eq!(constant.kind(), kind, "{constant}");
            let asked_for = ACCEPT_MANIFESTS.contains(constant.as_str());
            assert_eq!(asked_for, kind != ManifestKind::Other, "{constant}");
        }
    }

    #[test]
    fn schema1_is_asked_for_last() {
        let preferred = |entry: &&str| !entry.contains(";q=");
        let entries: Vec<&str> = ACCEPT_MANIFESTS.split(", ").collect();
        assert_eq!(entries.len(), 7);
        assert_eq!(entries.iter().take_while(|entry| preferred(entry)).count(), 4);
        assert_eq!(entries.last(), Some(&"*/*;q=0.1"));
        assert!(!ACCEPT_MANIFESTS.contains("  "));
    }

    #[test]
    fn content_types_lose_parameters_and_case() {
        for header in [
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
            " Application/Vnd.OCI.image.manifest.v1+JSON ;q=1",
        ] {
            assert_eq!(MediaType::from_content_type(header), Ok(MediaType::OCI_MANIFEST));
        }
        for header in ["", ";", "text", "text/", "/plain", "*/*", "a/b/c", "text/pl ain"] {
            assert_eq!(MediaType::from_content_type(header), Err(MediaTypeError), "{header:?}");
        }
    }

    #[test]
    fn names_have_a_limit() {
        let long = "a".repeat(RESTRICTED_NAME_BYTES_MAX);
        assert!(format!("{long}/{long}").parse::<MediaType>().is_ok());
        assert!(format!("{long}a/b").parse::<MediaType>().is_err());
        assert!(format!("b/{long}a").parse::<MediaType>().is_err());
    }

    #[test]
    fn foreign_layers_are_known() {
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        assert!(foreign.parse::<MediaType>().is_ok_and(|t| t.is_foreign_layer()));
        assert!(!MediaType::OCI_CONFIG.is_foreign_layer());
    }

    proptest! {
        #[test]
        fn display_parses_back(text in "[a-zA-Z0-9][a-zA-Z0-9!#$&^_.+-]{0,20}/[a-z0-9][a-z0-9!#$&^_.+-]{0,20}") {
            let media_type: MediaType = text.parse().unwrap();
            prop_assert_eq!(media_type.to_string(), text);
        }

        #[test]
        fn content_type_is_idempotent(header in "\\PC{0,40}|[a-zA-Z]{1,5}/[a-zA-Z+;= ]{1,9}") {
            if let Ok(media_type) = MediaType::from_content_type(&header) {
                prop_assert_eq!(MediaType::from_content_type(media_type.as_str()), Ok(media_type.clone()));
                prop_assert_eq!(media_type.as_str().parse(), Ok(media_type));
            }
        }
    }
}
