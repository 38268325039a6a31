//! What guests return, made fit: bounded, of one line, and of types that cannot be wrong.
//!
//! What makes no sense is a [`Broke::Lie`], and the mount's `on_error` answers in its place.

use std::collections::HashSet;
use std::hash::BuildHasher;

use super::guest::{Broke, Decision, Obligation, Proposed, Said};
use super::question::digest_of;
use crate::clock::Timestamp;
use crate::hooks::answer::line;
use crate::hooks::{Action, Denial, Identity, Object, Target, WantedScope};
use crate::oci::{Digest, ErrorCode, Reference};
use crate::scope::{Scope, UpstreamName};

/// The longest message of a denial, in bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 512;

/// The longest text of a warning, in bytes: clients print the header, proxies cut long ones.
pub(super) const WARNING_BYTES_MAX: usize = 256;

/// The most obligations of one verdict.
pub(super) const OBLIGATIONS_MAX: usize = 16;

/// The longest label of a count, in bytes.
pub(super) const LABEL_BYTES_MAX: usize = 64;

/// The longest subject, issuer, method or group of an identity, in bytes.
pub(super) const IDENTITY_TEXT_BYTES_MAX: usize = 512;

/// The most groups of an identity.
pub(super) const GROUPS_MAX: usize = 256;

/// The most claims of an identity.
pub(super) const CLAIMS_MAX: usize = 128;

/// The longest value of a claim, in bytes.
pub(super) const CLAIM_BYTES_MAX: usize = 4 << 10;

/// A verdict that was made fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) ruling: Ruling,
    pub(super) detail: Option<String>,
    pub(super) warnings: Vec<String>,
    pub(super) notes: Vec<(String, String)>,
    pub(super) counts: Vec<String>,
    pub(super) scans: u64,
}

/// A decision, with a refusal that can be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    Abstain,
    Allow,
    Deny(Denial),
}

impl Fit {
    pub(super) const fn ruling(ruling: Ruling) -> Self {
        Self {
            ruling,
            detail: None,
            warnings: Vec::new(),
            notes: Vec::new(),
            counts: Vec::new(),
            scans: 0,
        }
    }
}

/// A verdict of the mount `name`.
pub(super) fn said(name: &str, said: Said) -> Result<Fit, Broke> {
    if said.obligations.len() > OBLIGATIONS_MAX {
        let message = format!("{} obligations; {OBLIGATIONS_MAX} at most", said.obligations.len());
        return Err(Broke::Lie(message));
    }
    let mut fit = match said.decision {
        Decision::Abstain => Fit::ruling(Ruling::Abstain),
        Decision::Allow => Fit::ruling(Ruling::Allow),
        Decision::Deny { code, message, detail } => Fit {
            detail: detail.map(|detail| line(&detail, MESSAGE_BYTES_MAX)),
            ..Fit::ruling(Ruling::Deny(denial(name, code, &message)))
        },
    };
    for obligation in said.obligations {
        match obligation {
            Obligation::Warn(text) => {
                let text = line(&text, WARNING_BYTES_MAX);
                if !text.is_empty() {
                    fit.warnings.push(text);
                }
            }
            Obligation::Audit(key, value) => fit.notes.push((format!("{name}.{key}"), value)),
            Obligation::Count(text) => fit.counts.push(label(&text)?),
            Obligation::Scan(_) => fit.scans += 1,
        }
    }
    Ok(fit)
}

/// A refusal by the mount `name`.
pub(super) fn denial(name: &str, code: ErrorCode, message: &str) -> Denial {
    let message = line(message, MESSAGE_BYTES_MAX);
    let message = if message.is_empty() { format!("refused by {name}") } else { message };
    Denial { code, message, overtaxed: false }
}

/// A label of a metric: a word that cannot be mistaken for anything else.
fn label(text: &str) -> Result<String, Broke> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() || text.len() > LABEL_BYTES_MAX || !text.chars().all(fits) {
        let message = format!(
            "a label of a count is 1 to {LABEL_BYTES_MAX} letters, digits, '.', '_' and '-'"
        );
        return Err(Broke::Lie(message));
    }
    Ok(text.to_owned())
}

/// An identity that the mount `name` vouches for at `now`.
pub(super) fn identity(
    name: &str,
    mut identity: Identity,
    now: Timestamp,
) -> Result<Identity, Broke> {
    let lie = |what: &str| Err(Broke::Lie(format!("an identity with {what}")));
    let fits =
        |text: &str| text.len() <= IDENTITY_TEXT_BYTES_MAX && !text.chars().any(char::is_control);
    if identity.subject.trim().is_empty() {
        return lie("an empty subject");
    }
    if identity.issuer.is_empty() {
        name.clone_into(&mut identity.issuer);
    }
    // Only a certificate that TLS verified is vouched for by TLS.
    if identity.issuer == Identity::TLS {
        return lie("an issuer that is not the plugin's to name");
    }
    let texts = [&identity.subject, &identity.issuer, &identity.method];
    if !texts.into_iter().chain(&identity.groups).all(|text| fits(text)) {
        return lie("a text that is too long or has control characters");
    }
    if identity.groups.len() > GROUPS_MAX || identity.claims.len() > CLAIMS_MAX {
        return lie("too many groups or claims");
    }
    let fits_claim = |(key, value): &(String, String)| fits(key) && value.len() <= CLAIM_BYTES_MAX;
    if !identity.claims.iter().all(fits_claim) {
        return lie("a claim that is too long");
    }
    if identity.is_over(now) {
        return lie("a proof that has ended already");
    }
    Ok(identity)
}

/// What was granted of `wanted`, in its order. An authorizer grants a part of what was asked for;
/// more than that is a lie.
pub(super) fn granted(
    wanted: &[WantedScope],
    granted: &[WantedScope],
) -> Result<Vec<WantedScope>, Broke> {
    for scope in granted {
        let asked = |action: &Action| {
            wanted.iter().any(|wanted| {
                wanted.repository == scope.repository && wanted.actions.contains(action)
            })
        };
        if !scope.actions.iter().all(asked) {
            return Err(Broke::Lie("it granted what nobody asked for".to_owned()));
        }
    }
    let is_granted = |repository: &str, action: &Action| {
        granted
            .iter()
            .any(|granted| granted.repository == repository && granted.actions.contains(action))
    };
    let mut part = wanted.to_vec();
    for scope in &mut part {
        let WantedScope { repository, actions } = scope;
        actions.retain(|action| is_granted(repository, action));
    }
    Ok(part)
}

/// The target that a resolver's proposal means in place of `target`.
///
/// The upstream has to be one that is configured, and content that was asked for by digest stays
/// that content: it can be had from another repository, but not be another one.
pub(super) fn proposed<S: BuildHasher>(
    target: &Target,
    proposed: &Proposed,
    upstreams: &HashSet<UpstreamName, S>,
) -> Result<Target, Broke> {
    let lie = |what: String| Broke::Lie(format!("a name with {what}"));
    let upstream: UpstreamName =
        proposed.upstream.parse().map_err(|_| lie("an upstream that is none".to_owned()))?;
    if !upstreams.contains(&upstream) {
        return Err(lie(format!("the upstream {upstream}, which is not configured")));
    }
    let repo = proposed
        .repository
        .parse()
        .map_err(|error| lie(format!("a repository that is none: {error}")))?;
    let digest: Option<Digest> = proposed
        .digest
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|error| lie(format!("a digest that is none: {error}")))?;
    let object = match (&target.object, digest) {
        (Object::Manifest(Reference::Tag(_)), Some(digest)) => {
            Object::Manifest(Reference::Digest(digest))
        }
        (Object::Manifest(Reference::Tag(tag)), None) => {
            let tag = match &proposed.tag {
                Some(tag) => {
                    tag.parse().map_err(|error| lie(format!("a tag that is none: {error}")))?
                }
                None => tag.clone(),
            };
            Object::Manifest(Reference::Tag(tag))
        }
        (object, Some(digest)) if digest_of(object) != Some(&digest) => {
            return Err(lie("another digest than what was asked for".to_owned()));
        }
        (object, _) => object.clone(),
    };
    Ok(Target { scope: Scope { upstream, repo }, object })
}

#[cfg(test)]
mod tests;
