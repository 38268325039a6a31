//! Blobs of an upstream.
//!
//! Source: OCI distribution-spec, "Pulling blobs"; RFC 9110 section 14 for ranges.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, ETAG};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::oci::{ContentRange, Digest, RepoName};
use crate::scope::UpstreamName;

use super::client::{Ask, Upstream};
use super::endpoint::Endpoint;
use super::error::{Failure, Misbehaved, UpstreamError};
use super::metrics::Operation;
use super::wire::{Body, Wire, content_length};

/// What upstream says about a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobHead {
    /// Its size, in bytes.
    pub size: Option<u64>,
}

/// Which part of a blob is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobPart {
    /// The first byte.
    pub from: u64,
    /// The byte after the last; `None` is the blob's end.
    pub until: Option<u64>,
    /// What upstream called the content when it sent other parts of it, and which of its hosts did:
    /// there the part is asked for only if it is still that. Source: RFC 9110 section 13.1.5.
    pub etag: Option<(Arc<str>, HeaderValue)>,
}

impl BlobPart {
    /// All of it.
    pub fn whole() -> Self {
        Self::default()
    }

    /// From `from` to the end.
    pub fn from(from: u64) -> Self {
        Self { from, ..Self::default() }
    }

    /// The bytes of `span`, or as many of them as there are.
    pub fn span(span: Range<u64>) -> Self {
        Self { from: span.start, until: Some(span.end), etag: None }
    }

    /// If upstream still calls the content `etag`.
    #[must_use]
    pub fn if_still(mut self, etag: Option<(Arc<str>, HeaderValue)>) -> Self {
        self.etag = etag;
        self
    }

    fn is_whole(&self) -> bool {
        self.from == 0 && self.until.is_none()
    }

    /// The value of `Range`; none where all of it is wanted.
    fn range(&self) -> Option<String> {
        match self.until {
            Some(until) => {
                Some(format!("bytes={}-{}", self.from, until.saturating_sub(1).max(self.from)))
            }
            None if self.is_whole() => None,
            None => Some(format!("bytes={}-", self.from)),
        }
    }
}

/// The bytes of a blob, as they arrive. Nothing of it is verified. Dropping it ends the transfer.
pub struct BlobBody {
    /// The size of the whole blob in bytes, whatever part this is.
    pub size: Option<u64>,
    /// What upstream calls the content: only a strong validator, which tells contents apart.
    pub etag: Option<HeaderValue>,
    /// A part was asked for, and the whole comes: upstream ignores ranges, or no longer has the
    /// content that the part was to be of.
    pub is_range_ignored: bool,
    upstream: UpstreamName,
    endpoint: Arc<Endpoint>,
    wire: Arc<Wire>,
    body: Body,
    /// Where the next byte stands in the blob.
    position: u64,
    /// Where this part ends, if that is known.
    end: Option<u64>,
}

impl Upstream {
    /// Asks whether a blob is there. Object storage that refuses HEAD (its signatures are often
    /// for GET alone) is asked for the first byte instead.
    ///
    /// Cancel-safe.
    pub async fn head_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<BlobHead, UpstreamError> {
        self.first_head(Operation::BlobHead, |endpoint| async move {
            self.head_blob_at(&endpoint, repo, digest).await
        })
        .await
    }

    /// Fetches `part` of a blob from the first endpoint that has it. One that ignores ranges sends
    /// the whole from its beginning: [`BlobBody::position`] says where the bytes begin that come.
    ///
    /// Cancel-safe.
    pub async fn get_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        part: &BlobPart,
    ) -> Result<BlobBody, UpstreamError> {
        self.first(Operation::BlobGet, |endpoint| async move {
            self.get_blob_at(&endpoint, repo, digest, part).await
        })
        .await
    }

    async fn head_blob_at(
        &self,
        endpoint: &Arc<Endpoint>,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<BlobHead, Failure> {
        let ask = ask(Method::HEAD, repo, digest);
        let landed = self.ask_any(endpoint, &ask).await?;
        let (status, headers) = (landed.response.status, &landed.response.headers);
        if status.is_success() {
            return Ok(BlobHead { size: content_length(headers) });
        }
        let no_head = match status.as_u16() {
            405 | 501 => true,
            // A signature that does not fit the method.
            400 | 403 => landed.foreign,
            _ => false,
        };
        if !no_head {
            return Err(self.inner.wire.refusal(status, headers));
        }
        let first = BlobPart::span(0..1);
        match self.get_blob_at(endpoint, repo, digest, &first).await {
            // The whole blob may come, which is an answer too. An empty one has no first byte.
            Ok(body) => Ok(BlobHead { size: body.size }),
            Err(Failure::UnexpectedStatus { status: 416 }) => Ok(BlobHead { size: Some(0) }),
            Err(failure) => Err(failure),
        }
    }

    async fn get_blob_at(
        &self,
        endpoint: &Arc<Endpoint>,
        repo: &RepoName,
        digest: &Digest,
        part: &BlobPart,
    ) -> Result<BlobBody, Failure> {
        let mut ask = ask(Method::GET, repo, digest);
        ask.range = part.range();
        // Endpoints need not agree on what they call the same content.
        ask.if_range = match &part.etag {
            Some((host, etag)) if ask.range.is_some() && *host == endpoint.host => {
                Some(etag.clone())
            }
            _ => None,
        };
        let response = self.ask(endpoint, &ask).await?.response;
        let came = came(response.status, &response.headers, part)?;
        let etag = strong_etag(&response.headers);
        let wire = Arc::clone(&self.inner.wire);
        let body = wire.body(response)?;
        Ok(BlobBody {
            size: came.size,
            etag,
            is_range_ignored: came.is_range_ignored,
            upstream: self.name().clone(),
            endpoint: Arc::clone(endpoint),
            wire,
            body,
            position: if came.is_range_ignored { 0 } else { part.from },
            end: came.end,
        })
    }
}

impl BlobBody {
    /// The next bytes, never none; `None` only at the true end of what was asked for. A body that
    /// ends before is [`Failure::Interrupted`], and a silent one [`Failure::TimedOut`]: what came
    /// until then is good, and the rest can be had from [`BlobBody::position`] on. Not to be
    /// called again after an error or the end.
    ///
    /// Cancel-safe.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match self.next().await {
            Ok(chunk) => Ok(chunk),
            Err(failure) => {
                // The next try begins at another endpoint, if there is one.
                self.endpoint.note(Some(&failure), self.wire.clock.now());
                Err(UpstreamError {
                    upstream: self.upstream.clone(),
                    host: Arc::clone(&self.endpoint.host),
                    failure,
                })
            }
        }
    }

    /// Where the next byte stands in the blob.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The endpoint that sends this: host, with a port where it is not the scheme's own.
    pub fn host(&self) -> &Arc<str> {
        &self.endpoint.host
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(chunk) = self.body.chunk().await? else {
            // A server may send less than was asked for; that is not the end.
            let complete = self.end.is_none_or(|end| self.position == end);
            return if complete { Ok(None) } else { Err(Failure::Interrupted) };
        };
        self.position += chunk.len() as u64;
        if let Some(end) = self.end.filter(|end| self.position > *end) {
            let sent = self.position;
            return Err(Misbehaved::LengthMismatch { announced: end, sent }.into());
        }
        Ok(Some(chunk))
    }
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody")
            .field("host", &self.endpoint.host)
            .field("size", &self.size)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// What came of a blob.
#[derive(Debug, PartialEq, Eq)]
struct Came {
    size: Option<u64>,
    end: Option<u64>,
    is_range_ignored: bool,
}

/// Which part of the blob an answer has: exactly what was asked for, or all of it.
fn came(status: StatusCode, headers: &HeaderMap, part: &BlobPart) -> Result<Came, Failure> {
    if status == StatusCode::OK {
        let size = content_length(headers);
        return Ok(Came { size, end: size, is_range_ignored: part.range().is_some() });
    }
    if status != StatusCode::PARTIAL_CONTENT || part.range().is_none() {
        return Err(Failure::UnexpectedStatus { status: status.as_u16() });
    }
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let Some(ContentRange::Part { span, size }) = range.and_then(ContentRange::parse) else {
        return Err(Misbehaved::WrongRange.into());
    };
    let is_asked_for =
        span.start == part.from && part.until.is_none_or(|until| span.end_exclusive <= until);
    if !is_asked_for {
        return Err(Misbehaved::WrongRange.into());
    }
    // Two headers that contradict each other: neither is to be believed.
    if let Some(announced) = content_length(headers).filter(|length| *length != span.len()) {
        return Err(Misbehaved::LengthMismatch { announced, sent: span.len() }.into());
    }
    let wanted = match (part.until, size) {
        (Some(until), Some(size)) => until.min(size),
        (until, size) => until.or(size).unwrap_or(span.end_exclusive),
    };
    // Less than wanted ends in `Interrupted`, when those bytes have been handed out.
    Ok(Came { size, end: Some(wanted), is_range_ignored: false })
}

/// The validator of an answer, if it can be compared byte by byte. Source: RFC 9110 section 8.8.3.
fn strong_etag(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(ETAG).filter(|etag| etag.as_bytes().starts_with(b"\"")).cloned()
}

fn ask<'a>(method: Method, repo: &'a RepoName, digest: &Digest) -> Ask<'a> {
    let path = format!("blobs/{digest}");
    let operation = if method == Method::HEAD { Operation::BlobHead } else { Operation::BlobGet };
    Ask {
        operation,
        method,
        repo,
        path,
        query: Vec::new(),
        accept: "*/*",
        range: None,
        if_range: None,
    }
}
