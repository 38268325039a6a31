//! The proof that we are who our names lead to: TLS-ALPN-01.
//!
//! Source: RFC 8737. The directory connects to port 443 of the name, offers only the protocol
//! `acme-tls/1`, and has to be shown a certificate that holds the digest it expects.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The protocol's name.
pub const ALPN: &[u8] = b"acme-tls/1";

/// The proofs that are being asked for, by name. Cheap to clone; all clones share one list, which
/// has at most as many entries as the configuration has domains.
#[derive(Clone, Debug, Default)]
pub struct Challenges(Arc<Mutex<HashMap<String, Arc<CertifiedKey>>>>);

impl Challenges {
    /// Answers for `domain` with `digest` for as long as what is returned lives.
    ///
    /// # Errors
    /// When no certificate can be made for that name; the message says why.
    pub fn answer(&self, domain: &str, digest: &[u8]) -> Result<Answering, String> {
        let certified = certificate(domain, digest)?;
        let domain = domain.to_ascii_lowercase();
        self.table().insert(domain.clone(), Arc::new(certified));
        Ok(Answering { challenges: self.clone(), domain })
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<CertifiedKey>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proof that is held ready; dropping it takes it away.
#[derive(Debug)]
pub struct Answering {
    challenges: Challenges,
    domain: String,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.challenges.table().remove(&self.domain);
    }
}

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.to_ascii_lowercase();
        self.table().get(&name).cloned()
    }
}

/// What such connections are answered with. Clients' certificates are not asked for: directories
/// have none.
pub fn config(challenges: Challenges) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(challenges));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn certificate(domain: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let make = || {
        let mut params = CertificateParams::new(vec![domain.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
        let key = KeyPair::generate()?;
        Ok::<_, rcgen::Error>((params.self_signed(&key)?, key))
    };
    let (certificate, key) = make().map_err(|error| error.to_string())?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let provider = rustls::crypto::ring::default_provider();
    let key = provider.key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    // Not `from_der`: it refuses the critical extension, as anybody but a directory should.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_there_for_as_long_as_it_is_wanted() {
        let challenges = Challenges::default();
        let answering = challenges.answer("A.example", &[7; 32]).unwrap();
        let shown = challenges.table().get("a.example").cloned().unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&shown.cert[0]).unwrap();
        // RFC 8737, section 3: a critical extension with an OCTET STRING of the digest.
        let extension = certificate
            .extensions()
            .iter()
            .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
            .unwrap();
        assert!(extension.critical);
        assert_eq!(extension.value, [&[4, 32][..], &[7; 32]].concat());
        drop(answering);
        assert!(challenges.table().is_empty());
    }

    #[test]
    fn nonsense_is_no_name() {
        assert!(Challenges::default().answer("ä", &[7; 32]).is_err());
    }
}
