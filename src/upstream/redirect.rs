//! Redirects, followed by hand: how many, where to, and what goes along.
//!
//! Registries send blobs (and registry.k8s.io everything) to object storage. Storage services
//! refuse requests that carry both a signature in the URL and an `Authorization`, and a
//! credential must not reach a host it was not meant for: so it is dropped whenever scheme, host
//! or port change, and stays dropped.
//!
//! Source: RFC 9110 section 15.4; OCI distribution-spec, "Pulling blobs".

use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use url::Url;

use crate::secret::SafeUrl;

use super::error::{Failure, Misbehaved};
use super::loop_guard::Hops;
use super::transport::{Reach, Request, Response};
use super::wire::{Wire, discard};

/// The most redirects that are followed for one request.
pub const REDIRECTS_MAX: usize = 5;

/// The longest `Location` that is followed, in bytes: signed URLs are long, but not that long.
pub const LOCATION_BYTES_MAX: usize = 16 * 1024;

/// What to do with an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is the answer.
    Final,
    /// Ask there.
    Follow(Url),
}

/// Decides what `status` with `headers`, received for `method` from `from` after `followed`
/// redirects, means.
pub(super) fn decide(
    from: &Url,
    method: &Method,
    status: StatusCode,
    headers: &HeaderMap,
    followed: usize,
) -> Result<Decision, Misbehaved> {
    let redirects = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    if !redirects || !matches!(*method, Method::GET | Method::HEAD) {
        return Ok(Decision::Final);
    }
    if followed >= REDIRECTS_MAX {
        return Err(Misbehaved::TooManyRedirects);
    }
    let location = headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .filter(|location| location.len() <= LOCATION_BYTES_MAX)
        .ok_or(Misbehaved::BadLocation)?;
    resolve(from, location).map(Decision::Follow)
}

/// The place that a server at `from` names by `target`, if we may go there at all: http or https,
/// no user and password in it, never from https to http.
pub(super) fn resolve(from: &Url, target: &str) -> Result<Url, Misbehaved> {
    let mut url = from.join(target).map_err(|_| Misbehaved::BadLocation)?;
    url.set_fragment(None);
    let usable = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some_and(|host| !host.is_empty())
        && url.username().is_empty()
        && url.password().is_none();
    if !usable {
        return Err(Misbehaved::BadLocation);
    }
    if from.scheme() == "https" && url.scheme() != "https" {
        let host = url.host_str().unwrap_or_default().into();
        return Err(Misbehaved::RedirectDowngrade { host });
    }
    Ok(url)
}

/// Whether credentials for `a` may be shown to `b`.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Where a request ended.
#[derive(Debug)]
pub(super) struct Landed {
    /// The answer that is no redirect.
    pub(super) response: Response,
    /// Whose answer it is.
    pub(super) url: Url,
    /// Whether it came from another host than the endpoint's: its challenges are not for us.
    pub(super) foreign: bool,
    /// How many redirects led there.
    pub(super) redirects: usize,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) failure: Failure,
    /// Whether the endpoint had answered by then, and led elsewhere.
    pub(super) foreign: bool,
}

/// Sends a GET or HEAD to `url` and follows where it leads. `origin` is the endpoint's URL and
/// `endpoint` its number: whatever stands elsewhere is reached with the guard up, and without
/// `Authorization`.
///
/// Cancel-safe.
pub(super) async fn follow(
    wire: &Wire,
    (endpoint, origin): (usize, &Url),
    mut request: Request,
    hops: &Hops,
) -> Result<Landed, Lost> {
    let mut followed = 0;
    let mut foreign = false;
    loop {
        let here = request.url.expose().clone();
        let at_origin = same_origin(origin, &here);
        if !at_origin {
            request.headers.remove(AUTHORIZATION);
        }
        foreign |= !at_origin;
        let reach = if at_origin { Reach::Endpoint } else { Reach::Guarded { endpoint } };
        let lost = |failure| Lost { failure, foreign };
        let response = wire.send(request.clone(), reach, hops).await.map_err(lost)?;
        let decision = decide(&here, &request.method, response.status, &response.headers, followed);
        match decision.map_err(|what| Lost { failure: what.into(), foreign: true })? {
            Decision::Final => {
                return Ok(Landed { response, url: here, foreign, redirects: followed });
            }
            Decision::Follow(next) => {
                discard(response).await;
                request.url = SafeUrl::new(next);
                followed += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn url(text: &str) -> Url {
        text.parse().expect("a URL")
    }

    fn to(from: &str, status: u16, location: Option<&'static str>) -> Result<Decision, Misbehaved> {
        let headers = location
            .map(|location| (LOCATION, HeaderValue::from_static(location)))
            .into_iter()
            .collect();
        let status = StatusCode::from_u16(status).expect("a status");
        decide(&url(from), &Method::GET, status, &headers, 0)
    }

    #[test]
    fn five_statuses_redirect() {
        for status in [301, 302, 303, 307, 308] {
            let decision = to("https://a/v2/", status, Some("https://b/x"));
            assert_eq!(decision, Ok(Decision::Follow(url("https://b/x"))), "{status}");
        }
        for status in [200, 206, 300, 304, 305, 404, 500] {
            assert_eq!(to("https://a/v2/", status, Some("https://b/x")), Ok(Decision::Final));
        }
    }

    #[test]
    fn relative_locations_are_resolved() {
        for (location, expected) in [
            ("/x?y#z", "https://a/x?y"),
            ("x", "https://a/v2/x"),
            ("//b/x", "https://b/x"),
            ("?sig=1", "https://a/v2/n?sig=1"),
        ] {
            let decision = to("https://a/v2/n", 307, Some(location));
            assert_eq!(decision, Ok(Decision::Follow(url(expected))), "{location}");
        }
    }

    #[test]
    fn places_that_are_none_are_refused() {
        assert_eq!(to("https://a/", 307, None), Err(Misbehaved::BadLocation));
        for location in ["ftp://b/x", "file:///etc/passwd", "https://u:p@b/x", "https://", "data:x"]
        {
            assert_eq!(to("https://a/", 307, Some(location)), Err(Misbehaved::BadLocation));
        }
    }

    #[test]
    fn https_never_leads_to_http() {
        let downgrade = Misbehaved::RedirectDowngrade { host: "b".into() };
        assert_eq!(to("https://a/", 307, Some("http://b/x?sig=1")), Err(downgrade));
        assert!(to("http://a/", 307, Some("http://b/x")).is_ok());
        assert!(to("http://a/", 307, Some("https://b/x")).is_ok());
    }

    #[test]
    fn redirects_end() {
        let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static("/x"))]);
        let decide = |followed| {
            decide(&url("https://a/"), &Method::GET, StatusCode::FOUND, &headers, followed)
        };
        assert!(decide(REDIRECTS_MAX - 1).is_ok());
        assert_eq!(decide(REDIRECTS_MAX), Err(Misbehaved::TooManyRedirects));
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert!(same_origin(&url("https://a/x"), &url("https://a:443/y")));
        assert!(!same_origin(&url("https://a/"), &url("https://a:444/")));
        assert!(!same_origin(&url("http://a/"), &url("https://a/")));
        assert!(!same_origin(&url("https://a/"), &url("https://a.b/")));
    }
}
