//! The operator's side: probes, metrics and the API.

pub mod api;

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
use super::error::ApiError;
use super::metrics::HttpMetrics;
use super::server::Service;
use crate::store::{BlobStore, MetaStore};

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
    reasons: Vec<String>,
}

/// For how long an answer about the stores is good.
const READINESS_TTL: Duration = Duration::from_secs(1);

impl Probes {
    /// Ready while both stores answer and `stopping` has not been cancelled.
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

    /// 200, or 503 with one line per reason.
    pub async fn ready(&self) -> Response<Body> {
        let reasons = self.unready().await;
        if reasons.is_empty() {
            text(StatusCode::OK, "ready\n")
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
        }
    }

    /// Why the process should not be sent requests: nothing if it should.
    pub async fn unready(&self) -> Vec<String> {
        let mut reasons = self.stores().await;
        if self.stopping.is_cancelled() {
            reasons.push("draining: the process was asked to stop".to_owned());
        }
        reasons
    }

    /// A reason for each store that is not ready.
    async fn stores(&self) -> Vec<String> {
        if let Some(said) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner)
            && said.at.elapsed() < READINESS_TTL
        {
            return said.reasons.clone();
        }
        let mut reasons = Vec::new();
        if let Err(error) = self.blobs.probe().await {
            tracing::error!(%error, "the blob store is not ready");
            reasons.push("storage: blobs cannot be written".to_owned());
        }
        if let Err(error) = self.meta.probe().await {
            tracing::error!(%error, "the metadata store is not ready");
            reasons.push("storage: the metadata database does not answer".to_owned());
        }
        let said = Said { at: Instant::now(), reasons: reasons.clone() };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
        reasons
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
