//! Hashes of passwords, as they stand in the file.

use argon2::password_hash::PasswordVerifier as _;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, Params};
use pierhead_plugin::crypto;

/// The highest cost of bcrypt: each step more doubles the time, and a login has two seconds.
const BCRYPT_COST_MAX: u32 = 14;

/// The most memory that argon2 may want, in KiB: an instance has 32 MiB.
const ARGON2_MEMORY_KIB_MAX: u32 = 24 << 10;

/// How many bytes of a password bcrypt looks at, with the zero that ends it.
const BCRYPT_BYTES_MAX: usize = 72;

/// The digits of bcrypt's base64.
const DIGITS: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A hash of a password.
pub(crate) enum Hash {
    /// bcrypt: `$2y$10$…`. The last byte of its 24 is not kept by anybody.
    Bcrypt { cost: u32, salt: [u8; 16], hash: [u8; 23] },
    /// argon2: `$argon2id$v=19$m=…`.
    Argon2(Box<PasswordHash>),
}

impl std::fmt::Debug for Hash {
    /// A hash is as good as a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bcrypt { .. } => "Bcrypt(..)",
            Self::Argon2(_) => "Argon2(..)",
        })
    }
}

/// Bytes from bcrypt's base64.
fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut at = 0;
    let mut bits = 0_u32;
    let mut count = 0;
    for digit in text.bytes() {
        let value = DIGITS.iter().position(|known| *known == digit)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 && at < N {
            count -= 8;
            // The eight bits that are complete; what is above them was taken before.
            bytes[at] = u8::try_from(bits >> count & 0xff).ok()?;
            at += 1;
        }
    }
    (at == N).then_some(bytes)
}

impl Hash {
    /// Reads a hash. What is wrong with it is told without showing it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("$argon2") {
            return Self::argon2(text);
        }
        let bcrypt = ["$2y$", "$2b$", "$2a$"].iter().find_map(|prefix| text.strip_prefix(prefix));
        match bcrypt {
            Some(rest) => Self::bcrypt(rest),
            None => {
                Err("the hash is neither bcrypt nor argon2: make one with `htpasswd -B`".to_owned())
            }
        }
    }

    fn bcrypt(rest: &str) -> Result<Self, String> {
        let malformed = || "the hash is not a whole one of bcrypt".to_owned();
        let (cost, rest) = rest.split_once('$').ok_or_else(malformed)?;
        let cost: u32 = cost.parse().map_err(|_| malformed())?;
        if !(4..=BCRYPT_COST_MAX).contains(&cost) {
            return Err(format!(
                "bcrypt's cost is {cost}, and 4 to {BCRYPT_COST_MAX} are possible"
            ));
        }
        let (salt, hash) = rest.split_at_checked(22).ok_or_else(malformed)?;
        if hash.len() != 31 {
            return Err(malformed());
        }
        let salt = decode(salt).ok_or_else(malformed)?;
        let hash = decode(hash).ok_or_else(malformed)?;
        Ok(Self::Bcrypt { cost, salt, hash })
    }

    fn argon2(text: &str) -> Result<Self, String> {
        let malformed = |_| "the hash is not a whole one of argon2".to_owned();
        let hash = PasswordHash::new(text).map_err(malformed)?;
        let params = Params::try_from(&hash)
            .map_err(|_| "the hash has parameters that argon2 does not know".to_owned())?;
        if params.m_cost() > ARGON2_MEMORY_KIB_MAX {
            return Err(format!(
                "argon2 wants {} KiB of memory, and {ARGON2_MEMORY_KIB_MAX} are possible",
                params.m_cost()
            ));
        }
        if hash.salt.is_none() || hash.hash.is_none() {
            return Err("the hash is not a whole one of argon2".to_owned());
        }
        Ok(Self::Argon2(Box::new(hash)))
    }

    /// Whether this is the password.
    pub(crate) fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt { cost, salt, hash } => {
                // bcrypt takes a text that a zero ends, and no more of it than this.
                let mut text = [0; BCRYPT_BYTES_MAX];
                let length = password.len().min(BCRYPT_BYTES_MAX);
                text[..length].copy_from_slice(&password[..length]);
                let text = &text[..(length + 1).min(BCRYPT_BYTES_MAX)];
                let found = bcrypt::bcrypt(*cost, *salt, text);
                // With a zero in the middle, another password has the same hash.
                crypto::equal(&found[..23], hash) && !password.contains(&0)
            }
            Self::Argon2(hash) => {
                Argon2::default().verify_password(password, hash.as_ref()).is_ok()
            }
        }
    }
}
