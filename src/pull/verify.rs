//! The landing side of a fill: bytes are hashed and written to the spool off the async threads,
//! and the progress is published as they land.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::flight::{Content, FillError, Passing, Permit};
use super::private::Refetch;
use super::ring::Ring;
use crate::oci::{Digest, Hasher, Verified};
use crate::store::{Blob, Spool, StoreError};
use crate::upstream::UpstreamError;

/// How many chunks from upstream may wait to land. A chunk is what one read of the connection
/// brought, at most a few hundred kilobytes.
pub const LANDING_CHUNKS_MAX: usize = 8;

/// Followers are told of progress at least this often, in bytes; sooner when upstream is slower.
const PUBLISH_EVERY_BYTES: u64 = 256 * 1024;

/// What the fetching side sends to the landing side. A sender that is dropped before `End` is a
/// failure, never an end of the content.
#[derive(Debug)]
pub enum Arrival {
    /// The next bytes.
    Chunk(Bytes),
    /// Upstream says that this was all.
    End,
    /// Upstream failed.
    Failed(UpstreamError),
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
    /// It failed. The followers are told by [`Permit::fail`], when whatever has to be known before
    /// they try again has been noted.
    Failed(Permit, FillError),
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
    /// Tells the followers.
    pub permit: Permit,
    /// Takes the bytes.
    pub place: Place,
    /// For readers that fetch for themselves, should the store fail.
    pub refetch: Arc<Refetch>,
    /// What the content must be.
    pub expected: Digest,
    /// The most that is accepted, in bytes.
    pub bytes_max: u64,
}

impl Landing {
    /// Takes in everything that arrives, verifies it and commits it. Blocks: runs on the blocking
    /// pool, one thread per fill.
    pub fn run(mut self, mut arrivals: mpsc::Receiver<Arrival>) -> Landed {
        let mut hasher = Hasher::new(self.expected.algorithm());
        let mut published = 0;
        let end = loop {
            let arrival = match arrivals.try_recv() {
                Ok(arrival) => Some(arrival),
                Err(_) => {
                    // Nothing more at once: who waits for bytes gets what there is.
                    if hasher.len() > published {
                        published = hasher.len();
                        self.permit.landed(published);
                    }
                    arrivals.blocking_recv()
                }
            };
            match arrival {
                Some(Arrival::Chunk(bytes)) => {
                    if self.bytes_max - hasher.len() < bytes.len() as u64 {
                        break Err(FillError::TooLarge { max: self.bytes_max });
                    }
                    if let Err(error) = self.put(&hasher, &bytes, &mut published) {
                        break Err(error);
                    }
                    hasher.update(&bytes);
                    if hasher.len() - published >= PUBLISH_EVERY_BYTES {
                        published = hasher.len();
                        self.permit.landed(published);
                    }
                }
                Some(Arrival::End) => {
                    let verified = hasher.verify(&self.expected);
                    break verified.map_err(|wrong| FillError::Mismatch(Arc::new(wrong)));
                }
                Some(Arrival::Failed(error)) => break Err(error.into()),
                None => break Err(FillError::Abandoned),
            }
        };
        match end {
            Ok(verified) => self.keep(verified),
            Err(error) => {
                drop(self.place);
                Landed::Failed(self.permit, error)
            }
        }
    }

    /// Puts the next bytes where they can be read. A store that fails is left, and what it has
    /// stays readable.
    fn put(
        &mut self,
        hasher: &Hasher,
        bytes: &Bytes,
        published: &mut u64,
    ) -> Result<(), FillError> {
        let at = hasher.len();
        if let Place::Spool(spool) = &mut self.place {
            let Err(error) = spool.write_at(at, bytes) else { return Ok(()) };
            if self.permit.is_strict() {
                return Err(FillError::Store(StoreError::io("write to the spool", error)));
            }
            tracing::warn!(
                digest = %self.expected, at, %error,
                "the store takes no more of a blob: the rest is passed on from memory"
            );
            let passing = Arc::new(Passing {
                before: Some((spool.reader(), at)),
                ring: Ring::beginning_at(at),
                refetch: Arc::clone(&self.refetch),
            });
            *published = at;
            self.permit.landed(at);
            self.permit.passing(Arc::clone(&passing));
            self.place = Place::Ring(passing);
        }
        let Place::Ring(passing) = &self.place else { return Ok(()) };
        if passing.ring.is_full(bytes.len()) {
            // Readers that make room must know of everything that they can read.
            *published = at;
            self.permit.landed(at);
        }
        passing.ring.push(bytes.clone()).map_err(|_| FillError::Unread)
    }

    fn keep(self, verified: Verified) -> Landed {
        self.permit.verified(verified.len(), self.place.content());
        // The permit outlives the commit: whoever asks meanwhile follows the flight, and whoever
        // asks later finds the blob in the store.
        match self.place {
            Place::Spool(spool) => match spool.commit(verified) {
                Ok(blob) => Landed::Stored(blob),
                Err(error) => Landed::NotKept(error),
            },
            Place::Ring(_) => Landed::Passed,
        }
    }
}

#[cfg(test)]
mod tests;
