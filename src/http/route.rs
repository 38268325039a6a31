//! What a request asks for, from its path and query. Pure.

use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use crate::oci::{Digest, DigestError, NameError, Reference, ReferenceError, RepoName};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v2/`: is this a registry?
    Base,
    /// `/v2/<name>/manifests/<reference>`
    Manifest(RepoName, Reference),
    /// `/v2/<name>/blobs/<digest>`
    Blob(RepoName, Digest),
    /// `/v2/<name>/blobs/uploads/...`: part of a push.
    Upload(RepoName),
    /// `/v2/<name>/tags/list`
    Tags(RepoName),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(RepoName, Digest),
    /// `/token`: a token for credentials.
    Token,
    /// `/livez`: does the process answer?
    Live,
    /// `/readyz`: should it be sent requests?
    Ready,
}

impl Route {
    /// For metrics and logs.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Manifest(..) => "manifest",
            Self::Blob(..) => "blob",
            Self::Upload(_) => "upload",
            Self::Tags(_) => "tags",
            Self::Referrers(..) => "referrers",
            Self::Token => "token",
            Self::Live | Self::Ready => "probe",
        }
    }

    /// The path's form, for traces.
    pub const fn template(&self) -> &'static str {
        match self {
            Self::Base => "/v2/",
            Self::Manifest(..) => "/v2/{name}/manifests/{reference}",
            Self::Blob(..) => "/v2/{name}/blobs/{digest}",
            Self::Upload(_) => "/v2/{name}/blobs/uploads/{upload}",
            Self::Tags(_) => "/v2/{name}/tags/list",
            Self::Referrers(..) => "/v2/{name}/referrers/{digest}",
            Self::Token => "/token",
            Self::Live => "/livez",
            Self::Ready => "/readyz",
        }
    }
}

/// Why a path names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No endpoint has this form.
    #[error("no registry endpoint has this path")]
    NoSuchEndpoint,
    /// The repository's name is wrong.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The digest is wrong.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The reference is neither a tag nor a digest.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// The route of a path. Source: OCI distribution-spec, section "Endpoints".
pub fn parse(path: &str) -> Result<Route, RouteError> {
    let path = percent_decode_str(path).decode_utf8().map_err(|_| NameError::Malformed)?;
    match &*path {
        "/v2" | "/v2/" => return Ok(Route::Base),
        "/token" => return Ok(Route::Token),
        "/livez" => return Ok(Route::Live),
        "/readyz" => return Ok(Route::Ready),
        _ => {}
    }
    let path = path.strip_prefix("/v2/").ok_or(RouteError::NoSuchEndpoint)?;
    // Names have slashes, so the endpoint is found from the end.
    let (rest, last) = path.rsplit_once('/').ok_or(RouteError::NoSuchEndpoint)?;
    let (name, endpoint) = rest.rsplit_once('/').ok_or(RouteError::NoSuchEndpoint)?;
    match (endpoint, last) {
        ("manifests", reference) => Ok(Route::Manifest(name.parse()?, reference.parse()?)),
        ("blobs", digest) if digest != "uploads" => Ok(Route::Blob(name.parse()?, digest.parse()?)),
        ("tags", "list") => Ok(Route::Tags(name.parse()?)),
        ("referrers", digest) => Ok(Route::Referrers(name.parse()?, digest.parse()?)),
        _ => match path.rsplit_once("/blobs/uploads") {
            Some((name, upload)) if upload.is_empty() || upload.starts_with('/') => {
                Ok(Route::Upload(name.parse()?))
            }
            _ => Err(RouteError::NoSuchEndpoint),
        },
    }
}

/// Whether a path is one that orchestrators ask every few seconds.
pub fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz")
}

/// The query parameters that mean something here; all others are tolerated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// `ns`: the upstream that a mirror is asked for.
    pub namespace: Option<String>,
    /// `n`: the size of a page.
    pub n: Option<String>,
    /// `last`: where a page begins.
    pub last: Option<String>,
    /// `artifactType`: which referrers.
    pub artifact_type: Option<String>,
}

impl Query {
    /// Reads a query. The first of several values counts.
    pub fn parse(query: Option<&str>) -> Self {
        let mut parsed = Self::default();
        for (key, value) in form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
            let field = match &*key {
                "ns" => &mut parsed.namespace,
                "n" => &mut parsed.n,
                "last" => &mut parsed.last,
                "artifactType" => &mut parsed.artifact_type,
                _ => continue,
            };
            if field.is_none() {
                *field = Some(value.into_owned());
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn endpoints() {
        assert_eq!(parse("/v2/"), Ok(Route::Base));
        assert_eq!(parse("/v2"), Ok(Route::Base));
        assert_eq!(parse("/token"), Ok(Route::Token));
        let name = || "library/debian".parse::<RepoName>().unwrap();
        assert_eq!(
            parse("/v2/library/debian/manifests/bookworm"),
            Ok(Route::Manifest(name(), "bookworm".parse().unwrap()))
        );
        assert_eq!(
            parse(&format!("/v2/library/debian/manifests/{DIGEST}")),
            Ok(Route::Manifest(name(), DIGEST.parse().unwrap()))
        );
        assert_eq!(
            parse(&format!("/v2/library/debian/blobs/{}", DIGEST.replace(':', "%3A"))),
            Ok(Route::Blob(name(), DIGEST.parse().unwrap()))
        );
        assert_eq!(parse("/v2/library/debian/tags/list"), Ok(Route::Tags(name())));
        assert_eq!(
            parse(&format!("/v2/library/debian/referrers/{DIGEST}")),
            Ok(Route::Referrers(name(), DIGEST.parse().unwrap()))
        );
        assert_eq!(parse("/v2/library/debian/blobs/uploads/"), Ok(Route::Upload(name())));
        assert_eq!(parse("/v2/library/debian/blobs/uploads"), Ok(Route::Upload(name())));
        assert_eq!(parse("/v2/library/debian/blobs/uploads/some-id"), Ok(Route::Upload(name())));
    }

    #[test]
    fn names_may_contain_the_words_of_endpoints() {
        assert_eq!(
            parse("/v2/manifests/blobs/tags/list"),
            Ok(Route::Tags("manifests/blobs".parse().unwrap()))
        );
        assert_eq!(
            parse("/v2/a/tags/list/manifests/latest"),
            Ok(Route::Manifest("a/tags/list".parse().unwrap(), "latest".parse().unwrap()))
        );
        assert_eq!(
            parse("/v2/a/blobs/uploads/b/manifests/latest"),
            Ok(Route::Manifest("a/blobs/uploads/b".parse().unwrap(), "latest".parse().unwrap()))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(matches!(parse("/v2/Debian/manifests/a"), Err(RouteError::Name(_))));
        assert!(matches!(parse("/v2/a/../b/manifests/a"), Err(RouteError::Name(_))));
        assert!(matches!(parse("/v2/a/%2e%2e/manifests/a"), Err(RouteError::Name(_))));
        assert!(matches!(parse("/v2/%ff/manifests/a"), Err(RouteError::Name(_))));
        assert!(matches!(parse("/v2/a/blobs/latest"), Err(RouteError::Digest(_))));
        assert!(matches!(parse("/v2/a/blobs/md5:00"), Err(RouteError::Digest(_))));
        assert!(matches!(parse("/v2/a/manifests/.a"), Err(RouteError::Reference(_))));
        for path in ["/", "", "/v1/", "/v2/a", "/v2/a/b", "/v2/_catalog", "/v2//a/b/c"] {
            assert_eq!(parse(path), Err(RouteError::NoSuchEndpoint), "{path}");
        }
    }

    #[test]
    fn unknown_query_parameters_are_tolerated() {
        let query = Query::parse(Some("x=1&ns=localhost%3A5000&ns=other&&=&n=5&last=a%20b"));
        assert_eq!(query.namespace.as_deref(), Some("localhost:5000"));
        assert_eq!(query.n.as_deref(), Some("5"));
        assert_eq!(query.last.as_deref(), Some("a b"));
        assert_eq!(Query::parse(None), Query::default());
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "\\PC*") {
            let _ = parse(&path);
            let _ = parse(&format!("/v2/{path}"));
        }
    }
}
