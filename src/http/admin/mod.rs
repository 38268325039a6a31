//! The operator's side: probes, metrics and the API.

pub mod api;

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use prometheus::{Encoder, TextEncoder};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::api::Api;
use super::access::Access;
use super::body::Body;
use super::connection::Connection;
use super::error::ApiError;
use super::metrics::HttpMetrics;
use super::server::Service;
use crate::store::{BlobStore, MetaStore, StoreErrorKind};

/// Whether the process lives and should be sent requests. Both listeners answer with it.
#[derive(Clone, Debug)]
pub struct Probes {
    blobs: Arc<dyn BlobStore>,
    meta: Arc<dyn MetaStore>,
    stopping: CancellationToken,
    /// What the stores said. Strangers may ask at will, and asking writes to the disk.
    last: Arc<Mutex<Option<Said>>>,
}

/// What the stores said, and when.
#[derive(Clone, Debug)]
struct Said {
    at: Instant,
    degraded: Vec<Degraded>,
}

/// A part that does not do all of its work. Pulls go on without it, at upstream's cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// Which one, as metrics call it.
    pub part: &'static str,
    /// What does not work.
    pub what: &'static str,
    /// In what way.
    pub how: StoreErrorKind,
}

impl fmt::Display for Degraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.part, self.what, self.how)
    }
}

/// The parts that can be degraded, as metrics call them.
pub const PARTS: [&str; 2] = ["store", "database"];

/// For how long an answer about the stores is good.
const READINESS_TTL: Duration = Duration::from_secs(1);

impl Probes {
    /// Ready until `stopping` is cancelled, whatever the stores say.
    pub fn new(
        blobs: Arc<dyn BlobStore>,
        meta: Arc<dyn MetaStore>,
        stopping: CancellationToken,
    ) -> Self {
        Self { blobs, meta, stopping, last: Arc::default() }
    }

    /// The process answers.
    pub fn live(&self) -> Response<Body> {
        text(StatusCode::OK, "alive\n")
    }

    /// 200, or 503 with one line per reason; in both cases a line for each part that is degraded.
    ///
    /// A store that cannot be written is no reason to send nobody here: what is stored is served,
    /// and the rest passes through. A balancer that took all replicas with a full disk out would
    /// turn a slow cache into no cache.
    pub async fn ready(&self) -> Response<Body> {
        let reasons = self.unready();
        let status =
            if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut lines = if reasons.is_empty() { vec!["ready".to_owned()] } else { reasons };
        let degraded = self.degraded().await;
        lines.extend(degraded.iter().map(|part| format!("degraded: {part}")));
        text(status, lines.join("\n") + "\n")
    }

    /// Why the process should not be sent requests: nothing if it should.
    pub fn unready(&self) -> Vec<String> {
        let draining = "draining: the process was asked to stop";
        self.stopping.is_cancelled().then(|| draining.to_owned()).into_iter().collect()
    }

    /// What the operator should know although all is well again.
    pub fn remarks(&self) -> Vec<String> {
        self.meta.remarks()
    }

    /// The parts that do not do all of their work.
    pub async fn degraded(&self) -> Vec<Degraded> {
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(said) = &before
            && said.at.elapsed() < READINESS_TTL
        {
            return said.degraded.clone();
        }
        let known = before.map(|said| said.degraded).unwrap_or_default();
        let mut degraded = Vec::new();
        let [store, database] = PARTS;
        for (part, what, probed) in [
            (store, "blobs cannot be written", self.blobs.probe().await),
            (database, "the metadata database does not take writes", self.meta.probe().await),
        ] {
            let Err(error) = probed else { continue };
            let trouble = Degraded { part, what, how: error.kind() };
            if !known.contains(&trouble) {
                tracing::error!(part, %error, "{what}; pulls go on without");
            }
            degraded.push(trouble);
        }
        for well in known.iter().filter(|known| !degraded.iter().any(|now| now.part == known.part))
        {
            tracing::info!(part = well.part, "works again");
        }
        let said = Said { at: Instant::now(), degraded: degraded.clone() };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
        degraded
    }
}

/// The operator's listener.
#[derive(Clone, Debug)]
pub struct Admin {
    /// `/livez` and `/readyz`.
    pub probes: Probes,
    /// What `/metrics` shows.
    pub registry: prometheus::Registry,
    /// Counters of this listener itself.
    pub metrics: HttpMetrics,
    /// `/api/v1`.
    pub api: Api,
}

impl Service for Admin {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let mut access = Box::new(Access::begin(
            self.metrics.clone(),
            String::new(),
            method.clone(),
            path.clone(),
            peer.ip(),
        ));
        access.kind = "admin";
        access.scheme = Connection::of(request.extensions()).scheme();
        let is_read = matches!(method, Method::GET | Method::HEAD);
        let response = match path.as_str() {
            "/livez" if is_read => {
                access.kind = "probe";
                self.probes.live()
            }
            "/readyz" if is_read => {
                access.kind = "probe";
                self.probes.ready().await
            }
            "/metrics" if is_read => {
                access.kind = "probe";
                self.metrics.ready(self.probes.unready().is_empty());
                let degraded = self.probes.degraded().await;
                for part in PARTS {
                    self.metrics.degraded(part, degraded.iter().any(|now| now.part == part));
                }
                self.metrics()
            }
            "/livez" | "/readyz" | "/metrics" => {
                ApiError::method_not_allowed().into_response(false)
            }
            path if Api::owns(path) => self.api.answer(request).await,
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /metrics, /livez, /readyz and /api/v1 here\n",
            ),
        };
        access.status = response.status();
        access.head_decided();
        response.map(|body| body.recorded(access))
    }
}

impl Admin {
    fn metrics(&self) -> Response<Body> {
        let mut page = Vec::new();
        let encoder = TextEncoder::new();
        match encoder.encode(&self.registry.gather(), &mut page) {
            Ok(()) => {
                let mut response = text(StatusCode::OK, page);
                if let Ok(value) = HeaderValue::from_str(encoder.format_type()) {
                    response.headers_mut().insert(CONTENT_TYPE, value);
                }
                response
            }
            Err(error) => {
                tracing::error!(%error, "cannot encode the metrics");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded\n")
            }
        }
    }
}

fn text(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
