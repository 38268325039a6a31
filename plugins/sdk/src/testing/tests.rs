//! The played registry behaves like one, and cases tell what is wrong.

use std::time::Duration;

use serde::Deserialize;

use super::*;
use crate::kv::Bucket;
use crate::{DependsOn, FailureKind, ManifestPolicy, RequestPolicy, Stage, Verdict, facts, log};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    blocked: Vec<String>,
}

struct Policy(Settings);

impl Plugin for Policy {
    type Settings = Settings;

    fn configure(settings: Settings) -> Result<Self, Failure> {
        if settings.blocked.iter().any(String::is_empty) {
            return Err(Failure::config("config.blocked: a tag without a letter"));
        }
        Ok(Self(settings))
    }
}

impl RequestPolicy for Policy {
    fn evaluate_request(&self, _: &CallContext, request: &Request) -> Result<Verdict, Failure> {
        let tag = request.reference.tag.clone().ok_or_else(|| Failure::input("no tag"))?;
        let verdict = if self.0.blocked.contains(&tag) {
            Verdict::deny(format!("{tag} is blocked"))
        } else {
            Verdict::abstain().warn("it is old")
        };
        Ok(verdict.reuse(Duration::from_secs(1), DependsOn::TAG))
    }
}

impl ManifestPolicy for Policy {
    fn evaluate_manifest(
        &self,
        ctx: &CallContext,
        _: Stage,
        manifest: &Manifest,
    ) -> Result<Verdict, Failure> {
        let signed = !facts::named(&manifest.descriptor.digest, "signature").is_empty();
        let trusted =
            ctx.identity.as_ref().is_some_and(|who| who.groups.contains(&"ops".to_owned()));
        Ok(if signed || trusted { Verdict::allow() } else { Verdict::deny("not signed") })
    }
}

crate::plugin!(Policy: RequestPolicy, ManifestPolicy;
    description = "A policy in a test",
    examples = r#"[{
        "name": "a blocked tag",
        "config": {"blocked": ["latest"]},
        "call": {"hook": "request-policy", "reference": "docker.io/library/debian:latest"},
        "expect": {"decision": "deny", "code": "denied", "message": "/latest is blocked/", "reuse_ms": 1000}
    }]"#);

fn case(json: &str) -> Result<(), String> {
    check::<Policy>(&serde_json::from_str(json).expect("the case is well-formed"))
}

#[test]
fn the_examples_in_the_metadata_run() {
    assert_eq!(examples::<Policy>(), Ok(1));
}

#[test]
fn a_case_that_is_not_met_says_what_was_found() {
    let call = r#""name": "x", "config": {"blocked": ["a"]},
        "call": {"hook": "request-policy", "reference": "docker.io/library/debian:b"}"#;
    case(&format!(r#"{{{call}, "expect": {{"decision": "abstain", "warnings": ["old"]}}}}"#))
        .expect("it is met");
    for (expect, found) in [
        (r#"{"decision": "deny"}"#, r#"decision: expected "deny", found "abstain""#),
        (r#"{"reuse_ms": 0}"#, "reuse_ms: expected 0, found 1000"),
        (r#"{"warnings": []}"#, "warnings: expected []"),
        (r#"{"broken": "failure"}"#, "expected to break by failure"),
    ] {
        let error = case(&format!(r#"{{{call}, "expect": {expect}}}"#)).expect_err("it is not met");
        assert!(error.starts_with(found), "{error}");
    }
}

#[test]
fn a_case_can_expect_that_something_breaks() {
    case(
        r#"{"name": "x", "config": {"blocked": [""]}, "call": {"hook": "request-policy"},
        "expect": {"broken": "configuration", "message": "without a letter"}}"#,
    )
    .expect("it is met");
    case(r#"{"name": "x", "call": {"hook": "request-policy", "reference": "docker.io/library/debian"},
        "expect": {"broken": "failure", "message": "no tag"}}"#)
    .expect("it is met");
    case(r#"{"name": "x", "call": {"hook": "resolver"}, "expect": {}}"#)
        .expect_err("there is no such hook");
}

#[test]
fn facts_and_groups_reach_a_policy() {
    let call = r#""name": "x", "call": {"hook": "manifest-policy", "reference": "docker.io/a/b:1""#;
    for (more, decision) in [
        (r"}", "deny"),
        (r#", "identity": {"subject": "x", "groups": ["ops"]}}"#, "allow"),
        (r#"}, "facts": [{"source": "cosign", "name": "signature", "json": true}]"#, "allow"),
    ] {
        let expect = format!(r#""expect": {{"decision": "{decision}"}}"#);
        case(&format!("{{{call}{more}, {expect}}}")).expect("it is met");
    }
}

#[test]
fn values_end_and_numbers_add_up() {
    let host = Host::new().at(1_000);
    let bucket = Bucket("b");
    bucket.set_json("k", &vec![1, 2], Some(Duration::from_secs(1))).expect("it is kept");
    assert_eq!(bucket.get_json::<Vec<u8>>("k").expect("granted"), Some(vec![1, 2]));
    host.set_now(2_000);
    assert_eq!(bucket.get("k").expect("granted"), None);
    assert_eq!(bucket.increment("n", 2, Some(Duration::from_secs(1))).expect("a number"), 2);
    assert_eq!(bucket.increment("n", 3, Some(Duration::from_secs(9))).expect("a number"), 5);
    host.set_now(3_000);
    assert_eq!(bucket.increment("n", 1, None).expect("a number"), 1);
    bucket.increment("n", i64::MAX, None).expect_err("the sum is no number");
    assert_eq!(bucket.increment("n", 1, None).expect("a number"), 2, "it is as it was");
    bucket.delete("n").expect("granted");
    assert_eq!(bucket.get("n").expect("granted"), None);
    drop(host);
    assert_eq!(bucket.get("k").expect("granted"), None, "the next test begins with nothing");
}

#[test]
fn only_what_is_answered_is_granted() {
    let host = Host::new().answer("GET", "https://a/", 200, "[1]");
    let answer = crate::http::get("https://a/").expect("there is an answer");
    assert_eq!(answer.json::<Vec<u8>>().expect("it is JSON"), [1]);
    let error = crate::http::get("https://b/").expect_err("there is none");
    assert_eq!(Failure::from(error).kind, FailureKind::DeniedCapability);
    assert_eq!(host.requests().len(), 2);
    log::warn("seen");
    assert_eq!(host.logs(), [(Level::Warn, "seen".to_owned())]);
}

#[test]
fn a_blob_is_read_in_pieces_and_to_a_limit() {
    let bytes = vec![7; 100_000];
    let descriptor = manifest("docker.io/a/b", "{}", None).descriptor;
    let _host = Host::new().content("docker.io/a/b:1", descriptor, bytes.clone());
    let name = reference("docker.io/a/b:1");
    assert_eq!(crate::content::read(&name, 100_000).expect("it is there"), bytes);
    crate::content::read(&name, 99_999).expect_err("it is larger");
    crate::content::read(&reference("docker.io/a/b:2"), 1).expect_err("it is not there");
}

struct Early;

impl Plugin for Early {
    type Settings = crate::NoSettings;

    fn configure(_: crate::NoSettings) -> Result<Self, Failure> {
        let digest = format!("sha256:{}", "0".repeat(64));
        let name = reference("docker.io/a/b:1");
        assert_eq!(crate::settings::secret("token"), None);
        assert!(facts::named(&digest, "signature").is_empty());
        assert!(crate::host::facts::state(&digest, "seen", "1", None).is_err());
        assert!(Bucket("b").get("k").is_err() && Bucket("b").set("k", b"v", None).is_err());
        assert!(Bucket("b").delete("k").is_err() && Bucket("b").increment("k", 1, None).is_err());
        assert!(crate::http::get("https://a/").is_err());
        assert!(crate::content::read(&name, 100).is_err());
        assert!(crate::host::content::referrers(&name, None).is_err());
        Ok(Self)
    }
}

#[test]
fn what_is_no_setting_is_not_there_during_configure() {
    let descriptor = manifest("docker.io/a/b", "{}", None).descriptor;
    let digest = descriptor.digest.clone();
    let host = Host::new()
        .secret("token", "s")
        .fact(&digest, "cosign", "signature", "true")
        .answer("GET", "https://a/", 200, "[1]")
        .content("docker.io/a/b:1", descriptor, "{}");
    configure::<Early>("{}").expect("it is refused everything");
    assert!(host.requests().is_empty());
    assert_eq!(host.facts().len(), 1);
    // A call has all of it.
    assert_eq!(crate::settings::secret("token").as_deref(), Some("s"));
    assert_eq!(facts::named(&digest, "signature").len(), 1);
    Bucket("b").set("k", b"v", None).expect("it is kept");
    crate::http::get("https://a/").expect("there is an answer");
    crate::content::read(&reference("docker.io/a/b:1"), 100).expect("it is there");
}
