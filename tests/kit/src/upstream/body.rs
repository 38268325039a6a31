//! A response body that can be slow, stop, break and lie.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::{Instant, Sleep};

use super::State;
use super::content::Data;

const PART: u64 = 64 * 1024;

/// How far a connection has pushed its bytes into the socket.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    count: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

/// Sees each flush that succeeds: hyper flushes when everything buffered has been written.
pub(super) struct FlushWatch<T> {
    pub(super) io: T,
    pub(super) flushes: Arc<Flushes>,
}

impl<T: Read + Unpin> Read for FlushWatch<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for FlushWatch<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.flushes.count.fetch_add(1, Ordering::SeqCst);
        if let Some(waker) = self.flushes.waker.lock().unwrap().take() {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}

/// How a body misbehaves.
#[derive(Debug, Default)]
pub(super) struct Manners {
    pub(super) bytes_per_second: Option<u64>,
    pub(super) stall_after: Option<u64>,
    pub(super) cut_after: Option<u64>,
    pub(super) flips: Vec<u64>,
    pub(super) extra: u64,
}

/// The body of one answer.
pub(super) struct FaultBody {
    data: Data,
    /// The next byte of the content.
    at: u64,
    /// Where the content ends.
    end: u64,
    sent: u64,
    manners: Manners,
    throttle: Option<(Instant, Pin<Box<Sleep>>)>,
    flushed_before: Option<u64>,
    over: bool,
    flushes: Arc<Flushes>,
    state: Arc<State>,
    order: usize,
}

impl FaultBody {
    pub(super) fn new(
        data: Data,
        range: std::ops::Range<u64>,
        manners: Manners,
        flushes: Arc<Flushes>,
        state: Arc<State>,
        order: usize,
    ) -> Self {
        Self {
            data,
            at: range.start,
            end: range.end,
            sent: 0,
            manners,
            throttle: None,
            flushed_before: None,
            over: false,
            flushes,
            state,
            order,
        }
    }

    fn finish(&mut self, complete: bool) {
        if !self.over {
            self.over = true;
            self.state.log.change(self.order, |entry| {
                entry.finished = true;
                entry.complete = complete;
            });
        }
    }
}

impl Drop for FaultBody {
    fn drop(&mut self) {
        let sent_all = self.at == self.end && self.manners.extra == 0;
        self.finish(sent_all);
    }
}

impl Body for FaultBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let me = &mut *self;
        if me.manners.stall_after.is_some_and(|n| me.sent >= n) {
            return Poll::Pending;
        }
        if me.manners.cut_after.is_some_and(|n| me.sent >= n) {
            // What was handed over must reach the client first: hyper drops its buffer on an
            // error. Returning Pending makes it write and flush, and the flush wakes us.
            let before =
                *me.flushed_before.get_or_insert_with(|| me.flushes.count.load(Ordering::SeqCst));
            *me.flushes.waker.lock().unwrap() = Some(cx.waker().clone());
            if me.flushes.count.load(Ordering::SeqCst) == before {
                return Poll::Pending;
            }
            me.finish(false);
            return Poll::Ready(Some(Err(io::Error::other("cut as the test wants it"))));
        }
        let real = me.end - me.at;
        let left = real.saturating_add(me.manners.extra);
        if left == 0 {
            me.finish(true);
            return Poll::Ready(None);
        }
        let mut len = PART.min(if real > 0 { real } else { left });
        for limit in [me.manners.stall_after, me.manners.cut_after].into_iter().flatten() {
            len = len.min(limit - me.sent);
        }
        if let Some(rate) = me.manners.bytes_per_second {
            let (since, sleep) = me.throttle.get_or_insert_with(|| {
                (Instant::now(), Box::pin(tokio::time::sleep(Duration::ZERO)))
            });
            // A part may go out once the time for all before it has passed.
            let due = *since + Duration::from_secs_f64(me.sent as f64 / rate as f64);
            if sleep.deadline() != due {
                sleep.as_mut().reset(due);
            }
            ready!(sleep.as_mut().poll(cx));
            len = len.min((rate / 20).max(1));
        }
        let mut part = if real > 0 {
            me.data.part(me.at, len as usize)
        } else {
            Bytes::from(vec![0; len as usize])
        };
        if real > 0 {
            let range = me.at..me.at + len;
            if me.manners.flips.iter().any(|at| range.contains(at)) {
                let mut bytes = part.to_vec();
                for flip in me.manners.flips.iter().filter(|at| range.contains(at)) {
                    bytes[(flip - me.at) as usize] ^= 0xff;
                }
                part = bytes.into();
            }
            me.at += len;
        } else if me.manners.extra != u64::MAX {
            me.manners.extra -= len;
        }
        me.sent += len;
        me.state.log.change(me.order, |entry| entry.bytes_sent += len);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        false
    }

    // Never exact: the headers alone say what the client is told.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
