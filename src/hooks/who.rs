//! Who asks: the client, what it presents, and who it turns out to be.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::secret::Secret;

/// The most notes that one request may leave in the access log.
const NOTES_MAX: usize = 32;

/// The longest value of a note, in bytes.
const NOTE_BYTES_MAX: usize = 512;

/// Who is at the other end of the connection.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its address, as far as trusted proxies tell.
    pub address: IpAddr,
    /// Whether its connection is encrypted, as far as trusted proxies tell.
    pub encrypted: bool,
    /// What the client calls itself.
    pub user_agent: Option<String>,
    /// Whom its certificate names, if it showed one that TLS has verified.
    pub tls_subject: Option<String>,
}

/// What the client presented to prove who it is.
#[derive(Clone, Debug)]
pub enum Presented {
    /// Nothing.
    Anonymous,
    /// `Authorization: Basic`.
    Basic {
        /// The user's name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// `Authorization: Bearer`.
    Bearer(Secret),
    /// A certificate that TLS has verified: of an authority that the operator named, within its
    /// time, and the client holds its key.
    Certificate {
        /// The certificate.
        certificate: Arc<ClientCertificate>,
        /// What the `Authorization` header held beside it. It proves nothing yet.
        beside: Box<Presented>,
    },
}

/// A client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Whom it names: a URI, a DNS name or the common name, in this order; else `sha256:` and the
    /// fingerprint. Without control characters.
    pub subject: String,
    /// The SHA-256 digest of the certificate, in hexadecimal digits.
    pub fingerprint: String,
    /// The certificate in DER.
    pub der: Bytes,
}

/// Who the client turned out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The name that authorisation and logs use.
    pub subject: String,
    /// Who vouches for it: an issuer's URL, the name of a mount, or [`Identity::TLS`].
    pub issuer: String,
    /// How it was proved: `basic`, `bearer`, `certificate`.
    pub method: String,
    /// Groups that it belongs to.
    pub groups: Vec<String>,
    /// More that is known of it, such as a token's claims.
    pub claims: Vec<(String, String)>,
    /// When the proof ends; never, if it does not say.
    pub expires_at: Option<Timestamp>,
}

impl Identity {
    /// The issuer of identities that a certificate alone proves.
    pub const TLS: &'static str = "tls";

    /// Whom a verified certificate names.
    pub fn of_certificate(certificate: &ClientCertificate) -> Self {
        Self {
            subject: certificate.subject.clone(),
            issuer: Self::TLS.to_owned(),
            method: "certificate".to_owned(),
            ..Self::default()
        }
    }

    /// Whether the proof has ended at `now`.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// One registry request, as far as it is known before its route is acted on. Clones share the
/// notes.
#[derive(Clone, Debug)]
pub struct Context {
    /// The id that logs and the `X-Request-Id` header carry.
    pub request_id: String,
    /// The client.
    pub client: Client,
    /// The authenticated identity, if any.
    pub identity: Option<Arc<Identity>>,
    /// What plugins want in the access log.
    pub notes: Notes,
}

impl Context {
    /// A request of somebody who is not known yet.
    pub fn new(request_id: impl Into<String>, client: Client) -> Self {
        Self { request_id: request_id.into(), client, identity: None, notes: Notes::default() }
    }
}

/// Keys and values for the access log's line of one request. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<OnceLock<Mutex<Pairs>>>);

/// Keys and values, in the order in which they were noted.
type Pairs = Vec<(String, String)>;

impl Notes {
    /// Notes something. What is too much is left out, what is too long is cut, and what could
    /// break a log line is blanked.
    pub fn add(&self, key: &str, value: &str) {
        let notes = self.0.get_or_init(Mutex::default);
        let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() < NOTES_MAX {
            notes.push((
                super::answer::line(key, NOTE_BYTES_MAX),
                super::answer::line(value, NOTE_BYTES_MAX),
            ));
        }
    }

    /// All of them as one text, `key=value` with spaces between; none if there is none.
    pub fn line(&self) -> Option<String> {
        let pairs: Vec<String> =
            self.all().into_iter().map(|(key, value)| format!("{key}={value:?}")).collect();
        (!pairs.is_empty()).then(|| pairs.join(" "))
    }

    /// All of them, in the order in which they came.
    pub fn all(&self) -> Vec<(String, String)> {
        self.0.get().map_or_else(Vec::new, |notes| {
            notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_bounded_and_of_one_line() {
        let notes = Notes::default();
        assert!(notes.all().is_empty());
        notes.clone().add("ticket", "a\nb");
        notes.add("long", &"\u{e4}".repeat(NOTE_BYTES_MAX));
        assert_eq!(notes.all()[0], ("ticket".to_owned(), "a b".to_owned()));
        assert_eq!(Notes::default().line(), None);
        assert!(notes.line().unwrap().starts_with(r#"ticket="a b" long="#));
        assert!(notes.all()[1].1.len() <= NOTE_BYTES_MAX);
        for _ in 0..2 * NOTES_MAX {
            notes.add("flood", "");
        }
        assert_eq!(notes.all().len(), NOTES_MAX);
    }

    #[test]
    fn a_proof_ends() {
        let at = Timestamp::from_unix_ms;
        let forever = Identity::default();
        let short = Identity { expires_at: Some(at(1000)), ..Identity::default() };
        assert!(!forever.is_over(at(u64::MAX)));
        assert!(!short.is_over(at(999)) && short.is_over(at(1000)));
    }
}
