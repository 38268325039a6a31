//! Hooks with users, and logins that go well or do not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use tempfile::TempDir;

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::hooks::{
    Action, AdmissionRequest, Allowed, Client, Denial, Observation, Target, Verdict, WantedScope,
};
use crate::http::attempts::{FAILURES_PER_CLIENT_MAX, FAILURES_PER_USER_MAX};
use crate::token::settings::TokenSettings;

pub(in crate::http) const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
pub(in crate::http) const SERVICE: &str = "mirror.example";

/// A house in which `ci` has the password `right`, whose token `foreign` is known, and in which
/// who is known may read what is in `library/`.
#[derive(Debug, Default)]
pub(in crate::http) struct House {
    /// Whether there is no authenticator.
    pub(in crate::http) open: bool,
    /// Whether anonymous clients may do the same.
    pub(in crate::http) anonymous: bool,
    /// When proofs end.
    pub(in crate::http) proofs_end: Option<Timestamp>,
    pub(in crate::http) authenticated: AtomicUsize,
    pub(in crate::http) authorized: AtomicUsize,
}

impl House {
    fn may(&self, context: &Context, repository: &str) -> Result<(), Denial> {
        self.authorized.fetch_add(1, Ordering::SeqCst);
        match &context.identity {
            None if !self.anonymous => Err(Denial::unauthorized("who are you?")),
            _ if repository.starts_with("docker.io/library/") => Ok(()),
            None => Err(Denial::unauthorized("not for everybody")),
            Some(identity) => Err(Denial::denied(format!("not for {}", identity.subject))),
        }
    }
}

#[async_trait]
impl Hooks for House {
    fn wants_credentials(&self) -> bool {
        !self.open
    }

    fn decides_access(&self) -> bool {
        !self.open
    }

    async fn authenticate(
        &self,
        context: &Context,
        presented: &Presented,
    ) -> Result<Option<Arc<Identity>>, Denial> {
        self.authenticated.fetch_add(1, Ordering::SeqCst);
        assert_eq!(context.identity, None);
        let identity = |subject: &str, method: &str| {
            Some(Arc::new(Identity {
                subject: subject.to_owned(),
                issuer: "house".to_owned(),
                method: method.to_owned(),
                groups: vec!["builders".to_owned()],
                claims: vec![("floor".to_owned(), "2".to_owned())],
                expires_at: self.proofs_end,
            }))
        };
        match presented {
            Presented::Basic { username, password } => {
                match (username.as_str(), password.expose()) {
                    ("ci", "right") => Ok(identity("ci", "basic")),
                    ("ci", "crash") => Err(Denial::denied("the plugin failed")),
                    ("ci", "bomb") => {
                        Err(Denial { overtaxed: true, ..Denial::denied("it took too long") })
                    }
                    ("ci", _) => Err(Denial::unauthorized("wrong user name or password")),
                    _ => Ok(None),
                }
            }
            Presented::Bearer(token) => match token.expose() {
                "foreign" => Ok(identity("robot", "bearer")),
                "stale" => Err(Denial::unauthorized("that token is over")),
                _ => Ok(None),
            },
            Presented::Certificate { certificate, .. } => {
                Ok(Some(Arc::new(Identity::of_certificate(certificate))))
            }
            Presented::Anonymous => Ok(None),
        }
    }

    async fn authorize(&self, context: &Context, target: &Target) -> Result<(), Denial> {
        self.may(context, &target.scope.to_string())
    }

    /// Grants more than was asked for, which must have no effect.
    async fn authorize_scopes(
        &self,
        context: &Context,
        wanted: &[WantedScope],
    ) -> Result<Vec<WantedScope>, Denial> {
        let mut granted = wanted.to_vec();
        granted.retain(|scope| self.may(context, &scope.repository).is_ok());
        for scope in &mut granted {
            scope.actions.push(Action::Admin);
        }
        granted.push(WantedScope {
            repository: "docker.io/library/unasked".to_owned(),
            actions: vec![Action::Pull],
        });
        Ok(granted)
    }

    async fn resolve(&self, _: &Context, target: Target) -> Result<Target, Denial> {
        Ok(target)
    }

    async fn request(&self, _: &Context, _: &Target) -> Verdict {
        Ok(Allowed::default())
    }

    fn judges_manifests(&self) -> bool {
        false
    }

    async fn admit(&self, _: &Context, _: &AdmissionRequest) -> Verdict {
        Ok(Allowed::default())
    }

    fn observe(&self, _: &Observation<'_>) {}
}

/// A login with keys of its own.
pub(in crate::http) fn login(clock: &Clock) -> (Login, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let ttl = Duration::from_secs(300);
    let settings = TokenSettings { ttl, service: SERVICE.to_owned() };
    let tokens = Tokens::open(dir.path(), settings, clock.clone()).unwrap();
    (Login::new(tokens, None, &Registry::new()).unwrap(), dir)
}

fn context(last: u8) -> Context {
    let client = Client {
        address: [192, 0, 2, last].into(),
        encrypted: true,
        user_agent: None,
        tls_subject: None,
    };
    Context::new("id", client)
}

fn basic(user: &str, password: &str) -> Presented {
    Presented::Basic { username: user.to_owned(), password: Secret::new(password) }
}

#[tokio::test(start_paused = true)]
async fn who_guesses_is_not_heard_any_more() {
    let (login, _dir) = login(&Clock::manual(NOW));
    let house = House::default();
    let wrong = basic("ci", "wrong");
    for _ in 0..FAILURES_PER_USER_MAX {
        let refusal = login.authenticate(&house, &context(1), &wrong).await.unwrap_err();
        assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(refusal.message(), "wrong user name or password");
    }
    let heard = house.authenticated.load(Ordering::SeqCst);
    let right = basic("ci", "right");
    for presented in [&wrong, &right] {
        let refusal = login.authenticate(&house, &context(1), presented).await.unwrap_err();
        assert_eq!(refusal.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refusal.limit(), Some(crate::gate::Limit::FailedLogins));
    }
    assert_eq!(house.authenticated.load(Ordering::SeqCst), heard);
    // Somewhere else the right password is right.
    login.authenticate(&house, &context(2), &right).await.unwrap().unwrap();
    tokio::time::advance(crate::http::attempts::FAILURES_WINDOW).await;
    login.authenticate(&house, &context(1), &right).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_wrong_credentials_are_guesses() {
    let (login, _dir) = login(&Clock::manual(NOW));
    let house = House::default();
    for _ in 0..2 * FAILURES_PER_CLIENT_MAX {
        // Docker's login to the Hub, which it sends to every mirror.
        let known = login.authenticate(&house, &context(1), &basic("hub-user", "x")).await;
        assert_eq!(known.unwrap(), None);
        login.authenticate(&house, &context(1), &basic("ci", "crash")).await.unwrap_err();
        login.authenticate(&house, &context(1), &Presented::Anonymous).await.unwrap();
    }
    login.authenticate(&house, &context(1), &basic("ci", "right")).await.unwrap().unwrap();
    let counted = |result: &str| login.logins.with_label_values(&[result]).get();
    let many = u64::from(2 * FAILURES_PER_CLIENT_MAX);
    assert_eq!((counted("unknown"), counted("refused"), counted("accepted")), (many, many, 1));
}

#[tokio::test(start_paused = true)]
async fn who_wears_plugins_out_is_not_heard_any_more() {
    let (login, _dir) = login(&Clock::manual(NOW));
    let house = House::default();
    for _ in 0..FAILURES_PER_USER_MAX {
        let refusal = login.authenticate(&house, &context(1), &basic("ci", "bomb")).await;
        assert_eq!(refusal.unwrap_err().status(), StatusCode::FORBIDDEN);
    }
    let refusal = login.authenticate(&house, &context(1), &basic("ci", "bomb")).await;
    assert_eq!(refusal.unwrap_err().limit(), Some(crate::gate::Limit::FailedLogins));
    login.authenticate(&house, &context(2), &basic("ci", "right")).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn where_credentials_mean_nothing_none_are_counted() {
    let (login, _dir) = login(&Clock::manual(NOW));
    let house = House { open: true, ..House::default() };
    for _ in 0..2 * FAILURES_PER_CLIENT_MAX {
        let refusal = login.authenticate(&house, &context(1), &basic("ci", "wrong")).await;
        assert_eq!(refusal.unwrap_err().status(), StatusCode::UNAUTHORIZED);
    }
    login.authenticate(&house, &context(1), &basic("ci", "right")).await.unwrap().unwrap();
}
