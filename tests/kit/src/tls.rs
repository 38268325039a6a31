//! Certificates made on the spot, and clients that use them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// A certificate authority, which exists for one test.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate in PEM form.
    pub certificate: String,
    /// The private key in PEM form.
    pub key: String,
    /// The certificate in DER form, as [`crate::http::Response::certificate`] shows it.
    pub der: Vec<u8>,
}

/// Serial numbers: clients refuse two certificates of one authority with the same.
static SERIAL: AtomicU64 = AtomicU64::new(1);

impl Authority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Pierhead test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate in PEM form.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server's certificate for `localhost` and 127.0.0.1.
    pub fn server(&self) -> Pair {
        self.issue(vec![dns("localhost"), SanType::IpAddress([127, 0, 0, 1].into())], "server")
    }

    /// A server's certificate whose time is over.
    pub fn expired_server(&self) -> Pair {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![dns("localhost")];
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        self.sign(params)
    }

    /// A client's certificate with that DNS name.
    pub fn client(&self, name: &str) -> Pair {
        self.issue(vec![dns(name)], "client")
    }

    fn issue(&self, names: Vec<SanType>, common: &str) -> Pair {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.distinguished_name.push(DnType::CommonName, common);
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Pair {
        params.serial_number = Some(SERIAL.fetch_add(1, Ordering::Relaxed).into());
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("a DNS name"))
}

impl Pair {
    /// Writes `NAME.crt` and `NAME.key` into `dir`, one after the other and each in one step, as
    /// careful tools do.
    pub fn write(&self, dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let write = |end: &str, content: &str| {
            let path = dir.join(format!("{name}.{end}"));
            let next = dir.join(format!("{name}.{end}.next"));
            std::fs::write(&next, content).expect("a file");
            std::fs::rename(&next, &path).expect("a file");
            path
        };
        (write("crt", &self.certificate), write("key", &self.key))
    }
}

/// A client that trusts the authorities in `roots` (PEM), and shows `identity` if it is asked. It
/// speaks HTTP/1.1.
pub fn client(roots: &str, identity: Option<&Pair>) -> Arc<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root.expect("PEM")).expect("an authority");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has all of them")
        .with_root_certificates(store);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
            builder
                .with_client_auth_cert(vec![pair.der.clone().into()], key)
                .expect("a matching key")
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}
