//! A registry that is played, for the tests of a plugin: `cargo test` needs neither WebAssembly
//! nor a server.
//!
//! ```
//! use pierhead_plugin::testing::{self, Host};
//! use pierhead_plugin::{CallContext, Failure, NoSettings, Plugin, Request, RequestPolicy, Verdict};
//! # use pierhead_plugin::http;
//!
//! struct Policy;
//!
//! impl Plugin for Policy {
//!     type Settings = NoSettings;
//!     fn configure(_: NoSettings) -> Result<Self, Failure> {
//!         Ok(Self)
//!     }
//! }
//!
//! impl RequestPolicy for Policy {
//!     fn evaluate_request(&self, _: &CallContext, _: &Request) -> Result<Verdict, Failure> {
//!         let open = http::get("https://example.com/open")?.is_success();
//!         Ok(if open { Verdict::abstain() } else { Verdict::deny("closed") })
//!     }
//! }
//!
//! let host = Host::new().answer("GET", "https://example.com/open", 404, "");
//! let policy: Policy = testing::configure("{}").expect("the settings are right");
//! let request = testing::pull("docker.io/library/debian:12");
//! let verdict = policy.evaluate_request(&testing::context(), &request).expect("it decides");
//! assert_eq!(verdict.message(), Some("closed"));
//! assert_eq!(host.requests().len(), 1);
//! ```

mod case;
pub mod functions;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

pub use case::{
    Answer, Call, CallError, Callable, Case, authenticate, authorize, check, evaluate_manifest,
    evaluate_request, examples, fetch, resolve,
};

use crate::facts::Fact;
use crate::http::{HttpError, Response};
use crate::log::Level;
use crate::{
    Action, CallContext, Client, Descriptor, Failure, Identity, Manifest, ObjectKind, Plugin,
    Reference, Request,
};

/// The time of a call, if a test says nothing: 2026-01-01T00:00:00Z.
pub const NOW: u64 = 1_767_225_600_000;

/// What is known of a digest in a test.
#[derive(Clone, Debug)]
struct Known {
    /// Of any digest, if there is none.
    subject: Option<String>,
    fact: Fact,
}

/// A value in a bucket, and when it ends.
#[derive(Clone, Debug)]
struct Kept {
    value: Vec<u8>,
    ends: Option<u64>,
}

/// All that the registry is.
#[derive(Debug)]
struct State {
    now: u64,
    /// It reads its settings: what it does now may depend on them alone.
    configuring: bool,
    settings: String,
    secrets: BTreeMap<String, String>,
    facts: Vec<Known>,
    kept: BTreeMap<(String, String), Kept>,
    answers: Vec<(String, String, Result<Response, HttpError>)>,
    requests: Vec<crate::http::Request>,
    logs: Vec<(Level, String)>,
    content: BTreeMap<String, (Descriptor, Vec<u8>)>,
    referrers: Vec<(String, Descriptor)>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            now: NOW,
            configuring: false,
            settings: "{}".to_owned(),
            secrets: BTreeMap::new(),
            facts: Vec::new(),
            kept: BTreeMap::new(),
            answers: Vec::new(),
            requests: Vec::new(),
            logs: Vec::new(),
            content: BTreeMap::new(),
            referrers: Vec::new(),
        }
    }
}

thread_local! {
    /// The registry that the functions of the host reach.
    static STATE: RefCell<State> = RefCell::default();
}

fn with<T>(read: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(read)
}

/// The registry of this thread. It is forgotten when this is dropped.
#[derive(Debug)]
pub struct Host {
    /// Every test has a thread, and a host stays on it.
    _not_send: Rc<()>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        with(|state| *state = State::default());
    }
}

impl Host {
    /// A registry that knows nothing and answers nothing.
    #[must_use]
    pub fn new() -> Self {
        with(|state| *state = State::default());
        Self { _not_send: Rc::new(()) }
    }

    /// Sets the time, in milliseconds since 1970. [`context`] tells it, and values end by it.
    #[must_use]
    pub fn at(self, now: u64) -> Self {
        self.set_now(now);
        self
    }

    /// Sets the time, in milliseconds since 1970.
    pub fn set_now(&self, now: u64) {
        with(|state| state.now = now);
    }

    /// Grants a secret.
    #[must_use]
    pub fn secret(self, name: &str, value: &str) -> Self {
        with(|state| state.secrets.insert(name.to_owned(), value.to_owned()));
        self
    }

    /// Knows something of a digest.
    #[must_use]
    pub fn fact(self, digest: &str, source: &str, name: &str, json: &str) -> Self {
        let fact = Fact {
            source: source.to_owned(),
            name: name.to_owned(),
            json: json.to_owned(),
            at: NOW,
        };
        with(|state| state.facts.push(Known { subject: Some(digest.to_owned()), fact }));
        self
    }

    /// Answers a request like this from now on. The latest answer to a method and an URL counts;
    /// what has no answer is not granted.
    #[must_use]
    pub fn answer(self, method: &str, url: &str, status: u16, body: impl Into<Vec<u8>>) -> Self {
        self.set_answer(method, url, Ok(Response { status, headers: vec![], body: body.into() }));
        self
    }

    /// Answers a request like this from now on, or fails it.
    pub fn set_answer(&self, method: &str, url: &str, answer: Result<Response, HttpError>) {
        with(|state| state.answers.push((method.to_owned(), url.to_owned(), answer)));
    }

    /// Has a manifest or a blob, under its digest and, if there is one, under this tag.
    #[must_use]
    pub fn content(self, name: &str, descriptor: Descriptor, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        let named = reference(name);
        let by_digest =
            Reference { tag: None, digest: Some(descriptor.digest.clone()), ..named.clone() };
        with(|state| {
            for reference in [named, by_digest] {
                let entry = (descriptor.clone(), bytes.clone());
                state.content.insert(functions::content::key(&reference), entry);
            }
        });
        self
    }

    /// Has something that refers to a manifest.
    #[must_use]
    pub fn referrer(self, subject: &str, descriptor: Descriptor) -> Self {
        with(|state| state.referrers.push((subject.to_owned(), descriptor)));
        self
    }

    /// The requests that were made.
    #[must_use]
    pub fn requests(&self) -> Vec<crate::http::Request> {
        with(|state| state.requests.clone())
    }

    /// The lines that were logged.
    #[must_use]
    pub fn logs(&self) -> Vec<(Level, String)> {
        with(|state| state.logs.clone())
    }

    /// What is known of digests now: what the plugin has stated has the source `self`.
    #[must_use]
    pub fn facts(&self) -> Vec<Fact> {
        with(|state| state.facts.iter().map(|known| known.fact.clone()).collect())
    }
}

/// Makes a plugin of settings, as Pierhead does: meanwhile there are no secrets and no facts, and
/// `kv`, `http` and `content` refuse.
///
/// # Errors
/// When the settings are wrong.
pub fn configure<P: Plugin>(json: &str) -> Result<P, Failure> {
    with(|state| state.settings = json.to_owned());
    let settings = crate::settings::parse(json)?;
    with(|state| state.configuring = true);
    let made = P::configure(settings);
    with(|state| state.configuring = false);
    made
}

/// A call by nobody in particular, at the host's time.
#[must_use]
pub fn context() -> CallContext {
    CallContext {
        request_id: "test".to_owned(),
        now: with(|state| state.now),
        deadline_ms: 1_000,
        client: Client { address: "192.0.2.1".to_owned(), user_agent: None, tls_subject: None },
        identity: None,
        attributes: Vec::new(),
    }
}

/// A call by somebody of these groups.
#[must_use]
pub fn context_of(subject: &str, groups: &[&str]) -> CallContext {
    let identity = Identity {
        subject: subject.to_owned(),
        issuer: "test".to_owned(),
        method: "basic".to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        claims: Vec::new(),
        expires_at: None,
    };
    CallContext { identity: Some(identity), ..context() }
}

/// A name such as `docker.io/library/debian:12` or `ghcr.io/owner/image@sha256:…`: what stands
/// before the first slash is the upstream.
#[must_use]
pub fn reference(name: &str) -> Reference {
    let (name, digest) = match name.split_once('@') {
        Some((name, digest)) => (name, Some(digest.to_owned())),
        None => (name, None),
    };
    let (upstream, rest) = name.split_once('/').unwrap_or(("", name));
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag.to_owned())),
        None => (rest, None),
    };
    Reference { upstream: upstream.to_owned(), repository: repository.to_owned(), tag, digest }
}

/// A request for the manifest of a name.
#[must_use]
pub fn pull(name: &str) -> Request {
    Request { action: Action::Pull, kind: ObjectKind::Manifest, reference: reference(name) }
}

/// A manifest under a name, with the image's configuration, both as JSON. Its digest is the one
/// that the name says, or zeros.
#[must_use]
pub fn manifest(name: &str, json: &str, config: Option<&str>) -> Manifest {
    let mut reference = reference(name);
    let digest = reference.digest.get_or_insert_with(|| format!("sha256:{}", "0".repeat(64)));
    let stated: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let media_type = stated["mediaType"].as_str();
    let descriptor = Descriptor {
        media_type: media_type.unwrap_or("application/vnd.oci.image.manifest.v1+json").to_owned(),
        digest: digest.clone(),
        size: json.len() as u64,
        artifact_type: stated["artifactType"].as_str().map(str::to_owned),
        platform: None,
        annotations: Vec::new(),
    };
    let config = config.map(|config| config.as_bytes().to_owned());
    Manifest { reference, descriptor, raw: json.as_bytes().to_owned(), config }
}

#[cfg(test)]
mod tests;
