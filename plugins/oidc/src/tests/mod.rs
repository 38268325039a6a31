//! Tokens of an issuer that is played, with real keys and signatures.

mod issuer;

use pierhead_plugin::http::HttpError;
use pierhead_plugin::testing::{self, Host};
use pierhead_plugin::{Action, FailureKind};
use serde_json::json;

use self::issuer::{Signer, token};
use super::*;

/// GitHub's, as it was; the tests play it.
const ISSUER: &str = "https://token.actions.githubusercontent.com";
const DISCOVERY: &str =
    "https://token.actions.githubusercontent.com/.well-known/openid-configuration";
const JWKS: &str = "https://token.actions.githubusercontent.com/.well-known/jwks";

/// The time of the tests, in seconds.
const NOW_S: u64 = testing::NOW / 1_000;

fn settings() -> Value {
    json!({
        "issuers": [{
            "issuer": ISSUER,
            "audience": "https://registry.example",
            "rules": [
                {
                    "claims": {"repository": "octo/*", "ref": "refs/heads/main"},
                    "repositories": ["docker.io/**", "hosted/{repository}"],
                    "actions": ["pull", "push"],
                    "groups": ["release"]
                },
                {
                    "claims": {"repository_owner": ["octo", "cat"]},
                    "repositories": ["docker.io/library/*"],
                    "groups": ["ci"]
                }
            ]
        }]
    })
}

/// What GitHub says of a job.
fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": "https://registry.example",
        "sub": "repo:octo/app:ref:refs/heads/main",
        "repository": "octo/app",
        "repository_owner": "octo",
        "ref": "refs/heads/main",
        "run_attempt": "1",
        "iat": NOW_S - 10,
        "nbf": NOW_S - 10,
        "exp": NOW_S + 300,
    })
}

/// The claims, one of them changed or left out.
fn with(name: &str, value: Option<Value>) -> Value {
    let mut claims = claims();
    let members = claims.as_object_mut().expect("it is an object");
    match value {
        Some(value) => members.insert(name.to_owned(), value),
        None => members.remove(name),
    };
    claims
}

fn publish(host: &Host, signers: &[&Signer]) {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    let body = json!({"keys": keys}).to_string().into_bytes();
    let answer = pierhead_plugin::http::Response { status: 200, headers: vec![], body };
    host.set_answer("GET", JWKS, Ok(answer));
}

fn host(signers: &[&Signer]) -> Host {
    let discovery = json!({"issuer": ISSUER, "jwks_uri": JWKS}).to_string();
    let host = Host::new().answer("GET", DISCOVERY, 200, discovery);
    publish(&host, signers);
    host
}

fn plugin(settings: &Value) -> Oidc {
    testing::configure(&settings.to_string())
        .unwrap_or_else(|failure| panic!("{}", failure.message))
}

fn ask(plugin: &Oidc, token: &str) -> Result<AuthOutcome, Failure> {
    plugin.authenticate(&testing::context(), &Credentials::Bearer(token.to_owned()))
}

#[track_caller]
fn identity(outcome: Result<AuthOutcome, Failure>) -> Identity {
    match outcome {
        Ok(AuthOutcome::Authenticated(identity)) => identity,
        other => panic!("it is somebody: {other:?}"),
    }
}

#[track_caller]
fn rejected(outcome: Result<AuthOutcome, Failure>, words: &str) {
    match outcome {
        Ok(AuthOutcome::Rejected(message)) => assert!(message.contains(words), "{message}"),
        other => panic!("{words}: {other:?}"),
    }
}

#[test]
fn the_examples_hold() {
    assert_eq!(testing::examples::<Oidc>(), Ok(5));
}

#[test]
fn tokens_of_every_algorithm_are_believed() {
    let signers = Signer::all();
    let host = host(&signers.iter().collect::<Vec<_>>());
    let plugin = plugin(&settings());
    for signer in &signers {
        let who = identity(ask(&plugin, &token(signer, &claims())));
        assert_eq!(who.subject, "repo:octo/app:ref:refs/heads/main");
        assert_eq!((who.issuer.as_str(), who.method.as_str()), (ISSUER, "bearer"));
        assert_eq!(who.groups, ["ci", "release"]);
        assert_eq!(who.expires_at, Some((NOW_S + 300 + 60) * 1_000), "with what clocks may differ");
        assert!(who.claims.contains(&("repository".to_owned(), "octo/app".to_owned())));
    }
    assert_eq!(host.requests().len(), 2, "the keys are asked for once");
}

#[test]
fn docker_login_sends_the_token_as_the_password() {
    let signer = Signer::es256("k");
    let _host = host(&[&signer]);
    let credentials = Credentials::Basic(("anybody".to_owned(), token(&signer, &claims())));
    let outcome = plugin(&settings()).authenticate(&testing::context(), &credentials);
    assert_eq!(identity(outcome).groups, ["ci", "release"]);
}

#[test]
fn what_is_no_token_of_these_issuers_is_left_to_others() {
    let signer = Signer::es256("k");
    let host = host(&[&signer]);
    let plugin = plugin(&settings());
    let other = token(&signer, &with("iss", Some(json!("https://gitlab.example"))));
    let nobody = token(&signer, &with("iss", None));
    let huge = token(&signer, &with("sub", Some(json!("a".repeat(20_000)))));
    for text in ["", "secret", "a.b.c", "..", &other, &nobody, &huge] {
        assert!(matches!(ask(&plugin, text), Ok(AuthOutcome::Abstain)), "{text}");
    }
    let outcome = plugin.authenticate(&testing::context(), &Credentials::Anonymous);
    assert!(matches!(outcome, Ok(AuthOutcome::Abstain)));
    assert!(host.requests().is_empty());
}

#[test]
fn a_token_is_believed_for_its_audience_and_its_time_alone() {
    let signer = Signer::es256("k");
    let _host = host(&[&signer]);
    let plugin = plugin(&settings());
    for (name, value, words) in [
        ("aud", Some(json!("https://elsewhere.example")), "is not for https://registry.example"),
        ("aud", Some(json!(["a", "b"])), "is not for"),
        ("aud", Some(json!({"https://registry.example": 1})), "is not for"),
        ("aud", None, "is not for"),
        ("exp", None, "does not say when it ends"),
        ("exp", Some(json!("tomorrow")), "exp makes no sense"),
        ("exp", Some(json!(-1)), "exp makes no sense"),
        ("exp", Some(json!(1e300)), "exp makes no sense"),
        ("exp", Some(json!(NOW_S - 60)), "has expired"),
        ("nbf", Some(json!(NOW_S + 61)), "is not valid yet"),
        ("iat", Some(json!(NOW_S + 61)), "is not valid yet"),
        ("sub", None, "has no claim sub"),
        ("sub", Some(json!("")), "has no claim sub"),
    ] {
        rejected(ask(&plugin, &token(&signer, &with(name, value))), words);
    }
    for (name, value) in [
        ("aud", json!(["a", "https://registry.example"])),
        ("exp", json!(NOW_S - 59)),
        ("exp", json!((NOW_S as f64) + 0.5)),
        ("nbf", json!(NOW_S + 60)),
    ] {
        let who = identity(ask(&plugin, &token(&signer, &with(name, Some(value)))));
        // An identity that has ended would be of no use.
        assert!(who.expires_at.is_some_and(|end| end > testing::NOW), "{:?}", who.expires_at);
    }
}

#[test]
fn a_forged_token_is_refused() {
    let (signer, mallory) = (Signer::es256("k"), Signer::es256("k"));
    let _host = host(&[&signer]);
    let plugin = plugin(&settings());
    rejected(ask(&plugin, &token(&mallory, &claims())), "the token's signature is wrong");

    // Another one's claims under a right signature.
    let right = token(&signer, &claims());
    let other = token(&signer, &with("repository", Some(json!("octo/secret"))));
    let parts = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (right, other) = (parts(&right), parts(&other));
    let mixed = format!("{}.{}.{}", right[0], other[1], right[2]);
    rejected(ask(&plugin, &mixed), "the token's signature is wrong");
    let empty = format!("{}.{}.", right[0], right[1]);
    rejected(ask(&plugin, &empty), "the token's signature is wrong");
}

#[test]
fn algorithms_without_a_public_key_are_refused() {
    let signer = Signer::rsa("k", "RS256");
    let host = host(&[&signer]);
    let plugin = plugin(&settings());
    for algorithm in ["none", "None", "HS256", "HS512", "ES512", ""] {
        let text = signer.token_saying(&json!({"alg": algorithm, "kid": "k"}), &claims());
        rejected(ask(&plugin, &text), "are not accepted");
    }
    // The name of an algorithm that the key is not one of.
    for algorithm in ["ES256", "EdDSA", "PS256", "RS384"] {
        let text = signer.token_saying(&json!({"alg": algorithm, "kid": "k"}), &claims());
        rejected(ask(&plugin, &text), "the token is signed with a key");
    }
    let text = signer.token_saying(&json!({"alg": "RS256", "crit": ["b64"]}), &claims());
    rejected(ask(&plugin, &text), "an extension");
    assert!(host.requests().len() <= 2);
}

#[test]
fn a_new_key_is_fetched_and_an_unknown_one_not_over_and_over() {
    let (old, new, unknown) = (Signer::es256("1"), Signer::rsa("2", "RS256"), Signer::es256("3"));
    let host = host(&[&old]);
    let plugin = plugin(&settings());
    identity(ask(&plugin, &token(&old, &claims())));
    assert_eq!(host.requests().len(), 2);

    // A moment later there is a new one: the issuer was just asked, and is not again.
    publish(&host, &[&old, &new]);
    rejected(ask(&plugin, &token(&new, &claims())), "does not publish");
    assert_eq!(host.requests().len(), 2);
    host.set_now(testing::NOW + 31_000);
    identity(ask(&plugin, &token(&new, &claims())));
    identity(ask(&plugin, &token(&old, &claims())));
    assert_eq!(host.requests().len(), 4);

    host.set_now(testing::NOW + 62_000);
    for _ in 0..10 {
        rejected(ask(&plugin, &token(&unknown, &claims())), "does not publish");
    }
    assert_eq!(host.requests().len(), 6);
    // A key that was taken back is not believed for longer than `keys_ttl`.
    publish(&host, &[&new]);
    host.set_now(testing::NOW + 62_000 + 3_600_000);
    let late = json!(NOW_S + 4_000);
    let mut claims = with("exp", Some(late));
    claims["repository"] = json!("octo/app");
    rejected(ask(&plugin, &token(&old, &claims)), "does not publish");
    identity(ask(&plugin, &token(&new, &claims)));
}

#[test]
fn known_keys_are_used_while_the_issuer_is_down() {
    let signer = Signer::es256("k");
    let host = host(&[&signer]);
    let plugin = plugin(&settings());
    let long = with("exp", Some(json!(NOW_S + 200_000)));
    identity(ask(&plugin, &token(&signer, &long)));
    let down = || Err(HttpError::Timeout);
    host.set_answer("GET", DISCOVERY, down());
    host.set_answer("GET", JWKS, down());
    host.set_now(testing::NOW + 7_200_000);
    identity(ask(&plugin, &token(&signer, &long)));
    assert!(host.logs().iter().any(|(_, line)| line.contains("are used on")), "{:?}", host.logs());
    // After a day nobody knows them any more.
    host.set_now(testing::NOW + 86_400_000);
    let failure = ask(&plugin, &token(&signer, &long)).expect_err("nobody can know");
    assert_eq!(failure.kind, FailureKind::Unavailable);
    assert!(failure.message.contains("no answer in time"), "{}", failure.message);
    // The moment that it answers again, so do we.
    let discovery = json!({"issuer": ISSUER, "jwks_uri": JWKS}).to_string().into_bytes();
    let answer = pierhead_plugin::http::Response { status: 200, headers: vec![], body: discovery };
    host.set_answer("GET", DISCOVERY, Ok(answer));
    publish(&host, &[&signer]);
    identity(ask(&plugin, &token(&signer, &long)));
}

#[test]
fn while_no_key_is_known_many_ask_and_not_all() {
    let signer = Signer::es256("k");
    let host = Host::new();
    host.set_answer("GET", DISCOVERY, Err(HttpError::Timeout));
    let plugin = plugin(&settings());
    for nth in 0..20 {
        let failure = ask(&plugin, &token(&signer, &claims())).expect_err("nobody can know");
        assert_eq!(failure.kind, FailureKind::Unavailable);
        assert_eq!(failure.retry_after_ms, (nth >= 16).then_some(5_000), "{nth}");
    }
    assert_eq!(host.requests().len(), 16);
    host.set_now(testing::NOW + 5_000);
    ask(&plugin, &token(&signer, &claims())).expect_err("nobody can know");
    assert_eq!(host.requests().len(), 17);
}

#[test]
fn an_issuer_that_is_down_is_not_asked_by_everybody_whose_key_is_unknown() {
    let (signer, new) = (Signer::es256("1"), Signer::es256("2"));
    let host = host(&[&signer]);
    let plugin = plugin(&settings());
    identity(ask(&plugin, &token(&signer, &claims())));
    host.set_answer("GET", DISCOVERY, Err(HttpError::Timeout));
    host.set_now(testing::NOW + 31_000);
    for _ in 0..10 {
        rejected(ask(&plugin, &token(&new, &claims())), "does not publish");
    }
    assert_eq!(host.requests().len(), 3);
    // What failed is asked again sooner than what was answered.
    host.set_now(testing::NOW + 36_000);
    rejected(ask(&plugin, &token(&new, &claims())), "does not publish");
    assert_eq!(host.requests().len(), 4);
}

#[test]
fn an_issuer_that_makes_no_sense_is_a_failure() {
    let signer = Signer::es256("k");
    let plugin = plugin(&settings());
    for (discovery, words) in [
        (
            json!({"issuer": "https://evil.example", "jwks_uri": JWKS}),
            "says that it is https://evil",
        ),
        (json!({"issuer": ISSUER, "jwks_uri": "http://plain.example"}), "are not behind https"),
        (json!({"issuer": ISSUER}), "jwks_uri"),
        (json!("nonsense"), "invalid type"),
    ] {
        let host = Host::new().answer("GET", DISCOVERY, 200, discovery.to_string());
        publish(&host, &[&signer]);
        let failure = ask(&plugin, &token(&signer, &claims())).expect_err("nobody can know");
        assert!(failure.message.contains(words), "{}", failure.message);
    }
    let _host = Host::new().answer("GET", DISCOVERY, 500, "");
    let failure = ask(&plugin, &token(&signer, &claims())).expect_err("nobody can know");
    assert!(failure.message.contains("status is 500"), "{}", failure.message);
}

#[test]
fn keys_can_stand_in_the_settings_and_need_no_issuer_then() {
    let signer = Signer::rsa("k", "PS256");
    let host = Host::new();
    let mut settings = settings();
    let other = json!({"kty": "oct", "k": "AAAA"});
    settings["issuers"][0]["keys"] = json!({"keys": [other, 7, signer.jwk()]});
    let plugin = plugin(&settings);
    identity(ask(&plugin, &token(&signer, &claims())));
    rejected(ask(&plugin, &token(&Signer::es256("k"), &claims())), "does not publish");
    assert!(host.requests().is_empty());
}

#[test]
fn a_secret_can_be_shown_to_the_issuer() {
    let signer = Signer::es256("k");
    let mut settings = settings();
    settings["issuers"][0]["token_secret"] = json!("cluster");
    settings["issuers"][0]["jwks_uri"] = json!(JWKS);
    let plugin = plugin(&settings);
    let host = Host::new().secret("cluster", "abc");
    publish(&host, &[&signer]);
    identity(ask(&plugin, &token(&signer, &claims())));
    let requests = host.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].headers.contains(&("authorization".to_owned(), "Bearer abc".to_owned())));
}

#[test]
fn kubernetes_claims_lie_in_one_another() {
    let signer = Signer::rsa("k", "RS256");
    let _host = host(&[&signer]);
    let mut settings = settings();
    settings["issuers"][0]["rules"] = json!([{
        "claims": {"kubernetes.io.namespace": "ci-*", "kubernetes.io.serviceaccount.name": "builder"},
        "groups": ["builders"]
    }]);
    settings["issuers"][0]["groups_claim"] = json!("teams");
    let plugin = plugin(&settings);
    let mut claims = with(
        "kubernetes.io",
        Some(json!({"namespace": "ci-7", "serviceaccount": {"name": "builder", "uid": "1"}})),
    );
    claims["teams"] = json!(["red", "blue"]);
    claims["aud"] = json!(["https://registry.example"]);
    assert_eq!(
        identity(ask(&plugin, &token(&signer, &claims))).groups,
        ["blue", "builders", "red"]
    );
    claims["kubernetes.io"]["namespace"] = json!("default");
    rejected(ask(&plugin, &token(&signer, &claims)), "its claims match no rule");
}

#[test]
fn what_cannot_be_told_of_a_token_is_left_out_and_ends_no_login() {
    let signer = Signer::es256("k");
    let _host = host(&[&signer]);
    let mut settings = settings();
    settings["issuers"][0]["groups_claim"] = json!("teams");
    let plugin = plugin(&settings);
    let mut claims = claims();
    claims["workflow"] = json!("\u{1f469}\u{200d}\u{1f4bb} deploy");
    claims["job_workflow_ref"] = json!("a".repeat(5_000));
    claims["n".repeat(200)] = json!("1");
    claims["empty"] = json!("");
    claims["teams"] = json!(["red", "g".repeat(600), "b\u{200b}lue", ""]);
    let identity = identity(ask(&plugin, &token(&signer, &claims)));
    let names: Vec<&str> = identity.claims.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains(&"repository") && names.contains(&"empty"), "{names:?}");
    assert!(!names.contains(&"workflow") && !names.contains(&"job_workflow_ref"), "{names:?}");
    assert!(names.iter().all(|name| name.len() < 200));
    assert_eq!(identity.groups, ["ci", "red", "release"]);
    for subject in ["a\u{202e}b".to_owned(), "s".repeat(600)] {
        let token = token(&signer, &with("sub", Some(json!(subject))));
        rejected(ask(&plugin, &token), "sub is too long, or has characters that cannot be seen");
    }
}

fn allowed(plugin: &Oidc, ctx: &CallContext, repository: &str, actions: &[Action]) -> Vec<Action> {
    let wanted = Scope { repository: repository.to_owned(), actions: actions.to_vec() };
    let granted = plugin.authorize(ctx, &[wanted]).expect("it decides");
    assert!(granted.len() <= 1 && granted.iter().all(|scope| scope.repository == repository));
    granted.into_iter().flat_map(|scope| scope.actions).collect()
}

#[test]
fn claims_allow_what_their_rules_say_and_nothing_else() {
    use Action::{Admin, Delete, ListTags, Mount, Pull, Push};
    let signer = Signer::es256("k");
    let _host = host(&[&signer]);
    let plugin = plugin(&settings());
    let context = |claims: &Value| {
        let identity = identity(ask(&plugin, &token(&signer, claims)));
        CallContext { identity: Some(identity), ..testing::context() }
    };
    let main = context(&with("repository", Some(json!("octo/App"))));
    assert_eq!(
        allowed(
            &plugin,
            &main,
            "docker.io/any/thing",
            &[Pull, Push, Delete, Mount, ListTags, Admin]
        ),
        [Pull, Push, Mount, ListTags]
    );
    assert_eq!(allowed(&plugin, &main, "hosted/octo/app", &[Push]), [Push]);
    assert_eq!(allowed(&plugin, &main, "hosted/octo/other", &[Pull, Push]), []);
    let branch = context(&with("ref", Some(json!("refs/heads/fix"))));
    assert_eq!(allowed(&plugin, &branch, "docker.io/library/debian", &[Pull, Push]), [Pull]);
    assert_eq!(allowed(&plugin, &branch, "docker.io/any/thing", &[Pull]), []);
    // A claim does not widen a pattern.
    for evil in ["octo/*", "octo/..", "octo/?"] {
        let evil = context(&with("repository", Some(json!(evil))));
        assert_eq!(allowed(&plugin, &evil, "hosted/octo/app", &[Push]), []);
        assert_eq!(allowed(&plugin, &evil, "hosted/octo/..", &[Push]), []);
    }
}

#[test]
fn others_may_do_what_the_settings_say() {
    use Action::{Pull, Push};
    let both = [Pull, Push];
    let mut settings = settings();
    let others = testing::context_of("alice", &["dev"]);
    for (setting, expected) in [(None, &both[..1]), (Some("none"), &[]), (Some("all"), &both[..])] {
        if let Some(setting) = setting {
            settings["others"] = json!(setting);
        }
        assert_eq!(allowed(&plugin(&settings), &others, "docker.io/a/b", &both), expected);
    }
    for (setting, expected) in [(None, &[][..]), (Some("pull"), &both[..1])] {
        if let Some(setting) = setting {
            settings["anonymous"] = json!(setting);
        }
        let nobody = testing::context();
        assert_eq!(allowed(&plugin(&settings), &nobody, "docker.io/a/b", &both), expected);
    }
}

#[test]
fn settings_without_sense_are_refused() {
    let changed = |change: fn(&mut Value)| {
        let mut settings = settings();
        change(&mut settings);
        let failure = testing::configure::<Oidc>(&settings.to_string());
        failure.expect_err("it makes no sense").message
    };
    for (message, words) in [
        (changed(|all| all["issuers"] = json!([])), "config.issuers: there is none"),
        (changed(|all| all["issuers"][0]["issuer"] = json!("github")), "[0].issuer: it is no URL"),
        (changed(|all| all["issuers"][0]["audience"] = json!([])), "[0].audience: whom"),
        (changed(|all| all["issuers"][0]["rules"] = json!([])), "[0].rules: nobody"),
        (changed(|all| all["issuers"][0]["rules"][0]["claims"] = json!({})), "for everybody"),
        (
            changed(|all| all["issuers"][0]["keys"] = json!({"keys": [1]})),
            "[0].keys: there is none",
        ),
        (
            changed(|all| all["issuers"][0]["rules"][0]["action"] = json!([])),
            "unknown field `action`",
        ),
        (changed(|all| all["leeway"] = json!("1h")), "config.leeway: more than 10m"),
        (
            changed(|all| {
                let first = all["issuers"][0].clone();
                all["issuers"].as_array_mut().expect("a list").push(first);
            }),
            "[1].issuer: it stands there twice",
        ),
    ] {
        assert!(message.contains(words), "{message}");
    }
}
