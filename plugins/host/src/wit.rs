//! The types of the WIT package `pierhead:plugin@0.1`, as wasmtime's generator writes them.
//!
//! Their documentation is in `wit/`; field and case names are the same, in Rust's spelling.

#[expect(missing_docs, reason = "the generator's; what it means is written in wit/")]
mod generated {
    wasmtime::component::bindgen!({
        path: "../../wit",
        world: "everything",
        imports: {
            // These two wait for somebody; a plugin that imports neither needs no stack of its own.
            "pierhead:plugin/http": async | trappable,
            "pierhead:plugin/content": async | trappable,
            default: trappable,
        },
        with: {
            "pierhead:plugin/content.blob": crate::outside::OpenBlob,
        },
        additional_derives: [PartialEq],
    });
}

pub(crate) use generated::pierhead::plugin as imports;

pub use generated::exports::pierhead::plugin::authenticator::{
    Credentials, Outcome as AuthOutcome,
};
pub use generated::exports::pierhead::plugin::authorizer::Scope;
pub use generated::exports::pierhead::plugin::manifest_policy::{Manifest, Stage};
pub use generated::exports::pierhead::plugin::observer::{
    Access, Event, Outcome as AccessOutcome, What,
};
pub use generated::exports::pierhead::plugin::request_policy::Request;
pub use generated::exports::pierhead::plugin::upstream_credentials::{Credential, Secret};
pub use generated::pierhead::plugin::content::ContentError;
pub use generated::pierhead::plugin::facts::Fact;
pub use generated::pierhead::plugin::http::{
    HttpError, Request as HttpRequest, Response as HttpResponse,
};
pub use generated::pierhead::plugin::log::Level;
pub use generated::pierhead::plugin::types::{
    Action, Attributes, CallContext, Client, Descriptor, Digest, Failure, FailureKind, Identity,
    ObjectKind, Platform, Reference, UnixMs,
};
pub use generated::pierhead::plugin::verdicts::{
    Decision, Denial, DependsOn, ErrorCode, Obligation, Reuse, Verdict,
};
