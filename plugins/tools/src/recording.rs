//! Calls of a running Pierhead as cases: what was asked, what was known, and what was answered.
//!
//! Credentials are never recorded, and so neither is an authenticator.

use pierhead_plugin_host::Hook;
use pierhead_plugin_host::wit::{CallContext, Manifest, Reference, Request, Scope, Stage};
use serde_json::Value;

use crate::answer::{of_identity, of_scope};
use crate::case::{Call, Case, CaseLimits, Client, Expect, KnownFact};
use crate::value::{action_word, kind_word, reference_text, stage_word};

/// The input of a call that can be recorded.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Of a request policy.
    Request(&'a Request),
    /// Of a manifest policy.
    Manifest(Stage, &'a Manifest),
    /// Of an authorizer.
    Wanted(&'a [Scope]),
    /// Of a resolver.
    Name(&'a Reference),
}

/// Makes a case of a call: `came` is what is expected of other versions.
pub fn case(
    config: &Value,
    context: &CallContext,
    input: Input<'_>,
    facts: Vec<KnownFact>,
    came: Expect,
) -> Case {
    let mut call = Call {
        hook: Hook::RequestPolicy,
        now: Some(time(context.now)),
        identity: context.identity.as_ref().map(of_identity),
        client: Some(Client {
            address: context.client.address.clone(),
            user_agent: context.client.user_agent.clone(),
            tls_subject: context.client.tls_subject.clone(),
        }),
        attributes: context.attributes.iter().cloned().collect(),
        reference: None,
        action: None,
        kind: None,
        stage: None,
        manifest: None,
        media_type: None,
        image_config: None,
        credentials: None,
        wanted: Vec::new(),
        upstream: None,
    };
    match input {
        Input::Request(request) => {
            call.reference = Some(reference_text(&request.reference));
            call.action = Some(action_word(request.action).to_owned());
            call.kind = Some(kind_word(request.kind).to_owned());
        }
        Input::Manifest(stage, manifest) => {
            call.hook = Hook::ManifestPolicy;
            call.reference = Some(reference_text(&manifest.reference));
            call.stage = Some(stage_word(stage).to_owned());
            call.manifest = Some(text(&manifest.raw));
            call.media_type = Some(manifest.descriptor.media_type.clone());
            call.image_config = manifest.config.as_deref().map(text);
        }
        Input::Wanted(wanted) => {
            call.hook = Hook::Authorizer;
            call.wanted = wanted.iter().map(of_scope).collect();
        }
        Input::Name(reference) => {
            call.hook = Hook::Resolver;
            call.reference = Some(reference_text(reference));
        }
    }
    Case {
        name: format!("recorded {}", context.request_id),
        config: config.clone(),
        grants: Value::Null,
        call,
        facts,
        http: Vec::new(),
        secrets: std::collections::BTreeMap::new(),
        expect: came,
        limits: CaseLimits::default(),
    }
}

/// Content as the text that it is: its digest has to be the same when it is called again.
fn text(bytes: &[u8]) -> Value {
    Value::String(String::from_utf8_lossy(bytes).into_owned())
}

fn time(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms);
    humantime::format_rfc3339_millis(time).to_string()
}
