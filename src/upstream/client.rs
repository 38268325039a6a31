//! One upstream registry: its endpoints, and how a question goes to one after the other.
//!
//! Endpoints are asked in the order of the settings; one that was in trouble lately comes after
//! the others for some seconds, and one whose circuit is open (`breaker`) is not asked. Every
//! failure moves on to the next, a missing manifest too: mirrors lag behind. At the end, the
//! failure that says most is the answer, and absence is one only if all agree.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use http::header::{ACCEPT, AUTHORIZATION, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::time::{Instant, timeout};

use crate::background::Tasks;
use crate::clock::{Clock, Timestamp};
use crate::oci::RepoName;
use crate::scope::UpstreamName;

use super::asked::Asked;
use super::auth::Auth;
use super::breaker::Permit;
use super::credentials::CredentialSource;
use super::endpoint::{Endpoint, EndpointStatus};
use super::error::{ErrorKind, Failure, UpstreamError};
use super::hedge::HedgeBudget;
use super::limits::RateLimit;
use super::loop_guard::{Hops, LoopId};
use super::metrics::{Metrics, Observed, Operation, Watched};
use super::redirect::{Landed, Lost, follow};
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
    hedges: HedgeBudget,
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
        });
        let instance = wire.id.header(&Hops::default());
        let endpoints = settings
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, url)| {
                Arc::new(Endpoint::new(index, url, &wire.clock, instance.as_bytes()))
            })
            .collect();
        let tokens = Tokens::new(Arc::clone(&wire), settings.auth_hosts.clone(), parts.tasks);
        let auth = Auth::new(settings.name.clone(), parts.credentials, tokens, parts.clock);
        let hedges = HedgeBudget::default();
        let inner = Arc::new(Inner { name: settings.name.clone(), endpoints, auth, hedges, wire });
        let watched: Arc<dyn Watched> = Arc::clone(&inner) as _;
        parts.metrics.watch(&settings.name, &watched);
        Self { inner, hops: Hops::default() }
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
        self.inner.rate_limit()
    }

    /// Until when nothing should be asked that can wait: upstream said that our allowance is used
    /// up, or to leave it alone. `None` where it may be asked, at one endpoint at least.
    pub fn exhausted_until(&self) -> Option<Timestamp> {
        let endpoints = self.inner.endpoints.iter();
        let waits: Option<Vec<_>> = endpoints.map(|endpoint| endpoint.exhausted_for()).collect();
        let shortest = waits?.into_iter().min()?;
        Some(self.inner.wire.clock.now().plus(shortest))
    }

    /// How its endpoints are doing, in the order of the settings.
    pub fn status(&self) -> Vec<EndpointStatus> {
        self.inner.endpoints.iter().map(|endpoint| endpoint.status()).collect()
    }

    /// The endpoints in the order to ask them.
    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let mut endpoints = self.inner.endpoints.clone();
        // Stable: within each group the order stays that of the settings.
        endpoints.sort_by_cached_key(|endpoint| endpoint.turn());
        endpoints
    }

    /// The answer of the first endpoint that has one to `ask`. Cancel-safe if `ask` is.
    pub(super) async fn first<T, F>(
        &self,
        operation: Operation,
        ask: impl Fn(Arc<Endpoint>) -> F,
    ) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut attempts = self.attempts(operation);
        for endpoint in self.endpoints() {
            let outcome = ask(Arc::clone(&endpoint)).await;
            if let Some(answer) = attempts.note(&endpoint, outcome) {
                return Ok(answer);
            }
        }
        Err(attempts.error())
    }

    /// As [`Upstream::first`], for a HEAD: if the first endpoint takes long, the second one is
    /// asked as well, and whichever answers first is heard. Cancel-safe if `ask` is.
    pub(super) async fn first_head<T, F>(
        &self,
        operation: Operation,
        ask: impl Fn(Arc<Endpoint>) -> F,
    ) -> Result<T, UpstreamError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut attempts = self.attempts(operation);
        let mut endpoints = self.endpoints().into_iter().peekable();
        self.inner.hedges.earn();
        if let Some(first) = endpoints.next() {
            let spare = endpoints.peek().filter(|second| second.is_spare()).cloned();
            let began = Instant::now();
            let mut primary = pin!(ask(Arc::clone(&first)));
            let early = match &spare {
                Some(_) => timeout(first.latencies.hedge_after(), &mut primary).await.ok(),
                None => Some(primary.as_mut().await),
            };
            let hedge = spare.filter(|_| early.is_none() && self.inner.hedges.spend());
            let answer = match (early, hedge) {
                (Some(outcome), _) => {
                    first.latencies.note(began.elapsed());
                    attempts.note(&first, outcome)
                }
                (None, None) => {
                    let outcome = primary.await;
                    first.latencies.note(began.elapsed());
                    attempts.note(&first, outcome)
                }
                (None, Some(second)) => {
                    endpoints.next();
                    self.inner.wire.metrics.hedges.inc();
                    let hedged = Instant::now();
                    let mut hedge = pin!(ask(Arc::clone(&second)));
                    let (is_hedge, outcome) = tokio::select! {
                        biased;
                        outcome = &mut primary => (false, outcome),
                        outcome = &mut hedge => (true, outcome),
                    };
                    // Of the one that is dropped, it is known that it took at least this long.
                    first.latencies.note(began.elapsed());
                    let (asked, other) =
                        if is_hedge { (&second, &first) } else { (&first, &second) };
                    let mut answer = attempts.note(asked, outcome);
                    let mut won = is_hedge;
                    if answer.is_none() {
                        let outcome = if is_hedge { primary.await } else { hedge.await };
                        answer = attempts.note(other, outcome);
                        won = !is_hedge;
                    }
                    if won && answer.is_some() {
                        second.latencies.note(hedged.elapsed());
                        self.inner.wire.metrics.hedges_won.inc();
                    }
                    answer
                }
            };
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
        for endpoint in endpoints {
            let outcome = ask(Arc::clone(&endpoint)).await;
            if let Some(answer) = attempts.note(&endpoint, outcome) {
                return Ok(answer);
            }
        }
        Err(attempts.error())
    }

    fn attempts(&self, operation: Operation) -> Attempts<'_> {
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
        let mut permit = endpoint.breaker.admit(ask.repo.as_str())?;
        let mut pass = auth.pass(endpoint, ask.repo).await?;
        for login in 0..LOGINS_MAX {
            let request = request(endpoint, ask, pass.header());
            let name = &self.inner.name;
            let asked = Asked::begin(ask.operation, name, &endpoint.host, &ask.method, login);
            let landed = self.send(endpoint, request).await;
            asked.end(&landed);
            self.judge(endpoint, ask.repo, &mut permit, &landed);
            let landed = landed.map_err(|lost| lost.failure)?;
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

    /// What the way to an answer, or the lack of one, says about the endpoint. A token service's
    /// failure says nothing about it, nor does that of the storage to which it leads.
    fn judge(
        &self,
        endpoint: &Endpoint,
        repo: &RepoName,
        permit: &mut Permit,
        landed: &Result<Landed, Lost>,
    ) {
        let response = match landed {
            Ok(landed) if !landed.foreign => &landed.response,
            Ok(_) => return permit.answered(),
            Err(lost) if lost.foreign => return permit.answered(),
            Err(lost) if lost.failure.is_endpoint_trouble() => {
                return permit.troubled(&lost.failure, None);
            }
            // What is no HTTP, or our own address: nobody needs to wait for that twice.
            Err(_) => return,
        };
        endpoint.note_limit(&response.headers, self.inner.wire.clock.now());
        match response.status {
            status if status.is_success() => permit.answered(),
            // It understood the question, and cannot do that.
            StatusCode::NOT_IMPLEMENTED => permit.answered(),
            status => match self.inner.wire.refusal(status, &response.headers) {
                Failure::RateLimited { retry_after: Some(after) } => permit.limited(after),
                Failure::RateLimited { retry_after: None } => permit.answered(),
                failure @ Failure::ServerError { .. } => {
                    permit.troubled(&failure, Some(repo.as_str()));
                }
                failure if failure.is_endpoint_trouble() => permit.troubled(&failure, None),
                _ => permit.answered(),
            },
        }
    }

    /// Sends a request with redirects; once more if the connection broke before an answer, as one
    /// that waited in the pool may have been closed by the other side just then.
    async fn send(&self, endpoint: &Endpoint, request: Request) -> Result<Landed, Lost> {
        let origin = (endpoint.index, &endpoint.base);
        match follow(&self.inner.wire, origin, request.clone(), &self.hops).await {
            Err(Lost { failure: Failure::Interrupted, .. }) => {
                follow(&self.inner.wire, origin, request, &self.hops).await
            }
            outcome => outcome,
        }
    }

    fn error(&self, endpoint: &Endpoint, failure: Failure) -> UpstreamError {
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

impl Inner {
    /// What was said last, by whichever endpoint.
    fn rate_limit(&self) -> Option<RateLimit> {
        let said = self.endpoints.iter().filter_map(|endpoint| endpoint.rate_limit());
        said.max_by_key(|limit| limit.at)
    }
}

impl Watched for Inner {
    fn observe(&self) -> Observed {
        // Of what was never asked, there is nothing to tell.
        let asked = self.endpoints.iter().map(|endpoint| (endpoint, endpoint.status()));
        let asked = asked.filter(|(_, s)| s.answered_at.is_some() || s.failed_at.is_some());
        Observed {
            circuits: asked.map(|(e, status)| (Arc::clone(&e.host), status.circuit)).collect(),
            rate_limit: self.rate_limit(),
        }
    }
}

/// Asking one endpoint after the other: keeps the failure that says most.
struct Attempts<'a> {
    upstream: &'a Upstream,
    operation: Operation,
    worst: Option<UpstreamError>,
}

impl Attempts<'_> {
    /// Takes note of how an endpoint answered; the answer, if it is one.
    fn note<T>(&mut self, endpoint: &Endpoint, outcome: Result<T, Failure>) -> Option<T> {
        let wire = &self.upstream.inner.wire;
        let failure = match outcome {
            Ok(value) => {
                wire.metrics.count::<()>(self.operation, &Ok(()));
                endpoint.note(None, wire.clock.now());
                return Some(value);
            }
            Err(Failure::Resting { last, retry_after }) => {
                wire.metrics.withheld(last.kind() == ErrorKind::RateLimited);
                match *last {
                    Failure::RateLimited { .. } => {
                        Failure::RateLimited { retry_after: Some(retry_after) }
                    }
                    _ => Failure::Resting { last, retry_after },
                }
            }
            Err(failure) => {
                wire.metrics.count(self.operation, &Err::<(), _>(failure.clone()));
                endpoint.note(Some(&failure), wire.clock.now());
                failure
            }
        };
        let error = self.upstream.error(endpoint, failure);
        tracing::debug!(
            operation = self.operation.as_str(),
            kind = error.kind().as_str(),
            %error,
            "an endpoint did not answer"
        );
        let outweighs = |worst: &UpstreamError| error.kind().weight() > worst.kind().weight();
        if self.worst.as_ref().is_none_or(outweighs) {
            self.worst = Some(error);
        }
        None
    }

    /// The failure that says most.
    fn error(self) -> UpstreamError {
        self.worst.unwrap_or_else(|| UpstreamError {
            upstream: self.upstream.inner.name.clone(),
            host: "no endpoint".into(),
            failure: Failure::Unreachable { cause: "it has no `endpoints`".into() },
        })
    }
}
