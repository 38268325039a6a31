//! Tests of cryptography with answers of another implementation.

mod answers;

use super::*;
use answers::*;

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).expect("written well")
}

fn spki(hex: &str) -> PublicKey {
    PublicKey::Spki(bytes(hex))
}

/// The two numbers side by side, from the same signature in DER.
fn fixed(der: &str, half: usize) -> Vec<u8> {
    let der = bytes(der);
    let first = usize::from(der[3]);
    let (r, s) = (&der[4..4 + first], &der[6 + first..]);
    let mut fixed = Vec::new();
    for number in [r, s] {
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        fixed.resize(fixed.len() + half - number.len(), 0);
        fixed.extend_from_slice(number);
    }
    fixed
}

/// All schemes with a key and a signature.
fn all() -> Vec<(SignatureScheme, PublicKey, Vec<u8>)> {
    vec![
        (SignatureScheme::RsaPkcs1Sha256, spki(RSA), bytes(RS256)),
        (SignatureScheme::RsaPkcs1Sha384, spki(RSA), bytes(RS384)),
        (SignatureScheme::RsaPkcs1Sha512, spki(RSA), bytes(RS512)),
        (SignatureScheme::RsaPssSha256, spki(RSA), bytes(PS256)),
        (SignatureScheme::EcdsaP256Sha256, spki(P256), bytes(ES256)),
        (SignatureScheme::EcdsaP256Sha256Fixed, spki(P256), fixed(ES256, 32)),
        (SignatureScheme::EcdsaP384Sha384, spki(P384), bytes(ES384)),
        (SignatureScheme::EcdsaP384Sha384Fixed, spki(P384), fixed(ES384, 48)),
        (SignatureScheme::Ed25519, spki(ED25519), bytes(EDDSA)),
    ]
}

#[test]
fn good_signatures_verify_and_others_do_not() {
    for (scheme, key, signature) in all() {
        assert_eq!(verify(scheme, &key, MESSAGE, &signature), Ok(true), "{scheme:?}");
        assert_eq!(verify(scheme, &key, b"another", &signature), Ok(false), "{scheme:?}");
        assert_eq!(verify(scheme, &key, MESSAGE, b""), Ok(false), "{scheme:?}");
        let mut damaged = signature.clone();
        damaged[signature.len() / 2] ^= 1;
        assert_eq!(verify(scheme, &key, MESSAGE, &damaged), Ok(false), "{scheme:?}");
    }
}

#[test]
fn keys_come_in_the_forms_of_a_jwk() {
    for (scheme, key, signature) in all() {
        let PublicKey::Spki(der) = &key else { panic!("{key:?}") };
        let other = match scheme {
            SignatureScheme::Ed25519 => PublicKey::Point(der[der.len() - 32..].to_vec()),
            SignatureScheme::EcdsaP256Sha256 | SignatureScheme::EcdsaP256Sha256Fixed => {
                PublicKey::Point(der[der.len() - 65..].to_vec())
            }
            SignatureScheme::EcdsaP384Sha384 | SignatureScheme::EcdsaP384Sha384Fixed => {
                PublicKey::Point(der[der.len() - 97..].to_vec())
            }
            _ => {
                let (n, e) = key::rsa(&key).expect("a key");
                PublicKey::Rsa((n.to_vec(), e.to_vec()))
            }
        };
        assert_eq!(verify(scheme, &other, MESSAGE, &signature), Ok(true), "{scheme:?}");
    }
}

#[test]
fn keys_that_make_no_sense_are_errors() {
    let rsa = SignatureScheme::RsaPkcs1Sha256;
    let p256 = SignatureScheme::EcdsaP256Sha256;
    let ed = SignatureScheme::Ed25519;
    for (scheme, key) in [
        (rsa, spki(P256)),
        (rsa, spki(RSA_SHORT)),
        (rsa, PublicKey::Point(vec![4; 65])),
        (rsa, PublicKey::Rsa((vec![], vec![3]))),
        (rsa, PublicKey::Rsa((vec![0xff; 256], vec![]))),
        (rsa, PublicKey::Rsa((vec![0xff; 256], vec![1]))),
        (rsa, PublicKey::Rsa((vec![0xff; 256], vec![4]))),
        (rsa, PublicKey::Rsa((vec![0xff; 1025], vec![3]))),
        (p256, spki(P384)),
        (p256, spki(RSA)),
        (p256, PublicKey::Point(vec![4; 64])),
        (p256, PublicKey::Point(vec![2; 65])),
        (p256, PublicKey::Rsa((vec![0xff; 256], vec![3]))),
        (ed, spki(P256)),
        (ed, PublicKey::Point(vec![1; 33])),
        (ed, PublicKey::Spki(vec![])),
    ] {
        let verified = verify(scheme, &key, MESSAGE, b"x");
        assert!(verified.is_err(), "{scheme:?} {key:?} {verified:?}");
    }
    // A key that is cut off anywhere is none, and breaks nothing.
    for whole in [RSA, P256, ED25519] {
        let whole = bytes(whole);
        for end in 0..whole.len() {
            let key = PublicKey::Spki(whole[..end].to_vec());
            for scheme in [rsa, p256, ed] {
                assert!(verify(scheme, &key, MESSAGE, b"x").is_err(), "{end}");
            }
        }
    }
}

#[test]
fn texts_are_compared() {
    assert!(equal(b"", b""));
    assert!(equal(b"abc", b"abc"));
    assert!(!equal(b"abc", b"abd"));
    assert!(!equal(b"abc", b"abcd"));
}
