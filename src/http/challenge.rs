//! What a client is told that has to log in, or log in for more.
//!
//! Source: docker's `spec/auth/token.md`; RFC 6750, section 3.
//!
//! The realm is where a client sends its credentials. It is made of `server.public_url`, or of a
//! `Host` that the operator has configured, or else of the request's own `Host`: what stands there
//! only goes back to the client that sent it, which takes that host for its registry already, and
//! the answer must not be stored by anybody in between (`Cache-Control: no-store`). What a proxy
//! says of the host (`X-Forwarded-Host`) counts for nothing.

use http::uri::Authority;
use url::Url;

use super::route::{self, Query, Route};
use crate::oci::Challenge;
use crate::oci::RepoName;
use crate::pull::naming::{Naming, Place};

/// The longest `Host` that a realm is made of, in bytes: a name of 253 and a port.
const HOST_BYTES_MAX: usize = 253 + 6;

/// What is wrong with the token that came with a request. Source: RFC 6750, section 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BearerError {
    /// It is not good, or not any more.
    InvalidToken,
    /// It was not made for this. containerd asks for ever if it is not told.
    InsufficientScope,
}

impl BearerError {
    const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidToken => "invalid_token",
            Self::InsufficientScope => "insufficient_scope",
        }
    }
}

/// What a challenge is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Challenged<'a> {
    /// Where names lead.
    pub(super) naming: &'a Naming,
    /// Our own URL behind a proxy.
    pub(super) public_url: Option<&'a Url>,
    /// What we are called.
    pub(super) service: &'a str,
    /// The request's host.
    pub(super) host: Option<&'a str>,
    /// What the client speaks.
    pub(super) scheme: &'a str,
    /// The request's target.
    pub(super) uri: &'a http::Uri,
    /// What was wrong with its token.
    pub(super) error: Option<BearerError>,
}

impl Challenged<'_> {
    /// The challenge; none if it cannot be told where to log in.
    pub(super) fn challenge(&self) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: self.realm()?,
            service: Some(self.service.to_owned()),
            scope: self.scope(),
            error: self.error.map(|error| error.as_str().to_owned()),
        })
    }

    fn realm(&self) -> Option<String> {
        let host = self.host.and_then(authority);
        let is_configured =
            host.as_ref().is_some_and(|host| self.naming.host_selects(host.as_str()));
        match self.public_url {
            // Under such a host names mean something else than under the public one.
            Some(public) if !is_configured => Some(public.join("token").ok()?.into()),
            _ => Some(format!("{}://{}/token", self.scheme, host?)),
        }
    }

    /// What has to be asked for. The client's own name, where the token service takes that for the
    /// same repository; `?ns=` never reaches the token service.
    fn scope(&self) -> Option<String> {
        let name = repository(self.uri)?;
        let query = Query::parse(self.uri.query());
        let place = |namespace: Option<&str>| self.naming.place(namespace, self.host, &name);
        let meant = place(query.namespace.as_deref()).ok()?;
        let name = match &meant {
            Place::Upstream(scope) if place(None).ok().as_ref() != Some(&meant) => {
                scope.to_string()
            }
            Place::Upstream(_) | Place::Hosted(_) => name.to_string(),
        };
        Some(format!("repository:{name}:pull"))
    }
}

/// The repository that a request is about.
fn repository(uri: &http::Uri) -> Option<RepoName> {
    match route::parse(uri.path()).ok()? {
        Route::Manifest(name, _)
        | Route::Blob(name, _)
        | Route::Upload(name)
        | Route::Tags(name)
        | Route::Referrers(name, _) => Some(name),
        Route::Base | Route::Token | Route::Live | Route::Ready => None,
    }
}

/// A host with or without a port, and nothing else: it becomes a part of a URL.
fn authority(host: &str) -> Option<Authority> {
    let authority: Authority = host.parse().ok()?;
    let is_plain = host.len() <= HOST_BYTES_MAX
        && !authority.host().is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    is_plain.then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::settings::{NamedUpstream, NamingSettings};

    fn naming() -> Naming {
        let upstream = |name: &str, hosts: &[&str]| NamedUpstream {
            name: name.parse().unwrap(),
            alias: None,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ns_aliases: Vec::new(),
            single_component_prefix: (name == "docker.io").then(|| "library".parse().unwrap()),
        };
        Naming::new(NamingSettings {
            upstreams: vec![upstream("docker.io", &[]), upstream("ghcr.io", &["ghcr.example"])],
            default_upstream: Some("docker.io".parse().unwrap()),
            hosted_prefixes: vec!["hosted/".to_owned()],
            public_host: Some("hub.example".to_owned()),
        })
    }

    /// The challenge for a request, as the header has it.
    fn told(public_url: Option<&str>, host: Option<&str>, target: &str) -> Option<String> {
        let public_url = public_url.map(|url| url.parse().unwrap());
        let challenged = Challenged {
            naming: &naming(),
            public_url: public_url.as_ref(),
            service: "pierhead",
            host,
            scheme: "http",
            uri: &target.parse().unwrap(),
            error: None,
        };
        Some(challenged.challenge()?.to_string())
    }

    #[test]
    fn the_realm_is_where_the_client_is_already() {
        let hub = Some("https://hub.example/");
        for (public, host, realm) in [
            (None, Some("127.0.0.1:5000"), "http://127.0.0.1:5000/token"),
            (None, Some("[::1]:5000"), "http://[::1]:5000/token"),
            (hub, Some("10.0.0.1"), "https://hub.example/token"),
            (hub, None, "https://hub.example/token"),
            (hub, Some("evil.example"), "https://hub.example/token"),
            (hub, Some("ghcr.example:80"), "http://ghcr.example:80/token"),
        ] {
            let expected = format!("Bearer realm=\"{realm}\",service=\"pierhead\"");
            assert_eq!(told(public, host, "/v2/"), Some(expected), "{public:?} {host:?}");
        }
    }

    #[test]
    fn a_host_that_is_none_makes_no_realm() {
        let long = format!("{}.example", "a".repeat(HOST_BYTES_MAX));
        for host in ["", ":80", "user@host", "a b", "a/b", "a\"b", "a,b", "a%41", &long] {
            assert_eq!(told(None, Some(host), "/v2/"), None, "{host}");
        }
        assert_eq!(told(None, None, "/v2/"), None);
    }

    #[test]
    fn the_scope_is_what_the_token_service_understands() {
        for (host, target, name) in [
            ("a", "/v2/library/debian/manifests/1", "library/debian"),
            ("a", "/v2/debian/tags/list", "debian"),
            ("a", "/v2/ghcr.io/x/y/tags/list?n=1", "ghcr.io/x/y"),
            ("a", "/v2/debian/tags/list?ns=docker.io", "debian"),
            ("a", "/v2/x/y/tags/list?ns=ghcr.io", "ghcr.io/x/y"),
            ("ghcr.example", "/v2/x/y/tags/list", "x/y"),
            ("ghcr.example", "/v2/x/y/tags/list?ns=docker.io", "docker.io/x/y"),
            ("a", "/v2/hosted/x/tags/list", "hosted/x"),
        ] {
            let told = told(None, Some(host), target).unwrap();
            let expected = format!(",scope=\"repository:{name}:pull\"");
            assert!(told.ends_with(&expected), "{host} {target}: {told}");
        }
        // A name that leads nowhere is not found, for whoever may ask.
        let told = told(None, Some("a"), "/v2/x/y/tags/list?ns=none").unwrap();
        assert!(!told.contains("scope"), "{told}");
    }
}
