//! The record of one request: its metrics and its log line, written when the answer has ended.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::Instant;

use super::body::BodyError;
use super::metrics::HttpMetrics;
use super::recent::{Course, Event, Recent};
use crate::gate::Limit;
use crate::hooks::Notes;
use crate::telemetry::{Answered, Span};

/// What is known of one request. Dropping it writes the log line, however the request ended.
#[derive(Debug)]
pub struct Access {
    metrics: HttpMetrics,
    began: Instant,
    /// The id that the client got in `X-Request-Id`.
    pub request_id: String,
    /// The method.
    pub method: Method,
    /// The path as it came; without the query, which may carry anything.
    pub path: String,
    /// The client's address.
    pub client: std::net::IpAddr,
    /// `http` or `https`: what the client speaks, as far as trusted proxies tell.
    pub scheme: &'static str,
    /// Whom the client turned out to be.
    pub subject: Option<String>,
    /// What plugins want said in the log line.
    pub notes: Notes,
    /// The kind of route.
    pub kind: &'static str,
    /// The form of the path; empty if it has none that is known.
    pub route: &'static str,
    /// The request in a trace.
    pub span: Span,
    /// Where the name led.
    pub scope: Option<crate::scope::Scope>,
    /// The status of the answer.
    pub status: StatusCode,
    /// The cache's part, and the reason.
    pub outcome: (&'static str, &'static str),
    /// Where trouble is remembered, if it is.
    pub recent: Option<Recent>,
    /// Whether the client was only told to log in: every login begins so, and it is no trouble.
    pub is_challenge: bool,
    /// The limit at which the request was refused, if it was: `http/overload` tells of those,
    /// because a line for each would be as many as the flood has.
    pub limit: Option<Limit>,
    head: Option<Duration>,
    body_bytes: u64,
    broke_off: bool,
    error: Option<String>,
}

impl Access {
    /// Begins the record.
    pub fn begin(
        metrics: HttpMetrics,
        request_id: String,
        method: Method,
        path: String,
        client: std::net::IpAddr,
    ) -> Self {
        Self {
            metrics,
            began: Instant::now(),
            request_id,
            method,
            path,
            client,
            scheme: "http",
            subject: None,
            notes: Notes::default(),
            kind: "other",
            route: "",
            span: Span::none(),
            scope: None,
            // What nginx calls a client that left before its answer had begun.
            status: StatusCode::from_u16(499).unwrap_or(StatusCode::OK),
            outcome: ("", ""),
            recent: None,
            limit: None,
            is_challenge: false,
            head: None,
            body_bytes: 0,
            broke_off: false,
            error: None,
        }
    }

    /// The head of the answer is decided.
    pub fn head_decided(&mut self) {
        let head = self.began.elapsed();
        self.head = Some(head);
        let seconds = head.as_secs_f64();
        self.metrics.answered(self.kind, self.status, self.outcome, seconds);
    }

    /// `bytes` of the body went out.
    pub const fn sent(&mut self, bytes: u64) {
        self.body_bytes += bytes;
    }

    /// The answer is an error, and why.
    pub fn refused(&mut self, why: &str) {
        self.error = Some(why.to_owned());
    }

    /// The body broke off.
    pub fn failed(&mut self, error: &BodyError) {
        self.broke_off = true;
        self.error = Some(error.to_string());
    }

    fn remember(&self, recent: &Recent) {
        let whole = self.began.elapsed();
        let head = self.head.unwrap_or(whole);
        let stale = self.outcome.0 == "stale";
        let (status, broke_off, bytes) = (self.status, self.broke_off, self.body_bytes);
        let course = Course { status, stale, broke_off, head, whole, bytes };
        let Some(trouble) = course.trouble() else { return };
        recent.note(Event {
            trouble,
            at: recent.now(),
            times: 1,
            image: self.scope.as_ref().map(ToString::to_string),
            method: self.method.to_string(),
            path: self.path.clone(),
            status: self.status.as_u16(),
            cache: self.outcome.0,
            reason: self.outcome.1,
            error: self.error.clone(),
            client: self.client,
            request_id: self.request_id.clone(),
            head,
            whole,
            bytes: self.body_bytes,
        });
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        self.metrics.body_sent(self.kind, self.body_bytes);
        let seconds = self.began.elapsed().as_secs_f64();
        // Probes come every few seconds and say nothing.
        if self.kind == "probe" && self.status.is_success() {
            return;
        }
        self.span.answered(&Answered {
            route: self.route,
            method: &self.method,
            status: self.status.as_u16(),
            outcome: self.outcome,
            scope: self.scope.as_ref().map(|s| (s.upstream.as_str(), s.repo.as_str())),
            bytes: self.body_bytes,
            error: self.error.as_deref(),
        });
        if self.limit.is_some() {
            return;
        }
        if let Some(recent) = &self.recent
            && !self.is_challenge
        {
            self.remember(recent);
        }
        let notes = self.notes.line();
        tracing::info!(
            target: "pierhead::access",
            request_id = self.request_id,
            client = %self.client,
            scheme = self.scheme,
            subject = self.subject,
            method = %self.method,
            path = self.path,
            upstream = self.scope.as_ref().map(|scope| scope.upstream.as_str()),
            repository = self.scope.as_ref().map(|scope| scope.repo.as_str()),
            status = self.status.as_u16(),
            cache = self.outcome.0,
            reason = self.outcome.1,
            bytes = self.body_bytes,
            seconds,
            error = self.error,
            notes = notes.as_deref(),
            "request"
        );
    }
}
