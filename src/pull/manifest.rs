//! Pulling a manifest by digest, and keeping what came.
//!
//! Manifests are kept byte for byte as they came. A digest that is kept never needs upstream
//! again; [`resolve`](super::resolve) says which digest a tag means.

use std::sync::Arc;

use bytes::Bytes;

use super::absences::Absent;
use super::error::PullError;
use super::outcome::{MissReason, Outcome};
use super::{Puller, Site, in_time};
use crate::hooks::{AdmissionRequest, Context};
use crate::oci::{Digest, MANIFEST_BYTES_MAX, Manifest, MediaType, Reference, Verified};
use crate::scope::Scope;
use crate::store::LinkKind;
use crate::upstream::{FetchedManifest, Upstream};

/// A manifest that can be answered.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    /// Its digest.
    pub digest: Digest,
    /// The media type under which upstream serves it.
    pub media_type: MediaType,
    /// Its size in bytes.
    pub size: u64,
    /// Its bytes. `None` for a HEAD that needed none.
    pub bytes: Option<Bytes>,
    /// The cache's part.
    pub outcome: Outcome,
    /// For the `Warning` headers.
    pub warnings: Vec<String>,
}

/// What the client wants of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ManifestWant {
    /// Only its digest, size and type: never costs upstream more than a HEAD where HEAD answers.
    Head,
    /// Its bytes.
    Content,
}

/// A manifest whose bytes are here.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) digest: Digest,
    pub(super) media_type: MediaType,
    pub(super) bytes: Bytes,
}

impl ManifestAnswer {
    /// What upstream's HEAD tells, if it is what its GET will tell: a generic type (`text/plain`)
    /// gives way to the one that the manifest itself names, so the manifest is needed then.
    pub(super) fn of_head(
        digest: Digest,
        media_type: Option<MediaType>,
        size: Option<u64>,
        outcome: Outcome,
    ) -> Option<Self> {
        let media_type = media_type.filter(|media_type| !media_type.is_generic())?;
        Some(Self { digest, media_type, size: size?, bytes: None, outcome, warnings: Vec::new() })
    }
}

impl Kept {
    pub(super) fn answer(self, outcome: Outcome) -> ManifestAnswer {
        ManifestAnswer {
            digest: self.digest,
            media_type: self.media_type,
            size: self.bytes.len() as u64,
            bytes: Some(self.bytes),
            outcome,
            warnings: Vec::new(),
        }
    }
}

impl Puller {
    /// The manifest `reference` of `scope`.
    ///
    /// Cancel-safe: what was begun goes on as a task of the process.
    pub async fn manifest(
        &self,
        context: &Context,
        scope: &Scope,
        reference: &Reference,
        want: ManifestWant,
    ) -> Result<ManifestAnswer, PullError> {
        let site = self.site(scope)?;
        let deadline = self.deadline();
        let answer = match reference {
            Reference::Digest(digest) => {
                in_time(deadline, self.by_digest(site, scope, digest, want)).await
            }
            Reference::Tag(tag) => self.by_tag(site, scope, tag, want, deadline).await,
        };
        let absent = Absent::Manifest(reference.clone());
        let mut answer = match answer {
            Ok(answer) => {
                self.absences.forget(scope, &absent);
                self.uses.used(&answer.digest);
                answer
            }
            Err(error) => {
                self.absences.note(scope, absent, &error, site.tags.absent_ttl);
                return Err(error);
            }
        };
        if let Some(bytes) = &answer.bytes {
            let config = if self.hooks.judges_manifests() {
                self.config_at_hand(bytes, &answer.media_type).await
            } else {
                None
            };
            let request = AdmissionRequest {
                config,
                scope: scope.clone(),
                reference: reference.clone(),
                digest: answer.digest,
                media_type: answer.media_type.clone(),
                bytes: bytes.clone(),
            };
            let allowed = self.hooks.admit(context, &request).await.map_err(PullError::Denied)?;
            answer.warnings.extend(allowed.warnings);
        }
        Ok(answer)
    }

    /// The manifest `digest`, from what is kept or from upstream.
    pub(super) async fn by_digest(
        &self,
        site: &Site,
        scope: &Scope,
        digest: &Digest,
        want: ManifestWant,
    ) -> Result<ManifestAnswer, PullError> {
        if let Some(kept) = self.kept(scope, digest).await {
            return Ok(kept.answer(Outcome::Hit));
        }
        let reference = Reference::Digest(*digest);
        if let Some(error) = self.absences.get(scope, &Absent::Manifest(reference.clone())) {
            return Err(error);
        }
        if want == ManifestWant::Head
            && let Some(answer) = self.head_by_digest(site, scope, digest).await?
        {
            return Ok(answer);
        }
        let puller = self.clone();
        let (upstream, asked, wanted) = (self.asking(site), scope.clone(), *digest);
        self.manifest_gets
            .run((scope.clone(), reference.clone()), || async move {
                // Stored bytes need a proof that this repository has them, and HEAD is one; a GET
                // would count against the rate limits of public registries.
                if let Some(bytes) = puller.kept_bytes(&wanted).await
                    && let Ok(head) = upstream.head_manifest(&asked.repo, &reference).await
                    && head.digest.is_none_or(|digest| digest == wanted)
                    && let Ok(manifest) = Manifest::parse(&bytes, head.media_type.as_ref())
                {
                    puller
                        .links
                        .record_manifest(&asked, &wanted, bytes.len() as u64, &manifest)
                        .await;
                    let media_type = manifest.media_type().clone();
                    let kept = Kept { digest: wanted, media_type, bytes };
                    return Ok((kept, MissReason::NotLinked));
                }
                let fetched = upstream
                    .get_manifest(&asked.repo, &reference)
                    .await
                    .map_err(PullError::of_manifest)?;
                let kept = puller.keep(&upstream, &asked, fetched, Some(wanted)).await?;
                Ok((kept, MissReason::NotCached))
            })
            .await?
            .map(|(kept, reason)| kept.answer(Outcome::Miss(reason)))
    }

    /// Upstream's HEAD of a manifest that is not kept; `None` if HEAD tells too little.
    async fn head_by_digest(
        &self,
        site: &Site,
        scope: &Scope,
        digest: &Digest,
    ) -> Result<Option<ManifestAnswer>, PullError> {
        let upstream = self.asking(site);
        let (repo, reference) = (scope.repo.clone(), Reference::Digest(*digest));
        let head = self
            .manifest_heads
            .run((scope.clone(), reference.clone()), || async move {
                upstream.head_manifest(&repo, &reference).await
            })
            .await?;
        match head {
            Ok(head) => {
                let outcome = Outcome::Miss(MissReason::NotCached);
                Ok(ManifestAnswer::of_head(*digest, head.media_type, head.size, outcome))
            }
            Err(error) => Err(PullError::of_manifest(error)),
        }
    }

    /// The manifest `digest` if it is kept and `scope` is known to have it.
    pub(super) async fn kept(&self, scope: &Scope, digest: &Digest) -> Option<Kept> {
        let link = self.links.get(scope, digest).await?;
        if link.kind != LinkKind::Manifest {
            return None;
        }
        let bytes = self.kept_bytes(digest).await?;
        let media_type = match link.media_type.as_deref().and_then(|text| text.parse().ok()) {
            Some(media_type) => media_type,
            None => Manifest::parse(&bytes, None).ok()?.media_type().clone(),
        };
        Some(Kept { digest: *digest, media_type, bytes })
    }

    /// The stored bytes of a manifest, whoever brought them.
    async fn kept_bytes(&self, digest: &Digest) -> Option<Bytes> {
        if let Some(bytes) = self.hot.bytes(digest) {
            return Some(bytes);
        }
        let blob = match self.blobs.open(digest).await {
            Ok(blob) => blob?,
            Err(error) => {
                tracing::error!(%digest, %error, "cannot open a stored manifest");
                return None;
            }
        };
        if blob.len() > MANIFEST_BYTES_MAX as u64 {
            return None;
        }
        let bytes = self.load(&blob).await?;
        // What an earlier process did not write down is known from now on.
        if let Ok(manifest) = Manifest::parse(&bytes, None) {
            self.uses.names(digest, manifest.parts());
        }
        Some(bytes)
    }

    /// Verifies what upstream sent and keeps it, with the links that follow from it. A store that
    /// fails does not fail the pull.
    pub(super) async fn keep(
        &self,
        upstream: &Upstream,
        scope: &Scope,
        fetched: FetchedManifest,
        asked_for: Option<Digest>,
    ) -> Result<Kept, PullError> {
        let FetchedManifest { bytes, media_type, digest_header, .. } = fetched;
        let expected = asked_for.or(digest_header).unwrap_or_else(|| Digest::sha256(&bytes));
        let verified = Verified::check(&bytes, &expected).map_err(|mismatch| {
            self.metrics.verification_failed();
            tracing::error!(%scope, %mismatch, "upstream sent a wrong manifest");
            PullError::WrongManifest(Arc::new(mismatch))
        })?;
        let manifest =
            Manifest::parse(&bytes, media_type.as_ref()).map_err(PullError::InvalidManifest)?;
        self.uses.names(&expected, manifest.parts());
        self.uses.came_from(&expected, &scope.upstream);
        if let Err(error) = self.blobs.put(verified, bytes.clone()).await {
            tracing::error!(%scope, digest = %expected, %error, "a manifest could not be stored");
        }
        self.hot.put_bytes(&verified, &bytes);
        self.links.record_manifest(scope, &expected, bytes.len() as u64, &manifest).await;
        self.prove_shared(upstream, scope, &manifest);
        Ok(Kept { digest: expected, media_type: manifest.media_type().clone(), bytes })
    }
}
