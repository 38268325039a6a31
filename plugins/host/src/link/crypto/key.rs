//! Public keys as guests hand them over, made into what ring takes.
//!
//! A point that is not on its curve is not found out here; no signature verifies with it.

use crate::wit::imports::crypto::PublicKey;

/// What a point belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    Ed25519,
}

// Contents of DER object identifiers (RFC 5480, RFC 8410, RFC 8017).
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const SECP256R1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const SECP384R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// Keys of RSA in bytes: 2048 to 8192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

impl Curve {
    const fn point_bytes(self) -> usize {
        match self {
            Self::P256 => 65,
            Self::P384 => 97,
            Self::Ed25519 => 32,
        }
    }

    fn has_algorithm(self, algorithm: &[u8], parameters: Option<&[u8]>) -> bool {
        match self {
            Self::P256 => algorithm == EC_PUBLIC_KEY && parameters == Some(SECP256R1),
            Self::P384 => algorithm == EC_PUBLIC_KEY && parameters == Some(SECP384R1),
            Self::Ed25519 => algorithm == ED25519,
        }
    }
}

/// The point of a key.
pub(super) fn point(key: &PublicKey, curve: Curve) -> Result<&[u8], String> {
    let point = match key {
        PublicKey::Point(point) => point.as_slice(),
        PublicKey::Rsa(_) => {
            return Err("the scheme wants a point, and this is an RSA key".to_owned());
        }
        PublicKey::Spki(der) => {
            let info = spki(der).ok_or("the key is not a SubjectPublicKeyInfo")?;
            if !curve.has_algorithm(info.algorithm, info.parameters) {
                return Err("the key is of another algorithm than the scheme".to_owned());
            }
            info.key
        }
    };
    let uncompressed = curve == Curve::Ed25519 || point.first() == Some(&4);
    if point.len() != curve.point_bytes() || !uncompressed {
        return Err(format!("the scheme's keys have {} bytes, uncompressed", curve.point_bytes()));
    }
    Ok(point)
}

/// The modulus and the exponent of a key, without leading zeros.
pub(super) fn rsa(key: &PublicKey) -> Result<(&[u8], &[u8]), String> {
    let (n, e) = match key {
        PublicKey::Rsa((n, e)) => (n.as_slice(), e.as_slice()),
        PublicKey::Point(_) => {
            return Err("the scheme wants an RSA key, and this is a point".to_owned());
        }
        PublicKey::Spki(der) => {
            let info = spki(der).ok_or("the key is not a SubjectPublicKeyInfo")?;
            if info.algorithm != RSA_ENCRYPTION {
                return Err("the key is of another algorithm than the scheme".to_owned());
            }
            rsa_numbers(info.key).ok_or("the RSA key is malformed")?
        }
    };
    let (n, e) = (number(n), number(e));
    if !RSA_BYTES.contains(&n.len()) {
        return Err("an RSA key has 2048 to 8192 bits".to_owned());
    }
    let odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    // ring takes exponents of up to 33 bits.
    if !odd(n) || !odd(e) || e.len() > 5 || e == [1] {
        return Err("the RSA key makes no sense".to_owned());
    }
    Ok((n, e))
}

fn number(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

struct Spki<'a> {
    algorithm: &'a [u8],
    /// The contents of an object identifier, if the parameters are one.
    parameters: Option<&'a [u8]>,
    key: &'a [u8],
}

fn spki(der: &[u8]) -> Option<Spki<'_>> {
    let (info, rest) = element(der, SEQUENCE)?;
    let (identifier, bits) = element(info, SEQUENCE)?;
    let (algorithm, parameters) = element(identifier, OBJECT_IDENTIFIER)?;
    let (bits, after) = element(bits, BIT_STRING)?;
    let (unused, key) = bits.split_first()?;
    (rest.is_empty() && after.is_empty() && *unused == 0).then_some(Spki {
        algorithm,
        parameters: element(parameters, OBJECT_IDENTIFIER).map(|(parameters, _)| parameters),
        key,
    })
}

fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (numbers, rest) = element(der, SEQUENCE)?;
    let (n, e) = element(numbers, INTEGER)?;
    let (e, after) = element(e, INTEGER)?;
    (rest.is_empty() && after.is_empty()).then_some((n, e))
}

/// The contents of the first element, if it has this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    (first == tag).then_some(())?;
    rest.split_at_checked(length)
}
