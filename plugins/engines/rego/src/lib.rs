//! Policies in Rego, the language of Open Policy Agent, mounted as text. `docs/plugins/rego.md`
//! says what they see and what they can say.

mod answer;

use std::sync::Arc;
use std::time::Duration;

use pierhead_plugin::units::Span;
use pierhead_plugin::{
    Authorizer, CallContext, DependsOn, Failure, Manifest, ManifestPolicy, Plugin, Request,
    RequestPolicy, Scope, Stage, Verdict, document,
};
use regorus::{CompiledPolicy, Engine};
use serde::Deserialize;
use serde_json::Value;

use crate::answer::Said;

/// What the text is called in messages about it.
const FILE: &str = "config.policy";

/// The mount's settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    policy: String,
    #[serde(default)]
    data: Option<Value>,
    #[serde(default)]
    otherwise: Otherwise,
    #[serde(default = "minute")]
    reuse: Span,
}

fn minute() -> Span {
    Span(Duration::from_secs(60))
}

/// What follows if a policy says neither `deny` nor `allow`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Otherwise {
    /// The next plugin decides.
    #[default]
    Abstain,
    /// It is refused.
    Deny,
}

/// A policy, compiled once.
pub struct Rego {
    deny: Option<CompiledPolicy>,
    warn: Option<CompiledPolicy>,
    allow: Option<CompiledPolicy>,
    otherwise: Otherwise,
    /// For how long and for what a verdict may be used again, if at all.
    reuse: Option<(Duration, DependsOn)>,
    with_facts: bool,
}

impl std::fmt::Debug for Rego {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rego").field("reuse", &self.reuse).finish_non_exhaustive()
    }
}

fn wrong(error: impl std::fmt::Display) -> Failure {
    Failure::config(error.to_string().trim().to_owned())
}

/// The document without what is not known. `null` is a value in Rego and holds as a condition; what
/// is left out does not.
fn known(mut document: Value) -> Value {
    let Some(members) = document.as_object_mut() else { return document };
    members.retain(|_, member| !member.is_null());
    for name in ["client", "identity"] {
        if let Some(inner) = members.get_mut(name).and_then(Value::as_object_mut) {
            inner.retain(|_, member| !member.is_null());
        }
    }
    document
}

impl Plugin for Rego {
    type Settings = Settings;

    fn configure(settings: Settings) -> Result<Self, Failure> {
        let mut engine = Engine::new();
        let package = engine.add_policy(FILE.to_owned(), settings.policy.clone()).map_err(wrong)?;
        if let Some(data) = settings.data {
            if !data.is_object() {
                return Err(wrong("config.data: it has to be a table"));
            }
            engine.add_data(regorus::Value::from(data)).map_err(wrong)?;
        }
        let mut compiled = |rule: &str| -> Result<Option<CompiledPolicy>, Failure> {
            let path = format!("{package}.{rule}");
            if !engine.has_declared_rule_rooted_at(FILE, rule).map_err(wrong)? {
                return Ok(None);
            }
            let path: Arc<str> = path.into();
            engine.compile_with_entrypoint(&path).map(Some).map_err(wrong)
        };
        let (deny, warn, allow) = (compiled("deny")?, compiled("warn")?, compiled("allow")?);
        if deny.is_none() && warn.is_none() && allow.is_none() {
            return Err(wrong("config.policy: it has none of the rules deny, warn and allow"));
        }
        let members = document::members(&settings.policy, "input");
        let with_facts = members
            .as_ref()
            .is_none_or(|members| members.iter().any(|member| member.starts_with("facts")));
        let key = members.and_then(|members| {
            members.iter().try_fold(DependsOn::empty(), |all, member| {
                Some(all | document::depends_on(member)?)
            })
        });
        let reuse = key.filter(|_| !settings.reuse.0.is_zero()).map(|key| (settings.reuse.0, key));
        let rego = Self { deny, warn, allow, otherwise: settings.otherwise, reuse, with_facts };
        rego.try_out()?;
        Ok(rego)
    }
}

impl Rego {
    /// Asks about nothing in particular: a function that does not exist is found only when a
    /// policy runs.
    fn try_out(&self) -> Result<(), Failure> {
        self.ask(serde_json::json!({})).map(drop).map_err(|failure| wrong(failure.message))
    }

    /// What the policy says.
    fn ask(&self, input: Value) -> Result<Said, Failure> {
        let input = regorus::Value::from(known(input));
        let rule = |policy: &Option<CompiledPolicy>| match policy {
            Some(policy) => policy
                .eval_with_input(input.clone())
                .map_err(|error| Failure::internal(error.to_string().trim().to_owned())),
            None => Ok(regorus::Value::Undefined),
        };
        Said::read(&rule(&self.deny)?, &rule(&self.warn)?, &rule(&self.allow)?)
    }

    fn verdict(&self, input: Value) -> Result<Verdict, Failure> {
        let verdict = self.ask(input)?.verdict(self.otherwise == Otherwise::Deny);
        Ok(match self.reuse {
            Some((ttl, key)) => verdict.reuse(ttl, key),
            None => verdict,
        })
    }
}

impl RequestPolicy for Rego {
    fn evaluate_request(&self, ctx: &CallContext, request: &Request) -> Result<Verdict, Failure> {
        self.verdict(document::of_request(ctx, request))
    }
}

impl ManifestPolicy for Rego {
    fn evaluate_manifest(
        &self,
        ctx: &CallContext,
        stage: Stage,
        manifest: &Manifest,
    ) -> Result<Verdict, Failure> {
        self.verdict(document::of_manifest(ctx, stage, manifest, self.with_facts))
    }
}

impl Authorizer for Rego {
    fn authorize(&self, ctx: &CallContext, wanted: &[Scope]) -> Result<Vec<Scope>, Failure> {
        let mut granted = Vec::new();
        for scope in wanted {
            let mut actions = Vec::new();
            for action in &scope.actions {
                let said = self.ask(document::of_scope(ctx, scope, *action))?;
                if !said.verdict(self.otherwise == Otherwise::Deny).is_denied() {
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

pierhead_plugin::plugin!(Rego: RequestPolicy, ManifestPolicy, Authorizer;
    settings_schema = include_str!("settings.json"),
    examples = include_str!("examples.json"));

#[cfg(test)]
mod tests;
