//! Outgoing requests: which of them a grant covers.

use std::time::Duration;

use serde::Deserialize;
use url::{Host, Url};

use crate::visible;
use crate::wit::{HttpError, HttpRequest};

/// Headers of one request, at most.
const HEADERS_MAX: usize = 64;

/// Names and values of a request's headers together, in bytes, at most.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// A URL, in bytes, at most.
const URL_BYTES_MAX: usize = 8 << 10;

/// Headers that belong to the connection, or say where a request ends.
const CONNECTION_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers by which servers take a request for another one than was granted: another method, path
/// or client.
const OVERRIDE_HEADERS: &[&str] =
    &["forwarded", "x-method-override", "x-original-url", "x-rewrite-url"];

/// How further such headers begin.
const OVERRIDE_PREFIXES: &[&str] = &["x-http-method", "x-forwarded-"];

/// Leave to send requests.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGrant {
    /// Where to.
    pub allow: Vec<UrlPattern>,
    /// Which methods.
    #[serde(default = "HttpGrant::usual_methods")]
    pub methods: Vec<String>,
    /// The longest until the whole answer is there.
    #[serde(
        default = "HttpGrant::usual_timeout",
        deserialize_with = "crate::units::deserialize_duration"
    )]
    pub timeout: Duration,
    /// The largest body of an answer, in bytes.
    #[serde(
        default = "HttpGrant::usual_body",
        deserialize_with = "crate::units::deserialize_size"
    )]
    pub max_body: u64,
    /// Whether loopback, link-local, private and metadata addresses may be dialled.
    #[serde(default)]
    pub private_addresses: bool,
}

impl HttpGrant {
    fn usual_methods() -> Vec<String> {
        vec!["GET".to_owned()]
    }

    const fn usual_timeout() -> Duration {
        Duration::from_secs(5)
    }

    const fn usual_body() -> u64 {
        1 << 20
    }

    /// The request as it may be sent: the URL normalised, header names in lower case.
    ///
    /// # Errors
    /// [`HttpError::Denied`] with what is missing, [`HttpError::Invalid`] with what is wrong.
    pub fn accept(&self, request: HttpRequest) -> Result<HttpRequest, HttpError> {
        let url = normalised(&request.url)?;
        if !self.methods.contains(&request.method) {
            return Err(HttpError::Denied(format!(
                "grants.http.methods does not list {}",
                printable(&request.method)
            )));
        }
        if !self.allow.iter().any(|pattern| pattern.matches(&url)) {
            let origin = url.origin().ascii_serialization();
            return Err(HttpError::Denied(format!("grants.http.allow does not cover {origin}")));
        }
        let headers = headers(request.headers)?;
        Ok(HttpRequest { method: request.method, url: url.into(), headers, body: request.body })
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !visible::is_hidden(*c)).take(32).collect()
}

fn invalid(why: &str) -> HttpError {
    HttpError::Invalid(why.to_owned())
}

/// The URL as it goes over the wire.
fn normalised(text: &str) -> Result<Url, HttpError> {
    if text.len() > URL_BYTES_MAX {
        return Err(invalid("the URL is too long"));
    }
    let mut url = Url::parse(text).map_err(|error| invalid(&format!("the URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(invalid("the URL has to begin with https:// or http://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("the URL carries credentials; use the Authorization header"));
    }
    url.set_fragment(None);
    Ok(url)
}

fn headers(given: Vec<(String, String)>) -> Result<Vec<(String, String)>, HttpError> {
    if given.len() > HEADERS_MAX {
        return Err(invalid("too many headers"));
    }
    let mut bytes = 0usize;
    let mut accepted = Vec::with_capacity(given.len());
    for (name, value) in given {
        bytes = bytes.saturating_add(name.len()).saturating_add(value.len());
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(invalid("a header's name is malformed"));
        }
        if !value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f)) {
            return Err(invalid(&format!("the value of {name} has control characters")));
        }
        let name = name.to_ascii_lowercase();
        if CONNECTION_HEADERS.contains(&name.as_str()) {
            return Err(invalid(&format!("{name} belongs to the connection")));
        }
        if OVERRIDE_HEADERS.contains(&name.as_str())
            || OVERRIDE_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        {
            return Err(invalid(&format!("{name} would make another request of this one")));
        }
        accepted.push((name, value));
    }
    if bytes > HEADER_BYTES_MAX {
        return Err(invalid("the headers are too large"));
    }
    Ok(accepted)
}

/// Where requests may go: `https://HOST[:PORT][/PATH]`.
///
/// A host may begin with `*.`, which stands for one or more labels. Without a port it is the
/// scheme's own. Without a path, or with `/`, every path is meant; a path that ends in `/*` means
/// what is below it, any other one itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UrlPattern {
    https: bool,
    host: HostPattern,
    port: u16,
    path: PathPattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    Exactly(Host<String>),
    /// What stands behind the star, with its dot.
    Below(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PathPattern {
    Any,
    Exactly(String),
    /// A path with its last slash.
    Below(String),
}

impl TryFrom<String> for UrlPattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).map_err(|why| format!("{text:?} in grants.http.allow: {why}"))
    }
}

impl UrlPattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = text.split_once("://").ok_or("write it like \"https://host\"")?;
        if !matches!(scheme, "http" | "https") {
            return Err("only http and https can be granted");
        }
        let (below, rest) = match rest.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let url = Url::parse(&format!("{scheme}://{rest}")).map_err(|_| "not a URL")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("it must not carry credentials");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("it must not have a query or a fragment");
        }
        let host = match url.host() {
            Some(Host::Domain(name)) if name.contains('*') => {
                return Err("a star may only stand for the first labels of a host");
            }
            Some(Host::Domain(name)) if below => HostPattern::Below(format!(".{name}")),
            Some(_) if below => return Err("a star cannot stand before an address"),
            Some(host) => HostPattern::Exactly(host.to_owned()),
            None => return Err("it has no host"),
        };
        let path = match url.path() {
            "/" | "/*" => PathPattern::Any,
            path => match path.strip_suffix('*') {
                Some(stem) if stem.ends_with('/') && !stem.contains('*') => {
                    PathPattern::Below(stem.to_owned())
                }
                None if !path.contains('*') => PathPattern::Exactly(path.to_owned()),
                _ => return Err("a star may only stand at the end of a path, behind a slash"),
            },
        };
        let port = url.port_or_known_default().ok_or("it has no port")?;
        Ok(Self { https: scheme == "https", host, port, path })
    }

    fn matches(&self, url: &Url) -> bool {
        let scheme = if self.https { "https" } else { "http" };
        if url.scheme() != scheme || url.port_or_known_default() != Some(self.port) {
            return false;
        }
        let host = match (&self.host, url.host()) {
            (HostPattern::Exactly(wanted), Some(host)) => *wanted == host.to_owned(),
            (HostPattern::Below(suffix), Some(Host::Domain(name))) => {
                // A trailing dot means the same name, but not to everybody on the way.
                name.len() > suffix.len() && name.ends_with(suffix.as_str())
            }
            _ => false,
        };
        host && match &self.path {
            PathPattern::Any => true,
            PathPattern::Exactly(path) => url.path() == path,
            PathPattern::Below(stem) => url.path().starts_with(stem.as_str()) && is_plain(url),
        }
    }
}

/// Whether a path means the same to a server that decodes it before it looks for `..`, or that
/// leaves out what stands behind a semicolon.
fn is_plain(url: &Url) -> bool {
    let path = url.path().to_ascii_lowercase();
    !["%2f", "%5c", "%2e", "%25", "%00", "%3b", ";", "\\"]
        .iter()
        .any(|escape| path.contains(escape))
}
