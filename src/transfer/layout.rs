//! The names and JSON files of an OCI image layout, and what Pierhead writes into them.
//!
//! Source: OCI image-spec 1.1, `image-layout.md`, `image-index.md`, `annotations.md`.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::archive::ArchiveError;
use crate::clock::Timestamp;
use crate::oci::{
    Descriptor, Digest, MANIFEST_BYTES_MAX, Manifest, MediaType, Reference, RepoName, Tag,
};
use crate::scope::{Scope, UpstreamName};

/// The file that says that this is a layout.
pub(super) const LAYOUT_FILE: &str = "oci-layout";

/// The file that lists the images.
pub(super) const INDEX_FILE: &str = "index.json";

/// What an export says about itself, after everything else: an archive without it is not whole.
pub const REPORT_FILE: &str = "pierhead.json";

/// The only version of layouts.
const LAYOUT_VERSION: &str = "1.0.0";

/// The largest `oci-layout`, in bytes.
pub(super) const LAYOUT_BYTES_MAX: u64 = 4096;

/// The largest `index.json`, in bytes: what registries accept as an index.
pub(super) const INDEX_BYTES_MAX: usize = MANIFEST_BYTES_MAX;

/// The largest `pierhead.json`, in bytes. It repeats the index and adds little.
pub const REPORT_BYTES_MAX: u64 = 4 * INDEX_BYTES_MAX as u64;

/// Where the specification has an image's name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Where containerd and buildkit have an image's full name.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Whose content it is: the upstream's name here.
const UPSTREAM: &str = "dev.pierhead.upstream";
/// Whose content it is: the repository, in the upstream's own words.
const REPOSITORY: &str = "dev.pierhead.repository";
/// The tag that meant it.
const TAG: &str = "dev.pierhead.tag";
/// When upstream last said so, in milliseconds since 1970.
const CONFIRMED_AT: &str = "dev.pierhead.confirmed-at-ms";
/// Digests that the image names and its repository was not shown to have, between spaces. They may
/// be in the layout because another image has them.
const MISSING: &str = "dev.pierhead.missing";

/// An image of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// Whose.
    pub scope: Scope,
    /// Which.
    pub reference: Reference,
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        write!(f, "{}{separator}{}", self.scope, self.reference)
    }
}

/// What a file of a layout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Layout,
    Index,
    Report,
    Blob(Digest),
    /// Something that the specification does not know, such as docker's `manifest.json`.
    Other,
}

impl Part {
    pub(super) fn of(name: &str) -> Self {
        match name {
            LAYOUT_FILE => Self::Layout,
            INDEX_FILE => Self::Index,
            REPORT_FILE => Self::Report,
            _ => {
                let digest = name
                    .strip_prefix("blobs/")
                    .and_then(|rest| rest.split_once('/'))
                    .and_then(|(algorithm, hex)| format!("{algorithm}:{hex}").parse().ok());
                digest.map_or(Self::Other, Self::Blob)
            }
        }
    }
}

/// The path of a blob in a layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.encoded())
}

#[derive(Serialize, Deserialize)]
struct LayoutFile {
    #[serde(rename = "imageLayoutVersion")]
    version: String,
}

/// The content of `oci-layout`.
pub(super) fn layout_file() -> Vec<u8> {
    format!("{{\"imageLayoutVersion\":\"{LAYOUT_VERSION}\"}}").into_bytes()
}

/// Judges a file `oci-layout`.
pub(super) fn check_layout(bytes: &[u8]) -> Result<(), ArchiveError> {
    let file: LayoutFile = serde_json::from_slice(bytes)
        .map_err(|error| ArchiveError::Layout(format!("{LAYOUT_FILE}: {error}")))?;
    if file.version == LAYOUT_VERSION {
        return Ok(());
    }
    let version: String = file.version.chars().take(64).collect();
    Err(ArchiveError::Layout(format!("its version {version:?} is not {LAYOUT_VERSION}")))
}

/// An image in an index, as Pierhead writes and reads it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) image: ImageRef,
    pub(super) media_type: MediaType,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// When upstream last said that the tag means it.
    pub(super) confirmed_at: Option<Timestamp>,
    pub(super) missing: Vec<Digest>,
}

/// An `index.json` in the making.
#[derive(Debug, Default)]
pub(super) struct Index {
    manifests: Vec<String>,
    bytes: usize,
}

/// What is around the list of an index, generously, in bytes.
const INDEX_FRAME_BYTES: usize = 256;

impl Index {
    /// Adds an image; whether there was room for it.
    pub(super) fn push(&mut self, entry: &Entry) -> bool {
        let mut annotations = BTreeMap::from([
            (REF_NAME.to_owned(), entry.image.to_string()),
            (UPSTREAM.to_owned(), entry.image.scope.upstream.to_string()),
            (REPOSITORY.to_owned(), entry.image.scope.repo.to_string()),
        ]);
        if let Reference::Tag(tag) = &entry.image.reference {
            annotations.insert(CONTAINERD_NAME.to_owned(), entry.image.to_string());
            annotations.insert(TAG.to_owned(), tag.to_string());
        }
        if let Some(at) = entry.confirmed_at {
            annotations.insert(CONFIRMED_AT.to_owned(), at.unix_ms().to_string());
        }
        if !entry.missing.is_empty() {
            let digests: Vec<String> = entry.missing.iter().map(Digest::to_string).collect();
            annotations.insert(MISSING.to_owned(), digests.join(" "));
        }
        let mut descriptor = Descriptor::new(entry.media_type.clone(), entry.digest, entry.size);
        descriptor.annotations = annotations;
        let text = serde_json::json!(descriptor).to_string();
        if self.bytes + text.len() + 1 + INDEX_FRAME_BYTES > INDEX_BYTES_MAX {
            return false;
        }
        self.bytes += text.len() + 1;
        self.manifests.push(text);
        true
    }

    /// The content of `index.json`.
    pub(super) fn file(&self) -> Vec<u8> {
        let manifests = self.manifests.join(",");
        let media_type = MediaType::OCI_INDEX;
        format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{media_type}\",\"manifests\":[{manifests}]}}"
        )
        .into_bytes()
    }
}

/// An image that an index lists, before anything of it is believed.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) digest: Digest,
    pub(super) media_type: Option<MediaType>,
    pub(super) name: Name,
    pub(super) confirmed_at: Option<Timestamp>,
    pub(super) missing: HashSet<Digest>,
}

/// What a listed image is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// Pierhead wrote whose it is.
    Own(ImageRef),
    /// Another program wrote a name, which may be full or only a tag; or none.
    Foreign(Option<String>),
}

/// Reads an `index.json`.
pub(super) fn read_index(bytes: &[u8]) -> Result<Vec<Listed>, ArchiveError> {
    let index = Manifest::parse(bytes, Some(&MediaType::OCI_INDEX))
        .map_err(|error| ArchiveError::Layout(format!("{INDEX_FILE}: {error}")))?;
    Ok(index.children().iter().map(listed).collect())
}

fn listed(descriptor: &Descriptor) -> Listed {
    let annotation = |key: &str| descriptor.annotations.get(key).map(String::as_str);
    let own = || -> Option<ImageRef> {
        let upstream: UpstreamName = annotation(UPSTREAM)?.parse().ok()?;
        let repo: RepoName = annotation(REPOSITORY)?.parse().ok()?;
        let reference = match annotation(TAG) {
            Some(tag) => Reference::Tag(tag.parse::<Tag>().ok()?),
            None => Reference::Digest(descriptor.digest),
        };
        Some(ImageRef { scope: Scope { upstream, repo }, reference })
    };
    let foreign =
        || annotation(CONTAINERD_NAME).or_else(|| annotation(REF_NAME)).map(str::to_owned);
    let own = own();
    let at = annotation(CONFIRMED_AT).filter(|_| own.is_some());
    let missing = annotation(MISSING).filter(|_| own.is_some()).unwrap_or_default();
    Listed {
        digest: descriptor.digest,
        media_type: descriptor.media_type.clone(),
        confirmed_at: at.and_then(|ms| ms.parse().ok()).map(Timestamp::from_unix_ms),
        missing: missing.split(' ').filter_map(|digest| digest.parse().ok()).collect(),
        name: own.map_or_else(|| Name::Foreign(foreign()), Name::Own),
    }
}
