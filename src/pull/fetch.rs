//! The leader's work: what is needed first is asked for, room is made, and the two sides of the
//! fill are run: the fetching ([`fill`](super::fill)) and the landing ([`verify`](super::verify)).

use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::clients::FillPlace;
use super::condemned::Condemned;
use super::demand::FirstNeed;
use super::fill::{Begun, Fill};
use super::flight::{Content, FillError, Passing, Permit};
use super::lane::Source;
use super::links::Links;
use super::metrics::PullMetrics;
use super::plan::{SEGMENT_MIN_BYTES, segment_of, whole_grains};
use super::private::Refetch;
use super::ring::{RING_BYTES_MAX, Ring};
use super::settings::FillSettings;
use super::verify::{LANDING_CHUNKS_MAX, Landed, Landing, Place};
use crate::background::Tasks;
use crate::oci::{Digest, Verified};
use crate::scope::Scope;
use crate::spans::Spans;
use crate::store::hot::HOT_BLOB_BYTES_MAX;
use crate::store::{Blob, BlobStore, Expect, Recorded, Spool, StoreError, Uses};
use crate::telemetry::{Cause, Span};
use crate::upstream::{BlobPart, ErrorKind, Failure, Upstream, UpstreamError};

/// What became of a fill, in a trace: the words of `pierhead_fills_total`, or `stored_before`.
const RESULT: &str = "pierhead.fill.result";

/// What was opened for a fill.
struct Opened {
    begun: Begun,
    place: Place,
}

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

    /// Starts the task that brings the blob of `permit`, asked for through `scope`, where it may be
    /// `size_hint` bytes long; it has the `place` of the client that asked first. It belongs to the process: no client's going away ends it.
    pub fn start(
        &self,
        permit: Permit,
        (upstream, scope, size_hint): (Upstream, Scope, Option<u64>),
        place: Option<FillPlace>,
    ) {
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
        let fill = async move {
            fetcher.fill(permit, (&upstream, &scope, size_hint), (slot, place), &mut span).await
        };
        // Shutdown waits until it has parked what has landed.
        self.tasks.spawn_answering("fill", cause.within(fill));
    }

    async fn fill(
        self,
        permit: Permit,
        (upstream, scope, size_hint): (&Upstream, &Scope, Option<u64>),
        places: (OwnedSemaphorePermit, Option<FillPlace>),
        span: &mut Span,
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
        let source = Source { upstream: upstream.clone(), scope: scope.clone(), digest };
        let Opened { begun, place } = match self.open(&source, size_hint, &permit, &refetch).await {
            Ok(opened) => opened,
            Err(error) => {
                self.ended(scope, &digest, &error, span);
                permit.fail(error);
                return;
            }
        };
        permit.demands().has_size(begun.total);
        permit.growing(begun.total, begun.landed.clone(), place.content());

        let (sender, arrivals) = mpsc::channel(LANDING_CHUNKS_MAX);
        let landing = Landing {
            place,
            landed: begun.landed.clone(),
            total: begun.total,
            refetch,
            expected: digest,
            bytes_max: self.settings.blob_bytes_max,
            offload: self.settings.offload,
        };
        let how = (&self.settings, &self.metrics);
        let fill = Fill::new(source, &permit, how, self.tasks.stopping(), sender, begun);
        let landed = {
            let mut landing = pin!(landing.run(&permit, arrivals));
            tokio::select! {
                biased;
                landed = &mut landing => landed,
                () = fill.drive() => landing.await,
            }
        };
        match landed {
            Landed::Stored(blob) => {
                // A spool that was in use when this fill began may have been left since.
                if let Err(error) = self.blobs.remove_parked(&permit.key().spool()).await {
                    tracing::warn!(%scope, %digest, %error, "a spool of a stored blob stays");
                }
                self.metrics.fill_ended("stored");
                self.uses.came_from(&digest, &scope.upstream);
                span.set(RESULT, || "stored");
                span.set("pierhead.bytes", || i64::try_from(blob.len()).unwrap_or(i64::MAX));
                tracing::debug!(%scope, %digest, bytes = blob.len(), "blob stored");
            }
            Landed::Passed => {
                self.metrics.fill_ended("passed");
                span.set(RESULT, || "passed");
            }
            Landed::Parked => {
                self.metrics.fill_ended("parked");
                span.set(RESULT, || "parked");
                tracing::info!(
                    %scope, %digest, landed = permit.landed_bytes(),
                    "a fill that nobody reads waits for the next reader"
                );
            }
            Landed::NotKept(error) => {
                self.metrics.fill_ended("not_kept");
                span.set(RESULT, || "not_kept");
                span.fail(|| error.to_string().into());
                tracing::error!(%scope, %digest, %error, "a verified blob could not be stored");
            }
            Landed::Failed(error) => {
                // A client that tries again at once must find the digest condemned.
                self.ended(scope, &digest, &error, span);
                permit.fail(error);
            }
        }
        drop(places);
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

    /// Finds what an earlier fill left, asks upstream for what is needed first, and makes room:
    /// everything that can fail before the first byte.
    async fn open(
        &self,
        source: &Source,
        size_hint: Option<u64>,
        permit: &Permit,
        refetch: &Arc<Refetch>,
    ) -> Result<Opened, FillError> {
        let Source { upstream, scope, digest } = source;
        let (mut spool, mut no_spool) = match self.spool(permit).await {
            Ok(spool) => (Some(spool), None),
            Err(error) => (None, Some(error)),
        };
        let recorded = spool.as_ref().map(|spool| spool.recorded().clone()).unwrap_or_default();
        let Recorded { mut landed, size: known } = recorded;
        if permit.is_strict() || !self.settings.serve_unverified_ranges {
            // Nothing of it is seen before all of it is there.
            permit.demands().want_whole();
        }
        let mut begun = self.ask(source, known.or(size_hint), &landed, permit).await?;
        if begun.total.is_none() {
            // What the part that is here was part of.
            begun.total = known;
        }
        if begun.total.is_none() {
            // Clients resume and show progress by size: ask for it once more before doing without.
            match upstream.head_blob(&scope.repo, digest).await {
                Ok(head) => begun.total = head.size,
                Err(error) => tracing::debug!(%scope, %digest, %error, "no size from HEAD either"),
            }
        }
        let max = self.settings.blob_bytes_max;
        if begun.total.is_some_and(|size| size > max) {
            return Err(FillError::TooLarge { max });
        }
        let differs = known.is_some_and(|known| begun.total != Some(known));
        if differs || begun.total.is_some_and(|total| landed.end() > total) {
            tracing::warn!(
                %scope, %digest, before = known, now = begun.total,
                "upstream announces another size than for the part that is here: that is not used"
            );
            if let Some(spool) = spool.take() {
                let _ = self.settings.offload.run(move || spool.discard()).await;
            }
            (spool, no_spool) = match self.spool(permit).await {
                Ok(spool) => (Some(spool), None),
                Err(error) => (None, Some(error)),
            };
            landed = Spans::new();
            begun.first = None;
        }
        self.links.record_blob(scope, digest).await;
        self.metrics.continued(landed.len());
        begun.landed = landed;

        let is_whole = permit.demands().wishes().whole;
        let made = match (spool, begun.total) {
            (None, _) => Err(no_spool),
            (Some(mut spool), Some(total)) if is_whole => {
                let reserved = self.settings.offload.run(move || {
                    let reserved = spool.expect_whole(total);
                    (spool, reserved)
                });
                match reserved.await {
                    Ok((spool, Ok(()))) => Ok(spool),
                    Ok((spool, Err(error))) => {
                        let _ = self.settings.offload.run(move || drop(spool)).await;
                        Err(Some(StoreError::io("make room for a blob", error)))
                    }
                    Err(_) => return Err(FillError::Abandoned),
                }
            }
            (Some(spool), _) => Ok(spool),
        };
        let place = match made {
            Ok(spool) => Place::Spool(spool),
            // What may not be seen before it is verified has to be somewhere until then.
            Err(error)
                if permit.is_strict() && begun.total.is_none_or(|size| size > RING_BYTES_MAX) =>
            {
                return Err(error.map_or(FillError::Abandoned, FillError::Store));
            }
            Err(error) => {
                let error = error.map(|error| error.to_string());
                tracing::warn!(%scope, %digest, error, "a blob is passed on without being stored");
                // It passes in order, from its beginning.
                begun.landed = Spans::new();
                begun.first = begun.first.filter(|(_, span)| span.start == 0);
                let ring = Ring::beginning_at(0);
                Place::Ring(Arc::new(Passing { before: None, ring, refetch: Arc::clone(refetch) }))
            }
        };
        Ok(Opened { begun, place })
    }

    /// What an earlier fill left, or a new spool.
    async fn spool(&self, permit: &Permit) -> Result<Box<dyn Spool>, StoreError> {
        let key = permit.key().spool();
        if permit.is_strict() {
            // What was left may be what was wrong.
            self.blobs.remove_parked(&key).await?;
        }
        self.blobs.resume(&key, Expect::Parts).await
    }

    /// Asks upstream for the part that is needed first. Its answer proves that the repository has
    /// the blob; where nothing is lacking, a HEAD does.
    async fn ask(
        &self,
        source: &Source,
        size: Option<u64>,
        landed: &Spans,
        permit: &Permit,
    ) -> Result<Begun, FillError> {
        let Source { upstream, scope, digest } = source;
        let mut size = size;
        let need = permit.demands().first_need();
        if matches!(need, FirstNeed::Last(_)) && size.is_none() {
            size = upstream.head_blob(&scope.repo, digest).await?.size;
        }
        let wishes = permit.demands().wishes();
        let end = size.unwrap_or(u64::MAX);
        let (from, until) = match need {
            FirstNeed::From(from) => (from, end),
            FirstNeed::Span(span) => (span.start, whole_grains(span.end).min(end)),
            // Without a size there are no last bytes to ask for.
            FirstNeed::Last(_) if size.is_none() => (0, end),
            FirstNeed::Last(len) => (end.saturating_sub(len), end),
        };
        let mut gap = landed.first_gap(from..until);
        if wishes.whole {
            gap = gap.or_else(|| landed.first_gap(0..end));
        }
        let proven = |size| Begun { total: size, landed: Spans::new(), first: None };
        let Some(gap) = gap else {
            return Ok(proven(upstream.head_blob(&scope.repo, digest).await?.size));
        };
        let parallel_above = self.settings.parallel_above;
        let segment = match size {
            Some(size) => segment_of(size, wishes.in_parts, parallel_above),
            None if wishes.in_parts => SEGMENT_MIN_BYTES,
            None => u64::MAX,
        };
        let until = gap.end.min(gap.start.saturating_add(segment));
        let is_whole = gap.start == 0 && (until == u64::MAX || size == Some(until));
        let part = match until {
            _ if is_whole => BlobPart::whole(),
            u64::MAX => BlobPart::from(gap.start),
            until => BlobPart::span(gap.start..until),
        };
        match upstream.get_blob(&scope.repo, digest, &part).await {
            Ok(body) => {
                let total = body.size;
                let until = match total {
                    Some(total) => until.min(total),
                    // Without a size only upstream knows where the whole ends.
                    None if is_whole || body.is_range_ignored => u64::MAX,
                    None => until,
                };
                let first = (gap.start < until).then_some((body, gap.start..until));
                Ok(Begun { total, landed: Spans::new(), first })
            }
            // The part begins behind the end: whoever wanted it is going to be told the size.
            Err(UpstreamError { failure: Failure::UnexpectedStatus { status: 416 }, .. })
                if !is_whole =>
            {
                Ok(proven(upstream.head_blob(&scope.repo, digest).await?.size))
            }
            Err(error) => Err(error.into()),
        }
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
            FillError::Changed { .. } => {
                tracing::warn!(%scope, %digest, %error, "a fill failed");
                "upstream"
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
