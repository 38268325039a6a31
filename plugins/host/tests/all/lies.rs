//! Answers that make no sense.

use pierhead_plugin_host::wit::{Action, Credentials, Event, Scope, What};
use pierhead_plugin_host::{CallError, Hook, Limits, MountSpec};

use crate::kit::{
    ABSTAIN, Guest, World, ask, context, denial, load, mount, once, reference, request,
};

async fn verdict_of(guest: Guest) -> CallError {
    once(&World::new(), guest.module(), mount("m")).await.result.expect_err("a lie")
}

#[track_caller]
fn lie(error: &CallError, why: &str) {
    let CallError::Lie(text) = error else { panic!("{error:?}") };
    assert!(text.contains(why), "{text}");
}

#[tokio::test]
async fn a_message_that_is_too_long() {
    // Two pages of zeros would be control characters; the length is judged first.
    let error = verdict_of(Guest::policy(&denial(2048, 60_000))).await;
    lie(&error, "60000 bytes");
}

#[tokio::test]
async fn a_message_beyond_what_the_host_takes() {
    let guest = Guest { pages: 300, ..Guest::policy(&denial(2048, 16 << 20)) };
    assert_eq!(verdict_of(guest).await, CallError::HostBytes);
}

#[tokio::test]
async fn more_obligations_than_anybody_needs() {
    // A list of warnings without text, 12 bytes each.
    let body = "(i32.store (i32.const 1056) (i32.const 4096)) (i32.store (i32.const 1060) (i32.const 1000)) (i32.const 1024)";
    lie(&verdict_of(Guest::policy(body)).await, "obligations");
    // As many as the memory has none for.
    let body = "(i32.store (i32.const 1056) (i32.const 4096)) (i32.store (i32.const 1060) (i32.const 100000000)) (i32.const 1024)";
    let error = verdict_of(Guest::policy(body)).await;
    assert!(matches!(error, CallError::Trap { .. } | CallError::HostBytes), "{error:?}");
}

#[tokio::test]
async fn text_that_is_none() {
    let guest = Guest::policy(&denial(512, 2)).with(r#"(data (i32.const 512) "\ff\fe")"#);
    let error = verdict_of(guest).await;
    assert!(matches!(error, CallError::Trap { .. }), "{error:?}");
    let guest = Guest::policy(&denial(512, 2)).with(r#"(data (i32.const 512) "\1b[")"#);
    lie(&verdict_of(guest).await, "control characters");
}

#[tokio::test]
async fn a_case_that_does_not_exist() {
    let body = "(i32.store8 (i32.const 1028) (i32.const 200)) (i32.const 1024)";
    let error = verdict_of(Guest::policy(body)).await;
    assert!(matches!(error, CallError::Trap { .. }), "{error:?}");
}

#[tokio::test]
async fn a_failure_is_a_failure() {
    let body =
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store (i32.const 1032) (i32.const 2048))
        (i32.store (i32.const 1036) (i32.const 50000)) (i32.const 1024)";
    let error = verdict_of(Guest::policy(body)).await;
    let CallError::Failure(failure) = error else { panic!("{error:?}") };
    assert!(failure.message.len() <= 4096 && failure.message.chars().all(|c| c == ' '));
}

/// A guest with one hook, whose function has these parameters and this body.
fn hook(interface: &'static str, function: &str, params: &str, body: &str) -> Guest {
    let body = format!(
        "(func (export \"pierhead:plugin/{interface}@0.1.0#{function}\") {params} (result i32) {body})"
    );
    Guest { exports: vec![interface], body, pages: 2, ..Guest::default() }
}

fn patient(hook: Hook) -> MountSpec {
    MountSpec { limits: Limits::for_hook(hook), ..mount("m") }
}

#[tokio::test]
async fn identities() {
    let host = World::new().host();
    // `authenticated`, and every text of it empty.
    let nobody = hook(
        "authenticator",
        "authenticate",
        "(param i32)",
        "(i32.store8 (i32.const 1032) (i32.const 1)) (i32.const 1024)",
    );
    let plugin = load(&host, nobody.module(), patient(Hook::Authenticator)).await.expect("loads");
    let called = plugin.authenticate(&context(), &Credentials::Anonymous).await;
    lie(&called.result.expect_err("nobody"), "subject");
}

#[tokio::test]
async fn scopes() {
    let host = World::new().host();
    // One scope of the repository `b`, with no action. Nobody asked for it.
    let body = r#"(i32.store (i32.const 1028) (i32.const 600)) (i32.store (i32.const 1032) (i32.const 1))
        (i32.store (i32.const 600) (i32.const 512)) (i32.store (i32.const 604) (i32.const 1))
        (i32.store8 (i32.const 512) (i32.const 98)) (i32.const 1024)"#;
    let guest = hook("authorizer", "authorize", "(param i32)", body);
    let plugin = load(&host, guest.module(), patient(Hook::Authorizer)).await.expect("loads");
    let wanted = [Scope { repository: "a".to_owned(), actions: vec![Action::Pull] }];
    let called = plugin.authorize(&context(), &wanted).await;
    lie(&called.result.expect_err("too much"), "scope");
    let wanted = [Scope { repository: "b".to_owned(), actions: vec![Action::Pull] }];
    assert_eq!(plugin.authorize(&context(), &wanted).await.result.map(|s| s.len()), Ok(1));
}

#[tokio::test]
async fn references() {
    let host = World::new().host();
    // `some`, and every name of it empty.
    let body = "(i32.store8 (i32.const 1028) (i32.const 1)) (i32.const 1024)";
    let guest = hook("resolver", "resolve", "(param i32)", body);
    let plugin = load(&host, guest.module(), patient(Hook::Resolver)).await.expect("loads");
    let called = plugin.resolve(&context(), &reference()).await;
    lie(&called.result.expect_err("no name"), "upstream");
}

#[tokio::test]
async fn credentials() {
    let host = World::new().host();
    // `some`, a bearer token without a character.
    let body = "(i32.store8 (i32.const 1032) (i32.const 1)) (i32.store8 (i32.const 1040) (i32.const 1)) (i32.const 1024)";
    let guest = hook("upstream-credentials", "fetch", "(param i32 i32 i32 i32 i32 i32)", body);
    let spec = patient(Hook::UpstreamCredentials);
    let plugin = load(&host, guest.module(), spec).await.expect("loads");
    let called = plugin.fetch_credentials("docker.io", "registry-1.docker.io", "a").await;
    lie(&called.result.expect_err("no token"), "token");
}

#[tokio::test]
async fn events() {
    let host = World::new().host();
    // One number, 77, that it was not told.
    let body =
        "(i32.store (i32.const 1028) (i32.const 600)) (i32.store (i32.const 1032) (i32.const 1))
        (i64.store (i32.const 600) (i64.const 77)) (i32.const 1024)";
    // Something has to be there that is called: an observer alone is not loaded.
    let mut guest = hook("observer", "handle", "(param i32 i32)", body);
    guest.exports.push("request-policy");
    guest.body.push_str(&Guest::policy(ABSTAIN).body);
    let plugin = load(&host, guest.module(), patient(Hook::Observer)).await.expect("loads");
    let told = |id| [Event { id, at: 0, what: What::Other(vec![]) }];
    lie(&plugin.handle_events(&told(1)).await.result.expect_err("not told"), "events");
    assert_eq!(plugin.handle_events(&told(77)).await.result, Ok(vec![77]));
}

#[tokio::test]
async fn a_hook_that_is_not_there() {
    let host = World::new().host();
    let plugin = load(&host, Guest::policy(ABSTAIN).module(), mount("m")).await.expect("loads");
    let called = plugin.resolve(&context(), &reference()).await;
    lie(&called.result.expect_err("no such hook"), "does not export");
    ask(&plugin).await.result.expect("this one is");
    assert_eq!(plugin.evaluate_request(&context(), &request()).await.stats.host_calls, 0);
}
