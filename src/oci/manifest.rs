//! Manifests: what they are, and which content they name.
//!
//! Source: OCI image-spec, `manifest.md` and `image-index.md`; docker's `manifest-v2-2.md` and
//! `manifest-v2-1.md`. A manifest's bytes are its identity: they are read here, never written.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::descriptor::ANNOTATIONS_MAX;
use super::json::{Capped, KnownKey, TextMap, next_value};
use super::{Descriptor, Digest, ManifestKind, MediaType};

/// The largest manifest, in bytes: containerd's `MaxManifestSize` (`core/remotes/docker`), which
/// rejects larger ones.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1048 * 1048;

/// The most layers of an image or entries of an index.
pub const MANIFEST_ENTRIES_MAX: usize = 16 * 1024;

/// What Pierhead needs to know about a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    media_type: MediaType,
    kind: ManifestKind,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    schema1_layers: Vec<Digest>,
    children: Vec<Descriptor>,
    subject: Option<Descriptor>,
    artifact_type: Option<MediaType>,
    annotations: BTreeMap<String, String>,
}

/// A blob that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRef {
    /// What the blob is.
    pub digest: Digest,
    /// Its length in bytes, where the manifest says: schema 1 does not.
    pub size: Option<u64>,
    /// Its type, where the manifest says.
    pub media_type: Option<MediaType>,
    /// Whether registries need not have it.
    pub foreign: bool,
}

/// Why some bytes are not a manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Larger than [`MANIFEST_BYTES_MAX`].
    #[error("the manifest has {0} bytes; clients accept at most {MANIFEST_BYTES_MAX}")]
    TooLarge(usize),
    /// Not JSON, or not a manifest's JSON.
    #[error("the manifest is malformed: {0}")]
    Malformed(String),
    /// Its `mediaType` is no media type.
    #[error("the manifest's mediaType is not a media type")]
    MediaType,
    /// Neither the `Content-Type` nor the manifest tells what it is.
    #[error("neither the Content-Type nor the manifest tells what kind of manifest it is")]
    UnknownType,
    /// The `Content-Type` and the manifest's own `mediaType` are different kinds of manifest.
    #[error("the Content-Type is {content_type}, but the manifest's mediaType is {media_type}")]
    Contradiction {
        /// What the header says.
        content_type: MediaType,
        /// What the manifest says.
        media_type: MediaType,
    },
    /// Its `schemaVersion` is not that of its type.
    #[error("the manifest's schemaVersion {0} is not that of its type")]
    SchemaVersion(u64),
    /// A property is missing that its type needs.
    #[error("the manifest has no {0}")]
    Missing(&'static str),
    /// It has a property of another type of manifest, so that clients may disagree on what it is
    /// (CVE-2021-41190).
    #[error("a manifest of its type has no {0}")]
    Ambiguous(&'static str),
}

impl Manifest {
    /// Reads a manifest that came with this `Content-Type`.
    pub fn parse(bytes: &[u8], content_type: Option<&MediaType>) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let document: Document = serde_json::from_slice(bytes)
            .map_err(|error| ManifestError::Malformed(error.to_string()))?;
        let media_type = effective_media_type(content_type, &document)?;
        let kind = media_type.kind();
        document.check(kind)?;

        let config = document.config.flatten();
        let config_type = config.as_ref().and_then(|config| config.media_type.as_ref());
        let artifact_type = non_empty(document.artifact_type.flatten())
            .and_then(|text| text.parse().ok())
            .or_else(|| config_type.cloned());
        // The OCI artifact manifest, withdrawn but still about, has `blobs` for layers.
        let blobs = if kind == ManifestKind::Other { list(document.blobs) } else { Vec::new() };
        let mut layers = list(document.layers);
        layers.extend(blobs);
        Ok(Self {
            media_type,
            kind,
            artifact_type,
            config,
            layers,
            schema1_layers: list(document.fs_layers).into_iter().map(|l| l.blob_sum).collect(),
            children: list(document.manifests),
            subject: document.subject.flatten(),
            annotations: document.annotations.flatten().map(|map| map.0).unwrap_or_default(),
        })
    }

    /// The effective media type: what to serve the manifest as.
    pub const fn media_type(&self) -> &MediaType {
        &self.media_type
    }

    /// What it is made of.
    pub const fn kind(&self) -> ManifestKind {
        self.kind
    }

    /// The config of an image.
    pub const fn config(&self) -> Option<&Descriptor> {
        self.config.as_ref()
    }

    /// The layers of an image. Those of schema 1 have no descriptors: see [`Self::blobs`].
    pub fn layers(&self) -> &[Descriptor] {
        &self.layers
    }

    /// Every blob it names, the config first.
    pub fn blobs(&self) -> impl Iterator<Item = BlobRef> {
        let described = self.config.iter().chain(&self.layers).map(BlobRef::from);
        let schema1 = self.schema1_layers.iter().map(|digest| BlobRef {
            digest: *digest,
            size: None,
            media_type: None,
            foreign: false,
        });
        described.chain(schema1)
    }

    /// The manifests that an index lists.
    pub fn children(&self) -> &[Descriptor] {
        &self.children
    }

    /// Everything that it names and that belongs to the registry: blobs and manifests.
    pub fn parts(&self) -> Vec<Digest> {
        let blobs = self.blobs().filter(|blob| !blob.foreign).map(|blob| blob.digest);
        blobs.chain(self.children.iter().map(|child| child.digest)).collect()
    }

    /// The manifest that this one is about, whether or not that exists.
    pub const fn subject(&self) -> Option<&Descriptor> {
        self.subject.as_ref()
    }

    /// What kind of artifact it is, as lists of referrers say it: its `artifactType`, or else the
    /// type of its config.
    pub const fn artifact_type(&self) -> Option<&MediaType> {
        self.artifact_type.as_ref()
    }

    /// Its free-form notes.
    pub const fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }
}

impl From<&Descriptor> for BlobRef {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            digest: descriptor.digest,
            size: Some(descriptor.size),
            media_type: descriptor.media_type.clone(),
            foreign: descriptor.media_type.as_ref().is_some_and(MediaType::is_foreign_layer),
        }
    }
}

/// A header that says what kind of manifest it is must agree with the manifest's own word. The
/// manifest's word counts where the header is generic, unknown or missing, and what the manifest
/// looks like where there is no word at all: OCI has `mediaType` optional.
fn effective_media_type(
    content_type: Option<&MediaType>,
    document: &Document,
) -> Result<MediaType, ManifestError> {
    let own: Option<MediaType> = match document.media_type.as_ref().and_then(Option::as_deref) {
        None | Some("") => None,
        Some(text) => Some(text.parse().map_err(|_| ManifestError::MediaType)?),
    };
    let specific = content_type.filter(|content_type| !content_type.is_generic());
    let is_known = |media_type: &MediaType| media_type.kind() != ManifestKind::Other;
    match (specific, own) {
        (Some(header), Some(own)) if is_known(header) && is_known(&own) && *header != own => {
            Err(ManifestError::Contradiction { content_type: header.clone(), media_type: own })
        }
        (Some(header), Some(own)) if is_known(&own) && !is_known(header) => Ok(own),
        (Some(header), Some(own)) if header.eq_ignore_case(&own) => Ok(own),
        (Some(header), _) => Ok(header.clone()),
        (None, Some(own)) => Ok(own),
        (None, None) => document.looks_like().ok_or(ManifestError::UnknownType),
    }
}

/// The properties of every type of manifest at once. The outer option is whether the key was
/// there, the inner one whether it was not `null`.
#[derive(Default)]
struct Document {
    schema_version: Option<Option<u64>>,
    media_type: Option<Option<String>>,
    artifact_type: Option<Option<String>>,
    config: Option<Option<Descriptor>>,
    layers: Option<Option<Entries<Descriptor>>>,
    blobs: Option<Option<Entries<Descriptor>>>,
    manifests: Option<Option<Entries<Descriptor>>>,
    subject: Option<Option<Descriptor>>,
    annotations: Option<Option<TextMap<ANNOTATIONS_MAX>>>,
    fs_layers: Option<Option<Entries<FsLayer>>>,
    signatures: Option<Option<IgnoredAny>>,
}

type Entries<T> = Capped<T, MANIFEST_ENTRIES_MAX>;

/// A layer of schema 1.
#[derive(Deserialize)]
struct FsLayer {
    #[serde(rename = "blobSum")]
    blob_sum: Digest,
}

impl Document {
    /// The type of a manifest that nobody has named.
    fn looks_like(&self) -> Option<MediaType> {
        if self.fs_layers.is_some() {
            Some(match self.signatures {
                Some(_) => MediaType::DOCKER_SCHEMA1_SIGNED,
                None => MediaType::DOCKER_SCHEMA1,
            })
        } else if self.manifests.is_some() {
            Some(MediaType::OCI_INDEX)
        } else if self.config.is_some() && self.layers.is_some() {
            Some(MediaType::OCI_MANIFEST)
        } else {
            None
        }
    }

    /// Whether it has what its kind needs, and nothing of another kind. containerd checks the
    /// latter too.
    fn check(&self, kind: ManifestKind) -> Result<(), ManifestError> {
        let filled = |list: &Option<Option<Entries<Descriptor>>>| {
            list.as_ref().and_then(Option::as_ref).is_some_and(|list| !list.0.is_empty())
        };
        let has_config = self.config.as_ref().is_some_and(Option::is_some);
        let has_fs_layers = self.fs_layers.as_ref().is_some_and(Option::is_some);
        let version = match kind {
            ManifestKind::Image | ManifestKind::Index => 2,
            ManifestKind::Schema1 => 1,
            ManifestKind::Other => return Ok(()),
        };
        // Clients do not miss a version; a wrong one means another format.
        if let Some(actual) = self.schema_version.flatten().filter(|actual| *actual != version) {
            return Err(ManifestError::SchemaVersion(actual));
        }
        let is_image = kind == ManifestKind::Image;
        let is_index = kind == ManifestKind::Index;
        let is_schema1 = kind == ManifestKind::Schema1;
        if is_image && !has_config {
            return Err(ManifestError::Missing("config"));
        }
        if is_index && self.manifests.is_none() {
            return Err(ManifestError::Missing("manifests"));
        }
        if is_schema1 && !has_fs_layers {
            return Err(ManifestError::Missing("fsLayers"));
        }
        if !is_image && has_config {
            return Err(ManifestError::Ambiguous("config"));
        }
        if !is_image && filled(&self.layers) {
            return Err(ManifestError::Ambiguous("layers"));
        }
        if !is_index && filled(&self.manifests) {
            return Err(ManifestError::Ambiguous("manifests"));
        }
        if !is_schema1 && has_fs_layers {
            return Err(ManifestError::Ambiguous("fsLayers"));
        }
        Ok(())
    }
}

fn list<T>(entries: Option<Option<Entries<T>>>) -> Vec<T> {
    entries.flatten().map(|entries| entries.0).unwrap_or_default()
}

fn non_empty(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Properties)
    }
}

struct Properties;

impl<'de> Visitor<'de> for Properties {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        const KEYS: KnownKey = KnownKey(&[
            "schemaVersion",
            "mediaType",
            "artifactType",
            "config",
            "layers",
            "blobs",
            "manifests",
            "subject",
            "annotations",
            "fsLayers",
            "signatures",
        ]);
        let mut document = Document::default();
        let d = &mut document;
        while let Some(key) = map.next_key_seed(KEYS)? {
            match key {
                Some(key @ "schemaVersion") => next_value(&mut map, key, &mut d.schema_version)?,
                Some(key @ "mediaType") => next_value(&mut map, key, &mut d.media_type)?,
                Some(key @ "artifactType") => next_value(&mut map, key, &mut d.artifact_type)?,
                Some(key @ "config") => next_value(&mut map, key, &mut d.config)?,
                Some(key @ "layers") => next_value(&mut map, key, &mut d.layers)?,
                Some(key @ "blobs") => next_value(&mut map, key, &mut d.blobs)?,
                Some(key @ "manifests") => next_value(&mut map, key, &mut d.manifests)?,
                Some(key @ "subject") => next_value(&mut map, key, &mut d.subject)?,
                Some(key @ "annotations") => next_value(&mut map, key, &mut d.annotations)?,
                Some(key @ "fsLayers") => next_value(&mut map, key, &mut d.fs_layers)?,
                Some(key @ "signatures") => next_value(&mut map, key, &mut d.signatures)?,
                Some(_) | None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(document)
    }
}

#[cfg(test)]
mod tests;
