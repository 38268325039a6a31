//! Our types in the plugin host's, and back.

use std::time::Duration;

use pierhead_plugin_host::wit::{self, AuthOutcome, Credentials};
use pierhead_plugin_host::{CallError, Hook as HostHook};
use pierhead_plugin_tools::descriptor;

use crate::clock::Timestamp;
use crate::hooks::chain::{
    Authenticated, Broke, Call, Decision, DependsOn, Hook, Obligation, Proposed, Reuse, Said, Stage,
};
use crate::hooks::{
    Action, AdmissionRequest, Context, Identity, Object, Presented, Target, WantedScope,
};
use crate::oci::{ErrorCode, Reference};
use crate::scope::Scope;

/// The longest deadline that a guest is told, in milliseconds: its own limit holds in any case.
const DEADLINE_MS_MAX: u128 = u32::MAX as u128;

pub(super) const fn hook(hook: Hook) -> HostHook {
    match hook {
        Hook::Authenticator => HostHook::Authenticator,
        Hook::Authorizer => HostHook::Authorizer,
        Hook::Resolver => HostHook::Resolver,
        Hook::RequestPolicy => HostHook::RequestPolicy,
        Hook::ManifestPolicy => HostHook::ManifestPolicy,
    }
}

pub(super) fn broke(error: CallError) -> Broke {
    match error {
        CallError::Trap { kind, backtrace } => Broke::Trap { kind: kind.label(), backtrace },
        CallError::Deadline => Broke::Deadline,
        CallError::Memory | CallError::HostBytes => Broke::Memory,
        CallError::Failure(failure) => Broke::Failure {
            unavailable: failure.kind == wit::FailureKind::Unavailable,
            message: failure.message,
        },
        CallError::Busy => Broke::Busy,
        CallError::Lie(what) => Broke::Lie(what),
    }
}

pub(super) fn context(call: Call<'_>) -> wit::CallContext {
    let Context { request_id, client, identity, notes: _ } = call.context;
    let deadline = call.deadline.as_millis().min(DEADLINE_MS_MAX);
    wit::CallContext {
        request_id: request_id.clone(),
        now: call.now.unix_ms(),
        deadline_ms: u32::try_from(deadline).unwrap_or(u32::MAX),
        client: wit::Client {
            address: client.address.to_string(),
            user_agent: client.user_agent.clone(),
            tls_subject: client.tls_subject.clone(),
        },
        identity: identity.as_deref().map(given_identity),
        attributes: vec![("tls.encrypted".to_owned(), client.encrypted.to_string())],
    }
}

fn given_identity(identity: &Identity) -> wit::Identity {
    wit::Identity {
        subject: identity.subject.clone(),
        issuer: identity.issuer.clone(),
        method: identity.method.clone(),
        groups: identity.groups.clone(),
        claims: identity.claims.clone(),
        expires_at: identity.expires_at.map(Timestamp::unix_ms),
    }
}

pub(super) fn credentials(presented: &Presented) -> Credentials {
    match presented {
        Presented::Anonymous => Credentials::Anonymous,
        Presented::Basic { username, password } => {
            Credentials::Basic((username.clone(), password.expose().to_owned()))
        }
        Presented::Bearer(token) => Credentials::Bearer(token.expose().to_owned()),
        Presented::Certificate { certificate, .. } => {
            Credentials::ClientCertificate(vec![certificate.der.to_vec()])
        }
    }
}

pub(super) fn authenticated(outcome: AuthOutcome) -> Authenticated {
    match outcome {
        AuthOutcome::Abstain => Authenticated::Abstain,
        AuthOutcome::Rejected(message) => Authenticated::Rejected(message),
        AuthOutcome::Authenticated(identity) => Authenticated::Known(Identity {
            subject: identity.subject,
            issuer: identity.issuer,
            method: identity.method,
            groups: identity.groups,
            claims: identity.claims,
            expires_at: identity.expires_at.map(Timestamp::from_unix_ms),
        }),
    }
}

const fn action(action: Action) -> wit::Action {
    match action {
        Action::Pull => wit::Action::Pull,
        Action::Push => wit::Action::Push,
        Action::Delete => wit::Action::Delete,
        Action::ListTags => wit::Action::ListTags,
        Action::Catalog => wit::Action::Catalog,
        Action::Referrers => wit::Action::Referrers,
        Action::Mount => wit::Action::Mount,
        Action::Admin => wit::Action::Admin,
    }
}

const fn granted_action(action: wit::Action) -> Action {
    match action {
        wit::Action::Pull => Action::Pull,
        wit::Action::Push => Action::Push,
        wit::Action::Delete => Action::Delete,
        wit::Action::ListTags => Action::ListTags,
        wit::Action::Catalog => Action::Catalog,
        wit::Action::Referrers => Action::Referrers,
        wit::Action::Mount => Action::Mount,
        wit::Action::Admin => Action::Admin,
    }
}

pub(super) fn scope(wanted: &WantedScope) -> wit::Scope {
    wit::Scope {
        repository: wanted.repository.clone(),
        actions: wanted.actions.iter().copied().map(action).collect(),
    }
}

pub(super) fn granted(scope: wit::Scope) -> WantedScope {
    WantedScope {
        repository: scope.repository,
        actions: scope.actions.into_iter().map(granted_action).collect(),
    }
}

fn place(scope: &Scope, tag: Option<String>, digest: Option<String>) -> wit::Reference {
    wit::Reference {
        upstream: scope.upstream.as_str().to_owned(),
        repository: scope.repo.as_str().to_owned(),
        tag,
        digest,
    }
}

fn by(scope: &Scope, reference: &Reference) -> wit::Reference {
    match reference {
        Reference::Tag(tag) => place(scope, Some(tag.to_string()), None),
        Reference::Digest(digest) => place(scope, None, Some(digest.to_string())),
    }
}

pub(super) fn target(target: &Target) -> wit::Reference {
    match &target.object {
        Object::Manifest(reference) => by(&target.scope, reference),
        Object::Blob(digest) | Object::Referrers(digest) => {
            place(&target.scope, None, Some(digest.to_string()))
        }
        Object::Tags => place(&target.scope, None, None),
    }
}

pub(super) fn proposed(reference: wit::Reference) -> Proposed {
    Proposed {
        upstream: reference.upstream,
        repository: reference.repository,
        tag: reference.tag,
        digest: reference.digest,
    }
}

pub(super) fn request(asked: &Target) -> wit::Request {
    wit::Request {
        action: action(asked.object.action()),
        kind: match asked.object {
            // Who refers to a manifest is asked of the manifest.
            Object::Manifest(_) | Object::Referrers(_) => wit::ObjectKind::Manifest,
            Object::Blob(_) => wit::ObjectKind::Blob,
            Object::Tags => wit::ObjectKind::Tag,
        },
        reference: target(asked),
    }
}

pub(super) const fn stage(stage: Stage) -> wit::Stage {
    match stage {
        Stage::Admit => wit::Stage::Admit,
        Stage::Serve => wit::Stage::Serve,
    }
}

pub(super) fn manifest(manifest: &AdmissionRequest) -> wit::Manifest {
    let digest = manifest.digest.to_string();
    let mut reference = by(&manifest.scope, &manifest.reference);
    reference.digest = Some(digest.clone());
    wit::Manifest {
        reference,
        descriptor: descriptor::of_manifest(
            &manifest.bytes,
            manifest.media_type.as_str().to_owned(),
            digest,
        ),
        raw: manifest.bytes.to_vec(),
        config: manifest.config.bytes().map(|config| config.to_vec()),
    }
}

pub(super) fn said(verdict: wit::Verdict) -> Said {
    let decision = match verdict.decision {
        wit::Decision::Abstain => Decision::Abstain,
        wit::Decision::Allow => Decision::Allow,
        wit::Decision::Deny(denial) => Decision::Deny {
            code: code(denial.code),
            message: denial.message,
            detail: denial.detail,
        },
    };
    let obligation = |obligation| match obligation {
        wit::Obligation::Warn(text) => Obligation::Warn(text),
        wit::Obligation::Audit((key, value)) => Obligation::Audit(key, value),
        wit::Obligation::Count(label) => Obligation::Count(label),
        wit::Obligation::Scan(mount) => Obligation::Scan(mount),
    };
    Said {
        decision,
        obligations: verdict.obligations.into_iter().map(obligation).collect(),
        reuse: verdict.reuse.map(|reuse| Reuse {
            ttl: Duration::from_millis(reuse.ttl_ms.into()),
            on: depends_on(reuse.key),
        }),
    }
}

const fn code(code: wit::ErrorCode) -> ErrorCode {
    match code {
        wit::ErrorCode::Denied => ErrorCode::Denied,
        wit::ErrorCode::Unauthorized => ErrorCode::Unauthorized,
        wit::ErrorCode::NameUnknown => ErrorCode::NameUnknown,
        wit::ErrorCode::ManifestUnknown => ErrorCode::ManifestUnknown,
        wit::ErrorCode::BlobUnknown => ErrorCode::BlobUnknown,
        wit::ErrorCode::Toomanyrequests => ErrorCode::TooManyRequests,
        wit::ErrorCode::Unsupported => ErrorCode::Unsupported,
    }
}

fn depends_on(key: wit::DependsOn) -> DependsOn {
    let each = [
        (wit::DependsOn::IDENTITY, DependsOn::IDENTITY),
        (wit::DependsOn::CLIENT_ADDRESS, DependsOn::CLIENT_ADDRESS),
        (wit::DependsOn::REPOSITORY, DependsOn::REPOSITORY),
        (wit::DependsOn::TAG, DependsOn::TAG),
        (wit::DependsOn::DIGEST, DependsOn::DIGEST),
        (wit::DependsOn::ACTION, DependsOn::ACTION),
        (wit::DependsOn::TIME, DependsOn::TIME),
        (wit::DependsOn::FACTS, DependsOn::FACTS),
    ];
    let said = each.into_iter().filter(|(theirs, _)| key.contains(*theirs));
    said.fold(DependsOn::NOTHING, |set, (_, ours)| set.and(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_of_a_verdict_has_its_own_flag() {
        let all = depends_on(wit::DependsOn::all());
        let mut seen = Vec::new();
        for flag in [
            wit::DependsOn::IDENTITY,
            wit::DependsOn::CLIENT_ADDRESS,
            wit::DependsOn::REPOSITORY,
            wit::DependsOn::TAG,
            wit::DependsOn::DIGEST,
            wit::DependsOn::ACTION,
            wit::DependsOn::TIME,
            wit::DependsOn::FACTS,
        ] {
            let ours = depends_on(flag);
            assert!(all.has(ours) && !seen.contains(&ours));
            seen.push(ours);
        }
        assert_eq!(seen.into_iter().fold(DependsOn::NOTHING, DependsOn::and), all);
    }

    #[test]
    fn a_manifest_is_shown_with_what_it_says_of_itself() {
        let bytes = br#"{"artifactType": "a/b", "annotations": {"x": "y"}}"#;
        let shown = manifest(&AdmissionRequest {
            scope: Scope {
                upstream: "docker.io".parse().unwrap(),
                repo: "library/debian".parse().unwrap(),
            },
            reference: Reference::Tag("12".parse().unwrap()),
            digest: crate::oci::Digest::sha256(bytes),
            media_type: "application/vnd.oci.image.manifest.v1+json".parse().unwrap(),
            bytes: bytes.as_slice().into(),
            config: crate::hooks::ImageConfig::Unnamed,
        });
        assert_eq!(shown.descriptor.artifact_type.as_deref(), Some("a/b"));
        assert_eq!(shown.descriptor.annotations, [("x".to_owned(), "y".to_owned())]);
        assert_eq!(shown.reference.digest, Some(shown.descriptor.digest));
    }

    #[test]
    fn hooks_and_actions_have_the_same_names() {
        for ours in Hook::ALL {
            assert_eq!(hook(ours).name(), ours.as_str());
        }
        for ours in Action::ALL {
            assert_eq!(granted_action(action(ours)), ours);
        }
    }
}
