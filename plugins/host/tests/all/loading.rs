//! What is loaded, and what is not, and what the operator is told.

use pierhead_plugin_host::{Form, Hook, LoadError, inspect};

use crate::kit::{ABSTAIN, Guest, World, all_grants, load, mount};

fn everything() -> Guest {
    Guest::policy(ABSTAIN)
        .import("kv", "delete", "(func (param i32 i32 i32 i32 i32))")
        .import("http", "send", "(func (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32))")
        .import("log", "write", "(func (param i32 i32 i32 i32 i32))")
}

#[test]
fn inspection_runs_nothing_and_says_what_it_is() {
    let guest = everything().configured("(unreachable)");
    let module = guest.module();
    let inspection = inspect(&module).expect("a plugin");
    assert_eq!(inspection.form, Form::CoreModule);
    assert_eq!(inspection.hooks, [Hook::RequestPolicy]);
    assert!(inspection.configures);
    assert!(inspection.digest.starts_with("sha256:") && inspection.digest.len() == 71);
    assert_eq!(inspection.bytes, module.len());
    let mut grants: Vec<_> = inspection.grants.iter().map(|grant| grant.name).collect();
    grants.sort_unstable();
    assert_eq!(grants, ["http", "kv"]);
    assert!(inspection.metadata.is_none());
    let inspection = inspect(&guest.component()).expect("a plugin");
    assert_eq!(inspection.form, Form::Component);
    assert_eq!(inspection.hooks, [Hook::RequestPolicy]);
}

#[test]
fn a_plugin_describes_itself() {
    let described =
        r#"(@custom "pierhead:plugin" "{\"name\":\"rules\",\"version\":\"1.2.3\",\"later\":1}")"#;
    for wasm in [
        Guest::policy(ABSTAIN).with(described).module(),
        Guest::policy(ABSTAIN).with(described).component(),
    ] {
        let metadata = inspect(&wasm).expect("a plugin").metadata.expect("a description");
        assert_eq!((metadata.name.as_str(), metadata.version.as_str()), ("rules", "1.2.3"));
    }
    let nonsense = Guest::policy(ABSTAIN).with(r#"(@custom "pierhead:plugin" "{")"#).module();
    assert!(
        matches!(inspect(&nonsense), Err(LoadError::NotAPlugin(why)) if why.contains("pierhead:plugin"))
    );
}

#[tokio::test]
async fn a_missing_grant_is_named_with_its_line() {
    let host = World::new().host();
    let error = load(&host, everything().module(), mount("m")).await.expect_err("not granted");
    let text = error.to_string();
    assert!(text.contains("grants.http = {") && text.contains("grants.kv = {"), "{text}");
    let mut granted = mount("m");
    granted.grants = all_grants();
    load(&host, everything().module(), granted).await.expect("granted");
}

#[test]
fn other_imports_are_refused_by_name() {
    let wasi = wat::parse_str(
        r#"(component (import "wasi:cli/environment@0.2.0" (instance (export "x" (func)))))"#,
    )
    .expect("well written");
    let text = inspect(&wasi).expect_err("refused").to_string();
    assert!(text.contains("wasi:cli/environment@0.2.0") && text.contains("wasm32-unknown-unknown"));
    let other = wat::parse_str(r#"(component (import "a:b/c" (instance)))"#).expect("well written");
    assert!(
        matches!(inspect(&other), Err(LoadError::UnknownImport { import, .. }) if import == "a:b/c")
    );
    let newer = r#"(component (import "pierhead:plugin/log@1.0.0" (instance)))"#;
    let newer = wat::parse_str(newer).expect("well written");
    assert!(
        matches!(inspect(&newer), Err(LoadError::UnknownImport { reason, .. }) if reason.contains("0.1"))
    );
}

#[test]
fn what_is_no_plugin_is_said_to_be_none() {
    for bytes in [&b""[..], b"\0asm", b"#!/bin/sh", &[0; 100]] {
        assert!(matches!(inspect(bytes), Err(LoadError::NotAPlugin(_))), "{bytes:?}");
    }
    let module = wat::parse_str("(module)").expect("well written");
    let text = inspect(&module).expect_err("no interfaces").to_string();
    assert!(text.contains("SDK"), "{text}");
    let empty = wat::parse_str("(component)").expect("well written");
    assert!(matches!(inspect(&empty), Err(LoadError::NoHook)));
    // Cut off, and damaged, at many places.
    let whole = everything().component();
    for cut in (0..whole.len()).step_by(37) {
        assert!(inspect(&whole[..cut]).is_err() || cut > whole.len() - 200, "{cut}");
        let mut damaged = whole.to_vec();
        damaged[cut] ^= 0x55;
        // Whatever it is now, nothing breaks.
        let _ = inspect(&damaged);
    }
}

#[test]
fn a_file_is_not_too_large() {
    let vast = vec![0; (64 << 20) + 1];
    assert!(matches!(inspect(&vast), Err(LoadError::TooLarge { .. })));
}

#[tokio::test]
async fn a_type_that_differs_is_found_before_anything_runs() {
    // An export of the right name whose function has another type.
    let other = wat::parse_str(
        r#"(component
            (core module $m (func (export "f") (result i32) i32.const 1))
            (core instance $i (instantiate $m))
            (func $f (result u32) (canon lift (core func $i "f")))
            (instance $e (export "evaluate" (func $f)))
            (export "pierhead:plugin/request-policy@0.1.0" (instance $e)))"#,
    )
    .expect("well written");
    let host = World::new().host();
    let error = load(&host, other.into(), mount("m")).await.expect_err("another type");
    assert!(
        matches!(&error, LoadError::Mismatch(why) if why.contains("request-policy")),
        "{error}"
    );
}

#[tokio::test]
async fn limits_of_the_mount_are_checked() {
    let host = World::new().host();
    let mut vast = mount("m");
    vast.limits.memory_bytes = 1 << 40;
    let error = load(&host, Guest::policy(ABSTAIN).module(), vast).await.expect_err("too much");
    assert!(error.to_string().contains("memory_max"), "{error}");
    let mut never = mount("m");
    never.limits.deadline = std::time::Duration::ZERO;
    assert!(load(&host, Guest::policy(ABSTAIN).module(), never).await.is_err());
}

#[tokio::test]
async fn what_is_too_much_is_not_compiled() {
    let host = World::new().host();
    let vast = Guest::policy(ABSTAIN).with(&"(func)".repeat(50_001));
    for wasm in [vast.module(), vast.component()] {
        let error = load(&host, wasm, mount("m")).await.expect_err("too much");
        assert!(matches!(&error, LoadError::TooMuch(why) if why.contains("functions")), "{error}");
    }
}

#[tokio::test]
async fn a_plugin_that_nothing_calls_is_not_loaded() {
    let observer = Guest {
        exports: vec!["observer"],
        body:
            r#"(func (export "pierhead:plugin/observer@0.1.0#handle") (param i32 i32) (result i32)
            (i32.const 1024))"#
                .to_owned(),
        pages: 2,
        ..Guest::default()
    };
    let inspection = inspect(&observer.module()).expect("it can be looked at");
    assert_eq!(inspection.hooks, [Hook::Observer]);
    let host = World::new().host();
    let error = load(&host, observer.module(), mount("m")).await.expect_err("nothing to call");
    assert!(matches!(error, LoadError::NothingToRun(_)), "{error}");
    assert!(error.to_string().contains("observer"), "{error}");
}

#[tokio::test]
async fn proposals_that_no_plugin_needs_are_refused() {
    let host = World::new().host();
    for text in [
        "(memory $shared 1 1 shared)",
        "(func (drop (memory.atomic.notify (i32.const 0) (i32.const 0))))",
        "(func (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (i64.const 0))))",
        "(table $e 1 externref)",
        "(func (param externref))",
        "(func (drop (ref.i31 (i32.const 1))))",
        "(type $s (struct (field i32))) (func (drop (struct.new $s (i32.const 1))))",
        "(type $a (array i8)) (func (drop (array.new $a (i32.const 1) (i32.const 1))))",
        "(type $f (func)) (func (param (ref $f)) (call_ref $f (local.get 0)))",
        "(tag $t) (func (throw $t))",
        "(func (param v128 v128) (result v128)
            (f32x4.relaxed_min (local.get 0) (local.get 1)))",
    ] {
        let guest = Guest::policy(ABSTAIN).with(text);
        let component = std::panic::catch_unwind(|| guest.component());
        // What the encoder of these tests refuses already, the host's own refuses as well.
        for wasm in component.ok().into_iter().chain([guest.module()]) {
            let error = load(&host, wasm, mount("m")).await.expect_err(text);
            assert!(
                matches!(
                    error,
                    LoadError::Compile(_) | LoadError::NotAPlugin(_) | LoadError::TooMuch(_)
                ),
                "{text}: {error}"
            );
        }
    }
}
