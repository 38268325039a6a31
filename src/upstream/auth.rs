//! Logging in: nothing, Basic, a ready token, or a token from a token service.
//!
//! An endpoint's first refusal says how it wants to be logged in to; that is kept per endpoint.
//! Credentials go to the endpoint itself and to token services in its trust domain
//! (`token`), and nowhere else.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

use crate::clock::{Clock, Timestamp};
use crate::oci::RepoName;
use crate::scope::{Scope, UpstreamName};
use crate::secret::Secret;

use super::credentials::CredentialSource;
use super::endpoint::{AuthScheme, Endpoint, challenge};
use super::error::Failure;
use super::settings::Credentials;
use super::token::{Login, TokenKey, Tokens};

/// Credentials with an end that are kept, by repository, per upstream.
const GRANTS_MAX: u64 = 1024;

/// Logs in to one upstream.
pub(super) struct Auth {
    upstream: UpstreamName,
    source: Arc<dyn CredentialSource>,
    tokens: Tokens,
    clock: Clock,
    grants: Cache<RepoName, (Credentials, Timestamp)>,
}

/// What a request carries to prove who asks.
#[derive(Clone, Debug)]
pub(super) enum Pass {
    /// Nothing.
    Nothing,
    /// Credentials as they are: Basic, or a ready token.
    Login(HeaderValue),
    /// A token of a token service.
    Token {
        header: HeaderValue,
        key: TokenKey,
        serial: u64,
        /// Whether it was asked for on behalf of this very request.
        fresh: bool,
        /// Whether it replaces one that was refused.
        renewed: bool,
    },
}

impl Pass {
    /// The `Authorization` to send.
    pub(super) const fn header(&self) -> Option<&HeaderValue> {
        match self {
            Self::Nothing => None,
            Self::Login(header) | Self::Token { header, .. } => Some(header),
        }
    }
}

impl Auth {
    pub(super) fn new(
        upstream: UpstreamName,
        source: Arc<dyn CredentialSource>,
        tokens: Tokens,
        clock: Clock,
    ) -> Self {
        Self { upstream, source, tokens, clock, grants: Cache::new(GRANTS_MAX) }
    }

    /// What the first request for `repo` carries. Cancel-safe.
    pub(super) async fn pass(&self, endpoint: &Endpoint, repo: &RepoName) -> Result<Pass, Failure> {
        let credentials = self.credentials(repo).await?;
        match (endpoint.scheme(), credentials) {
            (_, Some(Credentials::Token(token))) => Ok(ready(&token)),
            (None, _) => Ok(Pass::Nothing),
            (Some(scheme), credentials) => {
                match self.answer(endpoint, repo, &scheme, login(credentials)).await {
                    Ok(pass) => Ok(pass.unwrap_or(Pass::Nothing)),
                    Err(failure) => {
                        // Perhaps the endpoint has another token service by now. While this one
                        // rests, that was found out a moment ago.
                        let says_nothing = matches!(
                            failure,
                            Failure::Denied { .. }
                                | Failure::RateLimited { .. }
                                | Failure::Resting { .. }
                        );
                        if !says_nothing {
                            endpoint.forget_scheme();
                        }
                        Err(failure)
                    }
                }
            }
        }
    }

    /// What to carry after a request with `refused` was answered 401 with `headers`; nothing if
    /// trying again is of no use. Cancel-safe.
    pub(super) async fn again(
        &self,
        endpoint: &Endpoint,
        repo: &RepoName,
        refused: Pass,
        headers: &HeaderMap,
    ) -> Result<Option<Pass>, Failure> {
        if matches!(refused, Pass::Login(_)) {
            // A plugin's credentials may have been replaced before their time.
            self.grants.invalidate(repo);
        }
        let same =
            |next: &Pass| matches!(next, Pass::Login(_)) && next.header() == refused.header();
        let credentials = self.credentials(repo).await?;
        if let Some(Credentials::Token(token)) = &credentials {
            return Ok(Some(ready(token)).filter(|next| !same(next)));
        }
        let asked = challenge(headers, repo).or_else(|| {
            // gcr.io refuses without a challenge. A token that was kept for a while may have been
            // revoked, and is worth another; a fresh one is not, and nothing is no token.
            let scheme = endpoint.scheme().filter(|_| matches!(refused, Pass::Token { .. }))?;
            Some(((*scheme).clone(), true))
        });
        let Some((scheme, too_little)) = asked else { return Ok(None) };
        let scheme = Arc::new(scheme);
        endpoint.set_scheme(Arc::clone(&scheme));
        let login = login(credentials);
        let mut replaces = false;
        if let Pass::Token { key, serial, fresh, renewed, .. } = &refused {
            if token_key(endpoint, repo, &scheme, login.as_ref()).as_ref() == Some(key) {
                if *renewed || (*fresh && too_little) {
                    return Ok(None);
                }
                self.tokens.forget(key, *serial);
            }
            replaces = true;
        }
        let mut next = self.answer(endpoint, repo, &scheme, login).await?;
        if let Some(Pass::Token { renewed, .. }) = &mut next {
            *renewed = replaces;
        }
        Ok(next.filter(|next| !same(next)))
    }

    async fn answer(
        &self,
        endpoint: &Endpoint,
        repo: &RepoName,
        scheme: &AuthScheme,
        login: Option<Login>,
    ) -> Result<Option<Pass>, Failure> {
        let Some(key) = token_key(endpoint, repo, scheme, login.as_ref()) else {
            return Ok(login.map(|login| Pass::Login(login.basic())));
        };
        let (token, fresh) = self.tokens.get(endpoint, key.clone(), login).await?;
        let (header, serial) = (token.header, token.serial);
        Ok(Some(Pass::Token { header, key, serial, fresh, renewed: false }))
    }

    async fn credentials(&self, repo: &RepoName) -> Result<Option<Credentials>, Failure> {
        let now = self.clock.now();
        if let Some((credentials, expires)) = self.grants.get(repo)
            && now < expires
        {
            return Ok(Some(credentials));
        }
        let scope = Scope { upstream: self.upstream.clone(), repo: repo.clone() };
        let granted = self
            .source
            .credentials(&scope)
            .await
            .map_err(|error| Failure::NoCredentials { cause: error.0 })?;
        let Some(granted) = granted else { return Ok(None) };
        if let Some(expires) = granted.expires {
            self.grants.insert(repo.clone(), (granted.credentials.clone(), expires));
        }
        Ok(Some(granted.credentials))
    }
}

/// What the token for `repo` is kept under; nothing if `scheme` needs none.
fn token_key(
    endpoint: &Endpoint,
    repo: &RepoName,
    scheme: &AuthScheme,
    login: Option<&Login>,
) -> Option<TokenKey> {
    let AuthScheme::Bearer { realm, service, scope } = scheme else { return None };
    let account = login.map(|login| {
        let mut hasher = Sha256::new();
        hasher.update((login.username.len() as u64).to_be_bytes());
        hasher.update(&login.username);
        hasher.update(login.password.expose());
        hasher.finalize().into()
    });
    Some(TokenKey {
        endpoint: endpoint.index,
        realm: realm.clone(),
        service: service.clone(),
        scope: scope.scope(repo),
        account,
    })
}

fn login(credentials: Option<Credentials>) -> Option<Login> {
    match credentials {
        Some(Credentials::Password { username, password }) => Some(Login { username, password }),
        Some(Credentials::Token(_)) | None => None,
    }
}

fn ready(token: &Secret) -> Pass {
    // `config` checked it; an odd one from a plugin is as good as none.
    let Ok(mut header) = HeaderValue::try_from(format!("Bearer {}", token.expose())) else {
        return Pass::Nothing;
    };
    header.set_sensitive(true);
    Pass::Login(header)
}
