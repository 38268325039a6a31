//! `[plugin.NAME]`, `[chain]` and `[plugins]`.

use super::{good, refused, with_vars};
use crate::config::plugins::{MatchTable, VerifyTable};
use crate::hooks::Action;
use crate::hooks::chain::{Hook, Mode, OnError};

const RULES: &str = "[plugin.rules]\nsource = \"builtin:house-rules\"\n";

#[test]
fn a_plugin_needs_only_a_source() {
    let config = good(RULES);
    let plan = &config.plugins.mounts[0];
    assert_eq!(
        (&*plan.mount.name, plan.source.to_string()),
        ("rules", "builtin:house-rules".into())
    );
    assert_eq!((plan.mount.mode, plan.mount.on_error), (Mode::Enforce, None));
    assert_eq!((plan.config.clone(), plan.hooks.clone()), (serde_json::json!({}), None));
    assert!(config.plugins.watch);
    assert!(good("").plugins.mounts.is_empty());
}

#[test]
fn everything_can_be_said() {
    let config = good(
        "[plugin.z]\n\
         source = \"file:z.wasm\"\n\
         [plugin.a]\n\
         source = \"file:a.rego\"\n\
         hooks = [\"request-policy\"]\n\
         match = { repositories = [\"team/**\"], actions = [\"pull\"], upstreams = [\"docker.io\"] }\n\
         on_error = \"skip\"\n\
         mode = \"shadow\"\n\
         timeout = \"7ms\"\n\
         memory_max = \"16MiB\"\n\
         grants = { kv = { buckets = [\"b\"], quota = \"1KiB\" }, secrets = [\"pw\"] }\n\
         config = { tags = [\"latest\"], deep = { n = 1 } }\n\
         secrets = { pw = \"pw\" }\n\
         [chain]\n\
         request-policy = [\"a\", \"z\"]\n\
         [plugins]\n\
         memory_max = \"64MiB\"\n\
         calls_max = 3\n\
         decisions_max = 0\n\
         watch = false\n",
    );
    let plugins = &config.plugins;
    // In the order of the file.
    let names: Vec<_> = plugins.mounts.iter().map(|plan| &*plan.mount.name).collect();
    assert_eq!(names, ["z", "a"]);
    assert_eq!(plugins.order["request-policy"], ["a", "z"]);
    assert_eq!((plugins.memory_max, plugins.calls_max), (64 << 20, 3));
    assert_eq!((plugins.decisions_max, plugins.watch), (0, false));
    let plan = &plugins.mounts[1];
    assert_eq!(plan.hooks.as_deref(), Some(&[Hook::RequestPolicy][..]));
    assert_eq!((plan.mount.mode, plan.mount.on_error), (Mode::Shadow, Some(OnError::Skip)));
    assert_eq!(plan.mount.timeout.unwrap().as_millis(), 7);
    assert_eq!(plan.memory_max, Some(16 << 20));
    assert_eq!(plan.mount.matching.actions.as_deref(), Some(&[Action::Pull][..]));
    assert_eq!(plan.secrets["pw"].expose(), "hunter2");
    assert_eq!(plan.grants.secrets, ["pw"]);
    assert_eq!(plan.config, serde_json::json!({ "tags": ["latest"], "deep": { "n": 1 } }));
}

#[test]
fn mistakes_have_their_line_and_a_help() {
    for (text, says) in [
        ("[plugin.rules]\n", &["p.toml:1:", "has no source"][..]),
        ("[plugin.Rules]\nsource = \"file:x\"", &["p.toml:1:", "lower-case"]),
        ("[plugin.a.b]\nsource = \"file:x\"", &["no key `b`"]),
        ("[plugin.a]\nsource = \"x.wasm\"", &["p.toml:2:10", "file:PATH"]),
        ("[plugin.a]\nsource = \"oci:ghcr.io/a/b:1\"", &["p.toml:2:10", "digest is missing"]),
        ("[plugin.a]\nsuorce = \"file:x\"", &["p.toml:2:1", "did you mean `source`?"]),
    ] {
        refused(text, says);
    }
    let digest = "0".repeat(64);
    let artifact = format!("[plugin.a]\nsource = \"oci:r.example/a/b@sha256:{digest}\"");
    refused(&artifact, &["p.toml:2:10", "r.example is no upstream", "[upstream.\"r.example\"]"]);
    good(&format!("{artifact}\n[upstream.\"r.example\"]"));
    for (line, says) in [
        ("hooks = [\"request-polisy\"]", &["p.toml:3:10", "request-policy"][..]),
        ("hooks = [\"scanner\"]", &["p.toml:3:10", "a hook is"]),
        ("mode = \"dry-run\"", &["p.toml:3:8", "\"shadow\""]),
        ("on_error = \"open\"", &["p.toml:3:12", "\"deny\", \"allow\", \"skip\""]),
        ("timeout = \"0s\"", &["p.toml:3:11", "cannot be zero"]),
        ("memory_max = \"1KiB\"", &["p.toml:3:14", "must be from"]),
        ("match = { repository = [\"a\"] }", &["p.toml:3:11", "repositories"]),
        ("match = { repositories = [\"a{\"] }", &["p.toml:3:27", "not a pattern"]),
        ("match = { upstreams = [\"r.example\"] }", &["p.toml:3:24", "no upstream r.example"]),
        ("grants = { htp = {} }", &["p.toml:3:12", "did you mean `http`?"]),
        ("grants = { kv = { bucket = [] } }", &["p.toml:3:17", "`kv`", "bucket"]),
        ("grants = { kv = { buckets = [] } }", &["p.toml:3:10", "name a bucket"]),
        ("grants = { secrets = [\"pw\"] }", &["no secret \"pw\"", "secrets = { pw"]),
        ("secrets = { pw = \"gone\" }", &["p.toml:3:18", "gone"]),
        ("verify = { public_key = \"ca\" }", &["p.toml:3:25", "BEGIN PUBLIC KEY"]),
        ("config = \"x\"", &["p.toml:3:10", "expected a table"]),
        ("[chain]\nrequest-policy = [\"rule\"]", &["p.toml:4:19", "did you mean \"rules\"?"]),
        ("[chain]\nrequest-policy = [\"rules\", \"rules\"]", &["p.toml:4:28", "twice"]),
        ("[chain]\nrequest_policy = []", &["p.toml:4:1", "`request-policy`"]),
        (
            "hooks = [\"resolver\"]\n[chain]\nrequest-policy = [\"rules\"]",
            &["p.toml:5:19", "not asked there"],
        ),
    ] {
        refused(&format!("{RULES}{line}"), says);
    }
}

#[test]
fn variables_reach_plugins_of_the_file() {
    let config = with_vars(
        RULES,
        &[
            ("PIERHEAD_PLUGIN__RULES__MODE", "shadow"),
            ("PIERHEAD_PLUGIN__RULES__CONFIG", "{ blocked_tags = [\"latest\"] }"),
            ("PIERHEAD_CHAIN__REQUEST_POLICY", "[\"rules\"]"),
            ("PIERHEAD_PLUGINS__CALLS_MAX", "5"),
        ],
    );
    let plugins = config.unwrap().plugins;
    assert_eq!(plugins.mounts[0].mount.mode, Mode::Shadow);
    assert_eq!(plugins.mounts[0].config["blocked_tags"][0], "latest");
    assert_eq!((plugins.order["request-policy"].len(), plugins.calls_max), (1, 5));
    let unknown = with_vars(RULES, &[("PIERHEAD_PLUGIN__OTHER__MODE", "warn")]).unwrap_err();
    assert!(unknown.contains("names no plugin") && unknown.contains("rules"), "{unknown}");
}

#[test]
fn what_is_in_force_hides_secrets() {
    let config = good(&format!(
        "{RULES}config = {{ users = {{ ada = \"$2y$hash\" }}, api_token = \"hunter2\", n = 1 }}\n\
         secrets = {{ pw = \"pw\" }}\n"
    ));
    let shown = |key: &str| {
        let setting = config.in_force.iter().find(|setting| setting.key == key).expect(key);
        setting.value.clone()
    };
    let settings = shown("plugin.rules.config");
    assert_eq!(
        settings,
        serde_json::json!({ "users": "[hidden]", "api_token": "[hidden]", "n": 1 })
    );
    assert_eq!(shown("plugins.calls_max"), 64);
    let all = format!("{:?}{:?}", config.in_force, config.plugins);
    assert!(!all.contains("hunter2\\n") && !all.contains("Secret(\"hunter2"), "{all}");
}

#[test]
fn the_tables_keys_are_documented() {
    let page = include_str!("../../../docs/configuration.md");
    for key in MatchTable::KEYS.iter().chain(VerifyTable::KEYS) {
        assert!(page.contains(&format!("`{key}`")), "{key}");
    }
}
