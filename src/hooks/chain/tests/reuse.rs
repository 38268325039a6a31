//! Verdicts that are used again, and those that must not be.

use super::*;

fn reusable(decision: Decision, on: DependsOn) -> Arc<Scripted> {
    let reuse = Some(Reuse { ttl: Duration::from_secs(60), on });
    Arc::new(Scripted::says(Ok(Said { decision, obligations: Vec::new(), reuse })))
}

fn by_repository() -> DependsOn {
    DependsOn::REPOSITORY.and(DependsOn::IDENTITY)
}

#[tokio::test(start_paused = true)]
async fn a_pull_of_forty_layers_costs_one_call() {
    let guest = reusable(Decision::Allow, by_repository());
    let world = World::with(vec![policy("p", &guest)]);
    let someone = known("someone");
    world.chained.request(&someone, &manifest("1")).await.unwrap();
    for layer in 0..40_u8 {
        world.chained.request(&someone, &blob(&[layer])).await.unwrap();
    }
    assert_eq!(guest.calls(), 1);
    let decisions = "pierhead_plugin_decisions_total";
    assert_eq!(world.metric(decisions, &["p", "request-policy", "hit"]), 40.0);
    assert_eq!(world.metric(decisions, &["p", "request-policy", "miss"]), 1.0);
    // After its time it is asked for again.
    tokio::time::advance(Duration::from_secs(60)).await;
    world.chained.request(&someone, &blob(b"0")).await.unwrap();
    assert_eq!(guest.calls(), 2);
    let view = &world.chained.view()[0];
    assert_eq!((view.calls, view.decisions_at_hand, view.decisions_asked), (2, 40, 2));
}

#[tokio::test]
async fn refusals_are_used_again_with_all_that_goes_with_them() {
    let said = Said {
        decision: deny("no"),
        obligations: vec![Obligation::Count("refused".to_owned())],
        reuse: Some(Reuse { ttl: Duration::from_secs(60), on: by_repository() }),
    };
    let guest = Arc::new(Scripted::says(Ok(said)));
    let world = World::with(vec![policy("p", &guest)]);
    for _ in 0..3 {
        assert_eq!(message(world.request(&manifest("1")).await), "no");
    }
    assert_eq!(guest.calls(), 1);
    assert_eq!(world.metric("pierhead_plugin_labels_total", &["p", "refused"]), 3.0);
}

/// What differs between two questions, and the one input that has to be depended on to notice.
#[tokio::test]
async fn a_verdict_answers_what_is_equal_in_all_that_it_depended_on_and_nothing_else() {
    let elsewhere = Scope { repo: "library/alpine".parse().unwrap(), ..debian() };
    let mut far = context();
    far.client.address = Ipv4Addr::new(192, 0, 2, 1).into();
    let mut encrypted = context();
    encrypted.client.encrypted = true;
    let mut named = context();
    named.client.user_agent = Some("containerd/2.0".to_owned());
    let mut certified = context();
    certified.client.tls_subject = Some("runner".to_owned());
    let grouped = {
        let identity = Identity {
            subject: "a".to_owned(),
            groups: vec!["admins".to_owned()],
            ..Identity::default()
        };
        Context { identity: Some(Arc::new(identity)), ..context() }
    };
    let in_alpine = Target { scope: elsewhere, object: manifest("1").object };
    let cases = [
        (DependsOn::IDENTITY, (known("a"), manifest("1")), (known("b"), manifest("1"))),
        (DependsOn::IDENTITY, (known("a"), manifest("1")), (grouped, manifest("1"))),
        (DependsOn::IDENTITY, (known("a"), manifest("1")), (context(), manifest("1"))),
        (DependsOn::IDENTITY, (certified, manifest("1")), (context(), manifest("1"))),
        (DependsOn::CLIENT_ADDRESS, (far, manifest("1")), (context(), manifest("1"))),
        (DependsOn::CLIENT_ADDRESS, (encrypted, manifest("1")), (context(), manifest("1"))),
        (DependsOn::CLIENT_ADDRESS, (named, manifest("1")), (context(), manifest("1"))),
        (DependsOn::REPOSITORY, (context(), in_alpine), (context(), manifest("1"))),
        (DependsOn::TAG, (context(), manifest("1")), (context(), manifest("2"))),
        (DependsOn::DIGEST, (context(), blob(b"1")), (context(), blob(b"2"))),
        (DependsOn::ACTION, (context(), blob(b"1")), (context(), manifest("1"))),
    ];
    let all = [
        DependsOn::IDENTITY,
        DependsOn::CLIENT_ADDRESS,
        DependsOn::REPOSITORY,
        DependsOn::TAG,
        DependsOn::DIGEST,
        DependsOn::ACTION,
    ];
    for (n, (differs, one, other)) in cases.into_iter().enumerate() {
        // The digest of a blob goes with its kind.
        let others = all.into_iter().filter(|input| {
            *input != differs && !(differs == DependsOn::ACTION && *input != DependsOn::REPOSITORY)
        });
        let without = others.fold(DependsOn::NOTHING, DependsOn::and);
        for (on, calls) in [(without, 1), (without.and(differs), 2)] {
            let guest = reusable(Decision::Abstain, on);
            let world = World::with(vec![policy("p", &guest)]);
            for (context, target) in [&one, &other, &one, &other] {
                world.chained.request(context, target).await.unwrap();
            }
            assert_eq!(guest.calls(), calls, "case {n}, {on:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_ends_ends_the_verdict() {
    let guest = reusable(Decision::Allow, by_repository());
    let world = World::with(vec![policy("p", &guest)]);
    let identity = Identity {
        subject: "a".to_owned(),
        expires_at: Some(world.clock.now().plus(Duration::from_secs(10))),
        ..Identity::default()
    };
    let someone = Context { identity: Some(Arc::new(identity)), ..context() };
    let ask = async || world.chained.request(&someone, &manifest("1")).await.unwrap();
    ask().await;
    tokio::time::advance(Duration::from_secs(9)).await;
    ask().await;
    assert_eq!(guest.calls(), 1);
    tokio::time::advance(Duration::from_secs(1)).await;
    ask().await;
    assert_eq!(guest.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_depended_on_the_time_ends_with_the_minute() {
    let guest = reusable(Decision::Allow, DependsOn::TIME);
    let world = World::with(vec![policy("p", &guest)]);
    // 1000 s after the epoch: twenty seconds of the minute are left.
    world.request(&manifest("1")).await.unwrap();
    world.clock.advance(Duration::from_millis(19_999));
    world.request(&manifest("2")).await.unwrap();
    assert_eq!(guest.calls(), 1);
    world.clock.advance(Duration::from_millis(1));
    world.request(&manifest("2")).await.unwrap();
    assert_eq!(guest.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_fact_that_changes_or_ends_ends_the_verdict() {
    let guest = reusable(Decision::Allow, DependsOn::FACTS.and(DependsOn::DIGEST));
    let world = World::with(vec![policy("p", &guest)]);
    let (one, other) = (blob(b"1"), blob(b"2"));
    let ask = async |target: &Target| world.request(target).await.unwrap();
    ask(&one).await;
    ask(&other).await;
    assert_eq!(guest.calls(), 2);
    let ttl = Some(Duration::from_secs(5));
    world.facts.state("s", &Digest::sha256(b"1"), "signature", "true", ttl).unwrap();
    ask(&one).await;
    ask(&one).await;
    ask(&other).await;
    assert_eq!(guest.calls(), 3);
    tokio::time::advance(Duration::from_secs(5)).await;
    world.clock.advance(Duration::from_secs(5));
    ask(&one).await;
    assert_eq!(guest.calls(), 4);
}

#[tokio::test]
async fn a_reload_forgets_every_verdict() {
    let guest = reusable(Decision::Allow, DependsOn::NOTHING);
    let world = World::with(vec![policy("p", &guest)]);
    world.request(&manifest("1")).await.unwrap();
    world.request(&manifest("2")).await.unwrap();
    assert_eq!(guest.calls(), 1);
    world.mount(vec![policy("p", &guest)]);
    world.request(&manifest("1")).await.unwrap();
    assert_eq!(guest.calls(), 2);
}

#[tokio::test]
async fn what_may_not_be_used_again_is_not() {
    // Without leave, for no time, and by more sets of inputs than are kept.
    let no_time = Said {
        reuse: Some(Reuse { ttl: Duration::ZERO, on: DependsOn::NOTHING }),
        ..Said::only(Decision::Abstain)
    };
    for said in [Said::only(Decision::Abstain), no_time] {
        let guest = Arc::new(Scripted::says(Ok(said)));
        let world = World::with(vec![policy("p", &guest)]);
        for _ in 0..3 {
            world.request(&manifest("1")).await.unwrap();
        }
        assert_eq!(guest.calls(), 3);
    }
    let next = AtomicUsize::new(0);
    let guest = Arc::new(Scripted::requests(move |_| {
        let n = next.fetch_add(1, Ordering::SeqCst);
        let extra = [
            DependsOn::TAG,
            DependsOn::ACTION,
            DependsOn::REPOSITORY,
            DependsOn::IDENTITY,
            DependsOn::CLIENT_ADDRESS,
        ];
        let on = DependsOn::DIGEST.and(extra[n % extra.len()]);
        let reuse = Some(Reuse { ttl: Duration::from_secs(60), on });
        Ok(Said { reuse, ..Said::only(Decision::Abstain) })
    }));
    let world = World::with(vec![policy("p", &guest)]);
    for content in 0..5_u8 {
        for _ in 0..2 {
            world.request(&blob(&[content])).await.unwrap();
        }
    }
    assert_eq!(guest.calls(), 6);
}

#[tokio::test]
async fn a_verdict_without_the_images_configuration_is_not_used_again() {
    let guest = Arc::new(Scripted {
        manifest: Box::new(|manifest| {
            let reuse = Some(Reuse { ttl: Duration::from_secs(60), on: DependsOn::DIGEST });
            let decision = match &manifest.config {
                ImageConfig::Unknown => deny("it does not say how old it is"),
                ImageConfig::Known(_) | ImageConfig::Unnamed => Decision::Abstain,
            };
            Ok(Said { reuse, ..Said::only(decision) })
        }),
        ..Scripted::default()
    });
    let world = World::with(vec![mounted("m", Hook::ManifestPolicy, &guest)]);
    let admit = async |config: ImageConfig| {
        let bytes = Bytes::from_static(b"manifest");
        let manifest = AdmissionRequest {
            scope: debian(),
            reference: Reference::Tag("1".parse().unwrap()),
            digest: Digest::sha256(&bytes),
            media_type: "application/vnd.oci.image.manifest.v1+json".parse().unwrap(),
            bytes,
            config,
        };
        world.chained.admit(&context(), &manifest).await
    };
    for _ in 0..2 {
        assert!(admit(ImageConfig::Unknown).await.is_err());
    }
    assert_eq!(guest.calls(), 2);
    let known = ImageConfig::Known(Bytes::from_static(b"{}"));
    for _ in 0..2 {
        assert!(admit(known.clone()).await.is_ok());
    }
    assert_eq!(guest.calls(), 3);
    // What was decided with it holds, also where it is not to be had later.
    assert!(admit(ImageConfig::Unknown).await.is_ok());
}
