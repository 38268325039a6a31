//! Records in memory: for tests, and for a Pierhead that is to leave nothing behind.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{
    DOCUMENTS_PER_SCOPE_MAX, Document, DocumentKind, KeepingStore, Link, LinkKind, MetaStore, Pin,
    TAG_HISTORY_MAX, TagRecord, UsageRecord,
};
use crate::clock::Timestamp;
use crate::oci::{Digest, Tag};
use crate::scope::Scope;
use crate::store::StoreError;

/// A [`MetaStore`] in memory. Cheap to clone; clones share the records.
#[derive(Clone, Debug, Default)]
pub struct MemoryMeta {
    scopes: Arc<Mutex<BTreeMap<Scope, Records>>>,
    keeping: Arc<Mutex<Keeping>>,
}

/// The records of no scope.
#[derive(Debug, Default)]
struct Keeping {
    usage: BTreeMap<Digest, UsageRecord>,
    parts: BTreeMap<Digest, Vec<Digest>>,
    pins: BTreeSet<Pin>,
}

/// The records of one scope.
#[derive(Debug, Default)]
struct Records {
    links: BTreeMap<Digest, Link>,
    /// Each history with the latest put first.
    tags: BTreeMap<Tag, Vec<TagRecord>>,
    denied_since: Option<Timestamp>,
    documents: BTreeMap<DocumentKind, BTreeMap<String, Document>>,
}

impl MemoryMeta {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Scope, Records>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, scope: &Scope, read: impl FnOnce(&Records) -> Option<T>) -> Option<T> {
        self.lock().get(scope).and_then(read)
    }

    fn write<T>(&self, scope: &Scope, write: impl FnOnce(&mut Records) -> T) -> T {
        write(self.lock().entry(scope.clone()).or_default())
    }
}

#[async_trait]
impl MetaStore for MemoryMeta {
    async fn link(&self, scope: &Scope, digest: &Digest) -> Result<Option<Link>, StoreError> {
        Ok(self.read(scope, |records| records.links.get(digest).cloned()))
    }

    async fn put_links(&self, scope: &Scope, links: &[(Digest, Link)]) -> Result<(), StoreError> {
        self.write(scope, |records| {
            for (digest, link) in links {
                let merged = match records.links.remove(digest) {
                    Some(known) => known.merged(link.clone()),
                    None => link.clone(),
                };
                records.links.insert(*digest, merged);
            }
        });
        Ok(())
    }

    async fn remove_link(&self, scope: &Scope, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.write(scope, |records| records.links.remove(digest).is_some()))
    }

    async fn tag_history(&self, scope: &Scope, tag: &Tag) -> Result<Vec<TagRecord>, StoreError> {
        Ok(self.read(scope, |records| records.tags.get(tag).cloned()).unwrap_or_default())
    }

    async fn put_tag(
        &self,
        scope: &Scope,
        tag: &Tag,
        record: &TagRecord,
    ) -> Result<(), StoreError> {
        self.write(scope, |records| {
            let history = records.tags.entry(tag.clone()).or_default();
            let known = history.iter().position(|known| known.digest == record.digest);
            let record = match known {
                Some(at) => history.remove(at).merged(record.clone()),
                None => record.clone(),
            };
            history.insert(0, record);
            history.truncate(TAG_HISTORY_MAX);
        });
        Ok(())
    }

    async fn tags(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Tag>, StoreError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let tags = self.read(scope, |records| {
            // `after` is what a client sent and need not be a tag, so it cannot bound a range.
            let later = |tag: &&Tag| after.is_none_or(|after| tag.as_str() > after);
            Some(records.tags.keys().filter(later).take(limit).cloned().collect())
        });
        Ok(tags.unwrap_or_default())
    }

    async fn scopes(&self, after: Option<&Scope>, limit: u32) -> Result<Vec<Scope>, StoreError> {
        let records = self.lock();
        let has_manifest =
            |records: &Records| records.links.values().any(|link| link.kind == LinkKind::Manifest);
        let later = records
            .iter()
            .filter(|(scope, _)| after.is_none_or(|after| *scope > after))
            .filter(|(_, records)| has_manifest(records));
        Ok(later.take(limit as usize).map(|(scope, _)| scope.clone()).collect())
    }

    async fn manifests(
        &self,
        scope: &Scope,
        after: Option<&Digest>,
        limit: u32,
    ) -> Result<Vec<Digest>, StoreError> {
        let found = self.read(scope, |records| {
            let manifests = records
                .links
                .iter()
                .filter(|(digest, link)| {
                    link.kind == LinkKind::Manifest && after.is_none_or(|after| *digest > after)
                })
                .map(|(digest, _)| *digest);
            Some(manifests.take(limit as usize).collect())
        });
        Ok(found.unwrap_or_default())
    }

    async fn list_tags(
        &self,
        after: Option<(&Scope, &str)>,
        limit: u32,
    ) -> Result<Vec<(Scope, Tag, TagRecord)>, StoreError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let scopes = self.lock();
        let all = scopes.iter().flat_map(|(scope, records)| {
            let latest = |(tag, history): (&Tag, &Vec<TagRecord>)| {
                Some((scope.clone(), tag.clone(), history.first()?.clone()))
            };
            records.tags.iter().filter_map(latest)
        });
        let later = |(scope, tag, _): &(Scope, Tag, TagRecord)| {
            after.is_none_or(|after| (scope, tag.as_str()) > after)
        };
        Ok(all.filter(later).take(limit).collect())
    }

    async fn remove_tag(&self, scope: &Scope, tag: &Tag) -> Result<bool, StoreError> {
        Ok(self.write(scope, |records| records.tags.remove(tag).is_some()))
    }

    async fn forget_scope(&self, scope: &Scope) -> Result<Vec<Digest>, StoreError> {
        let forgotten = self.lock().remove(scope).unwrap_or_default();
        Ok(forgotten.links.into_keys().collect())
    }

    async fn linked(&self, digests: &[Digest]) -> Result<HashSet<Digest>, StoreError> {
        let scopes = self.lock();
        let is_linked =
            |digest: &&Digest| scopes.values().any(|records| records.links.contains_key(*digest));
        Ok(digests.iter().filter(is_linked).copied().collect())
    }

    async fn denied_since(&self, scope: &Scope) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.read(scope, |records| records.denied_since))
    }

    async fn set_denied(&self, scope: &Scope, since: Option<Timestamp>) -> Result<(), StoreError> {
        self.write(scope, |records| {
            records.denied_since = match (records.denied_since, since) {
                (Some(known), Some(since)) => Some(known.min(since)),
                (_, since) => since,
            };
        });
        Ok(())
    }

    async fn document(
        &self,
        scope: &Scope,
        kind: DocumentKind,
        key: &str,
    ) -> Result<Option<Document>, StoreError> {
        Ok(self.read(scope, |records| records.documents.get(&kind)?.get(key).cloned()))
    }

    async fn put_document(
        &self,
        scope: &Scope,
        kind: DocumentKind,
        key: &str,
        document: &Document,
    ) -> Result<(), StoreError> {
        self.write(scope, |records| {
            let documents = records.documents.entry(kind).or_default();
            documents.insert(key.to_owned(), document.clone());
            while documents.len() > DOCUMENTS_PER_SCOPE_MAX {
                let oldest = documents
                    .iter()
                    .filter(|(other, _)| *other != key)
                    .min_by_key(|(_, document)| document.fetched_at)
                    .map(|(oldest, _)| oldest.clone());
                let Some(oldest) = oldest else { break };
                documents.remove(&oldest);
            }
        });
        Ok(())
    }

    async fn probe(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl MemoryMeta {
    fn keeping(&self) -> MutexGuard<'_, Keeping> {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KeepingStore for MemoryMeta {
    async fn usage(
        &self,
        after: Option<&Digest>,
        limit: u32,
    ) -> Result<Vec<(Digest, UsageRecord)>, StoreError> {
        Ok(page(&self.keeping().usage, after, limit))
    }

    async fn put_usage(&self, records: &[(Digest, UsageRecord)]) -> Result<(), StoreError> {
        self.keeping().usage.extend(records.iter().cloned());
        Ok(())
    }

    async fn forget_usage(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let mut keeping = self.keeping();
        for digest in digests {
            keeping.usage.remove(digest);
            keeping.parts.remove(digest);
        }
        Ok(())
    }

    async fn parts(
        &self,
        after: Option<&Digest>,
        limit: u32,
    ) -> Result<Vec<(Digest, Vec<Digest>)>, StoreError> {
        Ok(page(&self.keeping().parts, after, limit))
    }

    async fn put_parts(&self, manifest: &Digest, parts: &[Digest]) -> Result<(), StoreError> {
        self.keeping().parts.insert(*manifest, parts.to_vec());
        Ok(())
    }

    async fn is_linked(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.lock().values().any(|records| records.links.contains_key(digest)))
    }

    async fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        Ok(self.keeping().pins.iter().cloned().collect())
    }

    async fn put_pin(&self, pin: &Pin) -> Result<bool, StoreError> {
        Ok(self.keeping().pins.insert(pin.clone()))
    }

    async fn remove_pin(&self, pin: &Pin) -> Result<bool, StoreError> {
        Ok(self.keeping().pins.remove(pin))
    }
}

fn page<T: Clone>(
    records: &BTreeMap<Digest, T>,
    after: Option<&Digest>,
    limit: u32,
) -> Vec<(Digest, T)> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let page = records.range((from, Bound::Unbounded));
    let page = page.take(usize::try_from(limit).unwrap_or(usize::MAX));
    page.map(|(digest, record)| (*digest, record.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::meta::conformance;

    #[tokio::test]
    async fn conforms() {
        conformance::all(&MemoryMeta::default()).await;
        conformance::keeping(&MemoryMeta::default()).await;
    }
}
