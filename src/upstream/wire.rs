//! What every request of an upstream has in common: how it introduces itself, how long it waits,
//! and what a refusal means.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, USER_AGENT};
use http::{HeaderMap, HeaderValue, StatusCode};
use prometheus::IntCounter;
use tokio::time::timeout;

use crate::clock::Clock;

use super::error::{Failure, Misbehaved, Phase};
use super::limits::retry_after;
use super::loop_guard::{CDN_LOOP, Hops, LoopId};
use super::metrics::UpstreamMetrics;
use super::transport::{BodyStream, Reach, Request, Response, Transport};

/// How Pierhead calls itself.
const PRODUCT: &str = concat!("pierhead/", env!("CARGO_PKG_VERSION"));

/// How long the body of an answer that is read whole (manifest, token, list) may take in all, so
/// that a server that drips bytes holds nobody up.
const WHOLE_BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest rest of an unwanted answer that is read, in bytes, so that its connection can be
/// used again: a new one costs more than this.
const DISCARD_BYTES_MAX: u64 = 64 * 1024;
/// How long the rest of an unwanted answer is waited for.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(200);

/// The way out, shared by all requests of one upstream.
pub(super) struct Wire {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) id: LoopId,
    pub(super) clock: Clock,
    pub(super) metrics: UpstreamMetrics,
    pub(super) header_timeout: Duration,
    pub(super) silence_timeout: Duration,
}

impl Wire {
    /// Sends one request; the header timeout covers everything until the answer's headers.
    /// Cancel-safe.
    pub(super) async fn send(
        &self,
        mut request: Request,
        reach: Reach,
        hops: &Hops,
    ) -> Result<Response, Failure> {
        request.headers.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
        request.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        request.headers.insert(CDN_LOOP, self.id.header(hops));
        timeout(self.header_timeout, self.transport.send(request, reach))
            .await
            .map_err(|_| Failure::TimedOut { phase: Phase::Headers })?
            .map_err(Failure::from)
    }

    /// What a status other than success means.
    pub(super) fn refusal(&self, status: StatusCode, headers: &HeaderMap) -> Failure {
        let status = status.as_u16();
        match status {
            401 | 403 => Failure::Denied { status },
            404 => Failure::NotFound,
            408 => Failure::TimedOut { phase: Phase::Headers },
            429 => Failure::RateLimited { retry_after: retry_after(headers, self.clock.now()) },
            // RFC 5842; Pierhead itself answers so when it recognises `CDN-Loop`.
            508 => Failure::LoopDetected,
            500..=599 => Failure::ServerError { status },
            _ => Failure::UnexpectedStatus { status },
        }
    }

    /// The body of `response`, to be read piece by piece.
    pub(super) fn body(&self, response: Response) -> Result<Body, Failure> {
        Body::new(response, self.silence_timeout, self.metrics.body_bytes.clone())
    }

    /// The whole body of `response`, which is `too_large` above `bytes_max`.
    pub(super) async fn whole(
        &self,
        response: Response,
        bytes_max: usize,
        too_large: Misbehaved,
    ) -> Result<Bytes, Failure> {
        let mut body = self.body(response)?;
        if body.announced.is_some_and(|length| length > bytes_max as u64) {
            return Err(too_large.into());
        }
        let read = async {
            let mut whole = BytesMut::new();
            while let Some(chunk) = body.chunk().await? {
                if whole.len() + chunk.len() > bytes_max {
                    return Err(too_large.into());
                }
                whole.extend_from_slice(&chunk);
            }
            Ok(whole.freeze())
        };
        timeout(WHOLE_BODY_TIMEOUT, read)
            .await
            .map_err(|_| Failure::TimedOut { phase: Phase::Silence })?
    }
}

/// Reads and forgets the body of an answer whose headers said it all, if it is short.
pub(super) async fn discard(mut response: Response) {
    if content_length(&response.headers).is_some_and(|length| length > DISCARD_BYTES_MAX) {
        return;
    }
    let mut read = 0;
    let drain = async {
        while let Some(Ok(chunk)) = response.body.next().await {
            read += chunk.len() as u64;
            if read > DISCARD_BYTES_MAX {
                break;
            }
        }
    };
    // In vain or not: the connection is closed if the body is not at its end.
    let _ = timeout(DISCARD_TIMEOUT, drain).await;
}

/// A body that is not encoded, ends where it said it would, and is never silent for long.
pub(super) struct Body {
    stream: BodyStream,
    silence_timeout: Duration,
    bytes: IntCounter,
    /// What the headers said, in bytes.
    pub(super) announced: Option<u64>,
    received: u64,
}

impl Body {
    fn new(
        response: Response,
        silence_timeout: Duration,
        bytes: IntCounter,
    ) -> Result<Self, Failure> {
        for encoding in response.headers.get_all(CONTENT_ENCODING) {
            let encoding = encoding.to_str().unwrap_or("?").trim();
            if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
                // Upstream's text, so not much of it.
                let encoding: String = encoding.chars().take(32).collect();
                return Err(Misbehaved::Encoded { encoding: encoding.into() }.into());
            }
        }
        let announced = content_length(&response.headers);
        Ok(Self { stream: response.body, silence_timeout, bytes, announced, received: 0 })
    }

    /// The next bytes, never none; `None` at the end. Not to be called after an error or the end.
    /// Cancel-safe.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let next = timeout(self.silence_timeout, self.stream.next())
                .await
                .map_err(|_| Failure::TimedOut { phase: Phase::Silence })?;
            let Some(chunk) = next.transpose()? else {
                return match self.announced {
                    Some(announced) if self.received < announced => Err(Failure::Interrupted),
                    _ => Ok(None),
                };
            };
            if chunk.is_empty() {
                continue;
            }
            self.received += chunk.len() as u64;
            self.bytes.inc_by(chunk.len() as u64);
            if let Some(announced) = self.announced.filter(|announced| self.received > *announced) {
                return Err(Misbehaved::LengthMismatch { announced, sent: self.received }.into());
            }
            return Ok(Some(chunk));
        }
    }
}

/// The length that the headers announce, in bytes.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
