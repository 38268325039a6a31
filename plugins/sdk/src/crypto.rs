//! Cryptography, done by Pierhead at native speed.

pub use crate::bindings::imports::pierhead::plugin::crypto::{Hash, PublicKey, SignatureScheme};
use crate::host;

/// Hashes.
#[must_use]
pub fn digest(hash: Hash, data: &[u8]) -> Vec<u8> {
    host::crypto::digest(hash, data)
}

/// The digest of content as manifests write it: `sha256:` and hexadecimal digits.
#[must_use]
pub fn content_digest(data: &[u8]) -> String {
    use std::fmt::Write as _;
    digest(Hash::Sha256, data).iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// HMAC (RFC 2104).
#[must_use]
pub fn hmac(hash: Hash, key: &[u8], data: &[u8]) -> Vec<u8> {
    host::crypto::hmac(hash, key, data)
}

/// Whether two texts are equal, in a time that does not tell where they differ.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    host::crypto::equal(a, b)
}

/// Verifies a signature. A wrong one is `false`.
///
/// # Errors
/// When the key makes no sense.
pub fn verify(
    scheme: SignatureScheme,
    key: &PublicKey,
    message: &[u8],
    signature: &[u8],
) -> Result<bool, String> {
    host::crypto::verify(scheme, key, message, signature)
}
