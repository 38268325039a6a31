//! An issuer's public keys (RFC 7517): fetched, kept, and fetched again when they are old or do
//! not know a key.

use std::time::Duration;

use pierhead_plugin::crypto::{self, PublicKey};
use pierhead_plugin::kv::Bucket;
use pierhead_plugin::{Failure, http, log, settings};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base64url;
use crate::jwt::{Algorithm, Token};
use crate::rules::Issuer;

/// The bucket that the mount has to grant.
const BUCKET: Bucket<'static> = Bucket("keys");

/// How long keys are kept for the case that the issuer does not answer.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// The time between an issuer's answer and the next question to it, whoever asks for keys that
/// nobody knows.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// How long a question may be on its way before another one goes out. A call that is ended in the
/// middle cannot say so.
const ASKING: Duration = Duration::from_secs(5);

/// The most questions to an issuer within [`ASKING`] while none of its keys is known: nobody can
/// log in before one is answered, and calls cannot wait for one another.
const ASKED_AT_ONCE_MAX: i64 = 16;

/// The most keys of an issuer that are looked at.
const KEYS_MAX: usize = 64;

/// A key that can verify.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Key {
    kty: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
}

/// What an issuer publishes. Each key is read by itself: one of a kind that is not known here does
/// not spoil the others.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct KeySet {
    keys: Vec<Value>,
}

/// Keys that were fetched.
#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    /// When, in milliseconds since 1970.
    at: u64,
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// A number of this many bytes.
fn coordinate(text: Option<&String>, length: usize) -> Option<Vec<u8>> {
    base64url::decode(text?).filter(|bytes| bytes.len() == length)
}

impl Key {
    /// The key as the host takes it, if it is one for this algorithm.
    fn public(&self, algorithm: Algorithm) -> Option<PublicKey> {
        let point = |curve: &str, length: usize| {
            if self.kty != "EC" || self.crv.as_deref() != Some(curve) {
                return None;
            }
            let mut point = vec![4];
            point.extend(coordinate(self.x.as_ref(), length)?);
            point.extend(coordinate(self.y.as_ref(), length)?);
            Some(PublicKey::Point(point))
        };
        match algorithm {
            Algorithm::Rs256 | Algorithm::Rs384 | Algorithm::Rs512 | Algorithm::Ps256 => {
                let number = |text: Option<&String>| base64url::decode(text?);
                (self.kty == "RSA")
                    .then(|| Some((number(self.n.as_ref())?, number(self.e.as_ref())?)))?
                    .map(PublicKey::Rsa)
            }
            Algorithm::Es256 => point("P-256", 32),
            Algorithm::Es384 => point("P-384", 48),
            Algorithm::EdDsa => (self.kty == "OKP" && self.crv.as_deref() == Some("Ed25519"))
                .then(|| coordinate(self.x.as_ref(), 32).map(PublicKey::Point))?,
        }
    }

    /// Whether the key may have signed the token, by what both say of themselves.
    fn fits(&self, token: &Token<'_>) -> bool {
        self.usage.as_ref().is_none_or(|usage| usage == "sig")
            && self.alg.as_ref().is_none_or(|alg| *alg == token.header.alg)
            && (token.header.kid.is_none() || self.kid == token.header.kid)
    }
}

impl KeySet {
    /// The keys that are understood.
    pub(crate) fn keys(self) -> Vec<Key> {
        let keys = self.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        keys.take(KEYS_MAX).collect()
    }
}

/// What was found out about a signature.
enum Checked {
    Right,
    Wrong,
    /// None of the keys is meant.
    NoKey,
}

fn check(keys: &[Key], token: &Token<'_>, algorithm: Algorithm) -> Checked {
    let mut checked = Checked::NoKey;
    for key in keys.iter().filter(|key| key.fits(token)) {
        let Some(public) = key.public(algorithm) else { continue };
        match crypto::verify(algorithm.scheme(), &public, token.signed.as_bytes(), &token.signature)
        {
            Ok(true) => return Checked::Right,
            Ok(false) => checked = Checked::Wrong,
            Err(error) => {
                log::write(
                    log::Level::Warn,
                    "a key of the issuer makes no sense",
                    &[("error", &error)],
                );
            }
        }
    }
    checked
}

/// Asks the issuer for its keys.
fn fetch(issuer: &Issuer) -> Result<Vec<Key>, Failure> {
    let ask = |url: &str| {
        let request = http::Request::new("GET", url).header("accept", "application/json");
        let request = match &issuer.token_secret {
            Some(name) => {
                let token = settings::secret(name).ok_or_else(|| {
                    Failure::unavailable(format!("the mount grants no secret {name}"))
                })?;
                request.header("authorization", &format!("Bearer {token}"))
            }
            None => request,
        };
        let about = |mut failure: Failure| {
            failure.message = format!("{url}: {}", failure.message);
            failure
        };
        let answer = request.send().map_err(Failure::from).map_err(about)?;
        answer.json::<Value>().map_err(about)
    };
    let url = match &issuer.jwks_uri {
        Some(url) => url.clone(),
        None => {
            let base = issuer.issuer.trim_end_matches('/');
            let found = ask(&format!("{base}/.well-known/openid-configuration"))?;
            let found: Discovery = serde_json::from_value(found)
                .map_err(|error| Failure::unavailable(format!("{base}: {error}")))?;
            if found.issuer != issuer.issuer {
                let message = format!("{base} says that it is {}", found.issuer);
                return Err(Failure::unavailable(message));
            }
            // What was asked with protection is not continued without.
            if issuer.issuer.starts_with("https://") && !found.jwks_uri.starts_with("https://") {
                return Err(Failure::unavailable(format!("{base}: its keys are not behind https")));
            }
            found.jwks_uri
        }
    };
    let set: KeySet = serde_json::from_value(ask(&url)?)
        .map_err(|error| Failure::unavailable(format!("{url}: {error}")))?;
    Ok(set.keys())
}

/// Fetches keys and keeps them, unless the issuer answered a moment ago or is being asked.
/// Only an answer counts for long: a question that failed or was ended is asked again soon.
fn refresh(issuer: &Issuer, now: u64, any_known: bool) -> Result<Option<Vec<Key>>, Failure> {
    let answered = format!("answered {}", issuer.issuer);
    if any_known && BUCKET.get(&answered)?.is_some() {
        return Ok(None);
    }
    let asking = format!("asking {}", issuer.issuer);
    let most = if any_known { 1 } else { ASKED_AT_ONCE_MAX };
    if BUCKET.increment(&asking, 1, Some(ASKING))? > most {
        return Ok(None);
    }
    let keys = fetch(issuer)?;
    let kept = Kept { at: now, keys };
    BUCKET.set_json(&issuer.issuer, &kept, Some(KEPT_FOR))?;
    BUCKET.set(&answered, b"1", Some(ASK_EVERY))?;
    Ok(Some(kept.keys))
}

/// Whether the token is signed by its issuer. An error in an `Ok` is the client's, and is told to
/// it; a failure is that nobody can know.
pub(crate) fn verify(
    issuer: &Issuer,
    token: &Token<'_>,
    algorithm: Algorithm,
    now: u64,
) -> Result<Result<(), String>, Failure> {
    const WRONG: &str = "the token's signature is wrong";
    const NO_KEY: &str = "the token is signed with a key that its issuer does not publish";
    let answer = |checked| match checked {
        Checked::Right => Ok(()),
        Checked::Wrong => Err(WRONG.to_owned()),
        Checked::NoKey => Err(NO_KEY.to_owned()),
    };
    if let Some(keys) = &issuer.keys {
        return Ok(answer(check(keys, token, algorithm)));
    }
    let kept: Option<Kept> = BUCKET.get_json(&issuer.issuer)?;
    let fresh = |kept: &Kept| now.saturating_sub(kept.at) < issuer.keys_ttl.as_ms();
    let current = kept.as_ref().filter(|kept| fresh(kept));
    if let Some(kept) = current {
        let checked = check(&kept.keys, token, algorithm);
        // A key that nobody knows may be a new one; and where keys have no names, any may be.
        let new = match checked {
            Checked::Right => false,
            Checked::Wrong => token.header.kid.is_none(),
            Checked::NoKey => true,
        };
        if !new {
            return Ok(answer(checked));
        }
    }
    match refresh(issuer, now, kept.is_some()) {
        Ok(Some(keys)) => Ok(answer(check(&keys, token, algorithm))),
        Ok(None) => match &kept {
            Some(kept) => Ok(answer(check(&kept.keys, token, algorithm))),
            None => Err(Failure::unavailable(format!("{} did not answer", issuer.issuer))
                .retry_after(ASKING)),
        },
        Err(failure) => match &kept {
            Some(kept) => {
                let fields = [("issuer", issuer.issuer.as_str()), ("error", &failure.message)];
                log::write(log::Level::Warn, "the issuer's known keys are used on", &fields);
                Ok(answer(check(&kept.keys, token, algorithm)))
            }
            None => Err(failure),
        },
    }
}
