//! The one task that evicts: requests for room wait in line for it, so two of them never tear at
//! the same images.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::images::{Order, Unit};
use super::metrics::Reason;
use super::{Collected, Inner};
use crate::oci::Digest;
use crate::scope::UpstreamName;
use crate::store::{Evicted, Parked, RoomUse, SpoolKey, StoreError};

/// Beyond what was asked for, one in so many bytes of the cap is made free, so that not every
/// fill has to ask.
const SLACK_SHARE: u64 = 100;

/// The most that is made free beyond what was asked for, in bytes.
const SLACK_MAX_BYTES: u64 = 256 << 20;

/// How often one request for room is tried.
const PASSES_MAX: usize = 8;

/// How long what no repository has a link to is left alone: it may be on its way in.
const UNLINKED_FOR: Duration = Duration::from_secs(3600);

/// How long a spool waits for somebody to go on with it.
const PARKED_FOR: Duration = Duration::from_secs(24 * 3600);
/// How long after links were lost with the database nothing is removed for having none: pulls
/// have upstream prove them again, one by one.
const LINKS_LOST_FOR: Duration = Duration::from_secs(2_592_000);

/// What the evictor is asked for.
#[derive(Debug)]
pub(super) enum Ask {
    /// That many bytes to be available, and the parked spool `spare` to stay: it is about to be
    /// gone on with.
    Room { bytes: u64, spare: Option<SpoolKey>, reply: oneshot::Sender<bool> },
    /// Everything to go that need not stay.
    Collect { reply: oneshot::Sender<Result<Collected, StoreError>> },
    /// What the limits of upstreams forbid to go, and spools that waited too long.
    Limits { reply: oneshot::Sender<Result<Collected, StoreError>> },
}

/// Answers [`Ask`]s, one after the other.
pub(super) struct Evictor {
    shared: Arc<Inner>,
}

impl Evictor {
    pub(super) const fn new(shared: Arc<Inner>) -> Self {
        Self { shared }
    }

    /// Works until nobody can ask any more. Whoever asked and went away gets what it asked for
    /// all the same: the next one will want it.
    pub(super) async fn run(self, mut asks: mpsc::Receiver<Ask>) {
        while let Some(ask) = asks.recv().await {
            match ask {
                Ask::Room { bytes, spare, reply } => {
                    let made =
                        self.make_room(bytes, spare.as_ref()).await.unwrap_or_else(|error| {
                            tracing::error!(%error, "cannot make room");
                            false
                        });
                    let _ = reply.send(made);
                }
                Ask::Collect { reply } => {
                    let _ = reply.send(self.collect().await);
                }
                Ask::Limits { reply } => {
                    let _ = reply.send(self.enforce_limits().await);
                }
            }
        }
    }

    async fn make_room(&self, wanted: u64, spare: Option<&SpoolKey>) -> Result<bool, StoreError> {
        for _ in 0..PASSES_MAX {
            let room = self.shared.blobs.room().await?;
            self.shared.metrics.room(&room);
            if room.available >= wanted {
                return Ok(true);
            }
            let lacking = room.shortfall.saturating_add(wanted - room.available);
            let Some(freed) = self.free(lacking, &room, spare).await? else {
                self.shared.metrics.refused("too_large");
                return Ok(false);
            };
            tracing::debug!(wanted, freed = freed.bytes, blobs = freed.blobs, "made room");
            if freed.bytes == 0 {
                break;
            }
            // What was made free others may have taken at once: they do not wait in this line.
        }
        let room = self.shared.blobs.room().await?;
        self.shared.metrics.room(&room);
        if room.available < wanted {
            self.shared.metrics.refused("in_use");
        }
        Ok(room.available >= wanted)
    }

    /// Evicts until `lacking` bytes and some more are free; how many are. First what nobody asked
    /// for: damaged blobs, and spools that wait. `None`, and nothing is evicted, where not even all
    /// that could go would do.
    async fn free(
        &self,
        lacking: u64,
        room: &RoomUse,
        spare: Option<&SpoolKey>,
    ) -> Result<Option<Collected>, StoreError> {
        let (mut order, known) = self.shared.order().await?;
        let mut parked = self.shared.blobs.parked().await?;
        parked.retain(|parked| Some(&parked.key) != spare);
        let waiting = parked.iter().map(|parked| parked.allocated);
        let evictable = waiting.fold(order.evictable(&known), u64::saturating_add);
        // What would not fit even into an emptied store must not empty it.
        if evictable.saturating_add(room.quarantined) < lacking {
            return Ok(None);
        }
        let goal = lacking.saturating_add((room.max / SLACK_SHARE).min(SLACK_MAX_BYTES));
        let mut freed = Collected::default();
        if room.quarantined > 0 {
            freed.bytes = self.shared.blobs.empty_quarantine(goal).await?;
            self.shared.metrics.evicted(Reason::Quarantined, freed.bytes);
        }
        freed += self.remove_parked(parked, goal.saturating_sub(freed.bytes)).await?;
        for unit in std::mem::take(&mut order.units) {
            if unit.is_pinned || freed.bytes >= goal {
                break;
            }
            let doomed = order.take(&unit, &known);
            // What is being pulled loses only as much as has to be.
            let most = unit.is_active.then(|| goal - freed.bytes);
            freed += self.evict(&mut order, &unit, doomed, most, Reason::Room).await?;
        }
        Ok(Some(freed))
    }

    /// Removes spools that wait, in their order, until `goal` bytes are free.
    async fn remove_parked(&self, parked: Vec<Parked>, goal: u64) -> Result<Collected, StoreError> {
        let mut freed = Collected::default();
        for Parked { key, .. } in parked {
            if freed.bytes >= goal {
                break;
            }
            let bytes = self.shared.blobs.remove_parked(&key).await?;
            if bytes > 0 {
                let (upstream, digest) = (key.upstream.as_str(), &key.digest);
                tracing::info!(upstream, %digest, bytes, "removed a spool that nobody went on with");
                self.shared.metrics.evicted(Reason::Parked, bytes);
            }
            freed.bytes = freed.bytes.saturating_add(bytes);
        }
        Ok(freed)
    }

    /// Removes spools that waited too long.
    async fn remove_forgotten(&self) -> Result<Collected, StoreError> {
        let now = self.shared.clock.now();
        let mut parked = self.shared.blobs.parked().await?;
        parked.retain(|parked| now.since(parked.since) > PARKED_FOR);
        self.remove_parked(parked, u64::MAX).await
    }

    async fn collect(&self) -> Result<Collected, StoreError> {
        let mut freed = self.enforce_limits().await?;
        if let Some(lost) = self.shared.keeping.last_loss().await?
            && self.shared.clock.now().since(lost) < LINKS_LOST_FOR
        {
            tracing::warn!("what has no link stays: links were lost with the database lately");
            return Ok(freed);
        }
        let (mut order, known) = self.shared.order().await?;
        for unit in std::mem::take(&mut order.units) {
            // An import records links when all of its content is here.
            let age = self.shared.clock.now().since(unit.stored_at);
            if unit.is_pinned || unit.is_active || age < UNLINKED_FOR {
                continue;
            }
            let mut linked = false;
            for member in &unit.members {
                linked |= self.shared.keeping.is_linked(member).await?;
            }
            if !linked {
                let doomed = order.take(&unit, &known);
                freed += self.evict(&mut order, &unit, doomed, None, Reason::Unlinked).await?;
            }
        }
        self.shared.metrics.room(&self.shared.blobs.room().await?);
        Ok(freed)
    }

    async fn enforce_limits(&self) -> Result<Collected, StoreError> {
        let mut freed = self.remove_forgotten().await?;
        if self.shared.limits.is_empty() {
            return Ok(freed);
        }
        let now = self.shared.clock.now();
        let (mut order, known) = self.shared.order().await?;
        let mut over: HashMap<&UpstreamName, u64> = HashMap::new();
        for (upstream, limits) in &self.shared.limits {
            if let Some(max) = limits.max_bytes {
                let of_it =
                    known.values().filter(|known| known.upstream.as_ref() == Some(upstream));
                let taken = of_it.fold(0_u64, |sum, known| sum.saturating_add(known.bytes));
                over.insert(upstream, taken.saturating_sub(max));
            }
        }
        for unit in std::mem::take(&mut order.units) {
            let Some(upstream) = unit.upstream.clone() else { continue };
            let Some(limits) = self.shared.limits.get(&upstream) else { continue };
            if unit.is_pinned {
                continue;
            }
            let too_old = limits.max_age.is_some_and(|max| now.since(unit.used.last()) > max);
            let excess = over.get(&upstream).copied().unwrap_or(0);
            let (most, reason) = match (too_old, excess) {
                (true, _) => (None, Reason::Age),
                (false, 0) => continue,
                (false, excess) => (unit.is_active.then_some(excess), Reason::Quota),
            };
            let doomed = order.take(&unit, &known);
            let gone = self.evict(&mut order, &unit, doomed, most, reason).await?;
            if let Some(excess) = over.get_mut(&upstream) {
                *excess = excess.saturating_sub(gone.bytes);
            }
            freed += gone;
        }
        Ok(freed)
    }

    /// Evicts what is `doomed` of a unit: all of it, or the first that make `most` bytes. What is
    /// being read stays, and the rest of its image with it.
    async fn evict(
        &self,
        order: &mut Order,
        unit: &Unit,
        doomed: Vec<(Digest, u64)>,
        most: Option<u64>,
        reason: Reason,
    ) -> Result<Collected, StoreError> {
        let mut freed = Collected::default();
        for (digest, _) in doomed {
            if most.is_some_and(|most| freed.bytes >= most) {
                break;
            }
            let evicted = match self.shared.blobs.evict(&digest).await {
                Ok(evicted) => evicted,
                // What cannot be removed must not keep everything else from going.
                Err(error) => {
                    tracing::error!(%digest, %error, "a blob cannot be evicted");
                    order.keep(unit);
                    break;
                }
            };
            match evicted {
                Evicted::Freed(bytes) => {
                    self.shared.metrics.evicted(reason, bytes);
                    freed += Collected { blobs: 1, bytes };
                }
                Evicted::Absent => {}
                // Of an image that is being pulled whatever is not read right now may go, if it
                // must.
                Evicted::InUse if unit.is_active => continue,
                Evicted::InUse => {
                    order.keep(unit);
                    break;
                }
            }
            self.shared.hot.forget_bytes(&digest);
            self.shared.gone(&digest).await;
        }
        if freed.blobs > 0 {
            tracing::info!(
                root = %unit.root, upstream = unit.upstream.as_ref().map(UpstreamName::as_str),
                blobs = freed.blobs, bytes = freed.bytes, reason = reason.as_str(), "evicted"
            );
        }
        Ok(freed)
    }
}

impl std::ops::AddAssign for Collected {
    fn add_assign(&mut self, other: Self) {
        self.blobs = self.blobs.saturating_add(other.blobs);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}
