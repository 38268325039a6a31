//! What is known about how stored content is used: for whoever decides what stays.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::oci::{Digest, Reference};
use crate::scope::{Scope, UpstreamName};
use crate::store::StoreError;

/// How a stored blob was used.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageRecord {
    /// When it was last pulled, in whatever way.
    pub last: Timestamp,
    /// How often, as the policy counts.
    pub heat: f32,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// The upstream that it came from.
    pub upstream: Option<UpstreamName>,
}

/// An image that is to stay, whatever else has to go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// Its repository.
    pub scope: Scope,
    /// A digest, or a tag: then whatever it means at the time.
    pub reference: Reference,
}

/// The store of these records, beside [`MetaStore`](super::MetaStore) and with its promises: all
/// of it is cancel-safe, and what is damaged is logged and taken for absent.
#[async_trait]
pub trait KeepingStore: Send + Sync + Debug + 'static {
    /// At most `limit` records in the order of their digests, from the first after `after` on. An
    /// answer of fewer than `limit` is the last.
    async fn usage(
        &self,
        after: Option<&Digest>,
        limit: u32,
    ) -> Result<Vec<(Digest, UsageRecord)>, StoreError>;

    /// Records how blobs were used, in place of what was known, all or none.
    async fn put_usage(&self, records: &[(Digest, UsageRecord)]) -> Result<(), StoreError>;

    /// Forgets how blobs were used, and what they name.
    async fn forget_usage(&self, digests: &[Digest]) -> Result<(), StoreError>;

    /// At most `limit` manifests with what they name, in the order of their digests, from the
    /// first after `after` on. An answer of fewer than `limit` is the last.
    async fn parts(
        &self,
        after: Option<&Digest>,
        limit: u32,
    ) -> Result<Vec<(Digest, Vec<Digest>)>, StoreError>;

    /// Records what a manifest names.
    async fn put_parts(&self, manifest: &Digest, parts: &[Digest]) -> Result<(), StoreError>;

    /// Whether any repository has a link to that digest.
    async fn is_linked(&self, digest: &Digest) -> Result<bool, StoreError>;

    /// All pins, in order.
    async fn pins(&self) -> Result<Vec<Pin>, StoreError>;

    /// Pins an image; whether it was not pinned before.
    async fn put_pin(&self, pin: &Pin) -> Result<bool, StoreError>;

    /// Unpins an image; whether it was pinned.
    async fn remove_pin(&self, pin: &Pin) -> Result<bool, StoreError>;

    /// How often, in this process, the store was made anew because it was damaged or gone: what
    /// is remembered elsewhere has to be written again then.
    fn losses(&self) -> u64 {
        0
    }

    /// When the store last lost records in that way, in this process or an earlier one.
    async fn last_loss(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }
}
