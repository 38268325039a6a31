//! The form of a token: a JSON Web Token (RFC 7519) with HMAC-SHA-256, the `access` claim of
//! docker's token specification, and the identity under a claim of its own.
//!
//! Only Pierhead reads its tokens, so a key that both signs and verifies is enough, and verifying
//! costs a few microseconds.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{Error as SignatureError, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::{KEY_BYTES, TokenError};

/// What `typ` says in the header: no other token says that, so a foreign one is not taken for one
/// of ours.
const TYPE: &str = "pierhead+jwt";

/// Who issues our tokens.
const ISSUER: &str = "pierhead";

/// What a token says. Times are seconds since 1970, as RFC 7519 has them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    iss: String,
    /// The subject; empty for an anonymous client.
    pub(super) sub: String,
    aud: String,
    pub(super) exp: u64,
    pub(super) nbf: u64,
    pub(super) iat: u64,
    pub(super) jti: String,
    pub(super) access: Vec<Access>,
    /// Who holds it; none for an anonymous client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<IdentityClaim>,
}

/// What may be done in one repository. Source: docker's `spec/auth/jwt.md`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Access {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) actions: Vec<String>,
}

/// The rest of an identity, so that policies see the same one behind a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct IdentityClaim {
    pub(super) issuer: String,
    pub(super) method: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) claims: Vec<(String, String)>,
    /// In milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires_at_ms: Option<u64>,
}

/// The names and times of a token that is to be made.
pub(super) struct Draft<'a> {
    pub(super) subject: &'a str,
    pub(super) service: &'a str,
    /// In seconds since 1970.
    pub(super) now: u64,
    /// In seconds since 1970.
    pub(super) end: u64,
    pub(super) id: String,
    pub(super) access: Vec<Access>,
    pub(super) identity: Option<IdentityClaim>,
}

/// A key that signs and verifies. It does not print.
pub(super) struct MacKey {
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl MacKey {
    pub(super) fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        // It is installed once in a process, and nobody else here has tokens (`tests/tidy`).
        let _ = PROVIDER.install_default();
        Self {
            encoding: EncodingKey::from_secret(bytes),
            decoding: DecodingKey::from_secret(bytes),
        }
    }

    /// The token, signed by this key, which is called `key_id`.
    pub(super) fn sign(&self, key_id: &str, draft: Draft<'_>) -> Result<String, Error> {
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(key_id.to_owned());
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: draft.subject.to_owned(),
            aud: draft.service.to_owned(),
            exp: draft.end,
            nbf: draft.now,
            iat: draft.now,
            jti: draft.id,
            access: draft.access,
            identity: draft.identity,
        };
        jsonwebtoken::encode(&header, &claims, &self.encoding)
    }

    /// What a token says that this key has signed for `service`. Its times are not looked at.
    pub(super) fn open(&self, token: &str, service: &str) -> Result<Claims, TokenError> {
        let mut validation = Validation::new(Algorithm::HS256);
        // The crate reads the system's clock; time is a parameter here.
        (validation.validate_exp, validation.validate_nbf) = (false, false);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[service]);
        match jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation) {
            Ok(token) => Ok(token.claims),
            Err(error) => Err(match error.kind() {
                ErrorKind::InvalidAudience => TokenError::Service,
                ErrorKind::InvalidSignature => TokenError::Signature,
                _ => TokenError::Malformed,
            }),
        }
    }
}

/// The key that a token of ours names; none if it is not ours, or no token at all.
pub(super) fn key_id(token: &str) -> Option<String> {
    let header = jsonwebtoken::decode_header(token).ok()?;
    if header.typ.as_deref() == Some(TYPE) { header.kid } else { None }
}

/// The cryptography of our tokens: one algorithm, by ring.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(Hs256::new(*algorithm, key.as_bytes())?)),
    verifier_factory: |algorithm, key| {
        Ok(Box::new(Hs256::new(*algorithm, key.try_get_as_bytes()?)?))
    },
    // Nobody here has keys in the form of a JWK.
    key_utils: KeyUtils::new_unimplemented(),
};

/// HMAC with SHA-256.
struct Hs256(hmac::Key);

impl Hs256 {
    fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, Error> {
        match algorithm {
            Algorithm::HS256 => Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, key))),
            _ => Err(ErrorKind::InvalidAlgorithm.into()),
        }
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, SignatureError> {
        Ok(hmac::sign(&self.0, message).as_ref().to_vec())
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    /// Takes the same time whatever the signature.
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), SignatureError> {
        hmac::verify(&self.0, message, signature).map_err(|_| SignatureError::new())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}
