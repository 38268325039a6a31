//! TLS on our listeners: which certificate is shown, and who the client proves to be.
//!
//! | file | what it is about |
//! |---|---|
//! | [`handshake`] | a connection until it is encrypted, or refused |
//! | [`current`] | what handshakes use now; replaced as a whole, under load |
//! | [`certificate`] | what is read out of certificates |
//! | [`files`] | certificates, keys and authorities on disk |
//! | [`reload`] | looking at the files again |
//! | [`acme`] | certificates by RFC 8555 |
//! | [`metrics`] | what is counted |
//!
//! A connection keeps the certificate that it began with, so a change touches none that is open.

pub mod acme;
pub mod certificate;
pub mod current;
pub mod files;
pub mod handshake;
pub mod metrics;
pub mod reload;

use std::sync::Arc;

use self::acme::challenge::Challenges;
use self::current::Current;
use self::files::FilesError;
use self::handshake::Acceptor;
use self::metrics::TlsMetrics;
use self::reload::FilesWorker;
use super::settings::{CertificateSource, TlsSettings};
use crate::background::Workers;
use crate::clock::Clock;

/// Everything that has to do with TLS, set up.
#[derive(Debug)]
pub struct Tls {
    acceptor: Acceptor,
    files: Option<FilesWorker>,
    acme: Option<acme::AcmeWorker>,
}

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that the configuration names.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// ACME's own files.
    #[error(transparent)]
    Acme(#[from] acme::AcmeError),
    /// Settings that rustls refuses.
    #[error("cannot set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// Two metrics have one name: a mistake of ours.
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Tls {
    /// Reads the files that `settings` names. It blocks for some milliseconds: for start-up.
    ///
    /// # Errors
    /// When a file cannot be read or used. A certificate that ACME has yet to get is no error.
    pub fn open(
        settings: &TlsSettings,
        clock: &Clock,
        registry: &prometheus::Registry,
    ) -> Result<Self, TlsError> {
        let metrics = TlsMetrics::new(registry)?;
        let current = Arc::new(Current::new(metrics.clone())?);
        let challenges = Challenges::default();
        let acceptor = Acceptor::new(Arc::clone(&current), challenges.clone(), metrics)?;
        let (pair, acme) = match &settings.source {
            CertificateSource::Files(pair) => (Some(pair.clone()), None),
            CertificateSource::Acme(acme) => {
                let current = Arc::clone(&current);
                let worker = acme::AcmeWorker::open(acme, challenges, current, clock.clone())?;
                (None, Some(worker))
            }
        };
        let files = match (pair, settings.clients.clone()) {
            (None, None) => None,
            (pair, clients) => Some(FilesWorker::open(pair, clients, current, clock.clone())?),
        };
        Ok(Self { acceptor, files, acme })
    }

    /// Starts what keeps the certificates current, and hands out what takes connections.
    pub fn start(self, workers: &Workers) -> Acceptor {
        if let Some(files) = self.files {
            workers.start(files);
        }
        if let Some(acme) = self.acme {
            workers.start(acme);
        }
        self.acceptor
    }
}

/// Has the files looked at, and ACME tried, at once. Whether there is anything of that kind.
pub fn look_now(workers: &Workers) -> bool {
    let files = workers.wake(reload::NAME);
    let acme = workers.wake(acme::NAME);
    files || acme
}
