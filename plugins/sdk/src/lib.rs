//! Write plugins for Pierhead in Rust.
//!
//! A plugin is a type that is made of the mount's settings, once, and then answers calls. Which
//! calls, it says by implementing traits: a [`RequestPolicy`] decides about requests, a
//! [`ManifestPolicy`] about images, an [`Authenticator`] says who somebody is, an [`Authorizer`]
//! what they may do, a [`Resolver`] what a name means, an [`UpstreamCredentials`] which password an
//! upstream wants, and an [`Observer`] is told what happened.
//!
//! ```
//! use std::time::Duration;
//!
//! use pierhead_plugin::{
//!     CallContext, DependsOn, Failure, Plugin, Request, RequestPolicy, Verdict,
//! };
//! use serde::Deserialize;
//!
//! /// The mount's `config`.
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     #[serde(default)]
//!     blocked_tags: Vec<String>,
//! }
//!
//! struct Policy {
//!     blocked_tags: Vec<String>,
//! }
//!
//! impl Plugin for Policy {
//!     type Settings = Settings;
//!
//!     fn configure(settings: Settings) -> Result<Self, Failure> {
//!         Ok(Self { blocked_tags: settings.blocked_tags })
//!     }
//! }
//!
//! impl RequestPolicy for Policy {
//!     fn evaluate_request(&self, _: &CallContext, request: &Request) -> Result<Verdict, Failure> {
//!         let blocked = request.reference.tag.as_ref().filter(|tag| self.blocked_tags.contains(tag));
//!         let verdict = match blocked {
//!             Some(tag) => Verdict::deny(format!("the tag {tag} is not for use here: name a version")),
//!             None => Verdict::abstain(),
//!         };
//!         // It depended on the tag alone, so Pierhead need not ask again for a minute.
//!         Ok(verdict.reuse(Duration::from_secs(60), DependsOn::TAG))
//!     }
//! }
//!
//! pierhead_plugin::plugin!(Policy: RequestPolicy);
//! ```
//!
//! # How it runs
//! Pierhead calls [`Plugin::configure`] once, when it loads the plugin, and takes a snapshot of the
//! memory afterwards. Each call begins from this snapshot, in an instance of its own, and what it
//! changes is gone with it: parse and build tables in `configure`, and keep what has to stay in
//! [`kv`]. A panic ends one call and harms no other; its message stands in the log.
//!
//! # What it may do
//! [`log`], [`crypto`] and [`facts`] are there for every plugin. [`http`], [`kv`], [`content`] and
//! secrets need a grant of the mount, and a plugin needs the grants for exactly those that it uses:
//! what is not called is not imported. There are no files, sockets, clocks or threads; the time of
//! a call is [`CallContext::now`].
//!
//! # Tests
//! Compiled for the machine itself, as `cargo test` does, all of this works against a registry that
//! is played by [`testing`].

pub mod bindings;
pub mod content;
pub mod crypto;
pub mod document;
pub mod export;
pub mod facts;
mod failure;
pub mod glob;
mod hooks;
pub mod http;
pub mod kv;
pub mod log;
pub mod metadata;
pub mod settings;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
pub mod units;
mod verdict;

pub use bindings::authenticator::exports::pierhead::plugin::authenticator::{
    Credentials, Outcome as AuthOutcome,
};
pub use bindings::authorizer::exports::pierhead::plugin::authorizer::Scope;
pub use bindings::imports::pierhead::plugin::types::{
    Action, CallContext, Client, Descriptor, Failure, FailureKind, Identity, ObjectKind, Platform,
    Reference,
};
pub use bindings::imports::pierhead::plugin::verdicts::{
    Decision, Denial, DependsOn, ErrorCode, Obligation, Reuse, Verdict,
};
pub use bindings::manifest_policy::exports::pierhead::plugin::manifest_policy::{Manifest, Stage};
pub use bindings::observer::exports::pierhead::plugin::observer::{
    Access, Event, Outcome as AccessOutcome, What,
};
pub use bindings::request_policy::exports::pierhead::plugin::request_policy::Request;
pub use bindings::upstream_credentials::exports::pierhead::plugin::upstream_credentials::{
    Credential, Secret,
};
pub use hooks::{
    Authenticator, Authorizer, ManifestPolicy, Observer, Plugin, RequestPolicy, Resolver,
    UpstreamCredentials,
};
pub use settings::NoSettings;

// Where the functions of the host come from: from Pierhead, or from the registry that tests play.
#[cfg(target_arch = "wasm32")]
use bindings::imports::pierhead::plugin as host;
#[cfg(not(target_arch = "wasm32"))]
use testing::functions as host;
