//! The way of spans to the collector: OTLP over HTTP.
//!
//! A span that ends goes into a bounded queue, and a thread of the SDK posts what is in it. A
//! collector that is slow or gone costs spans, which are counted, and never a request's time.
//!
//! Source: OpenTelemetry Protocol specification, "OTLP/HTTP".

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace as sdk;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span, SpanData,
    SpanProcessor,
};
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::TelemetryError;
use super::settings::TraceSettings;

/// How many spans may wait for the collector; further ones are dropped. About a kilobyte each.
pub const QUEUE_SPANS_MAX: usize = 4096;

/// How many spans go to the collector at a time.
pub const BATCH_SPANS_MAX: usize = 512;

/// How long a span waits for others to go with it, at most.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// How long the collector may take for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the end of the process waits for the collector to take the rest.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Where spans are made, once an exporter is there.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// The tracer, if traces are exported.
pub(super) fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

/// The exporting of traces. To be dropped when the last span has ended.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    spans: IntCounterVec,
}

impl Traces {
    /// Starts exporting as `settings` say. Blocks for some milliseconds, and must not be called on
    /// a thread of the runtime.
    ///
    /// # Errors
    /// When the exporter cannot be made, or one was started before.
    pub fn start(settings: &TraceSettings) -> Result<Self, TelemetryError> {
        let refuse = |error: &dyn std::fmt::Display| TelemetryError::Traces(error.to_string());
        let spans = counter().map_err(|error| refuse(&error))?;
        let watch = Arc::new(Watch::new(&spans, settings.endpoint.to_string()));
        let processor = Bounded::new(exporter(settings)?, watch);
        let sampler = Sampler::TraceIdRatioBased(settings.sample_ratio);
        let resource = Resource::builder()
            .with_service_name(settings.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(sampler)))
            .with_resource(resource)
            .build();
        TRACER
            .set(provider.tracer("pierhead"))
            .map_err(|_| TelemetryError::Traces("they are exported already".to_owned()))?;
        Ok(Self { provider, spans })
    }

    /// Registers what is counted of spans.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.spans.clone()))
    }
}

impl Drop for Traces {
    /// Sends what is left, for at most [`SHUTDOWN_TIMEOUT`].
    fn drop(&mut self) {
        if let Err(error) = self.provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(%error, "the last spans may not have reached the collector");
        }
    }
}

fn counter() -> Result<IntCounterVec, prometheus::Error> {
    let opts = Opts::new("pierhead_trace_spans_total", "Spans of traces, by what became of them");
    IntCounterVec::new(opts, &["result"])
}

fn exporter(settings: &TraceSettings) -> Result<SpanExporter, TelemetryError> {
    let refuse = |error: &dyn std::fmt::Display| TelemetryError::Traces(error.to_string());
    let roots = rustls_native_certs::load_native_certs().certs;
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(&error))?
        .with_root_certificates(store)
        .with_no_client_auth();
    let client = reqwest::blocking::Client::builder()
        .tls_backend_preconfigured(tls)
        // The headers may hold a key, which is for the collector and nobody else.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| refuse(&error))?;
    let headers: HashMap<String, String> = settings
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.expose().to_owned()))
        .collect();
    let base = settings.endpoint.as_str().trim_end_matches('/');
    SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(format!("{base}/v1/traces"))
        .with_timeout(EXPORT_TIMEOUT)
        .with_headers(headers)
        // The next batch is the next try: what waits longer is as good as lost.
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .map_err(|error| refuse(&error))
}

/// What becomes of spans.
#[derive(Debug)]
struct Watch {
    exported: IntCounter,
    failed: IntCounter,
    dropped: IntCounter,
    /// Spans that ended and are neither exported nor lost.
    waiting: AtomicUsize,
    /// Whether the last export failed.
    failing: AtomicBool,
    endpoint: String,
}

impl Watch {
    fn new(spans: &IntCounterVec, endpoint: String) -> Self {
        Self {
            exported: spans.with_label_values(&["exported"]),
            failed: spans.with_label_values(&["failed"]),
            dropped: spans.with_label_values(&["dropped"]),
            waiting: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            endpoint,
        }
    }

    /// Takes note of an export of `count` spans; the log hears only of changes.
    fn exported(&self, count: usize, result: &OTelSdkResult) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        let was_failing = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match result {
            Ok(()) => {
                self.exported.inc_by(count as u64);
                if was_failing {
                    tracing::info!(endpoint = self.endpoint, "the collector takes spans again");
                }
            }
            Err(error) => {
                self.failed.inc_by(count as u64);
                if !was_failing {
                    tracing::warn!(
                        endpoint = self.endpoint, %error,
                        "the collector takes no spans; they are dropped until it does"
                    );
                }
            }
        }
    }
}

/// An exporter that is watched.
#[derive(Debug)]
struct Watched<E> {
    inner: E,
    watch: Arc<Watch>,
}

impl<E: sdk::SpanExporter> sdk::SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let result = self.inner.export(batch).await;
        self.watch.exported(count, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// A processor that counts what its queue cannot hold: the SDK's own drops it without a word.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    watch: Arc<Watch>,
}

impl Bounded {
    fn new<E: sdk::SpanExporter + 'static>(exporter: E, watch: Arc<Watch>) -> Self {
        let exporter = Watched { inner: exporter, watch: Arc::clone(&watch) };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(BATCH_DELAY)
            .build();
        let inner = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        Self { inner, watch }
    }
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        // Never more than the inner queue holds, so that one drops nothing.
        if self.watch.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE_SPANS_MAX {
            self.watch.waiting.fetch_sub(1, Ordering::Relaxed);
            self.watch.dropped.inc();
            return;
        }
        self.inner.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        match self.inner.shutdown_with_timeout(timeout) {
            Err(OTelSdkError::AlreadyShutdown) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use opentelemetry::trace::{Span as _, Tracer as _};

    use super::*;

    /// An exporter that waits until it may.
    #[derive(Clone, Debug, Default)]
    struct Gate(Arc<(Mutex<bool>, Condvar)>);

    impl sdk::SpanExporter for Gate {
        async fn export(&self, _: Vec<SpanData>) -> OTelSdkResult {
            let (open, changed) = &*self.0;
            let open = open.lock().unwrap();
            drop(changed.wait_while(open, |open| !*open).unwrap());
            Ok(())
        }
    }

    #[test]
    fn what_the_queue_cannot_hold_is_dropped_and_counted() {
        let spans = counter().unwrap();
        let gate = Gate::default();
        let watch = Arc::new(Watch::new(&spans, String::new()));
        let processor = Bounded::new(gate.clone(), watch);
        let provider = SdkTracerProvider::builder().with_span_processor(processor).build();
        let tracer = provider.tracer("test");
        let more = 100;
        for _ in 0..QUEUE_SPANS_MAX + more {
            tracer.start("x").end();
        }
        let count = |result| spans.with_label_values(&[result]).get();
        assert_eq!((count("dropped"), count("exported")), (more as u64, 0));
        *gate.0.0.lock().unwrap() = true;
        gate.0.1.notify_all();
        provider.force_flush().unwrap();
        assert_eq!((count("dropped"), count("exported")), (more as u64, QUEUE_SPANS_MAX as u64));
        tracer.start("there is room again").end();
        provider.shutdown().unwrap();
        assert_eq!(count("exported"), QUEUE_SPANS_MAX as u64 + 1);
    }

    #[test]
    fn without_a_collector_there_is_no_tracer() {
        // `Traces::start` is called by the program alone, so this holds for every test here.
        assert!(tracer().is_none());
        assert!(super::super::Span::fill().cause(None).span.is_none());
    }
}
