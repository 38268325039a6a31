//! Blobs of an upstream.
//!
//! Source: OCI distribution-spec, "Pulling blobs"; RFC 9110 section 14 for ranges.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_RANGE;
use http::{HeaderMap, Method, StatusCode};

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

/// The bytes of a blob, as they arrive. Nothing of it is verified. Dropping it ends the transfer.
pub struct BlobBody {
    /// The size of the whole blob in bytes, whatever part this is.
    pub size: Option<u64>,
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
        let mut attempts = self.attempts(Operation::BlobHead);
        for endpoint in self.endpoints() {
            let outcome = self.head_blob_at(&endpoint, repo, digest).await;
            if let Some(head) = attempts.note(&endpoint, outcome) {
                return Ok(head);
            }
        }
        Err(attempts.error())
    }

    /// Fetches a blob from byte `from` to its end, from the first endpoint that has it.
    ///
    /// Cancel-safe.
    pub async fn get_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        from: u64,
    ) -> Result<BlobBody, UpstreamError> {
        self.open_blob(repo, digest, from, None).await
    }

    /// Fetches the bytes of a blob from `from` to before `until`, or to its end if that comes
    /// first.
    ///
    /// Cancel-safe.
    pub async fn get_blob_part(
        &self,
        repo: &RepoName,
        digest: &Digest,
        from: u64,
        until: u64,
    ) -> Result<BlobBody, UpstreamError> {
        self.open_blob(repo, digest, from, Some(until)).await
    }

    async fn open_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        from: u64,
        until: Option<u64>,
    ) -> Result<BlobBody, UpstreamError> {
        let mut attempts = self.attempts(Operation::BlobGet);
        for endpoint in self.endpoints() {
            let outcome = self.open_blob_at(&endpoint, repo, digest, from, until).await;
            if let Some(body) = attempts.note(&endpoint, outcome) {
                return Ok(body);
            }
        }
        Err(attempts.error())
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
        let first = self.open_blob_at(endpoint, repo, digest, 0, Some(1)).await;
        match first {
            Ok(body) => Ok(BlobHead { size: body.size }),
            // The whole blob came, which is an answer too. An empty one has no first byte.
            Err(Failure::Misbehaved(Misbehaved::RangeIgnored)) => {
                let body = self.open_blob_at(endpoint, repo, digest, 0, None).await?;
                Ok(BlobHead { size: body.size })
            }
            Err(Failure::UnexpectedStatus { status: 416 }) => Ok(BlobHead { size: Some(0) }),
            Err(failure) => Err(failure),
        }
    }

    async fn open_blob_at(
        &self,
        endpoint: &Arc<Endpoint>,
        repo: &RepoName,
        digest: &Digest,
        from: u64,
        until: Option<u64>,
    ) -> Result<BlobBody, Failure> {
        let mut ask = ask(Method::GET, repo, digest);
        ask.range = match until {
            Some(until) => Some(format!("bytes={from}-{}", until.saturating_sub(1).max(from))),
            None if from > 0 => Some(format!("bytes={from}-")),
            None => None,
        };
        let response = self.ask(endpoint, &ask).await?.response;
        let part = part(response.status, &response.headers, ask.range.is_some(), from, until)?;
        let wire = Arc::clone(&self.inner.wire);
        let body = wire.body(response)?;
        Ok(BlobBody {
            size: part.size,
            upstream: self.name().clone(),
            endpoint: Arc::clone(endpoint),
            wire,
            body,
            position: from,
            end: part.end,
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
    pub fn host(&self) -> &str {
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

#[derive(Debug, PartialEq, Eq)]
struct Part {
    size: Option<u64>,
    end: Option<u64>,
}

/// Which part of the blob an answer has: exactly what was asked for, or nothing.
fn part(
    status: StatusCode,
    headers: &HeaderMap,
    ranged: bool,
    from: u64,
    until: Option<u64>,
) -> Result<Part, Failure> {
    if !ranged {
        if status != StatusCode::OK {
            return Err(Failure::UnexpectedStatus { status: status.as_u16() });
        }
        let size = content_length(headers);
        return Ok(Part { size, end: size });
    }
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    match range.and_then(ContentRange::parse) {
        Some(ContentRange::Part { span, size })
            if status == StatusCode::PARTIAL_CONTENT
                && span.start == from
                && until.is_none_or(|until| span.end_exclusive <= until) =>
        {
            // Two headers that contradict each other: neither is to be believed.
            if let Some(announced) = content_length(headers).filter(|length| *length != span.len())
            {
                return Err(Misbehaved::LengthMismatch { announced, sent: span.len() }.into());
            }
            let wanted = match (until, size) {
                (Some(until), Some(size)) => until.min(size),
                (until, size) => until.or(size).unwrap_or(span.end_exclusive),
            };
            // Less than wanted ends in `Interrupted`, when those bytes have been handed out.
            Ok(Part { size, end: Some(wanted) })
        }
        _ => Err(Misbehaved::RangeIgnored.into()),
    }
}

fn ask<'a>(method: Method, repo: &'a RepoName, digest: &Digest) -> Ask<'a> {
    let path = format!("blobs/{digest}");
    let operation = if method == Method::HEAD { Operation::BlobHead } else { Operation::BlobGet };
    Ask { operation, method, repo, path, query: Vec::new(), accept: "*/*", range: None }
}
