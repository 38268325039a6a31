//! What a tag means: from memory while it is fresh, by asking upstream once for everybody when it
//! is not, and from the last complete image when upstream cannot say.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::absences::Absent;
use super::error::PullError;
use super::manifest::{ManifestAnswer, ManifestWant};
use super::outcome::{MissReason, Outcome};
use super::{Puller, Site, decide, in_time};
use crate::oci::{Digest, MediaType, Reference, Tag};
use crate::scope::Scope;
use crate::store::TagRecord;
use crate::upstream::Upstream;

/// When asking upstream takes at least this long and fails, the failure is remembered for the
/// upstream's `absent_ttl`: the herd gets the stale answer without waiting for its own time-out.
/// Refusals and rate limits are remembered however quickly they came: asking on makes them worse.
const SLOW_FAILURE: Duration = Duration::from_secs(1);

/// What upstream says a tag means.
#[derive(Clone, Debug)]
pub(super) struct Confirmed {
    pub(super) digest: Digest,
    media_type: Option<MediaType>,
    size: Option<u64>,
    /// The manifest itself came with the answer and is kept.
    fetched: bool,
}

impl Puller {
    pub(super) async fn by_tag(
        &self,
        site: &Site,
        scope: &Scope,
        tag: &Tag,
        want: ManifestWant,
        deadline: Instant,
    ) -> Result<ManifestAnswer, PullError> {
        let latest = self.latest(scope, tag).await;
        let now = self.clock.now();
        if let Some(latest) = &latest
            && decide::is_fresh(latest.confirmed_at, now, site.tags.tag_ttl)
        {
            let answer = in_time(deadline, self.by_digest(site, scope, &latest.digest, want)).await;
            return match answer {
                Ok(answer) => Ok(answer),
                Err(error) => self.stale(site, scope, tag, error).await,
            };
        }
        // A tag that is not known yet has to be fetched by GET anyway: one request does it.
        let by_get = latest.is_none() && want == ManifestWant::Content;
        let answer = in_time(deadline, async {
            let confirmed = self.ask(site, scope, tag, by_get).await?;
            self.by_confirmed(site, scope, latest.as_deref(), confirmed, want).await
        });
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(error) => self.stale(site, scope, tag, error).await,
        }
    }

    /// The latest confirmed meaning of the tag.
    pub(super) async fn latest(&self, scope: &Scope, tag: &Tag) -> Option<Arc<TagRecord>> {
        if let Some(record) = self.hot.tag(scope, tag) {
            return Some(record);
        }
        let record = self.history(scope, tag).await.into_iter().next()?;
        self.hot.put_tag(scope, tag, record.clone());
        Some(Arc::new(record))
    }

    async fn history(&self, scope: &Scope, tag: &Tag) -> Vec<TagRecord> {
        self.meta.tag_history(scope, tag).await.unwrap_or_else(|error| {
            tracing::error!(%scope, %tag, %error, "cannot read what a tag meant");
            Vec::new()
        })
    }

    /// Asks upstream what the tag means, unless it just failed to say or said that there is none.
    pub(super) async fn ask(
        &self,
        site: &Site,
        scope: &Scope,
        tag: &Tag,
        by_get: bool,
    ) -> Result<Confirmed, PullError> {
        let reference = Reference::Tag(tag.clone());
        let remembered = self
            .absences
            .get(scope, &Absent::Manifest(reference))
            .or_else(|| self.absences.get(scope, &Absent::Confirmation(tag.clone())));
        if let Some(error) = remembered {
            return Err(error);
        }
        let asked_at = Instant::now();
        let puller = self.clone();
        let (upstream, asked, name) = (self.asking(site), scope.clone(), tag.clone());
        let absent_ttl = site.tags.absent_ttl;
        self.confirmations
            .run((scope.clone(), tag.clone(), by_get), || async move {
                let confirmed = puller.confirm(&upstream, &asked, &name, by_get).await;
                if let Err(error) = &confirmed
                    && (asked_at.elapsed() >= SLOW_FAILURE || error.is_answer())
                {
                    let absent = Absent::Confirmation(name);
                    puller.absences.remember(&asked, absent, error, absent_ttl);
                }
                confirmed
            })
            .await?
    }

    /// One question to upstream, and the record of its answer. Runs as a task of the process.
    async fn confirm(
        &self,
        upstream: &Upstream,
        scope: &Scope,
        tag: &Tag,
        by_get: bool,
    ) -> Result<Confirmed, PullError> {
        let answer = self.question(upstream, scope, tag, by_get).await;
        let now = self.clock.now();
        match &answer {
            Ok(confirmed) => {
                let record = TagRecord {
                    digest: confirmed.digest,
                    media_type: confirmed.media_type.as_ref().map(|m| m.as_str().to_owned()),
                    size: confirmed.size,
                    confirmed_at: now,
                };
                self.hot.put_tag(scope, tag, record.clone());
                if let Err(error) = self.meta.put_tag(scope, tag, &record).await {
                    tracing::error!(%scope, %tag, %error, "cannot record what a tag means");
                }
                self.note_access(scope).await;
            }
            // Only where there is something to be denied: registries refuse made-up names, too,
            // and those must not fill the database.
            Err(error) if !self.history(scope, tag).await.is_empty() => {
                self.note_denial(scope, error).await;
            }
            Err(_) => {}
        }
        answer
    }

    async fn question(
        &self,
        upstream: &Upstream,
        scope: &Scope,
        tag: &Tag,
        by_get: bool,
    ) -> Result<Confirmed, PullError> {
        let reference = Reference::Tag(tag.clone());
        if !by_get {
            match upstream.head_manifest(&scope.repo, &reference).await {
                Ok(head) => {
                    if let Some(digest) = head.digest {
                        let (media_type, size) = (head.media_type, head.size);
                        return Ok(Confirmed { digest, media_type, size, fetched: false });
                    }
                    // Without a digest HEAD has said too little.
                }
                Err(error) => return Err(PullError::of_manifest(error)),
            }
        }
        let fetched =
            upstream.get_manifest(&scope.repo, &reference).await.map_err(PullError::of_manifest)?;
        let kept = self.keep(upstream, scope, fetched, None).await?;
        Ok(Confirmed {
            digest: kept.digest,
            media_type: Some(kept.media_type),
            size: Some(kept.bytes.len() as u64),
            fetched: true,
        })
    }

    async fn by_confirmed(
        &self,
        site: &Site,
        scope: &Scope,
        latest: Option<&TagRecord>,
        confirmed: Confirmed,
        want: ManifestWant,
    ) -> Result<ManifestAnswer, PullError> {
        let Confirmed { digest, media_type, size, fetched } = confirmed;
        let outcome = match latest {
            None => Outcome::Miss(MissReason::NotCached),
            Some(latest) if latest.digest != digest => Outcome::Miss(MissReason::TagMoved),
            Some(_) if fetched => Outcome::Miss(MissReason::NotCached),
            Some(_) => Outcome::Revalidated,
        };
        if let Some(kept) = self.kept(scope, &digest).await {
            return Ok(kept.answer(outcome));
        }
        if want == ManifestWant::Head
            && let Some(answer) = ManifestAnswer::of_head(digest, media_type, size, outcome)
        {
            return Ok(answer);
        }
        self.by_digest(site, scope, &digest, ManifestWant::Content).await
    }

    /// The last complete image that the tag meant, with a warning; `error` if there is none or
    /// the rules forbid it.
    async fn stale(
        &self,
        site: &Site,
        scope: &Scope,
        tag: &Tag,
        error: PullError,
    ) -> Result<ManifestAnswer, PullError> {
        if !self.may_serve_stale(site, scope).await {
            return Err(error);
        }
        let now = self.clock.now();
        let mut history = self.history(scope, tag).await;
        if history.is_empty() {
            history.extend(self.hot.tag(scope, tag).as_deref().cloned());
        }
        for record in history {
            if !self.is_complete(scope, &record.digest).await {
                continue;
            }
            let Some(kept) = self.kept(scope, &record.digest).await else { continue };
            let reason = decide::stale_reason(&error);
            let outcome = Outcome::Stale(reason);
            self.metrics.stale_answer(outcome.reason());
            tracing::warn!(%scope, %tag, %error, digest = %record.digest, "served a stale tag");
            let mut answer = kept.answer(outcome);
            let age = Duration::from_secs(now.since(record.confirmed_at).as_secs());
            answer.warnings.push(format!(
                "{} could not confirm {}:{tag} ({error}); this is the copy that was confirmed {} ago",
                scope.upstream,
                scope.repo,
                humantime::format_duration(age),
            ));
            return Ok(answer);
        }
        Err(error)
    }
}
