//! What a trace tells of one question to an upstream: whom, what for, and how it answered.
//!
//! Never a path behind a redirect nor a query: signatures stand there.

use http::{Method, StatusCode};

use crate::scope::UpstreamName;
use crate::telemetry::Span;

use super::error::Failure;
use super::metrics::Operation;
use super::redirect::{Landed, Lost};

/// One question, from its sending to the answer's head.
pub(super) struct Asked(Span);

impl Asked {
    /// The `attempt`-th try (from zero) to ask `host`.
    pub(super) fn begin(
        operation: Operation,
        upstream: &UpstreamName,
        host: &str,
        method: &Method,
        attempt: usize,
    ) -> Self {
        let mut span = Span::question(operation.as_str());
        span.set("pierhead.upstream", || upstream.to_string());
        span.set("server.address", || host.to_owned());
        span.set("http.request.method", || method.to_string());
        if attempt > 0 {
            span.set("http.request.resend_count", || count(attempt));
        }
        Self(span)
    }

    /// The answer's head is here, or there will be none.
    pub(super) fn end(mut self, outcome: &Result<Landed, Lost>) {
        match outcome {
            Ok(landed) => {
                let hops = landed.redirects;
                if hops > 0 {
                    self.0.set("pierhead.redirects", || count(hops));
                    let host = landed.url.host_str().unwrap_or_default();
                    self.0.set("pierhead.redirect.host", || host.to_owned());
                }
                self.answered(landed.response.status);
            }
            Err(lost) => self.failed(&lost.failure),
        }
    }

    /// As [`Asked::end`], where only a status matters.
    pub(super) fn answered(mut self, status: StatusCode) {
        self.0.set("http.response.status_code", || i64::from(status.as_u16()));
        if status.is_client_error() || status.is_server_error() {
            self.0.fail(|| format!("status {}", status.as_u16()).into());
        }
    }

    /// There will be no answer.
    pub(super) fn failed(mut self, failure: &Failure) {
        self.0.set("error.type", || failure.kind().as_str());
        self.0.fail(|| failure.to_string().into());
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
