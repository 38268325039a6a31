//! What became of a transfer, for people and scripts.

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// What an export wrote. It is also the last file of the archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportReport {
    /// The images that are in the layout.
    pub images: Vec<ExportedImage>,
    /// Those that are not, although they were asked for.
    pub failed: Vec<FailedImage>,
    /// Manifests and blobs, each once.
    pub blobs: u64,
    /// Their length, in bytes.
    pub bytes: u64,
}

/// An image in a layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedImage {
    /// Its full name.
    pub image: String,
    /// Its manifest or index.
    pub digest: Digest,
    /// How many manifests, itself included.
    pub manifests: usize,
    /// How many blobs.
    pub blobs: usize,
    /// The length of both, in bytes, counted for each image that has them.
    pub bytes: u64,
    /// Whether it is whole for at least one platform.
    pub complete: bool,
    /// What it names and the layout does not have for it: platforms that were never pulled.
    pub missing: Vec<Digest>,
}

/// An image that was not transferred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedImage {
    /// What it is called, as far as that is known.
    pub image: String,
    /// Why not.
    pub reason: String,
}

/// What an import took in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportReport {
    /// The images that can be pulled now.
    pub images: Vec<ImportedImage>,
    /// Those that cannot.
    pub failed: Vec<FailedImage>,
    /// Manifests and blobs in the archive.
    pub blobs: u64,
    /// How many of them were not here before.
    pub new_blobs: u64,
    /// The length of all of them, in bytes.
    pub bytes: u64,
    /// Blobs that do not have the digest they are called by; nothing of them is kept.
    pub damaged: Vec<Digest>,
}

/// An image that was taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedImage {
    /// Its full name.
    pub image: String,
    /// Its manifest or index.
    pub digest: Digest,
    /// How many manifests, itself included.
    pub manifests: usize,
    /// How many blobs.
    pub blobs: usize,
    /// Whether it is whole for at least one platform.
    pub complete: bool,
    /// What became of its tag.
    pub tag: TagOutcome,
}

/// What became of an imported tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TagOutcome {
    /// It means the imported image now.
    Set,
    /// It was known already, to mean the same.
    Known,
    /// It is known to mean something else since later, and still does.
    Newer,
    /// The image came without one.
    None,
}
