//! The fetching side of a fill: which transfers run, what becomes of those that break off, and when
//! it is time to stop.

use std::future::pending;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::HeaderValue;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::flight::{FillError, Permit};
use super::lane::{Lane, LaneError, LaneState, Source};
use super::metrics::PullMetrics;
use super::pace::Pace;
use super::plan::{self, Running, Step, View};
use super::retry::Retry;
use super::settings::FillSettings;
use super::verify::Arrival;
use crate::spans::Spans;
use crate::upstream::BlobBody;

/// How often it is looked at how a fill is doing.
const TICK: Duration = Duration::from_secs(1);

/// A fill that nobody reads is finished if less than this is lacking, in bytes.
pub const FINISH_BELOW_BYTES: u64 = 256 << 20;

/// Upstream works again when so much has come, in bytes: one that resets after every byte is not to
/// be asked all the time.
const PROGRESS_BYTES: u64 = 64 * 1024;

/// What is known before the first transfer, and the transfer that upstream began already.
#[derive(Debug)]
pub struct Begun {
    /// The blob's size in bytes, where it is known.
    pub total: Option<u64>,
    /// What an earlier fill left.
    pub landed: Spans,
    /// A transfer that runs, and which part it is to bring.
    pub first: Option<(BlobBody, Range<u64>)>,
}

/// Drives one fill.
pub struct Fill<'a> {
    source: Source,
    permit: &'a Permit,
    settings: &'a FillSettings,
    metrics: &'a PullMetrics,
    stopping: CancellationToken,
    landing: mpsc::Sender<Arrival>,
    total: Option<u64>,
    /// What has landed, or is going to by a transfer that runs.
    claimed: Spans,
    lanes: FuturesUnordered<LaneFuture>,
    running: Vec<Arc<LaneState>>,
    etag: Option<(Arc<str>, HeaderValue)>,
    retry: Retry,
    pace: Pace,
    /// Upstream sends no ranges, or the blob passes through memory.
    sequential: bool,
    is_passing: bool,
    landed_before: u64,
    unread_since: Option<Instant>,
    is_stopping: bool,
}

type LaneFuture = Pin<Box<dyn Future<Output = LaneEnd> + Send>>;

struct LaneEnd {
    state: Arc<LaneState>,
    /// How far it was when it began.
    from: u64,
    etag: Option<(Arc<str>, HeaderValue)>,
    result: Result<(), LaneError>,
}

impl<'a> Fill<'a> {
    /// A fill that goes on from what `begun` says.
    pub fn new(
        source: Source,
        permit: &'a Permit,
        (settings, metrics): (&'a FillSettings, &'a PullMetrics),
        stopping: CancellationToken,
        landing: mpsc::Sender<Arrival>,
        begun: Begun,
    ) -> Self {
        let seed = settings.jitter_seed ^ source.digest.spread();
        let mut fill = Self {
            source,
            permit,
            settings,
            metrics,
            stopping,
            landing,
            total: begun.total,
            claimed: begun.landed,
            lanes: FuturesUnordered::new(),
            running: Vec::new(),
            etag: None,
            retry: Retry::new(settings.retry_for, seed),
            pace: Pace::new(settings.connections),
            // What has no known end, or passes through memory, cannot be asked for in parts.
            sequential: begun.total.is_none() || permit.passing_from().is_some(),
            is_passing: permit.passing_from().is_some(),
            landed_before: 0,
            unread_since: None,
            is_stopping: false,
        };
        fill.landed_before = fill.claimed.len();
        if let Some((body, span)) = begun.first {
            fill.begin(span, Some(body));
        }
        fill
    }

    /// Has everything fetched that is wanted, until the landing has all of it or there is a reason
    /// to stop, which it tells the landing.
    pub async fn drive(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = loop {
            let now = Instant::now();
            self.look_at_lanes();
            let waits_until = self.retry.not_before(now);
            if waits_until.is_none() {
                self.begin_what_is_next();
            }
            let activity = self.permit.activity();
            activity.connections(self.running.len());
            activity.waits(self.running.is_empty() && waits_until.is_some());
            tokio::select! {
                // What comes seldom is looked at first.
                biased;
                // Once, without a tick's delay.
                () = self.stopping.cancelled(), if !self.is_stopping => {
                    self.is_stopping = true;
                    if self.is_to_be_parked(now) {
                        break Arrival::Park;
                    }
                }
                _ = ticks.tick() => {
                    if self.is_to_be_parked(Instant::now()) {
                        break Arrival::Park;
                    }
                }
                () = until(waits_until) => {}
                Some(end) = self.lanes.next() => {
                    if let Err(stop) = self.ended(end, Instant::now()) {
                        break stop;
                    }
                }
                () = self.permit.demands().changed() => {}
            }
        };
        self.lanes.clear();
        // A landing that has ended needs no reason.
        let _ = self.landing.send(stop).await;
    }

    /// Notes what can only be known by looking.
    fn look_at_lanes(&mut self) {
        if !self.is_passing
            && let Some(from) = self.permit.passing_from()
        {
            self.is_passing = true;
            self.sequential = true;
            self.stop_lanes();
            self.claimed = Spans::of(0..from);
        }
        if !self.sequential && self.running.iter().any(|lane| lane.ignores_ranges()) {
            tracing::info!(
                upstream = %self.source.scope.upstream, digest = %self.source.digest,
                "upstream ignores ranges: the blob comes in order"
            );
            self.sequential = true;
            self.permit.demands().want_whole();
            // The transfer that sends everything may as well be read on, to the next part that is
            // here.
            let keep = self.running.iter().position(|lane| lane.ignores_ranges()).unwrap_or(0);
            self.running.swap(0, keep);
            for lane in self.running.drain(1..) {
                let at = lane.at();
                self.claimed.remove(at..lane.until());
                lane.end_at(at);
            }
            if let (Some(lane), Some(total)) = (self.running.first(), self.total) {
                let until = lane.until();
                let gap = self.claimed.first_gap(until..total).filter(|gap| gap.start == until);
                if let Some(gap) = gap {
                    lane.end_at(gap.end);
                    self.claimed.insert(gap);
                }
            }
        }
        let landed = self.permit.landed_bytes();
        if landed.saturating_sub(self.landed_before) >= PROGRESS_BYTES {
            self.landed_before = landed;
            self.retry.landed();
        }
    }

    /// Ends all transfers; what they did not bring is lacking again.
    fn stop_lanes(&mut self) {
        self.lanes.clear();
        for lane in self.running.drain(..) {
            self.claimed.remove(lane.at()..lane.until());
        }
    }

    fn begin_what_is_next(&mut self) {
        let wishes = self.permit.demands().wishes();
        loop {
            // After a failure, one at a time until something has landed.
            let connections =
                if self.retry.is_in_trouble() { 1 } else { self.settings.connections };
            let running: Vec<Running> = self
                .running
                .iter()
                .map(|lane| Running { at: lane.at(), until: lane.until() })
                .collect();
            let step = plan::next(&View {
                total: self.total,
                claimed: &self.claimed,
                running: &running,
                wishes: &wishes,
                sequential: self.sequential,
                connections_max: connections,
                connections_paced: self.pace.connections(),
                parallel_above: self.settings.parallel_above,
            });
            match step {
                None => return,
                Some(Step::Fetch(span)) => self.begin(span, None),
                Some(Step::Cut { index, at }) => {
                    let Some(lane) = self.running.get(index) else { return };
                    self.claimed.remove(at..lane.until());
                    lane.end_at(at);
                }
            }
        }
    }

    fn begin(&mut self, span: Range<u64>, body: Option<BlobBody>) {
        let state = LaneState::new(span.start, span.end);
        self.claimed.insert(span.clone());
        self.running.push(Arc::clone(&state));
        let lane = Lane {
            source: self.source.clone(),
            state,
            total: self.total,
            etag: self.etag.clone(),
            landing: self.landing.clone(),
        };
        self.lanes.push(Box::pin(run(lane, body)));
    }

    /// A transfer has ended: as it should, or it has to be continued.
    fn ended(&mut self, end: LaneEnd, now: Instant) -> Result<(), Arrival> {
        let LaneEnd { state, from, etag, result } = end;
        // It may have learned something since the last look.
        self.look_at_lanes();
        let Some(index) = self.running.iter().position(|lane| Arc::ptr_eq(lane, &state)) else {
            // One that was given up meanwhile.
            return Ok(());
        };
        self.running.remove(index);
        let (at, until) = (state.at(), state.until());
        self.claimed.remove(at..until);
        if at - from >= PROGRESS_BYTES {
            self.retry.landed();
        }
        match (&etag, &self.etag) {
            (Some((host, new)), Some((before, old))) if host == before && new != old => {
                // The digest will tell whether the bytes have changed as well.
                tracing::warn!(
                    upstream = %self.source.scope.upstream, digest = %self.source.digest,
                    "upstream calls the content of a digest something else than before"
                );
                self.etag = None;
            }
            (Some(_), _) => self.etag = etag,
            (None, _) => {}
        }
        let error = match result {
            Ok(()) if at >= until => return Ok(()),
            // The end of a blob whose size was not known.
            Ok(()) => return Err(Arrival::End),
            Err(error) => error,
        };
        self.metrics.broke_off();
        self.permit.activity().broke_off();
        self.pace.broke_off();
        let retried = match &error {
            LaneError::Upstream(error) => self.retry.failed(error, now),
            LaneError::Changed { .. } => self.retry.contradicted(now),
        };
        // What others still bring is not given up for one that is refused.
        let given_up = retried.is_err() && self.running.is_empty();
        let why = FillError::from(error.clone());
        tracing::info!(
            scope = %self.source.scope, digest = %self.source.digest, at, given_up, %why,
            "a transfer broke off"
        );
        if given_up { Err(Arrival::Failed(why)) } else { Ok(()) }
    }

    /// Whether nobody reads any more, for so long that the rest can wait for somebody who does.
    fn is_to_be_parked(&mut self, now: Instant) -> bool {
        let landed = self.permit.landed_bytes();
        self.pace.tick(now, landed, self.running.len());
        if self.permit.is_followed() {
            self.unread_since = None;
            return false;
        }
        let since = *self.unread_since.get_or_insert(now);
        if !self.is_stopping && now.duration_since(since) < self.settings.pause_after {
            return false;
        }
        let wishes = self.permit.demands().wishes();
        let nearly_done = self.total.is_none_or(|total| {
            landed > total / 2 || total.saturating_sub(landed) < FINISH_BELOW_BYTES
        });
        let goes_on = if wishes.whole {
            nearly_done
        } else {
            wishes.asked.iter().any(|asked| self.claimed.first_gap(asked).is_some())
                || !self.running.is_empty()
        };
        (self.is_stopping || !goes_on) && self.permit.leave_unless_followed()
    }
}

async fn run(lane: Lane, body: Option<BlobBody>) -> LaneEnd {
    let from = lane.state.at();
    let mut etag = None;
    let result = async {
        let mut body = match body {
            Some(body) => body,
            None => lane.open().await?,
        };
        etag = body.etag.clone().map(|etag| (Arc::clone(body.host()), etag));
        lane.receive(&mut body).await
    }
    .await;
    LaneEnd { state: lane.state, from, etag, result }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => pending().await,
    }
}
