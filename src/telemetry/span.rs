//! One piece of work in a trace.
//!
//! Made of the OpenTelemetry API itself and not of `tracing`'s spans: parents go from task to task
//! in the [`Cause`], and where no exporter is configured a [`Span`] is an empty box and nothing
//! more. Names and attributes follow OpenTelemetry's semantic conventions for HTTP; what is
//! Pierhead's own begins with `pierhead.`.
//!
//! Source: W3C Trace Context, `traceparent`; OpenTelemetry semantic conventions, "HTTP".

use std::borrow::Cow;

use http::{HeaderMap, Method};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{Link, Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace as sdk;

use super::cause::{Cause, RequestId};
use super::otlp;

/// The header that says which trace a request belongs to. `tracestate` is left alone: it is a
/// stranger's text of any length, and would go to the collector with every span.
const TRACEPARENT: &str = "traceparent";

/// A piece of work that is being measured, if anybody wants to know. It ends when it is dropped.
#[derive(Debug, Default)]
pub struct Span(Option<Box<sdk::Span>>);

/// What is known of an answer when its body has ended.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// The path's form, such as `/v2/{name}/blobs/{digest}`; never the path itself.
    pub route: &'static str,
    /// The method.
    pub method: &'a Method,
    /// The status.
    pub status: u16,
    /// The cache's part, and the reason; empty where it had none.
    pub outcome: (&'static str, &'static str),
    /// Where the name led: the upstream and the repository.
    pub scope: Option<(&'a str, &'a str)>,
    /// Bytes of the body that went out.
    pub bytes: u64,
    /// Why it failed or broke off.
    pub error: Option<&'a str>,
}

impl Span {
    /// No span.
    pub const fn none() -> Self {
        Self(None)
    }

    /// A client's request, as a part of the trace that its `traceparent` names.
    pub fn request(id: RequestId, headers: &HeaderMap) -> Self {
        let Some(tracer) = otlp::tracer() else { return Self::none() };
        let parent = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &OnlyTraceparent(headers));
        let builder = tracer.span_builder("HTTP").with_kind(SpanKind::Server);
        let mut span = Self(Some(Box::new(tracer.build_with_context(builder, &parent))));
        span.set("pierhead.request_id", || id.to_string());
        span
    }

    /// A fill: a trace of its own, as it outlives the request that began it, with a link to that.
    pub fn fill() -> Self {
        let Some(tracer) = otlp::tracer() else { return Self::none() };
        let cause = Cause::current();
        let links = cause.span.map(Link::with_context).into_iter().collect();
        let builder = tracer.span_builder("fill").with_links(links);
        let mut span = Self(Some(Box::new(tracer.build_with_context(builder, &Context::new()))));
        if let Some(id) = cause.request {
            span.set("pierhead.request_id", || id.to_string());
        }
        span
    }

    /// A question to somebody else, for the current cause. Nothing of it goes along with the
    /// question: upstreams are strangers.
    pub fn question(operation: &'static str) -> Self {
        let Some(tracer) = otlp::tracer() else { return Self::none() };
        let parent = match Cause::current().span {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let name = format!("upstream {operation}");
        let builder = tracer.span_builder(name).with_kind(SpanKind::Client);
        let mut span = Self(Some(Box::new(tracer.build_with_context(builder, &parent))));
        span.set("pierhead.operation", || operation);
        span
    }

    /// A question to a plugin, for the current cause.
    pub fn plugin(mount: &str, hook: &'static str) -> Self {
        let Some(tracer) = otlp::tracer() else { return Self::none() };
        let parent = match Cause::current().span {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let builder = tracer.span_builder(format!("plugin {hook}"));
        let mut span = Self(Some(Box::new(tracer.build_with_context(builder, &parent))));
        span.set("pierhead.plugin.mount", || mount.to_owned());
        span
    }

    /// Sets an attribute. The value is made only if it is going to be seen.
    pub fn set<V: Into<Value>>(&mut self, key: &'static str, value: impl FnOnce() -> V) {
        if let Some(span) = self.recording() {
            span.set_attribute(KeyValue::new(key, value()));
        }
    }

    /// Says that the work failed, and why. The reason must not hold secrets: it leaves the house.
    pub fn fail(&mut self, why: impl FnOnce() -> Cow<'static, str>) {
        if let Some(span) = self.recording() {
            span.set_status(Status::error(why()));
        }
    }

    /// Sets everything that is known of an answer.
    pub fn answered(&mut self, answer: &Answered<'_>) {
        let Some(span) = self.recording() else { return };
        span.update_name(format!("{} {}", method(answer.method), answer.route));
        let mut attributes = vec![
            KeyValue::new("http.request.method", method(answer.method)),
            KeyValue::new("http.route", answer.route),
            KeyValue::new("http.response.status_code", i64::from(answer.status)),
            KeyValue::new(
                "http.response.body.size",
                i64::try_from(answer.bytes).unwrap_or(i64::MAX),
            ),
        ];
        let (outcome, reason) = answer.outcome;
        for (key, value) in [("pierhead.cache", outcome), ("pierhead.cache.reason", reason)] {
            if !value.is_empty() {
                attributes.push(KeyValue::new(key, value));
            }
        }
        if let Some((upstream, repository)) = answer.scope {
            attributes.push(KeyValue::new("pierhead.upstream", upstream.to_owned()));
            attributes.push(KeyValue::new("pierhead.repository", repository.to_owned()));
        }
        span.set_attributes(attributes);
        // A client's mistake is not a failure of the server: so say the conventions.
        if let Some(error) = answer.error.filter(|_| answer.status >= 500 || answer.status < 400) {
            span.set_status(Status::error(error.to_owned()));
        }
    }

    /// The cause of what is done within this span, for the request `id`.
    pub fn cause(&self, id: Option<RequestId>) -> Cause {
        Cause { request: id, span: self.0.as_ref().map(|span| span.span_context().clone()) }
    }

    fn recording(&mut self) -> Option<&mut sdk::Span> {
        self.0.as_deref_mut().filter(|span| span.is_recording())
    }
}

/// The method, if it is one that the conventions know: a client can call it anything.
fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

/// A request's headers as far as the propagator may see them.
struct OnlyTraceparent<'a>(&'a HeaderMap);

impl Extractor for OnlyTraceparent<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then(|| self.0.get(TRACEPARENT)?.to_str().ok())?
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}
