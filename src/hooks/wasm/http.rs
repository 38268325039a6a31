//! Requests of plugins to the outside, over the same connections and with the same checks of
//! addresses as those to upstreams.

use std::str::FromStr as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pierhead_plugin_host::wit::{HttpError, HttpRequest, HttpResponse};
use pierhead_plugin_host::{HttpClient, HttpTerms};
use url::Url;

use crate::net::OwnAddresses;
use crate::secret::SafeUrl;
use crate::upstream::settings::UpstreamSettings;
use crate::upstream::transport::{Reach, Request, Response, Transport, TransportError};
use crate::upstream::{HttpTransport, TransportSetupError};

/// What the transport is called; no request carries it.
const NAME: &str = "plugins";

/// How long a connection may take to be there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The most headers of an answer that are handed on.
const HEADERS_MAX: usize = 128;

/// Sends what grants allow.
pub(super) struct Outgoing(HttpTransport);

impl Outgoing {
    pub(super) fn new(own: OwnAddresses) -> Result<Self, TransportSetupError> {
        let name = NAME.parse().map_err(|error| {
            // A word without dots is a name.
            TransportSetupError::Client(format!("{NAME}: {error}"))
        })?;
        // Without an endpoint, nothing but public addresses is near.
        let settings = UpstreamSettings {
            name,
            endpoints: Vec::new(),
            credentials: None,
            auth_hosts: Vec::new(),
            redirect_hosts: Vec::new(),
            ca_file: None,
            proxy: None,
            connect_timeout: CONNECT_TIMEOUT,
            header_timeout: CONNECT_TIMEOUT,
            silence_timeout: CONNECT_TIMEOUT,
        };
        HttpTransport::new(&settings, own).map(Self)
    }

    async fn ask(
        &self,
        request: HttpRequest,
        terms: &HttpTerms,
    ) -> Result<HttpResponse, HttpError> {
        let reach =
            if terms.private_addresses { Reach::Endpoint } else { Reach::Guarded { endpoint: 0 } };
        let request = outgoing(request)?;
        let answer = self.0.send(request, reach).await.map_err(unreachable)?;
        let status = answer.status.as_u16();
        let headers = incoming(&answer.headers);
        let body = collect(answer, terms.body_bytes_max).await?.to_vec();
        Ok(HttpResponse { status, headers, body })
    }
}

impl HttpClient for Outgoing {
    fn send(
        &self,
        request: HttpRequest,
        terms: HttpTerms,
    ) -> BoxFuture<'_, Result<HttpResponse, HttpError>> {
        Box::pin(async move {
            let asked = tokio::time::timeout(terms.timeout, self.ask(request, &terms));
            asked.await.unwrap_or(Err(HttpError::Timeout))
        })
    }
}

fn outgoing(request: HttpRequest) -> Result<Request, HttpError> {
    let invalid = |what: &str| HttpError::Invalid(what.to_owned());
    let method = Method::from_str(&request.method).map_err(|_| invalid("no method"))?;
    let url = Url::parse(&request.url).map_err(|_| invalid("no URL"))?;
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let name = HeaderName::from_str(name).map_err(|_| invalid("no header's name"))?;
        let value = HeaderValue::from_str(value).map_err(|_| invalid("no header's value"))?;
        headers.append(name, value);
    }
    Ok(Request { method, url: SafeUrl::new(url), headers, body: request.body.map(Bytes::from) })
}

/// Headers that are text. Others say nothing that a guest could read.
fn incoming(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .filter_map(|(name, value)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        })
        .take(HEADERS_MAX)
        .collect()
}

async fn collect(mut answer: Response, bytes_max: u64) -> Result<Bytes, HttpError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.body.next().await {
        let chunk = chunk.map_err(unreachable)?;
        if (body.len() + chunk.len()) as u64 > bytes_max {
            return Err(HttpError::TooLarge(bytes_max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn unreachable(error: TransportError) -> HttpError {
    match error {
        TransportError::Timeout => HttpError::Timeout,
        TransportError::Refused(refusal) => HttpError::Denied(format!(
            "{refusal}; private addresses need grants.http.private_addresses = true"
        )),
        other => HttpError::Unreachable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(private_addresses: bool) -> HttpTerms {
        HttpTerms {
            mount: "m".to_owned(),
            timeout: Duration::from_secs(10),
            body_bytes_max: 64,
            private_addresses,
        }
    }

    fn get(url: &str) -> HttpRequest {
        HttpRequest {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    /// A server that answers one request with so many bytes.
    async fn server(bytes: usize) -> (std::net::SocketAddr, OwnAddresses) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = crate::background::Tasks::new(&prometheus::Registry::new()).unwrap();
        drop(tasks.spawn("test", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let body = "x".repeat(bytes);
            let head = format!("HTTP/1.1 200 OK\r\nX-Test: yes\r\nContent-Length: {bytes}\r\n\r\n");
            stream.write_all((head + &body).as_bytes()).await.unwrap();
            let _ = stream.read(&mut [0; 64]).await;
        }));
        (address, OwnAddresses::default())
    }

    #[tokio::test]
    async fn private_addresses_are_dialled_only_where_they_are_granted() {
        let (address, own) = server(3).await;
        let outgoing = Outgoing::new(own.clone()).unwrap();
        let url = format!("http://{address}/");
        let refused = outgoing.send(get(&url), terms(false)).await.unwrap_err();
        assert!(matches!(refused, HttpError::Denied(why) if why.contains("loopback")));
        let answer = outgoing.send(get(&url), terms(true)).await.unwrap();
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"xxx"[..]));
        assert!(answer.headers.contains(&("x-test".to_owned(), "yes".to_owned())));
        // Never Pierhead itself.
        own.set(vec![address]);
        let own = outgoing.send(get(&format!("http://{address}/x")), terms(true)).await;
        assert!(matches!(own, Err(HttpError::Denied(_))), "{own:?}");
    }

    #[tokio::test]
    async fn a_large_answer_is_cut_short() {
        let (address, own) = server(65).await;
        let outgoing = Outgoing::new(own).unwrap();
        let answer = outgoing.send(get(&format!("http://{address}/")), terms(true)).await;
        assert!(matches!(answer, Err(HttpError::TooLarge(64))), "{answer:?}");
    }
}
