//! The transport over real connections: the only file that names `reqwest`.
//!
//! - TLS is rustls with ring; trusted are the system's authorities and those in `ca_file`. A
//!   system without any is no error until the first `https` request, which then says what to do.
//! - `HTTP_PROXY` and its kin in the environment are not consulted, as a service's environment is
//!   nobody's intention: the upstream's `proxy` is. Through a proxy, names are looked up by the
//!   proxy, so that only addresses that stand in a URL as such are checked here; the operator's
//!   proxy decides about the rest.
//! - The port is part of what must be checked, and reqwest's resolver is not told it. So each
//!   port (and reach) has a client, and with it a pool, of its own.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use url::Url;

use crate::net::{Lookup, OwnAddresses, SystemLookup};

use super::guard::{Guard, GuardError};
use super::settings::UpstreamSettings;
use super::transport::{Reach, Refusal, Request, Response, Transport, TransportError};

/// Clients (one per port and reach) that are kept for one upstream.
const CLIENTS_MAX: u64 = 32;
/// Idle HTTP/1 connections that are kept per host.
const IDLE_CONNECTIONS_MAX: usize = 16;
/// How long an idle connection is kept. Below the 60 s after which common load balancers close
/// theirs, as a request on a connection that is being closed fails.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// How often a silent HTTP/2 connection in use is asked for a sign of life, so that a dead one
/// leaves the pool.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long the sign of life may take.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the kernel probes a silent TCP connection.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Requests over TCP and TLS. Holds the connection pool of one upstream.
pub struct HttpTransport {
    guard: Arc<Guard>,
    tls: ClientConfig,
    has_roots: bool,
    connect_timeout: Duration,
    proxy: Option<Url>,
    clients: moka::sync::Cache<(Reach, u16), reqwest::Client>,
}

/// The settings of an upstream cannot be put into practice.
#[derive(Debug, thiserror::Error)]
pub enum TransportSetupError {
    /// `ca_file` cannot be read, or is no list of PEM certificates.
    #[error("cannot use ca_file {path}: {cause}")]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// `proxy` is no proxy that we can use, or TLS cannot be set up.
    #[error("cannot set up connections: {0}")]
    Client(String),
}

impl HttpTransport {
    /// Connections as `settings` says, never to the addresses in `own`. Reads the system's
    /// certificate authorities and `ca_file`, so it blocks for some milliseconds: for start-up.
    pub fn new(
        settings: &UpstreamSettings,
        own: OwnAddresses,
    ) -> Result<Self, TransportSetupError> {
        Self::with_lookup(settings, own, Arc::new(SystemLookup))
    }

    /// As [`HttpTransport::new`], with names looked up by `lookup`.
    pub fn with_lookup(
        settings: &UpstreamSettings,
        own: OwnAddresses,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self, TransportSetupError> {
        let roots = roots(settings)?;
        let has_roots = !roots.is_empty();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TransportSetupError::Client(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let transport = Self {
            guard: Arc::new(Guard::new(settings, own, lookup)),
            tls,
            has_roots,
            connect_timeout: settings.connect_timeout,
            proxy: settings.proxy.clone(),
            clients: moka::sync::Cache::new(CLIENTS_MAX),
        };
        // Fails now rather than at the first request.
        transport
            .build(Reach::Endpoint, 0)
            .map_err(|error| TransportSetupError::Client(root_cause(&error)))?;
        Ok(transport)
    }

    fn build(&self, reach: Reach, port: u16) -> reqwest::Result<reqwest::Client> {
        let resolver = Resolver { guard: Arc::clone(&self.guard), reach, port };
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .no_proxy()
            .dns_resolver(resolver)
            .connect_timeout(self.connect_timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_keepalive(TCP_KEEPALIVE)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT);
        if let Some(proxy) = &self.proxy {
            builder = builder.proxy(reqwest::Proxy::all(proxy.clone())?);
        }
        builder.build()
    }

    fn client(&self, reach: Reach, port: u16) -> Result<reqwest::Client, TransportError> {
        // What a proxied client looks up is the proxy, which the operator configured.
        let key = match self.proxy.as_ref() {
            Some(proxy) => (Reach::Endpoint, proxy.port_or_known_default().unwrap_or(port)),
            None => (reach, port),
        };
        self.clients
            .try_get_with(key, || self.build(key.0, key.1))
            .map_err(|error| TransportError::Protocol(root_cause(&*error).into()))
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: Request, reach: Reach) -> Result<Response, TransportError> {
        let url = request.url.expose();
        if url.scheme() == "https" && !self.has_roots {
            return Err(TransportError::Tls(
                "this system has no certificate authorities: install the ca-certificates package \
                 or set `ca_file` of this upstream"
                    .into(),
            ));
        }
        self.guard.check_literal(url, reach).await.map_err(TransportError::Refused)?;
        let port = url.port_or_known_default().unwrap_or_default();
        let mut outgoing =
            self.client(reach, port)?.request(request.method, url.clone()).headers(request.headers);
        if let Some(body) = request.body {
            outgoing = outgoing.body(body);
        }
        let answer = outgoing.send().await.map_err(|error| no_answer(&error))?;
        let status = answer.status();
        let mut answer = http::Response::<reqwest::Body>::from(answer);
        let headers = std::mem::take(answer.headers_mut());
        let body = http_body_util::BodyDataStream::new(answer.into_body())
            .map(|chunk| chunk.map_err(|_| TransportError::Interrupted));
        Ok(Response { status, headers, body: Box::pin(body) })
    }
}

/// Looks names up for the one port that its client dials, and hands out what may be dialled.
struct Resolver {
    guard: Arc<Guard>,
    reach: Reach,
    port: u16,
}

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let (guard, reach, port) = (Arc::clone(&self.guard), self.reach, self.port);
        Box::pin(async move {
            match guard.addresses(name.as_str(), port, reach).await {
                Ok(addresses) => Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs),
                Err(GuardError::Refused(refusal)) => Err(refusal.into()),
                Err(GuardError::Lookup(error)) => Err(error.into()),
            }
        })
    }
}

fn roots(settings: &UpstreamSettings) -> Result<RootCertStore, TransportSetupError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "a certificate authority of the system cannot be loaded");
    }
    // A system's bundle often holds some that are too odd to parse; the others serve.
    roots.add_parsable_certificates(system.certs);
    if let Some(path) = &settings.ca_file {
        let bad = |cause: String| TransportSetupError::CaFile { path: path.clone(), cause };
        let mut count = 0_usize;
        let certificates =
            CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            roots.add(certificate).map_err(|error| bad(error.to_string()))?;
            count += 1;
        }
        if count == 0 {
            return Err(bad("it has no certificate in it".to_owned()));
        }
    }
    Ok(roots)
}

/// Every error below `error`, also those inside an `io::Error`, which hides its own.
fn causes<'e>(
    error: &'e (dyn StdError + 'static),
) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    fn inner<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e (dyn StdError + 'static)> {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    }
    std::iter::successors(Some(error), |error| inner(*error))
}

fn root_cause(error: &(dyn StdError + 'static)) -> String {
    // Outer messages of reqwest name the URL, the innermost does not.
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

fn no_answer(error: &reqwest::Error) -> TransportError {
    for cause in causes(error) {
        if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            return TransportError::Refused(refusal.clone());
        }
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return TransportError::Tls(tls_advice(tls).into());
        }
        if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return TransportError::Protocol(cause.to_string().into());
        }
    }
    if error.is_builder() {
        TransportError::Protocol("the request cannot be built".into())
    } else if error.is_connect() && error.is_timeout() {
        TransportError::Timeout
    } else if error.is_connect() {
        TransportError::Connect(root_cause(error).into())
    } else {
        TransportError::Interrupted
    }
}

fn tls_advice(error: &rustls::Error) -> String {
    use rustls::CertificateError::UnknownIssuer;
    match error {
        rustls::Error::InvalidCertificate(UnknownIssuer) => {
            "its certificate is from an authority that this system does not trust: if it should, \
             set `ca_file` of this upstream"
                .to_owned()
        }
        rustls::Error::InvalidMessage(_) => {
            format!("{error}: is there a plain http server behind an https endpoint?")
        }
        _ => error.to_string(),
    }
}
