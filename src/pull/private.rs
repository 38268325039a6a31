//! A reader's own way to a blob that is not stored: an upstream GET for it alone, verified for it
//! alone.
//!
//! It is taken by who comes too late for the [`ring`](super::ring) or falls behind it. What it has
//! sent before was verified by nobody yet, so unless the reader asked for a bounded range the
//! content is fetched from its beginning, hashed, and sent from where the reader is.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::condemned::Condemned;
use super::flight::FillError;
use super::follow::HOLD_BACK_BYTES;
use super::metrics::PullMetrics;
use crate::oci::{Digest, Hasher};
use crate::scope::Scope;
use crate::upstream::{BlobBody, BlobPart, Upstream};

/// What a reader needs to fetch for itself. Shared by all readers of one flight.
#[derive(Debug)]
pub struct Refetch {
    /// Who is asked.
    pub upstream: Upstream,
    /// Through which repository.
    pub scope: Scope,
    /// For what.
    pub digest: Digest,
    /// The largest blob, in bytes.
    pub bytes_max: u64,
    /// The transfers of this kind that may run in the whole process.
    pub slots: Arc<Semaphore>,
    /// Where content that turns out to be wrong is noted.
    pub condemned: Condemned,
    /// Where it is counted.
    pub metrics: PullMetrics,
}

impl Refetch {
    /// The right to one transfer.
    ///
    /// # Errors
    /// When as many run as `fill.private_max` allows.
    pub fn slot(&self) -> Result<OwnedSemaphorePermit, FillError> {
        Arc::clone(&self.slots).try_acquire_owned().map_err(|_| FillError::NoPrivate)
    }
}

/// One reader's transfer.
pub struct PrivateReader {
    source: Arc<Refetch>,
    /// Kept for as long as the transfer may go on.
    _slot: OwnedSemaphorePermit,
    body: BlobBody,
    /// The blob's size in bytes, where the answer's head or this transfer said it.
    size: Option<u64>,
    /// Hashes what comes; `None` for a bounded range, whose reader checks what it assembles.
    hasher: Option<Hasher>,
    /// What has come and was not handed out: each with its offset in the blob.
    waiting: VecDeque<(u64, Bytes)>,
    /// How far the blob has come.
    landed: u64,
    /// It is whole, and right if it is hashed.
    ended: bool,
}

impl PrivateReader {
    /// Begins a transfer for a reader that is at `offset` and was promised a blob of `size` bytes,
    /// where that is known. `verified`: the whole of it is to be verified.
    pub async fn open(
        source: Arc<Refetch>,
        slot: OwnedSemaphorePermit,
        size: Option<u64>,
        offset: u64,
        verified: bool,
    ) -> Result<Self, FillError> {
        let from = if verified { 0 } else { offset };
        let part = BlobPart::from(from);
        let body = source.upstream.get_blob(&source.scope.repo, &source.digest, &part).await?;
        if let (Some(promised), Some(actual)) = (size, body.size)
            && promised != actual
        {
            tracing::warn!(
                digest = %source.digest, promised, actual,
                "upstream announces another size than a moment ago"
            );
            return Err(FillError::Abandoned);
        }
        let size = size.or(body.size);
        source.metrics.private_transfer();
        let hasher = verified.then(|| Hasher::new(source.digest.algorithm()));
        Ok(Self {
            source,
            _slot: slot,
            // An upstream that ignores ranges begins at the beginning.
            landed: body.position(),
            body,
            size,
            hasher,
            waiting: VecDeque::new(),
            ended: false,
        })
    }

    /// Whether this transfer will still come by `offset`.
    pub fn will_pass(&self, offset: u64) -> bool {
        self.waiting.front().map_or(self.landed, |(at, _)| *at) <= offset
    }

    /// The bytes at `span.start`, up to the end of `span`; `None` at the end of the blob.
    pub async fn read(&mut self, span: &Range<u64>) -> Result<Option<Bytes>, FillError> {
        loop {
            if let Some(bytes) = self.take(span) {
                return Ok(Some(bytes));
            }
            if self.ended {
                return Ok(None);
            }
            self.receive().await?;
        }
    }

    /// What may be handed out of what has come, from `span.start` on.
    fn take(&mut self, span: &Range<u64>) -> Option<Bytes> {
        let end = self.visible().min(span.end);
        while let Some((at, bytes)) = self.waiting.front_mut() {
            let skip = span.start.saturating_sub(*at);
            if skip >= bytes.len() as u64 {
                self.waiting.pop_front();
                continue;
            }
            if *at + skip >= end {
                return None;
            }
            let length = (end - *at - skip).min(bytes.len() as u64 - skip);
            let (skip, length) = (usize::try_from(skip).ok()?, usize::try_from(length).ok()?);
            let taken = bytes.slice(skip..skip + length);
            *at += (skip + length) as u64;
            *bytes = bytes.slice(skip + length..);
            return Some(taken);
        }
        None
    }

    /// How far the blob may be seen: the end waits for the digest.
    fn visible(&self) -> u64 {
        if self.ended || self.hasher.is_none() {
            return self.landed;
        }
        let held = self.size.map_or(self.landed, |total| total.max(HOLD_BACK_BYTES));
        self.landed.min(held.saturating_sub(HOLD_BACK_BYTES))
    }

    async fn receive(&mut self) -> Result<(), FillError> {
        if let Some(bytes) = self.body.chunk().await? {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&bytes);
            }
            let at = self.landed;
            let max = self.size.unwrap_or(self.source.bytes_max);
            if max.saturating_sub(at) < bytes.len() as u64 {
                return Err(FillError::TooLarge { max });
            }
            self.landed += bytes.len() as u64;
            self.waiting.push_back((at, bytes));
            return Ok(());
        }
        if let Some(hasher) = self.hasher.take() {
            hasher.verify(&self.source.digest).map_err(|mismatch| {
                self.source.metrics.verification_failed();
                self.source.condemned.condemn(&self.source.digest);
                FillError::Mismatch(Arc::new(mismatch))
            })?;
        }
        self.ended = true;
        Ok(())
    }
}

impl std::fmt::Debug for PrivateReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateReader")
            .field("digest", &self.source.digest)
            .field("landed", &self.landed)
            .finish()
    }
}

#[cfg(test)]
pub(in crate::pull) mod testing {
    //! A way to an upstream where nobody answers, for tests of what should not take it.

    use std::time::Duration;

    use super::*;
    use crate::background::Tasks;
    use crate::clock::Clock;
    use crate::net::OwnAddresses;
    use crate::upstream::settings::UpstreamSettings;
    use crate::upstream::{HttpTransport, LoopId, Metrics, StaticCredentials, UpstreamParts};

    /// Asks nobody for `digest`.
    pub(in crate::pull) fn nowhere(scope: &Scope, digest: &Digest) -> Arc<Refetch> {
        let second = Duration::from_secs(1);
        let settings = UpstreamSettings {
            name: scope.upstream.clone(),
            endpoints: vec!["http://127.0.0.1:1".parse().unwrap()],
            credentials: None,
            auth_hosts: Vec::new(),
            redirect_hosts: Vec::new(),
            ca_file: None,
            proxy: None,
            connect_timeout: second,
            header_timeout: second,
            silence_timeout: second,
        };
        let registry = prometheus::Registry::new();
        let clock = Clock::system();
        let parts = UpstreamParts {
            transport: Arc::new(HttpTransport::new(&settings, OwnAddresses::default()).unwrap()),
            credentials: Arc::new(StaticCredentials::new(None)),
            clock: clock.clone(),
            tasks: Tasks::new(&registry).unwrap(),
            metrics: Metrics::new(&registry).unwrap(),
            id: LoopId::new("0123456789abcdef").unwrap(),
        };
        Arc::new(Refetch {
            upstream: Upstream::new(&settings, parts),
            scope: scope.clone(),
            digest: *digest,
            bytes_max: u64::MAX,
            slots: Arc::new(Semaphore::new(1)),
            condemned: Condemned::new(clock, second),
            metrics: PullMetrics::new(&registry).unwrap(),
        })
    }
}
