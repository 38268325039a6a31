//! What happens on one connection, so that one on which nothing happens, or hardly anything, can
//! be ended.
//!
//! HTTP/1 has time-outs for the request's head and for writes that block. Neither sees an HTTP/2
//! client that leaves a connection idle, or that opens streams and never makes room for their
//! data while it answers every ping; nor a client of either kind that takes a byte now and then.
//!
//! Only the client's own time counts: that in which a write to it blocks (HTTP/1), or in which all
//! answers that are open wait for it to make room (HTTP/2). What it takes in that time is compared
//! with the rate that it has to keep.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use super::body::{Body, BodyError, HTTP2_SEND_BUFFER_BYTES};
use super::door::Inside;

/// How long a connection may do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Without a request.
    pub idle: Duration,
    /// With answers that the client does not take. Also how much of the client's time passes
    /// before its rate is judged.
    pub stalled: Duration,
    /// What a client has to take of answers that wait for it, in bytes a second; 0 is anything.
    pub rate_min: u64,
}

/// What is to be done about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Advice {
    /// Nothing.
    Keep,
    /// Nobody asks: end it politely.
    Finish,
    /// Nothing happens any more: end it.
    Cut,
    /// The client takes too little: end it.
    TooSlow,
}

/// The activity on one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Requests that are not answered to the end yet.
    open: usize,
    /// Those of them that wait for us, not for the client.
    ours: usize,
    http2: bool,
    asked: bool,
    /// Whether the last write found no room.
    blocked: bool,
    last: Instant,
    /// Since when it is the client's turn, if it is.
    theirs_since: Option<Instant>,
    /// The client's time before that, and what it took, since its rate was last judged.
    theirs: Duration,
    taken: u64,
}

impl State {
    /// Something changed: is it the client's turn now?
    fn turn(&mut self, now: Instant) {
        let is_theirs = if self.http2 { self.open > 0 && self.ours == 0 } else { self.blocked };
        match (self.theirs_since, is_theirs) {
            (None, true) => self.theirs_since = Some(now),
            (Some(since), false) => {
                self.theirs += now.duration_since(since);
                self.theirs_since = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    fn touch(&mut self) {
        let now = Instant::now();
        self.last = now;
        self.turn(now);
    }

    /// Whether the client has taken too little of late.
    fn is_too_slow(&mut self, patience: Patience) -> bool {
        let now = Instant::now();
        if let Some(since) = self.theirs_since {
            self.theirs += now.duration_since(since);
            self.theirs_since = Some(now);
        }
        if self.theirs < patience.stalled {
            return false;
        }
        let (theirs, taken) = (std::mem::take(&mut self.theirs), std::mem::take(&mut self.taken));
        let wanted = u128::from(patience.rate_min) * theirs.as_millis() / 1000;
        // Over HTTP/2 what is in the buffer counts as taken when the next piece is asked for.
        let buffered = if self.http2 { HTTP2_SEND_BUFFER_BYTES as u128 } else { 0 };
        u128::from(taken) + buffered < wanted
    }
}

impl Activity {
    /// A connection that was just accepted.
    pub fn begin() -> Self {
        Self(Arc::new(Mutex::new(State {
            open: 0,
            ours: 0,
            http2: false,
            asked: false,
            blocked: false,
            last: Instant::now(),
            theirs_since: None,
            theirs: Duration::ZERO,
            taken: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request came.
    pub fn request(&self, http2: bool) -> Exchange {
        let mut state = self.state();
        state.http2 = http2;
        state.asked = true;
        state.open += 1;
        state.ours += 1;
        state.touch();
        Exchange { activity: self.clone(), ours: true, inside: None }
    }

    /// The connection took `bytes`.
    pub fn wrote(&self, bytes: u64) {
        let mut state = self.state();
        if !state.http2 {
            state.blocked = false;
            state.taken = state.taken.saturating_add(bytes);
            state.turn(Instant::now());
        }
    }

    /// The connection had no room.
    pub fn blocked(&self) {
        let mut state = self.state();
        if !state.blocked {
            state.blocked = true;
            state.turn(Instant::now());
        }
    }

    /// What to do about the connection now.
    pub fn advice(&self, patience: Patience) -> Advice {
        let mut state = self.state();
        let quiet = state.last.elapsed();
        if !state.asked {
            // hyper waits without limit for the bytes that tell HTTP/1 from HTTP/2.
            return if quiet >= patience.idle { Advice::Cut } else { Advice::Keep };
        }
        if state.http2 && state.open == 0 {
            return if quiet >= patience.idle { Advice::Finish } else { Advice::Keep };
        }
        if state.http2 && state.ours == 0 && quiet >= patience.stalled {
            return Advice::Cut;
        }
        if state.is_too_slow(patience) { Advice::TooSlow } else { Advice::Keep }
    }
}

/// One request and its answer; it lasts until the answer's body is sent or given up.
#[derive(Debug)]
pub struct Exchange {
    activity: Activity,
    ours: bool,
    inside: Option<Inside>,
}

impl Exchange {
    /// The request has a place, which it keeps until it ends.
    pub fn takes(&mut self, inside: Inside) {
        self.inside = Some(inside);
    }

    /// Whether the answer waits for us now, and how much the client was given.
    fn waits_for_us(&mut self, ours: bool, given: u64) {
        let mut state = self.activity.state();
        if self.ours != ours {
            self.ours = ours;
            if ours {
                state.ours += 1;
            } else {
                state.ours -= 1;
            }
        }
        if state.http2 {
            state.taken = state.taken.saturating_add(given);
        }
        state.touch();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.waits_for_us(false, 0);
        let mut state = self.activity.state();
        state.open -= 1;
        state.turn(Instant::now());
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
        let given = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, |bytes| bytes.len() as u64),
            _ => 0,
        };
        self.exchange.waits_for_us(polled.is_pending(), given);
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

    const RATE: u64 = 4096;

    const PATIENCE: Patience = Patience {
        idle: Duration::from_secs(30),
        stalled: Duration::from_secs(60),
        rate_min: RATE,
    };

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
    async fn an_idle_http1_connection_is_left_to_its_own_limits() {
        let activity = Activity::begin();
        drop(activity.request(false));
        assert_eq!(after(&activity, 1000).await, Advice::Keep);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_us_waits_as_long_as_it_takes() {
        let activity = Activity::begin();
        let mut exchange = activity.request(true);
        assert_eq!(after(&activity, 1000).await, Advice::Keep);
        exchange.waits_for_us(false, 0);
        assert_eq!(after(&activity, 59).await, Advice::Keep);
        assert_eq!(after(&activity, 1).await, Advice::Cut);
    }

    #[tokio::test(start_paused = true)]
    async fn one_stream_that_waits_for_us_keeps_the_others() {
        let activity = Activity::begin();
        let mut taken = activity.request(true);
        let _waiting = activity.request(true);
        taken.waits_for_us(false, 0);
        assert_eq!(after(&activity, 1000).await, Advice::Keep);
    }

    #[tokio::test(start_paused = true)]
    async fn an_http1_client_that_takes_a_little_now_and_then_is_too_slow() {
        for (rate, advice) in [(RATE - 1, Advice::TooSlow), (RATE, Advice::Keep)] {
            let activity = Activity::begin();
            let _exchange = activity.request(false);
            let mut last = Advice::Keep;
            for _ in 0..60 {
                assert_eq!(last, Advice::Keep, "before its time at {rate}");
                activity.blocked();
                tokio::time::advance(Duration::from_secs(1)).await;
                activity.wrote(rate);
                last = activity.advice(PATIENCE);
            }
            assert_eq!(last, advice, "{rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn our_own_time_is_not_held_against_an_http1_client() {
        let activity = Activity::begin();
        let _exchange = activity.request(false);
        for _ in 0..1000 {
            // Upstream gives a byte a minute, and the client takes it at once.
            assert_eq!(after(&activity, 60).await, Advice::Keep);
            activity.wrote(1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_http2_client_that_makes_a_little_room_is_too_slow() {
        // Less than the rate, even with what may be in the buffer.
        for (piece, advice) in [(1000, Advice::TooSlow), (RATE * 10, Advice::Keep)] {
            let activity = Activity::begin();
            let mut exchange = activity.request(true);
            let mut worst = Advice::Keep;
            for _ in 0..20 {
                exchange.waits_for_us(false, piece);
                worst = worst.max(after(&activity, 10).await);
            }
            assert_eq!(worst, advice, "{piece}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_was_quick_is_not_spared_for_long() {
        let activity = Activity::begin();
        let _exchange = activity.request(false);
        activity.wrote(10 << 30);
        activity.blocked();
        assert_eq!(after(&activity, 60).await, Advice::Keep);
        assert_eq!(after(&activity, 60).await, Advice::TooSlow);
    }

    #[tokio::test(start_paused = true)]
    async fn no_rate_is_any_rate() {
        let activity = Activity::begin();
        let _exchange = activity.request(false);
        activity.blocked();
        tokio::time::advance(Duration::from_secs(600)).await;
        assert_eq!(activity.advice(Patience { rate_min: 0, ..PATIENCE }), Advice::Keep);
    }
}
