//! Reading a blob, whether it is stored or still growing.
//!
//! What a reader may see of a growing blob is decided in one place, [`visible`]: unverified bytes
//! never complete an answer.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::damage::StoredReader;
use super::demand::Reader;
use super::flight::{Content, FillError, Flight, Joined, Passing, Progress};
use super::private::PrivateReader;
use super::ring::{BEYOND_ALL, Found, RingReader};
use crate::store::ReadAt;

/// How much of an answer is held back until the digest is known to be right, in bytes. Blobs up to
/// this size are verified before their headers go out.
pub const HOLD_BACK_BYTES: u64 = 64 * 1024;

/// The most that one read brings into memory, in bytes. A hundred readers must fit into memory.
pub const READ_BYTES_MAX: u64 = 128 * 1024;

/// The largest zero-copy slice of a mapped file, in bytes.
pub const MAPPED_BYTES_MAX: u64 = 1024 * 1024;

/// What may be read before verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// All but the last [`HOLD_BACK_BYTES`]: for answers that reach the blob's end.
    HoldBack,
    /// What has landed: for bounded and suffix ranges, whose reader checks what it assembles.
    Unverified,
    /// Nothing.
    Strict,
}

/// Up to where a reader that is at `at` may read on: at `at` itself if there is nothing for it.
/// `None`: nothing to say yet, ask again when the progress has changed.
pub fn visible(progress: &Progress, trust: Trust, at: u64) -> Result<Option<u64>, FillError> {
    match progress {
        Progress::Asking => Ok(None),
        Progress::Growing { total, landed, .. } => {
            let end = landed.end_of_run(at);
            Ok(Some(match trust {
                Trust::Strict => at,
                Trust::Unverified => end,
                // Of a blob of unknown size only the beginning lands, and the end of that is held
                // back.
                Trust::HoldBack => end.min(total.unwrap_or(end).saturating_sub(HOLD_BACK_BYTES)),
            }))
        }
        Progress::Verified { len, .. } => Ok(Some(*len)),
        Progress::Failed(error) => Err(error.clone()),
    }
}

/// One reader's way to a blob.
#[derive(Debug)]
pub enum BlobReader {
    /// The blob is stored.
    Stored(StoredReader),
    /// The blob is growing, or was when the reader came.
    Growing(Follower),
    /// The blob is small and in memory.
    Memory(Bytes),
}

/// Why a read failed after it had begun.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The fill that was followed failed.
    #[error(transparent)]
    Fill(#[from] FillError),
    /// The local disk's fault.
    #[error("cannot read the blob: {0}")]
    Io(std::sync::Arc<std::io::Error>),
    /// The stored file is shorter than what was recorded when it was verified.
    #[error("the stored blob ends early, at byte {at}")]
    Truncated {
        /// Where it ends.
        at: u64,
    },
}

impl BlobReader {
    /// The blob's size in bytes, where it is known.
    pub fn size(&self) -> Option<u64> {
        match self {
            Self::Stored(blob) => Some(blob.size()),
            Self::Growing(follower) => follower.size,
            Self::Memory(bytes) => Some(bytes.len() as u64),
        }
    }

    /// Allows what has landed to be read before it is verified, if the flight is not strict.
    pub fn trust_landed(&mut self) {
        if let Self::Growing(follower) = self
            && follower.trust == Trust::HoldBack
        {
            follower.trust = Trust::Unverified;
        }
    }

    /// Allows nothing to be read before it is verified.
    pub fn trust_nothing(&mut self) {
        if let Self::Growing(follower) = self {
            follower.distrust();
        }
    }

    /// Whether bytes may be handed out that are not verified yet.
    pub const fn hands_out_unverified(&self) -> bool {
        matches!(self, Self::Growing(Follower { trust: Trust::Unverified, .. }))
    }

    /// The next bytes of `span`, at least one and at most what one read may bring; waits for them
    /// if the blob is growing. `None` at the end of a blob whose size was not known.
    ///
    /// `mapped` allows a zero-copy view of the file, which is right only for plaintext vectored
    /// writes. Cancel-safe: nothing is consumed.
    pub async fn read(
        &mut self,
        span: Range<u64>,
        mapped: bool,
    ) -> Result<Option<Bytes>, ReadError> {
        match self {
            Self::Memory(bytes) => {
                let len = bytes.len() as u64;
                let start = usize::try_from(span.start.min(len)).unwrap_or(usize::MAX);
                let end = usize::try_from(span.end.min(len)).unwrap_or(usize::MAX);
                Ok((start < end).then(|| bytes.slice(start..end)))
            }
            Self::Stored(blob) => blob.read(span, mapped).await.map(Some),
            Self::Growing(follower) => follower.read(span).await,
        }
    }
}

/// Reads once from `content`, which is known to hold the whole of `span`.
pub(super) async fn read_exactly(
    content: &dyn ReadAt,
    span: Range<u64>,
) -> Result<Bytes, ReadError> {
    let len = (span.end - span.start).min(READ_BYTES_MAX);
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let bytes = content
        .read_at(span.start, len)
        .await
        .map_err(|error| ReadError::Io(std::sync::Arc::new(error)))?;
    if bytes.is_empty() { Err(ReadError::Truncated { at: span.start }) } else { Ok(bytes) }
}

/// A reader of a flight.
#[derive(Debug)]
pub struct Follower {
    progress: watch::Receiver<Progress>,
    trust: Trust,
    size: Option<u64>,
    lane: Lane,
    /// Bytes of the flight were handed out: an answer that goes on by a transfer of its own is
    /// right only if the flight was.
    took_from_flight: bool,
    demand: Reader,
    _joined: Joined,
}

/// Which way a follower gets what is not stored.
#[derive(Debug)]
enum Lane {
    /// From the flight, as everybody does.
    Shared,
    /// From the flight's ring.
    Ring(RingReader),
    /// It may have to fetch for itself, and has the right to.
    Promised(OwnedSemaphorePermit),
    /// By a transfer of its own. Who took bytes of the flight before stays with it until its end:
    /// as a reader that holds up nobody, and keeps it going when it is the last.
    Private { reader: Box<PrivateReader>, _stays: Option<RingReader> },
}

impl Follower {
    /// Waits until the answer's head can be sent: upstream has answered, and where the blob is
    /// small or the flight strict, the content is verified. Cancel-safe.
    pub async fn ready(flight: Joined, demand: Reader) -> Result<Self, FillError> {
        let mut progress = flight.watch();
        let trust = if flight.strict { Trust::Strict } else { Trust::HoldBack };
        let ready = |progress: &Progress| match progress {
            Progress::Asking => false,
            Progress::Growing { total, .. } => {
                trust != Trust::Strict && total.is_none_or(|total| total > HOLD_BACK_BYTES)
            }
            Progress::Verified { .. } | Progress::Failed(_) => true,
        };
        let (size, lane) = {
            let progress = progress.wait_for(ready).await.map_err(|_| FillError::Abandoned)?;
            let size = match &*progress {
                Progress::Failed(error) => return Err(error.clone()),
                Progress::Verified { len, .. } => Some(*len),
                Progress::Growing { total, .. } => *total,
                Progress::Asking => None,
            };
            let lane = match content(&progress) {
                // A refusal can still be told by a status.
                Some(Content::Passing(passing))
                    if !passing.has_kept(0) && !passing.ring.covers(0) =>
                {
                    Lane::Promised(passing.refetch.slot()?)
                }
                _ => Lane::Shared,
            };
            (size, lane)
        };
        let took_from_flight = false;
        Ok(Self { progress, trust, size, lane, took_from_flight, demand, _joined: flight })
    }

    /// Waits until upstream has answered: the blob's size in bytes, where it is known. Cancel-safe.
    pub async fn head(flight: &Flight) -> Result<Option<u64>, FillError> {
        let mut progress = flight.watch();
        let answered = |progress: &Progress| !matches!(progress, Progress::Asking);
        match &*progress.wait_for(answered).await.map_err(|_| FillError::Abandoned)? {
            Progress::Failed(error) => Err(error.clone()),
            Progress::Verified { len, .. } => Ok(Some(*len)),
            Progress::Growing { total, .. } => Ok(*total),
            Progress::Asking => Ok(None),
        }
    }

    /// The blob's size in bytes, where it is known.
    pub const fn size(&self) -> Option<u64> {
        self.size
    }

    /// Reads nothing before it is verified.
    pub fn distrust(&mut self) {
        self.trust = Trust::Strict;
        // Only all of it can be verified.
        self.demand.wants_whole();
    }

    async fn read(&mut self, span: Range<u64>) -> Result<Option<Bytes>, ReadError> {
        loop {
            if let Lane::Private { reader, .. } = &self.lane
                && reader.will_pass(span.start)
            {
                return self.read_privately(span).await;
            }
            if let Some(passing) = self.passing() {
                if !passing.has_kept(span.start) && !passing.ring.covers(span.start) {
                    self.fetch_privately(&passing, span.start).await?;
                    continue;
                }
                // Only for somebody who reads does more of it land; also for one who is not there
                // yet.
                if !matches!(self.lane, Lane::Ring(_)) {
                    self.lane = Lane::Ring(passing.ring.reader(span.start));
                }
            }
            let Some((content, end)) = self.seen(&span).await? else { continue };
            if span.start >= end {
                return Ok(None);
            }
            let mut span = span.start..end.min(span.end);
            self.took_from_flight = true;
            let passing = match content {
                Content::Kept(source) => return read_exactly(&*source, span).await.map(Some),
                Content::Passing(passing) => passing,
            };
            if let Some((before, kept)) = &passing.before
                && span.start < *kept
            {
                span.end = span.end.min(*kept);
                return read_exactly(&**before, span).await.map(Some);
            }
            if let Lane::Ring(reader) = &self.lane {
                match reader.read(span.start, (span.end - span.start).min(READ_BYTES_MAX)) {
                    Found::Bytes(bytes) => return Ok(Some(bytes)),
                    Found::Gone => self.fetch_privately(&passing, span.start).await?,
                    // What is said to have landed is here or gone.
                    Found::NotYet => return Err(FillError::Abandoned.into()),
                }
            }
        }
    }

    /// What the flight can show, and up to where: waits until that is beyond `start` or the end.
    /// `None` if the store has failed meanwhile: then there is another way to it.
    async fn seen(&mut self, span: &Range<u64>) -> Result<Option<(Content, u64)>, ReadError> {
        let (trust, start) = (self.trust, span.start);
        if matches!(visible(&self.progress.borrow(), trust, start), Ok(Some(end)) if end <= start) {
            self.demand.waits_for(span.clone());
        }
        let was_passing = self.passing().is_some();
        let has_changed =
            |progress: &Progress| content(progress).is_some_and(Content::is_passing) != was_passing;
        let progress = self
            .progress
            .wait_for(|progress| {
                !matches!(progress, Progress::Growing { .. } | Progress::Asking)
                    || has_changed(progress)
                    || matches!(visible(progress, trust, start), Ok(Some(end)) if end > start)
            })
            .await
            .map_err(|_| FillError::Abandoned)?;
        let end = visible(&progress, trust, start)?.unwrap_or(0);
        match &*progress {
            // The head of the answer promised another size: upstream had been wrong about it.
            Progress::Verified { len, .. } if self.size.is_some_and(|size| size != *len) => {
                Err(ReadError::Truncated { at: *len })
            }
            progress if has_changed(progress) => Ok(None),
            progress => match content(progress) {
                Some(content) => Ok(Some((content.clone(), end))),
                None => Err(FillError::Abandoned.into()),
            },
        }
    }

    /// The next bytes by a transfer of its own. What that verifies are its own bytes: where others
    /// were handed out before, the end of the answer waits for what becomes of the flight.
    async fn read_privately(&mut self, mut span: Range<u64>) -> Result<Option<Bytes>, ReadError> {
        let depends = self.took_from_flight && self.trust != Trust::Unverified;
        let held_from = self.size.map(|size| size.saturating_sub(HOLD_BACK_BYTES));
        if depends && held_from.is_some_and(|held| span.start >= held) {
            self.flight_was_right().await?;
        } else if depends && let Some(held) = held_from {
            span.end = span.end.min(held);
        }
        let Lane::Private { reader, .. } = &mut self.lane else {
            return Err(FillError::Abandoned.into());
        };
        let read = reader.read(&span).await?;
        if read.is_none() && depends {
            // Without a size the end is what completes the answer.
            self.flight_was_right().await?;
        }
        Ok(read)
    }

    /// Waits until the flight has ended, well.
    async fn flight_was_right(&mut self) -> Result<(), FillError> {
        let ended = self.progress.wait_for(Progress::is_terminal).await;
        match &*ended.map_err(|_| FillError::Abandoned)? {
            Progress::Verified { .. } => Ok(()),
            Progress::Failed(error) => Err(error.clone()),
            Progress::Asking | Progress::Growing { .. } => Err(FillError::Abandoned),
        }
    }

    /// Begins a transfer for this reader alone, which is at `offset`.
    async fn fetch_privately(&mut self, passing: &Passing, offset: u64) -> Result<(), FillError> {
        let slot = match std::mem::replace(&mut self.lane, Lane::Shared) {
            Lane::Promised(slot) => slot,
            // A former transfer of its own gives its place back first.
            _ => passing.refetch.slot()?,
        };
        let verified = self.trust != Trust::Unverified;
        let source = Arc::clone(&passing.refetch);
        let reader = PrivateReader::open(source, slot, self.size, offset, verified).await?;
        let _stays = self.took_from_flight.then(|| passing.ring.reader(BEYOND_ALL));
        self.lane = Lane::Private { reader: Box::new(reader), _stays };
        Ok(())
    }

    /// What is known of the blob on its way, if it is not being stored.
    fn passing(&self) -> Option<Arc<Passing>> {
        match content(&self.progress.borrow()) {
            Some(Content::Passing(passing)) => Some(Arc::clone(passing)),
            _ => None,
        }
    }
}

/// Where the bytes of a flight are.
const fn content(progress: &Progress) -> Option<&Content> {
    match progress {
        Progress::Growing { spool, .. } | Progress::Verified { spool, .. } => Some(spool),
        Progress::Asking | Progress::Failed(_) => None,
    }
}

#[cfg(test)]
mod tests;
