//! `warn` and `shadow`.

use super::*;

/// Waits until a metric has that value.
async fn until(world: &World, name: &str, labels: &[&str], value: f64) {
    let reached = async {
        while world.metric(name, labels) < value {
            tokio::task::yield_now().await;
        }
    };
    let why = format!("{name} {labels:?}");
    tokio::time::timeout(Duration::from_secs(10), reached).await.expect(&why);
}

const SHADOW: &str = "pierhead_plugin_shadow_total";

#[tokio::test]
async fn in_mode_warn_a_refusal_is_a_warning() {
    let cases = [
        (Ok(Said::only(deny("too old"))), "p would refuse this: too old"),
        (Err(Broke::Memory), "p would refuse this: p could not be asked (memory)"),
    ];
    for (answer, expected) in cases {
        let (guest, next) = (Arc::new(Scripted::says(answer)), said(Decision::Abstain));
        let mut mount = policy("p", &guest);
        mount.settings.mode = Mode::Warn;
        let world = World::with(vec![mount, policy("next", &next)]);
        let allowed = world.request(&manifest("1")).await.unwrap();
        assert_eq!(allowed.warnings.len(), 1);
        assert!(allowed.warnings[0].starts_with(expected), "{:?}", allowed.warnings);
        assert_eq!(next.calls(), 1);
        assert_eq!(world.metric("pierhead_plugin_warned_total", &["p"]), 1.0);
    }
    // Nor does it let anything through that another one refuses.
    let (yes, no) = (said(Decision::Allow), said(deny("no")));
    let mut mount = policy("yes", &yes);
    mount.settings.mode = Mode::Warn;
    let world = World::with(vec![mount, policy("no", &no)]);
    assert_eq!(message(world.request(&manifest("1")).await), "no");
}

#[tokio::test]
async fn a_shadow_changes_nothing_and_is_compared() {
    for (shadow, enforced, expected) in [
        (Ok(deny("no")), Decision::Allow, "would_deny"),
        (Ok(deny("no")), deny("also"), "agrees"),
        (Ok(Decision::Allow), deny("no"), "would_allow"),
        (Ok(Decision::Abstain), deny("no"), "agrees"),
        (Ok(Decision::Allow), Decision::Abstain, "agrees"),
        (Err(Broke::Deadline), Decision::Allow, "broke"),
    ] {
        let (real, guest) =
            (said(enforced.clone()), Arc::new(Scripted::says(shadow.map(Said::only))));
        let mut mount = policy("shadow", &guest);
        mount.settings.mode = Mode::Shadow;
        let world = World::with(vec![mount, policy("real", &real)]);
        let verdict = world.request(&manifest("1")).await;
        assert_eq!(verdict.is_err(), matches!(enforced, Decision::Deny { .. }));
        until(&world, SHADOW, &["shadow", "request-policy", expected], 1.0).await;
        assert_eq!(guest.calls(), 1);
    }
}

#[tokio::test]
async fn a_slow_shadow_holds_up_nobody_and_is_bounded() {
    let guest = Arc::new(Scripted { hangs: true, ..Scripted::default() });
    let mut mount = policy("shadow", &guest);
    mount.settings.mode = Mode::Shadow;
    mount.settings.timeout = Some(Duration::from_secs(3600));
    let world = World::with(vec![mount]);
    let more = 10;
    for _ in 0..shadow::SHADOWS_MAX + more {
        world.request(&manifest("1")).await.unwrap();
    }
    assert_eq!(world.metric(SHADOW, &["skipped"]), more as f64);
}

#[tokio::test]
async fn a_shadows_verdict_is_used_again_too() {
    let said = Said {
        reuse: Some(Reuse { ttl: Duration::from_secs(60), on: DependsOn::REPOSITORY }),
        ..Said::only(deny("no"))
    };
    let guest = Arc::new(Scripted::says(Ok(said)));
    let mut mount = policy("shadow", &guest);
    mount.settings.mode = Mode::Shadow;
    let world = World::with(vec![mount]);
    world.request(&manifest("1")).await.unwrap();
    until(&world, SHADOW, &["would_deny"], 1.0).await;
    world.request(&manifest("2")).await.unwrap();
    assert_eq!(world.metric(SHADOW, &["would_deny"]), 2.0);
    assert_eq!(guest.calls(), 1);
}

#[tokio::test]
async fn shadows_of_the_other_hooks_are_compared_as_well() {
    let guest = Arc::new(Scripted {
        authenticate: Box::new(|_| Ok(Authenticated::Rejected("no".to_owned()))),
        authorize: Box::new(|_| Ok(Vec::new())),
        resolve: Box::new(|_| {
            Ok(Some(Proposed {
                upstream: "ghcr.io".to_owned(),
                repository: "a".to_owned(),
                tag: None,
                digest: None,
            }))
        }),
        ..Scripted::default()
    });
    for (hook, expected) in [
        (Hook::Authenticator, "would_deny"),
        (Hook::Authorizer, "would_deny"),
        (Hook::Resolver, "differs"),
    ] {
        for mode in [Mode::Shadow, Mode::Warn] {
            let mut mount = mounted("shadow", hook, &guest);
            mount.settings.mode = mode;
            let world = World::with(vec![mount]);
            let context = context();
            assert!(!world.chained.wants_credentials());
            assert_eq!(world.chained.authenticate(&context, &Presented::Anonymous).await, Ok(None));
            assert_eq!(world.chained.authorize(&context, &manifest("1")).await, Ok(()));
            let mapped = world.chained.resolve(&context, manifest("1")).await;
            assert_eq!(mapped, Ok(manifest("1")));
            until(&world, SHADOW, &["shadow", hook.as_str(), expected], 1.0).await;
        }
    }
}
