//! What happens on one connection, so that one on which nothing happens can be ended.
//!
//! HTTP/1 has time-outs for the request's head and for writes that block. Neither sees an HTTP/2
//! client that leaves a connection idle, or that opens streams and never makes room for their
//! data while it answers every ping.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::body::{Body, BodyError};

/// How long a connection may do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a request.
    pub idle: Duration,
    /// With answers that the client does not take.
    pub stalled: Duration,
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Nothing.
    Keep,
    /// Nobody asks: end it politely.
    Finish,
    /// Nobody takes what was asked for: end it.
    Cut,
}

/// The activity on one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Activity(Arc<State>);

#[derive(Debug)]
struct State {
    /// Requests that are not answered to the end yet.
    open: AtomicUsize,
    /// Those of them that wait for us, not for the client.
    ours: AtomicUsize,
    http2: AtomicBool,
    asked: AtomicBool,
    last: Mutex<Instant>,
}

impl Activity {
    /// A connection that was just accepted.
    pub fn begin() -> Self {
        Self(Arc::new(State {
            open: AtomicUsize::new(0),
            ours: AtomicUsize::new(0),
            http2: AtomicBool::new(false),
            asked: AtomicBool::new(false),
            last: Mutex::new(Instant::now()),
        }))
    }

    /// A request came.
    pub fn request(&self, http2: bool) -> Exchange {
        self.0.http2.store(http2, Ordering::Relaxed);
        self.0.asked.store(true, Ordering::Relaxed);
        self.0.open.fetch_add(1, Ordering::Relaxed);
        self.0.ours.fetch_add(1, Ordering::Relaxed);
        self.touch();
        Exchange { activity: self.clone(), ours: true }
    }

    /// What to do about the connection now.
    pub fn advice(&self, patience: Patience) -> Advice {
        let quiet = self.0.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        let open = self.0.open.load(Ordering::Relaxed);
        if !self.0.asked.load(Ordering::Relaxed) {
            // hyper waits without limit for the bytes that tell HTTP/1 from HTTP/2.
            return if quiet >= patience.idle { Advice::Cut } else { Advice::Keep };
        }
        if !self.0.http2.load(Ordering::Relaxed) {
            return Advice::Keep;
        }
        if open == 0 {
            return if quiet >= patience.idle { Advice::Finish } else { Advice::Keep };
        }
        let waits_for_us = self.0.ours.load(Ordering::Relaxed) > 0;
        if !waits_for_us && quiet >= patience.stalled { Advice::Cut } else { Advice::Keep }
    }

    fn touch(&self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// One request and its answer; it lasts until the answer's body is sent or given up.
#[derive(Debug)]
pub struct Exchange {
    activity: Activity,
    ours: bool,
}

impl Exchange {
    fn waits_for_us(&mut self, ours: bool) {
        if self.ours != ours {
            self.ours = ours;
            if ours {
                self.activity.0.ours.fetch_add(1, Ordering::Relaxed);
            } else {
                self.activity.0.ours.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.activity.touch();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.waits_for_us(false);
        self.activity.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body whose progress is noted.
pub struct Noted {
    body: Body,
    exchange: Exchange,
}

impl Noted {
    /// The body of the answer that ends `exchange`.
    pub const fn new(body: Body, exchange: Exchange) -> Self {
        Self { body, exchange }
    }
}

impl http_body::Body for Noted {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.exchange.waits_for_us(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience =
        Patience { idle: Duration::from_secs(30), stalled: Duration::from_secs(60) };

    async fn after(activity: &Activity, seconds: u64) -> Advice {
        tokio::time::advance(Duration::from_secs(seconds)).await;
        activity.advice(PATIENCE)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_is_cut() {
        let activity = Activity::begin();
        assert_eq!(after(&activity, 29).await, Advice::Keep);
        assert_eq!(after(&activity, 1).await, Advice::Cut);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_http2_connection_is_finished() {
        let activity = Activity::begin();
        drop(activity.request(true));
        assert_eq!(after(&activity, 29).await, Advice::Keep);
        assert_eq!(after(&activity, 1).await, Advice::Finish);
    }

    #[tokio::test(start_paused = true)]
    async fn http1_has_its_own_limits() {
        let activity = Activity::begin();
        drop(activity.request(false));
        assert_eq!(after(&activity, 1000).await, Advice::Keep);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_us_waits_as_long_as_it_takes() {
        let activity = Activity::begin();
        let mut exchange = activity.request(true);
        assert_eq!(after(&activity, 1000).await, Advice::Keep);
        exchange.waits_for_us(false);
        assert_eq!(after(&activity, 59).await, Advice::Keep);
        assert_eq!(after(&activity, 1).await, Advice::Cut);
    }

    #[tokio::test(start_paused = true)]
    async fn one_stream_that_waits_for_us_keeps_the_others() {
        let activity = Activity::begin();
        let mut taken = activity.request(true);
        let _waiting = activity.request(true);
        taken.waits_for_us(false);
        assert_eq!(after(&activity, 1000).await, Advice::Keep);
    }
}
