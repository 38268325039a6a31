//! Certificates from an ACME directory, such as Let's Encrypt.
//!
//! Source: RFC 8555; the proof is RFC 8737's, because it needs no other port than the one that we
//! listen on.

pub mod challenge;
mod order;
mod store;
mod transport;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::challenge::Challenges;
use self::store::{AcmeStore, Tries};
use self::transport::Transport;
use super::certificate::Facts;
use super::current::Current;
use super::files::{FilesError, PairError, pair};
use crate::background::{Report, Round, Worker};
use crate::clock::{Clock, Timestamp};
use crate::http::settings::AcmeSettings;

/// What operators call it.
pub const NAME: &str = "acme";

/// The longest time between two looks at the clock: it may be set, and machines sleep.
const LOOK_INTERVAL: Duration = Duration::from_secs(6 * 3600);

/// How long one try may take.
const TRY_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// How long to wait after the first try that failed. It doubles with each further one.
const BACKOFF_MIN: Duration = Duration::from_secs(60);

/// The longest wait after a failure. Let's Encrypt takes five failed proofs an hour.
const BACKOFF_MAX: Duration = Duration::from_secs(3600);

/// Waits are lengthened by up to this part of themselves, so that many do not ask at once.
const JITTER_PERCENT: u64 = 25;

/// The least time between two tries, also when somebody asks for one.
const ASKED_PAUSE: Duration = Duration::from_secs(60);

/// The least time between two certificates, however short the time is that they are good for.
const RENEWAL_MIN: Duration = Duration::from_secs(5);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The folder below `storage.path`.
    #[error("ACME's folder: {0}")]
    Store(#[from] io::Error),
    /// `ca_file`.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// TLS to the directory cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The conversation with the directory failed.
    #[error("the ACME directory: {}", with_causes(.0))]
    Protocol(#[from] instant_acme::Error),
    /// It ended without a certificate.
    #[error("the ACME directory: {0}")]
    Refused(String),
    /// What the directory sent cannot be used.
    #[error("the ACME directory's certificate: {0}")]
    Certificate(#[from] PairError),
    /// It took too long.
    #[error("the ACME directory took longer than {} s", TRY_TIME_MAX.as_secs())]
    TimedOut,
}

/// The whole chain: "client error" alone helps nobody.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// Gets a certificate, and a new one when two thirds of its time are over.
#[derive(Debug)]
pub struct AcmeWorker {
    settings: AcmeSettings,
    store: AcmeStore,
    transport: Transport,
    challenges: Challenges,
    current: Arc<Current>,
    clock: Clock,
    held: Option<Facts>,
    tries: Tries,
    /// Whether a round began in this process: one that comes before its time was asked for.
    went_round: bool,
}

impl AcmeWorker {
    /// Puts the certificate to use that was kept, if it is for these domains. Blocks.
    ///
    /// # Errors
    /// When the folder or `ca_file` cannot be used.
    pub(super) fn open(
        settings: &AcmeSettings,
        challenges: Challenges,
        current: Arc<Current>,
        clock: Clock,
    ) -> Result<Self, AcmeError> {
        let store = AcmeStore::open(&settings.folder, &settings.directory)?;
        let transport = Transport::new(settings.ca_file.as_deref(), clock.clone())?;
        let held = match store.certificate(clock.now())? {
            Some(Ok(pair)) if covers(&pair.facts, &settings.domains) => {
                let facts = pair.facts.clone();
                current.set_pair(pair)?;
                Some(facts)
            }
            Some(Ok(_)) => {
                tracing::info!("the certificate that was kept is for other domains");
                None
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the certificate that was kept cannot be used");
                None
            }
            None => None,
        };
        if held.is_none() {
            tracing::warn!(
                domains = ?settings.domains,
                directory = %settings.directory,
                "no certificate yet: until the ACME directory has issued one, every TLS handshake \
                 is refused"
            );
        }
        let tries = tries_for(&settings.domains, store.tries()?);
        Ok(Self {
            settings: settings.clone(),
            store,
            transport,
            challenges,
            current,
            clock,
            held,
            tries,
            went_round: false,
        })
    }

    async fn attempt(&self) -> Result<Facts, AcmeError> {
        let obtain = order::obtain(&self.settings, &self.store, &self.transport, &self.challenges);
        let issued =
            tokio::time::timeout(TRY_TIME_MAX, obtain).await.map_err(|_| AcmeError::TimedOut)??;
        let pair = pair(issued.chain.as_bytes(), issued.key.expose().as_bytes(), self.clock.now())?;
        let facts = pair.facts.clone();
        self.current.set_pair(pair)?;
        let store = self.store.clone();
        let kept =
            blocking(move || store.set_certificate(issued.key.expose(), &issued.chain)).await;
        if let Err(error) = kept {
            // It is issued and in use. To ask for another one, because this one is lost with the
            // process, would eat what directories allow a name.
            tracing::error!(%error, "the new certificate is in use, and could not be kept on disk");
        }
        Ok(facts)
    }

    async fn keep_tries(&self) {
        let (store, tries) = (self.store.clone(), self.tries.clone());
        if let Err(error) = blocking(move || store.set_tries(&tries)).await {
            tracing::error!(%error, "cannot write down when to ask the ACME directory again");
        }
    }
}

#[async_trait]
impl Worker for AcmeWorker {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn round(&mut self, _: &Report) -> Round {
        let asked = std::mem::replace(&mut self.went_round, true);
        let now = self.clock.now();
        if let Some(held) = &self.held {
            let left = renewal(held, &self.tries).since(now);
            if !left.is_zero() {
                return Round::Done(left.min(LOOK_INTERVAL));
            }
        }
        let wait = due(&self.tries, asked).since(now);
        if !wait.is_zero() {
            return Round::Failed(format!("{}; not tried again yet", self.tries.error), wait);
        }
        // Counted before it is over: a crash in the middle is a failure.
        self.tries.domains.clone_from(&self.settings.domains);
        self.tries.last_unix_ms = now.unix_ms();
        self.tries.failures = self.tries.failures.saturating_add(1);
        self.tries.error = "the last try was broken off".to_owned();
        let pause = jittered(backoff(self.tries.failures));
        self.tries.next_unix_ms = now.plus(pause).unix_ms();
        self.keep_tries().await;
        // What an earlier try heard is over.
        self.transport.heard();
        let outcome = self.attempt().await;
        let now = self.clock.now();
        match outcome {
            Ok(facts) => {
                let left = (facts.expires.since(now) / 3 * 2).max(RENEWAL_MIN);
                self.tries = Tries {
                    last_unix_ms: self.tries.last_unix_ms,
                    renew_unix_ms: now.plus(left).unix_ms(),
                    domains: self.settings.domains.clone(),
                    ..Tries::default()
                };
                self.keep_tries().await;
                self.held = Some(facts);
                Round::Done(left.min(LOOK_INTERVAL))
            }
            Err(error) => {
                let stay_away =
                    [self.transport.heard(), suggested(&error)].into_iter().flatten().max();
                if let Some(stay_away) = stay_away {
                    self.tries.barred_unix_ms = now.plus(stay_away).unix_ms();
                }
                self.tries.error = error.to_string();
                self.keep_tries().await;
                Round::Failed(error.to_string(), due(&self.tries, false).since(now))
            }
        }
    }
}

/// When the directory wants to be asked about an order that was not ready in time.
fn suggested(error: &AcmeError) -> Option<Duration> {
    match error {
        AcmeError::Protocol(instant_acme::Error::Timeout(Some(next))) => {
            let next = tokio::time::Instant::from_std(*next);
            let after = next.saturating_duration_since(tokio::time::Instant::now());
            Some(after.min(transport::RETRY_AFTER_MAX))
        }
        _ => None,
    }
}

/// What tries that were kept mean for these domains. Those for others say only that the directory
/// was asked, and whether it wants to be left alone.
fn tries_for(domains: &[String], tries: Tries) -> Tries {
    if tries.domains == domains {
        return tries;
    }
    let Tries { last_unix_ms, barred_unix_ms, .. } = tries;
    let soonest = Timestamp::from_unix_ms(last_unix_ms).plus(ASKED_PAUSE);
    Tries {
        last_unix_ms,
        barred_unix_ms,
        next_unix_ms: if last_unix_ms == 0 { 0 } else { soonest.unix_ms() },
        error: "the domains were changed".to_owned(),
        ..Tries::default()
    }
}

/// When the next try may be made.
fn due(tries: &Tries, asked: bool) -> Timestamp {
    let next = Timestamp::from_unix_ms(tries.next_unix_ms);
    let soonest = Timestamp::from_unix_ms(tries.last_unix_ms).plus(ASKED_PAUSE);
    let own = if asked { next.min(soonest) } else { next };
    own.max(Timestamp::from_unix_ms(tries.barred_unix_ms))
}

/// When two thirds of a certificate's time are over: of the time that was left when we got it,
/// where that is known, because directories date certificates back.
fn renewal(facts: &Facts, tries: &Tries) -> Timestamp {
    match tries.renew_unix_ms {
        0 => facts.begins.plus(facts.lifetime() / 3 * 2),
        known => Timestamp::from_unix_ms(known),
    }
}

fn covers(facts: &Facts, domains: &[String]) -> bool {
    let have: BTreeSet<&str> = facts.dns_names.iter().map(String::as_str).collect();
    let want: BTreeSet<&str> = domains.iter().map(String::as_str).collect();
    have == want
}

/// How long to wait after that many failures.
fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    BACKOFF_MIN.saturating_mul(1 << doublings).min(BACKOFF_MAX)
}

fn jittered(wait: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness there is no jitter, and nothing else is lost.
    let _ = getrandom::fill(&mut byte);
    let most = wait.as_millis() as u64 * JITTER_PERCENT / 100;
    wait + Duration::from_millis(most * u64::from(byte[0]) / u64::from(u8::MAX))
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(names: &[&str]) -> Facts {
        Facts {
            begins: Timestamp::from_unix_ms(1_000_000),
            expires: Timestamp::from_unix_ms(1_090_000),
            serial: String::new(),
            dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_time() {
        let mut tries = Tries::default();
        assert_eq!(renewal(&facts(&[]), &tries).unix_ms(), 1_060_000);
        tries.renew_unix_ms = 1_070_000;
        assert_eq!(renewal(&facts(&[]), &tries).unix_ms(), 1_070_000);
    }

    #[test]
    fn a_kept_certificate_has_to_be_for_the_same_domains() {
        let domains = ["a.example".to_owned(), "b.example".to_owned()];
        assert!(covers(&facts(&["b.example", "a.example"]), &domains));
        assert!(!covers(&facts(&["a.example"]), &domains));
        assert!(!covers(&facts(&["a.example", "b.example", "c.example"]), &domains));
    }

    #[test]
    fn waits_double_up_to_an_hour_and_are_spread() {
        let waits: Vec<_> = [1, 2, 3, 7, 40, u32::MAX].map(|n| backoff(n).as_secs()).into();
        assert_eq!(waits, [60, 120, 240, 3600, 3600, 3600]);
        for _ in 0..100 {
            let wait = jittered(BACKOFF_MIN);
            assert!(wait >= BACKOFF_MIN && wait <= BACKOFF_MIN.mul_f32(1.25), "{wait:?}");
        }
    }

    #[test]
    fn other_domains_need_not_wait_for_what_was_wrong_with_the_first() {
        let domains = ["a.example".to_owned()];
        let kept = Tries {
            failures: 9,
            last_unix_ms: 1_000_000,
            next_unix_ms: 4_600_000,
            barred_unix_ms: 7,
            domains: domains.to_vec(),
            ..Tries::default()
        };
        assert_eq!(tries_for(&domains, kept.clone()), kept);
        let changed = tries_for(&["b.example".to_owned()], kept);
        assert_eq!((changed.failures, changed.barred_unix_ms), (0, 7));
        assert_eq!(due(&changed, false).unix_ms(), 1_060_000);
        assert_eq!(due(&tries_for(&domains, Tries::default()), false).unix_ms(), 0);
    }

    #[test]
    fn who_asks_may_be_quicker_but_not_where_the_directory_said_no() {
        let mut tries =
            Tries { last_unix_ms: 1_000_000, next_unix_ms: 4_600_000, ..Tries::default() };
        assert_eq!(due(&tries, false).unix_ms(), 4_600_000);
        assert_eq!(due(&tries, true).unix_ms(), 1_060_000);
        // After a success there is nothing to wait for.
        let well = Tries { last_unix_ms: 1_000_000, ..Tries::default() };
        assert_eq!(due(&well, true).unix_ms(), 0);
        tries.barred_unix_ms = 9_000_000;
        assert_eq!(due(&tries, true).unix_ms(), 9_000_000);
        assert_eq!(due(&Tries::default(), false).unix_ms(), 0);
    }
}
