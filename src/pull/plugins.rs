//! What plugins may see of the cache, if their mounts grant it.
//!
//! No policy is asked on the way: it is a policy that asks, and it would ask itself.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::error::PullError;
use super::manifest::ManifestWant;
use super::{BlobReader, BlobWant, Puller, Wanted, in_time};
use crate::hooks::wasm::{Content, ContentFailure, Described, OpenBlob, Refers};
use crate::oci::{Descriptor, Digest, MANIFEST_BYTES_MAX, Manifest, MediaType, Reference};
use crate::scope::Scope;

/// The largest configuration of an image that policies are shown, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The most that a plugin reads of a blob at once, in bytes.
const READ_BYTES_MAX: u64 = 1 << 20;

impl Puller {
    /// The configuration that a manifest names, if it is here. Nobody is asked for it: a policy
    /// must not make a pull wait.
    pub(super) async fn config_at_hand(
        &self,
        manifest: &[u8],
        media_type: &MediaType,
    ) -> Option<Bytes> {
        let manifest = Manifest::parse(manifest, Some(media_type)).ok()?;
        let config = manifest.config()?;
        if config.size > CONFIG_BYTES_MAX {
            return None;
        }
        if let Some(bytes) = self.hot.bytes(&config.digest) {
            return Some(bytes);
        }
        let blob = self.blobs.open(&config.digest).await.ok()??;
        if blob.len() > CONFIG_BYTES_MAX {
            return None;
        }
        self.load(&blob).await
    }
}

fn failure(error: &PullError) -> ContentFailure {
    match error {
        PullError::ManifestUnknown | PullError::BlobUnknown | PullError::NameUnknown => {
            ContentFailure::NotFound
        }
        PullError::Upstream(_) | PullError::TimedOut | PullError::Busy => {
            ContentFailure::Upstream(error.to_string())
        }
        _ => ContentFailure::Other(error.to_string()),
    }
}

#[async_trait]
impl Content for Puller {
    async fn manifest(
        &self,
        scope: &Scope,
        reference: &Reference,
    ) -> Result<Described, ContentFailure> {
        let find = async {
            let site = self.site(scope)?;
            let (want, deadline) = (ManifestWant::Content, self.deadline());
            match reference {
                Reference::Digest(digest) => {
                    in_time(deadline, self.by_digest(site, scope, digest, want)).await
                }
                Reference::Tag(tag) => self.by_tag(site, scope, tag, want, deadline).await,
            }
        };
        let found = find.await.map_err(|error| failure(&error))?;
        let bytes = found.bytes.ok_or(ContentFailure::NotFound)?;
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ContentFailure::TooLarge(bytes.len() as u64));
        }
        Ok(Described { digest: found.digest, media_type: found.media_type, bytes })
    }

    async fn open(
        &self,
        scope: &Scope,
        digest: &Digest,
    ) -> Result<Arc<dyn OpenBlob>, ContentFailure> {
        let want = BlobWant::Content(Wanted::Whole);
        let answer = self.blob(scope, digest, want).await.map_err(|error| failure(&error))?;
        let (Some(mut reader), Some(size)) = (answer.reader, answer.size) else {
            let message = "upstream does not say how large it is";
            return Err(ContentFailure::Upstream(message.to_owned()));
        };
        reader.trust_nothing();
        let blob = Opened {
            puller: self.clone(),
            scope: scope.clone(),
            digest: *digest,
            size,
            reader: Mutex::new(Some(reader)),
        };
        Ok(Arc::new(blob))
    }

    async fn referrers(
        &self,
        scope: &Scope,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Refers, ContentFailure> {
        let answer = Self::referrers(self, scope, digest).await.map_err(|error| failure(&error))?;
        let read = |value| serde_json::from_value::<Descriptor>(value).ok();
        let wanted = |found: &Descriptor| {
            let kind = found.artifact_type.as_ref().map(MediaType::as_str);
            artifact_type.is_none_or(|wanted| kind == Some(wanted))
        };
        Ok(answer.manifests.into_iter().filter_map(read).filter(wanted).collect())
    }
}

/// A blob that a plugin reads. Nothing of it is handed out that is not verified.
struct Opened {
    puller: Puller,
    scope: Scope,
    digest: Digest,
    size: u64,
    /// Taken out by whoever reads; a second one at the same time gets a reader of its own.
    reader: Mutex<Option<BlobReader>>,
}

impl Opened {
    fn slot(&self) -> std::sync::MutexGuard<'_, Option<BlobReader>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl OpenBlob for Opened {
    fn describe(&self) -> (Digest, u64) {
        (self.digest, self.size)
    }

    async fn read(&self, offset: u64, max: u32) -> Result<Bytes, ContentFailure> {
        let end = offset.saturating_add(u64::from(max).min(READ_BYTES_MAX)).min(self.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let kept = self.slot().take();
        let mut reader = match kept {
            Some(reader) => reader,
            None => {
                let want = BlobWant::Content(Wanted::Whole);
                let answer = self.puller.blob(&self.scope, &self.digest, want).await;
                let reader = answer.map_err(|error| failure(&error))?.reader;
                let mut reader = reader.ok_or(ContentFailure::NotFound)?;
                reader.trust_nothing();
                reader
            }
        };
        let read = reader.read(offset..end, false).await;
        let bytes = read.map_err(|error| ContentFailure::Other(error.to_string()))?;
        *self.slot() = Some(reader);
        let mut bytes = bytes.unwrap_or_default();
        bytes.truncate(usize::try_from(end - offset).unwrap_or(usize::MAX));
        Ok(bytes)
    }
}
