//! Forgetting on purpose: what operators do when they know better.

use std::collections::HashSet;

use super::Puller;
use super::absences::Absent;
use super::error::PullError;
use crate::oci::{Digest, Reference, Tag};
use crate::scope::Scope;

/// How many manifests are read to find out what belongs to an image. Beyond it a purge may take
/// the links of content that another tag needs, which costs a question to upstream.
const MANIFESTS_READ_MAX: usize = 10_000;

/// How many tags are read at a time.
const TAGS_PAGE: u32 = 1_000;

/// What is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// What a tag means and meant, and what only those images need.
    Tag(Tag),
    /// A manifest, the tags that mean it, and what only it needs.
    Digest(Digest),
    /// A whole repository.
    Repository,
}

/// What was forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// The tags that are not known any more.
    pub tags: Vec<Tag>,
    /// Manifests and blobs that the repository is not known to have any more.
    pub links: u64,
    /// Manifests and blobs that were removed from the store.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests and blobs that stay in the store because other repositories use them.
    pub shared: u64,
}

impl Puller {
    /// Forgets. What a client reads at this moment it reads to its end, and the next pull fetches
    /// anew what is needed.
    ///
    /// Cancel-safe in this sense: what was forgotten stays forgotten, and doing it again does the
    /// rest.
    ///
    /// # Errors
    /// When the upstream is not configured, or a store fails.
    pub async fn purge(&self, scope: &Scope, what: &Purge) -> Result<Purged, PullError> {
        self.site(scope)?;
        let mut purged = Purged::default();
        let candidates: Vec<Digest> = match what {
            Purge::Repository => {
                purged.tags = self.all_tags(scope).await?;
                let digests = self.meta.forget_scope(scope).await.map_err(PullError::Store)?;
                self.hot.forget_scope(scope);
                purged.links = digests.len() as u64;
                digests
            }
            Purge::Tag(tag) => {
                let roots = self.meanings(scope, tag).await?;
                self.forget_image(scope, vec![tag.clone()], roots, &mut purged).await?
            }
            Purge::Digest(digest) => {
                let mut tags = Vec::new();
                for tag in self.all_tags(scope).await? {
                    if self.meanings(scope, &tag).await?.contains(digest) {
                        tags.push(tag);
                    }
                }
                self.forget_absence(scope, Reference::Digest(*digest));
                self.forget_image(scope, tags, vec![*digest], &mut purged).await?
            }
        };
        for tag in &purged.tags {
            self.hot.forget_tag(scope, tag);
            self.forget_absence(scope, Reference::Tag(tag.clone()));
        }
        self.remove_unlinked(&candidates, &mut purged).await?;
        tracing::info!(
            %scope, ?what, tags = purged.tags.len(), links = purged.links, blobs = purged.blobs,
            bytes = purged.bytes, "purged"
        );
        Ok(purged)
    }

    /// The next pull asks upstream about it.
    pub(super) fn forget_absence(&self, scope: &Scope, reference: Reference) {
        if let Reference::Tag(tag) = &reference {
            self.absences.forget(scope, &Absent::Confirmation(tag.clone()));
        }
        self.absences.forget(scope, &Absent::Manifest(reference));
    }

    /// Forgets `tags` and the links of everything that belongs to `roots` and to no other tag;
    /// these digests come back.
    async fn forget_image(
        &self,
        scope: &Scope,
        tags: Vec<Tag>,
        roots: Vec<Digest>,
        purged: &mut Purged,
    ) -> Result<Vec<Digest>, PullError> {
        // Read before anything is forgotten: what is forgotten cannot be read.
        let mut others = Vec::new();
        for tag in self.all_tags(scope).await? {
            if !tags.contains(&tag) {
                others.extend(self.meanings(scope, &tag).await?);
            }
        }
        let needed = self.closure(scope, others).await;
        let mut own = self.closure(scope, roots).await;
        own.retain(|digest| !needed.contains(digest));
        for tag in tags {
            if self.meta.remove_tag(scope, &tag).await.map_err(PullError::Store)? {
                purged.tags.push(tag);
            }
        }
        for digest in &own {
            let known = self.meta.remove_link(scope, digest).await.map_err(PullError::Store)?;
            purged.links += u64::from(known);
            self.hot.forget_link(scope, digest);
        }
        Ok(own.into_iter().collect())
    }

    /// Removes from the store what no repository has a link to.
    async fn remove_unlinked(
        &self,
        candidates: &[Digest],
        purged: &mut Purged,
    ) -> Result<(), PullError> {
        let linked = self.meta.linked(candidates).await.map_err(PullError::Store)?;
        for digest in candidates {
            let Some(blob) = self.blobs.open(digest).await.map_err(PullError::Store)? else {
                continue;
            };
            if linked.contains(digest) {
                purged.shared += 1;
                continue;
            }
            self.hot.forget_bytes(digest);
            if self.blobs.remove(digest).await.map_err(PullError::Store)? {
                purged.blobs += 1;
                purged.bytes += blob.len();
            }
        }
        Ok(())
    }

    /// Every digest that the tag means or meant.
    async fn meanings(&self, scope: &Scope, tag: &Tag) -> Result<Vec<Digest>, PullError> {
        let history = self.meta.tag_history(scope, tag).await.map_err(PullError::Store)?;
        Ok(history.into_iter().map(|record| record.digest).collect())
    }

    async fn all_tags(&self, scope: &Scope) -> Result<Vec<Tag>, PullError> {
        let mut tags: Vec<Tag> = Vec::new();
        loop {
            let after = tags.last().map(|tag| tag.as_str().to_owned());
            let page = self.meta.tags(scope, after.as_deref(), TAGS_PAGE).await;
            let page = page.map_err(PullError::Store)?;
            let end = page.len() < TAGS_PAGE as usize;
            tags.extend(page);
            if end {
                return Ok(tags);
            }
        }
    }

    /// `roots` and everything that they name, as far as the manifests are here.
    async fn closure(&self, scope: &Scope, roots: Vec<Digest>) -> HashSet<Digest> {
        let mut found: HashSet<Digest> = roots.iter().copied().collect();
        let mut to_read = roots;
        let mut left = MANIFESTS_READ_MAX;
        while let Some(digest) = to_read.pop() {
            if left == 0 {
                break;
            }
            left -= 1;
            let Some(manifest) = self.readable(scope, &digest).await else { continue };
            found.extend(manifest.blobs().map(|blob| blob.digest));
            for child in manifest.children() {
                if found.insert(child.digest) {
                    to_read.push(child.digest);
                }
            }
        }
        found
    }
}
