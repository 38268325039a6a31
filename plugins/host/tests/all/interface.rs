//! The interface keeps its word: documented, unchanged within its line, and spoken to plugins that
//! were compiled when it was released.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pierhead_plugin_host::wit::{
    Action, AuthOutcome, Credentials, Decision, Event, Manifest, Obligation, Secret, Stage, What,
};
use pierhead_plugin_host::{Hook, Limits, MountSpec, inspect};
use wit_parser::{Resolve, TypeDefKind, WorldItem};

use crate::kit::{World, context, descriptor, grants, reference, request};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn frozen() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen")
}

fn interface() -> Resolve {
    let mut resolve = Resolve::default();
    resolve.push_dir(root().join("wit")).expect("the interface is well-formed");
    resolve
}

/// The interface without its comments and spaces: what compiled plugins depend on.
fn canonical() -> String {
    let mut files: Vec<_> = fs::read_dir(root().join("wit"))
        .expect("there is a folder")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    files.sort();
    let mut words = Vec::new();
    for file in files {
        let text = fs::read_to_string(file).expect("it can be read");
        for line in text.lines() {
            let line = line.split("///").next().unwrap_or_default().trim();
            words.extend(line.split_whitespace().map(str::to_owned));
        }
    }
    words.join("\n")
}

#[test]
fn what_was_released_is_still_there_word_for_word() {
    let released = frozen().join("0.1.0.words");
    if std::env::var_os("PIERHEAD_REGENERATE").is_some() {
        fs::write(&released, canonical()).expect("it can be written");
    }
    let released = fs::read_to_string(released).expect("there is a released version");
    assert!(
        released == canonical(),
        "wit/ is not what 0.1.0 was: records and variants never change, functions and interfaces \
         are added as 0.1.1 (docs/plugins.md, Versions). If 0.1.0 is not released yet, set \
         PIERHEAD_REGENERATE=1 and build the frozen guests anew"
    );
}

#[test]
fn everything_has_its_documentation() {
    let resolve = interface();
    let mut missing = Vec::new();
    for (_, interface) in &resolve.interfaces {
        let name = interface.name.clone().unwrap_or_default();
        let mut look = |what: String, docs: &wit_parser::Docs| {
            if docs.is_empty() {
                missing.push(format!("{name}: {what}"));
            }
        };
        look("itself".to_owned(), &interface.docs);
        for (name, function) in &interface.functions {
            look(name.clone(), &function.docs);
        }
        for (name, id) in &interface.types {
            let kind = &resolve.types[*id];
            let used = matches!(kind.kind, TypeDefKind::Type(wit_parser::Type::Id(_)));
            if !used {
                look(name.clone(), &kind.docs);
            }
            match &kind.kind {
                TypeDefKind::Record(record) => {
                    record.fields.iter().for_each(|f| look(format!("{name}.{}", f.name), &f.docs));
                }
                TypeDefKind::Variant(variant) => {
                    variant.cases.iter().for_each(|c| look(format!("{name}.{}", c.name), &c.docs));
                }
                TypeDefKind::Enum(kind) => {
                    kind.cases.iter().for_each(|c| look(format!("{name}.{}", c.name), &c.docs));
                }
                TypeDefKind::Flags(flags) => {
                    flags.flags.iter().for_each(|f| look(format!("{name}.{}", f.name), &f.docs));
                }
                _ => {}
            }
        }
    }
    assert!(missing.is_empty(), "without documentation: {missing:#?}");
}

#[test]
fn the_page_names_every_interface_and_world() {
    let page = fs::read_to_string(root().join("docs/plugins.md")).expect("there is a page");
    let resolve = interface();
    for (_, interface) in &resolve.interfaces {
        let name = format!("`{}`", interface.name.as_deref().unwrap_or_default());
        assert!(page.contains(&name), "docs/plugins.md does not name {name}");
    }
    let everything = resolve.worlds.iter().find(|(_, world)| world.name == "everything");
    let (_, everything) = everything.expect("there is a world of everything");
    let hooks = everything.exports.values().filter(|item| match item {
        WorldItem::Interface { id, .. } => {
            resolve.interfaces[*id].name.as_deref() != Some("lifecycle")
        }
        WorldItem::Function(_) | WorldItem::Type { .. } => false,
    });
    assert_eq!(hooks.count(), Hook::ALL.len());
}

/// The mount of the frozen guests.
fn mount() -> MountSpec {
    MountSpec {
        name: "frozen".to_owned(),
        config: serde_json::json!({}),
        secrets: BTreeMap::new(),
        grants: grants(serde_json::json!({
            "http": { "allow": ["https://example.com/"], "methods": ["GET"] },
            "kv": { "buckets": ["frozen"] },
            "content": { "read": ["manifest", "blob", "referrers"] },
            "facts": { "write": true },
        })),
        limits: Limits::for_hook(Hook::Authenticator),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_of_every_released_version_are_loaded_and_answer() {
    let mut seen = 0;
    for entry in fs::read_dir(frozen()).expect("there is a folder") {
        let path = entry.expect("it can be read").path();
        if path.extension().is_none_or(|extension| extension != "wasm") {
            continue;
        }
        seen += 1;
        let wasm = Bytes::from(fs::read(&path).expect("it can be read"));
        let version = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let inspection = inspect(&wasm).expect("it is a plugin");
        assert!(
            inspection.imports.iter().all(|import| import.ends_with(&format!("@{version}"))),
            "{version}: {:?}",
            inspection.imports
        );
        answers(wasm).await;
    }
    assert!(seen > 0);
}

async fn answers(wasm: Bytes) {
    let world = World::new();
    let host = world.host();
    let plugin = host.load(wasm, mount()).await.expect("it loads");
    assert_eq!(plugin.hooks().len(), 7, "{:?}", plugin.hooks());

    let basic = Credentials::Basic(("ada".to_owned(), "secret".to_owned()));
    let who = plugin.authenticate(&context(), &basic).await.result.expect("it answers");
    let AuthOutcome::Authenticated(who) = who else { panic!("{who:?}") };
    assert_eq!((who.subject.as_str(), who.expires_at), ("ada", Some(context().now + 1)));

    let scope = |actions| pierhead_plugin_host::wit::Scope {
        repository: "docker.io/library/debian".to_owned(),
        actions,
    };
    let wanted = [scope(vec![Action::Pull]), scope(vec![Action::Push])];
    let granted = plugin.authorize(&context(), &wanted).await.result.expect("it answers");
    assert_eq!(granted, wanted[..1]);

    let verdict = plugin.evaluate_request(&context(), &request()).await;
    let verdict = verdict.result.expect("it answers");
    let Decision::Deny(denial) = &verdict.decision else { panic!("{verdict:?}") };
    assert_eq!(
        denial.message,
        "log false, secret false, hash 32, hmac 64, equal true, verify true, facts 0, state true, \
         kv true, kept true, sum 2, removed true, http 200, manifest true, blob true, referrers true"
    );
    assert_eq!(denial.detail.as_deref(), Some("detail"));
    assert_eq!(verdict.obligations.len(), 4);
    assert_eq!(verdict.obligations[0], Obligation::Warn("warning".to_owned()));
    assert_eq!(verdict.reuse.expect("it may be used again").ttl_ms, 1000);

    let manifest = Manifest {
        reference: reference(),
        descriptor: descriptor(),
        raw: b"0123456789".to_vec(),
        config: None,
    };
    let verdict = plugin.evaluate_manifest(&context(), Stage::Serve, &manifest).await;
    assert_eq!(verdict.result.expect("it answers").decision, Decision::Allow);
    let failed = plugin.evaluate_manifest(&context(), Stage::Admit, &manifest).await;
    assert!(failed.result.is_err());

    let resolved = plugin.resolve(&context(), &reference()).await.result.expect("it answers");
    assert_eq!(resolved.expect("another name").repository, "frozen");

    let credential = plugin.fetch_credentials("docker.io", "registry-1.docker.io", "a/b").await;
    let credential = credential.result.expect("it answers").expect("there is one");
    assert!(matches!(credential.secret, Secret::Basic((name, _)) if name == "docker.io"));

    let event = Event { id: 7, at: 0, what: What::Admitted(descriptor()) };
    assert_eq!(plugin.handle_events(&[event]).await.result.expect("it answers"), [7]);
}
