//! What an operator can say about the listeners.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use super::tls::files::{ClientFiles, PairFiles};

/// Limits and addresses of the HTTP side.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The registry API.
    pub listen: SocketAddr,
    /// The operator's side.
    pub admin_listen: SocketAddr,
    /// Open connections of the registry's listener; further ones are refused with 503.
    pub connections_max: usize,
    /// Open connections of one client; 0 is no limit.
    pub connections_per_client_max: u32,
    /// Requests at a time that are not answered to the end; further ones are refused with 503.
    pub requests_max: u32,
    /// Those of one client; 0 is no limit.
    pub requests_per_client_max: u32,
    /// What all answers may hold in memory, in bytes; further ones are refused with 503.
    pub body_memory_max: u64,
    /// How long a client may take to send a request's headers, and how long an idle connection is kept.
    pub header_timeout: Duration,
    /// The largest request head, in bytes.
    pub header_bytes_max: usize,
    /// How long a client may stop reading before its connection is closed.
    pub write_silence_timeout: Duration,
    /// What a client has to take of answers that wait for it, in bytes a second; 0 is anything.
    pub write_rate_min: u64,
    /// Streams at a time on one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// How long running answers may take after SIGTERM.
    pub drain_timeout: Duration,
    /// Whose word counts about where a request came from.
    pub trusted_proxies: Vec<IpNet>,
    /// Encryption; none means plain HTTP.
    pub tls: Option<TlsSettings>,
}

impl ServerSettings {
    /// Whether the operator's side is encrypted. On loopback it is not: probes and the command
    /// line ask there, and nobody else can.
    pub fn admin_has_tls(&self) -> bool {
        self.tls.is_some() && !is_loopback(self.admin_listen)
    }

    /// Whether only clients with a certificate get in at the registry API.
    pub fn clients_need_certificates(&self) -> bool {
        let clients = self.tls.as_ref().and_then(|tls| tls.clients.as_ref());
        clients.is_some_and(|clients| clients.required)
    }
}

/// Whether only this machine reaches `address`.
pub fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// How connections are encrypted.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// Where our certificate comes from.
    pub source: CertificateSource,
    /// Whose certificates clients may show; none means that they are not asked.
    pub clients: Option<ClientFiles>,
}

/// Where our certificate comes from.
#[derive(Clone, Debug)]
pub enum CertificateSource {
    /// Two files, which somebody replaces in time.
    Files(PairFiles),
    /// An ACME directory.
    Acme(AcmeSettings),
}

/// How certificates are got from an ACME directory (RFC 8555).
#[derive(Clone, Debug)]
pub struct AcmeSettings {
    /// The names that the certificate is for, in lower case.
    pub domains: Vec<String>,
    /// Where the directory may reach the operator: a `mailto:` URL.
    pub contact: Option<String>,
    /// The directory.
    pub directory: Url,
    /// The authorities to trust for the directory itself, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Where account and certificate are kept.
    pub folder: PathBuf,
}
