//! The records of a [`MetaStore`](super::MetaStore).

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::oci::Digest;

/// That content belongs to a repository, and what is known of it there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// Its length in bytes, as the descriptor or upstream said: a hint that may be wrong.
    pub size: Option<u64>,
    /// Its media type, as the descriptor or upstream said.
    pub media_type: Option<String>,
    /// What makes it belong there, and how it is asked for.
    pub kind: LinkKind,
}

/// What makes content belong to a repository, from the weakest reason to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinkKind {
    /// A manifest of the repository names it. That promises, and proves nothing: there are
    /// registries that do not check what a pushed manifest names.
    Named,
    /// Upstream answered `/v2/<name>/blobs/<digest>`.
    Blob,
    /// Upstream answered `/v2/<name>/manifests/<digest>`, as the more specific of the two: a manifest can be had
    /// as a blob from many registries, but no blob as a manifest.
    Manifest,
}

impl Link {
    /// Whether upstream has shown that the repository has it.
    pub fn is_proven(&self) -> bool {
        self.kind > LinkKind::Named
    }

    /// What is known after `newer` was learnt: its word counts where it says something, and the
    /// stronger reason stays.
    #[must_use]
    pub fn merged(self, newer: Self) -> Self {
        Self {
            size: newer.size.or(self.size),
            media_type: newer.media_type.or(self.media_type),
            kind: self.kind.max(newer.kind),
        }
    }
}

/// What a tag was seen to mean.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TagRecord {
    /// The manifest.
    pub digest: Digest,
    /// Its media type, if upstream said.
    pub media_type: Option<String>,
    /// Its length in bytes, if upstream said.
    pub size: Option<u64>,
    /// When upstream last said so.
    pub confirmed_at: Timestamp,
}

impl TagRecord {
    /// What is known after `newer`, of the same digest, was learnt.
    #[must_use]
    pub fn merged(self, newer: Self) -> Self {
        Self {
            media_type: newer.media_type.or(self.media_type),
            size: newer.size.or(self.size),
            ..newer
        }
    }
}

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DocumentKind {
    /// An image index of referrers; its key is the subject's digest.
    Referrers,
    /// A list of tags; its key is the query it answers.
    TagList,
}

impl DocumentKind {
    /// The name under which it is stored: never to be changed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Referrers => "referrers",
            Self::TagList => "tag_list",
        }
    }
}

/// A small answer of an upstream's that is no content by digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// As it came.
    pub bytes: Bytes,
    /// When it came.
    pub fetched_at: Timestamp,
}
