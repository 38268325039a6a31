//! Pierhead's own bearer tokens: who somebody has proved to be, and what was granted to them, for
//! some minutes.
//!
//! A token is made after the hooks were asked, and believed without asking them again. Nobody can
//! take one back, so it is short-lived; it never outlives the proof that it was made for.

mod jwt;
mod keys;
pub mod settings;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

pub use keys::{KEY_AGE_MAX, KEY_FILE, KeyError};

use self::jwt::{Access, Draft, IdentityClaim};
use self::keys::KeyRing;
use self::settings::TokenSettings;
use crate::background::{Report, Round, Worker};
use crate::clock::{Clock, Timestamp};
use crate::hooks::{Identity, WantedScope};
use crate::secret::Secret;

/// The longest token, in bytes: it travels in a header with every request, and many proxies take
/// headers of 8 KiB at most.
pub const TOKEN_BYTES_MAX: usize = 7 << 10;

/// How far the clocks of several Pierheads with one key may be apart.
pub const LEEWAY: Duration = Duration::from_secs(10);

/// How many tokens are remembered that were verified: a pull sends the same one with every request,
/// and to read it costs more than all else that a small answer needs.
const VERIFIED_MAX: u64 = 2048;

/// The size of a key, in bytes: as many as SHA-256 has.
const KEY_BYTES: usize = 32;

/// How many random bytes name a token.
const TOKEN_ID_BYTES: usize = 16;

/// How often it is looked whether a key has become old.
const ROTATION_INTERVAL: Duration = Duration::from_secs(3600);

/// The type of what is granted, in docker's words.
const REPOSITORY: &str = "repository";

/// Why a token that is ours is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not what we make.
    #[error("the token cannot be read")]
    Malformed,
    /// It was signed by a key that is not here, or not any more.
    #[error("the token's key is not known here")]
    Key,
    /// Its signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// It is for another service.
    #[error("the token is for another service")]
    Service,
    /// It has ended.
    #[error("the token has ended")]
    Ended,
    /// It has not begun.
    #[error("the token is not good yet")]
    Early,
}

impl TokenError {
    /// Every reason.
    pub const ALL: [Self; 6] =
        [Self::Malformed, Self::Key, Self::Signature, Self::Service, Self::Ended, Self::Early];

    /// Its name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Service => "service",
            Self::Ended => "ended",
            Self::Early => "early",
        }
    }
}

/// Why a token cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The proof of the identity ends within this second.
    #[error("these credentials end now; get new ones")]
    Over,
    /// It would be larger than what is sent with every request.
    #[error(
        "the token would be larger than {TOKEN_BYTES_MAX} bytes: ask for fewer scopes, or let the \
         authenticator hand on fewer claims"
    )]
    TooLarge,
    /// The system failed.
    #[error("no token could be made")]
    Failed,
}

/// A token that was made.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token.
    pub token: Secret,
    /// When it was made.
    pub at: Timestamp,
    /// How long it is good for; whole seconds.
    pub lasts: Duration,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Who holds it; none for an anonymous client.
    pub identity: Option<Arc<Identity>>,
    /// What was granted.
    pub access: Vec<WantedScope>,
}

impl Grant {
    /// Whether all of `wanted` was granted.
    pub fn covers(&self, wanted: &WantedScope) -> bool {
        wanted.actions.iter().all(|action| {
            let granted = |scope: &WantedScope| {
                scope.repository == wanted.repository && scope.actions.contains(action)
            };
            self.access.iter().any(granted)
        })
    }
}

/// A token whose signature is right and whose words are read.
#[derive(Debug)]
struct Verified {
    grant: Arc<Grant>,
    /// In seconds since 1970.
    begins: u64,
    /// In seconds since 1970.
    ends: u64,
}

/// Makes and believes tokens. Cheap to clone; clones share the keys.
#[derive(Clone, Debug)]
pub struct Tokens(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    keys: RwLock<KeyRing>,
    /// By the token's digest, so that no token lies in memory. A key that is gone has no token
    /// left that has not ended.
    verified: Cache<[u8; 32], Arc<Verified>>,
    path: PathBuf,
    settings: TokenSettings,
    clock: Clock,
}

impl Tokens {
    /// With the keys in `storage`, which are made if there are none. Blocks.
    ///
    /// # Errors
    /// When the keys cannot be read, written or protected.
    pub fn open(storage: &Path, settings: TokenSettings, clock: Clock) -> Result<Self, KeyError> {
        let path = storage.join(KEY_FILE);
        let keys = RwLock::new(KeyRing::open(&path, clock.now())?);
        let verified = Cache::builder().name("tokens").max_capacity(VERIFIED_MAX).build();
        Ok(Self(Arc::new(Inner { keys, verified, path, settings, clock })))
    }

    /// Whom tokens are for: what challenges call this registry.
    pub fn service(&self) -> &str {
        &self.0.settings.service
    }

    /// Whether a bearer token is one of ours, good or not.
    pub fn is_ours(&self, token: &Secret) -> bool {
        let token = token.expose();
        token.len() <= TOKEN_BYTES_MAX && jwt::key_id(token).is_some()
    }

    /// A token for `identity`, good for `access`.
    ///
    /// # Errors
    /// When the identity's proof is over, or the token would be too large.
    pub fn issue(
        &self,
        identity: Option<&Identity>,
        access: &[WantedScope],
    ) -> Result<Issued, IssueError> {
        let at = self.0.clock.now();
        let end = at.plus(self.0.settings.ttl);
        let end = match identity.and_then(|identity| identity.expires_at) {
            Some(proof_ends) => end.min(proof_ends),
            None => end,
        };
        let (now, end) = (at.unix_ms() / 1000, end.unix_ms() / 1000);
        let lasts = end.checked_sub(now).filter(|seconds| *seconds > 0).ok_or(IssueError::Over)?;
        let mut id = [0; TOKEN_ID_BYTES];
        getrandom::fill(&mut id).map_err(|_| IssueError::Failed)?;
        let draft = Draft {
            subject: identity.map_or("", |identity| identity.subject.as_str()),
            service: self.service(),
            now,
            end,
            id: hex::encode(id),
            access: access.iter().map(claimed).collect(),
            identity: identity.map(|identity| IdentityClaim {
                issuer: identity.issuer.clone(),
                method: identity.method.clone(),
                groups: identity.groups.clone(),
                claims: identity.claims.clone(),
                expires_at_ms: identity.expires_at.map(Timestamp::unix_ms),
            }),
        };
        let keys = self.keys();
        let (key_id, key) = keys.newest().ok_or(IssueError::Failed)?;
        let token = key.sign(key_id, draft).map_err(|_| IssueError::Failed)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(IssueError::TooLarge);
        }
        Ok(Issued { token: Secret::new(token), at, lasts: Duration::from_secs(lasts) })
    }

    /// What a token says.
    ///
    /// # Errors
    /// When it is not one of ours, was changed, or is not good now.
    pub fn verify(&self, token: &Secret) -> Result<Arc<Grant>, TokenError> {
        let token = token.expose();
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let digest = <[u8; 32]>::from(Sha256::digest(token));
        let verified = match self.0.verified.get(&digest) {
            Some(verified) => verified,
            None => {
                let verified = Arc::new(self.read(token)?);
                self.0.verified.insert(digest, Arc::clone(&verified));
                verified
            }
        };
        let (now, leeway) = (self.0.clock.now(), LEEWAY.as_secs());
        let seconds = now.unix_ms() / 1000;
        if seconds >= verified.ends.saturating_add(leeway) {
            return Err(TokenError::Ended);
        }
        if seconds.saturating_add(leeway) < verified.begins {
            return Err(TokenError::Early);
        }
        let grant = Arc::clone(&verified.grant);
        if grant.identity.as_ref().is_some_and(|identity| identity.is_over(now)) {
            return Err(TokenError::Ended);
        }
        Ok(grant)
    }

    /// Checks the signature of a token and reads it, whatever the time.
    fn read(&self, token: &str) -> Result<Verified, TokenError> {
        let key_id = jwt::key_id(token).ok_or(TokenError::Malformed)?;
        let keys = self.keys();
        let key = keys.find(&key_id).ok_or(TokenError::Key)?;
        let claims = key.open(token, self.service())?;
        let identity = claims.identity.map(|claim| {
            Arc::new(Identity {
                subject: claims.sub,
                issuer: claim.issuer,
                method: claim.method,
                groups: claim.groups,
                claims: claim.claims,
                expires_at: claim.expires_at_ms.map(Timestamp::from_unix_ms),
            })
        });
        let access = claims.access.into_iter().filter_map(granted).collect();
        let grant = Arc::new(Grant { identity, access });
        Ok(Verified { grant, begins: claims.nbf, ends: claims.exp })
    }

    /// Makes a new key if it is time. Blocks.
    ///
    /// # Errors
    /// When it cannot be written; the keys stay as they are then.
    pub fn rotate(&self) -> Result<(), KeyError> {
        // One task rotates, so that nothing changes between this and the swap.
        let renewed = self.keys().renewed(&self.0.path, self.0.clock.now())?;
        if let Some(renewed) = renewed {
            *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = renewed;
            tracing::info!("the keys of tokens have changed");
        }
        Ok(())
    }

    /// The worker that rotates the keys.
    pub fn rotation(&self) -> Rotation {
        Rotation(self.clone())
    }

    fn keys(&self) -> KeyRing {
        self.0.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn claimed(scope: &WantedScope) -> Access {
    Access {
        kind: REPOSITORY.to_owned(),
        name: scope.repository.clone(),
        actions: scope.actions.iter().map(ToString::to_string).collect(),
    }
}

/// What this version does not know, an older or newer one has granted: it opens nothing here.
fn granted(access: Access) -> Option<WantedScope> {
    let actions = access.actions.iter().filter_map(|action| action.parse().ok()).collect();
    (access.kind == REPOSITORY).then_some(WantedScope { repository: access.name, actions })
}

/// Rotates the keys.
#[derive(Debug)]
pub struct Rotation(Tokens);

#[async_trait]
impl Worker for Rotation {
    fn name(&self) -> &'static str {
        "token_keys"
    }

    async fn round(&mut self, _: &Report) -> Round {
        let tokens = self.0.clone();
        match tokio::task::spawn_blocking(move || tokens.rotate()).await {
            Ok(Ok(())) => Round::Done(ROTATION_INTERVAL),
            Ok(Err(error)) => Round::Failed(error.to_string(), ROTATION_INTERVAL),
            Err(error) => Round::Failed(error.to_string(), ROTATION_INTERVAL),
        }
    }
}
