//! Response bodies: what is in memory, and what is read from a stored or growing blob as the
//! client takes it.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;

use super::access::Access;
use crate::gate::{Full, Gate, Permit};
use crate::pull::follow::READ_BYTES_MAX;
use crate::pull::metrics::{PullMetrics, Reading};
use crate::pull::{BlobReader, ReadError};

/// How much of an answer may wait in memory for an HTTP/2 client to make room, in bytes a stream.
/// Over HTTP/1 it is less: one read, and what is left of the one before.
pub const HTTP2_SEND_BUFFER_BYTES: usize = 128 * 1024;

/// The most that an answer holds in memory that is read piece by piece, in bytes: the last read,
/// and what waits for the client to make room.
pub const PIECES_BYTES_MAX: u64 = 256 * 1024;

const _: () = assert!(PIECES_BYTES_MAX == READ_BYTES_MAX + HTTP2_SEND_BUFFER_BYTES as u64);

/// Answers in memory up to this size are not counted against `server.body_memory_max`, in bytes:
/// `server.requests_max` limits them.
pub const UNCOUNTED_BYTES_MAX: usize = 16 * 1024;

/// A response body.
pub struct Body {
    content: Content,
    access: Option<Box<Access>>,
}

enum Content {
    Bytes(Option<Bytes>),
    Stream { chunks: Chunks, remaining: Option<u64> },
    Foreign(UnsyncBoxBody<Bytes, BodyError>),
}

/// Why a body broke off.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BodyError {
    /// The blob could not be read to its end.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Whatever made the body up failed.
    #[error("{0}")]
    Foreign(String),
}

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, ReadError>> + Send>>;

impl Body {
    /// No body.
    pub const fn empty() -> Self {
        Self { content: Content::Bytes(None), access: None }
    }

    /// A body in memory.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { content: Content::Bytes((!bytes.is_empty()).then_some(bytes)), access: None }
    }

    /// A body that is read piece by piece.
    pub fn pieces(transfer: Transfer) -> Self {
        let remaining = transfer.len();
        Self {
            content: Content::Stream { chunks: Box::pin(transfer.chunks()), remaining },
            access: None,
        }
    }

    /// A body that something else makes up, passed on frame by frame.
    pub fn foreign<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error: std::fmt::Display> + Send + 'static,
    {
        let body = body.map_err(|error| BodyError::Foreign(error.to_string()));
        Self { content: Content::Foreign(body.boxed_unsync()), access: None }
    }

    /// Counts a body that is in memory in `memory`, until the last byte of it is out. One that is
    /// read piece by piece has its permit already ([`Transfer::memory`]).
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn counted(mut self, memory: &Gate) -> Result<Self, Full> {
        if let Content::Bytes(Some(bytes)) = &mut self.content
            && bytes.len() > UNCOUNTED_BYTES_MAX
        {
            let permit = memory.enter(bytes.len() as u64)?;
            *bytes = held(std::mem::take(bytes), permit);
        }
        Ok(self)
    }

    /// Ties the record of the request to the body's life: it is written when the body ends.
    pub fn recorded(mut self, access: Box<Access>) -> Self {
        self.access = Some(access);
        self
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let next = match &mut this.content {
            Content::Bytes(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Content::Stream { chunks, remaining } => {
                let next = ready!(chunks.as_mut().poll_next(cx));
                if let (Some(Ok(bytes)), Some(remaining)) = (&next, remaining) {
                    *remaining = remaining.saturating_sub(bytes.len() as u64);
                }
                next.map(|bytes| bytes.map(Frame::data).map_err(BodyError::from))
            }
            Content::Foreign(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        if let Some(access) = &mut this.access {
            match &next {
                Some(Ok(frame)) => {
                    access.sent(frame.data_ref().map_or(0, |bytes| bytes.len() as u64));
                }
                Some(Err(error)) => access.failed(error),
                None => {}
            }
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Bytes(bytes) => bytes.is_none(),
            Content::Stream { remaining, .. } => *remaining == Some(0),
            Content::Foreign(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Bytes(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Stream { remaining: Some(remaining), .. } => SizeHint::with_exact(*remaining),
            Content::Stream { remaining: None, .. } => SizeHint::default(),
            Content::Foreign(body) => body.size_hint(),
        }
    }
}

/// Bytes that give their permit back when the last of them is out: the connection still has them
/// when the body has ended.
fn held(bytes: Bytes, permit: Permit) -> Bytes {
    struct Held {
        bytes: Bytes,
        _permit: Permit,
    }
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    Bytes::from_owner(Held { bytes, _permit: permit })
}

/// A piece of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes that stand between spans: the headers of a multipart answer.
    Bytes(Bytes),
    /// A span of the blob.
    Span(Range<u64>),
    /// The whole of a blob whose size is not known.
    ToTheEnd,
}

/// A blob on its way to one client.
#[derive(Debug)]
pub struct Transfer {
    /// Where the bytes come from.
    pub reader: BlobReader,
    /// What is sent.
    pub pieces: VecDeque<Piece>,
    /// Whether zero-copy views of files may be sent: only over plaintext HTTP/1.
    pub mapped: bool,
    /// Counts the follower while it reads.
    pub reading: Option<Reading>,
    /// Counts what goes out unverified.
    pub metrics: PullMetrics,
    /// The room in memory for what is read and not sent yet: [`PIECES_BYTES_MAX`].
    pub memory: Option<Permit>,
}

impl Transfer {
    fn len(&self) -> Option<u64> {
        self.pieces.iter().try_fold(0_u64, |sum, piece| match piece {
            Piece::Bytes(bytes) => Some(sum + bytes.len() as u64),
            Piece::Span(span) => Some(sum + (span.end - span.start)),
            Piece::ToTheEnd => None,
        })
    }

    fn chunks(self) -> impl Stream<Item = Result<Bytes, ReadError>> + Send {
        unfold((self, 0_u64, false), |(mut transfer, at, failed)| async move {
            if failed {
                return None;
            }
            match transfer.next(at).await {
                Ok(Some((mut bytes, at))) => {
                    if transfer.pieces.is_empty()
                        && let Some(permit) = transfer.memory.take()
                    {
                        bytes = held(bytes, permit);
                    }
                    Some((Ok(bytes), (transfer, at, false)))
                }
                Ok(None) => None,
                Err(error) => Some((Err(error), (transfer, at, true))),
            }
        })
    }

    /// The next bytes, and where the first piece goes on. `at` counts within the first piece.
    async fn next(&mut self, at: u64) -> Result<Option<(Bytes, u64)>, ReadError> {
        let Some(piece) = self.pieces.front() else { return Ok(None) };
        let span = match piece {
            Piece::Bytes(_) => {
                let Some(Piece::Bytes(bytes)) = self.pieces.pop_front() else { return Ok(None) };
                return Ok(Some((bytes, 0)));
            }
            Piece::Span(span) => span.start + at..span.end,
            Piece::ToTheEnd => at..u64::MAX,
        };
        let whole = matches!(piece, Piece::Span(_));
        let Some(bytes) = self.reader.read(span.clone(), self.mapped).await? else {
            // Only a blob of unknown size may end where it likes.
            return if whole { Err(ReadError::Truncated { at: span.start }) } else { Ok(None) };
        };
        let len = bytes.len() as u64;
        if self.reader.hands_out_unverified() {
            self.metrics.unverified(len);
        }
        if span.start + len >= span.end {
            self.pieces.pop_front();
            return Ok(Some((bytes, 0)));
        }
        Ok(Some((bytes, at + len)))
    }
}
