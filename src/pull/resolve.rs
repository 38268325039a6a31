//! What a tag means: from memory while it is fresh, by asking upstream once for everybody when it
//! is not, and from the last complete image when upstream cannot say.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::absences::Absent;
use super::decide::{Decision, Known, Opening, Prospect, Row};
use super::error::PullError;
use super::manifest::{ManifestAnswer, ManifestWant};
use super::outcome::{MissReason, Outcome, StaleReason};
use super::{Puller, Site, decide, in_time};
use crate::clock::Timestamp;
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
        if let Some(latest) = &latest {
            if decide::is_fresh(latest.confirmed_at, self.clock.now(), site.tags.tag_ttl) {
                self.note_pulled(scope, tag, latest.confirmed_at);
                let answer = self.by_digest(site, scope, &latest.digest, want);
                return match in_time(deadline, answer).await {
                    Ok(answer) => Ok(answer),
                    Err(error) => self.stale(site, scope, tag, error).await,
                };
            }
            if let Some(answer) = self.without_asking(site, scope, tag, latest).await {
                return Ok(answer);
            }
        }
        // A tag that is not known yet has to be fetched by GET anyway: one request does it.
        let by_get = latest.is_none() && want == ManifestWant::Content;
        let answer = in_time(deadline, async {
            let confirmed = self.ask(site, scope, tag, by_get).await?;
            self.by_confirmed(site, scope, latest.as_deref(), confirmed, want).await
        });
        match answer.await {
            Ok(answer) => {
                self.note_pulled(scope, tag, self.clock.now());
                Ok(answer)
            }
            Err(error) => self.stale(site, scope, tag, error).await,
        }
    }

    /// What is served of a tag whose time is up before upstream is asked, if anything is.
    async fn without_asking(
        &self,
        site: &Site,
        scope: &Scope,
        tag: &Tag,
        latest: &TagRecord,
    ) -> Option<ManifestAnswer> {
        let known = self.known_tag(site, scope, tag, latest.confirmed_at).await;
        let exhausted_until = site.upstream.exhausted_until();
        match known.opening(self.prospect(scope, tag, exhausted_until)) {
            Opening::Serve(row) => {
                let kept = self.kept(scope, &latest.digest).await?;
                Some(kept.answer(match row {
                    Row::Pinned => Outcome::Pinned,
                    Row::WhileRevalidate => {
                        self.confirm_later(scope, tag);
                        Outcome::Revalidating
                    }
                    _ => Outcome::Hit,
                }))
            }
            Opening::ServeIfComplete(_) => {
                let wait = exhausted_until.map_or(Duration::ZERO, |until| until.since(known.now));
                let why = format!(
                    "{} is not asked about {}:{tag}, because its allowance is used up for {} more",
                    scope.upstream,
                    scope.repo,
                    rough(wait),
                );
                self.last_complete(site, scope, tag, StaleReason::RateLimited, &why).await.ok()
            }
            Opening::Ask => None,
        }
    }

    /// What a decision about the tag depends on, if upstream last confirmed it then.
    pub(super) async fn known_tag<'s>(
        &self,
        site: &'s Site,
        scope: &Scope,
        tag: &Tag,
        confirmed_at: Timestamp,
    ) -> Known<'s> {
        let is_pinned = site.tags.stale.pins(&scope.repo, tag);
        Known { is_pinned, ..self.known(site, scope, confirmed_at).await }
    }

    pub(super) fn prospect(
        &self,
        scope: &Scope,
        tag: &Tag,
        exhausted_until: Option<Timestamp>,
    ) -> Prospect {
        let is_exhausted = exhausted_until.is_some();
        Prospect { is_exhausted, is_doubted: self.refresher.is_doubted(scope, tag) }
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
                self.refresher.confirmed(scope, tag, now);
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
    /// the policy forbids it.
    async fn stale(
        &self,
        site: &Site,
        scope: &Scope,
        tag: &Tag,
        error: PullError,
    ) -> Result<ManifestAnswer, PullError> {
        let reason = decide::stale_reason(&error);
        let (upstream, repo) = (&scope.upstream, &scope.repo);
        let why = format!("{upstream} could not confirm {repo}:{tag} ({error})");
        match self.last_complete(site, scope, tag, reason, &why).await {
            Ok(answer) => Ok(answer),
            Err(row) => {
                if let Some(row) = row {
                    self.metrics.stale_refused(row);
                    tracing::warn!(
                        %scope, %tag, %error, row = row.as_str(), "a known tag was not served stale"
                    );
                }
                Err(error)
            }
        }
    }

    /// The last complete image that the tag meant, as `reason` allows, with a warning that says
    /// `why`; else the row that forbids the latest one, if the tag is known at all.
    async fn last_complete(
        &self,
        site: &Site,
        scope: &Scope,
        tag: &Tag,
        reason: StaleReason,
        why: &str,
    ) -> Result<ManifestAnswer, Option<Row>> {
        let mut history = self.history(scope, tag).await;
        if history.is_empty() {
            history.extend(self.hot.tag(scope, tag).as_deref().cloned());
        }
        let mut refused = None;
        for record in history {
            let known = self.known_tag(site, scope, tag, record.confirmed_at).await;
            let row = match known.after_failure(reason, true) {
                Decision::Served(row) => row,
                Decision::Refused(row) => {
                    refused.get_or_insert(row);
                    continue;
                }
            };
            let kept = if self.is_complete(scope, &record.digest).await {
                self.kept(scope, &record.digest).await
            } else {
                None
            };
            let Some(kept) = kept else {
                refused.get_or_insert(Row::Incomplete);
                continue;
            };
            let outcome = Outcome::Stale(reason);
            self.metrics.stale_answer(outcome.reason());
            tracing::warn!(
                %scope, %tag, why, row = row.as_str(), digest = %record.digest, "served a stale tag"
            );
            let mut answer = kept.answer(outcome);
            let age = rough(known.now.since(record.confirmed_at));
            answer.warnings.push(format!("{why}; this is the copy that was confirmed {age} ago"));
            return Ok(answer);
        }
        Err(refused)
    }
}

/// A length of time in words, in whole seconds.
pub(super) fn rough(duration: Duration) -> String {
    humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
}
