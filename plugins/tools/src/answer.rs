//! What came of a call, in the words of a case: to compare, to show and to record.

use std::fmt::Write as _;

use pierhead_plugin_host::wit::{self, Decision, Obligation};
use pierhead_plugin_host::{CallError, LoadError};
use regex::Regex;

use crate::case::{Expect, Identity, Scope};
use crate::value::{action_word, code_word, inputs, reference_text};

/// A verdict, in the words of a case.
pub fn of_verdict(verdict: &wit::Verdict) -> Expect {
    let mut expect =
        Expect { reuse_ms: Some(0), depends_on: Some(Vec::new()), ..Expect::default() };
    match &verdict.decision {
        Decision::Abstain => expect.decision = Some("abstain".to_owned()),
        Decision::Allow => expect.decision = Some("allow".to_owned()),
        Decision::Deny(denial) => {
            expect.decision = Some("deny".to_owned());
            expect.code = Some(code_word(denial.code).to_owned());
            expect.message = Some(denial.message.clone());
        }
    }
    let warnings = verdict.obligations.iter().filter_map(|obligation| match obligation {
        Obligation::Warn(text) => Some(text.clone()),
        Obligation::Audit(_) | Obligation::Count(_) | Obligation::Scan(_) => None,
    });
    expect.warnings = Some(warnings.collect());
    let obligations = verdict.obligations.iter().filter_map(|obligation| match obligation {
        Obligation::Warn(_) => None,
        Obligation::Audit((key, value)) => Some(format!("audit {key}={value}")),
        Obligation::Count(label) => Some(format!("count {label}")),
        Obligation::Scan(mount) => Some(format!("scan {mount}")),
    });
    expect.obligations = Some(obligations.collect());
    if let Some(reuse) = &verdict.reuse {
        expect.reuse_ms = Some(reuse.ttl_ms);
        expect.depends_on = Some(inputs(reuse.key));
    }
    expect
}

/// An authenticator's answer, in the words of a case.
pub fn of_outcome(outcome: &wit::AuthOutcome) -> Expect {
    let word = |word: &str| Expect { outcome: Some(word.to_owned()), ..Expect::default() };
    match outcome {
        wit::AuthOutcome::Abstain => word("abstain"),
        wit::AuthOutcome::Authenticated(identity) => {
            Expect { identity: Some(of_identity(identity)), ..word("authenticated") }
        }
        wit::AuthOutcome::Rejected(message) => {
            Expect { message: Some(message.clone()), ..word("rejected") }
        }
    }
}

/// An identity, in the words of a case.
pub fn of_identity(identity: &wit::Identity) -> Identity {
    Identity {
        subject: identity.subject.clone(),
        issuer: identity.issuer.clone(),
        method: identity.method.clone(),
        groups: identity.groups.clone(),
        claims: identity.claims.iter().cloned().collect(),
        expires_at: identity.expires_at,
    }
}

/// What an authorizer grants, in the words of a case.
pub fn of_granted(granted: &[wit::Scope]) -> Expect {
    Expect { granted: Some(granted.iter().map(of_scope).collect()), ..Expect::default() }
}

/// A scope, in the words of a case.
pub fn of_scope(scope: &wit::Scope) -> Scope {
    Scope {
        repository: scope.repository.clone(),
        actions: scope.actions.iter().map(|action| action_word(*action).to_owned()).collect(),
    }
}

/// A resolver's answer, in the words of a case.
pub fn of_resolved(resolved: Option<&wit::Reference>) -> Expect {
    Expect { resolved: Some(resolved.map(reference_text).unwrap_or_default()), ..Expect::default() }
}

/// The kind of credentials, and never their content.
pub fn of_credential(credential: Option<&wit::Credential>) -> Expect {
    let word = match credential.map(|credential| &credential.secret) {
        None => "none",
        Some(wit::Secret::Basic(_)) => "basic",
        Some(wit::Secret::Bearer(_)) => "bearer",
    };
    Expect { credential: Some(word.to_owned()), ..Expect::default() }
}

/// A call that broke, in the words of a case.
pub fn of_error(error: &CallError) -> Expect {
    let word = match error {
        CallError::Trap { .. } => "trap",
        CallError::Deadline => "deadline",
        CallError::Memory => "memory",
        CallError::HostBytes => "host-bytes",
        CallError::Failure(_) => "failure",
        CallError::Busy => "busy",
        CallError::Lie(_) => "lie",
    };
    let message = match error {
        CallError::Failure(failure) => failure.message.clone(),
        other => other.to_string(),
    };
    Expect { broken: Some(word.to_owned()), message: Some(message), ..Expect::default() }
}

/// Settings that the plugin refuses, in the words of a case; other reasons are none of the case's.
pub fn of_refusal(error: &LoadError) -> Option<Expect> {
    let message = match error {
        LoadError::Refused(failure) => failure.message.clone(),
        LoadError::Configure(error) => error.to_string(),
        _ => return None,
    };
    Some(Expect {
        broken: Some("configuration".to_owned()),
        message: Some(message),
        ..Expect::default()
    })
}

/// Where what came differs from what is expected: a line for each.
pub fn differences(expected: &Expect, came: &Expect) -> Vec<String> {
    let mut lines = Vec::new();
    if expected.broken.is_none()
        && let Some(broken) = &came.broken
    {
        let why = came.message.as_deref().unwrap_or_default();
        lines.push(format!("the call broke ({broken}): {why}"));
        return lines;
    }
    let mut word = |what: &str, expected: &Option<String>, came: &Option<String>| {
        if let Some(expected) = expected
            && came.as_ref() != Some(expected)
        {
            let came = came.as_deref().unwrap_or("nothing");
            lines.push(format!("{what}: expected {expected}, and {came} came"));
        }
    };
    word("decision", &expected.decision, &came.decision);
    word("code", &expected.code, &came.code);
    word("outcome", &expected.outcome, &came.outcome);
    word("resolved", &expected.resolved, &came.resolved);
    word("credential", &expected.credential, &came.credential);
    word("broken", &expected.broken, &came.broken);
    if let Some(pattern) = &expected.message {
        let message = came.message.as_deref().unwrap_or_default();
        if let Err(why) = matches(pattern, message) {
            lines.push(format!("message: {why}"));
        }
    }
    if let Some(expected) = &expected.warnings {
        warnings(expected, came.warnings.as_deref().unwrap_or_default(), &mut lines);
    }
    if let Some(expected) = expected.reuse_ms {
        let came = came.reuse_ms.unwrap_or_default();
        if expected != came {
            lines.push(format!("reuse_ms: expected {expected}, and {came} came"));
        }
    }
    if let Some(expected) = &expected.depends_on {
        let came = came.depends_on.clone().unwrap_or_default();
        if sorted(expected) != sorted(&came) {
            lines.push(format!(
                "depends_on: expected {}, and {} came",
                list(expected),
                list(&came)
            ));
        }
    }
    if let Some(expected) = &expected.granted {
        let came = came.granted.as_deref().unwrap_or_default();
        if expected.as_slice() != came {
            lines.push(format!(
                "granted: expected {}, and {} came",
                scopes(expected),
                scopes(came)
            ));
        }
    }
    if let Some(expected) = &expected.obligations {
        let came = came.obligations.clone().unwrap_or_default();
        if sorted(expected) != sorted(&came) {
            lines.push(format!(
                "obligations: expected {}, and {} came",
                list(expected),
                list(&came)
            ));
        }
    }
    match (&expected.identity, &came.identity) {
        (Some(expected), Some(came)) => identity(expected, came, &mut lines),
        (Some(expected), None) => {
            lines.push(format!("identity: expected {:?}, and none came", expected.subject));
        }
        (None, _) => {}
    }
    lines
}

fn warnings(expected: &[String], came: &[String], lines: &mut Vec<String>) {
    if expected.len() != came.len() {
        lines.push(format!("warnings: expected {}, and {} came", list(expected), list(came)));
        return;
    }
    for (pattern, warning) in expected.iter().zip(came) {
        if let Err(why) = matches(pattern, warning) {
            lines.push(format!("warnings: {why}"));
        }
    }
}

fn identity(expected: &Identity, came: &Identity, lines: &mut Vec<String>) {
    for (what, expected, came) in [
        ("subject", &expected.subject, &came.subject),
        ("issuer", &expected.issuer, &came.issuer),
        ("method", &expected.method, &came.method),
    ] {
        if !expected.is_empty() && expected != came {
            lines.push(format!("identity.{what}: expected {expected:?}, and {came:?} came"));
        }
    }
    for group in &expected.groups {
        if !came.groups.contains(group) {
            lines.push(format!("identity.groups: {group:?} is not in {}", list(&came.groups)));
        }
    }
    for (name, value) in &expected.claims {
        if came.claims.get(name) != Some(value) {
            let came = came.claims.get(name).map_or("nothing", String::as_str);
            lines.push(format!("identity.claims.{name}: expected {value:?}, and {came:?} came"));
        }
    }
    if expected.expires_at.is_some() && expected.expires_at != came.expires_at {
        lines.push(format!(
            "identity.expires_at: expected {:?}, and {:?} came",
            expected.expires_at, came.expires_at
        ));
    }
}

/// Whether a text has what a pattern asks for: `/a regular expression/`, or words in it.
fn matches(pattern: &str, text: &str) -> Result<(), String> {
    let between = pattern.strip_prefix('/').and_then(|rest| rest.strip_suffix('/'));
    let Some(expression) = between.filter(|_| pattern.len() > 1) else {
        return if text.contains(pattern) {
            Ok(())
        } else {
            Err(format!("{pattern:?} is not in {text:?}"))
        };
    };
    let regex = Regex::new(expression).map_err(|error| format!("{pattern}: {error}"))?;
    if regex.is_match(text) { Ok(()) } else { Err(format!("{text:?} does not match {pattern}")) }
}

fn sorted(words: &[String]) -> Vec<&String> {
    let mut words: Vec<_> = words.iter().collect();
    words.sort();
    words
}

fn list(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn scopes(scopes: &[Scope]) -> String {
    let mut text = String::new();
    for scope in scopes {
        let _ = write!(text, "{}:{} ", scope.repository, scope.actions.join(","));
    }
    if text.is_empty() { "nothing".to_owned() } else { text.trim_end().to_owned() }
}

/// What came, in one line.
pub fn line(came: &Expect) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in [&came.broken, &came.decision, &came.outcome, &came.credential] {
        words.extend(word.as_deref());
    }
    words.extend(came.code.as_deref());
    let mut line = words.join(" ");
    if let Some(message) = &came.message {
        let _ = write!(line, ": {message}");
    }
    if let Some(identity) = &came.identity {
        let _ = write!(line, " {}", identity.subject);
    }
    if let Some(granted) = &came.granted {
        let _ = write!(line, "{}", scopes(granted));
    }
    if let Some(resolved) = &came.resolved {
        let _ = write!(line, "{}", if resolved.is_empty() { "left as it is" } else { resolved });
    }
    for warning in came.warnings.iter().flatten() {
        let _ = write!(line, " (warns: {warning})");
    }
    for obligation in came.obligations.iter().flatten() {
        let _ = write!(line, " ({obligation})");
    }
    if let Some(ms) = came.reuse_ms.filter(|ms| *ms > 0) {
        let inputs = list(came.depends_on.as_deref().unwrap_or_default());
        let _ = write!(line, " (used again for {ms} ms, by {inputs})");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(message: &str) -> Expect {
        Expect {
            decision: Some("deny".to_owned()),
            code: Some("denied".to_owned()),
            message: Some(message.to_owned()),
            ..Expect::default()
        }
    }

    #[test]
    fn what_is_not_said_is_not_looked_at() {
        assert!(differences(&Expect::default(), &denied("no")).is_empty());
        let expected = Expect { message: Some("latest".to_owned()), ..Expect::default() };
        assert!(differences(&expected, &denied("the tag latest moves")).is_empty());
        let expected = Expect { message: Some("/^the .* moves$/".to_owned()), ..expected };
        assert!(differences(&expected, &denied("the tag latest moves")).is_empty());
    }

    #[test]
    fn differences_are_named() {
        let expected = Expect { decision: Some("allow".to_owned()), ..Expect::default() };
        assert_eq!(
            differences(&expected, &denied("no")),
            ["decision: expected allow, and deny came"]
        );
        let expected = Expect { message: Some("/(/".to_owned()), ..Expect::default() };
        assert!(differences(&expected, &denied("no"))[0].contains("/(/"));
        let who = Identity { subject: "ci".to_owned(), ..Identity::default() };
        let expected = Expect { identity: Some(who), ..Expect::default() };
        let rejected = of_outcome(&wit::AuthOutcome::Rejected("no".to_owned()));
        assert_eq!(differences(&expected, &rejected), ["identity: expected \"ci\", and none came"]);
        let expected = Expect::default();
        let broken = of_error(&CallError::Deadline);
        assert_eq!(differences(&expected, &broken).len(), 1);
        let expected = Expect { broken: Some("deadline".to_owned()), ..Expect::default() };
        assert!(differences(&expected, &broken).is_empty());
    }
}
