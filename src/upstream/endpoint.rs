//! One endpoint of an upstream: where it is, how it wants to be logged in to, and how it is doing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use tokio::time::Instant;
use url::Url;

use crate::clock::{Clock, Timestamp};
use crate::oci::{Challenge, RepoName};
use crate::secret::SafeUrl;

use super::allowance::Allowance;
use super::breaker::{Breaker, Circuit, TROUBLE_MAX, TroubleMax};
use super::error::Failure;
use super::hedge::Latencies;
use super::limits::RateLimit;

/// How long an endpoint in trouble is asked only after the others.
const REST: Duration = Duration::from_secs(10);

/// One endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    /// Which one it is, counted from zero.
    pub(super) index: usize,
    /// Scheme, host, port and path prefix; no user, no password.
    pub(super) base: Url,
    /// For messages.
    pub(super) host: Arc<str>,
    /// How it wants to be logged in to, once it said so: the next repository needs no refusal
    /// to learn it anew.
    scheme: Mutex<Option<Arc<AuthScheme>>>,
    /// Whether it is asked at all.
    pub(super) breaker: Arc<Breaker>,
    /// How long it takes to answer a HEAD.
    pub(super) latencies: Latencies,
    allowance: Mutex<Allowance>,
    contact: Mutex<Contact>,
}

/// How talking to an endpoint went lately.
#[derive(Clone, Debug, Default)]
struct Contact {
    /// When it last answered a question, if only with "not found".
    answered_at: Option<Timestamp>,
    /// The last failure that was no answer of that kind, and when it was.
    failed: Option<(Timestamp, Failure)>,
    /// Until when the others are asked first.
    resting_until: Option<Instant>,
}

/// In which order endpoints are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// Nothing is wrong with it, or it is time to see whether it works again.
    First,
    /// It was in trouble a moment ago.
    Later,
    /// It will not be asked.
    Last,
}

/// What an operator sees of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    /// Where it is.
    pub url: SafeUrl,
    /// Whether it was in trouble a moment ago, and is asked after the others, or not at all.
    pub resting: bool,
    /// Whether it is asked at all.
    pub circuit: Circuit,
    /// Since when that is so; nothing if it was never otherwise.
    pub circuit_since: Option<Timestamp>,
    /// From when on the next question is let through to see whether it works again.
    pub next_probe: Option<Timestamp>,
    /// When it last answered a question, if only with "not found".
    pub answered_at: Option<Timestamp>,
    /// When it last failed to, or refused.
    pub failed_at: Option<Timestamp>,
    /// Why it failed then.
    pub failure: Option<Failure>,
}

/// How an endpoint wants to be logged in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AuthScheme {
    /// User and password on every request.
    Basic,
    /// A token from a token service.
    Bearer {
        /// The token service, as the endpoint wrote it.
        realm: String,
        /// What the token service calls the registry.
        service: Option<String>,
        /// What the token must be for.
        scope: ScopeRule,
    },
}

/// How the scope of a token follows from the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ScopeRule {
    /// `repository:<prefix><name>:pull`; the prefix is empty but for registries that keep their
    /// repositories under other names than they answer to.
    Repository {
        /// Before the name.
        prefix: String,
    },
    /// Always the same, as `aws` on public.ecr.aws.
    Fixed(String),
}

impl ScopeRule {
    /// What `asked`, the scope in a challenge for `repo`, says about other repositories.
    pub(super) fn of(asked: Option<&str>, repo: &RepoName) -> Self {
        let Some(asked) = asked.filter(|asked| !asked.trim().is_empty()) else {
            return Self::Repository { prefix: String::new() };
        };
        let prefix = asked
            .strip_prefix("repository:")
            .and_then(|rest| rest.rsplit_once(':'))
            .and_then(|(name, _actions)| name.strip_suffix(repo.as_str()))
            .filter(|prefix| prefix.is_empty() || prefix.ends_with('/'));
        match prefix {
            Some(prefix) => Self::Repository { prefix: prefix.to_owned() },
            None => Self::Fixed(asked.to_owned()),
        }
    }

    /// The scope for `repo`: never more than to pull.
    pub(super) fn scope(&self, repo: &RepoName) -> String {
        match self {
            Self::Repository { prefix } => format!("repository:{prefix}{repo}:pull"),
            Self::Fixed(scope) => scope.clone(),
        }
    }
}

/// The challenge of a 401 for `repo`, and whether it says that a token is for too little. A
/// token service is preferred to Basic where both are offered.
pub(super) fn challenge(headers: &HeaderMap, repo: &RepoName) -> Option<(AuthScheme, bool)> {
    let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let mut found = None;
    for challenge in Challenge::parse_all(values) {
        match challenge {
            Challenge::Bearer { realm, service, scope, error } => {
                let scope = ScopeRule::of(scope.as_deref(), repo);
                let too_little = error.as_deref() == Some("insufficient_scope");
                return Some((AuthScheme::Bearer { realm, service, scope }, too_little));
            }
            Challenge::Basic { .. } => found = Some((AuthScheme::Basic, false)),
            Challenge::Other { .. } => {}
        }
    }
    found
}

impl Endpoint {
    /// `instance` tells its back-offs from those of other Pierheads.
    pub(super) fn new(index: usize, url: &Url, clock: &Clock, instance: &[u8]) -> Self {
        let mut base = url.clone();
        // Only fails for URLs without a host, which have no user either.
        let _ = base.set_username("");
        let _ = base.set_password(None);
        base.set_query(None);
        base.set_fragment(None);
        let host = match base.port() {
            Some(port) => format!("{}:{port}", base.host_str().unwrap_or_default()),
            None => base.host_str().unwrap_or_default().to_owned(),
        };
        let trouble_max = TroubleMax { server: TROUBLE_MAX, about: TROUBLE_MAX };
        let breaker =
            Breaker::new(trouble_max, clock.clone(), &[instance, base.as_str().as_bytes()]);
        Self {
            index,
            base,
            host: host.into(),
            scheme: Mutex::new(None),
            breaker,
            latencies: Latencies::default(),
            allowance: Mutex::default(),
            contact: Mutex::default(),
        }
    }

    pub(super) fn status(&self) -> EndpointStatus {
        let contact = self.contact().clone();
        let (failed_at, failure) = contact.failed.unzip();
        let circuit = self.breaker.status();
        EndpointStatus {
            url: SafeUrl::new(self.base.clone()),
            resting: self.turn() != Turn::First || circuit.circuit != Circuit::Closed,
            circuit: circuit.circuit,
            circuit_since: circuit.since,
            next_probe: circuit.next_probe,
            answered_at: contact.answered_at,
            failed_at,
            failure,
        }
    }

    /// `<base>/v2/<path>?<query>`.
    pub(super) fn url(&self, path: &str, query: &[(&str, &str)]) -> SafeUrl {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/v2/{path}", self.base.path().trim_end_matches('/')));
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        SafeUrl::new(url)
    }

    pub(super) fn scheme(&self) -> Option<Arc<AuthScheme>> {
        self.scheme.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_scheme(&self, scheme: Arc<AuthScheme>) {
        *self.scheme.lock().unwrap_or_else(PoisonError::into_inner) = Some(scheme);
    }

    pub(super) fn forget_scheme(&self) {
        *self.scheme.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// When it is asked, among others.
    pub(super) fn turn(&self) -> Turn {
        let is_resting = self.contact().resting_until.is_some_and(|until| Instant::now() < until);
        match (self.breaker.is_asked(), self.breaker.is_closed() && is_resting) {
            (false, _) => Turn::Last,
            (true, true) => Turn::Later,
            // Even before the others: else one that works again is never found out.
            (true, false) => Turn::First,
        }
    }

    /// Whether it may be asked what another was asked already: only what is well, and has some of
    /// its allowance left.
    pub(super) fn is_spare(&self) -> bool {
        self.breaker.is_closed() && self.turn() == Turn::First && self.exhausted_for().is_none()
    }

    /// What it said about our allowance, with what follows from it now.
    pub(super) fn rate_limit(&self) -> Option<RateLimit> {
        self.allowance().limit()
    }

    /// For how long nothing should be asked that can wait.
    pub(super) fn exhausted_for(&self) -> Option<Duration> {
        self.breaker.limited_for().max(self.allowance().exhausted_for())
    }

    /// Takes note of what an answer of its own says about our allowance.
    pub(super) fn note_limit(&self, headers: &HeaderMap, now: Timestamp) {
        if let Some(limit) = RateLimit::parse(headers, now) {
            self.allowance().note(limit);
        }
    }

    /// Takes note of how a question went.
    pub(super) fn note(&self, failure: Option<&Failure>, now: Timestamp) {
        let mut contact = self.contact();
        match failure {
            None | Some(Failure::NotFound) => contact.answered_at = Some(now),
            Some(failure) => {
                // A refusal is an answer, and worth showing.
                if matches!(failure, Failure::Denied { .. }) {
                    contact.answered_at = Some(now);
                }
                contact.failed = Some((now, failure.clone()));
            }
        }
        match failure {
            Some(failure) if failure.is_endpoint_trouble() => {
                contact.resting_until = Some(Instant::now() + REST);
            }
            Some(_) => {}
            None => contact.resting_until = None,
        }
    }

    fn contact(&self) -> MutexGuard<'_, Contact> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allowance(&self) -> MutexGuard<'_, Allowance> {
        self.allowance.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(name: &str) -> RepoName {
        name.parse().expect("a name")
    }

    #[test]
    fn a_scope_is_learnt_for_all_repositories() {
        for (asked, for_another) in [
            (None, "repository:b/c:pull"),
            (Some("repository:a/x:pull"), "repository:b/c:pull"),
            (Some("repository:a/x:pull,push"), "repository:b/c:pull"),
            (Some("repository:mirror/a/x:pull"), "repository:mirror/b/c:pull"),
            (Some("aws"), "aws"),
            (Some("repository:za/x:pull"), "repository:za/x:pull"),
            (Some("registry:catalog:*"), "registry:catalog:*"),
            (Some(" "), "repository:b/c:pull"),
        ] {
            let rule = ScopeRule::of(asked, &repo("a/x"));
            assert_eq!(rule.scope(&repo("b/c")), for_another, "{asked:?}");
        }
    }

    #[test]
    fn urls_keep_the_prefix_of_the_endpoint() {
        let at =
            |base: &str| Endpoint::new(0, &base.parse().expect("a URL"), &Clock::system(), b"test");
        let url = at("https://u:p@a:8443/art/").url("x/tags/list", &[("n", "2"), ("last", "a&b")]);
        assert_eq!(url.expose().as_str(), "https://a:8443/art/v2/x/tags/list?n=2&last=a%26b");
        assert_eq!(at("http://a").url("", &[]).expose().as_str(), "http://a/v2/");
        assert_eq!(&*at("https://a:8443").host, "a:8443");
    }
}
