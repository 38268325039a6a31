//! Guests that break, and what follows.

use super::*;

fn causes() -> Vec<Broke> {
    vec![
        Broke::Fetch("gone".to_owned()),
        Broke::Signature("wrong".to_owned()),
        Broke::Configuration("bad".to_owned()),
        Broke::Trap { kind: "unreachable", backtrace: "at f".to_owned() },
        Broke::Deadline,
        Broke::Memory,
        Broke::Failure { message: "sorry".to_owned(), unavailable: false },
        Broke::Failure { message: "elsewhere".to_owned(), unavailable: true },
        Broke::Busy,
        Broke::Lie("odd".to_owned()),
    ]
}

#[tokio::test]
async fn one_setting_answers_every_cause() {
    for cause in causes() {
        for on_error in OnError::ALL {
            for at_load in [false, true] {
                let (broken, next) =
                    (Arc::new(Scripted::says(Err(cause.clone()))), said(deny("next")));
                let mut mount = policy("broken", &broken);
                mount.settings.on_error = Some(on_error);
                if at_load {
                    mount.guest = Err(cause.clone());
                }
                let world = World::with(vec![mount, policy("next", &next)]);
                let verdict = world.request(&manifest("1")).await;
                let expected = match on_error {
                    OnError::Deny => format!("broken could not be asked ({})", cause.kind()),
                    OnError::Allow => String::new(),
                    OnError::Skip => "next".to_owned(),
                };
                let message = verdict.err().map(|denial| denial.message).unwrap_or_default();
                assert!(message.starts_with(&expected), "{cause:?} {on_error:?}: {message}");
                assert_eq!(message.is_empty(), expected.is_empty(), "{cause:?} {on_error:?}");
                let calls = "pierhead_plugin_calls_total";
                assert_eq!(world.metric(calls, &["broken", cause.kind()]), 1.0);
                let view = &world.chained.view()[0];
                assert_eq!(view.last.as_ref().map(|last| last.kind), Some(cause.kind()));
                assert_eq!(view.health(), if at_load { "broken" } else { "breaking" });
            }
        }
    }
}

#[tokio::test]
async fn policies_fail_closed_unless_it_is_said_otherwise() {
    for hook in Hook::ALL {
        let expected = if hook == Hook::Resolver { OnError::Skip } else { OnError::Deny };
        assert_eq!(OnError::of(hook), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_hangs_is_given_up() {
    let guest = Arc::new(Scripted { hangs: true, ..Scripted::default() });
    let world = World::with(vec![policy("p", &guest)]);
    let began = tokio::time::Instant::now();
    assert!(message(world.request(&manifest("1")).await).contains("(deadline)"));
    assert!(began.elapsed() >= POLICY_DEADLINE);
    assert!(began.elapsed() < POLICY_DEADLINE + Duration::from_secs(1));
}

#[tokio::test]
async fn a_panic_ends_one_call() {
    let guest = Arc::new(Scripted::requests(|_| panic!("a mistake of the host's")));
    let world = World::with(vec![policy("p", &guest)]);
    assert!(message(world.request(&manifest("1")).await).contains("(trap)"));
    assert_eq!(world.metric("pierhead_plugin_traps_total", &["p", "panic"]), 1.0);
}

#[tokio::test]
async fn lies_break_it_too() {
    let flood = vec![Obligation::Scan(String::new()); 1000];
    let said = Said { obligations: flood, ..Said::only(Decision::Allow) };
    let guest = Arc::new(Scripted::says(Ok(said)));
    let world = World::with(vec![policy("p", &guest)]);
    assert!(message(world.request(&manifest("1")).await).contains("(lie)"));
    assert_eq!(world.metric("pierhead_plugin_calls_total", &["p", "lie"]), 1.0);
    assert_eq!(world.metric("pierhead_plugin_calls_total", &["p", "allow"]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn who_breaks_all_the_time_is_left_alone() {
    let works = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let guest = {
        let works = Arc::clone(&works);
        Arc::new(Scripted::requests(move |_| {
            if works.load(Ordering::SeqCst) {
                Ok(Said::only(Decision::Allow))
            } else {
                Err(Broke::Memory)
            }
        }))
    };
    let world = World::with(vec![policy("p", &guest)]);
    for client in 0..20 {
        world.request_of(client, &manifest("1")).await.unwrap_err();
    }
    assert_eq!(guest.calls(), 5);
    assert!(message(world.request(&manifest("1")).await).contains("(resting)"));
    assert_eq!(world.chained.view()[0].health(), "resting");
    assert_eq!(world.metric("pierhead_plugin_circuit_open", &["p"]), 1.0);
    works.store(true, Ordering::SeqCst);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(world.request(&manifest("1")).await.is_ok());
    assert_eq!(world.chained.view()[0].health(), "ok");
    assert_eq!(world.metric("pierhead_plugin_circuit_open", &["p"]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn another_chain_begins_with_closed_circuits() {
    let world = World::with(vec![policy("p", &Arc::new(Scripted::says(Err(Broke::Memory))))]);
    for client in 0..5 {
        world.request_of(client, &manifest("1")).await.unwrap_err();
    }
    assert_eq!(world.metric("pierhead_plugin_circuit_open", &["p"]), 1.0);
    world.mount(vec![policy("p", &said(deny("no")))]);
    assert_eq!(world.metric("pierhead_plugin_circuit_open", &["p"]), 0.0);
    assert_eq!(message(world.request(&manifest("1")).await), "no");
}

#[tokio::test]
async fn one_client_cannot_have_it_left_alone_for_all() {
    let guest = Arc::new(Scripted::says(Err(Broke::Deadline)));
    let world = World::with(vec![policy("p", &guest)]);
    for _ in 0..20 {
        world.request(&manifest("1")).await.unwrap_err();
    }
    assert_eq!(guest.calls(), 20);
    assert_eq!(world.chained.view()[0].health(), "breaking");
}

#[tokio::test]
async fn what_is_not_its_own_fault_leaves_nobody_alone() {
    let unavailable = |unavailable| Broke::Failure { message: "sorry".to_owned(), unavailable };
    for (cause, calls) in [(Broke::Busy, 20), (unavailable(true), 20), (unavailable(false), 5)] {
        let guest = Arc::new(Scripted::says(Err(cause.clone())));
        let world = World::with(vec![policy("p", &guest)]);
        for client in 0..20 {
            world.request_of(client, &manifest("1")).await.unwrap_err();
        }
        assert_eq!(guest.calls(), calls, "{cause}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_for_which_there_was_no_room_says_nothing() {
    let answer = Arc::new(std::sync::Mutex::new(Broke::Memory));
    let guest = {
        let answer = Arc::clone(&answer);
        Arc::new(Scripted::requests(move |_| Err(answer.lock().unwrap().clone())))
    };
    let world = World::with(vec![policy("p", &guest)]);
    for client in 0..5 {
        world.request_of(client, &manifest("1")).await.unwrap_err();
    }
    *answer.lock().unwrap() = Broke::Busy;
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(message(world.request(&manifest("1")).await).contains("(busy)"));
    assert_eq!(world.chained.view()[0].health(), "resting");
    assert_eq!(world.metric("pierhead_plugin_circuit_open", &["p"]), 1.0);
    // The next one is a probe again, and counts as one.
    *answer.lock().unwrap() = Broke::Memory;
    assert!(message(world.request(&manifest("1")).await).contains("(memory)"));
    assert!(message(world.request(&manifest("1")).await).contains("(resting)"));
}

#[tokio::test]
async fn what_breaks_at_one_hook_is_asked_at_the_others() {
    let guest = Arc::new(Scripted {
        authenticate: Box::new(|_| Err(Broke::Memory)),
        ..Scripted::default()
    });
    let mut both = policy("both", &guest);
    both.hooks.push(Hook::Authenticator);
    let world = World::with(vec![both]);
    let presented = |n: usize| Presented::Bearer(crate::secret::Secret::new(n.to_string()));
    for n in 0..10 {
        let context = context_of(u8::try_from(n).unwrap());
        world.chained.authenticate(&context, &presented(n)).await.unwrap_err();
    }
    assert_eq!(guest.calls(), 5);
    assert_eq!(world.chained.view()[0].health(), "resting");
    assert!(world.request(&manifest("1")).await.is_ok());
    assert_eq!(guest.calls(), 6);
    // One that works does not hide the other.
    assert_eq!(world.metric("pierhead_plugin_circuit_open", &["both"]), 1.0);
}
