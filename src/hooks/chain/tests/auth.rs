//! Who it is, and what they may do.

use super::*;
use crate::hooks::ClientCertificate;
use crate::secret::Secret;

fn basic(username: &str, password: &str) -> Presented {
    Presented::Basic { username: username.to_owned(), password: Secret::new(password) }
}

/// Knows one user, and nobody else.
fn directory(user: &'static str) -> Arc<Scripted> {
    Arc::new(Scripted {
        authenticate: Box::new(move |presented| {
            Ok(match presented {
                Presented::Basic { username, password } if username == user => {
                    if password.expose() == "right" {
                        Authenticated::Known(Identity {
                            subject: user.to_owned(),
                            method: "basic".to_owned(),
                            ..Identity::default()
                        })
                    } else {
                        Authenticated::Rejected("wrong\npassword".to_owned())
                    }
                }
                _ => Authenticated::Abstain,
            })
        }),
        ..Scripted::default()
    })
}

fn authenticator(name: &str, guest: &Arc<Scripted>) -> Mounted {
    mounted(name, Hook::Authenticator, guest)
}

fn authorizer(
    name: &str,
    authorize: impl Fn(&Vec<WantedScope>) -> Result<Vec<WantedScope>, Broke> + Send + Sync + 'static,
) -> Mounted {
    let guest = Scripted { authorize: Box::new(authorize), ..Scripted::default() };
    mounted(name, Hook::Authorizer, &Arc::new(guest))
}

fn wants(repository: &str, actions: &[Action]) -> WantedScope {
    WantedScope { repository: repository.to_owned(), actions: actions.to_vec() }
}

#[tokio::test(start_paused = true)]
async fn the_first_that_knows_says_who_it_is() {
    let (alice, bob) = (directory("alice"), directory("bob"));
    let world = World::with(vec![authenticator("a", &alice), authenticator("b", &bob)]);
    assert!(world.chained.wants_credentials());
    let login = async |presented| world.chained.authenticate(&context(), &presented).await;
    let identity = login(basic("bob", "right")).await.unwrap().unwrap();
    assert_eq!((identity.subject.as_str(), identity.issuer.as_str()), ("bob", "b"));
    assert_eq!((alice.calls(), bob.calls()), (1, 1));
    // A rejection ends it, and is never used again.
    for calls in 2..4 {
        let denial = login(basic("alice", "guess")).await.unwrap_err();
        assert_eq!(denial, Denial::unauthorized("wrong password"));
        assert_eq!((alice.calls(), bob.calls()), (calls, 1));
    }
    // Who is known need not be asked about with every layer; for half a minute.
    for _ in 0..10 {
        assert_eq!(login(basic("bob", "right")).await.unwrap().unwrap().subject, "bob");
        assert_eq!(login(basic("nobody", "x")).await, Ok(None));
    }
    assert_eq!((alice.calls(), bob.calls()), (4, 2));
    tokio::time::advance(logins::LOGIN_TTL).await;
    login(basic("bob", "right")).await.unwrap();
    assert_eq!((alice.calls(), bob.calls()), (5, 3));
}

#[tokio::test]
async fn a_certificate_counts_where_nobody_knows_more() {
    let alice = directory("alice");
    let certificate = Arc::new(ClientCertificate {
        subject: "runner.example".to_owned(),
        fingerprint: "aa".to_owned(),
        der: Bytes::new(),
    });
    let with = |beside| Presented::Certificate {
        certificate: Arc::clone(&certificate),
        beside: Box::new(beside),
    };
    let world = World::with(vec![authenticator("a", &alice)]);
    let subject = async |beside| {
        let identity = world.chained.authenticate(&context(), &with(beside)).await?;
        Ok::<_, Denial>(identity.unwrap().subject.clone())
    };
    assert_eq!(subject(Presented::Anonymous).await.unwrap(), "runner.example");
    assert_eq!(subject(basic("hub-user", "x")).await.unwrap(), "runner.example");
    assert_eq!(subject(basic("alice", "right")).await.unwrap(), "alice");
    assert!(subject(basic("alice", "wrong")).await.is_err());
}

#[tokio::test]
async fn an_authenticator_that_breaks_is_answered_by_its_mount() {
    for (on_error, expected) in [
        (None, None),
        (Some(OnError::Allow), Some(None)),
        (Some(OnError::Skip), Some(Some("alice"))),
    ] {
        let broken = Arc::new(Scripted {
            authenticate: Box::new(|_| Err(Broke::Deadline)),
            ..Scripted::default()
        });
        let mut mount = authenticator("broken", &broken);
        mount.settings.on_error = on_error;
        let world = World::with(vec![mount, authenticator("a", &directory("alice"))]);
        for calls in 1..3 {
            let known = world.chained.authenticate(&context(), &basic("alice", "right")).await;
            let subject = known.map(|known| known.map(|identity| identity.subject.clone()));
            assert_eq!(subject.ok().as_ref().map(Option::as_deref), expected);
            // What followed from a break is not used again.
            assert_eq!(broken.calls(), calls);
        }
    }
}

#[tokio::test]
async fn without_an_authorizer_those_who_are_known_may_read() {
    let world = World::with(vec![authenticator("a", &directory("alice"))]);
    let may = async |context: &Context| world.chained.authorize(context, &manifest("1")).await;
    assert_eq!(may(&known("alice")).await, Ok(()));
    assert_eq!(may(&context()).await.unwrap_err().code, ErrorCode::Unauthorized);
    let wanted = [wants("docker.io/library/debian", &[Action::Pull, Action::Push])];
    let granted = world.chained.authorize_scopes(&known("alice"), &wanted).await.unwrap();
    assert_eq!(granted, [wants("docker.io/library/debian", &[Action::Pull])]);
    assert!(world.chained.authorize_scopes(&context(), &wanted).await.unwrap().is_empty());
    world
        .chained
        .replace(ChainParts {
            mounts: vec![authenticator("a", &directory("alice"))],
            anonymous: Anonymous::Pull,
            ..ChainParts::default()
        })
        .unwrap();
    assert_eq!(may(&context()).await, Ok(()));
}

#[tokio::test]
async fn everyone_who_fits_has_to_grant() {
    let pulls = authorizer("pulls", |wanted| {
        let mut granted = wanted.clone();
        for scope in &mut granted {
            scope.actions.retain(|action| *action == Action::Pull);
        }
        Ok(granted)
    });
    let mut team = authorizer("team", |_| Ok(Vec::new()));
    team.settings.matching.repositories = Some(vec![Pattern::new("docker.io/secret/**").unwrap()]);
    let world = World::with(vec![pulls, team]);
    let someone = known("alice");
    let wanted = [
        wants("docker.io/library/debian", &[Action::Pull, Action::Delete]),
        wants("docker.io/secret/app", &[Action::Pull]),
    ];
    let granted = world.chained.authorize_scopes(&someone, &wanted).await.unwrap();
    assert_eq!(granted, [wants("docker.io/library/debian", &[Action::Pull])]);
    assert_eq!(world.chained.authorize(&someone, &manifest("1")).await, Ok(()));
    let secret = Target {
        scope: Scope { repo: "secret/app".parse().unwrap(), ..debian() },
        object: Object::Tags,
    };
    let denial = world.chained.authorize(&someone, &secret).await.unwrap_err();
    assert_eq!(denial, Denial::denied("alice may not list-tags docker.io/secret/app"));
    // There is nowhere to log in, so nobody is told to.
    let denial = world.chained.authorize(&context(), &secret).await.unwrap_err();
    let expected = "an anonymous client may not list-tags docker.io/secret/app";
    assert_eq!(denial, Denial::denied(expected));
}

#[tokio::test]
async fn an_authorizer_that_breaks_or_lies_is_answered_by_its_mount() {
    let lies = || authorizer("lies", |_| Ok(vec![wants("docker.io/other", &[Action::Admin])]));
    let breaks = || authorizer("breaks", |_| Err(Broke::Memory));
    for mount in [lies, breaks] {
        for (on_error, anonymous, someone) in [
            (None, false, false),
            (Some(OnError::Allow), true, true),
            // As if it were not mounted: no authenticator either, so everybody may read.
            (Some(OnError::Skip), true, true),
        ] {
            let mut mount = mount();
            mount.settings.on_error = on_error;
            let world = World::with(vec![mount]);
            let may = async |context| world.chained.authorize(&context, &manifest("1")).await;
            assert_eq!(may(context()).await.is_ok(), anonymous, "{on_error:?}");
            assert_eq!(may(known("alice")).await.is_ok(), someone, "{on_error:?}");
        }
    }
}

/// A plugin that could not be read, and whose mount does not say what it is: perhaps a policy.
#[tokio::test]
async fn what_is_not_known_to_grant_anything_lets_nobody_in() {
    let wanted = [wants("docker.io/library/debian", &[Action::Pull, Action::Push])];
    for on_error in OnError::ALL {
        let mut lost = mounted("lost", Hook::RequestPolicy, &Arc::default());
        lost.hooks = Hook::ALL.to_vec();
        lost.are_hooks_known = false;
        lost.guest = Err(Broke::Fetch("gone".to_owned()));
        lost.settings.on_error = Some(on_error);
        let world = World::with(vec![lost, authenticator("a", &directory("alice"))]);
        let login = world.chained.authenticate(&context(), &basic("alice", "wrong")).await;
        assert!(login.is_err(), "{on_error:?}");
        let login = world.chained.authenticate(&context(), &basic("alice", "right")).await;
        let may = async |context| world.chained.authorize(&context, &manifest("1")).await.is_ok();
        assert!(!may(context()).await, "{on_error:?}");
        if on_error == OnError::Deny {
            assert!(login.is_err() && !may(known("alice")).await);
            continue;
        }
        assert_eq!(login.unwrap().unwrap().subject, "alice");
        assert!(may(known("alice")).await && world.request(&manifest("1")).await.is_ok());
        let granted = world.chained.authorize_scopes(&known("alice"), &wanted).await.unwrap();
        assert_eq!(granted, [wants("docker.io/library/debian", &[Action::Pull])]);
        assert!(world.chained.authorize_scopes(&context(), &wanted).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_authorizer_that_breaks_grants_nothing_of_its_own() {
    let wanted = [wants("docker.io/library/debian", &[Action::Pull, Action::Push])];
    for on_error in [OnError::Allow, OnError::Skip] {
        let mut broken = authorizer("broken", |_| Err(Broke::Deadline));
        broken.settings.on_error = Some(on_error);
        let world = World::with(vec![authenticator("a", &directory("alice")), broken]);
        let granted = world.chained.authorize_scopes(&known("alice"), &wanted).await.unwrap();
        assert_eq!(granted, [wants("docker.io/library/debian", &[Action::Pull])]);
        assert!(world.chained.authorize_scopes(&context(), &wanted).await.unwrap().is_empty());
        let denial = world.chained.authorize(&context(), &manifest("1")).await.unwrap_err();
        assert_eq!(denial, Denial::unauthorized("authentication required"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_login_at_the_same_time_is_one_call() {
    let slow = Arc::new(Scripted {
        authenticate: Box::new(|_| Ok(Authenticated::Rejected("no".to_owned()))),
        takes: Duration::from_millis(100),
        ..Scripted::default()
    });
    let world = World::with(vec![authenticator("slow", &slow)]);
    let context = context();
    let (same, other) = (basic("u", "p"), basic("u", "q"));
    let logins = (0..8).map(|_| world.chained.authenticate(&context, &same));
    let (same, other) = tokio::join!(
        futures_util::future::join_all(logins),
        world.chained.authenticate(&context, &other)
    );
    assert!(same.into_iter().all(|login| login == Err(Denial::unauthorized("no"))));
    assert!(other.is_err());
    assert_eq!(slow.calls(), 2);
}

/// Each takes most of the time that it may: all at once, none would be in time.
#[tokio::test(start_paused = true)]
async fn few_logins_are_decided_at_a_time_and_nobody_is_blamed_for_the_others() {
    let slow = Arc::new(Scripted {
        authenticate: Box::new(|_| Ok(Authenticated::Abstain)),
        takes: AUTH_DEADLINE * 3 / 4,
        ..Scripted::default()
    });
    let world = World::with(vec![authenticator("slow", &slow)]);
    let context = context();
    let many: Vec<_> = (0..256).map(|n| basic("u", &n.to_string())).collect();
    let logins = many.iter().map(|one| world.chained.authenticate(&context, one));
    let logins = futures_util::future::join_all(logins).await;
    let places = std::thread::available_parallelism().map_or(1, |cores| cores.get()).max(2);
    assert_eq!(slow.most.load(Ordering::SeqCst), places);
    for refusal in logins.iter().filter_map(|login| login.as_ref().err()) {
        assert!(refusal.message.contains("(busy)") && !refusal.overtaxed);
    }
    assert!(logins.iter().filter(|login| login.is_ok()).count() >= places);
    // A lack of room opens no circuit.
    assert_eq!(world.chained.authenticate(&context, &basic("u", "later")).await, Ok(None));
    assert_eq!(world.chained.view()[0].health(), "ok");
}

#[tokio::test(start_paused = true)]
async fn who_wears_a_plugin_out_is_told_of() {
    for (broke, overtaxed) in [
        (Broke::Deadline, true),
        (Broke::Memory, true),
        (Broke::Trap { kind: "unreachable", backtrace: String::new() }, true),
        (Broke::Failure { message: "nobody answers".to_owned(), unavailable: true }, false),
        (Broke::Busy, false),
    ] {
        let guest = Arc::new(Scripted {
            authenticate: Box::new(move |_| Err(broke.clone())),
            ..Scripted::default()
        });
        let world = World::with(vec![authenticator("a", &guest)]);
        let denial = world.chained.authenticate(&context(), &basic("u", "p")).await.unwrap_err();
        assert_eq!(denial.overtaxed, overtaxed, "{}", denial.message);
    }
}

#[tokio::test]
async fn content_is_not_for_everybody_where_somebody_decides() {
    for hook in Hook::ALL {
        for mode in Mode::ALL {
            let mut mount = mounted("m", hook, &Arc::default());
            mount.settings.mode = mode;
            let world = World::with(vec![mount]);
            let decides = match mode {
                Mode::Enforce => hook != Hook::Resolver,
                Mode::Warn => hook.is_policy(),
                Mode::Shadow => false,
            };
            assert_eq!(world.chained.decides_access(), decides, "{hook} {mode:?}");
        }
    }
    assert!(!World::new().chained.decides_access());
}
