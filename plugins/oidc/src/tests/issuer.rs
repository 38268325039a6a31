//! An issuer's keys, and tokens that are signed with them.

use pierhead_plugin::testing;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use serde_json::{Value, json};

/// A key of RSA in PKCS #8, which ring cannot make. It signs nothing but tokens of these tests.
const RSA: &[u8] = include_bytes!("rsa.pk8");

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[bits >> (18 - 6 * digit) & 63]));
        }
    }
    text
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(EcdsaKeyPair, &'static str),
    Ed25519(Ed25519KeyPair),
}

pub(super) struct Signer {
    pair: Pair,
    algorithm: &'static str,
    kid: String,
}

impl Signer {
    pub(super) fn rsa(kid: &str, algorithm: &'static str) -> Self {
        let pair = RsaKeyPair::from_pkcs8(RSA).expect("it is a key");
        Self { pair: Pair::Rsa(Box::new(pair)), algorithm, kid: kid.to_owned() }
    }

    pub(super) fn es256(kid: &str) -> Self {
        let signing = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        Self::ecdsa(kid, "ES256", "P-256", signing)
    }

    fn ecdsa(
        kid: &str,
        algorithm: &'static str,
        curve: &'static str,
        signing: &'static signature::EcdsaSigningAlgorithm,
    ) -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(signing, &random).expect("a key is made");
        let pair = EcdsaKeyPair::from_pkcs8(signing, key.as_ref(), &random).expect("it is a key");
        Self { pair: Pair::Ecdsa(pair, curve), algorithm, kid: kid.to_owned() }
    }

    /// One of each algorithm.
    pub(super) fn all() -> Vec<Self> {
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key is made");
        let pair = Ed25519KeyPair::from_pkcs8(key.as_ref()).expect("it is a key");
        let p384 = &signature::ECDSA_P384_SHA384_FIXED_SIGNING;
        vec![
            Self::rsa("rs256", "RS256"),
            Self::rsa("rs384", "RS384"),
            Self::rsa("rs512", "RS512"),
            Self::rsa("ps256", "PS256"),
            Self::es256("es256"),
            Self::ecdsa("es384", "ES384", "P-384", p384),
            Self { pair: Pair::Ed25519(pair), algorithm: "EdDSA", kid: "eddsa".to_owned() },
        ]
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding = match self.algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, message, &mut signed).expect("it signs");
                signed
            }
            Pair::Ecdsa(pair, _) => {
                pair.sign(&random, message).expect("it signs").as_ref().to_owned()
            }
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_owned(),
        }
    }

    /// The public key.
    pub(super) fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair) => {
                let public = signature::RsaPublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": encode(&public.n), "e": encode(&public.e)})
            }
            Pair::Ecdsa(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
            }
            Pair::Ed25519(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())})
            }
        };
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.algorithm);
        jwk["use"] = json!("sig");
        jwk
    }

    /// A token with this header, signed however the key signs.
    pub(super) fn token_saying(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| encode(sorted(value.clone()).to_string().as_bytes());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = encode(&self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// The same with its keys in order. Whether serde_json keeps the order in which they were written
/// is up to whatever else is built along.
fn sorted(mut value: Value) -> Value {
    value.sort_all_objects();
    value
}

/// A token with a true header.
pub(super) fn token(signer: &Signer, claims: &Value) -> String {
    let header = json!({"typ": "JWT", "alg": signer.algorithm, "kid": signer.kid});
    signer.token_saying(&header, claims)
}

/// Prints examples for the metadata, whose tokens have to be made by somebody: with
/// `PIERHEAD_REGENERATE=1`, `examples.json` is written anew.
#[test]
fn the_examples_are_signed_by_a_key_of_the_tests() {
    let signer = Signer::rsa("2026-01", "RS256");
    let now = testing::NOW / 1_000;
    let claims = json!({
        "iss": "https://token.actions.githubusercontent.com",
        "aud": "https://registry.example",
        "sub": "repo:octo/app:ref:refs/heads/main",
        "repository": "octo/app",
        "repository_owner": "octo",
        "ref": "refs/heads/main",
        "iat": now, "nbf": now, "exp": now + 300,
    });
    let mut fork = claims.clone();
    fork["repository"] = json!("mallory/app");
    fork["repository_owner"] = json!("mallory");
    fork["sub"] = json!("repo:mallory/app:ref:refs/heads/main");
    let config = json!({"issuers": [{
        "issuer": "https://token.actions.githubusercontent.com",
        "audience": "https://registry.example",
        "keys": {"keys": [signer.jwk()]},
        "rules": [{
            "claims": {"repository_owner": "octo", "ref": "refs/heads/main"},
            "repositories": ["docker.io/**", "hosted/{repository}"],
            "actions": ["pull", "push"],
            "groups": ["ci"]
        }]
    }]});
    let login = |now: &str, claims: &Value| {
        let password = token(&signer, claims);
        json!({
            "hook": "authenticator", "now": now,
            "credentials": {"basic": {"username": "ci", "password": password}}
        })
    };
    let made = json!([
        {
            "name": "a job on the main branch logs in",
            "config": config,
            "call": login("2026-01-01T00:01:00Z", &claims),
            "expect": {
                "outcome": "authenticated",
                "identity": {
                    "subject": "repo:octo/app:ref:refs/heads/main",
                    "issuer": "https://token.actions.githubusercontent.com",
                    "groups": ["ci"]
                }
            }
        },
        {
            "name": "its token ends",
            "config": config,
            "call": login("2026-01-01T01:00:00Z", &claims),
            "expect": {"outcome": "rejected", "message": "the token has expired"}
        },
        {
            "name": "somebody else's job may do nothing",
            "config": config,
            "call": login("2026-01-01T00:01:00Z", &fork),
            "expect": {
                "outcome": "rejected",
                "message": "nothing is allowed to repo:mallory/app:ref:refs/heads/main: its claims match no rule"
            }
        },
        {
            "name": "passwords are left to other plugins",
            "config": config,
            "call": {
                "hook": "authenticator",
                "credentials": {"basic": {"username": "alice", "password": "correct horse"}}
            },
            "expect": {"outcome": "abstain"}
        },
        {
            "name": "a job may push where its claims say, and nowhere else",
            "config": config,
            "call": {
                "hook": "authorizer",
                "identity": {
                    "subject": "repo:octo/app:ref:refs/heads/main",
                    "issuer": "https://token.actions.githubusercontent.com",
                    "claims": {
                        "repository": "octo/app", "repository_owner": "octo", "ref": "refs/heads/main"
                    }
                },
                "wanted": [
                    {"repository": "hosted/octo/app", "actions": ["pull", "push"]},
                    {"repository": "hosted/octo/other", "actions": ["pull", "push"]}
                ]
            },
            "expect": {"granted": [{"repository": "hosted/octo/app", "actions": ["pull", "push"]}]}
        }
    ]);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/examples.json");
    let text = serde_json::to_string_pretty(&sorted(made)).expect("it is JSON") + "\n";
    if std::env::var_os("PIERHEAD_REGENERATE").is_some() {
        std::fs::write(&path, &text).expect("the examples are written");
    }
    let kept = std::fs::read_to_string(&path).expect("the examples are there");
    assert!(kept == text, "examples.json is out of date: PIERHEAD_REGENERATE=1");
}
