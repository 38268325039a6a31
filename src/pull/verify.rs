//! The landing side of a fill: bytes are hashed and written to the spool off the async threads,
//! and the progress is published as they land.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::flight::{Content, FillError, Permit};
use crate::oci::{Digest, Hasher};
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
    /// It failed. The followers are told by [`Permit::fail`], when whatever has to be known before
    /// they try again has been noted.
    Failed(Permit, FillError),
}

/// What a landing needs.
#[derive(Debug)]
pub struct Landing {
    /// Tells the followers.
    pub permit: Permit,
    /// Takes the bytes.
    pub spool: Box<dyn Spool>,
    /// What the content must be.
    pub expected: Digest,
    /// The most that is accepted, in bytes.
    pub bytes_max: u64,
}

impl Landing {
    /// Takes in everything that arrives, verifies it and commits it. Blocks: runs on the blocking
    /// pool, one thread per fill.
    pub fn run(self, mut arrivals: mpsc::Receiver<Arrival>) -> Landed {
        let Self { permit, mut spool, expected, bytes_max } = self;
        let mut hasher = Hasher::new(expected.algorithm());
        let mut published = 0;
        let end = loop {
            let arrival = match arrivals.try_recv() {
                Ok(arrival) => Some(arrival),
                Err(_) => {
                    // Nothing more at once: who waits for bytes gets what there is.
                    if hasher.len() > published {
                        published = hasher.len();
                        permit.landed(published);
                    }
                    arrivals.blocking_recv()
                }
            };
            match arrival {
                Some(Arrival::Chunk(bytes)) => {
                    if bytes_max - hasher.len() < bytes.len() as u64 {
                        break Err(FillError::TooLarge { max: bytes_max });
                    }
                    if let Err(error) = spool.write_at(hasher.len(), &bytes) {
                        break Err(FillError::Spool(Arc::new(error)));
                    }
                    hasher.update(&bytes);
                    if hasher.len() - published >= PUBLISH_EVERY_BYTES {
                        published = hasher.len();
                        permit.landed(published);
                    }
                }
                Some(Arrival::End) => {
                    let verified = hasher.verify(&expected);
                    break verified.map_err(|wrong| FillError::Mismatch(Arc::new(wrong)));
                }
                Some(Arrival::Failed(error)) => break Err(error.into()),
                None => break Err(FillError::Abandoned),
            }
        };
        match end {
            Ok(verified) => {
                permit.verified(verified.len(), Content(spool.reader()));
                // The permit outlives the commit: whoever asks meanwhile follows the flight, and
                // whoever asks later finds the blob in the store.
                let landed = match spool.commit(verified) {
                    Ok(blob) => Landed::Stored(blob),
                    Err(error) => Landed::NotKept(error),
                };
                drop(permit);
                landed
            }
            Err(error) => {
                drop(spool);
                Landed::Failed(permit, error)
            }
        }
    }
}

#[cfg(test)]
mod tests;
