//! A connection from its first byte until it is encrypted, or refused.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor as HelloReader;
use rustls::{AlertDescription, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::acme::challenge::{self, Challenges};
use super::certificate;
use super::current::Current;
use super::metrics::TlsMetrics;
use crate::hooks::ClientCertificate;

/// What a client gets that speaks plain HTTP here: the one answer that it can read.
const PLAIN_HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\
    Content-Length: 81\r\nConnection: close\r\n\r\n\
    {\"errors\":[{\"code\":\"UNSUPPORTED\",\"message\":\"TLS is spoken here: use https://\"}]}\n";

/// How much of a plain request is read before its connection is closed, in bytes: what is left
/// unread would take the answer with it.
const PLAIN_HTTP_BYTES_MAX: u64 = 64 << 10;

/// How long that may take.
const PLAIN_HTTP_TIME_MAX: Duration = Duration::from_secs(2);

/// A connection whose writes may not block for ever.
pub type Plain = Pin<Box<TimeoutStream<TcpStream>>>;

/// An encrypted connection.
pub type Encrypted = TlsStream<Plain>;

/// Takes connections into TLS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Acceptor {
    current: Arc<Current>,
    challenge: Arc<ServerConfig>,
    metrics: TlsMetrics,
}

/// What became of a handshake.
#[derive(Debug)]
pub enum Shaken {
    /// A client, with its certificate if it has shown one that was verified.
    Client(Box<Encrypted>, Option<Arc<ClientCertificate>>),
    /// An ACME directory that looked at our proof, and wants no more.
    Challenge,
}

impl Acceptor {
    /// Handshakes with what is current.
    pub fn new(
        current: Arc<Current>,
        challenges: Challenges,
        metrics: TlsMetrics,
    ) -> Result<Self, rustls::Error> {
        let challenge = challenge::config(challenges)?;
        Ok(Self { current, challenge, metrics })
    }

    /// Shakes hands within `limit`. Cancel-safe: dropping it closes the connection.
    ///
    /// # Errors
    /// When there is no encrypted connection. It is counted, and was told to the client as far as
    /// TLS has words for it.
    pub async fn accept(&self, stream: Plain, limit: Duration) -> io::Result<Shaken> {
        let shaken = match tokio::time::timeout(limit, self.shake(stream)).await {
            Ok(shaken) => shaken,
            Err(_) => Err(Refused {
                result: "timed_out",
                error: io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"),
            }),
        };
        match shaken {
            Ok(shaken) => {
                let challenge = matches!(shaken, Shaken::Challenge);
                self.metrics.handshake(if challenge { "acme_challenge" } else { "ok" });
                Ok(shaken)
            }
            Err(Refused { result, error }) => {
                self.metrics.handshake(result);
                Err(error)
            }
        }
    }

    async fn shake(&self, mut stream: Plain) -> Result<Shaken, Refused> {
        if speaks_plain_http(stream.get_ref()).await? {
            explain(&mut stream).await;
            let error = io::Error::new(io::ErrorKind::InvalidData, "plain HTTP on a TLS port");
            return Err(Refused { result: "plain_http", error });
        }
        let start = LazyConfigAcceptor::new(HelloReader::default(), stream).await?;
        let hello = start.client_hello();
        if hello.alpn().is_some_and(|mut names| names.any(|name| name == challenge::ALPN)) {
            let mut proven = start.into_stream(Arc::clone(&self.challenge)).await?;
            // RFC 8737, section 3: nothing is said on such a connection.
            let _ = proven.shutdown().await;
            return Ok(Shaken::Challenge);
        }
        let lacks_certificate = !self.current.has_certificate();
        let stream = match start.into_stream(self.current.config()).await {
            Ok(stream) => stream,
            Err(error) if lacks_certificate => {
                return Err(Refused { result: "no_certificate", error });
            }
            Err(error) => return Err(error.into()),
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let client = shown.map(|shown| Arc::new(certificate::client(shown)));
        Ok(Shaken::Client(Box::new(stream), client))
    }
}

/// A handshake that came to nothing.
struct Refused {
    /// The word for the metric.
    result: &'static str,
    error: io::Error,
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let result = match tls {
            Some(rustls::Error::NoCertificatesPresented) => "client_certificate_missing",
            Some(rustls::Error::InvalidCertificate(_)) => "client_certificate_refused",
            Some(rustls::Error::PeerIncompatible(_)) => "incompatible",
            Some(rustls::Error::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown,
            )) => "refused_by_client",
            Some(_) => "failed",
            None => "gone",
        };
        Self { result, error }
    }
}

/// Whether the first byte is the beginning of a method. TLS begins with 0x16.
async fn speaks_plain_http(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok(read == 1 && first[0].is_ascii_uppercase())
}

async fn explain(stream: &mut Plain) {
    let talk = async {
        stream.write_all(PLAIN_HTTP_ANSWER).await?;
        stream.shutdown().await?;
        let mut rest = stream.take(PLAIN_HTTP_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // It is a courtesy: whoever does not take it gets none.
    let _ = tokio::time::timeout(PLAIN_HTTP_TIME_MAX, talk).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_plain_http_has_its_length() {
        let text = std::str::from_utf8(PLAIN_HTTP_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
