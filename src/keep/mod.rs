//! What stays in the store, and what goes.
//!
//! | file | what it is about |
//! |---|---|
//! | [`shelf`] | the blob store as everything else sees it: a full one makes room first |
//! | `catalogue` | what is stored, how it is used, what names what |
//! | `images` | which images that makes, and in what order they would go (pure) |
//! | [`policy`] | what is worth keeping (pure) |
//! | `evict` | the one task that evicts |
//! | `relearn` | the worker that reads stored manifests after the database was lost |
//! | [`scrub`] | the worker that verifies what is stored anew |
//! | `writer` | the worker that writes uses down and enforces the limits of upstreams |

mod catalogue;
mod evict;
mod images;
mod metrics;
pub mod policy;
mod relearn;
pub mod scrub;
pub mod settings;
pub mod shelf;
mod writer;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use self::catalogue::Catalogue;
use self::evict::{Ask, Evictor};
use self::metrics::Metrics;
use self::settings::UpstreamLimits;
use self::shelf::{Finder, Shelf};
use crate::background::{Tasks, Workers};
use crate::clock::{Clock, Timestamp};
use crate::oci::{Digest, MANIFEST_BYTES_MAX, Manifest, Reference};
use crate::scope::UpstreamName;
use crate::store::{
    BlobStore, Hot, KeepingStore, MetaStore, Pin, RoomUse, SpoolKey, StoreError, StoreErrorKind,
    Uses,
};

/// Pins at a time: each is looked up whenever room has to be made.
pub const PINS_MAX: usize = 4096;

/// How many askers for room may wait in line; further ones are refused at once.
const ASKS_MAX: usize = 1024;

/// Records of the metadata store read at a time, at the start.
const PAGE: u32 = 1000;

/// Manifests that are read to learn what one pinned image names.
const LEARNT_MAX: usize = 256;

/// The file systems' usual block: a blob takes whole ones.
const BLOCK_BYTES: u64 = 4096;

/// What the keeper is made of.
#[derive(Debug)]
pub struct Parts {
    /// The content.
    pub blobs: Arc<dyn BlobStore>,
    /// Uses and pins.
    pub keeping: Arc<dyn KeepingStore>,
    /// What pinned tags mean.
    pub meta: Arc<dyn MetaStore>,
    /// Forgets what goes.
    pub hot: Hot,
    /// The limits of upstreams that have any.
    pub limits: HashMap<UpstreamName, UpstreamLimits>,
    /// The time.
    pub clock: Clock,
    /// Runs the task that evicts.
    pub tasks: Tasks,
    /// Runs the worker that writes down.
    pub workers: Workers,
}

/// Knows what is stored and decides what goes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keeper {
    shared: Arc<Inner>,
    asks: mpsc::Sender<Ask>,
}

#[derive(Debug)]
struct Inner {
    blobs: Arc<dyn BlobStore>,
    keeping: Arc<dyn KeepingStore>,
    meta: Arc<dyn MetaStore>,
    hot: Hot,
    limits: HashMap<UpstreamName, UpstreamLimits>,
    clock: Clock,
    catalogue: Catalogue,
    metrics: Metrics,
}

/// What the store holds, for operators.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Its space.
    pub room: RoomUse,
    /// How many blobs are stored, manifests included.
    pub blobs: usize,
    /// How many of them are manifests.
    pub manifests: usize,
    /// How many images are pinned.
    pub pins: usize,
}

/// One image, or a blob that belongs to none, for operators.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// The manifest that nothing stored names, or the blob.
    pub digest: Digest,
    /// Whether it is an image.
    pub is_image: bool,
    /// What would be free if it went, in bytes.
    pub own_bytes: u64,
    /// Stored blobs of it, shared ones included.
    pub blobs: usize,
    /// When it was last pulled.
    pub last_used: Timestamp,
    /// When it was stored.
    pub stored_at: Timestamp,
    /// Where it came from.
    pub upstream: Option<UpstreamName>,
    /// Whether a pin keeps it.
    pub is_pinned: bool,
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs that went.
    pub blobs: u64,
    /// The space that is free now, in bytes.
    pub bytes: u64,
}

/// Why an image could not be pinned.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PinError {
    /// There are [`PINS_MAX`] pins.
    #[error("{PINS_MAX} images are pinned, and that is the most: unpin one first")]
    TooMany,
    /// The pin could not be recorded.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Keeper {
    /// Reads what is stored and what was known of it, and starts the work. The answer's
    /// [`Keeper::shelf`] is the store that everything else should use.
    ///
    /// # Errors
    /// When the store cannot be listed, or two metrics have one name.
    pub async fn start(parts: Parts, registry: &prometheus::Registry) -> Result<Self, StoreError> {
        let Parts { blobs, keeping, meta, hot, limits, clock, tasks, workers } = parts;
        let metrics = Metrics::new(registry).map_err(|error| {
            StoreError::new(StoreErrorKind::Io, "register metrics", Some(Box::new(error)))
        })?;
        let catalogue = Catalogue::new(clock.clone());
        load(&catalogue, blobs.as_ref(), keeping.as_ref()).await?;
        let shared =
            Arc::new(Inner { blobs, keeping, meta, hot, limits, clock, catalogue, metrics });
        let (asks, receiver) = mpsc::channel(ASKS_MAX);
        let keeper = Self { shared: Arc::clone(&shared), asks };
        tasks.spawn("evictor", Evictor::new(shared).run(receiver));
        workers.start(writer::Writer::new(keeper.clone()));
        workers.start(relearn::Relearner::new(keeper.clone()));
        Ok(keeper)
    }

    /// The store, with eviction.
    pub fn shelf(&self) -> Arc<dyn BlobStore> {
        self.shelf_of(Finder::Read)
    }

    /// The same, for somebody who is counted apart where damage is found.
    pub fn shelf_of(&self, finder: Finder) -> Arc<dyn BlobStore> {
        Arc::new(Shelf::new(Arc::clone(&self.shared.blobs), self.clone(), finder))
    }

    /// Where the engine notes uses.
    pub fn uses(&self) -> Arc<dyn Uses> {
        Arc::new(self.shared.catalogue.clone())
    }

    /// Evicts until `bytes` can be reserved, but for the parked spool `spare`; whether they can.
    /// Cancel-safe: what was begun goes on.
    pub(crate) async fn make_room(&self, bytes: u64, spare: Option<&SpoolKey>) -> bool {
        let (reply, answer) = oneshot::channel();
        let spare = spare.cloned();
        // A line that is full is full of fills that want room: this one does without.
        self.asks.try_send(Ask::Room { bytes, spare, reply }).is_ok()
            && answer.await.unwrap_or(false)
    }

    /// Evicts what limits of upstreams forbid, what no repository has a link to, and spools that
    /// nobody went on with. Cancel-safe:
    /// what was begun goes on.
    ///
    /// # Errors
    /// When the stores fail.
    pub async fn collect(&self) -> Result<Collected, StoreError> {
        let (reply, answer) = oneshot::channel();
        let gone = || StoreError::new(StoreErrorKind::Io, "collect: the process is stopping", None);
        self.asks.send(Ask::Collect { reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// What the store holds.
    ///
    /// # Errors
    /// When the stores fail.
    pub async fn usage(&self) -> Result<Usage, StoreError> {
        let room = self.shared.blobs.room().await?;
        let (blobs, manifests) = self.shared.catalogue.counts();
        let pins = self.shared.keeping.pins().await?.len();
        Ok(Usage { room, blobs, manifests, pins })
    }

    /// What is stored, image by image, in the order in which it would go.
    ///
    /// # Errors
    /// When the pins cannot be read.
    pub async fn images(&self) -> Result<Vec<StoredImage>, StoreError> {
        let (order, _) = self.shared.order().await?;
        let shown = order.units.into_iter().map(|unit| StoredImage {
            digest: unit.root,
            is_image: unit.is_image,
            own_bytes: unit.own_bytes,
            blobs: unit.members.len(),
            last_used: unit.used.last(),
            stored_at: unit.stored_at,
            upstream: unit.upstream,
            is_pinned: unit.is_pinned,
        });
        Ok(shown.collect())
    }

    /// When a stored blob was last pulled, as far as that has been counted.
    pub fn last_used(&self, digest: &Digest) -> Option<Timestamp> {
        self.shared.catalogue.get(digest).map(|known| known.used.last())
    }

    /// All pins.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        self.shared.keeping.pins().await
    }

    /// Pins an image, whether it is stored yet or not; whether it was not pinned before.
    ///
    /// # Errors
    /// When there are too many, or the store fails.
    pub async fn pin(&self, pin: &Pin) -> Result<bool, PinError> {
        let pins = self.shared.keeping.pins().await?;
        if pins.len() >= PINS_MAX && !pins.contains(pin) {
            return Err(PinError::TooMany);
        }
        Ok(self.shared.keeping.put_pin(pin).await?)
    }

    /// Unpins an image; whether it was pinned.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn unpin(&self, pin: &Pin) -> Result<bool, StoreError> {
        self.shared.keeping.remove_pin(pin).await
    }
}

impl Inner {
    /// Strikes a blob out that was removed, unless it has come back meanwhile: one that the
    /// catalogue does not know would never be evicted.
    async fn gone(&self, digest: &Digest) {
        self.catalogue.removed(digest);
        if let Ok(Some(blob)) = self.blobs.open(digest).await {
            self.catalogue.stored(digest, blocks(blob.len()));
        }
    }

    /// The order in which images would go, with what is known of each blob.
    async fn order(
        &self,
    ) -> Result<(images::Order, HashMap<Digest, catalogue::Known>), StoreError> {
        let pinned = self.pinned().await?;
        let now = self.clock.now();
        let catalogue = self.catalogue.clone();
        let ordered = tokio::task::spawn_blocking(move || {
            let known = catalogue.all();
            (images::order(&known, &pinned, now), known)
        });
        ordered.await.map_err(|cause| {
            StoreError::new(StoreErrorKind::Io, "order the images", Some(Box::new(cause)))
        })
    }

    /// The digests that pins mean now.
    async fn pinned(&self) -> Result<HashSet<Digest>, StoreError> {
        let mut pinned = HashSet::new();
        for pin in self.keeping.pins().await? {
            match &pin.reference {
                Reference::Digest(digest) => pinned.extend([*digest]),
                Reference::Tag(tag) => {
                    let history = self.meta.tag_history(&pin.scope, tag).await?;
                    pinned.extend(history.first().map(|record| record.digest));
                }
            }
        }
        for digest in &pinned {
            self.learn(digest).await;
        }
        Ok(pinned)
    }

    /// Reads what a stored manifest names, and those that it names, where that is not known: an
    /// earlier version, or a crash, has not written it down.
    async fn learn(&self, manifest: &Digest) {
        let mut open = vec![*manifest];
        let mut left = LEARNT_MAX;
        while let Some(digest) = open.pop() {
            let Some(known) = self.catalogue.get(&digest) else { continue };
            if known.parts.is_some() || known.bytes > blocks(MANIFEST_BYTES_MAX as u64) || left == 0
            {
                continue;
            }
            left -= 1;
            let Ok(Some(blob)) = self.blobs.open(&digest).await else { continue };
            let Ok(len) = usize::try_from(blob.len()) else { continue };
            let Ok(bytes) = blob.read_at(0, len).await else { continue };
            let Ok(manifest) = Manifest::parse(&bytes, None) else { continue };
            self.catalogue.names(&digest, manifest.parts());
            open.extend(manifest.children().iter().map(|child| child.digest));
        }
    }
}

/// What a blob of that length takes.
const fn blocks(len: u64) -> u64 {
    len.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}

async fn load(
    catalogue: &Catalogue,
    blobs: &dyn BlobStore,
    keeping: &dyn KeepingStore,
) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = blobs.list(after.as_ref(), PAGE as usize).await?;
        page.iter().for_each(|(digest, len)| catalogue.stored(digest, blocks(*len)));
        after = page.last().map(|(digest, _)| *digest);
        if page.len() < PAGE as usize {
            break;
        }
    }
    // Without what was known of them, everything counts as stored just now: no reason not to serve.
    if let Err(error) = load_records(catalogue, keeping).await {
        tracing::error!(%error, "how content was used is not known; eviction starts anew");
    }
    Ok(())
}

async fn load_records(catalogue: &Catalogue, keeping: &dyn KeepingStore) -> Result<(), StoreError> {
    let mut after = None;
    loop {
        let page = keeping.usage(after.as_ref(), PAGE).await?;
        page.iter().for_each(|(digest, record)| catalogue.remember(digest, record));
        after = page.last().map(|(digest, _)| *digest);
        if page.len() < PAGE as usize {
            break;
        }
    }
    after = None;
    loop {
        let page = keeping.parts(after.as_ref(), PAGE).await?;
        after = page.last().map(|(digest, _)| *digest);
        let last = page.len() < PAGE as usize;
        page.into_iter().for_each(|(manifest, parts)| catalogue.remember_parts(&manifest, parts));
        if last {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
