//! Tokens that are good, changed, foreign, old or early.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::hooks::Action;

const NOW: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);
const TTL: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);

struct Fixture {
    tokens: Tokens,
    clock: Clock,
    dir: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(NOW);
    let tokens = open(dir.path(), "registry.example", &clock);
    Fixture { tokens, clock, dir }
}

fn open(storage: &Path, service: &str, clock: &Clock) -> Tokens {
    let settings = TokenSettings { ttl: TTL, service: service.to_owned() };
    Tokens::open(storage, settings, clock.clone()).unwrap()
}

fn scope(repository: &str, actions: &[Action]) -> WantedScope {
    WantedScope { repository: repository.to_owned(), actions: actions.to_vec() }
}

fn identity() -> Identity {
    Identity {
        subject: "repo:acme/app:ref:refs/heads/main".to_owned(),
        issuer: "https://token.actions.example".to_owned(),
        method: "basic".to_owned(),
        groups: vec!["ci".to_owned()],
        claims: vec![("repository".to_owned(), "acme/app".to_owned())],
        expires_at: Some(NOW.plus(TTL + TTL)),
    }
}

/// A token with another header, claims or signature.
fn changed(token: &Secret, part: usize, change: impl Fn(&mut Value)) -> Secret {
    let mut parts: Vec<String> = token.expose().split('.').map(str::to_owned).collect();
    let mut value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&parts[part]).unwrap()).unwrap();
    change(&mut value);
    parts[part] = URL_SAFE_NO_PAD.encode(value.to_string());
    Secret::new(parts.join("."))
}

#[test]
fn what_was_granted_comes_back_with_the_identity() {
    let Fixture { tokens, .. } = fixture();
    let access =
        [scope("docker.io/library/a", &[Action::Pull, Action::ListTags]), scope("ghcr.io/b", &[])];
    let issued = tokens.issue(Some(&identity()), &access).unwrap();
    assert_eq!((issued.at, issued.lasts), (NOW, TTL));
    assert!(tokens.is_ours(&issued.token));
    let grant = tokens.verify(&issued.token).unwrap();
    assert_eq!(grant.identity.as_deref(), Some(&identity()));
    assert_eq!(grant.access, access);
    let anonymous = tokens.issue(None, &access[..1]).unwrap();
    let grant = tokens.verify(&anonymous.token).unwrap();
    assert_eq!((&grant.identity, &grant.access[..]), (&None, &access[..1]));
    assert!(!format!("{issued:?}").contains(issued.token.expose()));
}

#[test]
fn the_claims_are_those_of_dockers_specification() {
    let Fixture { tokens, .. } = fixture();
    let access = [scope("docker.io/library/a", &[Action::Pull])];
    let issued = tokens.issue(Some(&identity()), &access).unwrap();
    let part = |index| {
        let text = issued.token.expose().split('.').nth(index).unwrap();
        serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap()
    };
    assert_eq!((&part(0)["alg"], &part(0)["typ"]), (&json!("HS256"), &json!("pierhead+jwt")));
    let claims = part(1);
    let expected = json!([{"type": "repository", "name": "docker.io/library/a",
                           "actions": ["pull"]}]);
    assert_eq!(claims["access"], expected);
    assert_eq!(claims["sub"], identity().subject);
    assert_eq!(claims["aud"], "registry.example");
    let (now, end) = (NOW.unix_ms() / 1000, NOW.plus(TTL).unix_ms() / 1000);
    for (name, value) in [("iat", now), ("nbf", now), ("exp", end)] {
        assert_eq!(claims[name], value, "{name}");
    }
    let other = tokens.issue(Some(&identity()), &access).unwrap();
    assert_ne!(other.token, issued.token, "jti tells tokens apart");
}

#[test]
fn a_grant_covers_what_it_names_and_no_more() {
    let access = vec![
        scope("docker.io/library/a", &[Action::Pull]),
        scope("docker.io/library/a", &[Action::ListTags]),
    ];
    let grant = Grant { identity: None, access };
    assert!(grant.covers(&scope("docker.io/library/a", &[Action::Pull])));
    assert!(grant.covers(&scope("docker.io/library/a", &[Action::Pull, Action::ListTags])));
    for (name, action) in [
        ("docker.io/library/a", Action::Push),
        ("docker.io/library/a", Action::Referrers),
        ("docker.io/library/ab", Action::Pull),
        ("docker.io/library", Action::Pull),
        ("ghcr.io/library/a", Action::Pull),
    ] {
        assert!(!grant.covers(&scope(name, &[action])), "{name} {action}");
    }
}

#[test]
fn a_token_ends_in_time_and_with_the_proof_it_was_made_for() {
    let Fixture { tokens, clock, .. } = fixture();
    let plain = Identity { expires_at: None, ..identity() };
    let issued = tokens.issue(Some(&plain), &[]).unwrap();
    clock.advance(TTL + LEEWAY - SECOND);
    tokens.verify(&issued.token).unwrap();
    clock.advance(SECOND);
    assert_eq!(tokens.verify(&issued.token), Err(TokenError::Ended));

    let now = clock.now();
    let short = Identity { expires_at: Some(now.plus(30 * SECOND)), ..identity() };
    let issued = tokens.issue(Some(&short), &[]).unwrap();
    assert_eq!(issued.lasts, 30 * SECOND);
    clock.advance(30 * SECOND);
    // The proof has no leeway: it is not of this clock's family.
    assert_eq!(tokens.verify(&issued.token), Err(TokenError::Ended));
    assert_eq!(tokens.issue(Some(&short), &[]).unwrap_err(), IssueError::Over);
}

#[test]
fn tokens_are_read_once_and_remembered_within_bounds() {
    let Fixture { tokens, .. } = fixture();
    let issue = || tokens.issue(None, &[]).unwrap().token;
    let token = issue();
    let first = tokens.verify(&token).unwrap();
    assert!(Arc::ptr_eq(&first, &tokens.verify(&token).unwrap()));
    let changed = Secret::new(format!("{}A", token.expose()));
    assert!(tokens.verify(&changed).is_err());
    assert!(tokens.verify(&changed).is_err(), "what is wrong is not remembered as right");
    for _ in 0..VERIFIED_MAX + 100 {
        tokens.verify(&issue()).unwrap();
    }
    tokens.0.verified.run_pending_tasks();
    assert!(tokens.0.verified.entry_count() <= VERIFIED_MAX);
}

#[test]
fn a_token_of_a_clock_far_ahead_is_not_good_yet() {
    let Fixture { tokens, clock, dir } = fixture();
    for (ahead, good) in [(LEEWAY, true), (LEEWAY + SECOND, false)] {
        let other = Clock::manual(clock.now().plus(ahead));
        let token = open(dir.path(), "registry.example", &other).issue(None, &[]).unwrap().token;
        assert_eq!(tokens.verify(&token).err(), (!good).then_some(TokenError::Early));
    }
}

#[test]
fn what_was_changed_is_not_believed() {
    let Fixture { tokens, .. } = fixture();
    let token = tokens.issue(None, &[scope("docker.io/a/b", &[Action::Pull])]).unwrap().token;
    let more = changed(&token, 1, |claims| claims["access"][0]["name"] = "docker.io/a/c".into());
    assert_eq!(tokens.verify(&more), Err(TokenError::Signature));
    let longer = changed(&token, 1, |claims| claims["exp"] = u64::MAX.into());
    assert_eq!(tokens.verify(&longer), Err(TokenError::Signature));
    for algorithm in ["none", "HS512", "RS256", "EdDSA", ""] {
        let other = changed(&token, 0, |header| header["alg"] = algorithm.into());
        assert_eq!(tokens.verify(&other), Err(TokenError::Malformed), "{algorithm}");
    }
    let other = changed(&token, 0, |header| header["kid"] = "other".into());
    assert_eq!(tokens.verify(&other), Err(TokenError::Key));
    let bare = token.expose().rsplit_once('.').unwrap().0;
    for text in [bare.to_owned(), format!("{bare}."), format!("{}.x", token.expose())] {
        assert!(tokens.verify(&Secret::new(text)).is_err());
    }
}

#[test]
fn tokens_of_others_are_not_ours() {
    let Fixture { tokens, clock, dir } = fixture();
    let token = tokens.issue(None, &[]).unwrap().token;
    let jwt = changed(&token, 0, |header| header["typ"] = "JWT".into());
    for text in ["", "opaque", "a.b.c", jwt.expose(), &"a".repeat(TOKEN_BYTES_MAX + 1)] {
        assert!(!tokens.is_ours(&Secret::new(text)), "{text:?}");
        assert_eq!(tokens.verify(&Secret::new(text)), Err(TokenError::Malformed), "{text:?}");
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = open(elsewhere.path(), "registry.example", &clock).issue(None, &[]).unwrap();
    assert!(tokens.is_ours(&foreign.token));
    assert_eq!(tokens.verify(&foreign.token), Err(TokenError::Key));
    let other = open(dir.path(), "other.example", &clock).issue(None, &[]).unwrap();
    assert_eq!(tokens.verify(&other.token), Err(TokenError::Service));
}

#[test]
fn tokens_outlive_the_rotation_of_their_key() {
    let Fixture { tokens, clock, dir } = fixture();
    let nearly = Duration::from_secs(60);
    clock.advance(KEY_AGE_MAX - nearly);
    let before = tokens.issue(None, &[]).unwrap().token;
    clock.advance(nearly);
    tokens.rotate().unwrap();
    let after = tokens.issue(None, &[]).unwrap().token;
    let key = |token: &Secret| jwt::key_id(token.expose()).unwrap();
    assert_ne!(key(&before), key(&after));
    let restarted = open(dir.path(), "registry.example", &clock);
    for tokens in [&tokens, &restarted] {
        tokens.verify(&before).unwrap();
        tokens.verify(&after).unwrap();
    }
}

#[test]
fn a_token_stays_small_enough_for_a_header() {
    let Fixture { tokens, .. } = fixture();
    let long = "a".repeat(200);
    let access: Vec<_> =
        (0..40).map(|n| scope(&format!("docker.io/{long}{n}"), &[Action::Pull])).collect();
    assert_eq!(tokens.issue(None, &access).unwrap_err(), IssueError::TooLarge);
    assert!(tokens.issue(None, &access[..12]).unwrap().token.expose().len() <= TOKEN_BYTES_MAX);
}

proptest! {
    #[test]
    fn nothing_that_is_sent_panics(text in "\\PC*|[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){0,4}") {
        static FIXTURE: LazyLock<Fixture> = LazyLock::new(fixture);
        prop_assert!(FIXTURE.tokens.verify(&Secret::new(text.clone())).is_err());
        prop_assert!(!FIXTURE.tokens.is_ours(&Secret::new(text)));
    }
}
