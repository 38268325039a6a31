//! The simulated registry: behind the seam to the network, with the behaviour that the seed gave
//! to it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use pierhead::oci::{ByteRanges, ContentRange, Digest, RangeSpec};
use pierhead::upstream::transport::{
    BodyStream, Reach, Request, Response, Transport, TransportError,
};

use crate::catalogue::{Catalogue, INDEX, MANIFEST};
use crate::dice::Dice;
use crate::trace::{Trace, ms, wait};
use crate::weather::{Fault, Forecast};

/// What stands in place of the content in times of [`Fault::Garbage`].
const PAGE: &[u8] = b"<html><body><h1>Please log in to this hotel's network</h1></body></html>";

/// What was sent of a blob for one request.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) digest: Digest,
    /// What was taken of it, or of what came in its place.
    pub(crate) sent: Range<u64>,
    /// What went wrong.
    pub(crate) fault: Option<Fault>,
}

/// The registry. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Registry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    catalogue: Arc<Catalogue>,
    forecast: Forecast,
    seed: u64,
    trace: Trace,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How often each thing was asked for.
    asked: BTreeMap<String, u64>,
    transfers: Vec<Transfer>,
    /// Blobs whose HEAD was answered with the size of something else.
    misled: BTreeSet<Digest>,
    /// In place of the weather: what goes wrong with every request, if anything.
    always: Option<Option<Fault>>,
}

impl Registry {
    pub(crate) fn new(
        seed: u64,
        catalogue: Arc<Catalogue>,
        forecast: Forecast,
        trace: Trace,
    ) -> Self {
        Self(Arc::new(Shared { catalogue, forecast, seed, trace, state: Mutex::default() }))
    }

    /// The weather is over: from now on that goes wrong with every request, or nothing.
    pub(crate) fn set_all(&self, fault: Option<Fault>) {
        self.0.lock().always = Some(fault);
    }

    /// Every transfer of a blob so far.
    pub(crate) fn transfers(&self) -> Vec<Transfer> {
        self.0.lock().transfers.clone()
    }

    /// Whether HEAD told a wrong size of that blob.
    pub(crate) fn misled(&self, digest: &Digest) -> bool {
        self.0.lock().misled.contains(digest)
    }

    /// Whether a transfer of that blob went wrong in such a way.
    pub(crate) fn any(&self, digest: &Digest, wrong: impl Fn(Fault) -> bool) -> bool {
        let state = self.0.lock();
        let mut transfers = state.transfers.iter().filter(|transfer| transfer.digest == *digest);
        transfers.any(|transfer| transfer.fault.is_some_and(&wrong))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is under a path.
struct Found {
    digest: Digest,
    content: Bytes,
    media_type: &'static str,
    is_blob: bool,
}

#[async_trait]
impl Transport for Registry {
    async fn send(&self, request: Request, _reach: Reach) -> Result<Response, TransportError> {
        let shared = &self.0;
        let url = request.url.expose();
        let endpoint: usize = url
            .host_str()
            .and_then(|host| host.strip_prefix('e')?.split('.').next()?.parse().ok())
            .expect("an endpoint of ours");
        let nature = shared.forecast.endpoints[endpoint];
        let what = format!("{} {}", request.method, short(url.path()));
        let nth = {
            let mut state = shared.lock();
            let count = state.asked.entry(format!("{endpoint} {what}")).or_default();
            *count += 1;
            *count
        };
        let mut dice = Dice::new(shared.seed, format_args!("send {endpoint} {what} {nth}"));
        wait(ms(dice.within(1..nature.latency_ms + 2))).await;

        let found = shared.find(url.path());
        let len = found.as_ref().map_or(0, |found| found.content.len() as u64);
        let range = request.headers.get(RANGE).and_then(|range| range.to_str().ok());
        let part = range.and_then(ByteRanges::parse).and_then(|ranges| ranges.single());
        let part = part.map(|part| match part {
            RangeSpec::FromTo { first, last } => first..last.saturating_add(1),
            RangeSpec::From { first } => first..u64::MAX,
            RangeSpec::Suffix { len: last } => len.saturating_sub(last)..u64::MAX,
        });
        let always = shared.lock().always;
        let fault = always.unwrap_or_else(|| {
            let body =
                part.as_ref().map_or(len, |part| part.end.min(len).saturating_sub(part.start));
            let what = (what.as_str(), nth);
            shared.forecast.fault(shared.trace.now(), endpoint, what, (body, part.is_some()))
        });
        let asked = range.map_or(String::new(), |range| format!(" {range}"));
        let note = |answer: String| {
            let fault = fault.map_or(String::new(), |fault| format!(", {fault:?}"));
            shared.trace.note(format!("  e{endpoint} {what}{asked}: {answer}{fault}"));
        };
        match fault {
            Some(Fault::Refused) => {
                note("refused".into());
                return Err(TransportError::Connect("nobody listens".into()));
            }
            Some(Fault::Dropped) => {
                note("dropped".into());
                return Err(TransportError::Interrupted);
            }
            Some(Fault::Silent) => {
                note("silence".into());
                return pending().await;
            }
            Some(Fault::Status(status)) => {
                note(status.to_string());
                return Ok(refusal(status, &mut dice));
            }
            Some(Fault::Garbage) if request.method == Method::HEAD => {
                note("200".into());
                shared.lock().misled.extend(found.map(|found| found.digest));
                return Ok(page(false));
            }
            Some(Fault::Garbage) => {
                note("200".into());
                if let Some(found) = found.filter(|found| found.is_blob) {
                    let transfer = Transfer { digest: found.digest, sent: 0..0, fault };
                    shared.lock().transfers.push(transfer);
                }
                return Ok(page(true));
            }
            _ => {}
        }
        let Some(found) = found else {
            note("404".into());
            return Ok(refusal(404, &mut dice));
        };
        let mut headers = found.headers();
        if request.method == Method::HEAD {
            note("200".into());
            headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
            return Ok(Response { status: StatusCode::OK, headers, body: empty() });
        }

        // What a changed content is called, nobody else's is.
        let changed = fault == Some(Fault::Changed);
        let tag = format!("\"{}{}\"", found.digest.encoded(), if changed { "-other" } else { "" });
        if nature.has_etag {
            headers.insert(ETAG, HeaderValue::from_str(&tag).expect("a header"));
        }
        let still =
            request.headers.get(IF_RANGE).is_none_or(|still| still.as_bytes() == tag.as_bytes());
        let span = match &part {
            Some(part) if part.start >= len => {
                note("416".into());
                return Ok(refusal(416, &mut dice));
            }
            Some(part) if still && fault != Some(Fault::RangeIgnored) => {
                part.start..part.end.min(len)
            }
            _ => 0..len,
        };
        let is_part =
            span != (0..len) || (part.is_some() && still && fault != Some(Fault::RangeIgnored));
        if is_part {
            let shift = u64::from(fault == Some(Fault::WrongRange));
            let told = pierhead::oci::ByteSpan {
                start: span.start + shift,
                end_exclusive: span.end + shift,
            };
            let told = ContentRange::Part { span: told, size: Some(len + shift) }.to_string();
            headers.insert(CONTENT_RANGE, HeaderValue::from_str(&told).expect("a header"));
        }
        let body = span.end - span.start;
        let announced = match fault {
            Some(Fault::NoLength) => None,
            Some(Fault::TooLong(more)) => Some(body + more),
            Some(Fault::TooShort(less)) => Some(body.saturating_sub(less)),
            _ => Some(body),
        };
        if let Some(announced) = announced {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(announced));
        }
        let status = if is_part { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        note(status.as_u16().to_string());
        let transfer = found.is_blob.then(|| {
            let sent = span.start..span.start;
            let mut state = shared.lock();
            state.transfers.push(Transfer { digest: found.digest, sent, fault });
            state.transfers.len() - 1
        });
        let sending = Sending {
            shared: Arc::clone(shared),
            what: format!("e{endpoint} {what}{asked}"),
            transfer,
            content: found.content,
            start: span.start,
            at: span.start,
            end: span.start + announced.unwrap_or(body).min(body),
            fault,
            pace_ms: nature.pace_ms,
            chunk_max: nature.chunk_max,
            dice,
            broken: false,
        };
        let body = stream::unfold(sending, |mut sending| async move {
            let next = sending.next().await?;
            Some((next, sending))
        });
        Ok(Response { status, headers, body: Box::pin(body) })
    }
}

impl Shared {
    /// What is there now under `/v2/NAME/manifests/REFERENCE` or `/v2/NAME/blobs/DIGEST`.
    fn find(&self, path: &str) -> Option<Found> {
        let (rest, reference) = path.strip_prefix("/v2/")?.rsplit_once('/')?;
        let (name, kind) = rest.rsplit_once('/')?;
        let repository = self.catalogue.repository(name)?;
        let is_blob = kind == "blobs";
        let digest = match reference.parse::<Digest>() {
            Ok(digest) => digest,
            Err(_) => {
                let tag = reference.parse().ok()?;
                repository.meaning(&tag, self.trace.now())?.top()
            }
        };
        let of_image = |image: &crate::catalogue::Image| {
            if is_blob {
                image.blobs.contains(&digest).then_some("application/octet-stream")
            } else if image.index == Some(digest) {
                Some(INDEX)
            } else {
                (image.manifest == digest).then_some(MANIFEST)
            }
        };
        let media_type = repository.images.iter().find_map(of_image)?;
        let content = self.catalogue.content(&digest).clone();
        Some(Found { digest, content, media_type, is_blob })
    }
}

impl Found {
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.media_type));
        let digest = HeaderValue::from_str(&self.digest.to_string()).expect("a header");
        headers.insert("docker-content-digest", digest);
        headers
    }
}

/// A body on its way.
struct Sending {
    shared: Arc<Shared>,
    what: String,
    transfer: Option<usize>,
    content: Bytes,
    start: u64,
    at: u64,
    end: u64,
    fault: Option<Fault>,
    pace_ms: u64,
    chunk_max: u64,
    dice: Dice,
    broken: bool,
}

impl Sending {
    async fn next(&mut self) -> Option<Result<Bytes, TransportError>> {
        if self.broken || self.at == self.end {
            // A body that is too short for its framing is an error of the connection.
            let short = matches!(self.fault, Some(Fault::TooLong(_))) && !self.broken;
            self.broken = true;
            return short.then_some(Err(TransportError::Interrupted));
        }
        wait(ms(self.dice.within(0..self.pace_ms + 1))).await;
        let until = match self.fault {
            Some(Fault::Reset(at) | Fault::Closed(at) | Fault::Stalled(at)) => {
                (self.start + at).min(self.end)
            }
            _ => self.end,
        };
        let chunk = self.dice.within(1..self.chunk_max + 1).min(until.saturating_sub(self.at));
        if chunk == 0 {
            match self.fault {
                Some(Fault::Stalled(_)) => return pending().await,
                Some(Fault::Reset(_)) => {
                    self.broken = true;
                    return Some(Err(TransportError::Interrupted));
                }
                _ => return None,
            }
        }
        let span = index(self.at)..index(self.at + chunk);
        let mut bytes = self.content.slice(span);
        match self.fault {
            Some(Fault::Changed) => bytes = bytes.iter().map(|byte| !byte).collect(),
            Some(Fault::Flipped(at)) if (self.at..self.at + chunk).contains(&(self.start + at)) => {
                let mut flipped = bytes.to_vec();
                flipped[index(self.start + at - self.at)] ^= 0xff;
                bytes = flipped.into();
            }
            _ => {}
        }
        self.at += chunk;
        if let Some(transfer) = self.transfer {
            self.shared.lock().transfers[transfer].sent.end = self.at;
        }
        Some(Ok(bytes))
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let Self { what, start, at, end, .. } = self;
        self.shared.trace.note(format!("  {what}: sent {start}..{at} of {start}..{end}"));
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("content in memory")
}

fn empty() -> BodyStream {
    Box::pin(stream::empty())
}

fn refusal(status: u16, dice: &mut Dice) -> Response {
    let mut headers = HeaderMap::new();
    if status == 429 {
        headers.insert("retry-after", HeaderValue::from(dice.within(1..40)));
        if dice.chance(50) {
            headers.insert("ratelimit-limit", HeaderValue::from_static("100;w=60"));
            headers.insert("ratelimit-remaining", HeaderValue::from_static("0;w=60"));
        }
    }
    let status = StatusCode::from_u16(status).expect("a status");
    Response { status, headers, body: empty() }
}

fn page(with_body: bool) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(PAGE.len()));
    let body: BodyStream = match with_body {
        true => Box::pin(stream::iter([Ok(Bytes::from_static(PAGE))])),
        false => empty(),
    };
    Response { status: StatusCode::OK, headers, body }
}

/// A path with its digest cut to what tells digests apart.
pub(crate) fn short(path: &str) -> String {
    match path.split_once("sha256:") {
        Some((before, digest)) => format!("{before}{}", digest.get(..8).unwrap_or(digest)),
        None => path.to_owned(),
    }
}
