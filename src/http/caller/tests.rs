//! Requests of clients that are known, unknown, or hold a token.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::*;
use crate::clock::Clock;
use crate::hooks::{AllowAll, ClientCertificate, Object};
use crate::http::login::tests::{House, NOW, login};

fn of(value: &[u8]) -> Presented {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
    claimed(&headers)
}

#[test]
fn credentials_are_read() {
    let Presented::Basic { username, password } = of(b"Basic dXNlcjpwYTpzcw==") else {
        panic!("not basic")
    };
    assert_eq!((username.as_str(), password.expose()), ("user", "pa:ss"));
    assert!(matches!(of(b"bearer abc"), Presented::Bearer(token) if token.expose() == "abc"));
}

#[test]
fn what_cannot_be_read_is_nothing() {
    for value in [&b"Basic"[..], b"Basic ???", b"Basic dXNlcg==", b"Digest a=b", b"\xff"] {
        assert!(matches!(of(value), Presented::Anonymous));
    }
    assert!(matches!(claimed(&HeaderMap::new()), Presented::Anonymous));
}

async fn ask(
    hooks: &dyn Hooks,
    login: &Login,
    connection: &Connection,
    authorization: Option<&str>,
) -> Result<Caller, ApiError> {
    let mut headers = HeaderMap::new();
    if let Some(value) = authorization {
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    let asking = Asking {
        request_id: "id",
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        headers: &headers,
        connection,
        notes: &Notes::default(),
    };
    identify(hooks, login, asking).await
}

fn target(repo: &str) -> Target {
    let scope =
        crate::scope::Scope { upstream: "docker.io".parse().unwrap(), repo: repo.parse().unwrap() };
    Target { scope, object: Object::Manifest("1".parse().unwrap()) }
}

fn bearer(token: &Secret) -> String {
    format!("Bearer {}", token.expose())
}

#[tokio::test]
async fn a_certificate_is_believed_and_what_stands_beside_it_is_handed_on() {
    let certificate = Arc::new(ClientCertificate {
        subject: "runner.example".to_owned(),
        fingerprint: String::new(),
        der: bytes::Bytes::new(),
    });
    let (login, _dir) = login(&Clock::manual(NOW));
    let identify = async |connection: Connection| {
        let basic = Some("Basic dXNlcjpwYTpzcw==");
        ask(&AllowAll, &login, &connection, basic).await.unwrap().context
    };
    let context = identify(Connection::encrypted(Some(certificate))).await;
    assert_eq!(context.identity.unwrap().subject, "runner.example");
    assert_eq!(context.client.tls_subject.as_deref(), Some("runner.example"));
    assert!(context.client.encrypted);
    // Docker's login to the Hub says nothing here.
    assert_eq!(identify(Connection::encrypted(None)).await.identity, None);
    assert!(!identify(Connection::plain()).await.client.encrypted);
}

#[tokio::test]
async fn a_token_answers_for_the_hooks() {
    let (login, _dir) = login(&Clock::manual(NOW));
    let house = House::default();
    let plain = Connection::plain();
    // By password the hooks say who it is, and so they did for the token.
    let basic = ask(&house, &login, &plain, Some("Basic Y2k6cmlnaHQ=")).await.unwrap();
    let identity = basic.context.identity.clone().unwrap();
    let access = [WantedScope::of(&target("library/a"))];
    let token = login.tokens.issue(Some(&identity), &access).unwrap().token;
    let (authenticated, authorized) = (&house.authenticated, &house.authorized);
    authenticated.store(0, Ordering::SeqCst);

    let caller = ask(&house, &login, &plain, Some(&bearer(&token))).await.unwrap();
    assert_eq!(caller.context.identity.as_ref(), Some(&identity));
    admit(&house, &caller, target("library/a")).await.unwrap();
    assert_eq!(authenticated.load(Ordering::SeqCst), 0);
    assert_eq!(authorized.load(Ordering::SeqCst), 0);

    // It is good for nothing else: neither for what another token would be good for ...
    let refusal = admit(&house, &caller, target("library/b")).await.unwrap_err();
    assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(refusal.token_error(), Some(BearerError::InsufficientScope));
    // ... nor for what none would be.
    let refusal = admit(&house, &caller, target("team/b")).await.unwrap_err();
    assert_eq!((refusal.status(), refusal.message()), (StatusCode::FORBIDDEN, "not for ci"));
}

#[tokio::test]
async fn an_anonymous_token_is_told_that_it_does_not_reach() {
    let (login, _dir) = login(&Clock::manual(NOW));
    let house = House { anonymous: true, ..House::default() };
    let access = [WantedScope::of(&target("library/a"))];
    let token = login.tokens.issue(None, &access).unwrap().token;
    let caller = ask(&house, &login, &Connection::plain(), Some(&bearer(&token))).await.unwrap();
    assert!(caller.has_logged_in() && caller.context.identity.is_none());
    admit(&house, &caller, target("library/a")).await.unwrap();
    let refusal = admit(&house, &caller, target("team/b")).await.unwrap_err();
    assert_eq!(refusal.message(), "not for everybody");
    assert_eq!(refusal.token_error(), Some(BearerError::InsufficientScope));
}

#[tokio::test]
async fn a_token_that_is_not_good_is_an_error_only_where_tokens_are_given() {
    let clock = Clock::manual(NOW);
    let (login, _dir) = login(&clock);
    let (house, plain) = (House { anonymous: true, ..House::default() }, Connection::plain());
    let token = bearer(&login.tokens.issue(None, &[]).unwrap().token);
    clock.advance(Duration::from_secs(3600));
    let refusal = ask(&house, &login, &plain, Some(&token)).await.unwrap_err();
    assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(refusal.message(), "the token has ended");
    assert_eq!(refusal.token_error(), Some(BearerError::InvalidToken));
    assert_eq!(house.authenticated.load(Ordering::SeqCst), 0, "no plugin sees our tokens");
    let open = House { open: true, anonymous: true, ..House::default() };
    let caller = ask(&open, &login, &plain, Some(&token)).await.unwrap();
    admit(&open, &caller, target("library/a")).await.unwrap();
}

#[tokio::test]
async fn the_tokens_of_others_are_for_the_hooks() {
    let (login, _dir) = login(&Clock::manual(NOW));
    let (house, plain) = (House::default(), Connection::plain());
    let caller = ask(&house, &login, &plain, Some("Bearer foreign")).await.unwrap();
    assert_eq!(caller.context.identity.as_ref().unwrap().subject, "robot");
    admit(&house, &caller, target("library/a")).await.unwrap();
    let refusal = ask(&house, &login, &plain, Some("Bearer stale")).await.unwrap_err();
    assert_eq!(refusal.message(), "that token is over");
    assert_eq!(refusal.token_error(), Some(BearerError::InvalidToken));
    // Nobody knows this one: who holds it is anonymous, and told why if that is not enough.
    let caller = ask(&house, &login, &plain, Some("Bearer opaque")).await.unwrap();
    assert!(!caller.has_logged_in());
    let refusal = admit(&house, &caller, target("library/a")).await.unwrap_err();
    assert_eq!(refusal.token_error(), Some(BearerError::InvalidToken));
    assert_eq!(caller.login_required().message(), "these credentials are not known here");
}

#[tokio::test]
async fn nobody_in_particular_is_asked_to_log_in() {
    let (login, _dir) = login(&Clock::manual(NOW));
    let (house, plain) = (House::default(), Connection::plain());
    let caller = ask(&house, &login, &plain, None).await.unwrap();
    let refusal = admit(&house, &caller, target("library/a")).await.unwrap_err();
    assert_eq!((refusal.status(), refusal.token_error()), (StatusCode::UNAUTHORIZED, None));
    assert_eq!(caller.login_required().message(), "authentication required: log in first");
}
