//! Cryptography for guests, by ring.

mod key;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use ring::{digest, hmac, signature};

use crate::state::State;
use crate::wit::imports::crypto::{Hash, Host, PublicKey, SignatureScheme};

impl Host for State {
    fn digest(&mut self, hash: Hash, data: Vec<u8>) -> wasmtime::Result<Vec<u8>> {
        self.called();
        let algorithm = match hash {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha384 => &digest::SHA384,
            Hash::Sha512 => &digest::SHA512,
        };
        Ok(digest::digest(algorithm, &data).as_ref().to_vec())
    }

    fn hmac(&mut self, hash: Hash, key: Vec<u8>, data: Vec<u8>) -> wasmtime::Result<Vec<u8>> {
        self.called();
        let algorithm = match hash {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha384 => hmac::HMAC_SHA384,
            Hash::Sha512 => hmac::HMAC_SHA512,
        };
        Ok(hmac::sign(&hmac::Key::new(algorithm, &key), &data).as_ref().to_vec())
    }

    fn equal(&mut self, a: Vec<u8>, b: Vec<u8>) -> wasmtime::Result<bool> {
        self.called();
        Ok(equal(&a, &b))
    }

    fn verify(
        &mut self,
        scheme: SignatureScheme,
        key: PublicKey,
        message: Vec<u8>,
        signature: Vec<u8>,
    ) -> wasmtime::Result<Result<bool, String>> {
        self.called();
        Ok(verify(scheme, &key, &message, &signature))
    }
}

/// Compares by MACs under a key of the process's own: where two texts differ says nothing about
/// where their MACs do.
fn equal(a: &[u8], b: &[u8]) -> bool {
    static KEY: LazyLock<Option<hmac::Key>> = LazyLock::new(|| {
        hmac::Key::generate(hmac::HMAC_SHA256, &ring::rand::SystemRandom::new()).ok()
    });
    // A system without random numbers has no TLS either; then nothing is equal.
    KEY.as_ref().is_some_and(|key| hmac::verify(key, a, hmac::sign(key, b).as_ref()).is_ok())
}

fn verify(
    scheme: SignatureScheme,
    key: &PublicKey,
    message: &[u8],
    given: &[u8],
) -> Result<bool, String> {
    use signature as s;
    let point = |kind, algorithm: &'static dyn s::VerificationAlgorithm| {
        let point = key::point(key, kind)?;
        Ok(s::UnparsedPublicKey::new(algorithm, point).verify(message, given).is_ok())
    };
    let rsa = |algorithm: &'static s::RsaParameters| {
        let (n, e) = key::rsa(key)?;
        let key = s::RsaPublicKeyComponents { n, e };
        Ok(key.verify(algorithm, message, given).is_ok())
    };
    match scheme {
        SignatureScheme::EcdsaP256Sha256 => point(key::Curve::P256, &s::ECDSA_P256_SHA256_ASN1),
        SignatureScheme::EcdsaP256Sha256Fixed => {
            point(key::Curve::P256, &s::ECDSA_P256_SHA256_FIXED)
        }
        SignatureScheme::EcdsaP384Sha384 => point(key::Curve::P384, &s::ECDSA_P384_SHA384_ASN1),
        SignatureScheme::EcdsaP384Sha384Fixed => {
            point(key::Curve::P384, &s::ECDSA_P384_SHA384_FIXED)
        }
        SignatureScheme::Ed25519 => point(key::Curve::Ed25519, &s::ED25519),
        SignatureScheme::RsaPkcs1Sha256 => rsa(&s::RSA_PKCS1_2048_8192_SHA256),
        SignatureScheme::RsaPkcs1Sha384 => rsa(&s::RSA_PKCS1_2048_8192_SHA384),
        SignatureScheme::RsaPkcs1Sha512 => rsa(&s::RSA_PKCS1_2048_8192_SHA512),
        SignatureScheme::RsaPssSha256 => rsa(&s::RSA_PSS_2048_8192_SHA256),
    }
}
