//! `GET` and `HEAD /v2/<name>/blobs/<digest>`, whole, in one range or in several.
//!
//! Source: OCI distribution-spec, section "Pulling blobs"; RFC 9110, section 14.

use std::collections::VecDeque;

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};

use super::{Answer, Asked, Body, Registry, etag, identify_content, set_cache_control};
use crate::http::body::{PIECES_BYTES_MAX, Piece, Transfer};
use crate::http::error::ApiError;
use crate::oci::{ByteRanges, ByteSpan, ContentRange, Digest, RangeSpec, Resolved};
use crate::pull::{BlobAnswer, BlobReader, BlobWant, Wanted};
use crate::scope::Scope;

const OCTET_STREAM: HeaderValue = HeaderValue::from_static("application/octet-stream");

impl Registry {
    pub(super) async fn blob(
        &self,
        asked: &Asked<'_>,
        scope: &Scope,
        digest: &Digest,
    ) -> Result<Answer, ApiError> {
        let mut response = Response::new(Body::empty());
        // Before anything is begun for an answer that has no room.
        let memory = (!asked.is_head()).then(|| self.body_memory.enter(PIECES_BYTES_MAX));
        let memory = memory.transpose()?;
        let has_it = identify_content(&mut response, asked.headers, digest);
        // Who has it already needs no bytes of it, only to know that it is there.
        let ranges = asked_ranges(asked.headers, digest);
        let want = match &ranges {
            _ if asked.is_head() || has_it => BlobWant::Head,
            None => BlobWant::Content(Wanted::Whole),
            Some(ranges) => BlobWant::Content(Wanted::Ranges(ranges.clone())),
        };
        let BlobAnswer { size, reader, outcome, reading } =
            asked.puller.blob(scope, digest, want).await?;
        set_cache_control(&mut response, self.cache_control(scope, true));
        let headers = response.headers_mut();
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let outcome = Some(outcome);
        if has_it {
            return Ok(Answer { response, outcome });
        }
        headers.insert(CONTENT_TYPE, OCTET_STREAM);
        let Some(mut reader) = reader else {
            if let Some(size) = size {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
            }
            return Ok(Answer { response, outcome });
        };
        let pieces = match size {
            Some(size) => match resolve(ranges.as_ref(), size) {
                Ranges::Whole => {
                    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
                    VecDeque::from([Piece::Span(0..size)])
                }
                Ranges::Unsatisfiable => {
                    let value = ContentRange::Unsatisfied { size }.to_string();
                    return Err(ApiError::range_not_satisfiable(header(&value)));
                }
                Ranges::Some { spans, bounded } => {
                    if bounded && self.puller.serves_unverified_ranges() {
                        reader.trust_landed();
                    } else if bounded {
                        reader.trust_nothing();
                    }
                    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                    partial(response.headers_mut(), &spans, size, digest)
                }
            },
            // HTTP/1.0 ends such an answer by closing, which looks the same when it broke off.
            None if asked.version < Version::HTTP_11 => return Err(ApiError::needs_http_1_1()),
            // Nobody can say where a range of it ends.
            None => VecDeque::from([Piece::ToTheEnd]),
        };
        // Zero-copy views are written with one `writev` over plaintext HTTP/1. HTTP/2 would copy
        // them into frames while they are mapped, and TLS would encrypt them there: a disk error
        // would then end the process.
        let mapped = asked.version < Version::HTTP_2 && !asked.connection.is_encrypted();
        if mapped && let BlobReader::Stored(blob) = &reader {
            asked.connection.sending().begins(blob.mapping());
        }
        let metrics = self.puller.metrics().clone();
        let transfer = Transfer { reader, pieces, mapped, reading, metrics, memory };
        *response.body_mut() = Body::pieces(transfer);
        Ok(Answer { response, outcome })
    }
}

/// What is asked for of a blob whose size is known.
#[derive(Debug, PartialEq, Eq)]
enum Ranges {
    Whole,
    Unsatisfiable,
    Some {
        spans: Vec<ByteSpan>,
        /// None was asked for as "to the end", and they are not the whole: their reader knows
        /// that it holds a part.
        bounded: bool,
    },
}

/// The ranges that are asked for, if the whole is not.
fn asked_ranges(headers: &HeaderMap, digest: &Digest) -> Option<ByteRanges> {
    // A client that resumes what it once had from here has the same content, or no right to
    // resume it. Source: RFC 9110, section 13.1.5.
    if headers.get(IF_RANGE).is_some_and(|value| value.as_bytes() != etag(digest).as_bytes()) {
        return None;
    }
    // What cannot be read is ignored. Source: RFC 9110, section 14.2.
    headers.get(RANGE).and_then(|value| value.to_str().ok()).and_then(ByteRanges::parse)
}

fn resolve(asked: Option<&ByteRanges>, size: u64) -> Ranges {
    let Some(asked) = asked else { return Ranges::Whole };
    match asked.resolve(size) {
        Resolved::Whole => Ranges::Whole,
        Resolved::Unsatisfiable => Ranges::Unsatisfiable,
        Resolved::Satisfiable(spans) => {
            let to_the_end = |spec: &RangeSpec| matches!(spec, RangeSpec::From { .. });
            let whole = spans.iter().map(ByteSpan::len).sum::<u64>() == size;
            let bounded = !whole && !asked.specs().iter().any(to_the_end);
            Ranges::Some { spans, bounded }
        }
    }
}

/// Sets the head of a 206 and lists what its body has.
fn partial(
    headers: &mut HeaderMap,
    spans: &[ByteSpan],
    size: u64,
    digest: &Digest,
) -> VecDeque<Piece> {
    if let [span] = spans {
        let range = ContentRange::Part { span: *span, size: Some(size) }.to_string();
        headers.insert(CONTENT_RANGE, header(&range));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(span.len()));
        return VecDeque::from([Piece::Span(span.start..span.end_exclusive)]);
    }
    // The digest cannot stand in the content before the content is known, so it separates well.
    let boundary = format!("pierhead-{}", &digest.encoded()[..32]);
    let mut pieces = VecDeque::with_capacity(spans.len() * 2 + 1);
    let mut length = 0_u64;
    let text = |pieces: &mut VecDeque<Piece>, length: &mut u64, text: String| {
        *length += text.len() as u64;
        pieces.push_back(Piece::Bytes(Bytes::from(text)));
    };
    for (index, span) in spans.iter().enumerate() {
        let line = if index == 0 { "" } else { "\r\n" };
        let range = ContentRange::Part { span: *span, size: Some(size) };
        text(
            &mut pieces,
            &mut length,
            format!(
                "{line}--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                 Content-Range: {range}\r\n\r\n"
            ),
        );
        length += span.len();
        pieces.push_back(Piece::Span(span.start..span.end_exclusive));
    }
    text(&mut pieces, &mut length, format!("\r\n--{boundary}--\r\n"));
    headers.insert(CONTENT_TYPE, header(&format!("multipart/byteranges; boundary={boundary}")));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    pieces
}

/// Text that is known to be visible ASCII as a header's value.
fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
