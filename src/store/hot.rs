//! The hot part of the store, in memory: small verified content, links, and what tags mean.
//!
//! A pull that is answered from here touches neither the file system nor the database, and its
//! look-ups allocate nothing. It is a cache: whatever is put may be gone at once.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use equivalent::Equivalent;
use moka::sync::Cache;

use super::{Link, TagRecord};
use crate::oci::{Digest, Tag, Verified};
use crate::scope::Scope;

/// Memory for content, in bytes, what the cache itself needs included.
pub const HOT_BYTES_MAX: u64 = 32 << 20;

/// The largest blob that belongs here, in bytes; larger ones are read from the store.
pub const HOT_BLOB_BYTES_MAX: u64 = 64 << 10;

/// The largest content that is taken at all, in bytes: that of a manifest.
pub const HOT_MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// Links that are kept: some 400 bytes each.
pub const HOT_LINKS_MAX: u64 = 32_768;

/// Meanings of tags that are kept: some 500 bytes each.
pub const HOT_TAGS_MAX: u64 = 8_192;

/// How long a link or a tag is kept: should one of them be put at the very moment in which
/// somebody else forgets it, the mistake ends with this.
pub const HOT_RECORD_TTL: Duration = Duration::from_secs(300);

/// What an entry costs beside its content, in bytes, so that many tiny ones cannot take far more
/// than was allowed.
const ENTRY_OVERHEAD_BYTES: usize = 320;

/// Choices of a [`Hot`].
#[derive(Clone, Copy, Debug)]
pub struct HotOptions {
    /// [`HOT_BYTES_MAX`], or another number of bytes.
    pub bytes_max: u64,
    /// [`HOT_LINKS_MAX`], or another number of entries.
    pub links_max: u64,
    /// [`HOT_TAGS_MAX`], or another number of entries.
    pub tags_max: u64,
}

impl Default for HotOptions {
    fn default() -> Self {
        Self { bytes_max: HOT_BYTES_MAX, links_max: HOT_LINKS_MAX, tags_max: HOT_TAGS_MAX }
    }
}

/// The caches. Cheap to clone; clones share them. Nothing here blocks or fails.
#[derive(Clone)]
pub struct Hot {
    content: Cache<Digest, Bytes>,
    links: Cache<Scoped<Digest>, Arc<Link>>,
    tags: Cache<Scoped<Tag>, Arc<TagRecord>>,
}

impl Hot {
    /// Empty caches.
    pub fn new(options: HotOptions) -> Self {
        let weight = |_: &Digest, bytes: &Bytes| {
            u32::try_from(bytes.len().saturating_add(ENTRY_OVERHEAD_BYTES)).unwrap_or(u32::MAX)
        };
        Self {
            content: Cache::builder()
                .name("hot content")
                .max_capacity(options.bytes_max)
                .weigher(weight)
                .build(),
            links: records("hot links", options.links_max),
            tags: records("hot tags", options.tags_max),
        }
    }

    /// The content of that digest. Whether the caller may have it is another question.
    pub fn bytes(&self, digest: &Digest) -> Option<Bytes> {
        self.content.get(digest)
    }

    /// Keeps content that has just been verified; what comes from disk is verified anew before it
    /// comes here, so that a bit that flipped there does not spread.
    ///
    /// The bytes are copied: they may be a small part of a large buffer or of a mapped file. Content
    /// beyond [`HOT_MANIFEST_BYTES_MAX`], or of another length than what was verified, is ignored.
    pub fn put_bytes(&self, verified: &Verified, bytes: &[u8]) {
        let len = bytes.len() as u64;
        debug_assert_eq!(len, verified.len(), "a proof of other content");
        if len == verified.len() && len <= HOT_MANIFEST_BYTES_MAX {
            self.content.insert(*verified.digest(), Bytes::copy_from_slice(bytes));
        }
    }

    /// Forgets content.
    pub fn forget_bytes(&self, digest: &Digest) {
        self.content.invalidate(digest);
    }

    /// The recorded link.
    pub fn link(&self, scope: &Scope, digest: &Digest) -> Option<Arc<Link>> {
        self.links.get(&ScopedRef { scope, item: digest })
    }

    /// Keeps a link that has been recorded.
    pub fn put_link(&self, scope: &Scope, digest: &Digest, link: Link) {
        self.links.insert(Scoped { scope: scope.clone(), item: *digest }, Arc::new(link));
    }

    /// Forgets a link.
    pub fn forget_link(&self, scope: &Scope, digest: &Digest) {
        self.links.invalidate(&ScopedRef { scope, item: digest });
    }

    /// What the tag meant when it was last confirmed; the record says when that was.
    pub fn tag(&self, scope: &Scope, tag: &Tag) -> Option<Arc<TagRecord>> {
        self.tags.get(&ScopedRef { scope, item: tag })
    }

    /// Keeps what a tag means.
    pub fn put_tag(&self, scope: &Scope, tag: &Tag, record: TagRecord) {
        self.tags.insert(Scoped { scope: scope.clone(), item: tag.clone() }, Arc::new(record));
    }

    /// Forgets what a tag means.
    pub fn forget_tag(&self, scope: &Scope, tag: &Tag) {
        self.tags.invalidate(&ScopedRef { scope, item: tag });
    }

    /// Forgets the links and tags of a repository, as when upstream refuses it from now on. Rare:
    /// every later look-up pays a little until the caches have been swept.
    pub fn forget_scope(&self, scope: &Scope) {
        forget_scope(&self.links, scope);
        forget_scope(&self.tags, scope);
    }
}

impl fmt::Debug for Hot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hot")
            .field("content_bytes", &self.content.weighted_size())
            .field("links", &self.links.entry_count())
            .field("tags", &self.tags.entry_count())
            .finish()
    }
}

/// A cache of records of repositories.
fn records<K, V>(name: &str, entries_max: u64) -> Cache<Scoped<K>, Arc<V>>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    Cache::builder()
        .name(name)
        .max_capacity(entries_max)
        .time_to_live(HOT_RECORD_TTL)
        .support_invalidation_closures()
        .build()
}

fn forget_scope<K, V>(cache: &Cache<Scoped<K>, Arc<V>>, scope: &Scope)
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    let scope = scope.clone();
    // The only error is that the cache was built without support for this.
    let forgotten = cache.invalidate_entries_if(move |key, _| key.scope == scope);
    debug_assert!(forgotten.is_ok(), "built by `records`");
}

/// A key: something in a repository.
#[derive(PartialEq, Eq, Hash)]
struct Scoped<K> {
    scope: Scope,
    item: K,
}

/// The same key by reference, so that a look-up clones nothing. It hashes as [`Scoped`] does: the
/// same fields in the same order.
#[derive(Hash)]
struct ScopedRef<'a, K> {
    scope: &'a Scope,
    item: &'a K,
}

impl<K: Eq> Equivalent<Scoped<K>> for ScopedRef<'_, K> {
    fn equivalent(&self, key: &Scoped<K>) -> bool {
        // The item first: it differs more often.
        *self.item == key.item && *self.scope == key.scope
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LinkKind;
    use crate::store::blob::conformance::{pattern, verified};
    use crate::store::meta::conformance::{bare, digest, record, scope};

    fn hot() -> Hot {
        Hot::new(HotOptions::default())
    }

    #[test]
    fn content_comes_back_and_pins_nothing() {
        let hot = hot();
        let (proof, bytes) = verified(b"a manifest");
        assert_eq!(hot.bytes(proof.digest()), None);
        hot.put_bytes(&proof, &bytes);
        let kept = hot.bytes(proof.digest()).unwrap();
        assert_eq!(kept, bytes);
        assert_ne!(kept.as_ptr(), bytes.as_ptr());
        hot.forget_bytes(proof.digest());
        assert_eq!(hot.bytes(proof.digest()), None);
    }

    #[test]
    fn content_is_bounded_by_bytes() {
        const ROOM: u64 = 1 << 20;
        let hot = Hot::new(HotOptions { bytes_max: ROOM, ..HotOptions::default() });
        for n in 0..200 {
            let (proof, bytes) = verified(&pattern(n, 20_000));
            hot.put_bytes(&proof, &bytes);
        }
        for n in 0..5_000_u64 {
            let (proof, bytes) = verified(&n.to_le_bytes());
            hot.put_bytes(&proof, &bytes);
        }
        hot.content.run_pending_tasks();
        assert!(hot.content.weighted_size() <= ROOM);
        assert!(hot.content.entry_count() > 0);
    }

    #[test]
    fn content_that_is_too_large_is_not_kept() {
        let hot = hot();
        let most = usize::try_from(HOT_MANIFEST_BYTES_MAX).unwrap();
        for (len, kept) in [(most, true), (most + 1, false)] {
            let (proof, bytes) = verified(&pattern(1, len));
            hot.put_bytes(&proof, &bytes);
            assert_eq!(hot.bytes(proof.digest()).is_some(), kept);
        }
    }

    #[test]
    fn records_belong_to_a_scope_and_are_forgotten_one_by_one() {
        let hot = hot();
        let (here, there) = (scope("a/here"), scope("a/there"));
        let tag: Tag = "latest".parse().unwrap();
        hot.put_link(&here, &digest(1), bare(LinkKind::Blob));
        hot.put_tag(&here, &tag, record(digest(2), 7));
        assert_eq!(*hot.link(&here, &digest(1)).unwrap(), bare(LinkKind::Blob));
        assert_eq!(*hot.tag(&here, &tag).unwrap(), record(digest(2), 7));
        assert!(hot.link(&there, &digest(1)).is_none());
        assert!(hot.link(&here, &digest(2)).is_none());
        assert!(hot.tag(&there, &tag).is_none());
        hot.forget_link(&here, &digest(1));
        hot.forget_tag(&here, &tag);
        assert!(hot.link(&here, &digest(1)).is_none());
        assert!(hot.tag(&here, &tag).is_none());
    }

    #[test]
    fn a_scope_is_forgotten_whole_and_at_once_and_can_come_back() {
        let hot = hot();
        let (here, there) = (scope("a/here"), scope("a/there"));
        let tag: Tag = "latest".parse().unwrap();
        for scope in [&here, &there] {
            for n in 0..50 {
                hot.put_link(scope, &digest(n), bare(LinkKind::Blob));
            }
            hot.put_tag(scope, &tag, record(digest(2), 7));
        }
        hot.forget_scope(&here);
        for n in 0..50 {
            assert!(hot.link(&here, &digest(n)).is_none());
            assert!(hot.link(&there, &digest(n)).is_some());
        }
        assert!(hot.tag(&here, &tag).is_none());
        assert!(hot.tag(&there, &tag).is_some());
        hot.put_link(&here, &digest(1), bare(LinkKind::Manifest));
        assert!(hot.link(&here, &digest(1)).is_some());
    }

    #[test]
    fn records_are_bounded() {
        let hot = Hot::new(HotOptions { links_max: 100, tags_max: 100, ..HotOptions::default() });
        let scope = scope("a/b");
        for n in 0..2_000 {
            hot.put_link(&scope, &digest(n), bare(LinkKind::Blob));
            hot.put_tag(&scope, &format!("t{n}").parse().unwrap(), record(digest(n), 1));
        }
        hot.links.run_pending_tasks();
        hot.tags.run_pending_tasks();
        assert!(hot.links.entry_count() <= 100);
        assert!(hot.tags.entry_count() <= 100);
    }
}
