//! Calls as documents: one JSON object for what a policy in another language looks at.
//!
//! Every member is there in every call; what is not known is `null`.

use serde_json::{Map, Value, json};

use crate::{
    Action, CallContext, DependsOn, Identity, Manifest, ObjectKind, Platform, Reference, Request,
    Scope, Stage, facts, units,
};

/// The name of an action, as the interface writes it.
#[must_use]
pub const fn action(action: Action) -> &'static str {
    match action {
        Action::Pull => "pull",
        Action::Push => "push",
        Action::Delete => "delete",
        Action::ListTags => "list-tags",
        Action::Catalog => "catalog",
        Action::Referrers => "referrers",
        Action::Mount => "mount",
        Action::Admin => "admin",
    }
}

/// The name of a kind, as the interface writes it.
#[must_use]
pub const fn kind(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Manifest => "manifest",
        ObjectKind::Blob => "blob",
        ObjectKind::Tag => "tag",
        ObjectKind::Repository => "repository",
        ObjectKind::Registry => "registry",
    }
}

fn texts(pairs: &[(String, String)]) -> Map<String, Value> {
    pairs.iter().map(|(key, value)| (key.clone(), json!(value))).collect()
}

/// Claims by name. One that has several values has the list of them.
fn claims(pairs: &[(String, String)]) -> Map<String, Value> {
    let mut found: Map<String, Value> = Map::new();
    for (key, value) in pairs {
        match found.get_mut(key) {
            None => {
                found.insert(key.clone(), json!(value));
            }
            Some(Value::Array(values)) => values.push(json!(value)),
            Some(one) => *one = json!([one.take(), value]),
        }
    }
    found
}

fn identity(identity: &Identity) -> Value {
    json!({
        "subject": identity.subject,
        "issuer": identity.issuer,
        "method": identity.method,
        "groups": identity.groups,
        "claims": claims(&identity.claims),
        "expires_at": identity.expires_at,
    })
}

fn platform(platform: &Platform) -> Value {
    json!({
        "os": platform.os,
        "architecture": platform.architecture,
        "variant": platform.variant,
    })
}

/// What all calls have.
fn common(hook: &str, ctx: &CallContext) -> Map<String, Value> {
    let whole = json!({
        "hook": hook,
        "request_id": ctx.request_id,
        "now": ctx.now,
        "client": {
            "address": ctx.client.address,
            "user_agent": ctx.client.user_agent,
            "tls_subject": ctx.client.tls_subject,
        },
        "identity": ctx.identity.as_ref().map(identity),
        "attributes": texts(&ctx.attributes),
        "action": null, "kind": null,
        "name": null, "upstream": null, "repository": null, "tag": null, "digest": null,
        "stage": null, "media_type": null, "size": null, "artifact_type": null,
        "annotations": null, "platform": null, "manifest": null, "config": null, "image": null, "facts": null,
    });
    match whole {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn name(members: &mut Map<String, Value>, reference: &Reference) {
    let name = format!("{}/{}", reference.upstream, reference.repository);
    members.insert("name".to_owned(), json!(name));
    members.insert("upstream".to_owned(), json!(reference.upstream));
    members.insert("repository".to_owned(), json!(reference.repository));
    members.insert("tag".to_owned(), json!(reference.tag));
    members.insert("digest".to_owned(), json!(reference.digest));
}

/// What a request policy is asked.
#[must_use]
pub fn of_request(ctx: &CallContext, request: &Request) -> Value {
    let mut members = common("request-policy", ctx);
    members.insert("action".to_owned(), json!(action(request.action)));
    members.insert("kind".to_owned(), json!(kind(request.kind)));
    name(&mut members, &request.reference);
    Value::Object(members)
}

/// What an authorizer is asked about one action. The name is the upstream's, a slash and the
/// repository; the two are not told apart.
#[must_use]
pub fn of_scope(ctx: &CallContext, scope: &Scope, wanted: Action) -> Value {
    let mut members = common("authorizer", ctx);
    members.insert("action".to_owned(), json!(action(wanted)));
    members.insert("name".to_owned(), json!(scope.repository));
    Value::Object(members)
}

/// What policies ask of an image most often: when it was made, in milliseconds since 1970, how many
/// layers it has, and their bytes in sum. `null` for what has no layers.
fn image(manifest: &Value, config: &Value) -> Value {
    let Some(layers) = manifest["layers"].as_array() else { return Value::Null };
    let bytes = layers
        .iter()
        .filter_map(|layer| layer["size"].as_u64())
        .fold(0_u64, |sum, size| sum.saturating_add(size));
    let annotated = &manifest["annotations"]["org.opencontainers.image.created"];
    let created =
        [&config["created"], annotated].iter().find_map(|text| units::rfc3339(text.as_str()?));
    json!({"created": created, "layers": layers.len(), "bytes": bytes})
}

/// What a manifest policy is asked. `manifest` and `config` are the JSON itself, and what is known
/// of the digest stands in `facts` if `with_facts` says so: asking for them costs a little.
#[must_use]
pub fn of_manifest(
    ctx: &CallContext,
    stage: Stage,
    manifest: &Manifest,
    with_facts: bool,
) -> Value {
    let mut members = common("manifest-policy", ctx);
    let descriptor = &manifest.descriptor;
    let stage = match stage {
        Stage::Admit => "admit",
        Stage::Serve => "serve",
    };
    let json_of = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap_or(Value::Null);
    let parsed = json_of(&manifest.raw);
    let config = manifest.config.as_deref().map_or(Value::Null, json_of);
    name(&mut members, &manifest.reference);
    for (key, value) in [
        ("image", image(&parsed, &config)),
        ("action", json!("pull")),
        ("kind", json!("manifest")),
        ("stage", json!(stage)),
        ("digest", json!(descriptor.digest)),
        ("media_type", json!(descriptor.media_type)),
        ("size", json!(descriptor.size)),
        ("artifact_type", json!(descriptor.artifact_type)),
        ("annotations", Value::Object(texts(&descriptor.annotations))),
        ("platform", descriptor.platform.as_ref().map_or(Value::Null, platform)),
        ("manifest", parsed),
        ("config", config),
    ] {
        members.insert(key.to_owned(), value);
    }
    if with_facts {
        let found = facts::about(&descriptor.digest).into_iter().map(|fact| {
            let value = fact.value();
            json!({"source": fact.source, "name": fact.name, "value": value, "at": fact.at})
        });
        members.insert("facts".to_owned(), Value::Array(found.collect()));
    }
    Value::Object(members)
}

/// What a verdict depends on that looked at this member of a document (`tag`, `client.address`).
/// None if a verdict that depends on it cannot be used again.
#[must_use]
pub fn depends_on(path: &str) -> Option<DependsOn> {
    let (member, rest) = path.split_once('.').unwrap_or((path, ""));
    Some(match member {
        "action" | "kind" => DependsOn::ACTION,
        "annotations" | "artifact_type" | "config" | "digest" | "image" | "manifest"
        | "media_type" | "platform" | "size" => DependsOn::DIGEST,
        "client" if rest == "address" => DependsOn::CLIENT_ADDRESS,
        "facts" => DependsOn::FACTS | DependsOn::DIGEST,
        // A hook's verdicts are kept apart from those of others.
        "hook" => DependsOn::empty(),
        "identity" => DependsOn::IDENTITY,
        "name" | "repository" | "upstream" => DependsOn::REPOSITORY,
        "now" => DependsOn::TIME,
        "tag" => DependsOn::TAG,
        _ => return None,
    })
}

/// Which members of a document a text in another language looks at: all `root.a` and `root.a.b`,
/// and `root["a"]`. None if the root stands there in any other way, so that anything may be meant.
/// Strings and comments count as well: that may find too many members, and never too few.
#[must_use]
pub fn members(text: &str, root: &str) -> Option<Vec<String>> {
    fn word(text: &str) -> &str {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        &text[..end]
    }
    let mut found = Vec::new();
    for (at, _) in text.match_indices(root) {
        let before = text[..at].chars().next_back();
        let after = &text[at + root.len()..];
        let inside = |c: char| c.is_alphanumeric() || c == '_';
        // A part of another word, or a member of something else that has this name.
        if before.is_some_and(|c| inside(c) || c == '.') || after.starts_with(inside) {
            continue;
        }
        let (member, rest) = if let Some(rest) = after.strip_prefix('.') {
            let member = word(rest);
            (member, &rest[member.len()..])
        } else {
            let (member, rest) = after.strip_prefix("[\"")?.split_once("\"]")?;
            (member, rest)
        };
        if member.is_empty() {
            return None;
        }
        let second = rest.strip_prefix('.').map(word).filter(|second| !second.is_empty());
        found.push(second.map_or_else(|| member.to_owned(), |second| format!("{member}.{second}")));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Host};

    #[test]
    fn every_member_is_in_every_document() {
        let _host = Host::new();
        let ctx = testing::context_of("alice", &["dev"]);
        let request = of_request(&ctx, &testing::pull("docker.io/library/debian:12"));
        let manifest = testing::manifest("docker.io/library/debian:12", "{}", Some("{}"));
        let manifest = of_manifest(&ctx, Stage::Serve, &manifest, true);
        let scope = Scope { repository: "docker.io/library/debian".to_owned(), actions: vec![] };
        let scope = of_scope(&ctx, &scope, Action::Push);
        let keys = |value: &Value| -> Vec<String> {
            value.as_object().expect("it is an object").keys().cloned().collect()
        };
        assert_eq!(keys(&request), keys(&manifest));
        assert_eq!(keys(&request), keys(&scope));
        assert_eq!(request["name"], "docker.io/library/debian");
        assert_eq!(request["identity"]["groups"], json!(["dev"]));
        assert_eq!(manifest["config"], json!({}));
        assert_eq!(manifest["facts"], json!([]));
        assert_eq!(manifest["image"], Value::Null);
        assert_eq!(scope["action"], "push");
        assert_eq!(scope["upstream"], Value::Null);
    }

    #[test]
    fn an_image_says_how_old_and_how_large_it_is() {
        let annotated = json!({
            "layers": [{"size": 1}, {"size": 2}],
            "annotations": {"org.opencontainers.image.created": "1970-01-01T00:00:02Z"},
        });
        let config = json!({"created": "1970-01-01T00:00:01Z"});
        assert_eq!(image(&annotated, &config), json!({"created": 1000, "layers": 2, "bytes": 3}));
        assert_eq!(image(&annotated, &Value::Null)["created"], 2000);
        assert_eq!(image(&json!({"manifests": []}), &config), Value::Null);
    }

    #[test]
    fn claims_with_several_values_are_lists() {
        let pairs: Vec<(String, String)> = [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")]
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        assert_eq!(Value::Object(claims(&pairs)), json!({"a": ["1", "3", "4"], "b": "2"}));
    }

    #[test]
    fn members_are_found_or_anything_may_be_meant() {
        let found = |text: &str| members(text, "input").map(|found| found.join(" "));
        for (text, expected) in [
            ("deny if input.tag == \"latest\"", Some("tag")),
            (
                "input.client.address; input.identity.groups[_]",
                Some("client.address identity.groups"),
            ),
            ("input[\"tag\"] input[\"client\"].address", Some("tag client.address")),
            ("my_input.x inputs.y data.input.z", Some("")),
            ("# input.now", Some("now")),
            ("input[x]", None),
            ("x := input", None),
            ("with input as {}", None),
            ("input.", None),
            ("f(input)", None),
        ] {
            assert_eq!(found(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_said_is_not_used_again() {
        assert_eq!(depends_on("tag"), Some(DependsOn::TAG));
        assert_eq!(depends_on("identity.groups"), Some(DependsOn::IDENTITY));
        assert_eq!(depends_on("client.address"), Some(DependsOn::CLIENT_ADDRESS));
        assert_eq!(depends_on("facts"), Some(DependsOn::FACTS | DependsOn::DIGEST));
        for path in ["client", "client.user_agent", "attributes.x", "stage", "request_id", ""] {
            assert_eq!(depends_on(path), None, "{path}");
        }
    }
}
