//! What a thousand hostile calls leave behind: nothing.

use futures_util::future::join_all;

use crate::hostile::{endless, greedy, sender};
use crate::kit::{ABSTAIN, Guest, World, all_grants, ask, denial, load, mount};

/// How many calls it takes to believe it.
const CALLS: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hostile_calls_leave_nothing() {
    let world = World::new();
    let host = world.host();
    let mut plugins = Vec::new();
    for guest in [
        Guest::policy("(unreachable)"),
        Guest::policy(&denial(2048, 60_000)),
        Guest::policy("(i32.load (i32.const -4))"),
        greedy(),
        sender(),
        endless(),
    ] {
        let mut spec = mount("hostile");
        spec.grants = all_grants();
        spec.limits.deadline = std::time::Duration::from_millis(2);
        plugins.push(load(&host, guest.module(), spec).await.expect("it loads"));
    }
    let good = load(&host, Guest::policy(ABSTAIN).module(), mount("good")).await.expect("it loads");
    for round in 0..CALLS / 8 {
        let calls = (0..8).map(|lane| {
            // Loops take their whole deadline: every now and then will do.
            let kinds = if round % 10 == 0 { plugins.len() } else { plugins.len() - 1 };
            ask(&plugins[(round + lane) % kinds])
        });
        join_all(calls).await;
    }
    let stats = host.stats();
    assert_eq!((stats.calls, stats.memory_bytes), (0, 0));
    // Every place is free again, and every slot of the pool.
    let calls = join_all((0..8).map(|_| ask(&good))).await;
    for called in calls {
        called.result.expect("there is room");
    }
}
