//! What is read out of certificates.
//!
//! Source: RFC 5280, sections 4.1.2.5 (validity), 4.1.2.6 (subject) and 4.2.1.6 (alternative
//! names).

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

use crate::clock::Timestamp;
use crate::hooks::ClientCertificate;

/// The longest name of a client that is used, in bytes.
const SUBJECT_BYTES_MAX: usize = 256;

/// What we want to know of a certificate of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// From when on it is good.
    pub begins: Timestamp,
    /// Until when it is good.
    pub expires: Timestamp,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// The DNS names that it is for, in lower case.
    pub dns_names: Vec<String>,
}

impl Facts {
    /// Reads them; an error says what is wrong.
    pub fn of(der: &CertificateDer<'_>) -> Result<Self, String> {
        let certificate = parse(der)?;
        let validity = certificate.validity();
        let dns_names = names(&certificate).filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        Ok(Self {
            begins: timestamp(validity.not_before),
            expires: timestamp(validity.not_after),
            serial: hex::encode(certificate.tbs_certificate.serial.to_bytes_be()),
            dns_names: dns_names.collect(),
        })
    }

    /// For how long it is good, from its first day on.
    pub const fn lifetime(&self) -> Duration {
        self.expires.since(self.begins)
    }
}

/// The client that a verified certificate stands for.
///
/// Its subject is the first of these that is there: a URI of the alternative names (SPIFFE), a DNS
/// name of them, the common name, `sha256:` and the certificate's fingerprint. What is empty, too
/// long or holds control characters counts as absent: it ends up in logs.
pub fn client(der: &CertificateDer<'_>) -> ClientCertificate {
    let fingerprint = hex::encode(Sha256::digest(der));
    let subject = parse(der).ok().and_then(|certificate| subject(&certificate));
    ClientCertificate {
        subject: subject.unwrap_or_else(|| format!("sha256:{fingerprint}")),
        fingerprint,
        der: Bytes::copy_from_slice(der),
    }
}

fn subject(certificate: &X509Certificate<'_>) -> Option<String> {
    let usable = |name: &&str| {
        !name.is_empty() && name.len() <= SUBJECT_BYTES_MAX && !name.chars().any(char::is_control)
    };
    let uri = || {
        names(certificate)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .find(usable)
    };
    let dns = || {
        names(certificate)
            .filter_map(|name| if let GeneralName::DNSName(dns) = name { Some(*dns) } else { None })
            .find(usable)
    };
    let common = || {
        let mut names = certificate.subject().iter_common_name();
        names.find_map(|name| name.as_str().ok().filter(usable))
    };
    uri().or_else(dns).or_else(common).map(str::to_owned)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    match parse_x509_certificate(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(error) => {
            let mut why = String::from("it is no X.509 certificate: ");
            let _ = write!(why, "{error}");
            Err(why)
        }
    }
}

fn names<'c>(certificate: &'c X509Certificate<'_>) -> impl Iterator<Item = &'c GeneralName<'c>> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    alternative.into_iter().flat_map(|extension| &extension.value.general_names)
}

/// Times before 1970 become 1970: whatever they say is over.
fn timestamp(time: ASN1Time) -> Timestamp {
    Timestamp::from_unix_ms(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common: &str, names: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !common.is_empty() {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        params.subject_alt_names = names;
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 11);
        params.serial_number = Some(0x1f_u64.into());
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    #[test]
    fn facts_are_read() {
        let facts = Facts::of(&certificate("", vec![dns("A.example"), uri("x:y")])).unwrap();
        assert_eq!(facts.dns_names, ["a.example"]);
        assert_eq!(facts.begins.unix_ms(), 1_577_836_800_000);
        assert_eq!(facts.lifetime(), Duration::from_secs(10 * 24 * 3600));
        assert_eq!(facts.serial, "1f");
        assert!(Facts::of(&vec![0x30, 0x03, 1].into()).is_err());
    }

    #[test]
    fn the_subject_is_the_first_name_that_is_there() {
        let spiffe = "spiffe://example.org/ci";
        let all = vec![dns("runner.example"), uri(spiffe)];
        assert_eq!(client(&certificate("runner", all)).subject, spiffe);
        let named = vec![dns("runner.example")];
        assert_eq!(client(&certificate("runner", named)).subject, "runner.example");
        assert_eq!(client(&certificate("runner", vec![])).subject, "runner");
    }

    #[test]
    fn what_cannot_be_a_subject_is_none() {
        for bad in ["", "two\nlines", &"x".repeat(300)] {
            let client = client(&certificate(bad, vec![]));
            assert_eq!(client.subject, format!("sha256:{}", client.fingerprint));
            assert_eq!(client.fingerprint.len(), 64);
        }
    }
}
