//! Policies in Cedar, mounted as text. `docs/plugins/cedar.md` says what they see and what follows
//! from what they decide.

mod convert;
mod looks;

use std::str::FromStr;
use std::time::Duration;

use cedar_policy::{Authorizer as Engine, Decision, Effect, Entities, PolicyId, PolicySet};
use miette::Diagnostic as _;
use pierhead_plugin::units::Span;
use pierhead_plugin::{
    Action, Authorizer, CallContext, DependsOn, ErrorCode, Failure, Manifest, ManifestPolicy,
    Plugin, Request, RequestPolicy, Scope, Stage, Verdict, document,
};
use serde::Deserialize;
use serde_json::Value;

use crate::convert::Types;

/// What somebody is told whom a policy without a message forbids something.
const FORBIDDEN: &str = "the registry's policy forbids this";

/// What somebody is told whom no policy permits something.
const NOT_PERMITTED: &str = "no policy of the registry permits this";

/// The mount's settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    policy: String,
    #[serde(default)]
    entities: Option<Value>,
    #[serde(default)]
    permitted: Permitted,
    #[serde(default)]
    otherwise: Otherwise,
    #[serde(default = "minute")]
    reuse: Span,
}

fn minute() -> Span {
    Span(Duration::from_secs(60))
}

/// What follows if a policy permits.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Permitted {
    /// The next plugin is asked.
    #[default]
    Abstain,
    /// No other plugin is asked.
    Allow,
}

/// What follows if no policy permits and none forbids.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Otherwise {
    /// It is refused, as Cedar means it.
    #[default]
    Deny,
    /// The next plugin is asked.
    Abstain,
}

/// Policies, parsed once.
#[derive(Debug)]
pub struct Cedar {
    engine: Engine,
    policies: PolicySet,
    entities: Entities,
    types: Types,
    permitted: Permitted,
    otherwise: Otherwise,
    /// For how long and for what a verdict may be used again, if at all.
    reuse: Option<(Duration, DependsOn)>,
    with_facts: bool,
}

fn wrong(error: impl std::fmt::Display) -> Failure {
    Failure::config(error.to_string())
}

/// Where in the text a mistake is, for people.
fn place(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}")
}

impl Plugin for Cedar {
    type Settings = Settings;

    fn configure(settings: Settings) -> Result<Self, Failure> {
        let text = &settings.policy;
        let policies = PolicySet::from_str(text).map_err(|errors| {
            let offset = errors.labels().and_then(|mut labels| labels.next());
            let at = offset.map(|label| place(text, label.offset()) + ": ").unwrap_or_default();
            wrong(format!("config.policy: {at}{errors}"))
        })?;
        if policies.is_empty() {
            return Err(wrong("config.policy: there is no policy in it"));
        }
        if policies.templates().next().is_some() {
            return Err(wrong("config.policy: templates are not linked by anything here"));
        }
        for policy in policies.policies() {
            if let Some(code) = policy.annotation("code") {
                code_of(code)
                    .ok_or_else(|| wrong(format!("config.policy: @code({code:?}) is none")))?;
            }
        }
        let entities = match settings.entities {
            Some(entities) => Entities::from_json_value(entities, None)
                .map_err(|error| wrong(format!("config.entities: {error}")))?,
            None => Entities::empty(),
        };
        let looks = looks::at(&policies).map_err(wrong)?;
        let with_facts = looks.as_ref().is_none_or(|key| key.contains(DependsOn::FACTS));
        let reuse = looks.filter(|_| !settings.reuse.0.is_zero());
        let cedar = Self {
            engine: Engine::new(),
            policies,
            entities,
            types: Types::new().map_err(wrong)?,
            permitted: settings.permitted,
            otherwise: settings.otherwise,
            reuse: reuse.map(|key| (settings.reuse.0, key)),
            with_facts,
        };
        // What Cedar makes on first use is a part of the snapshot then. What policies say about
        // nothing in particular does not matter.
        let _ = cedar.decide(&Value::Null);
        Ok(cedar)
    }
}

fn code_of(name: &str) -> Option<ErrorCode> {
    Some(match name {
        "denied" => ErrorCode::Denied,
        "unauthorized" => ErrorCode::Unauthorized,
        "name-unknown" => ErrorCode::NameUnknown,
        "manifest-unknown" => ErrorCode::ManifestUnknown,
        "blob-unknown" => ErrorCode::BlobUnknown,
        "toomanyrequests" => ErrorCode::Toomanyrequests,
        "unsupported" => ErrorCode::Unsupported,
        _ => return None,
    })
}

impl Cedar {
    fn annotation(&self, id: &PolicyId, key: &str) -> Option<&str> {
        self.policies.annotation(id, key)
    }

    /// Decides about a document.
    fn decide(&self, input: &Value) -> Result<Verdict, Failure> {
        let (request, entities) = self.types.request(input, &self.entities)?;
        let response = self.engine.is_authorized(&request, &self.policies, &entities);
        let diagnostics = response.diagnostics();
        // Cedar leaves out a policy that breaks, and a `forbid` that is left out forbids nothing.
        let mut errors: Vec<String> = diagnostics.errors().map(ToString::to_string).collect();
        if !errors.is_empty() {
            errors.sort();
            return Err(Failure::internal(errors.join("; ")));
        }
        let mut reasons: Vec<&PolicyId> = diagnostics.reason().collect();
        reasons.sort();
        let verdict = match response.decision() {
            Decision::Allow if self.permitted == Permitted::Allow => Verdict::allow(),
            Decision::Allow => Verdict::abstain(),
            Decision::Deny if !reasons.is_empty() => {
                let mut messages: Vec<&str> = reasons
                    .iter()
                    .map(|id| self.annotation(id, "message").unwrap_or(FORBIDDEN))
                    .collect();
                messages.dedup();
                let code = reasons.iter().find_map(|id| code_of(self.annotation(id, "code")?));
                Verdict::deny_with(code.unwrap_or(ErrorCode::Denied), messages.join("; "))
            }
            Decision::Deny if self.otherwise == Otherwise::Abstain => Verdict::abstain(),
            Decision::Deny => Verdict::deny(NOT_PERMITTED),
        };
        let warnings = reasons
            .iter()
            .filter(|id| self.policies.policy(id).is_some_and(|p| p.effect() == Effect::Permit))
            .filter_map(|id| self.annotation(id, "warning"));
        Ok(warnings.fold(verdict, |verdict, warning| verdict.warn(warning)))
    }

    fn verdict(&self, input: &Value) -> Result<Verdict, Failure> {
        let verdict = self.decide(input)?;
        Ok(match self.reuse {
            Some((ttl, key)) => verdict.reuse(ttl, key),
            None => verdict,
        })
    }
}

impl RequestPolicy for Cedar {
    fn evaluate_request(&self, ctx: &CallContext, request: &Request) -> Result<Verdict, Failure> {
        self.verdict(&document::of_request(ctx, request))
    }
}

impl ManifestPolicy for Cedar {
    fn evaluate_manifest(
        &self,
        ctx: &CallContext,
        stage: Stage,
        manifest: &Manifest,
    ) -> Result<Verdict, Failure> {
        self.verdict(&document::of_manifest(ctx, stage, manifest, self.with_facts))
    }
}

impl Authorizer for Cedar {
    fn authorize(&self, ctx: &CallContext, wanted: &[Scope]) -> Result<Vec<Scope>, Failure> {
        let mut granted = Vec::new();
        for scope in wanted {
            let mut actions: Vec<Action> = Vec::new();
            for action in &scope.actions {
                if !self.decide(&document::of_scope(ctx, scope, *action))?.is_denied() {
                    actions.push(*action);
                }
            }
            if !actions.is_empty() {
                granted.push(Scope { repository: scope.repository.clone(), actions });
            }
        }
        Ok(granted)
    }
}

pierhead_plugin::plugin!(Cedar: RequestPolicy, ManifestPolicy, Authorizer;
    settings_schema = include_str!("settings.json"),
    examples = include_str!("examples.json"));

#[cfg(test)]
mod tests;
