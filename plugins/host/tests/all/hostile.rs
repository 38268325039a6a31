//! Hostile guests: each is answered as what it is, in time.

use std::sync::Arc;
use std::time::Duration;

use pierhead_plugin_host::wit::Verdict;
use pierhead_plugin_host::{CallError, Called, Host, HostOptions, LoadError, MountSpec, TrapKind};

use crate::calls::OPEN;
use crate::kit::{ABSTAIN, Guest, World, all_grants, ask, load, mount, once};

/// What a machine that is busy with other tests may take beyond the deadline. That ten
/// milliseconds do on an idle one is measured by `cargo bench --bench call`.
const LATE: Duration = Duration::from_millis(500);

/// A mount that grants everything.
fn granted() -> MountSpec {
    MountSpec { grants: all_grants(), ..mount("m") }
}

/// Asks a guest once and holds it to its deadline.
async fn fate(guest: &Guest, spec: MountSpec) -> CallError {
    let called = told(guest, spec).await;
    called.result.expect_err("it is hostile")
}

async fn told(guest: &Guest, spec: MountSpec) -> Called<Verdict> {
    let deadline = spec.limits.deadline;
    let world = World::new();
    let host = world.host();
    let plugin = load(&host, guest.module(), spec).await.expect("it loads");
    let called = ask(&plugin).await;
    assert!(called.stats.duration < deadline + LATE, "{:?}", called.stats.duration);
    let stats = host.stats();
    assert_eq!((stats.calls, stats.memory_bytes), (0, 0));
    called
}

fn trap(error: &CallError) -> TrapKind {
    match error {
        CallError::Trap { kind, .. } => *kind,
        other => panic!("{other:?}"),
    }
}

/// A guest that computes for ever.
pub(crate) fn endless() -> Guest {
    Guest::policy("(loop $for_ever (br $for_ever)) (unreachable)")
}

/// A guest that takes memory for ever.
pub(crate) fn greedy() -> Guest {
    Guest::policy("(loop $more (drop (memory.grow (i32.const 16))) (br $more)) (unreachable)")
}

/// A guest that sends a request to where it may.
pub(crate) fn sender() -> Guest {
    let body = "(call $send (i32.const 200) (i32.const 3) (i32.const 210) (i32.const 20)
        (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 304))
        (i32.const 1024)";
    Guest::policy(body)
        .import("http", "send", "(func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32))")
        .with(r#"(data (i32.const 200) "GET") (data (i32.const 210) "https://api.example/")"#)
}

#[tokio::test]
async fn an_endless_loop() {
    assert_eq!(fate(&endless(), mount("m")).await, CallError::Deadline);
    // Where a call gives its thread back now and then.
    let mut patient = mount("m");
    patient.limits.deadline = Duration::from_millis(100);
    assert_eq!(fate(&endless(), patient).await, CallError::Deadline);
    // Where it has a stack of its own.
    let waiting =
        endless().import("http", "send", "(func (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32))");
    assert_eq!(fate(&waiting, granted()).await, CallError::Deadline);
}

#[tokio::test]
async fn an_endless_loop_does_not_hold_up_the_thread() {
    let host = World::new().host();
    let mut spec = mount("m");
    spec.limits.deadline = Duration::from_millis(200);
    let hostile = load(&host, endless().module(), spec).await.expect("it loads");
    // One thread for both: the clock runs only if the guest gives it back.
    let mut ticks = 0;
    let ticking = async {
        loop {
            tokio::task::yield_now().await;
            ticks += 1;
        }
    };
    tokio::select! {
        called = ask(&hostile) => assert_eq!(called.result, Err(CallError::Deadline)),
        () = ticking => {}
    }
    assert!(ticks > 10, "{ticks}");
}

#[tokio::test(start_paused = true)]
async fn an_endless_loop_ends_though_the_clock_stands_still() {
    let mut patient = granted();
    patient.limits.deadline = Duration::from_millis(50);
    let host = World::new().host();
    let plugin = load(&host, endless().module(), patient).await.expect("it loads");
    assert_eq!(ask(&plugin).await.result, Err(CallError::Deadline));
}

#[tokio::test]
async fn a_loop_before_anything_was_asked() {
    let start = "(func $start (loop $for_ever (br $for_ever))) (start $start)";
    assert_eq!(fate(&Guest::policy(ABSTAIN).with(start), mount("m")).await, CallError::Deadline);
}

#[tokio::test]
async fn a_memory_bomb() {
    assert_eq!(fate(&greedy(), mount("m")).await, CallError::Memory);
    // One that has it all at once.
    let vast = Guest { pages: 1000, ..Guest::policy(ABSTAIN) };
    assert_eq!(fate(&vast, mount("m")).await, CallError::Memory);
}

#[tokio::test]
async fn many_memory_bombs_share_a_budget() {
    let world = World::new();
    let options = HostOptions { memory_budget_bytes: 8 << 20, ..world.options() };
    let host = Host::new(options).expect("the host starts");
    let plugin = load(&host, greedy().module(), mount("m")).await.expect("it loads");
    assert_eq!(ask(&plugin).await.result, Err(CallError::Busy));
    assert_eq!(host.stats().memory_bytes, 0);
}

#[tokio::test]
async fn a_table_bomb() {
    let body = "(loop $more (drop (table.grow $t (ref.null func) (i32.const 10000))) (br $more)) (unreachable)";
    let guest = Guest::policy(body).with("(table $t 1 funcref)");
    let mut spec = mount("m");
    // To fill so many entries takes its time where nothing is optimised.
    spec.limits.deadline = Duration::from_secs(5);
    assert_eq!(fate(&guest, spec).await, CallError::Memory);
}

#[tokio::test]
async fn deep_recursion() {
    let deep = "(func $deep (param i64 i64 i64 i64) (result i64)
        (i64.add (call $deep (local.get 1) (local.get 2) (local.get 3) (local.get 0)) (i64.const 1)))";
    let body = "(drop (call $deep (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4))) (i32.const 1024)";
    let guest = Guest::policy(body).with(deep);
    assert_eq!(trap(&fate(&guest, mount("m")).await), TrapKind::StackOverflow);
    let waiting =
        guest.import("http", "send", "(func (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32))");
    assert_eq!(trap(&fate(&waiting, granted()).await), TrapKind::StackOverflow);
}

#[tokio::test]
async fn traps_are_told_apart_and_say_where() {
    for (body, kind) in [
        ("(unreachable)", TrapKind::Unreachable),
        ("(i32.div_s (i32.const 1) (local.get $i))", TrapKind::Arithmetic),
        ("(i32.load (i32.const -4))", TrapKind::OutOfBounds),
        ("(call_indirect $t (result i32) (i32.const 0))", TrapKind::IndirectCall),
        ("(call_indirect $t (result i32) (i32.const 7))", TrapKind::OutOfBounds),
        // An answer outside of its memory, and one that is not where its kind may be.
        ("(i32.const -4)", TrapKind::Protocol),
        ("(i32.const 1025)", TrapKind::Protocol),
    ] {
        let guest = Guest::policy(body).with("(table $t 1 funcref)");
        let error = fate(&guest, mount("m")).await;
        assert_eq!(trap(&error), kind, "{body}");
        let CallError::Trap { backtrace, .. } = error else { unreachable!() };
        if kind != TrapKind::Protocol {
            assert!(backtrace.contains("evaluate"), "{backtrace}");
        }
    }
}

#[tokio::test]
async fn names_in_a_backtrace_are_demangled() {
    let guest = Guest::policy("(call $_ZN5house5rules5check17h0123456789abcdefE) (unreachable)")
        .with("(func $_ZN5house5rules5check17h0123456789abcdefE (unreachable))");
    let CallError::Trap { backtrace, .. } = fate(&guest, mount("m")).await else { panic!() };
    assert!(backtrace.contains("house::rules::check"), "{backtrace}");
}

const WRITE: &str = "(func $write (param i32 i32 i32 i32 i32))";

#[tokio::test]
async fn a_log_flood() {
    let body = "(loop $more
            (call $write (i32.const 2) (i32.const 512) (i32.const 100) (i32.const 0) (i32.const 0))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $more (i32.lt_u (local.get $i) (i32.const 1000))))
        (i32.const 1024)";
    let guest = Guest::policy(body).import("log", "write", WRITE);
    let world = World::new();
    let host = world.host();
    let mut spec = mount("m");
    spec.limits.deadline = Duration::from_secs(5);
    let budget = spec.limits.log_bytes;
    let plugin = load(&host, guest.module(), spec).await.expect("it loads");
    let called = ask(&plugin).await;
    called.result.expect("its lines are dropped, and it goes on");
    let kept = world.messages();
    assert!(!kept.is_empty() && kept.len() * 100 <= budget, "{}", kept.len());
    // The data are zeros: no control character gets through.
    assert!(kept.iter().all(|line| line.chars().all(|c| c == ' ')));
    assert_eq!(called.stats.log_dropped, 1000 - kept.len() as u64);
    assert_eq!(called.stats.host_calls, 1000);
}

#[tokio::test]
async fn lines_and_strings_that_are_too_long() {
    // A line of 4 MiB.
    let huge = "(call $write (i32.const 2) (i32.const 0) (i32.const 4194304) (i32.const 0) (i32.const 0)) (i32.const 1024)";
    let guest = Guest { pages: 80, ..Guest::policy(huge).import("log", "write", WRITE) };
    assert_eq!(fate(&guest, mount("m")).await, CallError::HostBytes);
    // A line that lies outside of its memory.
    let outside = "(call $write (i32.const 2) (i32.const 131000) (i32.const 1000) (i32.const 0) (i32.const 0)) (i32.const 1024)";
    let guest = Guest::policy(outside).import("log", "write", WRITE);
    assert_eq!(trap(&fate(&guest, mount("m")).await), TrapKind::Protocol);
}

#[tokio::test]
async fn a_handle_flood() {
    let body = "(loop $more
            (call $open (i32.const 200) (i32.const 9) (i32.const 220) (i32.const 14)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 304))
            (if (i32.load8_u (i32.const 304)) (then (return (i32.const 1024))))
            (br $more))
        (unreachable)";
    let guest = Guest::policy(body)
        .import("content", "open", OPEN)
        .with(r#"(data (i32.const 200) "docker.io") (data (i32.const 220) "library/debian")"#);
    let world = World::new();
    let host = world.host();
    let mut spec = granted();
    spec.limits.deadline = Duration::from_secs(5);
    let most = spec.limits.handles as u64;
    let plugin = load(&host, guest.module(), spec).await.expect("it loads");
    let error = ask(&plugin).await.result.expect_err("it holds too many");
    assert_eq!(trap(&error), TrapKind::Handle, "{error:?}");
    let opened = world.opened.load(std::sync::atomic::Ordering::SeqCst);
    assert!(opened <= most + 1, "{opened}");
    // How often it reads is counted as well, and that it is told.
    let world = World::new();
    let mut spec = granted();
    spec.limits.deadline = Duration::from_secs(5);
    spec.limits.content_calls = 3;
    once(&world, guest.module(), spec).await.result.expect("it goes on without");
    assert_eq!(world.opened.load(std::sync::atomic::Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_handle_that_is_not_its_own() {
    let body =
        "(call $read (i32.const 77) (i64.const 0) (i32.const 1) (i32.const 320)) (i32.const 1024)";
    let guest = Guest::policy(body).import(
        "content",
        "[method]blob.read",
        "(func $read (param i32 i64 i32 i32))",
    );
    assert_eq!(trap(&fate(&guest, granted()).await), TrapKind::Handle);
}

#[tokio::test]
async fn a_kv_flood() {
    // Sets another key until it is refused, and then answers with a denial that has no message.
    let body = "(loop $more
            (i32.store (i32.const 208) (i32.add (i32.load (i32.const 208)) (i32.const 1)))
            (call $set (i32.const 200) (i32.const 1) (i32.const 208) (i32.const 4)
                (i32.const 4096) (i32.const 1000) (i32.const 0) (i64.const 0) (i32.const 304))
            (br_if $more (i32.eqz (i32.load8_u (i32.const 304)))))
        (i32.store8 (i32.const 1028) (i32.const 2))
        (i32.const 1024)";
    // Keys are text: this many count from letters.
    let guest = Guest::policy(body)
        .import("kv", "set", "(func $set (param i32 i32 i32 i32 i32 i32 i32 i64 i32))")
        .with(r#"(data (i32.const 200) "b") (data (i32.const 208) "\00AAA")"#);
    let world = World::new();
    let host = world.host();
    let mut spec = granted();
    spec.limits.deadline = Duration::from_secs(5);
    let plugin = load(&host, guest.module(), spec).await.expect("it loads");
    ask(&plugin).await.result.expect("the quota is an error that it can read");
    let kept = host.stats().kv_bytes;
    assert!((60_000..=65_536).contains(&kept), "{kept}");
}

#[tokio::test]
async fn an_answer_that_never_comes() {
    let world = World::new();
    *world.answer.lock().expect("whole") = Arc::new(|_| Box::pin(std::future::pending()));
    let host = world.host();
    let plugin = load(&host, sender().module(), granted()).await.expect("it loads");
    let called = ask(&plugin).await;
    assert_eq!(called.result, Err(CallError::Deadline));
    assert!(called.stats.duration < Duration::from_millis(20) + LATE);
    assert_eq!((host.stats().calls, host.stats().memory_bytes), (0, 0));
}

#[tokio::test]
async fn requests_are_counted() {
    let body = "(loop $more
            (call $send (i32.const 200) (i32.const 3) (i32.const 210) (i32.const 20)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 304))
            (br_if $more (i32.eqz (i32.load8_u (i32.const 304)))))
        (i32.const 1024)";
    let guest = Guest { body: String::new(), ..sender() };
    let guest = Guest { body: Guest::policy(body).body, ..guest }
        .with(r#"(data (i32.const 200) "GET") (data (i32.const 210) "https://api.example/")"#);
    let world = World::new();
    let host = world.host();
    let mut spec = granted();
    spec.limits.deadline = Duration::from_secs(5);
    let plugin = load(&host, guest.module(), spec).await.expect("it loads");
    ask(&plugin).await.result.expect("it goes on without");
    assert_eq!(world.sent.lock().expect("whole").len(), 8);
}

#[tokio::test]
async fn a_mistake_of_the_host_ends_one_call() {
    let enabled = "(drop (call $enabled (i32.const 2))) (i32.const 1024)";
    let guest =
        Guest::policy(enabled).import("log", "enabled", "(func $enabled (param i32) (result i32))");
    // Printing where it happened takes the time that it takes.
    for deadline in [Duration::from_millis(20), Duration::from_secs(1)] {
        let mut spec = mount("panics");
        spec.limits.deadline = deadline;
        let called = once(&World::new(), guest.module(), spec).await;
        assert_eq!(trap(&called.result.expect_err("a mistake")), TrapKind::Host);
    }
    once(&World::new(), guest.module(), mount("m")).await.result.expect("a good call");
}

#[tokio::test]
async fn settings_that_a_plugin_cannot_read() {
    let world = World::new();
    let quick = HostOptions { configure_deadline: Duration::from_millis(50), ..world.options() };
    let host = Host::new(quick).expect("the host starts");
    let try_with = async |body: &str| {
        let guest = Guest::policy(ABSTAIN).configured(body);
        load(&host, guest.module(), mount("m")).await.expect_err("it cannot")
    };
    let error = try_with("(loop $for_ever (br $for_ever)) (unreachable)").await;
    assert!(matches!(&error, LoadError::Configure(why) if **why == CallError::Deadline), "{error}");
    let error = try_with("(unreachable)").await;
    assert!(matches!(&error, LoadError::Configure(why) if trap(why) == TrapKind::Unreachable));
    let error =
        try_with("(loop $more (drop (memory.grow (i32.const 16))) (br $more)) (unreachable)").await;
    assert!(matches!(&error, LoadError::Configure(why) if **why == CallError::Memory), "{error}");
    // In order: `err(failure { kind: config, message: "bad", .. })`.
    let error = try_with(
        "(i32.store8 (i32.const 2048) (i32.const 1)) (i32.store (i32.const 2056) (i32.const 512))
         (i32.store (i32.const 2060) (i32.const 3)) (i32.store (i32.const 512) (i32.const 0x646162))
         (i32.const 2048)",
    )
    .await;
    assert_eq!(error.to_string(), "the plugin refuses its configuration: bad");
    assert_eq!((host.stats().calls, host.stats().memory_bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_is_harmed() {
    let host = World::new().host();
    let good = Guest::policy(ABSTAIN).module();
    let good = load(&host, good, mount("good")).await.expect("it loads");
    let mut hostile = Vec::new();
    for guest in [endless(), greedy(), Guest::policy("(unreachable)")] {
        hostile.push(load(&host, guest.module(), mount("hostile")).await.expect("it loads"));
    }
    let attack = futures_util::future::join_all(hostile.iter().map(|plugin| async {
        for _ in 0..20 {
            let called = ask(plugin).await;
            assert!(called.result.is_err());
            tokio::task::yield_now().await;
        }
    }));
    let work = async {
        for _ in 0..200 {
            ask(&good).await.result.expect("a good answer");
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(attack, work);
    assert_eq!((host.stats().calls, host.stats().memory_bytes), (0, 0));
}
