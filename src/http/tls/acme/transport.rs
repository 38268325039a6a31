//! HTTPS to the directory: bounded in time and size, and with an ear for `Retry-After`.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore};

use super::super::files::ClientFiles;
use super::AcmeError;
use crate::clock::Clock;

/// How long one request may take.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// The largest answer, in bytes: chains of certificates are a few KiB.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// The longest time that we stay away because a directory asks for it.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// Who we are. Source: RFC 8555, section 6.1.
const AGENT: &str = concat!("pierhead/", env!("CARGO_PKG_VERSION"));

/// Connections to a directory. Cheap to clone; all clones share what was heard.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    retry_after: Arc<Mutex<Option<Duration>>>,
    clock: Clock,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("retry_after", &self.retry_after).finish_non_exhaustive()
    }
}

impl Transport {
    /// Trusts the authorities in `ca_file`, or without one those of the system. Blocks.
    pub(super) fn new(ca_file: Option<&Path>, clock: Clock) -> Result<Self, AcmeError> {
        let roots = match ca_file {
            Some(path) => ClientFiles { authorities: path.to_owned(), required: false }.load()?,
            None => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                roots
            }
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, retry_after: Arc::default(), clock })
    }

    /// How long the directory last asked us to stay away, if it did since this was last asked.
    pub(super) fn heard(&self) -> Option<Duration> {
        self.retry_after.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn send(&self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let response = self.client.request(request).await.map_err(|e| Error::Other(e.into()))?;
        let (parts, body) = response.into_parts();
        if !parts.status.is_success()
            && let Some(value) = parts.headers.get(RETRY_AFTER)
            && let Some(after) = retry_after(value, &self.clock)
        {
            *self.retry_after.lock().unwrap_or_else(PoisonError::into_inner) = Some(after);
        }
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(Error::Other)?;
        Ok(BytesResponse { parts, body: Box::new(body.to_bytes()) })
    }
}

impl HttpClient for Transport {
    fn request(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let this = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(REQUEST_TIME_MAX, this.send(request)).await {
                Ok(answer) => answer,
                Err(_) => Err(Error::Other("the directory did not answer in time".into())),
            }
        })
    }
}

/// Source: RFC 9110, section 10.2.3.
fn retry_after(value: &HeaderValue, clock: &Clock) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let after = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
            until.saturating_sub(Duration::from_millis(clock.now().unix_ms()))
        }
    };
    Some(after.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn both_forms_of_retry_after_are_read_and_bounded() {
        let clock = Clock::manual(Timestamp::from_unix_ms(784_111_777_000 - 60_000));
        let read = |text| retry_after(&HeaderValue::from_static(text), &clock);
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("99999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(read("soon"), None);
    }
}
