//! A collector of traces: takes OTLP over HTTP and shows what came.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message as _;
use tokio::runtime::Runtime;

use crate::port::Port;
use crate::wait_until;

/// A span as it came.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its name.
    pub name: String,
    /// The trace, in hexadecimal.
    pub trace: String,
    /// Its id, in hexadecimal.
    pub id: String,
    /// Its parent's id; empty if it has none.
    pub parent: String,
    /// The ids of the spans that it is linked to.
    pub links: Vec<String>,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// The attributes of the service that made it.
    pub resource: BTreeMap<String, String>,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// Whether it ended after it began.
    pub has_duration: bool,
}

impl Span {
    /// An attribute, empty if it is not there.
    pub fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// What the collector does with what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Takes it.
    Takes,
    /// Answers 503.
    Refuses,
    /// Never answers.
    Stalls,
}

#[derive(Debug)]
struct State {
    manner: Mutex<Manner>,
    spans: Mutex<Vec<Span>>,
    /// Everything that came, for a look at what must not be in it.
    raw: Mutex<Vec<u8>>,
    requests: Mutex<Vec<http::request::Parts>>,
}

/// A collector. Dropping it ends it.
#[derive(Debug)]
pub struct Collector {
    state: Arc<State>,
    port: Port,
    runtime: Option<Runtime>,
}

impl Collector {
    /// Starts one that takes what it is sent.
    pub fn start() -> Self {
        let mut collector = Self::absent();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("collector")
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = {
            let _inside = runtime.enter();
            collector.port.listen().expect("our own port")
        };
        let state = Arc::clone(&collector.state);
        runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let state = Arc::clone(&state);
                let service = service_fn(move |request| take(Arc::clone(&state), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::runtime::Handle::current().spawn(connection);
            }
        });
        collector.runtime = Some(runtime);
        collector
    }

    /// An address at which nobody listens.
    pub fn absent() -> Self {
        let state = State {
            manner: Mutex::new(Manner::Takes),
            spans: Mutex::default(),
            raw: Mutex::default(),
            requests: Mutex::default(),
        };
        Self { state: Arc::new(state), port: Port::reserve(), runtime: None }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.port.addr())
    }

    /// Changes what it does from now on.
    pub fn set(&self, manner: Manner) {
        *self.state.manner.lock().unwrap() = manner;
    }

    /// The spans that came, in that order.
    pub fn spans(&self) -> Vec<Span> {
        self.state.spans.lock().unwrap().clone()
    }

    /// The heads of the requests that came.
    pub fn requests(&self) -> Vec<http::request::Parts> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Whether the bytes of `text` stand in anything that came.
    pub fn saw(&self, text: &str) -> bool {
        let raw = self.state.raw.lock().unwrap();
        raw.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Waits until a span came that fits.
    pub fn wait_for(&self, what: &str, deadline: Duration, fits: impl Fn(&Span) -> bool) -> Span {
        wait_until(what, deadline, || self.spans().into_iter().find(&fits))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn take(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Full<bytes::Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    state.requests.lock().unwrap().push(head);
    let body = body.collect().await?.to_bytes();
    let manner = *state.manner.lock().unwrap();
    let mut response = Response::new(Full::default());
    match manner {
        Manner::Stalls => std::future::pending().await,
        Manner::Refuses => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
        Manner::Takes => match ExportTraceServiceRequest::decode(body.clone()) {
            Ok(export) => state.spans.lock().unwrap().extend(spans(export)),
            Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
        },
    }
    state.raw.lock().unwrap().extend_from_slice(&body);
    Ok(response)
}

fn spans(export: ExportTraceServiceRequest) -> Vec<Span> {
    let mut found = Vec::new();
    for of_resource in export.resource_spans {
        let resource = of_resource.resource.map(|r| attributes(&r.attributes)).unwrap_or_default();
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            let status = span.status.unwrap_or_default();
            found.push(Span {
                trace: hex::encode(&span.trace_id),
                id: hex::encode(&span.span_id),
                parent: hex::encode(&span.parent_span_id),
                links: span.links.iter().map(|link| hex::encode(&link.span_id)).collect(),
                attributes: attributes(&span.attributes),
                resource: resource.clone(),
                error: (status.code == 2).then_some(status.message),
                has_duration: span.end_time_unix_nano > span.start_time_unix_nano,
                name: span.name,
            });
        }
    }
    found
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    list.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref()))).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(value)) => value.to_string(),
        other => format!("{other:?}"),
    }
}
