//! Tokens of GitHub Actions, GitLab CI, Kubernetes and other issuers of OpenID Connect, and what
//! their claims allow. `docs/plugins/oidc.md` has the settings.

mod base64url;
mod jwt;
mod keys;
mod rules;

use pierhead_plugin::{
    AuthOutcome, Authenticator, Authorizer, CallContext, Credentials, Failure, Identity, Plugin,
    Scope, log,
};
use serde_json::{Map, Value};

use crate::jwt::{Algorithm, Token};
use crate::rules::{Issuer, Rule, Settings};

/// The most claims that an identity carries.
const CLAIMS_MAX: usize = 128;

/// How deep claims may lie in one another.
const CLAIM_DEPTH_MAX: usize = 4;

/// Issuers and rules, made of settings once.
#[derive(Debug)]
pub struct Oidc {
    settings: Settings,
}

impl Plugin for Oidc {
    type Settings = Settings;

    fn configure(settings: Settings) -> Result<Self, Failure> {
        settings.check()?;
        Ok(Self { settings })
    }
}

/// A subject, a group or a claim's name, in bytes, at most: longer ones are no identity to the host.
const NAME_BYTES_MAX: usize = 512;

/// A claim's value, in bytes, at most, likewise.
const CLAIM_BYTES_MAX: usize = 4 << 10;

/// A claim's name, in bytes, at most, likewise.
const CLAIM_NAME_BYTES_MAX: usize = 128;

/// Groups of an identity, at most, likewise.
const GROUPS_MAX: usize = 256;

/// Whether the host takes a text for a part of an identity: people choose branches and workflows,
/// and what cannot be seen in them must not end a login.
fn fits(text: &str, bytes_max: usize) -> bool {
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    !text.is_empty() && text.len() <= bytes_max && !text.chars().any(hidden)
}

/// Claims as names and texts: `{"kubernetes.io": {"namespace": "ci"}}` is
/// `kubernetes.io.namespace`, and a list is there once for each of its values.
fn flat(claims: &Map<String, Value>) -> Vec<(String, String)> {
    fn add(found: &mut Vec<(String, String)>, name: &str, value: &Value, depth: usize) {
        if found.len() >= CLAIMS_MAX || depth > CLAIM_DEPTH_MAX {
            return;
        }
        match value {
            Value::Null => {}
            Value::Bool(value) => found.push((name.to_owned(), value.to_string())),
            Value::Number(value) => found.push((name.to_owned(), value.to_string())),
            Value::String(value) => found.push((name.to_owned(), value.clone())),
            Value::Array(values) => {
                values.iter().for_each(|value| add(found, name, value, depth + 1));
            }
            Value::Object(members) => {
                for (key, value) in members {
                    add(found, &format!("{name}.{key}"), value, depth + 1);
                }
            }
        }
    }
    let mut found = Vec::new();
    for (name, value) in claims {
        add(&mut found, name, value, 0);
    }
    found
}

impl Oidc {
    fn issuer(&self, url: &str) -> Option<&Issuer> {
        self.settings.issuers.iter().find(|issuer| issuer.issuer == url)
    }

    /// Decides about a token of an issuer of ours. An error is what the client is told.
    fn believe(
        &self,
        issuer: &Issuer,
        token: &Token<'_>,
        now: u64,
    ) -> Result<Result<Identity, String>, Failure> {
        let Some(algorithm) = Algorithm::of(&token.header.alg) else {
            return Ok(Err(format!(
                "tokens signed by {} are not accepted",
                known(&token.header.alg)
            )));
        };
        if token.header.crit.is_some() {
            return Ok(Err("the token asks for an extension that is not known".to_owned()));
        }
        // The cheap questions first; none of the answers is worth anything to a forger.
        if !token.is_for(&issuer.audience) {
            return Ok(Err(format!("the token is not for {}", issuer.audience.join(" or "))));
        }
        let end = match token.check_time(now, self.settings.leeway.as_ms()) {
            Ok(end) => end,
            Err(message) => return Ok(Err(message)),
        };
        if let Err(message) = keys::verify(issuer, token, algorithm, now)? {
            return Ok(Err(message));
        }
        let claims = flat(&token.claims);
        let claim = |name: &str| claims.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let Some(subject) = claim(&issuer.subject_claim).filter(|subject| !subject.is_empty())
        else {
            return Ok(Err(format!("the token has no claim {}", issuer.subject_claim)));
        };
        if !fits(subject, NAME_BYTES_MAX) {
            return Ok(Err(format!(
                "the token's {} is too long, or has characters that cannot be seen",
                issuer.subject_claim
            )));
        }
        let rules: Vec<&Rule> = issuer.rules.iter().filter(|rule| rule.is_for(&claims)).collect();
        if rules.is_empty() {
            let fields = [("issuer", issuer.issuer.as_str()), ("subject", subject)];
            log::write(log::Level::Info, "a token's claims match no rule", &fields);
            return Ok(Err(format!("nothing is allowed to {subject}: its claims match no rule")));
        }
        let mut groups: Vec<String> = rules.iter().flat_map(|rule| rule.groups.clone()).collect();
        if let Some(name) = &issuer.groups_claim {
            groups.extend(
                claims.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()),
            );
        }
        groups.sort();
        groups.dedup();
        groups.retain(|group| fits(group, NAME_BYTES_MAX));
        groups.truncate(GROUPS_MAX);
        let subject = subject.clone();
        // The rules have seen all claims; the next ones see those that can be told.
        let told = |(name, value): &(String, String)| {
            fits(name, CLAIM_NAME_BYTES_MAX) && (value.is_empty() || fits(value, CLAIM_BYTES_MAX))
        };
        let claims = claims.into_iter().filter(told).collect();
        Ok(Ok(Identity {
            subject,
            issuer: issuer.issuer.clone(),
            method: "bearer".to_owned(),
            groups,
            expires_at: Some(end),
            claims,
        }))
    }
}

/// A name of an algorithm that may be shown.
fn known(name: &str) -> &str {
    match name {
        "none" | "HS256" | "HS384" | "HS512" | "PS384" | "PS512" | "ES512" | "ES256K" => name,
        _ => "an unknown algorithm",
    }
}

impl Authenticator for Oidc {
    fn authenticate(
        &self,
        ctx: &CallContext,
        credentials: &Credentials,
    ) -> Result<AuthOutcome, Failure> {
        // docker login has a name and a password, and the token is the password.
        let (Credentials::Bearer(text) | Credentials::Basic((_, text))) = credentials else {
            return Ok(AuthOutcome::Abstain);
        };
        let Some(token) = Token::parse(text) else { return Ok(AuthOutcome::Abstain) };
        let Some(issuer) = token.issuer().and_then(|url| self.issuer(url)) else {
            return Ok(AuthOutcome::Abstain);
        };
        Ok(match self.believe(issuer, &token, ctx.now)? {
            Ok(identity) => AuthOutcome::Authenticated(identity),
            Err(message) => AuthOutcome::Rejected(message),
        })
    }
}

impl Authorizer for Oidc {
    fn authorize(&self, ctx: &CallContext, wanted: &[Scope]) -> Result<Vec<Scope>, Failure> {
        let identity = ctx.identity.as_ref();
        let ours = identity.and_then(|identity| Some((identity, self.issuer(&identity.issuer)?)));
        let allowed = |repository: &str, action| match (identity, ours) {
            (_, Some((identity, issuer))) => issuer.rules.iter().any(|rule| {
                rule.is_for(&identity.claims) && rule.allows(&identity.claims, repository, action)
            }),
            (Some(_), None) => self.settings.others.covers(action),
            (None, None) => self.settings.anonymous.covers(action),
        };
        let granted = wanted.iter().map(|scope| {
            let actions = scope.actions.iter().copied();
            let actions = actions.filter(|action| allowed(&scope.repository, *action)).collect();
            Scope { repository: scope.repository.clone(), actions }
        });
        Ok(granted.filter(|scope| !scope.actions.is_empty()).collect())
    }
}

pierhead_plugin::plugin!(Oidc: Authenticator, Authorizer;
    settings_schema = include_str!("settings.json"),
    examples = include_str!("examples.json"));

#[cfg(test)]
mod tests;
