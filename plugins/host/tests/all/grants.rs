//! What a mount grants, seen from within the guest.

use std::time::Duration;

use pierhead_plugin_host::wit::{Decision, Level};
use pierhead_plugin_host::{Grants, MountSpec, Plugin, SecretString};

use crate::hostile::sender;
use crate::kit::{Guest, World, all_grants, ask, grants, load, mount};

fn granted(grants: Grants) -> MountSpec {
    let mut spec = MountSpec { grants, ..mount("m") };
    spec.limits.deadline = Duration::from_secs(5);
    spec.secrets.insert("token".to_owned(), SecretString::new("s3cret"));
    spec.secrets.insert("other".to_owned(), SecretString::new("hidden"));
    spec
}

/// The message with which a plugin denies.
async fn message(plugin: &Plugin) -> String {
    match ask(plugin).await.result.expect("an answer").decision {
        Decision::Deny(denial) => denial.message,
        other => panic!("{other:?}"),
    }
}

/// Denies with a secret: the name stands at 200, in `length` bytes.
fn secretive(name: &str) -> Guest {
    let body = format!(
        "(call $secret (i32.const 200) (i32.const {}) (i32.const 304))
         (i32.store8 (i32.const 1028) (i32.const 2))
         (i32.store (i32.const 1036) (i32.load (i32.const 308)))
         (i32.store (i32.const 1040) (i32.load (i32.const 312)))
         (i32.const 1024)",
        name.len()
    );
    Guest::policy(&body)
        .import("settings", "secret", "(func $secret (param i32 i32 i32))")
        .with(&format!("(data (i32.const 200) \"{name}\")"))
}

#[tokio::test]
async fn only_granted_secrets_are_seen() {
    let host = World::new().host();
    let spec = granted(all_grants());
    let plugin = load(&host, secretive("token").module(), spec.clone()).await.expect("loads");
    assert_eq!(message(&plugin).await, "s3cret");
    let plugin = load(&host, secretive("other").module(), spec.clone()).await.expect("loads");
    assert_eq!(message(&plugin).await, "");
    assert!(!format!("{spec:?}").contains("s3cret"));
}

#[tokio::test]
async fn no_secret_is_seen_during_configure() {
    let host = World::new().host();
    // Traps if there is one.
    let guest = secretive("token").configured(
        "(call $secret (i32.const 200) (i32.const 5) (i32.const 304))
         (if (i32.load8_u (i32.const 304)) (then (unreachable)))
         (i32.const 2048)",
    );
    for guest in [guest.clone(), guest.with("(global $v (mut v128) (v128.const i64x2 0 0))")] {
        let plugin = load(&host, guest.module(), granted(all_grants())).await.expect("loads");
        assert_eq!(message(&plugin).await, "s3cret", "{:?}", plugin.info().isolation);
    }
}

#[tokio::test]
async fn requests_go_where_they_may() {
    let world = World::new();
    let host = world.host();
    let plugin = load(&host, sender().module(), granted(all_grants())).await.expect("loads");
    ask(&plugin).await.result.expect("an answer");
    {
        let sent = world.sent.lock().expect("whole");
        let [(request, terms)] = sent.as_slice() else { panic!("{sent:?}") };
        assert_eq!(request.url, "https://api.example/");
        assert_eq!((terms.mount.as_str(), terms.body_bytes_max), ("m", 1 << 20));
        assert!(!terms.private_addresses);
    }
    let elsewhere = grants(serde_json::json!({ "http": { "allow": ["https://other.example"] } }));
    let plugin = load(&host, sender().module(), granted(elsewhere)).await.expect("loads");
    ask(&plugin).await.result.expect("it goes on");
    assert_eq!(world.sent.lock().expect("whole").len(), 1, "nothing was sent");
}

#[tokio::test]
async fn nothing_is_sent_during_configure() {
    let world = World::new();
    let host = world.host();
    let guest = sender().configured(
        "(call $send (i32.const 200) (i32.const 3) (i32.const 210) (i32.const 20)
            (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 304))
         (i32.const 2048)",
    );
    load(&host, guest.module(), granted(all_grants())).await.expect("loads");
    assert!(world.sent.lock().expect("whole").is_empty());
}

#[tokio::test]
async fn facts_are_stated_in_the_mounts_name() {
    let body = "(call $state (i32.const 200) (i32.const 71) (i32.const 300) (i32.const 4)
            (i32.const 310) (i32.const 2) (i32.const 0) (i64.const 0) (i32.const 320))
        (i32.store8 (i32.const 1028) (i32.const 2))
        (if (i32.load8_u (i32.const 320)) (then
            (i32.store (i32.const 1036) (i32.load (i32.const 324)))
            (i32.store (i32.const 1040) (i32.load (i32.const 328)))))
        (i32.const 1024)";
    let guest = Guest::policy(body)
        .import("facts", "state", "(func $state (param i32 i32 i32 i32 i32 i32 i32 i64 i32))")
        .with(&format!("(data (i32.const 200) \"sha256:{}\")", "a".repeat(64)))
        .with(r#"(data (i32.const 300) "name") (data (i32.const 310) "{}")"#);
    let world = World::new();
    let host = world.host();
    let plugin = load(&host, guest.module(), granted(Grants::default())).await.expect("loads");
    assert!(message(&plugin).await.contains("grants.facts"));
    assert!(world.facts.lock().expect("whole").is_empty());
    let plugin = load(&host, guest.module(), granted(all_grants())).await.expect("loads");
    assert_eq!(message(&plugin).await, "");
    let facts = world.facts.lock().expect("whole");
    assert_eq!((facts[0].source.as_str(), facts[0].name.as_str()), ("m", "name"));
}

#[tokio::test]
async fn a_line_carries_its_level_and_no_more_than_text() {
    let body = r#"(call $write (i32.const 3) (i32.const 200) (i32.const 5) (i32.const 240) (i32.const 1))
        (i32.const 1024)"#;
    let guest = Guest::policy(body)
        .import("log", "write", "(func $write (param i32 i32 i32 i32 i32))")
        .with(r#"(data (i32.const 200) "a\0d\0ab\1b") (data (i32.const 210) "kv")"#)
        .with(r#"(data (i32.const 240) "\d2\00\00\00\01\00\00\00\d3\00\00\00\01\00\00\00")"#);
    let world = World::new();
    let host = world.host();
    let plugin = load(&host, guest.module(), granted(Grants::default())).await.expect("loads");
    ask(&plugin).await.result.expect("an answer");
    let lines = world.lines.lock().expect("whole");
    let fields = vec![("k".to_owned(), "v".to_owned())];
    assert_eq!(*lines, [(Level::Warn, "a  b ".to_owned(), fields)]);
}
