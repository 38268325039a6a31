//! The settings: whose tokens count, and what their claims allow.

use std::collections::BTreeMap;

use pierhead_plugin::units::Span;
use pierhead_plugin::{Action, Failure, glob};
use serde::{Deserialize, Deserializer};

use crate::keys::{Key, KeySet};

/// The most that clocks may differ by, in milliseconds.
const LEEWAY_MAX_MS: u64 = 600_000;

/// The mount's settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(crate) issuers: Vec<Issuer>,
    #[serde(default = "minute")]
    pub(crate) leeway: Span,
    #[serde(default = "Grant::pull")]
    pub(crate) others: Grant,
    #[serde(default)]
    pub(crate) anonymous: Grant,
}

fn minute() -> Span {
    Span(std::time::Duration::from_secs(60))
}

fn hour() -> Span {
    Span(std::time::Duration::from_secs(3600))
}

/// What those may do who have no token of these issuers.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Grant {
    #[default]
    None,
    Pull,
    All,
}

impl Grant {
    const fn pull() -> Self {
        Self::Pull
    }

    pub(crate) fn covers(self, action: Action) -> bool {
        match self {
            Self::None => false,
            Self::Pull => Operation::Pull.covers(action),
            Self::All => true,
        }
    }
}

/// Somebody who issues tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Issuer {
    pub(crate) issuer: String,
    #[serde(deserialize_with = "one_or_more")]
    pub(crate) audience: Vec<String>,
    pub(crate) rules: Vec<Rule>,
    #[serde(default = "sub")]
    pub(crate) subject_claim: String,
    #[serde(default)]
    pub(crate) groups_claim: Option<String>,
    #[serde(default)]
    pub(crate) jwks_uri: Option<String>,
    #[serde(default, deserialize_with = "keys")]
    pub(crate) keys: Option<Vec<Key>>,
    #[serde(default)]
    pub(crate) token_secret: Option<String>,
    #[serde(default = "hour")]
    pub(crate) keys_ttl: Span,
}

fn sub() -> String {
    "sub".to_owned()
}

/// What somebody may do who has these claims.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    #[serde(default)]
    claims: BTreeMap<String, OneOrMore>,
    #[serde(default)]
    repositories: Vec<String>,
    #[serde(default = "pull")]
    actions: Vec<Operation>,
    #[serde(default)]
    pub(crate) groups: Vec<String>,
}

fn pull() -> Vec<Operation> {
    vec![Operation::Pull]
}

/// What can be allowed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Pull,
    Push,
    Delete,
}

impl Operation {
    const fn covers(self, action: Action) -> bool {
        match self {
            Self::Pull => matches!(action, Action::Pull | Action::ListTags | Action::Referrers),
            Self::Push => matches!(action, Action::Push | Action::Mount),
            Self::Delete => matches!(action, Action::Delete),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
    }
}

fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match OneOrMore::deserialize(from)? {
        OneOrMore::One(one) => vec![one],
        OneOrMore::More(more) => more,
    })
}

fn keys<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Key>>, D::Error> {
    Ok(Some(KeySet::deserialize(from)?.keys()))
}

/// Claims by name, all as text. A claim that is a list stands there once for each of its values.
pub(crate) type Claims = [(String, String)];

/// The values of a claim.
fn values<'a>(claims: &'a Claims, name: &'a str) -> impl Iterator<Item = &'a str> {
    claims.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// The pattern with claims in the place of their names in braces, in lower case, as repositories
/// are. None if a claim is not there, or has anything in it that is not a part of a name: a claim
/// must not widen a pattern.
fn filled(pattern: &str, claims: &Claims) -> Option<String> {
    let mut text = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}')?;
        let value = values(claims, name).next()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        if value.is_empty() || value.contains("..") || !value.chars().all(plain) {
            return None;
        }
        text.push_str(before);
        text.push_str(&value.to_ascii_lowercase());
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

impl Rule {
    /// Whether the rule is for these claims.
    pub(crate) fn is_for(&self, claims: &Claims) -> bool {
        self.claims.iter().all(|(name, patterns)| {
            values(claims, name).any(|value| glob::any(patterns.all(), value))
        })
    }

    /// Whether the rule allows something.
    pub(crate) fn allows(&self, claims: &Claims, repository: &str, action: Action) -> bool {
        let named = |pattern: &String| {
            filled(pattern, claims).is_some_and(|pattern| glob::matches(&pattern, repository))
        };
        self.actions.iter().any(|operation| operation.covers(action))
            && self.repositories.iter().any(named)
    }
}

impl Settings {
    /// What no type can rule out.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.issuers.is_empty() {
            return Err(Failure::config("config.issuers: there is none"));
        }
        if self.leeway.as_ms() > LEEWAY_MAX_MS {
            return Err(Failure::config("config.leeway: more than 10m is no leeway"));
        }
        for (index, issuer) in self.issuers.iter().enumerate() {
            let wrong = |what: &str| Failure::config(format!("config.issuers[{index}].{what}"));
            let url = &issuer.issuer;
            if !url.starts_with("https://") && !url.starts_with("http://") {
                return Err(wrong("issuer: it is no URL"));
            }
            if self.issuers[..index].iter().any(|other| other.issuer == *url) {
                return Err(wrong("issuer: it stands there twice"));
            }
            if issuer.audience.is_empty() || issuer.audience.iter().any(String::is_empty) {
                return Err(wrong("audience: whom are the tokens for?"));
            }
            if issuer.rules.is_empty() {
                return Err(wrong("rules: nobody could do anything"));
            }
            if issuer.keys.as_ref().is_some_and(Vec::is_empty) {
                return Err(wrong("keys: there is none that is understood"));
            }
            for (number, rule) in issuer.rules.iter().enumerate() {
                // Anybody may have an account with most issuers.
                if rule.claims.values().all(|patterns| patterns.all().is_empty()) {
                    return Err(wrong(&format!(
                        "rules[{number}].claims: it would be for everybody who has a token; say so by {{ sub = \"**\" }}"
                    )));
                }
            }
        }
        Ok(())
    }
}
