//! Upstreams as they really behave, from a script.

mod auth;
mod blobs;
mod endpoints;
mod guarding;
mod health;
mod hedging;
mod network;
mod quirks;
mod server;
mod tls;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use prometheus::Registry;

use crate::background::Tasks;
use crate::clock::{Clock, Timestamp};
use crate::oci::{Digest, Reference, RepoName};
use crate::secret::Secret;

use super::settings::{Credentials, UpstreamSettings};
use super::transport::{Reach, Request, Response, Transport, TransportError};
use super::*;

/// A canned answer.
#[derive(Clone)]
pub(super) struct Answer {
    status: u16,
    headers: HeaderMap,
    chunks: Vec<Result<Bytes, TransportError>>,
}

pub(super) fn answer(status: u16) -> Answer {
    Answer { status, headers: HeaderMap::new(), chunks: Vec::new() }
}

impl Answer {
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header");
        self.headers.append(HeaderName::from_static(name), value);
        self
    }

    pub(super) fn chunk(mut self, bytes: &str) -> Self {
        self.chunks.push(Ok(Bytes::copy_from_slice(bytes.as_bytes())));
        self
    }

    pub(super) fn body(self, bytes: &str) -> Self {
        self.header("content-length", &bytes.len().to_string()).chunk(bytes)
    }

    pub(super) fn broken(mut self) -> Self {
        self.chunks.push(Err(TransportError::Interrupted));
        self
    }

    pub(super) fn to(self, location: &str) -> Self {
        self.header("location", location)
    }
}

/// A 401 of a registry with a token service.
pub(super) fn bearer(parameters: &str) -> Answer {
    answer(401).header("www-authenticate", &format!("Bearer {parameters}"))
}

pub(super) fn token(token: &str, expires_in: u64) -> Answer {
    answer(200).body(&format!(r#"{{"token":"{token}","expires_in":{expires_in}}}"#))
}

/// Answers from a queue, and remembers what was asked.
pub(super) struct Script {
    answers: Mutex<VecDeque<Result<Answer, TransportError>>>,
    seen: Mutex<Vec<(Request, Reach)>>,
}

#[async_trait]
impl Transport for Script {
    async fn send(&self, request: Request, reach: Reach) -> Result<Response, TransportError> {
        let asked = format!("{request:?}");
        self.seen.lock().expect("a lock").push((request, reach));
        let next = self.answers.lock().expect("a lock").pop_front();
        let answer = next.unwrap_or_else(|| panic!("the script has no answer to {asked}"))?;
        Ok(Response {
            status: StatusCode::from_u16(answer.status).expect("a status"),
            headers: answer.headers,
            body: Box::pin(stream::iter(answer.chunks)),
        })
    }
}

/// An upstream that answers from a script.
pub(super) struct Lab {
    pub(super) upstream: Upstream,
    pub(super) clock: Clock,
    script: Arc<Script>,
    registry: Registry,
}

impl Lab {
    pub(super) fn new(settings: &UpstreamSettings) -> Self {
        let script = Arc::new(Script { answers: Mutex::default(), seen: Mutex::default() });
        let registry = Registry::new();
        let clock = Clock::manual(Timestamp::from_unix_ms(1_700_000_000_000));
        let transport = Arc::clone(&script) as Arc<dyn Transport>;
        let upstream = Upstream::new(settings, parts(settings, transport, &registry, &clock));
        Self { upstream, clock, script, registry }
    }

    /// An anonymous upstream with one endpoint.
    pub(super) fn at(endpoint: &str) -> Self {
        Self::new(&settings(&[endpoint]))
    }

    /// Lets time pass, on both clocks. For tests with paused time.
    pub(super) async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        tokio::time::advance(time).await;
    }

    pub(super) fn says(&self, answer: Answer) -> &Self {
        self.script.answers.lock().expect("a lock").push_back(Ok(answer));
        self
    }

    pub(super) fn fails(&self, error: TransportError) -> &Self {
        self.script.answers.lock().expect("a lock").push_back(Err(error));
        self
    }

    /// What was asked since the last look. Panics if answers are left.
    pub(super) fn asked(&self) -> Vec<Asked> {
        assert!(self.script.answers.lock().expect("a lock").is_empty(), "answers are left");
        let seen = std::mem::take(&mut *self.script.seen.lock().expect("a lock"));
        seen.into_iter().map(|(request, reach)| Asked { request, reach }).collect()
    }

    /// The value of a counter of requests.
    pub(super) fn counted(&self, operation: &str, outcome: &str) -> f64 {
        let labels = [("operation", operation), ("outcome", outcome)];
        self.metric("pierhead_upstream_requests_total", &labels).unwrap_or(0.0)
    }

    /// The value of a counter or gauge, if it is there.
    pub(super) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        metric(&self.registry, name, labels)
    }
}

/// The value of a counter or gauge in `registry`, if it is there.
pub(super) fn metric(registry: &Registry, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name)?;
    let labelled = |metric: &&prometheus::proto::Metric| {
        let has = |(name, value): &(&str, &str)| {
            metric.get_label().iter().any(|l| l.name() == *name && l.value() == *value)
        };
        labels.iter().all(has)
    };
    let metric = family.get_metric().iter().find(labelled)?;
    Some(metric.get_counter().get_value() + metric.get_gauge().get_value())
}

/// A request that was sent.
pub(super) struct Asked {
    request: Request,
    pub(super) reach: Reach,
}

impl Asked {
    pub(super) fn url(&self) -> &str {
        self.request.url.expose().as_str()
    }

    pub(super) fn method(&self) -> &Method {
        &self.request.method
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.request.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    pub(super) fn auth(&self) -> Option<&str> {
        self.header("authorization")
    }

    pub(super) fn form(&self) -> String {
        let body = self.request.body.clone().unwrap_or_default();
        String::from_utf8(body.to_vec()).expect("text")
    }
}

pub(super) fn parts(
    settings: &UpstreamSettings,
    transport: Arc<dyn Transport>,
    registry: &Registry,
    clock: &Clock,
) -> UpstreamParts {
    UpstreamParts {
        transport,
        credentials: Arc::new(StaticCredentials::new(settings.credentials.clone())),
        clock: clock.clone(),
        tasks: Tasks::new(registry).expect("a fresh registry"),
        metrics: Metrics::new(registry).expect("a fresh registry"),
        id: LoopId::new("test").expect("an id"),
    }
}

pub(super) fn settings(endpoints: &[&str]) -> UpstreamSettings {
    UpstreamSettings {
        name: "up.example".parse().expect("a name"),
        endpoints: endpoints.iter().map(|url| url.parse().expect("a URL")).collect(),
        credentials: None,
        auth_hosts: Vec::new(),
        redirect_hosts: Vec::new(),
        ca_file: None,
        proxy: None,
        connect_timeout: Duration::from_secs(5),
        header_timeout: Duration::from_secs(20),
        silence_timeout: Duration::from_secs(30),
    }
}

pub(super) fn password() -> Option<Credentials> {
    Some(Credentials::Password { username: "ann".to_owned(), password: Secret::new("s3cret") })
}

pub(super) fn repo(name: &str) -> RepoName {
    name.parse().expect("a repository")
}

pub(super) fn tag(tag: &str) -> Reference {
    tag.parse().expect("a reference")
}

pub(super) fn blob() -> Digest {
    Digest::sha256(b"0123456789")
}

/// The failure of a request that must fail.
pub(super) fn failure<T: std::fmt::Debug>(outcome: Result<T, UpstreamError>) -> Failure {
    let error = outcome.expect_err("a failure");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("s3cret"), "a message with a secret in it: {text}");
    assert!(!text.contains("signature"), "a message with a signature in it: {text}");
    error.failure
}

pub(super) async fn read(mut body: BlobBody) -> Result<String, UpstreamError> {
    let mut whole = Vec::new();
    while let Some(chunk) = body.chunk().await? {
        whole.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8(whole).expect("text"))
}
