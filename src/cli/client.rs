//! How commands reach a running Pierhead: where it is, the token, and what its refusals mean.

use std::error::Error as StdError;
use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, StatusCode};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use url::Url;

use super::args::{Target, TlsFiles};
use super::output::{Console, Exit, Failure, Format};
use super::{load, variable};
use crate::config::Config;
use crate::http::admin::api::PREFIX;
use crate::http::admin::api::error::ErrorBody;
use crate::http::admin::api::token::{self, TOKEN_FILE};
use crate::secret::Secret;

/// Names the server where no argument does.
pub(super) const URL_VARIABLE: &str = "PIERHEAD_URL";

/// Names the token's file where no argument does.
const TOKEN_FILE_VARIABLE: &str = "PIERHEAD_TOKEN_FILE";

/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server may stay silent: it may have to ask an upstream for an answer.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(90);

/// A running Pierhead, as its operator.
#[derive(Debug)]
pub(super) struct Client {
    base: Url,
    token: Secret,
    token_file: PathBuf,
    http: reqwest::Client,
    /// For answers that may be long in coming: an archive is read to its end before.
    patient: reqwest::Client,
}

/// An answer of the API's: JSON, kept as it came.
#[derive(Clone, Debug)]
pub(super) struct Answer(String);

impl Answer {
    /// The JSON on one line.
    pub(super) fn line(&self) -> String {
        format!("{}\n", self.0.trim_end())
    }

    /// Shows the answer in the wanted form, and returns what it says.
    pub(super) fn show<T: DeserializeOwned>(
        &self,
        format: Format,
        console: &mut Console<'_>,
        text: impl FnOnce(&T) -> String,
    ) -> Result<T, Failure> {
        let answer = self.read()?;
        let shown = match format {
            Format::Json => self.line(),
            Format::Text => text(&answer),
        };
        match console.tell(&shown) {
            Ok(_) => Ok(answer),
            Err(error) => Err(Failure::new(Exit::No, "output", error)),
        }
    }

    /// What it says.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.0).map_err(|error| {
            let message = format!("the server's answer is not understood: {error}");
            Failure::new(Exit::No, "not_understood", message)
                .help("are `pierhead` here and the server of the same version?")
        })
    }
}

impl Client {
    /// The Pierhead that `target`, the variables or the configuration name, in this order.
    pub(super) fn new(
        target: &Target,
        variables: &[(OsString, OsString)],
    ) -> Result<Self, Failure> {
        let url = target.url.clone().or_else(|| variable(variables, URL_VARIABLE));
        let token_file = target
            .token_file
            .clone()
            .or_else(|| variable(variables, TOKEN_FILE_VARIABLE).map(PathBuf::from));
        // Who names both needs no configuration.
        let (base, token_file) = match (url, token_file) {
            (Some(url), Some(file)) => (given(&url)?, file),
            (url, file) => {
                let (_, config) = load(target.config.clone(), variables.to_vec());
                let config = config.map_err(Failure::usage)?;
                let base = match url {
                    Some(url) => given(&url)?,
                    None => listener(&config)?,
                };
                (base, file.unwrap_or_else(|| config.storage.path.join(TOKEN_FILE)))
            }
        };
        let token = token::read(&token_file).map_err(|error| {
            Failure::new(Exit::NoServer, "no_token", error).help(format!(
                "`pierhead serve` writes {TOKEN_FILE} into its storage.path; name the same \
                 configuration with --config, or the file with --token-file"
            ))
        })?;
        let patient = http(&base, &target.tls, None)?;
        let http = http(&base, &target.tls, Some(SILENCE_TIMEOUT))?;
        Ok(Self { base, token, token_file, http, patient })
    }

    /// Where it is, for messages.
    pub(super) fn shown(&self) -> &str {
        shown(&self.base)
    }

    /// GET of `path` below the API's prefix.
    pub(super) async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Answer, Failure> {
        self.send(self.request(Method::GET, path, query)).await
    }

    /// GET of a stream, which is handed to `out` piece by piece until it ends or nobody takes it.
    /// A failure on the way is handed on as well.
    pub(super) async fn download(
        &self,
        path: &str,
        query: &[(&str, &str)],
        out: mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<(), Failure> {
        let request = self.request_by(&self.patient, Method::GET, path, query);
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if !status.is_success() {
            let text = answer.text().await.map_err(|error| self.unreachable(&error))?;
            return Err(self.refused(status, &text));
        }
        let mut pieces = answer.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| io::Error::other(root_cause(&error)));
            if out.send(piece).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// POST of a stream.
    pub(super) async fn upload(
        &self,
        path: &str,
        query: &[(&str, &str)],
        pieces: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<Answer, Failure> {
        let stream =
            unfold(pieces, async |mut pieces| pieces.recv().await.map(|piece| (piece, pieces)));
        let request = self.request_by(&self.patient, Method::POST, path, query);
        self.send(request.body(reqwest::Body::wrap_stream(stream))).await
    }

    /// POST of `body` to `path` below the API's prefix.
    pub(super) async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.send(with_json(self.request(Method::POST, path, &[]), body)?).await
    }

    /// PUT of `body` to `path` below the API's prefix.
    pub(super) async fn put(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        self.send(with_json(self.request(Method::PUT, path, &[]), body)?).await
    }

    /// DELETE of `path` below the API's prefix.
    pub(super) async fn delete(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Answer, Failure> {
        self.send(self.request(Method::DELETE, path, query)).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> reqwest::RequestBuilder {
        self.request_by(&self.http, method, path, query)
    }

    fn request_by(
        &self,
        http: &reqwest::Client,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> reqwest::RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{PREFIX}/{path}", url.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        http.request(method, url).bearer_auth(self.token.expose())
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, Failure> {
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() { Ok(Answer(text)) } else { Err(self.refused(status, &text)) }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let cause = if error.is_timeout() { "it timed out".to_owned() } else { root_cause(error) };
        let message = format!("no Pierhead answers at {}: {cause}", shown(&self.base));
        let mut failure = Failure::new(Exit::NoServer, "unreachable", message)
            .help("start one with `pierhead serve`, or name another with --url");
        if self.base.scheme() == "https" && cause.contains("certificate") {
            failure.help = Some("name the authority of its certificate with --ca-file".into());
        }
        failure
    }

    fn refused(&self, status: StatusCode, text: &str) -> Failure {
        let Ok(ErrorBody { error }) = serde_json::from_str(text) else {
            let message = format!(
                "{} answers {status}, and not as Pierhead's operator's side does",
                shown(&self.base)
            );
            return Failure::new(Exit::NoServer, "not_pierhead", message)
                .help("--url names the operator's side (server.admin_listen), not the registry");
        };
        let exit = match status {
            StatusCode::UNAUTHORIZED => {
                let message = format!(
                    "the token in {} is refused by {}",
                    self.token_file.display(),
                    shown(&self.base)
                );
                let mut failure = Failure::new(Exit::NoServer, &error.code, message);
                failure.help = error.help.map(|help| format!("{help}; name it with --token-file"));
                return failure;
            }
            _ if matches!(error.code.as_str(), "wrong_host" | "cross_origin") => Exit::NoServer,
            StatusCode::BAD_REQUEST => Exit::Usage,
            _ => Exit::No,
        };
        Failure { exit, code: error.code, message: error.message, help: error.help }
    }
}

fn with_json(
    request: reqwest::RequestBuilder,
    body: &impl Serialize,
) -> Result<reqwest::RequestBuilder, Failure> {
    let json = serde_json::to_vec(body).map_err(|error| Failure::new(Exit::No, "json", error))?;
    Ok(request.header(CONTENT_TYPE, "application/json").body(json))
}

/// Runs a command that waits for the network.
pub(super) fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(Failure::new(Exit::No, "system", error)),
    }
}

/// A URL that somebody typed.
pub(super) fn given(text: &str) -> Result<Url, Failure> {
    let url = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    url.ok_or_else(|| {
        Failure::usage(format!("{text:?} is not the URL of a Pierhead"))
            .help("such as http://127.0.0.1:5001, with http:// or https:// and no user")
    })
}

/// Where a Pierhead answers on this machine that listens there.
pub(super) fn of_listener(listen: SocketAddr, has_tls: bool) -> Result<Url, Failure> {
    if listen.port() == 0 {
        return Err(Failure::usage("the configuration leaves the port to the system")
            .help("name the address that `pierhead serve` printed with --url"));
    }
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let scheme = if has_tls { "https" } else { "http" };
    given(&format!("{scheme}://{}", SocketAddr::new(ip, listen.port())))
}

/// A client for `base` alone: without proxies and redirects, and giving up on `silence`.
pub(super) fn http(
    base: &Url,
    files: &TlsFiles,
    silence: Option<Duration>,
) -> Result<reqwest::Client, Failure> {
    let bad = |error: String| Failure::usage(format!("cannot set up the connection: {error}"));
    let mut roots = RootCertStore::empty();
    if base.scheme() == "https" {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(path) = &files.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| bad(format!("{}: {error}", path.display())))?;
        }
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?
        .with_root_certificates(roots);
    let tls = match (&files.cert, &files.key) {
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| bad(format!("{}: {error}", key.display())))?;
            tls.with_client_auth_cert(certificates(cert)?, private)
                .map_err(|error| bad(format!("{}: {error}", cert.display())))?
        }
        // The command line takes both or none.
        _ => tls.with_no_client_auth(),
    };
    let mut builder = reqwest::Client::builder();
    if let Some(silence) = silence {
        builder = builder.read_timeout(silence);
    }
    builder
        .tls_backend_preconfigured(tls)
        // The token is for the one server that was named.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .build()
        .map_err(|error| bad(root_cause(&error)))
}

/// The certificates of a file in PEM form.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| {
        let path = path.display();
        Failure::usage(format!("cannot set up the connection: {path}: {error}"))
    })
}

/// Where the operator's side of that configuration answers on this machine.
pub(super) fn listener(config: &Config) -> Result<Url, Failure> {
    of_listener(config.server.admin_listen, config.server.admin_has_tls())
}

/// Whether nobody listens there. Silence, or an address that is not reached, is no such answer.
pub(super) async fn refuses(url: &Url) -> bool {
    let Ok(addresses) = url.socket_addrs(|| None) else { return false };
    let connecting = TcpStream::connect(&*addresses);
    matches!(
        timeout(CONNECT_TIMEOUT, connecting).await,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused
    )
}

/// A server's address, for messages.
pub(super) fn shown(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

pub(super) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    // Outer messages of reqwest repeat the URL, the innermost says what happened.
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_the_operators_side() {
        for good in ["http://127.0.0.1:5001", "https://mirror.example/pierhead/"] {
            assert!(given(good).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:5001", "ftp://a", "http://u:p@a", "http://a?x", "http://a#x"] {
            assert_eq!(given(bad).map_err(|failure| failure.exit), Err(Exit::Usage), "{bad}");
        }
    }

    #[test]
    fn a_listener_on_every_address_is_asked_on_this_machine() {
        for (listen, url) in [
            ("127.0.0.1:5001", "http://127.0.0.1:5001/"),
            ("0.0.0.0:5001", "http://127.0.0.1:5001/"),
            ("[::]:5001", "http://[::1]:5001/"),
            ("0.0.0.0:5001", "https://127.0.0.1:5001/"),
        ] {
            let found = of_listener(listen.parse().unwrap(), url.starts_with("https")).unwrap();
            assert_eq!(found.as_str(), url);
        }
        assert!(of_listener("127.0.0.1:0".parse().unwrap(), false).is_err());
    }

    #[tokio::test]
    async fn only_a_closed_port_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = of_listener(listener.local_addr().unwrap(), false).unwrap();
        assert!(!refuses(&url).await);
        drop(listener);
        assert!(refuses(&url).await);
    }
}
