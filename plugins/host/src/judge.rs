//! Judges what a guest returned, as if it came from the network.
//!
//! What is refused here reaches nobody: the call ends as [`crate::CallError::Lie`], and the mount's
//! `on_error` decides.

#[cfg(test)]
mod tests;

use crate::visible::{self, Bounded};
use crate::wit::{
    AuthOutcome, Credential, Decision, Event, Obligation, Reference, Scope, Secret, UnixMs, Verdict,
};

/// A text that a person reads, in bytes, at most.
const MESSAGE_BYTES_MAX: usize = 4 << 10;

/// A warning, in bytes, at most: it becomes a header.
const WARNING_BYTES_MAX: usize = 1 << 10;

/// All warnings of one verdict, in bytes, at most: they are headers of one answer.
const WARNINGS_BYTES_MAX: usize = 4 << 10;

/// The part of a denial that is for logs, in bytes, at most.
const DETAIL_BYTES_MAX: usize = 16 << 10;

/// Obligations of one verdict, at most.
const OBLIGATIONS_MAX: usize = 32;

/// A label, key or name, in bytes, at most.
const LABEL_BYTES_MAX: usize = 128;

/// A subject, issuer or group, in bytes, at most.
const NAME_BYTES_MAX: usize = 2 << 10;

/// Groups and claims of an identity, each at most.
const CLAIMS_MAX: usize = 512;

/// A claim's value, in bytes, at most.
const CLAIM_BYTES_MAX: usize = 8 << 10;

/// A password or a token, in bytes, at most.
const SECRET_BYTES_MAX: usize = 64 << 10;

type Judged = Result<(), String>;

fn short(what: &str, value: &str, bytes_max: usize) -> Judged {
    if value.len() > bytes_max {
        return Err(format!("{what} has {} bytes; at most {bytes_max} are taken", value.len()));
    }
    Ok(())
}

/// Text of a bounded length without control characters, which nobody reads.
fn opaque(what: &str, value: &str, bytes_max: usize) -> Judged {
    short(what, value, bytes_max)?;
    if value.chars().any(char::is_control) {
        return Err(format!("{what} has control characters"));
    }
    Ok(())
}

/// Text of a bounded length in which everything is seen.
fn text(what: &str, value: &str, bytes_max: usize) -> Judged {
    opaque(what, value, bytes_max)?;
    if value.chars().any(visible::is_hidden) {
        return Err(format!("{what} has characters that are not seen"));
    }
    Ok(())
}

/// A message may have lines.
fn lines(what: &str, value: &str, bytes_max: usize) -> Judged {
    short(what, value, bytes_max)?;
    text(what, &value.replace(['\n', '\t'], " "), bytes_max)
}

fn word(what: &str, value: &str) -> Judged {
    if value.is_empty() {
        return Err(format!("{what} is empty"));
    }
    text(what, value, LABEL_BYTES_MAX)
}

pub(crate) fn verdict(verdict: &Verdict) -> Judged {
    if let Decision::Deny(denial) = &verdict.decision {
        lines("the denial's message", &denial.message, MESSAGE_BYTES_MAX)?;
        if let Some(detail) = &denial.detail {
            lines("the denial's detail", detail, DETAIL_BYTES_MAX)?;
        }
    }
    if verdict.obligations.len() > OBLIGATIONS_MAX {
        return Err(format!("it has more than {OBLIGATIONS_MAX} obligations"));
    }
    let warnings = verdict.obligations.iter().map(|obligation| match obligation {
        Obligation::Warn(warning) => warning.len(),
        _ => 0,
    });
    let bytes: usize = warnings.sum();
    if bytes > WARNINGS_BYTES_MAX {
        return Err(format!(
            "its warnings have {bytes} bytes together; at most {WARNINGS_BYTES_MAX} are taken"
        ));
    }
    for obligation in &verdict.obligations {
        match obligation {
            Obligation::Warn(warning) => text("a warning", warning, WARNING_BYTES_MAX)?,
            Obligation::Audit((key, value)) => {
                word("an audit key", key)?;
                text("an audit value", value, WARNING_BYTES_MAX)?;
            }
            Obligation::Count(label) => word("a label to count", label)?,
            Obligation::Scan(mount) => word("a scanner's name", mount)?,
        }
    }
    Ok(())
}

pub(crate) fn outcome(outcome: &AuthOutcome, now: UnixMs) -> Judged {
    let identity = match outcome {
        AuthOutcome::Abstain => return Ok(()),
        AuthOutcome::Rejected(message) => {
            return lines("the rejection's message", message, MESSAGE_BYTES_MAX);
        }
        AuthOutcome::Authenticated(identity) => identity,
    };
    if identity.subject.is_empty() {
        return Err("the identity has no subject".to_owned());
    }
    text("the subject", &identity.subject, NAME_BYTES_MAX)?;
    text("the issuer", &identity.issuer, NAME_BYTES_MAX)?;
    text("the method", &identity.method, LABEL_BYTES_MAX)?;
    if identity.groups.len() > CLAIMS_MAX || identity.claims.len() > CLAIMS_MAX {
        return Err(format!("the identity has more than {CLAIMS_MAX} groups or claims"));
    }
    for group in &identity.groups {
        text("a group", group, NAME_BYTES_MAX)?;
    }
    for (key, value) in &identity.claims {
        word("a claim's name", key)?;
        lines("a claim's value", value, CLAIM_BYTES_MAX)?;
    }
    if identity.expires_at.is_some_and(|end| end <= now) {
        return Err("the identity ended already".to_owned());
    }
    Ok(())
}

pub(crate) fn scopes(granted: &[Scope], wanted: &[Scope]) -> Judged {
    if granted.len() > wanted.len() {
        return Err("it grants more scopes than were wanted".to_owned());
    }
    for scope in granted {
        for action in &scope.actions {
            let asked = wanted.iter().any(|asked| {
                asked.repository == scope.repository && asked.actions.contains(action)
            });
            if !asked {
                return Err("it grants what nobody asked for".to_owned());
            }
        }
        let distinct =
            scope.actions.iter().enumerate().all(|(at, action)| {
                scope.actions.iter().position(|other| other == action) == Some(at)
            });
        if !distinct || !wanted.iter().any(|asked| asked.repository == scope.repository) {
            return Err("it grants a scope that makes no sense".to_owned());
        }
    }
    Ok(())
}

/// A name of the distribution specification, in bytes, at most.
const REPOSITORY_BYTES_MAX: usize = 255;

/// A tag of the distribution specification, in bytes, at most.
const TAG_BYTES_MAX: usize = 128;

/// Digits of a port, at most.
const PORT_DIGITS_MAX: usize = 5;

pub(crate) fn resolved(found: &Option<Reference>) -> Judged {
    found.as_ref().map_or(Ok(()), reference)
}

/// A reference as a client may write it.
pub(crate) fn reference(reference: &Reference) -> Judged {
    if !is_upstream(&reference.upstream) {
        return Err("the upstream's name is malformed".to_owned());
    }
    if !is_repository(&reference.repository) {
        return Err("the repository's name is malformed".to_owned());
    }
    if reference.tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
        return Err("the tag is malformed".to_owned());
    }
    if reference.digest.as_deref().is_some_and(|digest| !is_digest(digest)) {
        return Err("the digest is malformed".to_owned());
    }
    Ok(())
}

/// A host's name, and perhaps a port.
fn is_upstream(name: &str) -> bool {
    let (host, port) = match name.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (name, None),
    };
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let digits = |port: &str| {
        (1..=PORT_DIGITS_MAX).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit())
    };
    name.len() <= REPOSITORY_BYTES_MAX
        && host.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && host.bytes().all(inner)
        && !host.contains("..")
        && port.is_none_or(digits)
}

fn is_repository(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    name.len() <= REPOSITORY_BYTES_MAX
        && name.split('/').all(|part| {
            let mut bytes = part.bytes();
            part.bytes().all(inner) && edge(bytes.next()) && edge(part.bytes().next_back())
        })
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= TAG_BYTES_MAX
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// The registered algorithms, in the one spelling that they have.
pub(crate) fn is_digest(digest: &str) -> bool {
    let hex = |text: &str, digits: usize| {
        text.len() == digits
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    match digest.split_once(':') {
        Some(("sha256", rest)) => hex(rest, 64),
        Some(("sha384", rest)) => hex(rest, 96),
        Some(("sha512", rest)) => hex(rest, 128),
        _ => false,
    }
}

pub(crate) fn credential(found: &Option<Credential>, now: UnixMs) -> Judged {
    let Some(credential) = found else { return Ok(()) };
    match &credential.secret {
        Secret::Basic((user, password)) => {
            text("the user's name", user, NAME_BYTES_MAX)?;
            opaque("the password", password, SECRET_BYTES_MAX)?;
            if user.contains(':') {
                return Err("the user's name has a colon".to_owned());
            }
        }
        Secret::Bearer(token) => {
            if token.is_empty() || token.len() > SECRET_BYTES_MAX {
                return Err("the token is empty or too long".to_owned());
            }
            if !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err("the token has characters that no header can carry".to_owned());
            }
        }
    }
    if credential.expires_at.is_some_and(|end| end <= now) {
        return Err("the credentials ended already".to_owned());
    }
    Ok(())
}

pub(crate) fn again(again: &[u64], told: &[Event]) -> Judged {
    if again.len() > told.len() || !again.iter().all(|id| told.iter().any(|event| event.id == *id))
    {
        return Err("it wants events again that it was not told".to_owned());
    }
    Ok(())
}

/// A guest's own failure: what it says is shortened, never refused, since it is all there is.
pub(crate) fn message(text: &str) -> String {
    Bounded::of(text, MESSAGE_BYTES_MAX)
}
