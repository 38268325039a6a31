//! Pulling a blob: who may, from where, and who fetches it.

use bytes::Bytes;

use super::absences::Absent;
use super::damage::StoredReader;
use super::demand::Wanted;
use super::error::PullError;
use super::flight::{FillError, FlightKey, Role};
use super::follow::{BlobReader, Follower};
use super::metrics::Reading;
use super::outcome::{MissReason, Outcome};
use super::{Puller, Site, in_time};
use crate::oci::{Digest, Manifest, Verified};
use crate::scope::Scope;
use crate::store::hot::HOT_BLOB_BYTES_MAX;
use crate::store::{Blob, Link};
use crate::upstream::Upstream;

/// How often a request joins the flight of another repository that fails, before it takes that
/// failure for its own.
const FLIGHTS_JOINED_MAX: usize = 4;

/// A blob that can be answered: its head may be sent now.
#[derive(Debug)]
pub struct BlobAnswer {
    /// Its size in bytes, where it is known.
    pub size: Option<u64>,
    /// Its bytes. `None` for a HEAD.
    pub reader: Option<BlobReader>,
    /// The cache's part.
    pub outcome: Outcome,
    /// Counts the follower while the answer is being read.
    pub reading: Option<Reading>,
}

/// What the client wants of the blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobWant {
    /// Only whether it is there, and its size.
    Head,
    /// Its bytes, or some of them.
    Content(Wanted),
}

impl Puller {
    /// The blob `digest` of `scope`.
    ///
    /// Cancel-safe: what was begun goes on as a task of the process.
    pub async fn blob(
        &self,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
    ) -> Result<BlobAnswer, PullError> {
        let site = self.site(scope)?;
        let answer = in_time(self.deadline(), self.find_blob(site, scope, digest, want)).await;
        match &answer {
            Ok(_) => self.uses.used(digest),
            Err(error) => {
                self.absences.note(scope, Absent::Blob(*digest), error, site.tags.absent_ttl);
            }
        }
        answer
    }

    async fn find_blob(
        &self,
        site: &Site,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
    ) -> Result<BlobAnswer, PullError> {
        let link = self.links.get(scope, digest).await;
        let stored = self.stored(digest).await;
        let mut outcome = Outcome::Hit;
        let mut proven = link.as_ref().is_some_and(|link| link.is_proven());
        if !proven {
            if let Some(error) = self.absences.get(scope, &Absent::Blob(*digest)) {
                return Err(error);
            }
            // Where the content has to be fetched anyway, the GET through this repository proves
            // as much as a HEAD, which is spared then.
            let get_will_prove = want != BlobWant::Head
                && stored.is_none()
                && self
                    .flights
                    .get(&FlightKey::new(scope, digest))
                    .is_none_or(|flight| flight.led_by == *scope);
            if !get_will_prove {
                self.prove_blob(site, scope, digest).await?;
                proven = true;
                outcome = Outcome::Miss(MissReason::NotLinked);
            }
        }
        if let Some(reader) = stored
            && let size = reader.size()
            && let in_memory = matches!(reader, BlobReader::Memory(_))
            && self.has_right_size(digest, link.as_deref(), size, in_memory).await?
        {
            let reader = (want != BlobWant::Head).then_some(reader);
            return Ok(BlobAnswer { size, reader, outcome, reading: None });
        }
        match want {
            BlobWant::Head => self.head_blob(site, scope, digest, link.as_deref()).await,
            BlobWant::Content(wanted) => {
                let link = link.as_deref();
                self.fill_blob((site, scope, digest), wanted, link, proven).await
            }
        }
    }

    /// Whether what is stored has the size that the link promises. `false`: it was damaged, and is
    /// not stored any more.
    ///
    /// # Errors
    /// When the link is wrong.
    async fn has_right_size(
        &self,
        digest: &Digest,
        link: Option<&Link>,
        size: Option<u64>,
        in_memory: bool,
    ) -> Result<bool, PullError> {
        match agree(digest, link, size) {
            Ok(()) => Ok(true),
            // It was verified when it came there.
            Err(wrong) if in_memory => Err(wrong),
            Err(wrong) if self.damage.is_intact(digest).await => Err(wrong),
            Err(_) => Ok(false),
        }
    }

    /// What the store has of it; small blobs come from memory. A store that fails has nothing.
    pub(super) async fn stored(&self, digest: &Digest) -> Option<BlobReader> {
        if let Some(bytes) = self.hot.bytes(digest) {
            return Some(BlobReader::Memory(bytes));
        }
        let blob = match self.blobs.open(digest).await {
            Ok(blob) => blob?,
            Err(error) => {
                tracing::error!(%digest, %error, "cannot open a stored blob");
                return None;
            }
        };
        if blob.len() <= HOT_BLOB_BYTES_MAX {
            return self.load(&blob).await.map(BlobReader::Memory);
        }
        Some(BlobReader::Stored(StoredReader::new(blob, self.damage.clone())))
    }

    /// Brings a small stored blob into memory, verified once more. What is damaged is put aside, so
    /// that upstream is asked for it again.
    pub(super) async fn load(&self, blob: &Blob) -> Option<Bytes> {
        let digest = blob.digest();
        let len = usize::try_from(blob.len()).ok()?;
        let bytes = match blob.read_at(0, len).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%digest, %error, "cannot read a stored blob");
                self.damage.unreadable(digest, &error).await;
                return None;
            }
        };
        match Verified::check(&bytes, digest) {
            Ok(verified) => {
                self.hot.put_bytes(&verified, &bytes);
                Some(bytes)
            }
            Err(mismatch) => {
                self.damage.wrong(digest, &mismatch.to_string()).await;
                None
            }
        }
    }

    /// Has upstream prove, in the background, that `scope` has those blobs of a new manifest that
    /// are stored already: clients that have them from another image will not ask for them, and
    /// when upstream is gone it is too late.
    pub(super) fn prove_shared(&self, upstream: &Upstream, scope: &Scope, manifest: &Manifest) {
        let blobs: Vec<Digest> =
            manifest.blobs().filter(|blob| !blob.foreign).map(|blob| blob.digest).collect();
        let (puller, upstream, scope) = (self.clone(), upstream.clone(), scope.clone());
        self.tasks.spawn("link_proof", async move {
            for blob in blobs {
                let link = puller.links.get(&scope, &blob).await;
                let is_open = !link.is_some_and(|link| link.is_proven());
                if is_open
                    && matches!(puller.blobs.contains(&blob).await, Ok(true))
                    && let Err(error) = puller.prove_through(&upstream, &scope, &blob).await
                {
                    tracing::debug!(%scope, %blob, %error, "a shared blob is not proven");
                }
            }
        });
    }

    /// Asks upstream whether this repository has the blob, once for everybody. What upstream says
    /// of its size comes back.
    async fn prove_blob(
        &self,
        site: &Site,
        scope: &Scope,
        digest: &Digest,
    ) -> Result<Option<u64>, PullError> {
        self.prove_through(&self.asking(site), scope, digest).await
    }

    async fn prove_through(
        &self,
        upstream: &Upstream,
        scope: &Scope,
        digest: &Digest,
    ) -> Result<Option<u64>, PullError> {
        let (upstream, links) = (upstream.clone(), self.links.clone());
        let (asked, blob) = (scope.clone(), *digest);
        self.blob_heads
            .run((scope.clone(), *digest), || async move {
                let head = upstream.head_blob(&asked.repo, &blob).await?;
                links.record_blob(&asked, &blob).await;
                Ok(head.size)
            })
            .await?
            .map_err(PullError::of_blob)
    }

    async fn head_blob(
        &self,
        site: &Site,
        scope: &Scope,
        digest: &Digest,
        link: Option<&Link>,
    ) -> Result<BlobAnswer, PullError> {
        let followed = match self.flights.get(&FlightKey::new(scope, digest)) {
            // What upstream says of another repository's fill says nothing about this one.
            Some(flight) => Follower::head(&flight).await.ok(),
            None => None,
        };
        let (size, outcome) = match followed {
            Some(size) => (size, Outcome::Follow),
            None => {
                let size = self.prove_blob(site, scope, digest).await?;
                (size, Outcome::Miss(MissReason::NotCached))
            }
        };
        agree(digest, link, size)?;
        let size = size.or_else(|| link.and_then(|link| link.size));
        Ok(BlobAnswer { size, reader: None, outcome, reading: None })
    }

    /// Follows the blob's flight, and opens it first if there is none.
    async fn fill_blob(
        &self,
        (site, scope, digest): (&Site, &Scope, &Digest),
        wanted: Wanted,
        link: Option<&Link>,
        mut proven: bool,
    ) -> Result<BlobAnswer, PullError> {
        let key = FlightKey::new(scope, digest);
        let reading = self.metrics.follower(self.followers.enter(1)?);
        let mut joined = 0;
        let (follower, outcome) = loop {
            let strict = self.condemned.is_condemned(digest);
            // Asked for before the flight is opened: others may join it at once, and it must not
            // fail them because of this client. A flight that ends between the look and the
            // joining is one fill too many.
            let place = self.client_fills.place(self.client.as_ref());
            if let Err(full) = &place
                && self.flights.get(&key).is_none()
            {
                return Err((*full).into());
            }
            let (flight, demand, outcome) = match self.flights.join(&key, scope, strict) {
                Role::Follow(flight) => {
                    drop(place);
                    // Another repository may have opened it since the last look.
                    if !proven && flight.led_by != *scope {
                        self.prove_blob(site, scope, digest).await?;
                        proven = true;
                    }
                    let demand = flight.demands.reader(wanted.clone());
                    (flight, demand, Outcome::Follow)
                }
                Role::Lead(flight, permit) => {
                    // What is wanted is said before it is fetched.
                    let demand = flight.demands.reader(wanted.clone());
                    let size_hint = link.and_then(|link| link.size);
                    let asked = (self.asking(site), scope.clone(), size_hint);
                    self.fetcher.start(permit, asked, place.ok());
                    (flight, demand, Outcome::Miss(MissReason::NotCached))
                }
            };
            joined += 1;
            let is_ours = flight.led_by == *scope;
            match Follower::ready(flight, demand).await {
                Ok(mut follower) => {
                    if strict {
                        // Also in a flight that began before its digest was condemned.
                        follower.distrust();
                    }
                    break (follower, outcome);
                }
                // What upstream refused to another repository it may give to this one.
                Err(FillError::Upstream(_)) if !is_ours && joined < FLIGHTS_JOINED_MAX => {}
                Err(error) => return Err(error.into()),
            }
        };
        let size = follower.size();
        agree(digest, link, size)?;
        let reader = Some(BlobReader::Growing(follower));
        Ok(BlobAnswer { size, reader, outcome, reading: Some(reading) })
    }
}

/// A descriptor's size is a hint of the link that named it: a wrong one fails this repository's
/// request, never the flight or the stored blob.
fn agree(digest: &Digest, link: Option<&Link>, actual: Option<u64>) -> Result<(), PullError> {
    match (link.and_then(|link| link.size), actual) {
        (Some(promised), Some(actual)) if promised != actual => {
            Err(PullError::WrongSize { digest: *digest, promised, actual })
        }
        _ => Ok(()),
    }
}
