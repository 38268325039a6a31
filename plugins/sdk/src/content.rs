//! Content of the cache and, through it, of the upstreams. Needs `grants.content`.

pub use crate::bindings::imports::pierhead::plugin::content::ContentError;
pub use crate::host::content::Blob;
use crate::{Descriptor, Reference, host};

/// A manifest by tag or digest, whole.
///
/// # Errors
/// When it is not there or not granted, or the upstream does not answer.
pub fn manifest(reference: &Reference) -> Result<(Descriptor, Vec<u8>), ContentError> {
    host::content::manifest(reference)
}

/// Opens a blob of a repository.
///
/// # Errors
/// When it is not there or not granted, or the upstream does not answer.
pub fn open(reference: &Reference) -> Result<Blob, ContentError> {
    host::content::open(reference)
}

/// A whole blob of at most `max` bytes.
///
/// # Errors
/// When it is larger, not there or not granted, or the upstream does not answer.
pub fn read(reference: &Reference, max: u32) -> Result<Vec<u8>, ContentError> {
    let blob = open(reference)?;
    let mut bytes = Vec::new();
    loop {
        // One byte more than may be there tells that there is more.
        let left = u64::from(max) + 1 - bytes.len() as u64;
        let piece = blob.read(bytes.len() as u64, u32::try_from(left).unwrap_or(u32::MAX))?;
        if piece.is_empty() {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > u64::from(max) {
            return Err(ContentError::TooLarge(u64::from(max)));
        }
    }
}

/// What refers to a manifest.
///
/// # Errors
/// When it is not there or not granted, or the upstream does not answer.
pub fn referrers(
    reference: &Reference,
    artifact_type: Option<&str>,
) -> Result<Vec<Descriptor>, ContentError> {
    host::content::referrers(reference, artifact_type)
}
