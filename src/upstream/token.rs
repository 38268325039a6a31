//! Tokens: asked for once for everybody, kept until shortly before they end.
//!
//! A token service that cannot be reached is left alone for a while, growing from
//! [`BACK_OFF_FIRST`](super::breaker::BACK_OFF_FIRST) on: all repositories need it, and a herd of
//! them would hammer it. One that fails for a scope is left alone with that scope alone, since
//! scopes are clients' choice; with all others only if several fail and none is answered. What is
//! left of a token's life is used up meanwhile.
//!
//! Source: docker's `spec/auth/token.md` and `spec/auth/oauth.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use moka::sync::Cache;
use serde::Deserialize;
use url::Url;

use crate::background::Tasks;
use crate::clock::Timestamp;
use crate::secret::{SafeUrl, Secret};
use crate::single_flight::SingleFlight;

use super::asked::Asked;
use super::breaker::{Breaker, Permit, TROUBLE_MAX, TroubleMax};
use super::endpoint::Endpoint;
use super::error::{Failure, Misbehaved};
use super::guard::host_listed;
use super::loop_guard::Hops;
use super::metrics::Operation;
use super::redirect::same_origin;
use super::transport::{Reach, Request, Response};
use super::wire::Wire;

/// How long a token is good for if the token service does not say.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// The longest lifetime that is believed.
const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// A token is not used any more when less than this is left, or less than a quarter of its life.
const TOKEN_MARGIN: Duration = Duration::from_secs(30);
/// Tokens that are kept per upstream.
const TOKENS_MAX: u64 = 4096;
/// The largest answer of a token service, in bytes. Tokens of accounts in many groups are large.
const TOKEN_ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Token services that are remembered to know GET only, per upstream.
const GET_ONLY_MAX: u64 = 64;
/// Token services whose health is remembered, per upstream.
const SERVICES_MAX: u64 = 64;
/// How long a token service that limits the rate is left alone if it does not say.
const LIMITED_FOR: Duration = Duration::from_secs(5);
/// How much trouble in a row makes a token service rest: the first time that it cannot be reached,
/// as the rest is a second and valid tokens do without the service. What may be the fault of one
/// scope weighs less.
const SERVICE_TROUBLE_MAX: TroubleMax = TroubleMax { server: 1, about: TROUBLE_MAX };
/// How much trouble makes one token rest: the first.
const TOKEN_TROUBLE_MAX: TroubleMax = TroubleMax { server: 1, about: 1 };
/// Tokens whose failure is remembered, per upstream.
const FAILING_MAX: u64 = 1024;

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) endpoint: usize,
    pub(super) realm: String,
    pub(super) service: Option<String>,
    pub(super) scope: String,
    /// Whose token it is: a digest of the credentials, or none for anonymous ones.
    pub(super) account: Option<[u8; 32]>,
}

/// A token.
#[derive(Clone, Debug)]
pub(super) struct Token {
    /// `Bearer ...`, marked as sensitive.
    pub(super) header: HeaderValue,
    /// When it is time for another one.
    usable_until: Timestamp,
    /// When it ends.
    ends_at: Timestamp,
    /// Tells a token from its successor.
    pub(super) serial: u64,
}

/// User name and password.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub(super) username: String,
    pub(super) password: Secret,
}

impl Login {
    /// `Basic ...`, marked as sensitive.
    pub(super) fn basic(&self) -> HeaderValue {
        let pair = format!("{}:{}", self.username, self.password.expose());
        let text = format!("Basic {}", STANDARD.encode(pair));
        // Base64 is always good in a header.
        let mut value = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }
}

/// The tokens of one upstream.
pub(super) struct Tokens {
    shared: Arc<Shared>,
    asking: SingleFlight<TokenKey, Result<Token, Failure>>,
}

struct Shared {
    wire: Arc<Wire>,
    auth_hosts: Vec<String>,
    kept: Cache<TokenKey, Token>,
    get_only: Cache<String, ()>,
    /// By the endpoint that named it, and its URL.
    services: Cache<(usize, Url), Arc<Breaker>>,
    /// The tokens that a token service could not give.
    failing: Cache<TokenKey, Arc<Breaker>>,
    serials: AtomicU64,
}

impl Tokens {
    pub(super) fn new(wire: Arc<Wire>, auth_hosts: Vec<String>, tasks: Tasks) -> Self {
        let shared = Shared {
            wire,
            auth_hosts,
            kept: Cache::new(TOKENS_MAX),
            get_only: Cache::new(GET_ONLY_MAX),
            services: Cache::new(SERVICES_MAX),
            failing: Cache::new(FAILING_MAX),
            serials: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), asking: SingleFlight::new("upstream-token", tasks) }
    }

    /// A token for `key`, and whether it was asked for just now.
    ///
    /// Cancel-safe: the request goes on for others.
    pub(super) async fn get(
        &self,
        endpoint: &Endpoint,
        key: TokenKey,
        login: Option<Login>,
    ) -> Result<(Token, bool), Failure> {
        if let Some(token) = self.shared.kept(&key) {
            return Ok((token, false));
        }
        let realm = self.shared.realm(endpoint, &key.realm, login.is_some())?;
        let reach = if same_origin(&endpoint.base, &realm) {
            Reach::Endpoint
        } else {
            Reach::Guarded { endpoint: endpoint.index }
        };
        let shared = Arc::clone(&self.shared);
        let (asked, wanted) = (key.clone(), key.clone());
        let asking = self.asking.run(key, move || async move {
            // Somebody's request may have ended between the look above and this one.
            if let Some(token) = shared.kept(&asked) {
                return Ok(token);
            }
            let failing = shared.failing.get(&asked);
            let again = failing.map(|failing| failing.admit(&asked.scope)).transpose()?;
            let mut permit = shared.service(asked.endpoint, &realm).admit(&asked.scope)?;
            let token = shared.ask(&realm, reach, &asked, login.as_ref()).await;
            judge(&mut permit, &asked.scope, &token);
            shared.remember(&asked, again, &token);
            shared.wire.metrics.count(Operation::Token, &token);
            let token = token?;
            shared.kept.insert(asked, token.clone());
            Ok(token)
        });
        match asking.await.unwrap_or(Err(Failure::Abandoned)) {
            Ok(token) => Ok((token, true)),
            // It is early for a new one. Only a refusal says that the old one is void, too.
            Err(failure) if !matches!(failure, Failure::Denied { .. }) => {
                self.shared.valid(&wanted).map(|token| (token, false)).ok_or(failure)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Throws away a token that was refused, unless it has a successor already.
    pub(super) fn forget(&self, key: &TokenKey, serial: u64) {
        if self.shared.kept.get(key).is_some_and(|token| token.serial == serial) {
            self.shared.kept.invalidate(key);
        }
    }
}

impl Shared {
    fn kept(&self, key: &TokenKey) -> Option<Token> {
        let now = self.wire.clock.now();
        self.kept.get(key).filter(|token| now < token.usable_until)
    }

    /// A token that is old, but still good.
    fn valid(&self, key: &TokenKey) -> Option<Token> {
        let now = self.wire.clock.now();
        self.kept.get(key).filter(|token| now < token.ends_at)
    }

    /// Whether the token service at `realm` is asked.
    fn service(&self, endpoint: usize, realm: &Url) -> Arc<Breaker> {
        self.services.get_with((endpoint, realm.clone()), || {
            self.breaker(SERVICE_TROUBLE_MAX, realm.as_str())
        })
    }

    fn breaker(&self, trouble_max: TroubleMax, spread: &str) -> Arc<Breaker> {
        let instance = self.wire.id.header(&Hops::default());
        let spread = [instance.as_bytes(), spread.as_bytes()];
        Breaker::new(trouble_max, self.wire.clock.clone(), &spread)
    }

    /// Keeps in mind that the token service could not give this token, or that it could. `again`
    /// is the leave to ask for one that failed before.
    fn remember(&self, key: &TokenKey, again: Option<Permit>, outcome: &Result<Token, Failure>) {
        match outcome {
            Err(failure) if is_about_scope(failure) => {
                let permit = again.map_or_else(
                    || {
                        let breaker = || self.breaker(TOKEN_TROUBLE_MAX, &key.scope);
                        self.failing.get_with(key.clone(), breaker).admit(&key.scope)
                    },
                    Ok,
                );
                if let Ok(mut permit) = permit {
                    permit.troubled(failure, None);
                }
            }
            Ok(_) | Err(Failure::Denied { .. }) => self.failing.invalidate(key),
            Err(_) => {}
        }
    }

    /// The token service's URL, if we may go there with what we have.
    fn realm(&self, endpoint: &Endpoint, realm: &str, login: bool) -> Result<Url, Failure> {
        let realm = endpoint.base.join(realm).map_err(|_| Misbehaved::BadRealm)?;
        let secure = realm.scheme() == "https"
            || (realm.scheme() == "http" && endpoint.base.scheme() == "http");
        let host = realm.host_str().unwrap_or_default();
        if !secure || host.is_empty() || !realm.username().is_empty() || realm.password().is_some()
        {
            return Err(Misbehaved::BadRealm.into());
        }
        let port = realm.port_or_known_default().unwrap_or_default();
        let trusted =
            endpoint.base.host_str() == Some(host) || host_listed(&self.auth_hosts, host, port);
        if login && !trusted {
            return Err(Misbehaved::RealmNotTrusted { host: host.into() }.into());
        }
        Ok(realm)
    }

    async fn ask(
        &self,
        realm: &Url,
        reach: Reach,
        key: &TokenKey,
        login: Option<&Login>,
    ) -> Result<Token, Failure> {
        let asked_at = self.wire.clock.now();
        let response = match login {
            Some(login) if !self.get_only.contains_key(realm.as_str()) => {
                let response = self.send(post(realm, key, login), reach).await?;
                match response.status.as_u16() {
                    status @ (400 | 401 | 404 | 405) => {
                        // These two say that it is about the method and not about the password.
                        if matches!(status, 404 | 405) {
                            self.get_only.insert(realm.as_str().to_owned(), ());
                        }
                        self.send(get(realm, key, Some(login)), reach).await?
                    }
                    _ => response,
                }
            }
            _ => self.send(get(realm, key, login), reach).await?,
        };
        if response.status.is_redirection() {
            return Err(Misbehaved::TokenRedirect.into());
        }
        if response.status != StatusCode::OK {
            return Err(match self.wire.refusal(response.status, &response.headers) {
                // That a token service is missing says nothing about the repository.
                Failure::NotFound => Failure::UnexpectedStatus { status: 404 },
                failure => failure,
            });
        }
        let too_large = Misbehaved::AnswerTooLarge { what: "token" };
        let answer = self.wire.whole(response, TOKEN_ANSWER_BYTES_MAX, too_large).await?;
        self.read(&answer, asked_at).ok_or(Misbehaved::Garbled { what: "token" }.into())
    }

    async fn send(&self, request: Request, reach: Reach) -> Result<Response, Failure> {
        let host = request.url.expose().host_str().unwrap_or_default().to_owned();
        let upstream = self.wire.metrics.upstream();
        let asked = Asked::begin(Operation::Token, upstream, &host, &request.method, 0);
        // A token is asked for on everybody's behalf, so after nobody's hops.
        let response = self.wire.send(request, reach, &Hops::default()).await;
        match &response {
            Ok(response) => asked.answered(response.status),
            Err(failure) => asked.failed(failure),
        }
        response
    }

    fn read(&self, answer: &[u8], asked_at: Timestamp) -> Option<Token> {
        let answer: TokenAnswer = serde_json::from_slice(answer).ok()?;
        let token = [answer.token, answer.access_token]
            .into_iter()
            .flatten()
            .find(|token| !token.is_empty())?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        header.set_sensitive(true);
        let lifetime = answer
            .expires_in
            .filter(|seconds| *seconds >= 1.0)
            .map_or(TOKEN_LIFETIME, |seconds| {
                Duration::try_from_secs_f64(seconds).unwrap_or(TOKEN_LIFETIME_MAX)
            })
            .min(TOKEN_LIFETIME_MAX);
        // From our own clock at the time of asking: `issued_at` is from somebody else's.
        let usable_until = asked_at.plus(lifetime - TOKEN_MARGIN.min(lifetime / 4));
        let ends_at = asked_at.plus(lifetime);
        let serial = self.serials.fetch_add(1, Ordering::Relaxed);
        Some(Token { header, usable_until, ends_at, serial })
    }
}

/// What the outcome of a request says about the token service. A refusal, or a status that it may
/// have for one scope alone, is an answer.
fn judge(permit: &mut Permit, scope: &str, outcome: &Result<Token, Failure>) {
    match outcome {
        Err(Failure::RateLimited { retry_after }) => {
            permit.limited(retry_after.unwrap_or(LIMITED_FOR));
        }
        Err(failure) if is_about_scope(failure) => permit.troubled(failure, Some(scope)),
        Err(failure) if failure.is_endpoint_trouble() => permit.troubled(failure, None),
        Ok(_) | Err(_) => permit.answered(),
    }
}

/// Whether the token service answered, but with what may be the fault of one scope.
const fn is_about_scope(failure: &Failure) -> bool {
    matches!(failure, Failure::ServerError { .. } | Failure::Misbehaved(_))
}

/// The fields of a token service's answer that matter; others come and go.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    // In seconds. A float, as some services write 300.0.
    expires_in: Option<f64>,
}

fn get(realm: &Url, key: &TokenKey, login: Option<&Login>) -> Request {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &key.service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &key.scope);
        if let Some(login) = login {
            query.append_pair("account", &login.username);
        }
    }
    let mut headers = accept_json();
    if let Some(login) = login {
        headers.insert(AUTHORIZATION, login.basic());
    }
    Request { method: Method::GET, url: SafeUrl::new(url), headers, body: None }
}

fn post(realm: &Url, key: &TokenKey, login: &Login) -> Request {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "password");
    if let Some(service) = &key.service {
        form.append_pair("service", service);
    }
    form.append_pair("scope", &key.scope);
    form.append_pair("client_id", "pierhead");
    form.append_pair("username", &login.username);
    form.append_pair("password", login.password.expose());
    let mut headers = accept_json();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    Request {
        method: Method::POST,
        url: SafeUrl::new(realm.clone()),
        headers,
        body: Some(Bytes::from(form.finish())),
    }
}

fn accept_json() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))])
}
