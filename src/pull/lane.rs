//! One transfer of a fill: a part of the blob, from upstream into the landing.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::HeaderValue;
use tokio::sync::mpsc;

use super::flight::FillError;
use super::verify::{Arrival, Piece};
use crate::oci::Digest;
use crate::scope::Scope;
use crate::upstream::{BlobBody, BlobPart, Failure, Upstream, UpstreamError};

/// Who is asked for what.
#[derive(Clone, Debug)]
pub struct Source {
    /// The upstream.
    pub upstream: Upstream,
    /// The repository through which it is asked.
    pub scope: Scope,
    /// The blob.
    pub digest: Digest,
}

/// How far a transfer is. Shared with the one who decides where it ends.
#[derive(Debug)]
pub struct LaneState {
    at: AtomicU64,
    until: AtomicU64,
    ignores_ranges: AtomicBool,
}

impl LaneState {
    /// A transfer of the bytes from `at` to before `until`; `u64::MAX` is wherever the blob ends.
    pub fn new(at: u64, until: u64) -> Arc<Self> {
        let ignores_ranges = AtomicBool::new(false);
        Arc::new(Self { at: at.into(), until: until.into(), ignores_ranges })
    }

    /// Where its next byte stands.
    pub fn at(&self) -> u64 {
        self.at.load(Ordering::Acquire)
    }

    /// Where it ends.
    pub fn until(&self) -> u64 {
        self.until.load(Ordering::Acquire)
    }

    /// Has it end at `at`.
    pub fn end_at(&self, at: u64) {
        self.until.store(at, Ordering::Release);
    }

    /// Whether upstream sends the whole where a part was asked for.
    pub fn ignores_ranges(&self) -> bool {
        self.ignores_ranges.load(Ordering::Acquire)
    }
}

/// Why a transfer ended before its end.
#[derive(Clone, Debug)]
pub enum LaneError {
    /// Upstream's failure.
    Upstream(UpstreamError),
    /// It announced another size than before.
    Changed {
        /// In bytes.
        promised: u64,
        /// In bytes.
        actual: u64,
    },
}

impl From<LaneError> for FillError {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Upstream(error) => Self::Upstream(error),
            LaneError::Changed { promised, actual } => Self::Changed { promised, actual },
        }
    }
}

/// What a transfer is to do.
#[derive(Debug)]
pub struct Lane {
    /// Who is asked for what.
    pub source: Source,
    /// How far it is.
    pub state: Arc<LaneState>,
    /// The blob's size in bytes, where it is known.
    pub total: Option<u64>,
    /// What upstream called the content before, and which of its hosts did.
    pub etag: Option<(Arc<str>, HeaderValue)>,
    /// Where the bytes go.
    pub landing: mpsc::Sender<Arrival>,
}

impl Lane {
    /// Asks upstream for the part.
    pub async fn open(&self) -> Result<BlobBody, LaneError> {
        let (from, until) = (self.state.at(), self.state.until());
        let part =
            if until == u64::MAX { BlobPart::from(from) } else { BlobPart::span(from..until) };
        let part = part.if_still(self.etag.clone());
        let Source { upstream, scope, digest } = &self.source;
        let body = upstream.get_blob(&scope.repo, digest, &part).await;
        let body = body.map_err(LaneError::Upstream)?;
        match (self.total, body.size) {
            (Some(promised), Some(actual)) if promised != actual => {
                Err(LaneError::Changed { promised, actual })
            }
            _ => Ok(body),
        }
    }

    /// Passes on what comes, up to where the transfer is to end.
    ///
    /// Cancel-safe: what was passed on counts.
    pub async fn receive(&self, body: &mut BlobBody) -> Result<(), LaneError> {
        if body.is_range_ignored {
            self.state.ignores_ranges.store(true, Ordering::Release);
        }
        loop {
            let position = body.position();
            if self.state.at() >= self.state.until() {
                return Ok(());
            }
            let Some(bytes) = body.chunk().await.map_err(LaneError::Upstream)? else {
                return self.check_end(body);
            };
            // An upstream that ignores ranges sends again what is here already.
            let (at, until) = (self.state.at(), self.state.until());
            let end = (position + bytes.len() as u64).min(until);
            let start = at.max(position);
            if start >= end {
                continue;
            }
            let index = |at: u64| usize::try_from(at - position).unwrap_or(usize::MAX);
            let piece = Piece { at: start, bytes: bytes.slice(index(start)..index(end)) };
            if self.landing.send(Arrival::Piece(piece)).await.is_err() {
                // The landing is gone, and says itself what happened.
                return pending().await;
            }
            self.state.at.store(end, Ordering::Release);
        }
    }

    /// The end of what came is an end only if it is where the transfer was to end.
    fn check_end(&self, body: &BlobBody) -> Result<(), LaneError> {
        if self.state.until() == u64::MAX || self.state.at() >= self.state.until() {
            return Ok(());
        }
        Err(LaneError::Upstream(UpstreamError {
            upstream: self.source.upstream.name().clone(),
            host: Arc::clone(body.host()),
            failure: Failure::Interrupted,
        }))
    }
}
