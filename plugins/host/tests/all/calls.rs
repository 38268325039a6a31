//! Calls that go well.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use pierhead_plugin_host::wit::{Decision, ErrorCode, Verdict};
use pierhead_plugin_host::{CallError, Called, Host, HostOptions, Isolation, PagemapScan, Plugin};
use tokio::task::JoinSet;

use crate::kit::{ABSTAIN, BLOB, Guest, World, all_grants, ask, denial, load, mount, once};

#[tokio::test]
async fn a_policy_abstains() {
    let called = once(&World::new(), Guest::policy(ABSTAIN).module(), mount("m")).await;
    let verdict = called.result.expect("an answer");
    assert_eq!(verdict.decision, Decision::Abstain);
    assert!(called.stats.memory_peak_bytes >= 2 << 16);
}

#[tokio::test]
async fn a_policy_denies_with_its_own_words() {
    let guest = Guest::policy(&denial(512, 3)).with(r#"(data (i32.const 512) "no!")"#);
    for wasm in [guest.module(), guest.component()] {
        let verdict = once(&World::new(), wasm, mount("m")).await.result.expect("an answer");
        let Decision::Deny(denial) = verdict.decision else { panic!("{verdict:?}") };
        assert_eq!((denial.code, denial.message.as_str()), (ErrorCode::Denied, "no!"));
    }
}

/// Counts in memory: 1 if nothing of an earlier call is seen.
fn counter() -> Guest {
    let count = "(i32.store (i32.const 512) (i32.add (i32.load (i32.const 512)) (i32.const 1)))
        (if (i32.ne (i32.load (i32.const 512)) (i32.const 1)) (then (unreachable)))
        (i32.const 1024)";
    Guest::policy(count)
}

#[tokio::test]
async fn no_call_sees_another() {
    let plain = World::new();
    let slow = HostOptions { pagemap_scan: PagemapScan::Off, ..plain.options() };
    let slowest = HostOptions { pooling: false, ..plain.options() };
    for options in [plain.options(), slow, slowest] {
        let host = Host::new(options).expect("the host starts");
        let plugin = load(&host, counter().module(), mount("m")).await.expect("it loads");
        for _ in 0..100 {
            ask(&plugin).await.result.expect("the memory is as it was");
        }
    }
}

#[tokio::test]
async fn the_host_says_how_it_runs() {
    let world = World::new();
    let off = HostOptions { pagemap_scan: PagemapScan::Off, ..world.options() };
    let host = Host::new(off).expect("the host starts");
    assert!(host.stats().pooling && !host.stats().pagemap_scan);
    let none = HostOptions { pooling: false, ..world.options() };
    let host = Host::new(none).expect("the host starts");
    assert!(!host.stats().pooling && !host.stats().pagemap_scan);
    // More address space than any machine has: it is done without a pool.
    let vast = HostOptions { instances_max: 100_000, ..world.options() };
    let host = Host::new(vast).expect("the host starts");
    assert!(!host.stats().pooling);
    let plugin = load(&host, counter().module(), mount("m")).await.expect("it loads");
    ask(&plugin).await.result.expect("an answer");
}

/// Remembers in `configure`, and denies with what it remembers.
fn remembering() -> Guest {
    Guest::policy(&denial(512, 5)).configured(
        "(memory.copy (i32.const 512) (local.get $json) (i32.const 5))
             (i32.store (i32.const 600) (i32.add (i32.load (i32.const 600)) (i32.const 1)))
             (if (i32.ne (i32.load (i32.const 600)) (i32.const 1)) (then (unreachable)))
             (i32.const 2048)",
    )
}

#[tokio::test]
async fn calls_begin_where_configure_ended() {
    let host = World::new().host();
    for wasm in [remembering().module(), remembering().component()] {
        let plugin = load(&host, wasm, mount("m")).await.expect("it loads");
        assert_eq!(plugin.info().isolation, Isolation::Snapshot);
        for _ in 0..3 {
            let verdict = ask(&plugin).await.result.expect("an answer");
            let Decision::Deny(denial) = verdict.decision else { panic!("{verdict:?}") };
            assert_eq!(denial.message, "{\"blo");
        }
    }
}

#[tokio::test]
async fn memory_that_grew_before_the_snapshot_does_not_grow_again() {
    // The module begins with two pages. What `configure` was handed took more.
    let pages = "(if (i32.lt_u (memory.size) (i32.const 4)) (then (unreachable))) (i32.const 1024)";
    let guest = Guest::policy(pages).configured("(i32.const 2048)");
    let called = once(&World::new(), guest.module(), mount("m")).await;
    called.result.expect("the memory has grown");
}

#[tokio::test]
async fn a_snapshot_may_be_larger_than_what_a_call_hands_over() {
    // Written to its end, so that nothing of it is left out.
    let body = "(i32.store8 (i32.const 5242879) (i32.const 7)) (i32.const 2048)";
    let guest = Guest { pages: 80, ..remembering() };
    let body = guest.body.replace("(i32.const 2048)", body);
    let host = World::new().host();
    let spec = mount("m");
    assert!(spec.limits.host_bytes < 80 << 16);
    let plugin = load(&host, Guest { body, ..guest }.module(), spec).await.expect("it loads");
    assert_eq!(plugin.info().isolation, Isolation::Snapshot);
    ask(&plugin).await.result.expect("an answer");
}

#[tokio::test]
async fn a_snapshot_that_is_too_large_is_not_taken() {
    let host = World::new().host();
    let mut spec = mount("m");
    spec.limits.memory_bytes = 64 << 20;
    spec.limits.deadline = Duration::from_secs(5);
    let guest = Guest { pages: 513, ..remembering() };
    let plugin = load(&host, guest.module(), spec).await.expect("it loads");
    let Isolation::ConfigurePerCall(why) = &plugin.info().isolation else {
        panic!("{:?}", plugin.info())
    };
    assert!(why.contains("32 MiB"), "{why}");
    let verdict = ask(&plugin).await.result.expect("an answer");
    assert!(matches!(verdict.decision, Decision::Deny(denial) if denial.message == "{\"blo"));
}

#[tokio::test]
async fn a_snapshot_does_not_know_who_listens() {
    // This sink wants no line of the lowest level. `configure` is not told so, a call is.
    let guest = Guest::policy(
        "(if (call $enabled (i32.const 0)) (then (unreachable)))
         (if (i32.eqz (i32.load (i32.const 600))) (then (unreachable)))
         (i32.const 1024)",
    )
    .configured(
        "(i32.store (i32.const 600) (call $enabled (i32.const 0)))
         (i32.const 2048)",
    )
    .import("log", "enabled", "(func $enabled (param i32) (result i32))");
    once(&World::new(), guest.module(), mount("m")).await.result.expect("an answer");
}

#[tokio::test]
async fn what_wizer_refuses_is_configured_in_each_call() {
    // A global of this type cannot be read from outside.
    let guest = remembering().with("(global $v (mut v128) (v128.const i64x2 0 0))");
    let host = World::new().host();
    let plugin = load(&host, guest.module(), mount("m")).await.expect("it loads");
    let Isolation::ConfigurePerCall(why) = &plugin.info().isolation else {
        panic!("{:?}", plugin.info())
    };
    assert!(why.contains("v128"), "{why}");
    for _ in 0..3 {
        let verdict = ask(&plugin).await.result.expect("an answer");
        assert!(matches!(verdict.decision, Decision::Deny(denial) if denial.message == "{\"blo"));
    }
}

/// Opens the blob of its reference, reads four bytes of it, and denies with them.
fn reader() -> Guest {
    // The request's reference stands behind action and kind. `open` takes it field by field.
    let upstream = 200;
    let body = format!(
        r#"(call $open (i32.const {upstream}) (i32.const 9) (i32.const 220) (i32.const 14)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 304))
           (if (i32.load8_u (i32.const 304)) (then (unreachable)))
           (call $read (i32.load (i32.const 312)) (i64.const 3) (i32.const 4) (i32.const 320))
           (if (i32.load8_u (i32.const 320)) (then (unreachable)))
           (memory.copy (i32.const 512) (i32.load (i32.const 328)) (i32.load (i32.const 332)))
           (i32.store8 (i32.const 1028) (i32.const 2))
           (i32.store (i32.const 1036) (i32.const 512))
           (i32.store (i32.const 1040) (i32.load (i32.const 332)))
           (i32.const 1024)"#
    );
    Guest::policy(&body)
        .import("content", "open", OPEN)
        .import("content", "[method]blob.read", "(func $read (param i32 i64 i32 i32))")
        .with(r#"(data (i32.const 200) "docker.io") (data (i32.const 220) "library/debian")"#)
}

/// `content.open` in the words of the core module.
pub(crate) const OPEN: &str = "(func $open (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32))";

#[tokio::test]
async fn content_is_read_in_pieces() {
    let mut spec = mount("m");
    spec.grants = all_grants();
    spec.limits.deadline = Duration::from_secs(5);
    let verdict = once(&World::new(), reader().module(), spec).await.result.expect("an answer");
    let Decision::Deny(denial) = verdict.decision else { panic!("{verdict:?}") };
    // The blob handed over more than was asked for; the guest got what it asked for.
    assert_eq!(denial.message.as_bytes(), &BLOB[3..7]);
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_behind() {
    let world = World::new();
    *world.answer.lock().expect("whole") =
        std::sync::Arc::new(|_| Box::pin(std::future::pending()));
    let host = world.host();
    let mut spec = mount("m");
    spec.grants = all_grants();
    spec.limits.deadline = Duration::from_secs(60);
    let plugin = load(&host, crate::hostile::sender().module(), spec).await.expect("it loads");
    let waiting = tokio::time::timeout(Duration::from_millis(50), ask(&plugin)).await;
    assert!(waiting.is_err(), "it waits for an answer");
    assert_eq!((host.stats().calls, host.stats().memory_bytes), (0, 0));
    assert_eq!(world.sent.lock().expect("whole").len(), 1);
}

#[tokio::test]
async fn calls_beyond_the_places_are_told_so() {
    let world = World::new();
    *world.answer.lock().expect("whole") =
        std::sync::Arc::new(|_| Box::pin(std::future::pending()));
    let host = Host::new(HostOptions { instances_max: 1, ..world.options() }).expect("it starts");
    let mut spec = mount("m");
    spec.grants = all_grants();
    spec.limits.deadline = Duration::from_secs(60);
    let plugin = load(&host, crate::hostile::sender().module(), spec).await.expect("it loads");
    let busy = tokio::select! {
        biased;
        _ = ask(&plugin) => panic!("nobody answers it"),
        called = async {
            while world.sent.lock().expect("whole").is_empty() {
                tokio::task::yield_now().await;
            }
            ask(&plugin).await
        } => called,
    };
    assert_eq!(busy.result, Err(CallError::Busy));
    assert!(busy.stats.duration < Duration::from_secs(5), "{:?}", busy.stats.duration);
}

/// Lets the calls run until they all wait, or ended.
async fn settle() {
    // Each round of a guest that computes is a tick.
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// Asks a plugin so many times at once. The calls end with the set.
fn begin(calls: &mut JoinSet<Called<Verdict>>, plugin: &Plugin, times: usize) {
    for _ in 0..times {
        let plugin = plugin.clone();
        calls.spawn(async move { ask(&plugin).await });
    }
}

#[tokio::test]
async fn one_mount_does_not_take_every_place() {
    let world = World::new();
    *world.answer.lock().expect("whole") =
        std::sync::Arc::new(|_| Box::pin(std::future::pending()));
    let host = world.host();
    let mut spec = mount("m");
    spec.grants = all_grants();
    spec.limits.deadline = Duration::from_secs(60);
    let sender = crate::hostile::sender().module();
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(load(&host, sender.clone(), spec.clone()).await.expect("it loads"));
    }
    // One that computes for long, and gives its thread back meanwhile.
    let mut busy = mount("busy");
    busy.limits.deadline = Duration::from_secs(60);
    let busy = load(&host, crate::hostile::endless().module(), busy).await.expect("it loads");
    let good = Guest::policy(ABSTAIN).module();
    let good = load(&host, good, mount("good")).await.expect("it loads");
    // More calls than the eight places: a mount that waits has two of them, all of those four.
    let mut calls = JoinSet::new();
    begin(&mut calls, &slow[0], 10);
    settle().await;
    assert_eq!(host.stats().calls, 2);
    ask(&good).await.result.expect("there is room");
    begin(&mut calls, &slow[1], 10);
    begin(&mut calls, &slow[2], 10);
    settle().await;
    assert_eq!(host.stats().calls, 4);
    ask(&good).await.result.expect("there is room");
    calls.abort_all();
    settle().await;
    assert_eq!(host.stats().calls, 0);
    // One that computes has half of them.
    begin(&mut calls, &busy, 10);
    settle().await;
    assert_eq!(host.stats().calls, 4);
    ask(&good).await.result.expect("there is room");
}

#[tokio::test]
async fn one_mount_does_not_take_all_memory() {
    let world = World::new();
    *world.answer.lock().expect("whole") =
        std::sync::Arc::new(|_| Box::pin(std::future::pending()));
    let options =
        HostOptions { memory_budget_bytes: 64 << 20, instances_max: 32, ..world.options() };
    let host = Host::new(options).expect("the host starts");
    let mut spec = mount("m");
    spec.grants = all_grants();
    spec.limits.deadline = Duration::from_secs(60);
    spec.limits.memory_bytes = 32 << 20;
    // 18.75 MiB each: one is within half of the memory, two are not.
    let large = Guest { pages: 300, ..crate::hostile::sender() }.module();
    let one = load(&host, large.clone(), spec.clone()).await.expect("it loads");
    let other = load(&host, large, spec).await.expect("it loads");
    let mut calls = JoinSet::new();
    begin(&mut calls, &one, 1);
    settle().await;
    assert_eq!(ask(&one).await.result, Err(CallError::Busy));
    begin(&mut calls, &other, 1);
    settle().await;
    // Their tables take some bytes as well.
    assert_eq!((host.stats().calls, host.stats().memory_bytes >> 16), (2, 600));
}

#[tokio::test]
async fn keys_outlive_a_reload() {
    let world = World::new();
    let host = world.host();
    let mut spec = mount("m");
    spec.grants = all_grants();
    // Adds one to a number, and denies with a message of that many bytes.
    let body = "(call $increment (i32.const 200) (i32.const 1) (i32.const 201) (i32.const 1)
            (i64.const 1) (i32.const 0) (i64.const 0) (i32.const 304))
        (if (i32.load8_u (i32.const 304)) (then (unreachable)))
        (i32.store8 (i32.const 1028) (i32.const 2))
        (i32.store (i32.const 1036) (i32.const 512))
        (i32.store (i32.const 1040) (i32.load (i32.const 312)))
        (i32.const 1024)";
    let guest = Guest::policy(body)
        .import("kv", "increment", "(func $increment (param i32 i32 i32 i32 i64 i32 i64 i32))")
        .with(r#"(data (i32.const 200) "bn") (data (i32.const 512) "******")"#);
    for (round, name) in [(1, "m"), (2, "m"), (1, "other"), (3, "m")] {
        let spec = pierhead_plugin_host::MountSpec { name: name.to_owned(), ..spec.clone() };
        let plugin = load(&host, guest.module(), spec).await.expect("it loads");
        let verdict = ask(&plugin).await.result.expect("an answer");
        let Decision::Deny(denial) = verdict.decision else { panic!("{verdict:?}") };
        assert_eq!(denial.message.len(), round, "{name}");
    }
    assert!(host.stats().kv_bytes > 0);
    assert_eq!(world.opened.load(SeqCst), 0);
}
