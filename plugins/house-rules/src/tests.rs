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
    for (config, words) in [
        (Some("{}"), "docker.io/a/b does not say how old it is"),
        (Some("no JSON"), "docker.io/a/b does not say how old it is"),
        (None, "a configuration that could not be read, so nobody knows how old it is"),
    ] {
        let verdict = image(&rules, "docker.io/a/b:1", MANIFEST, config);
        assert!(verdict.message().is_some_and(|message| message.contains(words)), "{words}");
    }
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
    assert!(message.contains("nobody knows what platform it is for"), "{message}");
    let message = check(r#""linux/arm""#, MANIFEST, Some("{}")).expect("it does not say");
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

/// A manifest whose configuration and only layer are of these types.
fn of_types(config: &str, layer: &str) -> String {
    format!(
        r#"{{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {{"mediaType": "{config}", "size": 2}},
            "layers": [{{"mediaType": "{layer}", "size": 600}}]}}"#
    )
}

/// A rule that every image without configuration breaks.
const STRICT: &str = r#"{"required_platforms": ["linux/amd64"]}"#;

#[test]
fn signatures_and_other_artifacts_are_no_images() {
    let rules = rules(
        r#"{"min_age": "3d", "max_size": "1B", "required_platforms": ["linux/amd64"],
            "required_facts": [{"name": "signature"}]}"#,
    );
    for (config, layer) in [
        ("application/vnd.oci.empty.v1+json", "application/vnd.dev.sigstore.bundle.v0.3+json"),
        (
            "application/vnd.cncf.helm.config.v1+json",
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        ),
        ("application/vnd.wasm.config.v0+json", "application/wasm"),
        ("application/json", "application/spdx+json"),
    ] {
        let manifest = of_types(config, layer);
        assert!(!image(&rules, "docker.io/a/b:1", &manifest, None).is_denied(), "{manifest}");
    }
    assert!(image(&rules, "docker.io/a/b:1", MANIFEST, Some(CONFIG)).is_denied());
}

#[test]
fn what_a_client_unpacks_is_an_image_whatever_it_is_called() {
    const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    const IMAGE: &str = "application/vnd.oci.image.config.v1+json";
    let rules = rules(STRICT);
    let named = MANIFEST.replacen("\"config\"", r#""artifactType": "a/b", "config""#, 1);
    assert!(image(&rules, "docker.io/a/b:1", &named, None).is_denied());
    for (config, layer) in [
        // By its layers.
        ("application/vnd.cncf.helm.config.v1+json", TAR),
        ("application/vnd.oci.empty.v1+json", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("a/b", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"),
        ("a/b", "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        ("a/b", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"),
        ("a/b", "Application/VND.oci.image.layer.v1.tar+gzip; q=1"),
        // By its configuration: podman unpacks whatever the layers are called.
        (IMAGE, "application/vnd.dev.cosign.simplesigning.v1+json"),
        ("application/vnd.docker.container.image.v1+json", "a/b"),
        ("application/VND.docker.container.image.v1+json", "a/b"),
        // By what Docker makes of both.
        ("application/octet-stream", "application/octet-stream"),
        ("text/html", TAR),
        ("application/json", ""),
        ("", "text/html"),
    ] {
        let manifest = of_types(config, layer);
        assert!(image(&rules, "docker.io/a/b:1", &manifest, None).is_denied(), "{manifest}");
        assert!(!image(&rules, "docker.io/a/b:1", &manifest, Some(CONFIG)).is_denied());
    }
}

#[test]
fn an_index_is_one_by_how_it_is_served_or_by_its_own_word() {
    let rules = rules(r#"{"required_platforms": ["linux/riscv64"]}"#);
    let other = INDEX.replace("application/vnd.docker.distribution.manifest.list.v2+json", "a/b");
    let mut manifest = testing::manifest("docker.io/a/b:1", &other, None);
    let denied = |manifest: &Manifest| {
        let verdict = rules.evaluate_manifest(&testing::context(), Stage::Serve, manifest);
        verdict.expect("it decides").is_denied()
    };
    assert!(!denied(&manifest));
    manifest.descriptor.media_type = "application/vnd.oci.image.index.v1+json".to_owned();
    assert!(denied(&manifest));
}

#[test]
fn a_manifest_of_dockers_first_kind_is_an_image_that_says_nothing() {
    let first = r#"{"schemaVersion": 1, "fsLayers": [{"blobSum": "sha256:00"}]}"#;
    for (rule, words) in [
        (STRICT, "does not say what platform"),
        (r#"{"min_age": "3d"}"#, "does not say how old"),
        (r#"{"max_size": "1TiB"}"#, "does not say how large"),
    ] {
        let verdict = image(&rules(rule), "docker.io/a/b:1", first, None);
        assert!(verdict.message().is_some_and(|message| message.contains(words)), "{words}");
    }
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

#[test]
fn what_is_null_or_of_another_type_is_not_said_and_breaks_nothing() {
    let rules = rules(STRICT);
    for artifact in [
        r#"{"schemaVersion": 2, "layers": null, "config": null, "manifests": null}"#,
        r#"{"mediaType": null, "annotations": null, "fsLayers": null, "layers": [null, 1, "a"]}"#,
        r#"{"layers": {}, "config": [], "manifests": "", "annotations": []}"#,
        r#"{"layers": [{"mediaType": null, "size": -1, "platform": "linux"}]}"#,
    ] {
        assert!(!image(&rules, "docker.io/a/b:1", artifact, None).is_denied(), "{artifact}");
    }
    // What makes no sense beside it hides no image.
    let beside = MANIFEST.replace(r#""layers": ["#, r#""layers": [null, {"size": "many"},"#);
    let twice = MANIFEST.replace(r#""schemaVersion": 2,"#, r#""layers": [],"#);
    for hidden in [beside, twice] {
        assert!(image(&rules, "docker.io/a/b:1", &hidden, None).is_denied(), "{hidden}");
    }
}
