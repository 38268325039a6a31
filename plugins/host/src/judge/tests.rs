//! Tests of the judgement, one lie after the other.

use super::*;
use crate::wit::{Action, Denial, ErrorCode, Identity};

fn deny(message: String) -> Verdict {
    let denial = Denial { code: ErrorCode::Denied, message, detail: None };
    Verdict { decision: Decision::Deny(denial), obligations: vec![], reuse: None }
}

fn obliged(obligation: Obligation) -> Verdict {
    Verdict { decision: Decision::Abstain, obligations: vec![obligation], reuse: None }
}

#[test]
fn verdicts() {
    assert!(verdict(&deny("two\nlines".to_owned())).is_ok());
    assert!(verdict(&deny("\u{1b}[2J".to_owned())).is_err());
    assert!(verdict(&deny("x".repeat(MESSAGE_BYTES_MAX + 1))).is_err());
    assert!(verdict(&obliged(Obligation::Warn("old".to_owned()))).is_ok());
    for lie in [
        Obligation::Warn("a\r\nSet-Cookie: b".to_owned()),
        Obligation::Warn("x".repeat(WARNING_BYTES_MAX + 1)),
        Obligation::Warn("\u{202e}dlo".to_owned()),
        Obligation::Count("a\u{200b}".to_owned()),
        Obligation::Audit((String::new(), String::new())),
        Obligation::Count("\n".to_owned()),
        Obligation::Scan("x".repeat(LABEL_BYTES_MAX + 1)),
    ] {
        assert!(verdict(&obliged(lie.clone())).is_err(), "{lie:?}");
    }
    assert!(verdict(&deny("a\u{2028}b".to_owned())).is_err());
    let mut warned = obliged(Obligation::Warn("x".repeat(WARNING_BYTES_MAX)));
    let one = warned.obligations[0].clone();
    warned.obligations = vec![one; WARNINGS_BYTES_MAX / WARNING_BYTES_MAX];
    assert!(verdict(&warned).is_ok());
    warned.obligations.push(Obligation::Warn("x".to_owned()));
    assert!(verdict(&warned).is_err_and(|why| why.contains("warnings")));
    let mut many = deny(String::new());
    many.obligations = vec![Obligation::Count("c".to_owned()); OBLIGATIONS_MAX + 1];
    assert!(verdict(&many).is_err());
}

fn identity() -> Identity {
    Identity {
        subject: "me".to_owned(),
        issuer: "i".to_owned(),
        method: "basic".to_owned(),
        groups: vec![],
        claims: vec![],
        expires_at: Some(11),
    }
}

#[test]
fn identities() {
    assert!(outcome(&AuthOutcome::Authenticated(identity()), 10).is_ok());
    assert!(outcome(&AuthOutcome::Authenticated(identity()), 11).is_err());
    let nobody = Identity { subject: String::new(), ..identity() };
    let crowd = Identity { groups: vec![String::new(); CLAIMS_MAX + 1], ..identity() };
    let control = Identity { subject: "a\0".to_owned(), ..identity() };
    for lie in [nobody, crowd, control] {
        assert!(outcome(&AuthOutcome::Authenticated(lie), 0).is_err());
    }
}

fn scope(repository: &str, actions: &[Action]) -> Scope {
    Scope { repository: repository.to_owned(), actions: actions.to_vec() }
}

#[test]
fn scopes_are_a_part_of_what_was_wanted() {
    let wanted = [scope("a", &[Action::Pull, Action::Push])];
    assert!(scopes(&[scope("a", &[Action::Pull])], &wanted).is_ok());
    assert!(scopes(&[], &wanted).is_ok());
    for lie in [
        vec![scope("a", &[Action::Delete])],
        vec![scope("b", &[Action::Pull])],
        vec![scope("b", &[])],
        vec![scope("a", &[Action::Pull, Action::Pull])],
        vec![scope("a", &[Action::Pull]), scope("a", &[Action::Pull])],
    ] {
        assert!(scopes(&lie, &wanted).is_err(), "{lie:?}");
    }
}

#[test]
fn references_are_what_a_client_may_write() {
    let good = Reference {
        upstream: "docker.io".to_owned(),
        repository: "library/debian".to_owned(),
        tag: Some("12".to_owned()),
        digest: Some(format!("sha256:{}", "a".repeat(64))),
    };
    assert!(reference(&good).is_ok());
    for repository in ["", "/a", "a//b", "../x", "A", "a/", "-a", "a b", "a\n"] {
        let lie = Reference { repository: repository.to_owned(), ..good.clone() };
        assert!(reference(&lie).is_err(), "{repository:?}");
    }
    for tag in ["", "-x", "a/b", ".x"] {
        let lie = Reference { tag: Some(tag.to_owned()), ..good.clone() };
        assert!(reference(&lie).is_err(), "{tag:?}");
    }
    for digest in ["", "sha256:", "md5:00", &format!("sha256:{}", "A".repeat(64))] {
        let lie = Reference { digest: Some(digest.to_owned()), ..good.clone() };
        assert!(reference(&lie).is_err(), "{digest:?}");
    }
    for upstream in ["docker.io", "localhost:5000", "10.0.0.1:5000", "a_b", "a-b.c", "A"] {
        let fine = Reference { upstream: upstream.to_owned(), ..good.clone() };
        assert!(reference(&fine).is_ok(), "{upstream:?}");
    }
    for upstream in
        ["", "a/b", "..", "a..b", ".a", "-a", ":5000", "a:", "a:x", "a:1:2", "a:123456", "[::1]"]
    {
        let lie = Reference { upstream: upstream.to_owned(), ..good.clone() };
        assert!(reference(&lie).is_err(), "{upstream:?}");
    }
}

#[test]
fn credentials_fit_into_a_header() {
    let found = |secret, expires_at| Some(Credential { secret, expires_at });
    assert!(credential(&None, 0).is_ok());
    assert!(credential(&found(Secret::Bearer("abc".to_owned()), Some(2)), 1).is_ok());
    // What nobody reads may be anything that is no control character.
    let odd = Secret::Basic(("a".to_owned(), "\u{200b}".to_owned()));
    assert!(credential(&found(odd, None), 1).is_ok());
    for (secret, end) in [
        (Secret::Bearer("abc".to_owned()), Some(1)),
        (Secret::Bearer("a b".to_owned()), None),
        (Secret::Bearer(String::new()), None),
        (Secret::Basic(("a\u{200b}".to_owned(), String::new())), None),
        (Secret::Basic(("a:b".to_owned(), String::new())), None),
        (Secret::Basic(("a".to_owned(), "b\r\nc".to_owned())), None),
    ] {
        assert!(credential(&found(secret, end), 1).is_err());
    }
}

#[test]
fn a_message_is_shortened() {
    assert_eq!(message("a\u{7}b\nc\u{202e}"), "a b\nc ");
    assert!(message(&"ä".repeat(MESSAGE_BYTES_MAX)).len() <= MESSAGE_BYTES_MAX);
}
