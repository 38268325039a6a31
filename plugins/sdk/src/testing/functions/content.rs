//! `content`, played.

use crate::content::ContentError;
use crate::testing::with;
use crate::{Descriptor, Reference};

/// The most bytes that one read hands out: fewer than a plugin may ask for, as a host may do.
const READ_BYTES_MAX: u32 = 64 << 10;

/// A blob that can be read.
#[derive(Debug)]
pub struct Blob {
    descriptor: Descriptor,
    bytes: Vec<u8>,
}

impl Blob {
    /// What it is.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        self.descriptor.clone()
    }

    /// At most `max` bytes from `offset`; none at the end.
    ///
    /// # Errors
    /// Never.
    pub fn read(&self, offset: u64, max: u32) -> Result<Vec<u8>, ContentError> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        let rest = &self.bytes[from..];
        Ok(rest[..rest.len().min(max.min(READ_BYTES_MAX) as usize)].to_owned())
    }
}

/// Under which name it is kept.
pub(in crate::testing) fn key(reference: &Reference) -> String {
    let which = reference.digest.as_deref().or(reference.tag.as_deref()).unwrap_or_default();
    format!("{}/{} {which}", reference.upstream, reference.repository)
}

fn granted() -> Result<(), ContentError> {
    if with(|state| state.configuring) { Err(ContentError::Denied) } else { Ok(()) }
}

/// A manifest.
///
/// # Errors
/// When the test has none, and during `configure`.
pub fn manifest(reference: &Reference) -> Result<(Descriptor, Vec<u8>), ContentError> {
    granted()?;
    with(|state| state.content.get(&key(reference)).cloned()).ok_or(ContentError::NotFound)
}

/// A blob.
///
/// # Errors
/// When the test has none, and during `configure`.
pub fn open(reference: &Reference) -> Result<Blob, ContentError> {
    let (descriptor, bytes) = manifest(reference)?;
    Ok(Blob { descriptor, bytes })
}

/// What refers to a manifest.
///
/// # Errors
/// During `configure`.
pub fn referrers(
    reference: &Reference,
    artifact_type: Option<&str>,
) -> Result<Vec<Descriptor>, ContentError> {
    granted()?;
    let subject = reference.digest.clone().unwrap_or_default();
    Ok(with(|state| {
        let all = state.referrers.iter().filter(|(of, _)| *of == subject);
        all.map(|(_, descriptor)| descriptor.clone())
            .filter(|found| {
                artifact_type.is_none() || found.artifact_type.as_deref() == artifact_type
            })
            .collect()
    }))
}
