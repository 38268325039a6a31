//! Content digests, and the only maker of verified content: [`Hasher`].
//!
//! Source: OCI image-spec, `descriptor.md`, section "Digests".

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// The longest textual digest, in bytes: `sha512:` and 128 hexadecimal digits.
pub const DIGEST_TEXT_BYTES_MAX: usize = 7 + 128;

/// A registered digest algorithm that Pierhead can verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, the default of the field.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// The registered identifier, as it stands before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of a digest, in bytes.
    pub const fn len_bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The digest of some content. Its constructor is its parser, so that a value of this type is
/// always one that can be verified.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    // Shorter digests leave the rest zero, so that derived comparisons are right.
    bytes: [u8; 64],
}

/// Why a text is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` prefix.
    #[error("a digest looks like sha256:<64 lower-case hexadecimal digits>")]
    NoAlgorithm,
    /// The algorithm cannot be verified here, so content under it is not accepted.
    #[error("the digest's algorithm is not supported; sha256 and sha512 are")]
    UnsupportedAlgorithm,
    /// The encoded part has the wrong length for its algorithm.
    #[error("the digest has the wrong length for its algorithm")]
    WrongLength,
    /// The encoded part is not lower-case hexadecimal.
    #[error("the digest is not lower-case hexadecimal")]
    NotLowerHex,
}

impl Digest {
    /// The digest of `content` under `algorithm`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish().digest
    }

    /// The SHA-256 digest of `content`.
    pub fn sha256(content: &[u8]) -> Self {
        Self::of(Algorithm::Sha256, content)
    }

    /// The algorithm that made this digest.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The encoded part: lower-case hexadecimal, safe as a file name.
    pub fn encoded(&self) -> String {
        hex::encode(&self.bytes[..self.algorithm.len_bytes()])
    }

    /// A number that is as random as the digest.
    pub fn spread(&self) -> u64 {
        self.bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
    }

    fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Self {
        let mut bytes = [0; 64];
        bytes[..raw.len()].copy_from_slice(raw);
        Self { algorithm, bytes }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, encoded) = text.split_once(':').ok_or(DigestError::NoAlgorithm)?;
        let algorithm = match algorithm {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => return Err(DigestError::UnsupportedAlgorithm),
        };
        if encoded.len() != algorithm.len_bytes() * 2 {
            return Err(DigestError::WrongLength);
        }
        if !encoded.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::NotLowerHex);
        }
        let mut bytes = [0; 64];
        hex::decode_to_slice(encoded, &mut bytes[..algorithm.len_bytes()])
            .map_err(|_| DigestError::NotLowerHex)?;
        Ok(Self { algorithm, bytes })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.encoded())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Proof that exactly `len` bytes with this digest went through a [`Hasher`].
///
/// Stores accept content only together with this, and nothing else can make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    digest: Digest,
    len: u64,
}

impl Verified {
    /// The digest of the bytes that were hashed.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How many bytes were hashed.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was hashed at all: the empty blob is legal.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Hashes `content` and compares: the way to verify what is in memory whole.
    #[allow(clippy::result_large_err, reason = "one a blob, and it is all digests")]
    pub fn check(content: &[u8], expected: &Digest) -> Result<Self, Mismatch> {
        let mut hasher = Hasher::new(expected.algorithm);
        hasher.update(content);
        hasher.verify(expected)
    }
}

/// Content did not have the digest under which it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("content of {len} bytes has digest {actual}, not {expected}")]
pub struct Mismatch {
    /// What was asked for.
    pub expected: Digest,
    /// What arrived.
    pub actual: Digest,
    /// How many bytes arrived.
    pub len: u64,
}

/// Hashes content as it passes by.
#[derive(Clone)]
pub struct Hasher {
    state: State,
    len: u64,
}

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        let state = match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        };
        Self { state, len: 0 }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
        self.len += bytes.len() as u64;
    }

    /// How many bytes were taken in.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was taken in yet.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Ends the hashing: whatever went in is what its digest says.
    pub fn finish(self) -> Verified {
        let digest = match self.state {
            State::Sha256(state) => Digest::from_raw(Algorithm::Sha256, &state.finalize()),
            State::Sha512(state) => Digest::from_raw(Algorithm::Sha512, &state.finalize()),
        };
        Verified { digest, len: self.len }
    }

    /// Ends the hashing and compares with the digest that was asked for.
    #[allow(clippy::result_large_err, reason = "one a blob, and it is all digests")]
    pub fn verify(self, expected: &Digest) -> Result<Verified, Mismatch> {
        let verified = self.finish();
        if verified.digest == *expected {
            Ok(verified)
        } else {
            Err(Mismatch { expected: *expected, actual: verified.digest, len: verified.len })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn any_algorithm() -> impl Strategy<Value = Algorithm> {
        prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Sha512)]
    }

    #[test]
    fn known_digests() {
        assert_eq!(Digest::sha256(b"").to_string(), EMPTY);
        assert_eq!(
            Digest::of(Algorithm::Sha512, b"abc").to_string(),
            "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        );
    }

    #[test]
    fn what_is_not_a_digest() {
        let encoded = &EMPTY["sha256:".len()..];
        for (text, error) in [
            (String::new(), DigestError::NoAlgorithm),
            (encoded.to_owned(), DigestError::NoAlgorithm),
            (format!("sha384:{encoded}{}", &encoded[..32]), DigestError::UnsupportedAlgorithm),
            (format!("SHA256:{encoded}"), DigestError::UnsupportedAlgorithm),
            (format!("sha256+b64u:{encoded}"), DigestError::UnsupportedAlgorithm),
            (format!(":{encoded}"), DigestError::UnsupportedAlgorithm),
            (format!("sha256:{}", &encoded[1..]), DigestError::WrongLength),
            (format!("sha256:{encoded}0"), DigestError::WrongLength),
            (format!("sha512:{encoded}"), DigestError::WrongLength),
            (EMPTY.replace('e', "E"), DigestError::NotLowerHex),
            (EMPTY.replace("e3", "g3"), DigestError::NotLowerHex),
            (EMPTY.replace("e3", "\u{e4}"), DigestError::NotLowerHex),
            (EMPTY.replace("a4", "/.").replace(":e3", ":.."), DigestError::NotLowerHex),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }

    #[test]
    fn mismatches_say_what_arrived() {
        let expected = Digest::sha256(b"expected");
        let mismatch = Verified::check(b"actual", &expected).unwrap_err();
        assert_eq!(mismatch, Mismatch { expected, actual: Digest::sha256(b"actual"), len: 6 });
        assert!(Verified::check(b"", &EMPTY.parse().unwrap()).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn display_parses_back(algorithm in any_algorithm(), content in any::<Vec<u8>>()) {
            let digest = Digest::of(algorithm, &content);
            let text = digest.to_string();
            prop_assert!(text.len() <= DIGEST_TEXT_BYTES_MAX);
            prop_assert_eq!(text.parse(), Ok(digest));
            prop_assert_eq!(text, format!("{algorithm}:{}", digest.encoded()));
            let json = serde_json::to_string(&digest).unwrap();
            prop_assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        }

        #[test]
        fn pieces_hash_as_the_whole(
            algorithm in any_algorithm(),
            content in any::<Vec<u8>>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let (left, right) = content.split_at(cut.index(content.len() + 1));
            let mut hasher = Hasher::new(algorithm);
            hasher.update(left);
            hasher.update(right);
            prop_assert_eq!(hasher.len(), content.len() as u64);
            let verified = hasher.verify(&Digest::of(algorithm, &content)).unwrap();
            prop_assert_eq!(verified.len(), content.len() as u64);
        }

        #[test]
        fn never_panics(text in "(sha256:|sha512:)?[0-9a-f]{0,130}|\\PC*") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
