//! Listing tags: upstream's pages, and what is known here when upstream cannot say.

use super::decide::Decision;
use super::error::PullError;
use super::outcome::Outcome;
use super::{Puller, decide, in_time};
use crate::oci::Tag;
use crate::scope::Scope;
use crate::upstream::{ErrorKind, NextTags};

/// The most tags on one page. A client that asks for more gets this many and a `Link`.
pub const TAGS_PAGE_MAX: u32 = 1000;

/// One page of tags.
#[derive(Clone, Debug)]
pub struct TagsAnswer {
    /// The tags, in upstream's order.
    pub tags: Vec<Tag>,
    /// Where the next page begins.
    pub next: Option<NextTags>,
    /// The cache's part.
    pub outcome: Outcome,
    /// For the `Warning` headers.
    pub warnings: Vec<String>,
}

impl Puller {
    /// The tags of `scope` after `last`, at most `n` of them. Cancel-safe.
    pub async fn tags(
        &self,
        scope: &Scope,
        n: Option<u32>,
        last: Option<&str>,
    ) -> Result<TagsAnswer, PullError> {
        let site = self.site(scope)?;
        let n = n.map(|n| n.min(TAGS_PAGE_MAX));
        let (upstream, repo) = (self.asking(site), scope.repo.clone());
        let after = last.map(str::to_owned);
        let page = in_time(self.deadline(), async {
            self.tag_pages
                .run((scope.clone(), n, after.clone()), || async move {
                    upstream.tags(&repo, n, after.as_deref()).await
                })
                .await?
                .map_err(|error| match error.kind() {
                    ErrorKind::NotFound => PullError::NameUnknown,
                    _ => PullError::Upstream(error),
                })
        })
        .await;
        match page {
            Ok(page) => Ok(TagsAnswer {
                tags: page.tags,
                next: page.next,
                outcome: Outcome::Passed,
                warnings: Vec::new(),
            }),
            Err(PullError::NameUnknown) => Err(PullError::NameUnknown),
            Err(error) => self.known_tags(scope, n, last, error).await,
        }
    }

    async fn known_tags(
        &self,
        scope: &Scope,
        n: Option<u32>,
        last: Option<&str>,
        error: PullError,
    ) -> Result<TagsAnswer, PullError> {
        let site = self.site(scope)?;
        let limit = n.unwrap_or(TAGS_PAGE_MAX);
        let tags = self.meta.tags(scope, last, limit).await.map_err(PullError::Store)?;
        if tags.is_empty() && last.is_none() {
            return Err(error);
        }
        self.note_denial(scope, &error).await;
        // The list has no age: only a row that bridges nothing forbids it, and lost access.
        let reason = decide::stale_reason(&error);
        let known = self.known(site, scope, self.clock.now()).await;
        if let Decision::Refused(row) = known.after_failure(reason, true) {
            self.metrics.stale_refused(row);
            return Err(error);
        }
        let full = u32::try_from(tags.len()).is_ok_and(|len| len == limit);
        let next = tags.last().filter(|_| full);
        let next = next.map(|tag| NextTags { n: Some(limit), last: tag.to_string() });
        let outcome = Outcome::Stale(reason);
        self.metrics.stale_answer(outcome.reason());
        Ok(TagsAnswer {
            tags,
            next,
            outcome,
            warnings: vec![format!(
                "{} could not be asked ({error}); these are the tags that were pulled through here",
                scope.upstream
            )],
        })
    }
}
