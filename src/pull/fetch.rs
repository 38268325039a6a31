//! The leader's work: one GET of a blob from upstream into the landing.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::condemned::Condemned;
use super::flight::{Content, FillError, Passing, Permit};
use super::links::Links;
use super::metrics::PullMetrics;
use super::private::Refetch;
use super::ring::{RING_BYTES_MAX, Ring};
use super::settings::FillSettings;
use super::verify::{Arrival, LANDING_CHUNKS_MAX, Landed, Landing, Place};
use crate::background::Tasks;
use crate::oci::{Digest, Verified};
use crate::scope::Scope;
use crate::store::hot::HOT_BLOB_BYTES_MAX;
use crate::store::{Blob, BlobStore, Uses};
use crate::telemetry::{Cause, Span};
use crate::upstream::{BlobBody, BlobPart, ErrorKind, Upstream};

/// What became of a fill, in a trace: the words of `pierhead_fills_total`, or `stored_before`.
const RESULT: &str = "pierhead.fill.result";

/// Everything that a fill needs of the process.
#[derive(Clone, Debug)]
pub struct Fetcher {
    blobs: Arc<dyn BlobStore>,
    links: Links,
    condemned: Condemned,
    settings: FillSettings,
    slots: Arc<Semaphore>,
    /// Transfers of readers that fetch for themselves what cannot be stored.
    private_slots: Arc<Semaphore>,
    uses: Arc<dyn Uses>,
    tasks: Tasks,
    metrics: PullMetrics,
}

impl Fetcher {
    /// A fetcher with `settings.concurrent_max` free slots.
    pub fn new(
        blobs: Arc<dyn BlobStore>,
        links: Links,
        condemned: Condemned,
        settings: FillSettings,
        uses: Arc<dyn Uses>,
        tasks: Tasks,
        metrics: PullMetrics,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(settings.concurrent_max));
        let private_slots = Arc::new(Semaphore::new(settings.private_max));
        Self { blobs, links, condemned, settings, slots, private_slots, uses, tasks, metrics }
    }

    /// Starts the task that brings the blob of `permit`, asked for through `scope`. It belongs to
    /// the process: no client's going away ends it.
    pub fn start(&self, permit: Permit, upstream: Upstream, scope: Scope) {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.metrics.fill_ended("busy");
            permit.fail(FillError::Busy);
            return;
        };
        let fetcher = self.clone();
        let mut span = Span::fill();
        span.set("pierhead.upstream", || scope.upstream.to_string());
        span.set("pierhead.repository", || scope.repo.to_string());
        span.set("pierhead.digest", || permit.key().digest.to_string());
        let cause = span.cause(Cause::current().request);
        let fill = async move { fetcher.fill(permit, &upstream, &scope, (slot, &mut span)).await };
        self.tasks.spawn("fill", cause.within(fill));
    }

    async fn fill(
        self,
        permit: Permit,
        upstream: &Upstream,
        scope: &Scope,
        (slot, span): (OwnedSemaphorePermit, &mut Span),
    ) {
        let digest = permit.key().digest;
        if let Some(blob) = self.arrived_meanwhile(upstream, scope, &digest).await {
            span.set(RESULT, || "stored_before");
            permit.verified(blob.len(), Content::Kept(Arc::clone(blob.source())));
            return;
        }
        let refetch = Arc::new(Refetch {
            upstream: upstream.clone(),
            scope: scope.clone(),
            digest,
            bytes_max: self.settings.blob_bytes_max,
            slots: Arc::clone(&self.private_slots),
            condemned: self.condemned.clone(),
            metrics: self.metrics.clone(),
        });
        let (body, place) = match self.open(upstream, scope, &permit, &refetch).await {
            Ok(opened) => opened,
            Err(error) => {
                self.ended(scope, &digest, &error, span);
                permit.fail(error);
                return;
            }
        };
        permit.growing(body.size, place.content());

        let (sender, arrivals) = mpsc::channel(LANDING_CHUNKS_MAX);
        let bytes_max = self.settings.blob_bytes_max;
        let landing = Landing { permit, place, refetch, expected: digest, bytes_max };
        let landing = tokio::task::spawn_blocking(move || landing.run(arrivals));
        receive(body, &sender).await;
        drop(sender);

        match landing.await {
            Ok(Landed::Stored(blob)) => {
                self.metrics.fill_ended("stored");
                self.uses.came_from(&digest, &scope.upstream);
                span.set(RESULT, || "stored");
                span.set("pierhead.bytes", || i64::try_from(blob.len()).unwrap_or(i64::MAX));
                tracing::debug!(%scope, %digest, bytes = blob.len(), "blob stored");
            }
            Ok(Landed::Passed) => {
                self.metrics.fill_ended("passed");
                span.set(RESULT, || "passed");
            }
            Ok(Landed::NotKept(error)) => {
                self.metrics.fill_ended("not_kept");
                span.set(RESULT, || "not_kept");
                span.fail(|| error.to_string().into());
                tracing::error!(%scope, %digest, %error, "a verified blob could not be stored");
            }
            Ok(Landed::Failed(permit, error)) => {
                // A client that tries again at once must find the digest condemned.
                self.ended(scope, &digest, &error, span);
                permit.fail(error);
            }
            Err(error) => tracing::error!(%scope, %digest, %error, "a fill panicked"),
        }
        drop(slot);
    }

    /// The blob, if another fill stored it between the look into the store and the start of this
    /// one. Then the GET that would have proven that this repository has it is not made, so a HEAD
    /// proves it where nothing else did.
    async fn arrived_meanwhile(
        &self,
        upstream: &Upstream,
        scope: &Scope,
        digest: &Digest,
    ) -> Option<Blob> {
        let blob = self.blobs.open(digest).await.ok().flatten()?;
        if blob.len() <= HOT_BLOB_BYTES_MAX {
            // The look into the store may have found it damaged.
            let len = usize::try_from(blob.len()).ok()?;
            Verified::check(&blob.read_at(0, len).await.ok()?, digest).ok()?;
        }
        if !self.links.get(scope, digest).await.is_some_and(|link| link.is_proven()) {
            upstream.head_blob(&scope.repo, digest).await.ok()?;
            self.links.record_blob(scope, digest).await;
        }
        Some(blob)
    }

    /// Asks upstream and makes room: everything that can fail before the first byte.
    async fn open(
        &self,
        upstream: &Upstream,
        scope: &Scope,
        permit: &Permit,
        refetch: &Arc<Refetch>,
    ) -> Result<(BlobBody, Place), FillError> {
        let digest = &permit.key().digest;
        let mut body = upstream.get_blob(&scope.repo, digest, &BlobPart::whole()).await?;
        if body.size.is_none() {
            // Clients resume and show progress by size: ask for it once more before doing without.
            match upstream.head_blob(&scope.repo, digest).await {
                Ok(head) => body.size = head.size,
                Err(error) => tracing::debug!(%scope, %digest, %error, "no size from HEAD either"),
            }
        }
        let max = self.settings.blob_bytes_max;
        if body.size.is_some_and(|size| size > max) {
            return Err(FillError::TooLarge { max });
        }
        self.links.record_blob(scope, digest).await;
        let place = match self.blobs.spool(body.size).await {
            Ok(spool) => Place::Spool(spool),
            // What may not be seen before it is verified has to be somewhere until then.
            Err(error)
                if permit.is_strict() && body.size.is_none_or(|size| size > RING_BYTES_MAX) =>
            {
                return Err(error.into());
            }
            Err(error) => {
                tracing::warn!(%scope, %digest, %error, "a blob is passed on without being stored");
                let ring = Ring::beginning_at(0);
                let refetch = Arc::clone(refetch);
                Place::Ring(Arc::new(Passing { before: None, ring, refetch }))
            }
        };
        Ok((body, place))
    }

    fn ended(&self, scope: &Scope, digest: &Digest, error: &FillError, span: &mut Span) {
        let result = match error {
            FillError::Mismatch(mismatch) => {
                self.metrics.verification_failed();
                self.condemned.condemn(digest);
                tracing::error!(
                    %scope, expected = %mismatch.expected, actual = %mismatch.actual,
                    bytes = mismatch.len, "upstream sent wrong content; nothing of it was kept"
                );
                "mismatch"
            }
            FillError::Upstream(error) if error.kind() == ErrorKind::NotFound => "not_found",
            FillError::Upstream(error) => {
                tracing::warn!(%scope, %digest, %error, "a fill failed");
                "upstream"
            }
            FillError::Unread => {
                tracing::info!(%scope, %digest, "a blob that cannot be stored is not read either");
                "unread"
            }
            FillError::TooLarge { .. }
            | FillError::Busy
            | FillError::NoPrivate
            | FillError::Store(_)
            | FillError::Abandoned => {
                tracing::error!(%scope, %digest, %error, "a fill failed");
                "local"
            }
        };
        self.metrics.fill_ended(result);
        span.set(RESULT, || result);
        span.fail(|| error.to_string().into());
    }
}

/// Passes on what upstream sends, until its end, its failure, or the landing's.
async fn receive(mut body: BlobBody, sender: &mpsc::Sender<Arrival>) {
    loop {
        let arrival = match body.chunk().await {
            Ok(Some(bytes)) => Arrival::Chunk(bytes),
            Ok(None) => Arrival::End,
            Err(error) => Arrival::Failed(error),
        };
        let last = !matches!(arrival, Arrival::Chunk(_));
        if sender.send(arrival).await.is_err() || last {
            return;
        }
    }
}
