//! What handshakes use now.
//!
//! It is replaced as a whole: a handshake sees one state of certificate and client authorities,
//! and the memory of TLS sessions is new with each, so nobody resumes what the new state refuses.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError,
    WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};

use super::files::Pair;
use super::metrics::TlsMetrics;

/// What is spoken inside, best first. Source: RFC 7301, and RFC 9113 section 3.2.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What handshakes use now.
#[derive(Debug)]
pub struct Current {
    provider: Arc<CryptoProvider>,
    parts: Mutex<Parts>,
    config: RwLock<Arc<ServerConfig>>,
    metrics: TlsMetrics,
}

#[derive(Clone, Debug, Default)]
struct Parts {
    pair: Option<Pair>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
}

impl Current {
    /// No certificate yet: every handshake ends with an alert.
    pub fn new(metrics: TlsMetrics) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let parts = Parts::default();
        let config = RwLock::new(parts.config(&provider)?);
        Ok(Self { provider, parts: Mutex::new(parts), config, metrics })
    }

    /// For the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is a certificate.
    pub fn has_certificate(&self) -> bool {
        self.parts().pair.is_some()
    }

    /// Shows this certificate from now on. One that is shown already is no change.
    pub fn set_pair(&self, pair: Pair) -> Result<(), rustls::Error> {
        let (facts, expires) = (pair.facts.clone(), pair.facts.expires);
        let shown = self.parts().pair.as_ref().map(|shown| Arc::clone(&shown.key));
        if shown.is_some_and(|shown| shown.cert == pair.key.cert) {
            return Ok(());
        }
        self.change(|parts| parts.pair = Some(pair))?;
        self.metrics.certificate(expires);
        tracing::info!(serial = facts.serial, names = ?facts.dns_names, "a certificate is in use");
        Ok(())
    }

    /// Takes clients' certificates of these authorities from now on, or asks for none.
    pub fn set_clients(
        &self,
        authorities: RootCertStore,
        required: bool,
    ) -> Result<(), rustls::Error> {
        let provider = Arc::clone(&self.provider);
        let builder = WebPkiClientVerifier::builder_with_provider(authorities.into(), provider);
        let builder = if required { builder } else { builder.allow_unauthenticated() };
        let verifier = builder
            .build()
            .map_err(|error: VerifierBuilderError| rustls::Error::General(error.to_string()))?;
        self.change(|parts| parts.clients = Some(verifier))
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) -> Result<(), rustls::Error> {
        let mut parts = self.parts();
        let mut next = parts.clone();
        change(&mut next);
        let config = next.config(&self.provider)?;
        *parts = next;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    fn parts(&self) -> std::sync::MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    fn config(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()?;
        let builder = match &self.clients {
            Some(clients) => builder.with_client_cert_verifier(Arc::clone(clients)),
            None => builder.with_no_client_auth(),
        };
        let certificate: Arc<dyn ResolvesServerCert> = match &self.pair {
            Some(pair) => Arc::new(SingleCertAndKey::from(Arc::clone(&pair.key))),
            None => Arc::new(NoCertificate),
        };
        let mut config = builder.with_cert_resolver(certificate);
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        if self.clients.is_some() {
            // A resumed session would not look at the client's certificate again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}
