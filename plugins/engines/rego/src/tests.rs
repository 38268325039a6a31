//! Policies, and what becomes of what they say.

use pierhead_plugin::testing::{self, Host};
use pierhead_plugin::{Action, Decision, ErrorCode};
use serde_json::json;

use super::*;

fn configure(policy: &str, more: &Value) -> Result<Rego, Failure> {
    let mut settings = json!({ "policy": format!("package p\n{policy}") });
    for (key, value) in more.as_object().expect("a table") {
        settings[key] = value.clone();
    }
    testing::configure(&settings.to_string())
}

fn rego(policy: &str) -> Rego {
    configure(policy, &json!({})).unwrap_or_else(|failure| panic!("{}", failure.message))
}

fn ask(rego: &Rego, name: &str) -> Verdict {
    let ctx = testing::context_of("alice", &["dev"]);
    rego.evaluate_request(&ctx, &testing::pull(name)).expect("it decides")
}

#[test]
fn the_examples_hold() {
    assert_eq!(testing::examples::<Rego>(), Ok(5));
}

#[test]
fn refusals_come_before_permissions_and_warnings_go_along() {
    let rego = rego(
        r#"
        default allow := false
        allow if "dev" in input.identity.groups
        deny contains {"message": "gone", "code": "name-unknown", "detail": "rule 1"} if {
            input.upstream == "quay.io"
        }
        warn contains "slow" if input.upstream in {"quay.io", "ghcr.io"}
        "#,
    );
    assert_eq!(ask(&rego, "docker.io/a/b:1").decision, Decision::Allow);
    let verdict = ask(&rego, "ghcr.io/a/b:1");
    assert_eq!(verdict.decision, Decision::Allow);
    assert_eq!(verdict.warnings().collect::<Vec<_>>(), ["slow"]);
    let verdict = ask(&rego, "quay.io/a/b:1");
    assert_eq!(verdict.warnings().collect::<Vec<_>>(), ["slow"]);
    let Decision::Deny(denial) = verdict.decision else { panic!("it refuses") };
    assert_eq!((denial.code, denial.message.as_str()), (ErrorCode::NameUnknown, "gone"));
    assert_eq!(denial.detail.as_deref(), Some("rule 1"));
}

#[test]
fn all_messages_are_told_and_a_boolean_has_one() {
    let both = rego(
        r#"deny contains "one" if true
        deny contains "two" if true"#,
    );
    assert_eq!(ask(&both, "docker.io/a/b:1").message(), Some("one; two"));
    let boolean = rego("deny if input.tag == \"1\"");
    assert_eq!(
        ask(&boolean, "docker.io/a/b:1").message(),
        Some("the registry's policy refuses this")
    );
    assert_eq!(ask(&boolean, "docker.io/a/b:2").decision, Decision::Abstain);
}

#[test]
fn what_is_not_allowed_can_be_refused() {
    let policy = "allow if input.tag == \"1\"";
    let closed = configure(policy, &json!({"otherwise": "deny"})).expect("it loads");
    assert_eq!(ask(&closed, "docker.io/a/b:1").decision, Decision::Allow);
    let message = "the registry's policy does not allow this";
    assert_eq!(ask(&closed, "docker.io/a/b:2").message(), Some(message));
    assert_eq!(ask(&rego(policy), "docker.io/a/b:2").decision, Decision::Abstain);
}

#[test]
fn a_verdict_depends_on_what_the_text_looks_at() {
    for (policy, expected) in [
        ("deny if input.tag == \"1\"", Some(DependsOn::TAG)),
        (
            "deny if { input.identity.subject == \"x\"; input[\"name\"] == \"y\" }",
            Some(DependsOn::IDENTITY | DependsOn::REPOSITORY),
        ),
        ("deny if true", Some(DependsOn::empty())),
        ("deny if input.now > 7", Some(DependsOn::TIME)),
        ("deny if input.client.user_agent == \"curl\"", None),
        ("deny if { some k; input[k] == 1 }", None),
    ] {
        let verdict = ask(&rego(policy), "docker.io/a/b:2");
        assert_eq!(verdict.reuse.map(|reuse| reuse.key), expected, "{policy}");
    }
    let never = configure("deny if input.tag == \"1\"", &json!({"reuse": "0s"})).expect("it loads");
    assert_eq!(ask(&never, "docker.io/a/b:2").reuse, None);
}

#[test]
fn images_and_facts_are_seen() {
    let rego = rego(
        r#"
        signed if {
            some fact in input.facts
            fact.source == "cosign"
            fact.value.verified
        }
        deny contains "not signed" if not signed
        deny contains "too many layers" if count(input.manifest.layers) > 2
        deny contains "not for linux" if input.config.os != "linux"
        "#,
    );
    let evaluate = |layers: usize, os: &str| {
        let manifest = json!({ "layers": vec![0; layers] }).to_string();
        let config = json!({ "os": os }).to_string();
        let digest = format!("sha256:{}", "0".repeat(64));
        let manifest =
            testing::manifest(&format!("docker.io/a/b@{digest}"), &manifest, Some(&config));
        let verdict = rego.evaluate_manifest(&testing::context(), Stage::Serve, &manifest);
        verdict.expect("it decides").message().map(str::to_owned)
    };
    assert_eq!(evaluate(1, "linux").as_deref(), Some("not signed"));
    let digest = format!("sha256:{}", "0".repeat(64));
    let _host = Host::new().fact(&digest, "cosign", "signature", r#"{"verified": true}"#);
    assert_eq!(evaluate(2, "linux"), None);
    assert_eq!(evaluate(3, "windows").as_deref(), Some("not for linux; too many layers"));
}

/// The policy that the page begins with, as it stands there.
fn of_the_page() -> Rego {
    let page = include_str!("../../../../docs/plugins/rego.md");
    let block = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    let mount: Value = toml::from_str(block.expect("a block")).expect("it is TOML");
    let config = mount["plugin"]["images"]["config"].to_string();
    testing::configure(&config).unwrap_or_else(|failure| panic!("{}", failure.message))
}

#[test]
fn the_policy_of_the_page_answers_at_both_hooks() {
    let rego = of_the_page();
    let message = "docker.io/library/debian:latest moves: pull a version";
    assert_eq!(ask(&rego, "docker.io/library/debian:latest").message(), Some(message));
    let verdict = ask(&rego, "docker.io/library/debian:12");
    assert_eq!((&verdict.decision, verdict.warnings().count()), (&Decision::Abstain, 0));
    let warnings = |config: Option<&str>| {
        let manifest = testing::manifest("docker.io/library/debian:12", "{}", config);
        let verdict = rego.evaluate_manifest(&testing::context(), Stage::Serve, &manifest);
        verdict.expect("it decides").warnings().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(warnings(Some("{}")), ["this image runs as root"]);
    assert!(warnings(Some(r#"{"config": {"User": "nobody"}}"#)).is_empty());
    assert!(warnings(None).is_empty(), "an index has no configuration");
}

#[test]
fn what_is_not_known_is_not_there() {
    let rego = rego(
        r#"deny contains "who are you" if not input.identity
        deny contains "no certificate" if not input.client.tls_subject
        deny contains "no tag" if not input.tag"#,
    );
    let verdict = rego.evaluate_request(&testing::context(), &testing::pull("docker.io/a/b:1"));
    let verdict = verdict.expect("it decides");
    assert_eq!(verdict.message(), Some("no certificate; who are you"));
    let digest = format!("docker.io/a/b@sha256:{}", "0".repeat(64));
    assert_eq!(ask(&rego, &digest).message(), Some("no certificate; no tag"));
}

#[test]
fn a_function_that_fails_breaks_the_call() {
    let rego = rego("deny if object.get(input.name, \"a\", 1) == 1");
    let ctx = testing::context();
    assert!(rego.evaluate_request(&ctx, &testing::pull("docker.io/a/b:1")).is_err());
}

#[test]
fn an_authorizer_grants_action_by_action() {
    let rego = configure("allow if input.action == \"pull\"", &json!({"otherwise": "deny"}));
    let wanted = Scope { repository: "a".to_owned(), actions: vec![Action::Pull, Action::Push] };
    let none = Scope { repository: "b".to_owned(), actions: vec![Action::Push] };
    let granted = rego.expect("it loads").authorize(&testing::context(), &[wanted, none]);
    let granted = granted.expect("it decides");
    assert_eq!(granted.len(), 1);
    assert_eq!(
        (granted[0].repository.as_str(), &granted[0].actions[..]),
        ("a", &[Action::Pull][..])
    );
}

#[test]
fn a_policy_with_a_mistake_is_not_loaded() {
    for (policy, words) in [
        ("deny if input.tag ==", "config.policy:2"),
        ("x := 1", "none of the rules deny, warn and allow"),
        ("deny if nothing(input.tag)", "nothing"),
        ("deny contains 7 if true", "neither a message nor an object"),
        ("deny := {\"a\": 1}", "neither a set of messages nor a boolean"),
        ("warn contains 7 if true", "an element is not a message"),
        ("deny if http.send({\"method\": \"get\", \"url\": \"https://a\"})", "http.send"),
    ] {
        let failure = configure(policy, &json!({})).expect_err(policy);
        assert!(failure.message.contains(words), "{policy}: {}", failure.message);
    }
    let failure = configure("deny if true", &json!({"data": 7})).expect_err("that is no table");
    assert!(failure.message.contains("config.data"), "{}", failure.message);
}

#[test]
fn a_policy_that_breaks_is_a_failure() {
    let rego = rego("deny := \"a\" if input.tag == \"1\"\ndeny := \"b\" if input.tag == \"1\"");
    let ctx = testing::context();
    rego.evaluate_request(&ctx, &testing::pull("docker.io/a/b:1")).expect_err("it says two things");
    assert_eq!(ask(&rego, "docker.io/a/b:2").decision, Decision::Abstain);
}
