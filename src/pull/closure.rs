//! Whether an image can be served to its end from what is stored.
//!
//! Clients that got a manifest from a mirror fetch all its blobs there too, so a stale answer is
//! given only for an image that is complete for at least one platform.

use std::collections::HashSet;

use super::Puller;
use super::flight::FlightKey;
use crate::oci::{Digest, Manifest, ManifestKind};
use crate::scope::Scope;

/// How many manifests are looked at for one answer. Indexes come from strangers and may name each
/// other at will; what lies beyond counts as missing.
const MANIFESTS_LOOKED_AT_MAX: usize = 64;

/// How many blobs are looked for, for one answer.
const BLOBS_LOOKED_FOR_MAX: usize = 4096;

impl Puller {
    /// Whether `digest` and everything that pulling it for one platform needs is stored and
    /// readable through `scope`.
    pub async fn is_complete(&self, scope: &Scope, digest: &Digest) -> bool {
        let mut to_look_at = vec![*digest];
        let mut seen = HashSet::from([*digest]);
        let mut blobs_left = BLOBS_LOOKED_FOR_MAX;
        while let Some(digest) = to_look_at.pop() {
            // Everything may come from memory, and then nothing else would give way to others.
            tokio::task::yield_now().await;
            let Some(kept) = self.kept(scope, &digest).await else { continue };
            let Ok(manifest) = Manifest::parse(&kept.bytes, Some(&kept.media_type)) else {
                continue;
            };
            if manifest.kind() != ManifestKind::Index {
                if self.has_blobs(scope, &manifest, &mut blobs_left).await {
                    return true;
                }
                continue;
            }
            // Attestations are no platform that anybody pulls.
            let platforms = manifest.children().iter().filter(|child| {
                child.platform.as_ref().is_none_or(|platform| platform.os() != "unknown")
            });
            let mut is_empty = true;
            for child in platforms {
                is_empty = false;
                if seen.len() < MANIFESTS_LOOKED_AT_MAX && seen.insert(child.digest) {
                    to_look_at.push(child.digest);
                }
            }
            if is_empty {
                return true;
            }
        }
        false
    }

    async fn has_blobs(&self, scope: &Scope, manifest: &Manifest, left: &mut usize) -> bool {
        for blob in manifest.blobs().filter(|blob| !blob.foreign) {
            if *left == 0 {
                return false;
            }
            *left -= 1;
            let link = self.links.get(scope, &blob.digest).await;
            if !link.is_some_and(|link| link.is_proven())
                || !self.has_blob(scope, &blob.digest).await
            {
                return false;
            }
        }
        true
    }

    /// Whether a blob is stored, or verified and about to be.
    async fn has_blob(&self, scope: &Scope, digest: &Digest) -> bool {
        // In this order: a flight leaves the table only when the store has its blob.
        let flight = self.flights.get(&FlightKey::new(scope, digest));
        flight.is_some_and(|flight| flight.is_verified())
            || matches!(self.blobs.contains(digest).await, Ok(true))
    }
}
