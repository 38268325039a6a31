//! Policies, and what becomes of what they decide.

use pierhead_plugin::Decision as Decided;
use pierhead_plugin::testing::{self, Host};
use serde_json::json;

use super::*;

fn configure(policy: &str, more: &Value) -> Result<Cedar, Failure> {
    let mut settings = json!({ "policy": policy });
    for (key, value) in more.as_object().expect("a table") {
        settings[key] = value.clone();
    }
    testing::configure(&settings.to_string())
}

fn cedar(policy: &str) -> Cedar {
    configure(policy, &json!({})).unwrap_or_else(|failure| panic!("{}", failure.message))
}

fn ask(cedar: &Cedar, name: &str) -> Verdict {
    let ctx = testing::context_of("alice", &["dev"]);
    cedar.evaluate_request(&ctx, &testing::pull(name)).expect("it decides")
}

#[test]
fn the_examples_hold() {
    assert_eq!(testing::examples::<Cedar>(), Ok(6));
}

#[test]
fn what_follows_a_decision_is_a_setting() {
    let policy = r#"permit(principal, action, resource) when { context.tag == "1" };"#;
    for (more, permitted, otherwise) in [
        (json!({}), Decided::Abstain, true),
        (json!({"permitted": "allow"}), Decided::Allow, true),
        (json!({"otherwise": "abstain"}), Decided::Abstain, false),
    ] {
        let cedar = configure(policy, &more).expect("it loads");
        assert_eq!(ask(&cedar, "docker.io/a/b:1").decision, permitted, "{more}");
        assert_eq!(ask(&cedar, "docker.io/a/b:2").is_denied(), otherwise, "{more}");
    }
}

#[test]
fn annotations_say_what_clients_are_told() {
    let cedar = cedar(
        r#"
        @warning("ghcr.io is slow")
        permit(principal, action, resource) when { resource.upstream == "ghcr.io" };
        permit(principal, action, resource) when { resource.upstream != "ghcr.io" };
        @message("gone") @code("name-unknown")
        forbid(principal, action, resource in Namespace::"quay.io");
        @message("nothing of mallory")
        forbid(principal, action, resource in Namespace::"quay.io/mallory");
        forbid(principal, action, resource == Repository::"docker.io/a/b");
        "#,
    );
    let verdict = ask(&cedar, "ghcr.io/a/b:1");
    assert_eq!(verdict.decision, Decided::Abstain);
    assert_eq!(verdict.warnings().collect::<Vec<_>>(), ["ghcr.io is slow"]);
    let verdict = ask(&cedar, "quay.io/mallory/b:1");
    let Decided::Deny(denial) = verdict.decision else { panic!("it refuses") };
    assert_eq!(denial.message, "gone; nothing of mallory");
    assert_eq!(denial.code, ErrorCode::NameUnknown);
    assert_eq!(ask(&cedar, "docker.io/a/b:1").message(), Some(FORBIDDEN));
    assert_eq!(ask(&cedar, "docker.io/a/c:1").message(), None);
}

#[test]
fn groups_come_from_the_identity_and_from_the_settings() {
    let entities = json!({"entities": [
        {"uid": {"type": "Group", "id": "dev"}, "attrs": {}, "parents": [{"type": "Group", "id": "all"}]},
        {"uid": {"type": "User", "id": "bob"}, "attrs": {}, "parents": [{"type": "Group", "id": "ops"}]},
        {"uid": {"type": "Group", "id": "ops"}, "attrs": {}, "parents": [{"type": "Group", "id": "all"}]},
    ]});
    let policy = r#"permit(principal in Group::"all", action, resource);"#;
    let cedar = configure(policy, &entities).expect("it loads");
    let pull = testing::pull("docker.io/a/b:1");
    let denied =
        |ctx: &CallContext| cedar.evaluate_request(ctx, &pull).expect("it decides").is_denied();
    assert!(!denied(&testing::context_of("alice", &["dev"])));
    assert!(!denied(&testing::context_of("bob", &[])));
    assert!(denied(&testing::context_of("carol", &[])));
    assert!(denied(&testing::context()), "anonymous is not in a group");
    // A user of this name is not the anonymous client.
    let anonymous =
        self::cedar(r#"permit(principal == Anonymous::"anonymous", action, resource);"#);
    let verdict = |ctx| anonymous.evaluate_request(&ctx, &pull).expect("it decides").is_denied();
    assert!(!verdict(testing::context()));
    assert!(verdict(testing::context_of("anonymous", &[])));
}

#[test]
fn a_verdict_depends_on_what_the_policies_look_at() {
    const EMPTY: DependsOn = DependsOn::empty();
    for (policy, expected) in [
        ("permit(principal, action, resource);", Some(EMPTY)),
        (r#"permit(principal, action == Action::"pull", resource);"#, Some(DependsOn::ACTION)),
        (
            r#"permit(principal in Group::"dev", action, resource) when { context has tag && context.tag == "1" };"#,
            Some(DependsOn::IDENTITY | DependsOn::TAG),
        ),
        (
            r#"permit(principal, action, resource) when { resource.name like "docker.io/*" };"#,
            Some(DependsOn::REPOSITORY),
        ),
        (
            "permit(principal, action, resource) unless { context.client.address == \"192.0.2.9\" };",
            Some(DependsOn::CLIENT_ADDRESS),
        ),
        ("permit(principal, action, resource) unless { context has client.user_agent };", None),
        ("permit(principal, action, resource) when { [context].contains(context) };", None),
        ("permit(principal, action, resource) unless { context has stage };", None),
        (
            "permit(principal, action, resource) unless { context has facts.signature };",
            Some(DependsOn::DIGEST.union(DependsOn::FACTS)),
        ),
        (
            "permit(principal, action, resource) when { [principal].contains(principal) };",
            Some(DependsOn::IDENTITY),
        ),
    ] {
        let verdict = ask(&cedar(policy), "docker.io/a/b:1");
        assert_eq!(verdict.reuse.map(|reuse| reuse.key), expected, "{policy}");
    }
}

#[test]
fn images_are_seen_and_cannot_pretend_to_be_entities() {
    let _host = Host::new();
    let cedar = cedar(
        r#"
        permit(principal, action, resource);
        @message("too many layers")
        forbid(principal, action, resource) when { context has image && context.image.layers > 2 };
        @message("runs as root")
        forbid(principal, action, resource)
        when { context has config.config.User && context.config.config.User == "root" };
        @message("too young")
        forbid(principal, action, resource)
        when { context has image.created && context.now - context.image.created < 86400000 };
        "#,
    );
    let evaluate = |manifest: &Value, config: &Value| {
        let manifest =
            testing::manifest("docker.io/a/b:1", &manifest.to_string(), Some(&config.to_string()));
        let verdict = cedar.evaluate_manifest(&testing::context(), Stage::Serve, &manifest);
        verdict.expect("it decides").message().map(str::to_owned)
    };
    let layers = |count: usize| json!({ "layers": vec![json!({"size": 1}); count] });
    assert_eq!(evaluate(&layers(2), &json!({})), None);
    assert_eq!(evaluate(&layers(3), &json!({})).as_deref(), Some("too many layers"));
    let root = json!({"config": {"User": "root"}});
    assert_eq!(evaluate(&layers(2), &root).as_deref(), Some("runs as root"));
    let young = json!({"created": "2025-12-31T12:00:00Z"});
    assert_eq!(evaluate(&layers(2), &young).as_deref(), Some("too young"));
    let evil = json!({"__entity": {"type": "User", "id": "root"}, "__extn": {"fn": "x"}, "n": 1.5});
    assert_eq!(evaluate(&evil, &json!({"config": evil})), None);
}

#[test]
fn a_policy_that_breaks_is_a_failure_and_forbids_not_nothing() {
    let cedar = cedar(
        r#"permit(principal, action, resource);
        forbid(principal, action, resource) when { context.tag == "1" };"#,
    );
    let digest = format!("docker.io/a/b@sha256:{}", "0".repeat(64));
    let failure = cedar.evaluate_request(&testing::context(), &testing::pull(&digest));
    let failure = failure.expect_err("there is no tag");
    assert!(failure.message.contains("tag"), "{}", failure.message);
}

#[test]
fn an_authorizer_grants_action_by_action() {
    let cedar = cedar(r#"permit(principal, action == Action::"pull", resource);"#);
    let wanted = Scope { repository: "a".to_owned(), actions: vec![Action::Pull, Action::Push] };
    let none = Scope { repository: "b".to_owned(), actions: vec![Action::Push] };
    let granted = cedar.authorize(&testing::context(), &[wanted, none]).expect("it decides");
    assert_eq!(granted.len(), 1);
    assert_eq!(
        (granted[0].repository.as_str(), &granted[0].actions[..]),
        ("a", &[Action::Pull][..])
    );
}

#[test]
fn a_policy_with_a_mistake_is_not_loaded() {
    for (policy, more, words) in [
        ("", json!({}), "there is no policy in it"),
        ("permit(principal, action, resource)", json!({}), "line 1, column"),
        ("permit(principal == ?principal, action, resource);", json!({}), "templates"),
        (r#"@code("gone") forbid(principal, action, resource);"#, json!({}), "@code(\"gone\")"),
        (
            "permit(principal, action, resource);",
            json!({"entities": [{"uid": 7}]}),
            "config.entities",
        ),
    ] {
        let failure = configure(policy, &more).expect_err(policy);
        assert!(failure.message.contains(words), "{policy}: {}", failure.message);
    }
}
