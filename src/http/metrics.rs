//! What the listeners count.

use http::StatusCode;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// The listeners' counters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: IntCounterVec,
    cache: IntCounterVec,
    head_seconds: HistogramVec,
    body_bytes: IntCounterVec,
    connections: IntGaugeVec,
    timed_out: IntCounterVec,
    too_slow: IntCounter,
    ready: IntGauge,
    degraded: IntGaugeVec,
}

impl HttpMetrics {
    /// Registers the counters.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new("pierhead_http_requests_total", "Requests answered, by kind and status"),
            &["kind", "status"],
        )?;
        let cache = IntCounterVec::new(
            Opts::new("pierhead_cache_answers_total", "The cache's part in answers, with reasons"),
            &["kind", "outcome", "reason"],
        )?;
        let head_seconds = HistogramVec::new(
            HistogramOpts::new(
                "pierhead_http_head_seconds",
                "Time from a request's head to its answer's head",
            )
            .buckets(vec![
                0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0,
            ]),
            &["kind"],
        )?;
        let body_bytes = IntCounterVec::new(
            Opts::new("pierhead_http_body_bytes_total", "Bytes of bodies handed to clients"),
            &["kind"],
        )?;
        let connections = IntGaugeVec::new(
            Opts::new("pierhead_http_connections", "Open connections, by listener"),
            &["listener"],
        )?;
        let timed_out = IntCounterVec::new(
            Opts::new(
                "pierhead_http_connections_timed_out_total",
                "Connections ended because the client took too long, by listener",
            ),
            &["listener"],
        )?;
        let too_slow = IntCounter::new(
            "pierhead_http_slow_readers_total",
            "Those of them whose client took less than server.write_rate_min",
        )?;
        let ready = IntGauge::new("pierhead_ready", "Whether /readyz would answer 200")?;
        let degraded = IntGaugeVec::new(
            Opts::new(
                "pierhead_degraded",
                "Whether a part cannot do all of its work, and pulls go on without it",
            ),
            &["part"],
        )?;
        registry.register(Box::new(degraded.clone()))?;
        registry.register(Box::new(ready.clone()))?;
        registry.register(Box::new(timed_out.clone()))?;
        registry.register(Box::new(too_slow.clone()))?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(cache.clone()))?;
        registry.register(Box::new(head_seconds.clone()))?;
        registry.register(Box::new(body_bytes.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        Ok(Self {
            requests,
            cache,
            head_seconds,
            body_bytes,
            connections,
            timed_out,
            too_slow,
            ready,
            degraded,
        })
    }

    pub(super) fn answered(
        &self,
        kind: &str,
        status: StatusCode,
        (outcome, reason): (&str, &str),
        seconds: f64,
    ) {
        self.requests.with_label_values(&[kind, status.as_str()]).inc();
        self.head_seconds.with_label_values(&[kind]).observe(seconds);
        if !outcome.is_empty() {
            self.cache.with_label_values(&[kind, outcome, reason]).inc();
        }
    }

    pub(super) fn ready(&self, is_ready: bool) {
        self.ready.set(i64::from(is_ready));
    }

    pub(super) fn degraded(&self, part: &str, is_degraded: bool) {
        self.degraded.with_label_values(&[part]).set(i64::from(is_degraded));
    }

    pub(super) fn body_sent(&self, kind: &str, bytes: u64) {
        if bytes > 0 {
            self.body_bytes.with_label_values(&[kind]).inc_by(bytes);
        }
    }

    /// A connection ended before its time, perhaps because its client took too long.
    pub(super) fn ended_early(&self, listener: &str, timed_out: bool) {
        if timed_out {
            self.timed_out.with_label_values(&[listener]).inc();
        }
    }

    /// A connection ended because its client takes too little.
    pub(super) fn too_slow(&self) {
        self.too_slow.inc();
    }

    /// Counts a connection for as long as the guard lives.
    pub(super) fn connection(&self, listener: &str) -> Connection {
        let gauge = self.connections.with_label_values(&[listener]);
        gauge.inc();
        Connection(gauge)
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection(prometheus::IntGauge);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
