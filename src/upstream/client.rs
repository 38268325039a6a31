//! One upstream registry: its endpoints, and how a question goes to one after the other.
//!
//! Endpoints are asked in the order of the settings; one that was in trouble lately comes after
//! the others for some seconds. Every failure moves on to the next, a missing
//! manifest too: mirrors lag behind. At the end, the failure that says most is the answer, and
//! absence is one only if all agree.

use std::fmt;
use std::sync::{Arc, PoisonError};

use http::header::{ACCEPT, AUTHORIZATION, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::background::Tasks;
use crate::clock::{Clock, Timestamp};
use crate::oci::RepoName;
use crate::scope::UpstreamName;

use super::asked::Asked;
use super::auth::Auth;
use super::credentials::CredentialSource;
use super::endpoint::{Endpoint, EndpointStatus};
use super::error::{Failure, UpstreamError};
use super::limits::RateLimit;
use super::loop_guard::{Hops, LoopId};
use super::metrics::{Metrics, Operation};
use super::redirect::{Landed, follow};
use super::settings::UpstreamSettings;
use super::token::Tokens;
use super::transport::{Request, Transport};
use super::wire::{Wire, discard};

/// The most requests that one question may cost at one endpoint, redirects and token requests
/// aside: one that is refused, one with a token, one with a new token.
const LOGINS_MAX: usize = 3;

/// What an [`Upstream`] is made of, beside its settings.
#[derive(Clone)]
pub struct UpstreamParts {
    /// The way to the network, made for these settings.
    pub transport: Arc<dyn Transport>,
    /// Where credentials come from.
    pub credentials: Arc<dyn CredentialSource>,
    /// The time.
    pub clock: Clock,
    /// Where shared token requests run.
    pub tasks: Tasks,
    /// Where requests are counted.
    pub metrics: Metrics,
    /// Who we are.
    pub id: LoopId,
}

/// One upstream registry. Cheap to clone; clones share connections, tokens and memory.
#[derive(Clone)]
pub struct Upstream {
    pub(super) inner: Arc<Inner>,
    hops: Hops,
}

pub(super) struct Inner {
    name: UpstreamName,
    endpoints: Vec<Arc<Endpoint>>,
    auth: Auth,
    pub(super) wire: Arc<Wire>,
}

/// A question to a registry.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    pub(super) operation: Operation,
    pub(super) method: Method,
    pub(super) repo: &'a RepoName,
    /// After `/v2/<name>/`.
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) accept: &'static str,
    pub(super) range: Option<String>,
    /// Only with a range.
    pub(super) if_range: Option<HeaderValue>,
}

impl Upstream {
    /// An upstream as `settings` says.
    pub fn new(settings: &UpstreamSettings, parts: UpstreamParts) -> Self {
        let wire = Arc::new(Wire {
            transport: parts.transport,
            id: parts.id,
            clock: parts.clock.clone(),
            metrics: parts.metrics.of(&settings.name),
            header_timeout: settings.header_timeout,
            silence_timeout: settings.silence_timeout,
            limit: Default::default(),
        });
        let endpoints = settings
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, url)| Arc::new(Endpoint::new(index, url)))
            .collect();
        let tokens = Tokens::new(Arc::clone(&wire), settings.auth_hosts.clone(), parts.tasks);
        let auth = Auth::new(settings.name.clone(), parts.credentials, tokens, parts.clock);
        let inner = Inner { name: settings.name.clone(), endpoints, auth, wire };
        Self { inner: Arc::new(inner), hops: Hops::default() }
    }

    /// What clients call it.
    pub fn name(&self) -> &UpstreamName {
        &self.inner.name
    }

    /// The same upstream, asked on behalf of a request that has `hops` behind it.
    #[must_use]
    pub fn after(&self, hops: Hops) -> Self {
        Self { inner: Arc::clone(&self.inner), hops }
    }

    /// What the upstream last said about our allowance, if it ever did.
    pub fn rate_limit(&self) -> Option<RateLimit> {
        *self.inner.wire.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when nothing should be asked that can wait: upstream said that our allowance is used
    /// up, or to leave it alone. `None` where it may be asked.
    pub fn exhausted_until(&self) -> Option<Timestamp> {
        let limit = self.rate_limit()?;
        let until = limit.at.plus(limit.window.filter(|_| limit.remaining == 0)?);
        (self.inner.wire.clock.now() < until).then_some(until)
    }

    /// How its endpoints are doing, in the order of the settings.
    pub fn status(&self) -> Vec<EndpointStatus> {
        let now = self.inner.wire.clock.now();
        self.inner.endpoints.iter().map(|endpoint| endpoint.status(now)).collect()
    }

    /// The endpoints in the order to ask them.
    pub(super) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let now = self.inner.wire.clock.now();
        let mut endpoints = self.inner.endpoints.clone();
        // Stable: within either group the order stays that of the settings.
        endpoints.sort_by_key(|endpoint| endpoint.is_resting(now));
        endpoints
    }

    pub(super) fn attempts(&self, operation: Operation) -> Attempts<'_> {
        Attempts { upstream: self, operation, worst: None }
    }

    /// Asks one endpoint: logs in, follows redirects, and turns refusals into failures.
    /// Cancel-safe.
    pub(super) async fn ask(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Landed, Failure> {
        let landed = self.ask_any(endpoint, ask).await?;
        if landed.response.status.is_success() {
            return Ok(landed);
        }
        let response = landed.response;
        let failure = self.inner.wire.refusal(response.status, &response.headers);
        discard(response).await;
        Err(failure)
    }

    /// As [`Upstream::ask`], with an answer of any status but an unanswerable 401.
    pub(super) async fn ask_any(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
    ) -> Result<Landed, Failure> {
        let auth = &self.inner.auth;
        let mut pass = auth.pass(endpoint, ask.repo).await?;
        for login in 0..LOGINS_MAX {
            let request = request(endpoint, ask, pass.header());
            let name = &self.inner.name;
            let asked = Asked::begin(ask.operation, name, &endpoint.host, &ask.method, login);
            let landed = self.send(endpoint, request).await;
            asked.end(&landed);
            let landed = landed?;
            // Another host's challenge is not for us to answer.
            if landed.response.status != StatusCode::UNAUTHORIZED || landed.foreign {
                return Ok(landed);
            }
            let headers = landed.response.headers.clone();
            discard(landed.response).await;
            match auth.again(endpoint, ask.repo, pass, &headers).await? {
                Some(next) => pass = next,
                None => break,
            }
        }
        Err(Failure::Denied { status: StatusCode::UNAUTHORIZED.as_u16() })
    }

    /// Sends a request with redirects; once more if the connection broke before an answer, as one
    /// that waited in the pool may have been closed by the other side just then.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        request: Request,
    ) -> Result<Landed, Failure> {
        let origin = (endpoint.index, &endpoint.base);
        match follow(&self.inner.wire, origin, request.clone(), &self.hops).await {
            Err(Failure::Interrupted) => {
                follow(&self.inner.wire, origin, request, &self.hops).await
            }
            outcome => outcome,
        }
    }

    pub(super) fn error(&self, endpoint: &Endpoint, failure: Failure) -> UpstreamError {
        UpstreamError {
            upstream: self.inner.name.clone(),
            host: Arc::clone(&endpoint.host),
            failure,
        }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({})", self.inner.name)
    }
}

fn request(endpoint: &Endpoint, ask: &Ask<'_>, authorization: Option<&HeaderValue>) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(ask.accept));
    if let Some(authorization) = authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    // Made of digits, so always a header.
    if let Some(Ok(range)) = ask.range.as_deref().map(HeaderValue::from_str) {
        headers.insert(RANGE, range);
    }
    if let Some(etag) = &ask.if_range {
        headers.insert(IF_RANGE, etag.clone());
    }
    let query: Vec<(&str, &str)> =
        ask.query.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let url = endpoint.url(&format!("{}/{}", ask.repo, ask.path), &query);
    Request { method: ask.method.clone(), url, headers, body: None }
}

/// Asking one endpoint after the other: keeps the failure that says most.
pub(super) struct Attempts<'a> {
    upstream: &'a Upstream,
    operation: Operation,
    worst: Option<UpstreamError>,
}

impl Attempts<'_> {
    /// Takes note of how an endpoint answered; the answer, if it is one.
    pub(super) fn note<T>(
        &mut self,
        endpoint: &Endpoint,
        outcome: Result<T, Failure>,
    ) -> Option<T> {
        let wire = &self.upstream.inner.wire;
        wire.metrics.count(self.operation, &outcome);
        let now = wire.clock.now();
        match outcome {
            Ok(value) => {
                endpoint.note(None, now);
                Some(value)
            }
            Err(failure) => {
                endpoint.note(Some(&failure), now);
                let error = self.upstream.error(endpoint, failure);
                tracing::debug!(
                    operation = self.operation.as_str(),
                    kind = error.kind().as_str(),
                    %error,
                    "an endpoint did not answer"
                );
                let outweighs =
                    |worst: &UpstreamError| error.kind().weight() > worst.kind().weight();
                if self.worst.as_ref().is_none_or(outweighs) {
                    self.worst = Some(error);
                }
                None
            }
        }
    }

    /// The failure that says most.
    pub(super) fn error(self) -> UpstreamError {
        self.worst.unwrap_or_else(|| UpstreamError {
            upstream: self.upstream.inner.name.clone(),
            host: "no endpoint".into(),
            failure: Failure::Unreachable { cause: "it has no `endpoints`".into() },
        })
    }
}
