//! Writes down how content is used, in batches, and has the limits of upstreams enforced.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::Keeper;
use super::catalogue::{Catalogue, Changes};
use super::evict::Ask;
use crate::background::{Report, Round, Worker};
use crate::store::StoreError;

/// How long a use may be known to this process only.
const EVERY: Duration = Duration::from_secs(10);

/// How long it waits after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(60);

/// Records written in one transaction.
const BATCH: usize = 500;

/// The worker.
pub(super) struct Writer {
    keeper: Keeper,
}

impl Writer {
    pub(super) const fn new(keeper: Keeper) -> Self {
        Self { keeper }
    }

    /// Writes what has changed. What could not be written is due again.
    async fn write(&self) -> Result<(), StoreError> {
        let shared = &self.keeper.shared;
        let mut due = Due { catalogue: &shared.catalogue, changes: shared.catalogue.changes() };
        for gone in due.changes.gone.chunks(BATCH) {
            shared.keeping.forget_usage(gone).await?;
        }
        for usage in due.changes.usage.chunks(BATCH) {
            shared.keeping.put_usage(usage).await?;
        }
        for (manifest, parts) in &due.changes.parts {
            shared.keeping.put_parts(manifest, parts).await?;
        }
        due.changes = Changes::default();
        Ok(())
    }

    async fn tend(&self) -> Result<(), StoreError> {
        self.write().await?;
        let room = self.keeper.shared.blobs.room().await?;
        self.keeper.shared.metrics.room(&room);
        if room.shortfall > 0 && !self.keeper.make_room(1, None).await {
            tracing::warn!(
                bytes = room.shortfall,
                "the cache is over storage.max_size, or the disk has less than storage.min_free, and \
                 what is left in it cannot go"
            );
        }
        let (reply, answer) = oneshot::channel();
        if self.keeper.asks.send(Ask::Limits { reply }).await.is_ok()
            && let Ok(result) = answer.await
        {
            result?;
        }
        Ok(())
    }
}

/// Changes that are being written: due again when that fails, or is given up halfway.
struct Due<'a> {
    catalogue: &'a Catalogue,
    changes: Changes,
}

impl Drop for Due<'_> {
    fn drop(&mut self) {
        self.catalogue.not_written(&self.changes);
    }
}

#[async_trait]
impl Worker for Writer {
    fn name(&self) -> &'static str {
        "keep"
    }

    async fn round(&mut self, _: &Report) -> Round {
        match self.tend().await {
            Ok(()) => Round::Done(EVERY),
            Err(error) => Round::Failed(error.to_string(), AFTER_FAILURE),
        }
    }

    async fn stop(&mut self) {
        if let Err(error) = self.write().await {
            tracing::error!(%error, "the last uses could not be written down");
        }
    }
}
