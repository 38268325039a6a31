//! Answers of authenticators that are used again for a short while, so that a pull with Basic
//! credentials does not pay for a password hash with every layer.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::clock::Timestamp;
use crate::hooks::{Client, Denial, Identity, Presented};

/// How long an answer of authenticators is used again for the same credentials from the same
/// address. A password that was withdrawn counts for so long.
pub(super) const LOGIN_TTL: Duration = Duration::from_secs(30);

/// How many of them are kept.
pub(super) const LOGINS_MAX: u64 = 16_384;

/// What came of asking who somebody is.
pub(super) type Known = Result<Option<Arc<Identity>>, Denial>;

/// Logins that were accepted, and credentials that nobody knows. Rejections are not kept.
pub(super) struct Logins {
    /// Makes the keys useless outside of this process: no credentials lie in memory.
    salt: Option<[u8; 32]>,
    cache: Cache<Key, Entry>,
}

/// Which chain was asked, for which credentials, by which client: all that an authenticator is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    generation: u64,
    /// Of the credentials, and of what the client is besides its address.
    hash: [u8; 32],
    address: IpAddr,
}

#[derive(Clone, Debug)]
struct Entry {
    identity: Option<Arc<Identity>>,
    until: Instant,
}

impl Logins {
    pub(super) fn new() -> Self {
        let mut salt = [0; 32];
        // Without randomness nothing is kept.
        let salt = getrandom::fill(&mut salt).is_ok().then_some(salt);
        Self { salt, cache: Cache::builder().name("logins").max_capacity(LOGINS_MAX).build() }
    }

    /// The key of credentials; none if they cannot be kept.
    pub(super) fn key(
        &self,
        generation: u64,
        presented: &Presented,
        client: &Client,
    ) -> Option<Key> {
        let mut hash = Sha256::new();
        hash.update(self.salt?);
        // Lengths keep one pair of texts from looking like another one.
        let mut add = |text: &[u8]| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        match presented {
            Presented::Anonymous => add(b"anonymous"),
            Presented::Basic { username, password } => {
                add(b"basic");
                add(username.as_bytes());
                add(password.expose().as_bytes());
            }
            Presented::Bearer(token) => {
                add(b"bearer");
                add(token.expose().as_bytes());
            }
            Presented::Certificate { certificate, .. } => {
                add(b"certificate");
                add(certificate.fingerprint.as_bytes());
            }
        }
        let mut add_optional = |text: Option<&str>| {
            add(&[u8::from(text.is_some())]);
            add(text.unwrap_or("").as_bytes());
        };
        add_optional(client.tls_subject.as_deref());
        add_optional(client.user_agent.as_deref());
        add(&[u8::from(client.encrypted)]);
        Some(Key { generation, hash: hash.finalize().into(), address: client.address })
    }

    /// What authenticators said of these credentials, if that is kept. `Some(None)`: nobody knows
    /// them.
    pub(super) fn get(&self, key: &Key) -> Option<Option<Arc<Identity>>> {
        let entry = self.cache.get(key)?;
        (Instant::now() < entry.until).then_some(entry.identity)
    }

    /// Keeps what authenticators said at `now`.
    pub(super) fn put(&self, key: Key, identity: Option<&Arc<Identity>>, now: Timestamp) {
        let mut life = LOGIN_TTL;
        if let Some(end) = identity.and_then(|identity| identity.expires_at) {
            life = life.min(end.since(now));
        }
        let entry = Entry { identity: identity.cloned(), until: Instant::now() + life };
        self.cache.insert(key, entry);
    }
}

impl fmt::Debug for Logins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logins").field("kept", &self.cache.entry_count()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::secret::Secret;

    fn client() -> Client {
        Client {
            address: Ipv4Addr::LOCALHOST.into(),
            encrypted: false,
            user_agent: None,
            tls_subject: None,
        }
    }

    fn basic(username: &str, password: &str) -> Presented {
        Presented::Basic { username: username.to_owned(), password: Secret::new(password) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_counts_for_its_credentials_chain_and_client_and_ends() {
        let logins = Logins::new();
        let key = |generation, presented: &Presented| {
            logins.key(generation, presented, &client()).unwrap()
        };
        let now = Timestamp::from_unix_ms(0);
        let someone = Arc::new(Identity { subject: "u".to_owned(), ..Identity::default() });
        logins.put(key(1, &basic("u", "p")), Some(&someone), now);
        assert_eq!(logins.get(&key(1, &basic("u", "p"))), Some(Some(Arc::clone(&someone))));
        for other in [basic("up", ""), basic("u", "q"), Presented::Bearer(Secret::new("p"))] {
            assert_eq!(logins.get(&key(1, &other)), None);
        }
        assert_eq!(logins.get(&key(2, &basic("u", "p"))), None);
        // An authenticator is told all of this, so that its answer may depend on it.
        let text = || Some("u".to_owned());
        for other in [
            Client { address: Ipv4Addr::UNSPECIFIED.into(), ..client() },
            Client { encrypted: true, ..client() },
            Client { user_agent: text(), ..client() },
            Client { user_agent: Some(String::new()), ..client() },
            Client { tls_subject: text(), ..client() },
        ] {
            assert_eq!(logins.get(&logins.key(1, &basic("u", "p"), &other).unwrap()), None);
        }
        tokio::time::advance(LOGIN_TTL).await;
        assert_eq!(logins.get(&key(1, &basic("u", "p"))), None);
        // A proof that ends sooner ends the login.
        let short = Arc::new(Identity {
            expires_at: Some(Timestamp::from_unix_ms(1000)),
            ..(*someone).clone()
        });
        logins.put(key(1, &basic("u", "p")), Some(&short), now);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(logins.get(&key(1, &basic("u", "p"))), None);
    }
}
