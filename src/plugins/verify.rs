//! Signatures of plugins, checked before anything of them is compiled.
//!
//! A public key is ECDSA on P-256 or Ed25519, as a PEM file with `BEGIN PUBLIC KEY` holds it
//! (RFC 5480, RFC 8410). Signatures are `cosign sign` (over a payload that names the digest) for
//! artifacts, and `cosign sign-blob` or a plain detached signature in `FILE.sig` for files.
//!
//! Source: cosign, `SIGNATURE_SPEC.md`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;
use sha2::Digest as _;

use crate::oci::Digest;

/// What a P-256 key in DER begins with: `SubjectPublicKeyInfo` of id-ecPublicKey and prime256v1.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The length of an uncompressed point of P-256, in bytes.
const P256_BYTES: usize = 65;
/// What an Ed25519 key in DER begins with: `SubjectPublicKeyInfo` of id-Ed25519.
const ED25519_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The length of an Ed25519 key, in bytes.
const ED25519_BYTES: usize = 32;

/// The largest signature, in bytes, base64 included.
pub const SIGNATURE_BYTES_MAX: usize = 4 << 10;

/// Who has to have signed a plugin.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: Kind,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    P256,
    Ed25519,
}

/// Why a text is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not PEM.
    #[error("it holds no `-----BEGIN PUBLIC KEY-----`")]
    NotPem,
    /// It is another kind of key.
    #[error("it is neither an ECDSA key on P-256, as cosign makes them, nor an Ed25519 key")]
    Kind,
}

impl PublicKey {
    /// Reads the first public key of a PEM file.
    ///
    /// # Errors
    /// When there is none, or none of a kind that is known.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(pem).map_err(|_| KeyError::NotPem)?;
        let (_, rest) = text.split_once("-----BEGIN PUBLIC KEY-----").ok_or(KeyError::NotPem)?;
        let (body, _) = rest.split_once("-----END PUBLIC KEY-----").ok_or(KeyError::NotPem)?;
        let body: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|_| KeyError::NotPem)?;
        let key = |kind, bytes: &[u8]| Ok(Self { kind, bytes: bytes.to_vec() });
        if let Some(point) = der.strip_prefix(&P256_PREFIX)
            && point.len() == P256_BYTES
        {
            return key(Kind::P256, point);
        }
        if let Some(bytes) = der.strip_prefix(&ED25519_PREFIX)
            && bytes.len() == ED25519_BYTES
        {
            return key(Kind::Ed25519, bytes);
        }
        Err(KeyError::Kind)
    }

    /// A short name of the key: the beginning of its hash.
    pub fn fingerprint(&self) -> String {
        let hash = sha2::Sha256::digest(&self.bytes);
        hex::encode(hash.get(..8).unwrap_or_default())
    }

    /// Whether this key made `signature` (raw, or base64 as cosign writes it) over `message`.
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        if signature.len() > SIGNATURE_BYTES_MAX {
            return false;
        }
        let algorithm: &dyn VerificationAlgorithm = match self.kind {
            Kind::P256 => &ECDSA_P256_SHA256_ASN1,
            Kind::Ed25519 => &ED25519,
        };
        let key = UnparsedPublicKey::new(algorithm, &self.bytes);
        let decoded =
            std::str::from_utf8(signature).ok().and_then(|text| STANDARD.decode(text.trim()).ok());
        key.verify(message, signature).is_ok()
            || decoded.is_some_and(|signature| key.verify(message, &signature).is_ok())
    }

    /// Whether this key made `signature` over `payload`, and the payload is cosign's about
    /// `digest`.
    pub fn has_signed_payload(&self, payload: &[u8], signature: &[u8], digest: &Digest) -> bool {
        // What it says is looked at only after it is known who says it.
        self.has_signed(payload, signature)
            && serde_json::from_slice::<Payload>(payload)
                .is_ok_and(|payload| payload.critical.image.digest == digest.to_string())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.fingerprint())
    }
}

/// cosign's "simple signing" payload, as far as it matters.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[cfg(test)]
pub(super) mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    };

    use super::*;

    /// Signs for tests.
    pub(in crate::plugins) enum Signer {
        P256(EcdsaKeyPair),
        Ed25519(Ed25519KeyPair),
    }

    impl Signer {
        pub(in crate::plugins) fn p256() -> Self {
            let random = SystemRandom::new();
            let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
            Self::P256(pair)
        }

        fn ed25519() -> Self {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
            Self::Ed25519(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
        }

        pub(in crate::plugins) fn sign(&self, message: &[u8]) -> Vec<u8> {
            match self {
                Self::P256(pair) => {
                    pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
                }
                Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            }
        }

        pub(in crate::plugins) fn pem(&self) -> String {
            let (prefix, key) = match self {
                Self::P256(pair) => (&P256_PREFIX[..], pair.public_key().as_ref()),
                Self::Ed25519(pair) => (&ED25519_PREFIX[..], pair.public_key().as_ref()),
            };
            let der = STANDARD.encode([prefix, key].concat());
            let (first, second) = der.split_at(40);
            format!("-----BEGIN PUBLIC KEY-----\n{first}\n{second}\n-----END PUBLIC KEY-----\n")
        }

        pub(in crate::plugins) fn key(&self) -> PublicKey {
            PublicKey::from_pem(self.pem().as_bytes()).unwrap()
        }
    }

    #[test]
    fn a_signature_counts_for_its_key_and_message() {
        for signer in [Signer::p256(), Signer::ed25519()] {
            let (key, signature) = (signer.key(), signer.sign(b"plugin"));
            let text = format!("{}\n", STANDARD.encode(&signature));
            assert!(key.has_signed(b"plugin", &signature));
            assert!(key.has_signed(b"plugin", text.as_bytes()));
            assert!(!key.has_signed(b"another", &signature));
            assert!(!key.has_signed(b"plugin", &signature[1..]));
            assert!(!key.has_signed(b"plugin", b""));
            assert!(!Signer::p256().key().has_signed(b"plugin", &signature));
        }
    }

    #[test]
    fn a_payload_has_to_be_about_the_digest() {
        let (signer, digest) = (Signer::p256(), Digest::sha256(b"manifest"));
        let payload = |digest: &Digest| {
            serde_json::json!({
                "critical": {
                    "identity": { "docker-reference": "" },
                    "image": { "docker-manifest-digest": digest.to_string() },
                    "type": "cosign container image signature",
                },
                "optional": null,
            })
            .to_string()
        };
        let right = payload(&digest);
        let signature = signer.sign(right.as_bytes());
        assert!(signer.key().has_signed_payload(right.as_bytes(), &signature, &digest));
        let other = payload(&Digest::sha256(b"other"));
        let of_other = signer.sign(other.as_bytes());
        assert!(!signer.key().has_signed_payload(other.as_bytes(), &of_other, &digest));
        assert!(!signer.key().has_signed_payload(right.as_bytes(), &of_other, &digest));
        let nonsense = signer.sign(b"nonsense");
        assert!(!signer.key().has_signed_payload(b"nonsense", &nonsense, &digest));
    }

    #[test]
    fn other_keys_are_refused() {
        let rsa = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----",
            STANDARD.encode([0x30; 90])
        );
        assert_eq!(PublicKey::from_pem(rsa.as_bytes()), Err(KeyError::Kind));
        for text in ["", "-----BEGIN PUBLIC KEY-----", "-----BEGIN PRIVATE KEY-----\nAA"] {
            assert_eq!(PublicKey::from_pem(text.as_bytes()), Err(KeyError::NotPem));
        }
    }
}
