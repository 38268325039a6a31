//! What is known about blobs: which repository may have which, what tags meant, and the small
//! documents that upstreams answer with.
//!
//! Everything belongs to a [`Scope`]: bytes are shared between repositories, access to them is
//! not.

mod keeping;
pub mod memory;
mod records;
pub mod sqlite;

#[cfg(test)]
pub(crate) mod conformance;

use std::collections::HashSet;
use std::fmt::Debug;

use async_trait::async_trait;

pub use keeping::{KeepingStore, Pin, UsageRecord};
pub use memory::MemoryMeta;
pub use records::{Document, DocumentKind, Link, LinkKind, TagRecord};
pub use sqlite::SqliteMeta;

use super::StoreError;
use crate::clock::Timestamp;
use crate::oci::{Digest, Tag};
use crate::scope::Scope;

/// Digests that are remembered per tag: what to fall back to, and no more.
pub const TAG_HISTORY_MAX: usize = 8;

/// Documents of one kind that are kept per scope; the ones fetched longest ago go first. Upstreams
/// answer for any key that a client makes up, so something must bound them.
pub const DOCUMENTS_PER_SCOPE_MAX: usize = 512;

/// The store of records, shared by everything in the process.
///
/// A read sees every write that ended before it began. All of it is cancel-safe: a write whose
/// future is dropped happens whole or not at all. A record that is damaged is logged and taken
/// for absent: records can be had again from upstream.
#[async_trait]
pub trait MetaStore: Send + Sync + Debug + 'static {
    /// Whether, and as what, content was named or served in that repository.
    async fn link(&self, scope: &Scope, digest: &Digest) -> Result<Option<Link>, StoreError>;

    /// Records links, all or none. What a link is already known to be is kept where the new one
    /// says nothing: see [`Link::merged`].
    async fn put_links(&self, scope: &Scope, links: &[(Digest, Link)]) -> Result<(), StoreError>;

    /// Forgets a link; whether there was one.
    async fn remove_link(&self, scope: &Scope, digest: &Digest) -> Result<bool, StoreError>;

    /// What the tag was seen to mean, the digest that was put last first; at most
    /// [`TAG_HISTORY_MAX`]. Empty if the tag was never seen.
    ///
    /// The order is that of the puts and not of the times in the records: a clock that was wrong
    /// once must not make an old meaning the current one.
    async fn tag_history(&self, scope: &Scope, tag: &Tag) -> Result<Vec<TagRecord>, StoreError>;

    /// Records that the tag was just confirmed to mean `record.digest`, which becomes the first of
    /// its history. Media type and size are kept from an earlier record of the same digest where
    /// the new one has none.
    async fn put_tag(&self, scope: &Scope, tag: &Tag, record: &TagRecord)
    -> Result<(), StoreError>;

    /// At most `limit` known tags of the repository in byte order, from the first after `after`
    /// on. An answer of fewer than `limit` is the last.
    async fn tags(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Tag>, StoreError>;

    /// At most `limit` repositories that are known to have a manifest, in their order, from the
    /// first after `after` on; none when there are no more.
    async fn scopes(&self, after: Option<&Scope>, limit: u32) -> Result<Vec<Scope>, StoreError>;

    /// At most `limit` manifests that upstream has shown the repository to have, in the order of
    /// their digests, from the first after `after` on; none when there are no more.
    async fn manifests(
        &self,
        scope: &Scope,
        after: Option<&Digest>,
        limit: u32,
    ) -> Result<Vec<Digest>, StoreError>;

    /// At most `limit` known tags of all repositories with the latest put of each, in the byte
    /// order of upstream, repository and tag, from the first after `after` on. An answer of fewer
    /// than `limit` is the last.
    async fn list_tags(
        &self,
        after: Option<(&Scope, &str)>,
        limit: u32,
    ) -> Result<Vec<(Scope, Tag, TagRecord)>, StoreError>;

    /// Forgets a tag with all its history; whether it was known.
    async fn remove_tag(&self, scope: &Scope, tag: &Tag) -> Result<bool, StoreError>;

    /// Forgets everything about a repository: links, tags, refusals and documents. What it had
    /// links to comes back.
    async fn forget_scope(&self, scope: &Scope) -> Result<Vec<Digest>, StoreError>;

    /// Which of `digests` any repository has a link to. It may look at every link there is.
    async fn linked(&self, digests: &[Digest]) -> Result<HashSet<Digest>, StoreError>;

    /// Since when upstream has been refusing us this repository; `None` while it does not.
    async fn denied_since(&self, scope: &Scope) -> Result<Option<Timestamp>, StoreError>;

    /// `Some` records a refusal, keeping the earlier of two times; `None` records that upstream
    /// lets us in.
    async fn set_denied(&self, scope: &Scope, since: Option<Timestamp>) -> Result<(), StoreError>;

    /// A document as upstream gave it.
    async fn document(
        &self,
        scope: &Scope,
        kind: DocumentKind,
        key: &str,
    ) -> Result<Option<Document>, StoreError>;

    /// Keeps a document, in place of an earlier one. The caller bounds its length. Of each kind
    /// at most [`DOCUMENTS_PER_SCOPE_MAX`] are kept per scope.
    async fn put_document(
        &self,
        scope: &Scope,
        kind: DocumentKind,
        key: &str,
        document: &Document,
    ) -> Result<(), StoreError>;

    /// Whether a write would succeed now. It writes a little, so do not let strangers make it run
    /// at will: keep the answer for a second or more.
    async fn probe(&self) -> Result<(), StoreError>;

    /// What the operator should know of what happened to the store since the process started,
    /// although all is well again.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
}
