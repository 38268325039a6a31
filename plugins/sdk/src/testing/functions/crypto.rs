//! `crypto`, played: for real with the feature `testing-crypto`, and not at all without it.

#![cfg_attr(
    not(feature = "testing-crypto"),
    allow(clippy::panic, reason = "a test has to learn what it lacks")
)]

#[cfg(feature = "testing-crypto")]
pub use real::{digest, hmac, verify};
#[cfg(not(feature = "testing-crypto"))]
pub use without::{digest, hmac, verify};

/// Whether two texts are equal.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a == b
}

#[cfg(not(feature = "testing-crypto"))]
mod without {
    use crate::crypto::{Hash, PublicKey, SignatureScheme};

    const LACKS: &str = "cryptography in tests needs the feature testing-crypto of pierhead-plugin";

    /// Panics.
    pub fn digest(_: Hash, _: &[u8]) -> Vec<u8> {
        panic!("{LACKS}")
    }

    /// Panics.
    pub fn hmac(_: Hash, _: &[u8], _: &[u8]) -> Vec<u8> {
        panic!("{LACKS}")
    }

    /// Panics.
    ///
    /// # Errors
    /// Never.
    pub fn verify(_: SignatureScheme, _: &PublicKey, _: &[u8], _: &[u8]) -> Result<bool, String> {
        panic!("{LACKS}")
    }
}

#[cfg(feature = "testing-crypto")]
mod real {
    use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};

    use crate::crypto::{Hash, PublicKey, SignatureScheme};

    /// Hashes.
    #[must_use]
    pub fn digest(hash: Hash, data: &[u8]) -> Vec<u8> {
        let algorithm = match hash {
            Hash::Sha256 => &ring::digest::SHA256,
            Hash::Sha384 => &ring::digest::SHA384,
            Hash::Sha512 => &ring::digest::SHA512,
        };
        ring::digest::digest(algorithm, data).as_ref().to_owned()
    }

    /// HMAC.
    #[must_use]
    pub fn hmac(hash: Hash, key: &[u8], data: &[u8]) -> Vec<u8> {
        let algorithm = match hash {
            Hash::Sha256 => ring::hmac::HMAC_SHA256,
            Hash::Sha384 => ring::hmac::HMAC_SHA384,
            Hash::Sha512 => ring::hmac::HMAC_SHA512,
        };
        ring::hmac::sign(&ring::hmac::Key::new(algorithm, key), data).as_ref().to_owned()
    }

    /// Verifies.
    ///
    /// # Errors
    /// When the key is of a kind that the scheme does not know, or is an SPKI, which is not played.
    pub fn verify(
        scheme: SignatureScheme,
        key: &PublicKey,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, String> {
        let rsa = match scheme {
            SignatureScheme::RsaPkcs1Sha256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            SignatureScheme::RsaPkcs1Sha384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            SignatureScheme::RsaPkcs1Sha512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            SignatureScheme::RsaPssSha256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
            _ => None,
        };
        match (key, rsa) {
            (PublicKey::Rsa((n, e)), Some(parameters)) => {
                let key = RsaPublicKeyComponents { n: n.as_slice(), e: e.as_slice() };
                Ok(key.verify(parameters, message, signature).is_ok())
            }
            (PublicKey::Point(point), None) => {
                let algorithm: &dyn VerificationAlgorithm = match scheme {
                    SignatureScheme::EcdsaP256Sha256 => &signature::ECDSA_P256_SHA256_ASN1,
                    SignatureScheme::EcdsaP256Sha256Fixed => &signature::ECDSA_P256_SHA256_FIXED,
                    SignatureScheme::EcdsaP384Sha384 => &signature::ECDSA_P384_SHA384_ASN1,
                    SignatureScheme::EcdsaP384Sha384Fixed => &signature::ECDSA_P384_SHA384_FIXED,
                    _ => &signature::ED25519,
                };
                Ok(UnparsedPublicKey::new(algorithm, point).verify(message, signature).is_ok())
            }
            (PublicKey::Spki(_), _) => {
                Err("an SPKI is not understood in tests: use a point or an RSA key".to_owned())
            }
            (PublicKey::Rsa(_) | PublicKey::Point(_), _) => {
                Err("the key is not one of this scheme".to_owned())
            }
        }
    }
}
