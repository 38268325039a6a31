//! Cases: calls as data, in the form that `pierhead plugin test` reads from YAML.
//!
//! The examples in a plugin's metadata are such cases; [`examples`] tests them.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Deserialize;
use serde_json::Value;

use super::{Host, Known, NOW, configure, context, manifest, reference, with};
use crate::facts::Fact;
use crate::units::rfc3339;
use crate::{
    Action, AuthOutcome, Authenticator, Authorizer, CallContext, Client, Credential, Credentials,
    Decision, Failure, Identity, ManifestPolicy, ObjectKind, Plugin, Reference, Request,
    RequestPolicy, Resolver, Scope, Secret, Stage, UpstreamCredentials, Verdict,
};

/// A call and what is expected of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// The mount's settings.
    #[serde(default)]
    pub config: Value,
    /// The call.
    pub call: Call,
    /// What is known of digests.
    #[serde(default)]
    facts: Vec<KnownFact>,
    /// What the world answers.
    #[serde(default)]
    http: Vec<Exchange>,
    /// Secrets by name.
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    /// What is to come of it.
    expect: Expect,
    /// What it may use up, which is not measured here.
    #[serde(default, rename = "limits")]
    _limits: Value,
}

/// One call. Which keys have a meaning depends on the hook.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Which hook is called.
    pub hook: String,
    #[serde(default)]
    identity: Option<Who>,
    #[serde(default)]
    client: Option<From>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    #[serde(default)]
    reference: String,
    #[serde(default)]
    action: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    stage: Option<String>,
    #[serde(default)]
    manifest: Option<Value>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    image_config: Option<Value>,
    #[serde(default)]
    credentials: Option<Presented>,
    #[serde(default)]
    wanted: Vec<Wanted>,
    #[serde(default)]
    upstream: Option<Upstream>,
    /// When, in RFC 3339.
    #[serde(default)]
    now: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Who {
    subject: String,
    issuer: String,
    method: String,
    groups: Vec<String>,
    claims: BTreeMap<String, String>,
    expires_at: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    address: String,
    #[serde(default)]
    user_agent: Option<String>,
    #[serde(default)]
    tls_subject: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Presented {
    Anonymous,
    Basic { username: String, password: String },
    Bearer(String),
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Wanted {
    repository: String,
    actions: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Upstream {
    name: String,
    host: String,
    #[serde(default)]
    repository: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownFact {
    #[serde(default)]
    subject: Option<String>,
    source: String,
    name: String,
    #[serde(default)]
    json: Value,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    #[serde(default)]
    method: Option<String>,
    url: String,
    #[serde(default)]
    status: Option<u16>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: Value,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Expect {
    decision: Option<String>,
    code: Option<String>,
    message: Option<String>,
    warnings: Option<Vec<String>>,
    reuse_ms: Option<u32>,
    outcome: Option<String>,
    identity: Option<Who>,
    granted: Option<Vec<Wanted>>,
    resolved: Option<String>,
    credential: Option<String>,
    broken: Option<String>,
}

/// What a hook answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A policy's.
    Verdict(Verdict),
    /// An authenticator's.
    Outcome(AuthOutcome),
    /// An authorizer's.
    Granted(Vec<Scope>),
    /// A resolver's.
    Resolved(Option<Reference>),
    /// An upstream's credentials.
    Credential(Option<Credential>),
}

/// Why a hook did not answer.
#[derive(Clone, Debug)]
pub enum CallError {
    /// The plugin does not have it.
    NoSuchHook,
    /// The case makes no sense; the text says why.
    Case(String),
    /// The plugin failed in an orderly way.
    Failure(Failure),
}

impl Display for CallError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchHook => f.write_str("the plugin does not have this hook"),
            Self::Case(what) => f.write_str(what),
            Self::Failure(failure) => f.write_str(&failure.message),
        }
    }
}

impl std::error::Error for CallError {}

/// A plugin whose hooks can be called by name. [`plugin!`](crate::plugin) implements it.
pub trait Callable: Plugin {
    /// What the plugin says about itself, as JSON.
    fn metadata() -> &'static [u8];

    /// Calls a hook.
    ///
    /// # Errors
    /// When it does not answer.
    fn call(&self, call: &Call) -> Result<Answer, CallError>;
}

fn text_or_json(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn named<T: Copy>(names: &[(&str, T)], name: &str) -> Result<T, CallError> {
    let found = names.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    found.ok_or_else(|| CallError::Case(format!("there is no {name}")))
}

fn action(name: &str) -> Result<Action, CallError> {
    let names = [
        ("pull", Action::Pull),
        ("push", Action::Push),
        ("delete", Action::Delete),
        ("list-tags", Action::ListTags),
        ("catalog", Action::Catalog),
        ("referrers", Action::Referrers),
        ("mount", Action::Mount),
        ("admin", Action::Admin),
    ];
    named(&names, name)
}

impl Call {
    fn context(&self) -> CallContext {
        let mut made = context();
        made.attributes = self.attributes.clone().into_iter().collect();
        made.identity = self.identity.clone().map(|who| Identity {
            subject: who.subject,
            issuer: who.issuer,
            method: who.method,
            groups: who.groups,
            claims: who.claims.into_iter().collect(),
            expires_at: who.expires_at,
        });
        if let Some(client) = self.client.clone() {
            made.client = Client {
                address: client.address,
                user_agent: client.user_agent,
                tls_subject: client.tls_subject,
            };
        }
        made
    }
}

/// Runs a call, if it is of this hook.
fn of_hook<T>(
    call: &Call,
    hook: &str,
    run: impl FnOnce(&CallContext) -> Result<Result<T, Failure>, CallError>,
    answer: impl FnOnce(T) -> Answer,
) -> Option<Result<Answer, CallError>> {
    (call.hook == hook).then(|| run(&call.context())?.map(answer).map_err(CallError::Failure))
}

/// Calls `authenticator`, if it is meant.
pub fn authenticate<P: Authenticator>(
    plugin: &P,
    call: &Call,
) -> Option<Result<Answer, CallError>> {
    let run = |ctx: &CallContext| {
        let credentials = match call.credentials.clone() {
            None | Some(Presented::Anonymous) => Credentials::Anonymous,
            Some(Presented::Basic { username, password }) => {
                Credentials::Basic((username, password))
            }
            Some(Presented::Bearer(token)) => Credentials::Bearer(token),
        };
        Ok(plugin.authenticate(ctx, &credentials))
    };
    of_hook(call, "authenticator", run, Answer::Outcome)
}

/// Calls `authorizer`, if it is meant.
pub fn authorize<P: Authorizer>(plugin: &P, call: &Call) -> Option<Result<Answer, CallError>> {
    let run = |ctx: &CallContext| {
        let scope = |wanted: &Wanted| {
            let actions: Result<_, _> = wanted.actions.iter().map(|name| action(name)).collect();
            Ok(Scope { repository: wanted.repository.clone(), actions: actions? })
        };
        let wanted: Vec<Scope> = call.wanted.iter().map(scope).collect::<Result<_, CallError>>()?;
        Ok(plugin.authorize(ctx, &wanted))
    };
    of_hook(call, "authorizer", run, Answer::Granted)
}

/// Calls `request-policy`, if it is meant.
pub fn evaluate_request<P: RequestPolicy>(
    plugin: &P,
    call: &Call,
) -> Option<Result<Answer, CallError>> {
    let run = |ctx: &CallContext| {
        let kinds = [
            ("manifest", ObjectKind::Manifest),
            ("blob", ObjectKind::Blob),
            ("tag", ObjectKind::Tag),
            ("repository", ObjectKind::Repository),
            ("registry", ObjectKind::Registry),
        ];
        let request = Request {
            action: action(call.action.as_deref().unwrap_or("pull"))?,
            kind: named(&kinds, call.kind.as_deref().unwrap_or("manifest"))?,
            reference: reference(&call.reference),
        };
        Ok(plugin.evaluate_request(ctx, &request))
    };
    of_hook(call, "request-policy", run, Answer::Verdict)
}

/// Calls `manifest-policy`, if it is meant.
pub fn evaluate_manifest<P: ManifestPolicy>(
    plugin: &P,
    call: &Call,
) -> Option<Result<Answer, CallError>> {
    let run = |ctx: &CallContext| {
        let stages = [("admit", Stage::Admit), ("serve", Stage::Serve)];
        let stage = named(&stages, call.stage.as_deref().unwrap_or("serve"))?;
        let stated = call.manifest.clone().unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        let config = call.image_config.as_ref().map(text_or_json);
        let mut made = manifest(&call.reference, &text_or_json(&stated), config.as_deref());
        if let Some(media_type) = &call.media_type {
            made.descriptor.media_type.clone_from(media_type);
        }
        Ok(plugin.evaluate_manifest(ctx, stage, &made))
    };
    of_hook(call, "manifest-policy", run, Answer::Verdict)
}

/// Calls `resolver`, if it is meant.
pub fn resolve<P: Resolver>(plugin: &P, call: &Call) -> Option<Result<Answer, CallError>> {
    let run = |ctx: &CallContext| Ok(plugin.resolve(ctx, &reference(&call.reference)));
    of_hook(call, "resolver", run, Answer::Resolved)
}

/// Calls `upstream-credentials`, if it is meant.
pub fn fetch<P: UpstreamCredentials>(plugin: &P, call: &Call) -> Option<Result<Answer, CallError>> {
    let run = |_: &CallContext| {
        let upstream = call.upstream.as_ref();
        let upstream = upstream.ok_or_else(|| CallError::Case("which upstream?".to_owned()))?;
        Ok(plugin.fetch(&upstream.name, &upstream.host, &upstream.repository))
    };
    of_hook(call, "upstream-credentials", run, Answer::Credential)
}

/// Runs a case.
///
/// # Errors
/// What is not as expected.
pub fn check<P: Callable>(case: &Case) -> Result<(), String> {
    let host = Host::new();
    match case.call.now.as_deref().map(rfc3339) {
        None => host.set_now(NOW),
        Some(Some(now)) => host.set_now(now),
        Some(None) => return Err("`now` is not a time".to_owned()),
    }
    for known in &case.facts {
        let fact = Fact {
            source: known.source.clone(),
            name: known.name.clone(),
            json: known.json.to_string(),
            at: NOW,
        };
        with(|state| state.facts.push(Known { subject: known.subject.clone(), fact }));
    }
    for exchange in &case.http {
        let response = crate::http::Response {
            status: exchange.status.unwrap_or(200),
            headers: exchange.headers.clone().into_iter().collect(),
            body: text_or_json(&exchange.body).into_bytes(),
        };
        host.set_answer(exchange.method.as_deref().unwrap_or("GET"), &exchange.url, Ok(response));
    }
    with(|state| state.secrets.clone_from(&case.secrets));

    let config = if case.config.is_null() { "{}".to_owned() } else { case.config.to_string() };
    let plugin: P = match configure(&config) {
        Ok(plugin) => plugin,
        Err(failure) => return case.expect.broken_by("configuration", &failure.message),
    };
    match plugin.call(&case.call) {
        Ok(answer) => case.expect.met_by(&answer),
        Err(CallError::Failure(failure)) => case.expect.broken_by("failure", &failure.message),
        Err(error) => Err(error.to_string()),
    }
}

/// Runs the examples in a plugin's metadata, and returns how many there are.
///
/// # Errors
/// What is not as expected, with the example's name.
pub fn examples<P: Callable>() -> Result<usize, String> {
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        examples: Vec<Case>,
    }
    let metadata: Metadata = serde_json::from_slice(P::metadata())
        .map_err(|error| format!("the metadata is wrong: {error}"))?;
    for case in &metadata.examples {
        check::<P>(case).map_err(|error| format!("{}: {error}", case.name))?;
    }
    Ok(metadata.examples.len())
}

/// Compares what is expected, if anything is.
fn same<T: PartialEq + fmt::Debug>(
    what: &str,
    expected: Option<&T>,
    found: &T,
) -> Result<(), String> {
    match expected {
        Some(expected) if expected != found => {
            Err(format!("{what}: expected {expected:?}, found {found:?}"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Words that have to stand in a message; what is written `/…/` has to stand there as it is, too.
fn says(expected: Option<&String>, found: &str) -> Result<(), String> {
    let Some(expected) = expected else { return Ok(()) };
    let words = expected.strip_prefix('/').and_then(|words| words.strip_suffix('/'));
    if found.contains(words.unwrap_or(expected)) {
        return Ok(());
    }
    Err(format!("message: expected {expected:?}, found {found:?}"))
}

fn kebab(name: &str) -> String {
    let mut made = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !made.is_empty() {
            made.push('-');
        }
        made.extend(letter.to_lowercase());
    }
    made
}

impl Expect {
    fn broken_by(&self, how: &str, message: &str) -> Result<(), String> {
        if self.broken.as_deref() != Some(how) {
            return Err(format!("it broke by {how}: {message}"));
        }
        says(self.message.as_ref(), message)
    }

    fn met_by(&self, answer: &Answer) -> Result<(), String> {
        if let Some(how) = &self.broken {
            return Err(format!("expected to break by {how}, found {answer:?}"));
        }
        match answer {
            Answer::Verdict(verdict) => self.met_by_verdict(verdict),
            Answer::Outcome(outcome) => self.met_by_outcome(outcome),
            Answer::Granted(granted) => {
                let action = |action: &Action| {
                    let name = format!("{action:?}");
                    kebab(name.rsplit("::").next().unwrap_or_default())
                };
                let found = granted
                    .iter()
                    .map(|scope| Wanted {
                        repository: scope.repository.clone(),
                        actions: scope.actions.iter().map(action).collect(),
                    })
                    .collect();
                same("granted", self.granted.as_ref(), &found)
            }
            Answer::Resolved(resolved) => match (&self.resolved, resolved) {
                (Some(expected), Some(found)) if *found != reference(expected) => {
                    Err(format!("resolved: expected {expected}, found {found:?}"))
                }
                (Some(expected), None) if !expected.is_empty() => {
                    Err(format!("resolved: expected {expected}, found none"))
                }
                _ => Ok(()),
            },
            Answer::Credential(credential) => {
                let found = match credential.as_ref().map(|credential| &credential.secret) {
                    None => "none",
                    Some(Secret::Basic(_)) => "basic",
                    Some(Secret::Bearer(_)) => "bearer",
                };
                same("credential", self.credential.as_ref(), &found.to_owned())
            }
        }
    }

    fn met_by_verdict(&self, verdict: &Verdict) -> Result<(), String> {
        let (decision, code, message) = match &verdict.decision {
            Decision::Abstain => ("abstain", String::new(), ""),
            Decision::Allow => ("allow", String::new(), ""),
            Decision::Deny(denial) => {
                let code = format!("{:?}", denial.code);
                (
                    "deny",
                    kebab(code.rsplit("::").next().unwrap_or_default()),
                    denial.message.as_str(),
                )
            }
        };
        same("decision", self.decision.as_ref(), &decision.to_owned())
            .map_err(|error| format!("{error} {message}"))?;
        same("code", self.code.as_ref(), &code)?;
        says(self.message.as_ref(), message)?;
        let warnings: Vec<&str> = verdict.warnings().collect();
        if let Some(expected) = &self.warnings {
            if expected.len() != warnings.len() {
                return Err(format!("warnings: expected {expected:?}, found {warnings:?}"));
            }
            for (expected, found) in expected.iter().zip(warnings) {
                says(Some(expected), found)?;
            }
        }
        let reuse_ms = verdict.reuse.as_ref().map_or(0, |reuse| reuse.ttl_ms);
        same("reuse_ms", self.reuse_ms.as_ref(), &reuse_ms)
    }

    fn met_by_outcome(&self, outcome: &AuthOutcome) -> Result<(), String> {
        let (found, message) = match outcome {
            AuthOutcome::Abstain => ("abstain", ""),
            AuthOutcome::Authenticated(_) => ("authenticated", ""),
            AuthOutcome::Rejected(message) => ("rejected", message.as_str()),
        };
        same("outcome", self.outcome.as_ref(), &found.to_owned())
            .map_err(|error| format!("{error} {message}"))?;
        says(self.message.as_ref(), message)?;
        let (Some(expected), AuthOutcome::Authenticated(identity)) = (&self.identity, outcome)
        else {
            return Ok(());
        };
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        same("subject", given(&expected.subject).as_ref(), &identity.subject)?;
        same("issuer", given(&expected.issuer).as_ref(), &identity.issuer)?;
        same("method", given(&expected.method).as_ref(), &identity.method)?;
        if let Some(group) = expected.groups.iter().find(|group| !identity.groups.contains(group)) {
            return Err(format!("groups: {group} is not in {:?}", identity.groups));
        }
        for claim in expected.claims.clone() {
            if !identity.claims.contains(&claim) {
                return Err(format!("claims: {claim:?} is not in {:?}", identity.claims));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_interface() {
        assert_eq!(kebab("ListTags"), "list-tags");
        assert_eq!(kebab("NameUnknown"), "name-unknown");
    }
}
