//! The landing side of a fill: what arrives is written, hashed and recorded off the async threads,
//! and the progress is published as it lands.
//!
//! Bytes arrive in any order, from several transfers, and land where they belong. The digest is of
//! the bytes in order: what follows directly on what was hashed is hashed as it arrives, and what
//! was jumped to is read back when its turn has come.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::flight::{Content, FillError, Passing, Permit};
use super::private::Refetch;
use super::ring::Ring;
use crate::background::{Offload, OffloadError};
use crate::oci::{Digest, Hasher};
use crate::spans::Spans;
use crate::store::{Blob, Recorded, Recorder, Spool, StoreError};

/// How many chunks from upstream may wait to land. A chunk is what one read of a connection
/// brought, at most a few hundred kilobytes.
pub const LANDING_CHUNKS_MAX: usize = 8;

/// After how many more bytes it is written down what has landed.
pub const RECORD_EVERY_BYTES: u64 = 8 << 20;

/// How many bytes may have landed that are not written down: what lands faster than a disk takes it
/// waits for the disk. With what is on its way, a crash costs less than twice
/// [`RECORD_EVERY_BYTES`].
pub const UNRECORDED_BYTES_MAX: u64 = 12 << 20;

/// How much is read back and hashed at a time, in bytes: what arrives meanwhile waits for it.
const CATCH_UP_BYTES: u64 = 4 << 20;

/// How much is read back at once, in bytes.
const READ_BACK_BYTES: usize = 256 * 1024;

/// What the fetching side sends to the landing side. A sender that is dropped before it said how it
/// ends is a failure, never an end of the content.
#[derive(Debug)]
pub enum Arrival {
    /// Some bytes.
    Piece(Piece),
    /// A blob whose size was not known ends with what has arrived.
    End,
    /// Nothing more is coming: nobody wants it now.
    Park,
    /// Nothing more is coming: it failed.
    Failed(FillError),
}

/// Bytes that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the first of them stands in the blob.
    pub at: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// What became of a fill.
#[derive(Debug)]
pub enum Landed {
    /// Verified, and stored.
    Stored(Blob),
    /// Verified and handed to its followers, but the store could not keep it.
    NotKept(StoreError),
    /// Verified and passed on from memory, because the store had no place for it.
    Passed,
    /// Nobody wants it now; what has landed waits for somebody who does.
    Parked,
    /// It failed. What had landed until then is kept for the next try, unless it was wrong.
    Failed(FillError),
}

/// Where the bytes go.
#[derive(Debug)]
pub enum Place {
    /// To the store.
    Spool(Box<dyn Spool>),
    /// Through memory: the store has no place for them.
    Ring(Arc<Passing>),
}

impl Place {
    /// Where followers read what has landed.
    pub fn content(&self) -> Content {
        match self {
            Self::Spool(spool) => Content::Kept(spool.reader()),
            Self::Ring(passing) => Content::Passing(Arc::clone(passing)),
        }
    }
}

/// What a landing needs.
#[derive(Debug)]
pub struct Landing {
    /// Takes the bytes.
    pub place: Place,
    /// What an earlier fill left in the spool.
    pub landed: Spans,
    /// The blob's size in bytes, where it is known.
    pub total: Option<u64>,
    /// For readers that fetch for themselves, should the store fail.
    pub refetch: Arc<Refetch>,
    /// What the content must be.
    pub expected: Digest,
    /// The most that is accepted, in bytes.
    pub bytes_max: u64,
    /// Where it is written and hashed.
    pub offload: Offload,
}

impl Landing {
    /// Takes in everything that arrives, verifies it and commits it, and tells the followers of
    /// `permit` about all but its failure: that is told when whatever has to be known before they
    /// try again has been noted.
    pub async fn run(self, permit: &Permit, mut arrivals: mpsc::Receiver<Arrival>) -> Landed {
        let Self { place, landed, total, refetch, expected, bytes_max, offload } = self;
        let hasher = Hasher::new(expected.algorithm());
        let rules = Rules { permit, refetch, expected, bytes_max, offload };
        let (ringing, rest) = match place {
            Place::Ring(passing) => (Box::new(Ringing { hasher, passing, total }), Vec::new()),
            Place::Spool(spool) => {
                let recorder = spool.recorder();
                let desk = Box::new(Desk { spool, hasher, landed });
                let known = desk.landed.len();
                let spooling =
                    Spooling { desk, total, recorder, begun: known, done: known, recording: None };
                match spooling.run(&rules, &mut arrivals).await {
                    Ended::Landed(landed) => return landed,
                    Ended::NoPlace(ringing, rest) => (ringing, rest),
                }
            }
        };
        ringing.run(&rules, rest, &mut arrivals).await
    }
}

/// What holds wherever the bytes go.
struct Rules<'a> {
    permit: &'a Permit,
    refetch: Arc<Refetch>,
    expected: Digest,
    bytes_max: u64,
    offload: Offload,
}

impl Rules<'_> {
    /// Refuses what reaches beyond the largest blob.
    fn check(&self, piece: &Piece) -> Result<(), FillError> {
        let end = piece.at.saturating_add(piece.bytes.len() as u64);
        if end > self.bytes_max {
            return Err(FillError::TooLarge { max: self.bytes_max });
        }
        Ok(())
    }
}

/// How spooling ended.
enum Ended {
    Landed(Landed),
    /// The store takes no more: the rest, which begins with these, has to go through memory.
    NoPlace(Box<Ringing>, Vec<Arrival>),
}

/// What goes to the blocking thread and comes back.
#[derive(Debug)]
struct Desk {
    spool: Box<dyn Spool>,
    hasher: Hasher,
    landed: Spans,
}

/// The store failed, and these pieces are not in it.
#[derive(Debug)]
struct Trouble {
    error: io::Error,
    rest: Vec<Piece>,
}

impl Desk {
    /// Writes `pieces`, then hashes some of what waits for it.
    fn work(&mut self, pieces: Vec<Piece>) -> Result<(), Trouble> {
        let mut pieces = pieces.into_iter();
        while let Some(piece) = pieces.next() {
            if let Err(error) = self.put(&piece) {
                return Err(Trouble {
                    error,
                    rest: std::iter::once(piece).chain(pieces).collect(),
                });
            }
        }
        self.catch_up(CATCH_UP_BYTES).map_err(|error| Trouble { error, rest: Vec::new() })
    }

    /// Writes what of `piece` is not there yet. What is there may be hashed already, and is never
    /// written over.
    fn put(&mut self, piece: &Piece) -> io::Result<()> {
        let span = piece.at..piece.at.saturating_add(piece.bytes.len() as u64);
        while let Some(gap) = self.landed.first_gap(span.clone()) {
            let index = |at: u64| usize::try_from(at - span.start).unwrap_or(usize::MAX);
            let bytes = piece.bytes.slice(index(gap.start)..index(gap.end));
            self.spool.write_at(gap.start, &bytes)?;
            if gap.start == self.hasher.len() {
                self.hasher.update(&bytes);
            }
            self.landed.insert(gap);
        }
        Ok(())
    }

    /// Whether something has landed that is not hashed and could be.
    fn is_behind(&self) -> bool {
        self.landed.covers(self.hasher.len())
    }

    /// Reads back and hashes what has landed in front of what was hashed, at most `bytes_max`.
    fn catch_up(&mut self, bytes_max: u64) -> io::Result<()> {
        let from = self.hasher.len();
        let end = self.landed.end_of_run(from).min(from.saturating_add(bytes_max));
        if end == from {
            return Ok(());
        }
        let mut buffer = vec![0; READ_BACK_BYTES];
        while self.hasher.len() < end {
            let at = self.hasher.len();
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let read = self.spool.read_back(at, &mut buffer[..len])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.hasher.update(&buffer[..read]);
        }
        Ok(())
    }
}

/// Landing in the store.
struct Spooling {
    desk: Box<Desk>,
    total: Option<u64>,
    /// `None` where nothing can be found again.
    recorder: Option<Arc<dyn Recorder>>,
    /// How many bytes had landed when the last record was begun.
    begun: u64,
    /// How many of them are written down for certain.
    done: u64,
    recording: Option<BoxFuture<'static, Result<io::Result<()>, OffloadError>>>,
}

impl Spooling {
    async fn run(mut self, rules: &Rules<'_>, arrivals: &mut mpsc::Receiver<Arrival>) -> Ended {
        loop {
            if self.total == Some(self.desk.hasher.len()) {
                return Ended::Landed(self.keep(rules).await);
            }
            let (pieces, last) = self.gather(arrivals).await;
            if let Some(error) = pieces.iter().find_map(|piece| rules.check(piece).err()) {
                return Ended::Landed(self.give_up(rules, Landed::Failed(error)).await);
            }
            let before = self.desk.landed.len();
            let mut desk = self.desk;
            let worked = rules.offload.run(move || {
                let worked = desk.work(pieces);
                (desk, worked)
            });
            let Ok((desk, worked)) = worked.await else {
                // It panicked, and took the spool along.
                return Ended::Landed(Landed::Failed(FillError::Abandoned));
            };
            self.desk = desk;
            if self.desk.landed.len() > before {
                rules.permit.landed(&self.desk.landed);
            }
            if let Err(trouble) = worked {
                return self.without_place(rules, trouble, last).await;
            }
            if self.desk.landed.len() - self.begun >= RECORD_EVERY_BYTES && self.recording.is_none()
            {
                self.record(rules);
            }
            match last {
                None => {}
                Some(Arrival::End) => {
                    // Only what came in order ends so.
                    self.total = Some(self.desk.landed.end_of_run(0));
                }
                Some(Arrival::Park) => {
                    return Ended::Landed(self.give_up(rules, Landed::Parked).await);
                }
                Some(Arrival::Failed(error)) => {
                    return Ended::Landed(self.give_up(rules, Landed::Failed(error)).await);
                }
                Some(Arrival::Piece(_)) => {}
            }
        }
    }

    /// Waits for pieces, unless there is something to hash; and what ends them.
    async fn gather(
        &mut self,
        arrivals: &mut mpsc::Receiver<Arrival>,
    ) -> (Vec<Piece>, Option<Arrival>) {
        let mut pieces = Vec::new();
        if let Some(recording) = &mut self.recording
            && let Some(recorded) = recording.now_or_never()
        {
            self.recorded(recorded);
        }
        if !self.desk.is_behind() {
            loop {
                let may_take = self.may_take();
                let recording = async {
                    match &mut self.recording {
                        Some(recording) => recording.await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    recorded = recording => self.recorded(recorded),
                    arrival = arrivals.recv(), if may_take => match arrival {
                        Some(Arrival::Piece(piece)) => {
                            pieces.push(piece);
                            break;
                        }
                        Some(last) => return (pieces, Some(last)),
                        None => return (pieces, Some(Arrival::Failed(FillError::Abandoned))),
                    },
                }
            }
        } else if !self.may_take() {
            return (pieces, None);
        }
        while pieces.len() < LANDING_CHUNKS_MAX {
            match arrivals.try_recv() {
                Ok(Arrival::Piece(piece)) => pieces.push(piece),
                Ok(last) => return (pieces, Some(last)),
                // Whether nobody sends any more is found out when there is nothing else to do.
                Err(_) => break,
            }
        }
        (pieces, None)
    }

    /// Whether more may land before what has landed is written down.
    fn may_take(&self) -> bool {
        self.recording.is_none() || self.desk.landed.len() - self.done < UNRECORDED_BYTES_MAX
    }

    /// Begins to write down what has landed.
    fn record(&mut self, rules: &Rules<'_>) {
        let Some(recorder) = self.recorder.clone() else { return };
        let recorded = Recorded { landed: self.desk.landed.clone(), size: self.total };
        self.begun = self.desk.landed.len();
        let work = rules.offload.run(move || recorder.record(&recorded));
        self.recording = Some(work.boxed());
    }

    fn recorded(&mut self, recorded: Result<io::Result<()>, OffloadError>) {
        self.recording = None;
        let error = match recorded {
            Ok(Ok(())) => {
                self.done = self.begun;
                return;
            }
            Ok(Err(error)) => error,
            Err(error) => io::Error::other(error),
        };
        // The fill goes on: only a restart would begin it anew.
        tracing::warn!(%error, "cannot write down what of a blob has landed");
        self.recorder = None;
    }

    async fn settle(&mut self) {
        if let Some(recording) = self.recording.take() {
            let recorded = recording.await;
            self.recorded(recorded);
        }
    }

    async fn keep(mut self, rules: &Rules<'_>) -> Landed {
        let Desk { spool, hasher, .. } = *self.desk;
        match hasher.verify(&rules.expected) {
            Ok(verified) => {
                rules.permit.verified(verified.len(), Content::Kept(spool.reader()));
                // What is being written down is of no use any more, but it is about this file.
                if let Some(recording) = self.recording.take() {
                    let _ = recording.await;
                }
                // The permit outlives the commit: whoever asks meanwhile follows the flight, and
                // whoever asks later finds the blob in the store.
                match rules.offload.run(move || spool.commit(verified)).await {
                    Ok(Ok(blob)) => Landed::Stored(blob),
                    Ok(Err(error)) => Landed::NotKept(error),
                    Err(error) => {
                        Landed::NotKept(StoreError::io("store a blob", io::Error::other(error)))
                    }
                }
            }
            Err(wrong) => {
                if let Some(recording) = self.recording.take() {
                    let _ = recording.await;
                }
                let _ = rules.offload.run(move || spool.discard()).await;
                Landed::Failed(FillError::Mismatch(Arc::new(wrong)))
            }
        }
    }

    /// Ends without the content, and keeps what there is of it for the next try.
    async fn give_up(mut self, rules: &Rules<'_>, landed: Landed) -> Landed {
        self.settle().await;
        let is_unrecorded = self.desk.landed.len() > self.begun;
        if is_unrecorded && !matches!(landed, Landed::Failed(FillError::TooLarge { .. })) {
            self.record(rules);
            self.settle().await;
        }
        let desk = self.desk;
        let _ = rules.offload.run(move || drop(desk)).await;
        landed
    }

    /// The store has failed: what it has stays readable for those who read now, and the rest goes
    /// through memory.
    async fn without_place(
        mut self,
        rules: &Rules<'_>,
        trouble: Trouble,
        last: Option<Arrival>,
    ) -> Ended {
        let Trouble { error, rest } = trouble;
        let rest = rest.into_iter().map(Arrival::Piece).chain(last).collect();
        if rules.permit.is_strict() {
            let error = FillError::Store(StoreError::io("write to the spool", error));
            return Ended::Landed(self.give_up(rules, Landed::Failed(error)).await);
        }
        self.settle().await;
        let mut desk = self.desk;
        let caught_up = rules.offload.run(move || {
            // As far as it can be read; where that fails it is fetched again.
            let _ = desk.catch_up(u64::MAX);
            let (at, reader, hasher) = (desk.hasher.len(), desk.spool.reader(), desk.hasher);
            desk.spool.discard();
            (at, reader, hasher)
        });
        let Ok((at, reader, hasher)) = caught_up.await else {
            return Ended::Landed(Landed::Failed(FillError::Abandoned));
        };
        tracing::warn!(
            digest = %rules.expected, at, %error,
            "the store takes no more of a blob: the rest is passed on from memory"
        );
        let passing = Arc::new(Passing {
            before: Some((reader, at)),
            ring: Ring::beginning_at(at),
            refetch: Arc::clone(&rules.refetch),
        });
        rules.permit.landed(&Spans::of(0..at));
        rules.permit.passing(Arc::clone(&passing));
        // What is fetched has to come in order from now on.
        rules.permit.demands().poke();
        Ended::NoPlace(Box::new(Ringing { hasher, passing, total: self.total }), rest)
    }
}

/// Landing in memory, in order.
struct Ringing {
    hasher: Hasher,
    passing: Arc<Passing>,
    total: Option<u64>,
}

impl Ringing {
    async fn run(
        mut self,
        rules: &Rules<'_>,
        rest: Vec<Arrival>,
        arrivals: &mut mpsc::Receiver<Arrival>,
    ) -> Landed {
        let mut rest = rest.into_iter();
        while self.total != Some(self.hasher.len()) {
            let arrival = match rest.next() {
                Some(arrival) => Some(arrival),
                None => arrivals.recv().await,
            };
            match arrival {
                Some(Arrival::Piece(piece)) => {
                    if let Err(error) = self.put(rules, piece).await {
                        return Landed::Failed(error);
                    }
                }
                Some(Arrival::End) => self.total = Some(self.hasher.len()),
                Some(Arrival::Park) => return Landed::Failed(FillError::Unread),
                Some(Arrival::Failed(error)) => return Landed::Failed(error),
                None => return Landed::Failed(FillError::Abandoned),
            }
        }
        match self.hasher.verify(&rules.expected) {
            Ok(verified) => {
                rules.permit.verified(verified.len(), Content::Passing(self.passing));
                Landed::Passed
            }
            Err(wrong) => Landed::Failed(FillError::Mismatch(Arc::new(wrong))),
        }
    }

    async fn put(&mut self, rules: &Rules<'_>, piece: Piece) -> Result<(), FillError> {
        let at = self.hasher.len();
        let end = piece.at.saturating_add(piece.bytes.len() as u64);
        if piece.at > at || end <= at {
            // From a transfer of before the store failed: its turn has passed, or never comes.
            return Ok(());
        }
        rules.check(&piece)?;
        let bytes = piece.bytes.slice(usize::try_from(at - piece.at).unwrap_or(usize::MAX)..);
        let (mut hasher, hashed) = (self.hasher.clone(), bytes.clone());
        let hashed = rules.offload.run(move || {
            hasher.update(&hashed);
            hasher
        });
        self.hasher = hashed.await.map_err(|_| FillError::Abandoned)?;
        self.passing.ring.push(bytes).await.map_err(|_| FillError::Unread)?;
        // Each one at once: readers that make room must know of everything that they can read.
        rules.permit.landed(&Spans::of(0..self.hasher.len()));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
