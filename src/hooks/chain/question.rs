//! What a policy is asked, and the inputs of it that a verdict can depend on.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::guest::{Call, Called, Guest, Hook, Said, Stage};
use crate::hooks::{Action, AdmissionRequest, Context, Identity, ImageConfig, Object, Target};
use crate::oci::{Digest, MediaType, Reference, Tag};
use crate::scope::Scope;

/// A question to policies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question<'a> {
    /// Is this request acceptable?
    Request(&'a Target),
    /// Is this manifest acceptable?
    Manifest(Stage, &'a AdmissionRequest),
}

/// The same question for later.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    Request(Target),
    Manifest(Stage, AdmissionRequest),
}

/// What kind of thing a question is about: a part of [`super::guest::DependsOn::ACTION`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Manifest,
    Blob,
    Tags,
    Referrers,
    Admit,
    Serve,
}

impl<'a> Question<'a> {
    pub(super) const fn hook(self) -> Hook {
        match self {
            Self::Request(_) => Hook::RequestPolicy,
            Self::Manifest(..) => Hook::ManifestPolicy,
        }
    }

    pub(super) const fn scope(self) -> &'a Scope {
        match self {
            Self::Request(target) => &target.scope,
            Self::Manifest(_, manifest) => &manifest.scope,
        }
    }

    pub(super) const fn action(self) -> Action {
        match self {
            Self::Request(target) => target.object.action(),
            Self::Manifest(..) => Action::Pull,
        }
    }

    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::Request(target) => match target.object {
                Object::Manifest(_) => Kind::Manifest,
                Object::Blob(_) => Kind::Blob,
                Object::Tags => Kind::Tags,
                Object::Referrers(_) => Kind::Referrers,
            },
            Self::Manifest(Stage::Admit, _) => Kind::Admit,
            Self::Manifest(Stage::Serve, _) => Kind::Serve,
        }
    }

    pub(super) const fn tag(self) -> Option<&'a Tag> {
        match self {
            Self::Request(Target { object: Object::Manifest(Reference::Tag(tag)), .. })
            | Self::Manifest(_, AdmissionRequest { reference: Reference::Tag(tag), .. }) => {
                Some(tag)
            }
            Self::Request(_) | Self::Manifest(..) => None,
        }
    }

    pub(super) const fn digest(self) -> Option<&'a Digest> {
        match self {
            Self::Request(target) => digest_of(&target.object),
            Self::Manifest(_, manifest) => Some(&manifest.digest),
        }
    }

    pub(super) const fn media_type(self) -> Option<&'a MediaType> {
        match self {
            Self::Request(_) => None,
            Self::Manifest(_, manifest) => Some(&manifest.media_type),
        }
    }

    /// Whether everything is there that the answer follows from: if not, a verdict must not answer
    /// for later questions, which look the same and are not.
    pub(super) fn is_complete(self) -> bool {
        match self {
            Self::Request(_) => true,
            Self::Manifest(_, manifest) => manifest.config != ImageConfig::Unknown,
        }
    }

    pub(super) fn ask<'q>(self, guest: &'q dyn Guest, call: Call<'q>) -> BoxFuture<'q, Called<Said>>
    where
        'a: 'q,
    {
        match self {
            Self::Request(target) => guest.request(call, target),
            Self::Manifest(stage, manifest) => guest.manifest(call, stage, manifest),
        }
    }

    pub(super) fn keep(self) -> Kept {
        match self {
            Self::Request(target) => Kept::Request(target.clone()),
            Self::Manifest(stage, manifest) => Kept::Manifest(stage, manifest.clone()),
        }
    }
}

impl Kept {
    pub(super) const fn question(&self) -> Question<'_> {
        match self {
            Self::Request(target) => Question::Request(target),
            Self::Manifest(stage, manifest) => Question::Manifest(*stage, manifest),
        }
    }
}

/// The digest that an object is named by, if it is.
pub(super) const fn digest_of(object: &Object) -> Option<&Digest> {
    match object {
        Object::Manifest(Reference::Digest(digest))
        | Object::Blob(digest)
        | Object::Referrers(digest) => Some(digest),
        Object::Manifest(Reference::Tag(_)) | Object::Tags => None,
    }
}

/// Everything that a verdict can say it depended on, by reference.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs<'a> {
    pub(super) identity: Option<&'a Arc<Identity>>,
    pub(super) tls_subject: Option<&'a str>,
    pub(super) address: IpAddr,
    pub(super) encrypted: bool,
    pub(super) user_agent: Option<&'a str>,
    pub(super) scope: &'a Scope,
    pub(super) tag: Option<&'a Tag>,
    pub(super) digest: Option<&'a Digest>,
    pub(super) action: Action,
    pub(super) kind: Kind,
}

impl<'a> Inputs<'a> {
    pub(super) fn of(context: &'a Context, question: Question<'a>) -> Self {
        Self {
            identity: context.identity.as_ref(),
            tls_subject: context.client.tls_subject.as_deref(),
            address: context.client.address,
            encrypted: context.client.encrypted,
            user_agent: context.client.user_agent.as_deref(),
            scope: question.scope(),
            tag: question.tag(),
            digest: question.digest(),
            action: question.action(),
            kind: question.kind(),
        }
    }
}
