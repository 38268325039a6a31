//! JSON web tokens (RFC 7519), taken apart and held to what they say of themselves.

use pierhead_plugin::crypto::SignatureScheme;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::base64url;

/// The longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// An algorithm that signs with a key that nobody else has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// The algorithm of this name in RFC 7518 and RFC 8037. `none` is not one, and neither are
    /// those with a shared secret: an issuer's public key would pass for the secret.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }

    /// The same in the host's words.
    pub(crate) const fn scheme(self) -> SignatureScheme {
        match self {
            Self::Rs256 => SignatureScheme::RsaPkcs1Sha256,
            Self::Rs384 => SignatureScheme::RsaPkcs1Sha384,
            Self::Rs512 => SignatureScheme::RsaPkcs1Sha512,
            Self::Ps256 => SignatureScheme::RsaPssSha256,
            Self::Es256 => SignatureScheme::EcdsaP256Sha256Fixed,
            Self::Es384 => SignatureScheme::EcdsaP384Sha384Fixed,
            Self::EdDsa => SignatureScheme::Ed25519,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Header {
    pub(crate) alg: String,
    #[serde(default)]
    pub(crate) kid: Option<String>,
    /// Extensions that a reader has to understand. This one understands none.
    #[serde(default)]
    pub(crate) crit: Option<Value>,
}

/// A token, taken apart and not yet believed.
#[derive(Debug)]
pub(crate) struct Token<'a> {
    pub(crate) header: Header,
    pub(crate) claims: Map<String, Value>,
    /// What is signed.
    pub(crate) signed: &'a str,
    pub(crate) signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Takes a text apart. None if it is no token.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        if text.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        Some(Self {
            header: serde_json::from_slice(&base64url::decode(header)?).ok()?,
            claims: serde_json::from_slice(&base64url::decode(claims)?).ok()?,
            signed,
            signature: base64url::decode(signature)?,
        })
    }

    /// Who says that it has issued it.
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// Whether it is for one of these.
    pub(crate) fn is_for(&self, audience: &[String]) -> bool {
        let wanted = |value: &Value| {
            value.as_str().is_some_and(|value| audience.iter().any(|wanted| wanted == value))
        };
        match self.claims.get("aud") {
            Some(Value::Array(values)) => values.iter().any(wanted),
            Some(value) => wanted(value),
            None => false,
        }
    }

    /// A moment in milliseconds since 1970; none if it is not there, an error if it is none.
    fn moment(&self, claim: &str) -> Result<Option<u64>, String> {
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        let wrong = || format!("the token's {claim} makes no sense");
        let seconds = value.as_f64().filter(|seconds| (0.0..1e12).contains(seconds));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range was looked at"
        )]
        seconds.map(|seconds| Some((seconds * 1_000.0) as u64)).ok_or_else(wrong)
    }

    /// Whether the time is right, give or take `leeway` milliseconds. Returns until when it is, in
    /// milliseconds since 1970.
    pub(crate) fn check_time(&self, now: u64, leeway: u64) -> Result<u64, String> {
        let end = self.moment("exp")?.ok_or("the token does not say when it ends")?;
        let end = end.saturating_add(leeway);
        if now >= end {
            return Err("the token has expired".to_owned());
        }
        for claim in ["nbf", "iat"] {
            if self.moment(claim)?.is_some_and(|begin| now.saturating_add(leeway) < begin) {
                return Err("the token is not valid yet".to_owned());
            }
        }
        Ok(end)
    }
}
