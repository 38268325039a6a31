//! The registry API, read side.
//!
//! Source: OCI distribution-spec, section "Endpoints", and the headers that clients need.

mod blob;
mod manifest;
mod referrer;
mod tag;

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    WARNING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::access::Access;
use super::admin::Probes;
use super::body::Body;
use super::caller::{self, Asking, Caller};
use super::challenge::Challenged;
use super::connection::{self, Connection};
use super::error::ApiError;
use super::login::Login;
use super::metrics::HttpMetrics;
use super::overload::Overload;
use super::recent::Recent;
use super::request_body;
use super::route::{self, Query, Route};
use super::server::Service;
use super::token::{TokenService, Wanted};
use crate::client_id::ClientId;
use crate::gate::Gate;
use crate::hooks::{Hooks, Object, Observation, Target};
use crate::oci::{Digest, RepoName, format_warning};
use crate::pull::naming::{Naming, Place};
use crate::pull::{Outcome, Puller};
use crate::scope::Scope;
use crate::telemetry::{RequestId, Span};
use crate::upstream::LoopId;

static DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
static DISTRIBUTION_API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");
static OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// How much of a path is logged, in characters: strangers choose its length.
const LOGGED_PATH_CHARS_MAX: usize = 1024;

/// The registry API.
#[derive(Clone, Debug)]
pub struct Registry {
    /// The engine.
    pub puller: Puller,
    /// Where names lead.
    pub naming: Arc<Naming>,
    /// Plugins.
    pub hooks: Arc<dyn Hooks>,
    /// Tokens and logins.
    pub login: Login,
    /// Counters.
    pub metrics: HttpMetrics,
    /// `/livez` and `/readyz` answer here too.
    pub probes: Probes,
    /// Where trouble is remembered.
    pub recent: Recent,
    /// Where it is noted that a limit is reached.
    pub overload: Overload,
    /// The memory that answers may take.
    pub body_memory: Gate,
    /// Which process this is, to notice requests that come back to it.
    pub id: LoopId,
}

/// One request, parsed.
struct Asked<'a> {
    method: &'a Method,
    headers: &'a HeaderMap,
    path: &'a str,
    query: &'a Query,
    version: Version,
    connection: &'a Connection,
    caller: &'a Caller,
    puller: Puller,
}

impl Asked<'_> {
    fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }
}

/// A successful answer, with what the record of the request wants to know.
struct Answer {
    response: Response<Body>,
    outcome: Option<Outcome>,
}

impl Service for Registry {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let (head, mut body) = request.into_parts();
        let id = request_id();
        let request_id = id.to_string();
        let mut access = Box::new(Access::begin(
            self.metrics.clone(),
            request_id.clone(),
            head.method.clone(),
            head.uri.path().chars().take(LOGGED_PATH_CHARS_MAX).collect(),
            peer.ip(),
        ));
        if !route::is_probe(head.uri.path()) {
            access.span = Span::request(id, &head.headers);
        }
        access.recent = Some(self.recent.clone());
        let cause = access.span.cause(Some(id));
        let answered =
            cause.within(self.dispatch(&head, &mut body, &request_id, peer, &mut access)).await;
        let answered = answered.and_then(|answer| self.counted(answer));
        let is_read = request_body::discard(&head.headers, body).await;
        let mut response = match answered {
            Ok(answer) => {
                if let Some(outcome) = answer.outcome {
                    access.outcome = (outcome.as_str(), outcome.reason());
                }
                answer.response
            }
            Err(error) => {
                let error = self.challenged(error, &head, &access);
                access.refused(error.message());
                access.is_challenge = error.status() == StatusCode::UNAUTHORIZED
                    && !head.headers.contains_key(AUTHORIZATION);
                access.limit = error.limit();
                if let Some(limit) = error.limit() {
                    self.overload.refused(limit, peer.ip());
                }
                error.into_response(head.method == Method::HEAD)
            }
        };
        let headers = response.headers_mut();
        headers.insert(DISTRIBUTION_API_VERSION.clone(), HeaderValue::from_static("registry/2.0"));
        if let Ok(value) = HeaderValue::from_str(&request_id) {
            headers.insert(REQUEST_ID.clone(), value);
        }
        if !is_read && head.version < Version::HTTP_2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        access.status = response.status();
        access.head_decided();
        let is_head = head.method == Method::HEAD;
        response.map(|body| if is_head { Body::empty() } else { body }.recorded(access))
    }
}

impl Registry {
    async fn dispatch(
        &self,
        head: &http::request::Parts,
        body: &mut Incoming,
        request_id: &str,
        peer: SocketAddr,
        access: &mut Access,
    ) -> Result<Answer, ApiError> {
        let connection = Connection::of(&head.extensions);
        access.scheme = connection.scheme();
        let hops = self.id.check(&head.headers).map_err(|_| ApiError::loop_detected())?;
        let route = route::parse(head.uri.path())?;
        (access.kind, access.route) = (route.kind(), route.template());
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        let query = Query::parse(head.uri.query());
        let notes = access.notes.clone();
        let asking = Asking {
            request_id,
            address: peer.ip(),
            headers: &head.headers,
            connection: &connection,
            notes: &notes,
        };
        let (name, object) = match route {
            Route::Live => return Ok(self.probes.live().into()),
            Route::Ready => return Ok(self.probes.ready().await.into()),
            Route::Base => {
                let caller = self.identify(asking, access).await?;
                return if !is_read {
                    Err(ApiError::method_not_allowed())
                } else if self.hooks.wants_credentials() && !caller.has_logged_in() {
                    // Also where anonymous clients may read: docker looks here whether to log in.
                    Err(caller.login_required())
                } else {
                    Ok(base().into())
                };
            }
            Route::Token => {
                if !self.hooks.wants_credentials() {
                    return Err(route::RouteError::NoSuchEndpoint.into());
                }
                let (hooks, naming, login) = (&*self.hooks, &*self.naming, &self.login);
                let (method, query) = (&head.method, head.uri.query());
                let wanted = Wanted { method, query, host: connection::host(head), asking };
                let given = TokenService { hooks, naming, login }.answer(&wanted, body).await?;
                access.subject = given.subject;
                return Ok(given.response.into());
            }
            Route::Upload(name) => return Err(self.refuse_push(head, &query, &name)),
            Route::Manifest(name, reference) => (name, Object::Manifest(reference)),
            Route::Blob(name, digest) => (name, Object::Blob(digest)),
            Route::Tags(name) => (name, Object::Tags),
            Route::Referrers(name, digest) => (name, Object::Referrers(digest)),
        };
        if !is_read {
            return Err(match object {
                Object::Manifest(_) | Object::Blob(_) => self.refuse_push(head, &query, &name),
                Object::Tags | Object::Referrers(_) => ApiError::method_not_allowed(),
            });
        }
        let caller = self.identify(asking, access).await?;
        let context = &caller.context;
        let scope = match self.place(head, &query, &name)? {
            Place::Upstream(scope) => scope,
            Place::Hosted(_) => return Err(ApiError::hosted_not_served(false)),
        };
        access.scope = Some(scope.clone());
        let target = Target { scope, object };
        let asked = Asked {
            method: &head.method,
            headers: &head.headers,
            path: head.uri.path(),
            query: &query,
            version: head.version,
            connection: &connection,
            caller: &caller,
            puller: self.puller.after(hops).on_behalf_of(ClientId::new(
                context.identity.as_ref().map(|identity| identity.subject.as_str()),
                peer.ip(),
            )),
        };
        let answer = self.read(&asked, target.clone()).await;
        self.hooks.observe(&Observation {
            context,
            target: Some(&target),
            status: match &answer {
                Ok(answer) => answer.response.status().as_u16(),
                Err(error) => error.status().as_u16(),
            },
            outcome: match &answer {
                Ok(Answer { outcome: Some(outcome), .. }) => outcome.as_str(),
                Ok(_) | Err(_) => "",
            },
        });
        let mut answer = answer?;
        if let Some(namespace) = &query.namespace
            && let Ok(value) = HeaderValue::from_str(namespace)
        {
            answer.response.headers_mut().insert(OCI_NAMESPACE.clone(), value);
        }
        Ok(answer)
    }

    /// The answer, if there is room for it in memory.
    fn counted(&self, mut answer: Answer) -> Result<Answer, ApiError> {
        let (head, body) = answer.response.into_parts();
        answer.response = Response::from_parts(head, body.counted(&self.body_memory)?);
        Ok(answer)
    }

    async fn identify(&self, asking: Asking<'_>, access: &mut Access) -> Result<Caller, ApiError> {
        let caller = caller::identify(&*self.hooks, &self.login, asking).await?;
        let identity = caller.context.identity.as_ref();
        access.subject = identity.map(|identity| identity.subject.clone());
        Ok(caller)
    }

    /// With how to log in, where logging in would help. The token service itself is asked with a
    /// password.
    fn challenged(
        &self,
        error: ApiError,
        head: &http::request::Parts,
        access: &Access,
    ) -> ApiError {
        let is_unauthorized = error.status() == StatusCode::UNAUTHORIZED;
        let is_token = matches!(route::parse(head.uri.path()), Ok(Route::Token));
        if !is_unauthorized || is_token || !self.hooks.wants_credentials() {
            return error;
        }
        let challenged = Challenged {
            naming: &self.naming,
            public_url: self.login.public_url.as_deref(),
            service: self.login.tokens.service(),
            host: connection::host(head),
            scheme: access.scheme,
            uri: &head.uri,
            error: error.token_error(),
        };
        match challenged.challenge() {
            Some(challenge) => error.with_challenge(&challenge),
            None => error,
        }
    }

    async fn read(&self, asked: &Asked<'_>, target: Target) -> Result<Answer, ApiError> {
        let (target, mut warnings) = caller::admit(&*self.hooks, asked.caller, target).await?;
        let Target { scope, object } = target;
        let mut answer = match object {
            Object::Manifest(reference) => {
                self.manifest(asked, &scope, &reference, &mut warnings).await?
            }
            Object::Blob(digest) => self.blob(asked, &scope, &digest).await?,
            Object::Tags => self.tags(asked, &scope, &mut warnings).await?,
            Object::Referrers(digest) => {
                self.referrers(asked, &scope, &digest, &mut warnings).await?
            }
        };
        let headers = answer.response.headers_mut();
        for warning in &warnings {
            headers.append(WARNING, format_warning(warning));
        }
        if let Some(outcome) = answer.outcome {
            headers.insert(CACHE_STATUS.clone(), HeaderValue::from_static(outcome.cache_status()));
        }
        Ok(answer)
    }

    fn place(
        &self,
        head: &http::request::Parts,
        query: &Query,
        name: &RepoName,
    ) -> Result<Place, ApiError> {
        let host = connection::host(head);
        Ok(self.naming.place(query.namespace.as_deref(), host, name)?)
    }

    fn refuse_push(&self, head: &http::request::Parts, query: &Query, name: &RepoName) -> ApiError {
        match self.place(head, query, name) {
            Ok(Place::Hosted(_)) => ApiError::hosted_not_served(true),
            Ok(Place::Upstream(scope)) => {
                ApiError::push_denied(&scope.to_string(), self.naming.hosted_prefix())
            }
            Err(error) => error,
        }
    }

    /// What may be cached on the way to the client, and by whom.
    fn cache_control(&self, scope: &Scope, immutable: bool) -> HeaderValue {
        let private = self.hooks.decides_access() || self.puller.is_private(&scope.upstream);
        HeaderValue::from_static(cache_control(immutable, private))
    }
}

/// A shared cache hands to anybody what it was given for one client: only what everybody may have
/// is public.
const fn cache_control(immutable: bool, private: bool) -> &'static str {
    match (immutable, private) {
        (true, false) => "public, max-age=31536000, immutable",
        (true, true) => "private, max-age=31536000, immutable",
        // Each use comes back to us first.
        (false, _) => "no-cache",
    }
}

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Self { response, outcome: None }
    }
}

/// `/v2/`: this is a registry. Docker looks here first and goes elsewhere if it is not found.
fn base() -> Response<Body> {
    json(Bytes::from_static(b"{}"))
}

fn json(bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    *response.body_mut() = Body::full(bytes);
    response
}

fn digest_header(digest: &Digest) -> Option<HeaderValue> {
    HeaderValue::from_str(&digest.to_string()).ok()
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Sets what identifies the content, and tells whether the client has it already.
/// Source: RFC 9110, section 13.1.2.
fn identify_content(response: &mut Response<Body>, request: &HeaderMap, digest: &Digest) -> bool {
    let etag = etag(digest);
    let has_it = request
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().trim_start_matches("W/"))
        .any(|tag| tag == "*" || tag == etag);
    let headers = response.headers_mut();
    if let Some(value) = digest_header(digest) {
        headers.insert(DOCKER_CONTENT_DIGEST.clone(), value);
    }
    if let Ok(value) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, value);
    }
    if has_it {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    has_it
}

fn set_cache_control(response: &mut Response<Body>, value: HeaderValue) {
    response.headers_mut().insert(CACHE_CONTROL, value);
}

/// A fresh id of 64 bits that nobody can guess from others: a keyed hash of a counter, because a
/// system call for each request shows.
fn request_id() -> RequestId {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static NEXT: AtomicU64 = AtomicU64::new(0);
    RequestId::new(KEY.hash_one(NEXT.fetch_add(1, Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_not_everybody_may_have_is_private() {
        assert!(cache_control(true, false).starts_with("public, "));
        assert!(cache_control(true, true).starts_with("private, "));
        for private in [false, true] {
            assert_eq!(cache_control(false, private), "no-cache");
        }
    }
}
