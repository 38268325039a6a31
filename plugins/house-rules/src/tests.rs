//! The rules, one by one and together.

use pierhead_plugin::testing::{self, Host};
use pierhead_plugin::{Action, Decision, ObjectKind};

use super::*;

const MANIFEST: &str = r#"{
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2},
    "layers": [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": 600},
        {"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "size": 500}
    ]
}"#;

const INDEX: &str = r#"{
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
    "manifests": [
        {"platform": {"os": "linux", "architecture": "amd64"}},
        {"platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
        {"platform": {"os": "unknown", "architecture": "unknown"}}
    ]
}"#;

/// Two days before the time of the tests.
const CONFIG: &str =
    r#"{"created": "2025-12-30T00:00:00.5Z", "os": "linux", "architecture": "amd64"}"#;

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn rules(json: &str) -> HouseRules {
    testing::configure(json).unwrap_or_else(|failure| panic!("{}: {json}", failure.message))
}

fn request(rules: &HouseRules, name: &str) -> Verdict {
    let verdict = rules.evaluate_request(&testing::context(), &testing::pull(name));
    verdict.expect("it decides")
}

fn image(rules: &HouseRules, name: &str, manifest: &str, config: Option<&str>) -> Verdict {
    let manifest = testing::manifest(name, manifest, config);
    let verdict = rules.evaluate_manifest(&testing::context(), Stage::Serve, &manifest);
    verdict.expect("it decides")
}

fn key(verdict: &Verdict) -> DependsOn {
    verdict.reuse.as_ref().expect("it may be used again").key
}

#[test]
fn the_examples_hold() {
    assert_eq!(testing::examples::<HouseRules>(), Ok(8));
}

#[test]
fn settings_without_sense_are_refused() {
    for (json, message) in [
        ("{}", "there is no rule"),
        (r#"{"mode": "warn"}"#, "there is no rule"),
        (r#"{"rules": [{"blocked_tags": ["a"]}, {"mode": "warn"}]}"#, "config.rules[1]: nothing"),
        (r#"{"rules": [{"rules": [{"min_age": "1d"}]}]}"#, "config.rules[0].rules: a rule has no"),
        (r#"{"min_age": "3 days"}"#, "config.min_age: \"3 days\" is no time"),
        (r#"{"rules": [{"max_size": 5}]}"#, "config.rules[0].max_size: invalid type"),
        (r#"{"required_platforms": ["amd64"]}"#, "\"amd64\" is not OS/ARCHITECTURE"),
        (r#"{"blocked_tag": ["a"]}"#, "config.blocked_tag: unknown field"),
    ] {
        let failure = testing::configure::<HouseRules>(json).expect_err(json);
        assert!(failure.message.contains(message), "{}", failure.message);
    }
}

#[test]
fn tags_are_blocked_for_pulls_of_manifests_alone() {
    let rules = rules(r#"{"blocked_tags": ["latest", "v?"]}"#);
    assert!(request(&rules, "docker.io/library/debian:latest").is_denied());
    assert!(request(&rules, "docker.io/library/debian:v1").is_denied());
    assert!(!request(&rules, "docker.io/library/debian:v10").is_denied());
    assert!(!request(&rules, &format!("docker.io/library/debian@{DIGEST}")).is_denied());
    let pull = testing::pull("docker.io/library/debian:latest");
    for other in [
        Request { action: Action::Push, ..pull.clone() },
        Request { kind: ObjectKind::Tag, ..pull },
    ] {
        let verdict = rules.evaluate_request(&testing::context(), &other).expect("it decides");
        assert_eq!(verdict.decision, Decision::Abstain);
    }
}

#[test]
fn a_verdict_depends_on_what_the_rules_look_at_and_no_more() {
    let verdict = request(&rules(r#"{"denied_upstreams": ["quay.io"]}"#), "docker.io/a/b:1");
    assert_eq!(key(&verdict), DependsOn::REPOSITORY);
    let by_group = rules(r#"{"denied_upstreams": ["quay.io"], "except_groups": ["ops"]}"#);
    let verdict = request(&by_group, "docker.io/a/b:1");
    assert_eq!(key(&verdict), DependsOn::REPOSITORY | DependsOn::IDENTITY);
    let verdict = image(&by_group, "docker.io/a/b:1", MANIFEST, Some(CONFIG));
    assert_eq!(key(&verdict), DependsOn::empty(), "nothing is said about images");

    let signed = rules(r#"{"required_facts": [{"name": "signature", "tagged_only": true}]}"#);
    let verdict = image(&signed, "docker.io/a/b:1", MANIFEST, Some(CONFIG));
    let facts = DependsOn::DIGEST | DependsOn::FACTS | DependsOn::REPOSITORY | DependsOn::TAG;
    assert_eq!(key(&verdict), facts);
    assert_eq!(key(&request(&signed, "docker.io/a/b:1")), DependsOn::empty());
}

#[test]
fn groups_and_repositories_are_excepted() {
    let rules = rules(
        r#"{"blocked_tags": ["latest"], "except_groups": ["ops"], "repositories": ["docker.io/**"],
            "except_repositories": ["docker.io/library/*"]}"#,
    );
    let pull = |name: &str, groups: &[&str]| {
        let ctx = testing::context_of("alice", groups);
        rules.evaluate_request(&ctx, &testing::pull(name)).expect("it decides").is_denied()
    };
    assert!(pull("docker.io/a/b:latest", &["dev"]));
    assert!(!pull("docker.io/a/b:latest", &["dev", "ops"]));
    assert!(!pull("docker.io/library/debian:latest", &[]));
    assert!(!pull("quay.io/a/b:latest", &[]));
}

#[test]
fn an_image_grows_old_enough() {
    let host = Host::new();
    let rules = rules(r#"{"min_age": "3d"}"#);
    let verdict = image(&rules, "docker.io/a/b:1", MANIFEST, Some(CONFIG));
    assert!(verdict.is_denied());
    assert_eq!(verdict.reuse.expect("it may be used again").ttl_ms, 600_000);
    // A moment before it is old enough, the verdict ends with that moment.
    host.set_now(testing::NOW + 86_400_000 - 1_000);
    let verdict = image(&rules, "docker.io/a/b:1", MANIFEST, Some(CONFIG));
    assert!(verdict.is_denied());
    assert_eq!(verdict.reuse.expect("it may be used again").ttl_ms, 1_500);
    host.set_now(testing::NOW + 86_400_000 + 500);
    let verdict = image(&rules, "docker.io/a/b:1", MANIFEST, Some(CONFIG));
    assert!(!verdict.is_denied());
}

#[test]
fn the_age_stands_in_the_configuration_or_in_an_annotation_or_nowhere() {
    let rules = rules(r#"{"min_age": "3d"}"#);
    let annotated = MANIFEST.replacen(
        "\"config\"",
        r#""annotations": {"org.opencontainers.image.created": "2025-06-01T00:00:00Z"}, "config""#,
        1,
    );
    assert!(!image(&rules, "docker.io/a/b:1", &annotated, None).is_denied());
    assert!(image(&rules, "docker.io/a/b:1", &annotated, Some(CONFIG)).is_denied());
    let verdict = image(&rules, "docker.io/a/b:1", MANIFEST, None);
    assert!(verdict.message().is_some_and(|message| message.contains("does not say how old")));
    assert!(!image(&rules, "docker.io/a/b:1", INDEX, None).is_denied(), "its images are asked");
    let ancient = r#"{"created": "0001-01-01T00:00:00Z"}"#;
    assert!(!image(&rules, "docker.io/a/b:1", MANIFEST, Some(ancient)).is_denied());
}

#[test]
fn all_layers_count() {
    for (max, denied) in [("1099B", true), ("1100B", false)] {
        let rules = rules(&format!(r#"{{"max_size": "{max}"}}"#));
        assert_eq!(image(&rules, "docker.io/a/b:1", MANIFEST, None).is_denied(), denied, "{max}");
    }
    let endless = MANIFEST.replace("600", &u64::MAX.to_string());
    assert!(
        image(&rules(r#"{"max_size": "1TiB"}"#), "docker.io/a/b:1", &endless, None).is_denied()
    );
}

#[test]
fn platforms_are_offered_or_not() {
    let check = |required: &str, manifest: &str, config| {
        let rules = rules(&format!(r#"{{"required_platforms": [{required}]}}"#));
        let verdict = image(&rules, "docker.io/a/b:1", manifest, config);
        verdict.message().map(str::to_owned)
    };
    assert_eq!(check(r#""linux/amd64", "linux/arm64""#, INDEX, None), None);
    let message =
        check(r#""linux/arm64/v7", "linux/riscv64""#, INDEX, None).expect("it lacks both");
    assert_eq!(message, "docker.io/a/b is not offered for linux/arm64/v7, linux/riscv64");
    assert_eq!(check(r#""linux/arm64", "linux/amd64""#, MANIFEST, Some(CONFIG)), None);
    assert!(check(r#""linux/arm""#, MANIFEST, Some(CONFIG)).is_some());
    let message = check(r#""linux/arm""#, MANIFEST, None).expect("nobody knows");
    assert!(message.contains("does not say what platform"), "{message}");
}

#[test]
fn facts_are_those_of_their_source() {
    let rules = rules(
        r#"{"required_facts": [
            {"name": "signature", "source": "cosign", "field": "by.name", "equals": "release"}]}"#,
    );
    for (source, json, denied) in [
        ("cosign", r#"{"by": {"name": "release"}}"#, false),
        ("cosign", r#"{"by": {"name": "alice"}}"#, true),
        ("cosign", r#"{"by": 7}"#, true),
        ("cosign", "nonsense", true),
        ("mallory", r#"{"by": {"name": "release"}}"#, true),
    ] {
        let _host = Host::new().fact(DIGEST, source, "signature", json);
        let verdict = image(&rules, "docker.io/a/b:1", MANIFEST, Some(CONFIG));
        assert_eq!(verdict.is_denied(), denied, "{source} {json}");
    }
}

#[test]
fn a_fact_can_be_asked_of_tags_alone() {
    let rules = rules(r#"{"required_facts": [{"name": "signature", "tagged_only": true}]}"#);
    assert!(image(&rules, "docker.io/a/b:1", INDEX, None).is_denied());
    let by_digest = format!("docker.io/a/b@{DIGEST}");
    assert!(!image(&rules, &by_digest, MANIFEST, Some(CONFIG)).is_denied());
}

#[test]
fn signatures_and_other_artifacts_are_no_images() {
    let rules = rules(
        r#"{"min_age": "3d", "required_platforms": ["linux/amd64"],
            "required_facts": [{"name": "signature"}]}"#,
    );
    let signature = MANIFEST
        .replace("vnd.oci.image.layer.v1.tar+gzip", "vnd.dev.cosign.simplesigning.v1+json")
        .replace("vnd.oci.image.layer.v1.tar+zstd", "vnd.dev.cosign.simplesigning.v1+json");
    let artifact = MANIFEST.replacen("\"config\"", r#""artifactType": "a/b", "config""#, 1);
    let chart = MANIFEST.replace("vnd.oci.image.config.v1", "vnd.cncf.helm.config.v1");
    for manifest in [signature, artifact, chart] {
        assert!(!image(&rules, "docker.io/a/b:1", &manifest, None).is_denied(), "{manifest}");
    }
    assert!(image(&rules, "docker.io/a/b:1", MANIFEST, Some(CONFIG)).is_denied());
}

#[test]
fn every_broken_rule_is_named_and_warnings_go_along() {
    let rules = rules(
        r#"{"blocked_tags": ["latest"], "message": "see the wiki", "rules": [
            {"denied_upstreams": ["docker.io"]},
            {"denied_repositories": ["**/b"], "mode": "warn"}]}"#,
    );
    let verdict = request(&rules, "docker.io/a/b:latest");
    let message = verdict.message().expect("it is refused");
    assert!(message.contains("instead (see the wiki); images of docker.io are not"), "{message}");
    assert_eq!(verdict.warnings().collect::<Vec<_>>(), ["docker.io/a/b is not allowed here"]);
}

#[test]
fn a_manifest_without_sense_is_a_failure() {
    let rules = rules(r#"{"min_age": "3d"}"#);
    let manifest = testing::manifest("docker.io/a/b:1", "[", None);
    let failure = rules.evaluate_manifest(&testing::context(), Stage::Admit, &manifest);
    failure.expect_err("it is no manifest");
}
