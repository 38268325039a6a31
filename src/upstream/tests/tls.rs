//! Whom TLS trusts.

use std::io::{self, Write as _};
use std::path::PathBuf;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::net::OwnAddresses;

use super::server::{OK, fetch, head, quick, upstream};
use super::*;

/// A server with the certificate in `tls/leaf.pem`, for one connection and one request.
fn tls_server() -> u16 {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("tls/leaf.pem"));
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/leaf.key.pem"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.expect("a certificate")], key.expect("a key"))
        .expect("a configuration");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        let (tcp, _) = listener.accept().expect("a connection");
        let tls = rustls::ServerConnection::new(Arc::new(config)).expect("a connection");
        let mut stream = rustls::StreamOwned::new(tls, tcp);
        let mut byte = [0];
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            // The client hangs up when it does not trust us.
            if io::Read::read_exact(&mut stream, &mut byte).is_err() {
                return;
            }
            head.extend_from_slice(&byte);
        }
        let _ = stream.write_all(OK.as_bytes()).and_then(|()| stream.flush());
    });
    port
}

fn tls_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/upstream/tests/tls")
}

#[tokio::test]
async fn an_unknown_authority_is_refused_and_ca_file_named() {
    let url = format!("https://localhost:{}/", tls_server()).parse().expect("a URL");
    let error = head(&upstream(&quick(&url))).await.expect_err("a failure");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("ca_file"), "{error}");
}

#[tokio::test]
async fn the_authority_in_ca_file_is_trusted() {
    let url = format!("https://localhost:{}/", tls_server()).parse().expect("a URL");
    let mut settings = quick(&url);
    settings.ca_file = Some(tls_directory().join("ca.pem"));
    fetch(&upstream(&settings)).await.expect("a manifest");
}

#[tokio::test]
async fn https_to_a_plain_http_server_is_explained() {
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://{}/", plain.local_addr().expect("an address"));
    let mut settings = quick(&url.parse().expect("a URL"));
    settings.ca_file = Some(tls_directory().join("ca.pem"));
    let (outcome, ()) = tokio::join!(async { head(&upstream(&settings)).await }, async {
        let (mut stream, _) = plain.accept().await.expect("a connection");
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    });
    let error = outcome.expect_err("a failure");
    assert!(error.to_string().contains("plain http"), "{error}");
}

#[tokio::test]
async fn a_bad_ca_file_is_refused_at_start() {
    let mut settings = quick(&"https://localhost/".parse().expect("a URL"));
    for path in [PathBuf::from("/nonexistent/ca.pem"), PathBuf::from("/dev/null")] {
        settings.ca_file = Some(path);
        let outcome = HttpTransport::new(&settings, OwnAddresses::default());
        assert!(matches!(outcome.err(), Some(TransportSetupError::CaFile { .. })));
    }
}
