//! What hostile guests return.

use super::*;

fn deny(message: &str) -> Said {
    Said::only(Decision::Deny {
        code: ErrorCode::Denied,
        message: message.to_owned(),
        detail: None,
    })
}

fn message(fit: &Fit) -> &str {
    match &fit.ruling {
        Ruling::Deny(denial) => &denial.message,
        Ruling::Abstain | Ruling::Allow => panic!("not a denial"),
    }
}

#[test]
fn denials_are_bounded_and_never_empty() {
    assert_eq!(message(&said("m", deny("no\r\nSet-Cookie: a=b")).unwrap()), "no  Set-Cookie: a=b");
    assert_eq!(message(&said("m", deny(" \n")).unwrap()), "refused by m");
    let huge = "\u{e4}".repeat(1 << 20);
    assert!(message(&said("m", deny(&huge)).unwrap()).len() <= MESSAGE_BYTES_MAX);
}

#[test]
fn obligations_are_bounded() {
    let with = |obligations| Said { obligations, ..Said::only(Decision::Abstain) };
    let flood = vec![Obligation::Scan("s".to_owned()); OBLIGATIONS_MAX + 1];
    assert!(matches!(said("m", with(flood)), Err(Broke::Lie(_))));
    for label in ["", "a b", "a\n", "\u{e4}", &"a".repeat(LABEL_BYTES_MAX + 1)] {
        let count = vec![Obligation::Count(label.to_owned())];
        assert!(matches!(said("m", with(count)), Err(Broke::Lie(_))), "{label:?}");
    }
    let fit = said(
        "m",
        with(vec![
            Obligation::Warn("\"quoted\"\r\nX: y".to_owned()),
            Obligation::Warn("\u{1b}".to_owned()),
            Obligation::Audit("ticket".to_owned(), "7".to_owned()),
            Obligation::Count("old-image".to_owned()),
            Obligation::Scan("s".to_owned()),
        ]),
    )
    .unwrap();
    assert_eq!(fit.warnings, ["\"quoted\"  X: y"]);
    assert_eq!(fit.notes, [("m.ticket".to_owned(), "7".to_owned())]);
    assert_eq!((fit.counts, fit.scans), (vec!["old-image".to_owned()], 1));
}

#[test]
fn identities_have_to_make_sense() {
    let now = Timestamp::from_unix_ms(1000);
    let good = Identity {
        subject: "runner".to_owned(),
        groups: vec!["ci".to_owned()],
        expires_at: Some(Timestamp::from_unix_ms(1001)),
        ..Identity::default()
    };
    let checked = identity("m", good.clone(), now).unwrap();
    assert_eq!((checked.subject.as_str(), checked.issuer.as_str()), ("runner", "m"));
    let wrong: [fn(&mut Identity); 9] = [
        |identity| identity.subject = " ".to_owned(),
        |identity| identity.subject = "a\nb".to_owned(),
        |identity| identity.issuer = Identity::TLS.to_owned(),
        |identity| identity.method = "a".repeat(IDENTITY_TEXT_BYTES_MAX + 1),
        |identity| identity.groups = vec!["\u{7f}".to_owned()],
        |identity| identity.groups = vec![String::new(); GROUPS_MAX + 1],
        |identity| identity.claims = vec![(String::new(), String::new()); CLAIMS_MAX + 1],
        |identity| {
            identity.claims = vec![("a".to_owned(), "a".repeat(CLAIM_BYTES_MAX + 1))];
        },
        |identity| identity.expires_at = Some(Timestamp::from_unix_ms(1000)),
    ];
    for (n, spoil) in wrong.iter().enumerate() {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(matches!(identity("m", bad, now), Err(Broke::Lie(_))), "{n}");
    }
}

#[test]
fn nobody_is_granted_more_than_they_asked_for() {
    let scope = |repository: &str, actions: &[Action]| WantedScope {
        repository: repository.to_owned(),
        actions: actions.to_vec(),
    };
    let wanted = [scope("a/b", &[Action::Pull, Action::Push]), scope("a/c", &[Action::Pull])];
    let part = granted(&wanted, &[scope("a/b", &[Action::Pull])]).unwrap();
    assert_eq!(part, [scope("a/b", &[Action::Pull]), scope("a/c", &[])]);
    for more in [scope("a/c", &[Action::Push]), scope("a/d", &[Action::Pull])] {
        assert!(matches!(granted(&wanted, &[more]), Err(Broke::Lie(_))));
    }
}

#[test]
fn resolvers_name_what_can_be_asked_for() {
    let upstreams: HashSet<UpstreamName> =
        ["docker.io", "ghcr.io"].map(|name| name.parse().unwrap()).into();
    let digest = Digest::sha256(b"a");
    let at = |object| Target {
        scope: Scope {
            upstream: "docker.io".parse().unwrap(),
            repo: "library/debian".parse().unwrap(),
        },
        object,
    };
    let to = |tag: Option<&str>, digest: Option<&str>| Proposed {
        upstream: "ghcr.io".to_owned(),
        repository: "mirror/debian".to_owned(),
        tag: tag.map(str::to_owned),
        digest: digest.map(str::to_owned),
    };
    let object = |from: &Object, tag: Option<&str>, digest: Option<&str>| {
        let mapped = proposed(&at(from.clone()), &to(tag, digest), &upstreams)?;
        assert_eq!(mapped.scope.to_string(), "ghcr.io/mirror/debian");
        Ok::<_, Broke>(mapped.object)
    };
    let tagged = Object::Manifest("12".parse().unwrap());
    let pinned = Object::Manifest(Reference::Digest(digest));
    let text = digest.to_string();
    assert_eq!(object(&tagged, None, None), Ok(tagged.clone()));
    assert_eq!(object(&tagged, Some("13"), None), Ok(Object::Manifest("13".parse().unwrap())));
    assert_eq!(object(&tagged, Some("13"), Some(&text)), Ok(pinned.clone()));
    assert_eq!(object(&pinned, Some("13"), None), Ok(pinned.clone()));
    assert_eq!(object(&Object::Blob(digest), None, Some(&text)), Ok(Object::Blob(digest)));
    assert_eq!(object(&Object::Tags, Some("x"), None), Ok(Object::Tags));

    let other = Digest::sha256(b"b").to_string();
    assert!(object(&pinned, None, Some(&other)).is_err());
    assert!(object(&Object::Blob(digest), None, Some(&other)).is_err());
    assert!(object(&Object::Tags, None, Some(&text)).is_err());
    assert!(object(&tagged, Some("a b"), None).is_err());
    assert!(object(&tagged, None, Some("sha256:..")).is_err());
    for (upstream, repository) in
        [("quay.io", "a"), ("GHCR.io", "a"), ("", "a"), ("ghcr.io", "../a"), ("ghcr.io", "")]
    {
        let lie = Proposed {
            upstream: upstream.to_owned(),
            repository: repository.to_owned(),
            tag: None,
            digest: None,
        };
        assert!(
            proposed(&at(tagged.clone()), &lie, &upstreams).is_err(),
            "{upstream} {repository}"
        );
    }
}
