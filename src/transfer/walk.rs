//! What an image consists of, and what of that is there.

use std::collections::{BTreeSet, HashSet, VecDeque};

use async_trait::async_trait;
use bytes::Bytes;

use crate::oci::{BlobRef, Descriptor, Digest, Manifest, ManifestKind, MediaType, Platform};
use crate::store::StoreError;

/// The most manifests of one image. Indexes come from strangers and may name each other at will.
pub(super) const MANIFESTS_MAX: usize = 1024;

/// The most bytes of manifests of one image: all of them are held in memory at once.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// Where the parts of an image may be found.
#[async_trait]
pub(super) trait Shelf: Send + Sync {
    /// The verified bytes of a manifest and its type, if it is there.
    async fn manifest(
        &self,
        digest: &Digest,
    ) -> Result<Option<(Bytes, Option<MediaType>)>, StoreError>;

    /// The length of a blob in bytes, if it is there.
    async fn blob(&self, digest: &Digest) -> Result<Option<u64>, StoreError>;
}

/// A manifest that is there.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) digest: Digest,
    pub(super) len: u64,
    pub(super) manifest: Manifest,
}

/// An image, as far as it is there.
#[derive(Clone, Debug, Default)]
pub(super) struct Walk {
    /// The image's own manifest first.
    pub(super) manifests: Vec<Found>,
    /// Blobs with their lengths in bytes, each once.
    pub(super) blobs: Vec<(Digest, u64)>,
    /// What is named and not there, each once.
    pub(super) missing: BTreeSet<Digest>,
    /// Whether everything that one platform needs is there.
    pub(super) complete: bool,
}

/// Why an image cannot be walked.
#[derive(Debug, thiserror::Error)]
pub(super) enum WalkError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("its manifest {0} is not here")]
    NotHere(Digest),
    #[error("{0} is no manifest that clients accept: {1}")]
    NoManifest(Digest, crate::oci::ManifestError),
    #[error(
        "it has more than {MANIFESTS_MAX} manifests, or manifests of more than \
         {MANIFEST_BYTES_MAX} bytes"
    )]
    TooMany,
}

/// Follows everything that `root` names. With `platforms`, of an index only the entries for these,
/// and those without a platform, such as attestations.
pub(super) async fn walk(
    shelf: &dyn Shelf,
    root: Digest,
    media_type: Option<MediaType>,
    platforms: &[Platform],
) -> Result<Walk, WalkError> {
    let mut walk = Walk::default();
    let mut queue = VecDeque::from([(root, media_type)]);
    let mut seen = HashSet::from([root]);
    let mut manifest_bytes = 0_u64;
    while let Some((digest, hint)) = queue.pop_front() {
        let Some((bytes, own)) = shelf.manifest(&digest).await? else {
            if digest == root {
                return Err(WalkError::NotHere(root));
            }
            walk.missing.insert(digest);
            continue;
        };
        let manifest = Manifest::parse(&bytes, own.or(hint).as_ref())
            .map_err(|error| WalkError::NoManifest(digest, error))?;
        manifest_bytes = manifest_bytes.saturating_add(bytes.len() as u64);
        if walk.manifests.len() == MANIFESTS_MAX || manifest_bytes > MANIFEST_BYTES_MAX {
            return Err(WalkError::TooMany);
        }
        for child in manifest.children() {
            if !seen.insert(child.digest) {
                continue;
            }
            if is_wanted(child, platforms) {
                queue.push_back((child.digest, child.media_type.clone()));
            } else {
                walk.missing.insert(child.digest);
            }
        }
        let mut has_all = true;
        for blob in manifest.blobs().filter(|blob| !blob.foreign) {
            has_all &= take_blob(shelf, &blob, &mut seen, &mut walk).await?;
        }
        walk.complete |= has_all && manifest.kind() != ManifestKind::Index && is_image(&manifest);
        walk.manifests.push(Found { digest, len: bytes.len() as u64, manifest });
    }
    Ok(walk)
}

/// Whether the blob is there.
async fn take_blob(
    shelf: &dyn Shelf,
    blob: &BlobRef,
    seen: &mut HashSet<Digest>,
    walk: &mut Walk,
) -> Result<bool, StoreError> {
    if !seen.insert(blob.digest) {
        return Ok(!walk.missing.contains(&blob.digest));
    }
    match shelf.blob(&blob.digest).await? {
        Some(len) => {
            walk.blobs.push((blob.digest, len));
            Ok(true)
        }
        None => {
            walk.missing.insert(blob.digest);
            Ok(false)
        }
    }
}

fn is_wanted(child: &Descriptor, platforms: &[Platform]) -> bool {
    let Some(platform) = &child.platform else { return true };
    platforms.is_empty()
        || platform.os() == "unknown"
        || platforms.iter().any(|wanted| {
            wanted.os() == platform.os()
                && wanted.architecture() == platform.architecture()
                && (wanted.variant().is_none() || wanted.variant() == platform.variant())
        })
}

/// Attestations are stored as images too, but nobody runs them: their layers are statements.
fn is_image(manifest: &Manifest) -> bool {
    const STATEMENT: &str = "application/vnd.in-toto+json";
    let is_statement = |layer: &Descriptor| {
        layer.media_type.as_ref().is_some_and(|media_type| media_type.as_str() == STATEMENT)
    };
    manifest.layers().is_empty() || !manifest.layers().iter().all(is_statement)
}
