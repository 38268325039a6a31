//! Which requests may come from where: a web page that an operator happens to visit must not be
//! able to talk to the operator's side.
//!
//! Two ways lead a page there. It may have its own name point to our address (DNS rebinding):
//! then `Host` is a name that is not ours. Or it sends a request across origins: then the browser
//! says so in `Origin` or `Sec-Fetch-Site`. Programs send neither.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use url::{Host, Url};

/// What browsers say about who began a request. Source: W3C Fetch Metadata, section 2.3.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Where the operator's side is to be found.
#[derive(Clone, Debug)]
pub struct Origins {
    listen: SocketAddr,
    /// The port that `Host` means where it names none.
    default_port: u16,
    public_url: Option<Url>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// `Host` is missing, malformed or not one of ours.
    #[error("the request is for {0:?}, and the operator's side is not called so")]
    Host(String),
    /// A page of another origin sent it.
    #[error("the request comes from a web page of another origin")]
    CrossOrigin,
}

impl Origins {
    /// The operator's side listens on `listen`, with TLS or without, and perhaps a proxy serves it
    /// at `public_url`.
    pub const fn new(listen: SocketAddr, has_tls: bool, public_url: Option<Url>) -> Self {
        let default_port = if has_tls { HTTPS_PORT } else { HTTP_PORT };
        Self { listen, default_port, public_url }
    }

    /// The names that requests may use, for messages.
    pub fn names(&self) -> String {
        let own = if self.listen.ip().is_unspecified() {
            format!("its address with port {}", self.listen.port())
        } else {
            self.listen.to_string()
        };
        let mut names = format!("{own} or localhost:{}", self.listen.port());
        if let Some(host) = self.public_url.as_ref().and_then(Url::host_str) {
            names.push_str(" or ");
            names.push_str(host);
        }
        names
    }

    /// Whether the request is for us, and from a program or a page of ours.
    pub fn check(&self, head: &Parts) -> Result<(), OriginError> {
        // HTTP/2 has the host in the target, HTTP/1 in a header.
        let host = match head.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => head.headers.get(HOST).and_then(|host| host.to_str().ok()),
        };
        let text = host.unwrap_or_default();
        let shown = || OriginError::Host(text.chars().take(HOST_SHOWN_CHARS_MAX).collect());
        let host = authority(text).ok_or_else(shown)?;
        if !self.is_ours(&host) {
            return Err(shown());
        }
        for site in head.headers.get_all(SEC_FETCH_SITE) {
            // Another port of this machine is the same site, but not the same origin.
            if !matches!(site.as_bytes(), b"same-origin" | b"none") {
                return Err(OriginError::CrossOrigin);
            }
        }
        for origin in head.headers.get_all(ORIGIN) {
            let origin = origin.to_str().ok().and_then(|origin| Url::parse(origin).ok());
            let same = origin
                .filter(|origin| matches!(origin.scheme(), "http" | "https"))
                .is_some_and(|origin| is_same(&origin, &host));
            if !same {
                return Err(OriginError::CrossOrigin);
            }
        }
        Ok(())
    }

    fn is_ours(&self, (host, port): &Authority) -> bool {
        if let Some(public) = self.public_url.as_ref().and_then(Url::host)
            && public == *host
        {
            return true;
        }
        if port.unwrap_or(self.default_port) != self.listen.port() {
            return false;
        }
        let ip = match host {
            Host::Domain(name) => return name == "localhost",
            Host::Ipv4(ip) => IpAddr::V4(*ip),
            Host::Ipv6(ip) => IpAddr::V6(*ip),
        };
        // Where we listen on every address, any of them may be ours: a name can be made to point
        // here, an address cannot.
        ip.is_loopback() || self.listen.ip() == ip || self.listen.ip().is_unspecified()
    }
}

/// How much of a wrong host is repeated in the answer, in characters.
const HOST_SHOWN_CHARS_MAX: usize = 255;

/// The port that `Host` means where it names none, on plain HTTP.
const HTTP_PORT: u16 = 80;
/// The same over TLS.
const HTTPS_PORT: u16 = 443;

/// A host, and its port if one was given.
type Authority = (Host, Option<u16>);

/// Reads `host[:port]` with the care of a browser, and nothing else.
fn authority(text: &str) -> Option<Authority> {
    if text.is_empty() || text.contains(['/', '?', '#', '@', '\\']) {
        return None;
    }
    // A scheme without a port of its own, so that a given port is never taken for the default.
    let url = Url::parse(&format!("http://{text}")).ok()?;
    let given = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if given { url.port_or_known_default() } else { None };
    Some((url.host()?.to_owned(), port))
}

/// Whether a page of `origin` is one of `host`. The scheme may differ: a proxy may have ended TLS.
fn is_same(origin: &Url, (host, port): &Authority) -> bool {
    let default = match origin.scheme() {
        "https" => 443,
        _ => HTTP_PORT,
    };
    origin.host().is_some_and(|origin| origin == *host)
        && origin.port_or_known_default() == Some(port.unwrap_or(default))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn check(origins: &Origins, headers: &[(&str, &str)]) -> Result<(), OriginError> {
        let mut request = Request::builder().uri("/api/v1/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        origins.check(&request.body(()).unwrap().into_parts().0)
    }

    fn local() -> Origins {
        Origins::new("127.0.0.1:5001".parse().unwrap(), false, None)
    }

    #[test]
    fn our_names_are_ours() {
        let behind = Origins::new(
            "10.0.0.7:5001".parse().unwrap(),
            false,
            Some("https://Mirror.example".parse().unwrap()),
        );
        let everywhere = Origins::new("[::]:5001".parse().unwrap(), false, None);
        for (origins, host) in [
            (&local(), "127.0.0.1:5001"),
            (&local(), "localhost:5001"),
            (&local(), "LOCALHOST:5001"),
            (&local(), "[::1]:5001"),
            (&local(), "127.9.9.9:5001"),
            (&behind, "10.0.0.7:5001"),
            (&behind, "mirror.example"),
            (&behind, "mirror.example:8443"),
            (&behind, "localhost:5001"),
            (&everywhere, "192.0.2.1:5001"),
        ] {
            assert_eq!(check(origins, &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn other_names_are_not() {
        for host in [
            "",
            "evil.example",
            "evil.example:5001",
            "127.0.0.1",
            "127.0.0.1:5000",
            "localhost",
            "localhost.:5001",
            "localhost.evil.example:5001",
            "127.0.0.1.evil.example:5001",
            "evil@127.0.0.1:5001",
            "127.0.0.1:5001/x",
            "192.0.2.1:5001",
            "0.0.0.0:5001",
            "127.0.0.1:05001x",
            "[::1",
        ] {
            let checked = check(&local(), &[("host", host)]);
            assert_eq!(checked, Err(OriginError::Host(host.to_owned())), "{host}");
        }
        assert!(matches!(check(&local(), &[]), Err(OriginError::Host(_))));
        let everywhere = Origins::new("0.0.0.0:5001".parse().unwrap(), false, None);
        assert!(check(&everywhere, &[("host", "evil.example:5001")]).is_err());
    }

    #[test]
    fn the_target_of_http2_counts_and_not_a_header() {
        let head = |uri: &str| {
            let request = Request::builder().uri(uri).header("host", "127.0.0.1:5001");
            request.body(()).unwrap().into_parts().0
        };
        assert_eq!(local().check(&head("http://127.0.0.1:5001/api/v1/status")), Ok(()));
        assert!(local().check(&head("http://evil.example:5001/api/v1/status")).is_err());
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let host = ("host", "localhost:5001");
        for good in [
            ("origin", "http://localhost:5001"),
            ("origin", "https://localhost:5001"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
        ] {
            assert_eq!(check(&local(), &[host, good]), Ok(()), "{good:?}");
        }
        for bad in [
            ("origin", "null"),
            ("origin", ""),
            ("origin", "http://localhost"),
            ("origin", "http://localhost:3000"),
            ("origin", "http://127.0.0.1:5001"),
            ("origin", "http://evil.example"),
            ("origin", "file://localhost:5001"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "whatever"),
        ] {
            let checked = check(&local(), &[host, bad]);
            assert_eq!(checked, Err(OriginError::CrossOrigin), "{bad:?}");
        }
        let both = [host, ("origin", "http://localhost:5001"), ("origin", "http://evil.example")];
        assert_eq!(check(&local(), &both), Err(OriginError::CrossOrigin));
        let behind = Origins::new(
            "127.0.0.1:5001".parse().unwrap(),
            false,
            Some("https://mirror.example".parse().unwrap()),
        );
        let host = ("host", "mirror.example");
        assert_eq!(check(&behind, &[host, ("origin", "https://mirror.example")]), Ok(()));
        assert!(check(&behind, &[host, ("origin", "https://mirror.example:444")]).is_err());
    }
}
