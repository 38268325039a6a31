//! Learns from the blobs what was lost with the database.
//!
//! What a manifest names stands in its bytes, so images can be told again and are evicted as a
//! whole. Who may read them does not: that upstream is asked, by the pulls that need it.

use std::time::Duration;

use async_trait::async_trait;

use super::{Inner, Keeper, blocks};
use crate::background::{Report, Round, Worker};
use crate::oci::{Digest, MANIFEST_BYTES_MAX, Manifest};
use crate::store::Uses as _;

/// How often it looks whether anything was lost.
const EVERY: Duration = Duration::from_secs(10);

/// What is read of a blob to see that it is no JSON, in bytes.
const HEAD_BYTES: usize = 64;

/// The worker.
pub(super) struct Relearner {
    keeper: Keeper,
    /// Losses that were made up for.
    losses: u64,
}

impl Relearner {
    pub(super) const fn new(keeper: Keeper) -> Self {
        Self { keeper, losses: 0 }
    }
}

#[async_trait]
impl Worker for Relearner {
    fn name(&self) -> &'static str {
        "relearn"
    }

    async fn round(&mut self, report: &Report) -> Round {
        self.look(&mut |done, total| report.progress(done, Some(total), "blobs")).await;
        Round::Done(EVERY)
    }
}

impl Relearner {
    /// Makes up for a loss, if there was one.
    async fn look(&mut self, progress: &mut (dyn FnMut(u64, u64) + Send)) {
        let shared = &self.keeper.shared;
        let losses = shared.keeping.losses();
        if losses == self.losses {
            return;
        }
        shared.catalogue.all_lost();
        let candidates = shared.catalogue.unnamed(blocks(MANIFEST_BYTES_MAX as u64));
        let mut manifests = 0_u64;
        for (done, digest) in (1..).zip(&candidates) {
            manifests += u64::from(shared.learn_one(digest).await);
            progress(done, candidates.len() as u64);
        }
        tracing::info!(
            blobs = candidates.len(),
            manifests,
            "read what stored manifests name, because the database was lost"
        );
        self.losses = losses;
    }
}

impl Inner {
    /// Reads what a stored blob names, if it is a manifest; whether it is one.
    async fn learn_one(&self, digest: &Digest) -> bool {
        let Ok(Some(blob)) = self.blobs.open(digest).await else { return false };
        let Ok(len) = usize::try_from(blob.len()) else { return false };
        // Most small blobs are layers.
        let Ok(head) = blob.read_at(0, len.min(HEAD_BYTES)).await else { return false };
        if head.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return false;
        }
        let Ok(bytes) = blob.read_at(0, len).await else { return false };
        let Ok(manifest) = Manifest::parse(&bytes, None) else { return false };
        // An empty configuration is JSON too, and names nothing.
        let parts = manifest.parts();
        let is_manifest = !parts.is_empty();
        if is_manifest {
            self.catalogue.names(digest, parts);
        }
        is_manifest
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::super::{Parts, writer::Writer};
    use super::*;
    use crate::background::{Tasks, Workers};
    use crate::clock::{Clock, Timestamp};
    use crate::store::blob::conformance::{pattern, verified};
    use crate::store::blob::{FsBlobs, FsOptions};
    use crate::store::meta::SqliteMeta;
    use crate::store::{BlobStore as _, Hot, HotOptions, KeepingStore as _};

    #[tokio::test]
    async fn images_are_known_again_and_nothing_is_garbage_after_a_loss() {
        let root = TempDir::new().unwrap();
        let blobs = FsBlobs::open(root.path(), FsOptions::default()).await.unwrap();
        let mut digests = Vec::new();
        for seed in 0..3 {
            let (proof, bytes) = verified(&pattern(seed, 70_000));
            blobs.put(proof, bytes).await.unwrap();
            digests.push(*proof.digest());
        }
        let (config, layer) = (digests[0], digests[1]);
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "config":{{"mediaType":"application/vnd.oci.image.config.v1+json",
            "digest":"{config}","size":70000}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar",
            "digest":"{layer}","size":70000}}]}}"#
        );
        for text in [text.as_str(), "{}"] {
            let (proof, bytes) = verified(text.as_bytes());
            blobs.put(proof, bytes).await.unwrap();
        }
        let (image, _) = verified(text.as_bytes());

        // The database is gone; only blobs are there.
        let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000_000));
        let meta = SqliteMeta::open_or_heal(root.path(), true, &clock).await.unwrap();
        assert_eq!(meta.losses(), 1);
        let registry = prometheus::Registry::new();
        let tasks = Tasks::new(&registry).unwrap();
        let parts = Parts {
            blobs: Arc::new(blobs),
            keeping: Arc::new(meta.clone()),
            meta: Arc::new(meta.clone()),
            hot: Hot::new(HotOptions::default()),
            limits: HashMap::new(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            workers: Workers::new(tasks, clock.clone()),
        };
        let keeper = Keeper::start(parts, &registry).await.unwrap();
        let mut seen = 0;
        Relearner::new(keeper.clone()).look(&mut |_, total| seen = total).await;
        let usage = keeper.usage().await.unwrap();
        assert_eq!((usage.blobs, usage.manifests), (5, 1), "of {seen}");
        Writer::new(keeper.clone()).stop().await;
        let expected = (*image.digest(), vec![config, layer]);
        assert_eq!(meta.parts(None, 10).await.unwrap(), [expected]);
        assert_eq!(meta.usage(None, 10).await.unwrap().len(), 5);

        // No repository has a link to any of it, and it stays all the same.
        clock.advance(Duration::from_secs(86_400));
        assert_eq!(keeper.collect().await.unwrap().blobs, 0);
        clock.advance(Duration::from_secs(40 * 86_400));
        assert_eq!(keeper.collect().await.unwrap().blobs, 5);
    }
}
