//! Listing referrers: upstream's answer, kept as long as a tag, with the fallback tag where
//! upstream lacks the endpoint.
//!
//! Source: OCI distribution-spec, sections "Listing Referrers" and "Unavailable Referrers API".

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::decide::Decision;
use super::error::PullError;
use super::outcome::{MissReason, Outcome};
use super::{Puller, Site, decide, in_time};
use crate::oci::{Digest, Reference};
use crate::scope::Scope;
use crate::store::{Document, DocumentKind};
use crate::upstream::{ErrorKind, Referrers, Upstream};

/// The largest list of referrers that is kept, in bytes. The specification limits a page to this.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The manifests that refer to one.
#[derive(Clone, Debug)]
pub struct ReferrersAnswer {
    /// Their descriptors, as upstream wrote them.
    pub manifests: Vec<Value>,
    /// The cache's part.
    pub outcome: Outcome,
    /// For the `Warning` headers.
    pub warnings: Vec<String>,
}

impl Puller {
    /// The manifests in `scope` that refer to `digest`; none is an answer too. Cancel-safe.
    pub async fn referrers(
        &self,
        scope: &Scope,
        digest: &Digest,
    ) -> Result<ReferrersAnswer, PullError> {
        let site = self.site(scope)?;
        let key = digest.to_string();
        let known = self.meta.document(scope, DocumentKind::Referrers, &key).await;
        let known = known.unwrap_or_else(|error| {
            tracing::error!(%scope, %digest, %error, "cannot read the known referrers");
            None
        });
        let now = self.clock.now();
        if let Some(document) = &known
            && decide::is_fresh(document.fetched_at, now, site.tags.tag_ttl)
            && let Some(manifests) = decode(&document.bytes)
        {
            return Ok(ReferrersAnswer { manifests, outcome: Outcome::Hit, warnings: Vec::new() });
        }
        match in_time(self.deadline(), self.ask_referrers(site, scope, digest)).await {
            Ok(manifests) => {
                let outcome = Outcome::Miss(MissReason::NotCached);
                Ok(ReferrersAnswer { manifests: manifests.to_vec(), outcome, warnings: Vec::new() })
            }
            Err(error) => {
                if known.is_some() {
                    self.note_denial(scope, &error).await;
                }
                let reason = decide::stale_reason(&error);
                let Some((manifests, fetched_at)) = known
                    .as_ref()
                    .and_then(|document| Some((decode(&document.bytes)?, document.fetched_at)))
                else {
                    return Err(error);
                };
                let known = self.known(site, scope, fetched_at).await;
                if let Decision::Refused(row) = known.after_failure(reason, true) {
                    self.metrics.stale_refused(row);
                    return Err(error);
                }
                let outcome = Outcome::Stale(reason);
                self.metrics.stale_answer(outcome.reason());
                let warning = format!(
                    "{} could not be asked for referrers ({error}); this is its last answer",
                    scope.upstream
                );
                Ok(ReferrersAnswer { manifests, outcome, warnings: vec![warning] })
            }
        }
    }

    async fn ask_referrers(
        &self,
        site: &Site,
        scope: &Scope,
        digest: &Digest,
    ) -> Result<Arc<[Value]>, PullError> {
        let puller = self.clone();
        let (upstream, asked, subject) = (self.asking(site), scope.clone(), *digest);
        self.referrers_gets
            .run((scope.clone(), *digest), || async move {
                let manifests = puller.fetch_referrers(&upstream, &asked, &subject).await?;
                puller.keep_referrers(&asked, &subject, &manifests).await;
                Ok(manifests.into())
            })
            .await?
    }

    async fn fetch_referrers(
        &self,
        upstream: &Upstream,
        scope: &Scope,
        digest: &Digest,
    ) -> Result<Vec<Value>, PullError> {
        match upstream.referrers(&scope.repo, digest).await.map_err(PullError::of_manifest)? {
            Referrers::Listed { descriptors, truncated } => {
                if truncated {
                    tracing::warn!(%scope, %digest, "more referrers than are read; the rest is left out");
                }
                Ok(descriptors)
            }
            Referrers::Unsupported => {
                let tag = format!("{}-{}", digest.algorithm(), digest.encoded());
                // sha512 in full is longer than a tag may be; the specification cuts it.
                let tag = tag.get(..crate::oci::tag::TAG_BYTES_MAX).unwrap_or(&tag);
                let Ok(tag) = tag.parse() else { return Ok(Vec::new()) };
                match upstream.get_manifest(&scope.repo, &Reference::Tag(tag)).await {
                    Ok(fetched) => Ok(decode(&fetched.bytes).unwrap_or_default()),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
                    Err(error) => Err(PullError::of_manifest(error)),
                }
            }
        }
    }

    async fn keep_referrers(&self, scope: &Scope, digest: &Digest, manifests: &[Value]) {
        let bytes = serde_json::json!({ "manifests": manifests }).to_string();
        if bytes.len() > KEPT_BYTES_MAX {
            tracing::warn!(%scope, %digest, bytes = bytes.len(), "too many referrers to keep");
            return;
        }
        let document = Document { bytes: Bytes::from(bytes), fetched_at: self.clock.now() };
        let key = digest.to_string();
        let kept = self.meta.put_document(scope, DocumentKind::Referrers, &key, &document).await;
        if let Err(error) = kept {
            tracing::error!(%scope, %digest, %error, "cannot keep referrers");
        }
    }
}

/// The descriptors of an index, as they stand there.
fn decode(bytes: &[u8]) -> Option<Vec<Value>> {
    let mut index: Value = serde_json::from_slice(bytes).ok()?;
    match index.get_mut("manifests")?.take() {
        Value::Array(manifests) => Some(manifests),
        _ => None,
    }
}
