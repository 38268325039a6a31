//! Guests written by hand, and a world around them that remembers what it was asked.

#![allow(dead_code, unreachable_pub, reason = "the benchmark uses a part of it")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{self, BoxFuture};
use pierhead_plugin_host::wit::{
    Action, CallContext, Client, ContentError, Descriptor, Fact, HttpError, HttpRequest,
    HttpResponse, Identity, Level, ObjectKind, Reference, Request, Verdict,
};
use pierhead_plugin_host::{
    Blob, Called, Content, Facts, Grants, Hook, Host, HostOptions, HttpClient, HttpTerms, Limits,
    LoadError, LogLine, LogSink, MountSpec, Outside, Plugin,
};
use wit_component::StringEncoding;
use wit_parser::Resolve;

/// What answers `http.send`.
type Answer =
    dyn Fn(HttpRequest) -> BoxFuture<'static, Result<HttpResponse, HttpError>> + Send + Sync;

/// A line of the log: its level, its message, its fields.
type Line = (Level, String, Vec<(String, String)>);

/// The world around the guests.
pub struct World {
    pub lines: Mutex<Vec<Line>>,
    pub facts: Mutex<Vec<Fact>>,
    pub sent: Mutex<Vec<(HttpRequest, HttpTerms)>>,
    pub answer: Mutex<Arc<Answer>>,
    pub opened: AtomicU64,
    pub now: AtomicU64,
}

impl World {
    pub fn new() -> Arc<Self> {
        let answer: Arc<Answer> = Arc::new(|_| {
            let answer = HttpResponse { status: 200, headers: vec![], body: b"hello".to_vec() };
            future::ready(Ok(answer)).boxed()
        });
        Arc::new(Self {
            lines: Mutex::default(),
            facts: Mutex::default(),
            sent: Mutex::default(),
            answer: Mutex::new(answer),
            opened: AtomicU64::new(0),
            now: AtomicU64::new(1_000_000),
        })
    }

    pub fn outside(self: &Arc<Self>) -> Outside {
        let world = Arc::clone(self);
        Outside {
            log: Arc::clone(self) as Arc<dyn LogSink>,
            facts: Arc::clone(self) as Arc<dyn Facts>,
            content: Arc::clone(self) as Arc<dyn Content>,
            http: Arc::clone(self) as Arc<dyn HttpClient>,
            clock: Arc::new(move || world.now.load(SeqCst)),
        }
    }

    pub fn host(self: &Arc<Self>) -> Host {
        Host::new(self.options()).expect("the host starts")
    }

    pub fn options(self: &Arc<Self>) -> HostOptions {
        HostOptions { instances_max: 8, ..HostOptions::new(self.outside()) }
    }

    pub fn messages(&self) -> Vec<String> {
        self.lines.lock().expect("whole").iter().map(|(_, message, _)| message.clone()).collect()
    }
}

impl LogSink for World {
    fn enabled(&self, mount: &str, level: Level) -> bool {
        assert_ne!(mount, "panics", "a sink with a mistake");
        level != Level::Trace
    }

    fn write(&self, line: LogLine<'_>) {
        let line = (line.level, line.message.to_owned(), line.fields.to_vec());
        self.lines.lock().expect("whole").push(line);
    }
}

impl Facts for World {
    fn about(&self, subject: &str, name: Option<&str>) -> Vec<Fact> {
        let facts = self.facts.lock().expect("whole");
        let about = |fact: &&Fact| name.is_none_or(|name| fact.name == name) && !subject.is_empty();
        facts.iter().filter(about).cloned().collect()
    }

    fn state(
        &self,
        source: &str,
        _subject: &str,
        name: &str,
        json: &str,
        _ttl: Option<Duration>,
    ) -> Result<(), String> {
        let (source, name, json) = (source.to_owned(), name.to_owned(), json.to_owned());
        self.facts.lock().expect("whole").push(Fact { source, name, json, at: 0 });
        Ok(())
    }
}

/// What stands in the one blob of this world.
pub const BLOB: &[u8] = b"0123456789";

struct OneBlob;

impl Blob for OneBlob {
    fn descriptor(&self) -> Descriptor {
        descriptor()
    }

    fn read(&self, offset: u64, _max: u32) -> BoxFuture<'_, Result<Bytes, ContentError>> {
        // More than was asked for: the host has to cut it.
        let rest = BLOB.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        future::ready(Ok(Bytes::from_static(rest))).boxed()
    }
}

pub fn descriptor() -> Descriptor {
    Descriptor {
        media_type: "application/octet-stream".to_owned(),
        digest: format!("sha256:{}", "0".repeat(64)),
        size: BLOB.len() as u64,
        artifact_type: None,
        platform: None,
        annotations: vec![],
    }
}

impl Content for World {
    fn manifest<'a>(
        &'a self,
        _mount: &'a str,
        _reference: &'a Reference,
    ) -> BoxFuture<'a, Result<(Descriptor, Bytes), ContentError>> {
        future::ready(Ok((descriptor(), Bytes::from_static(b"{}")))).boxed()
    }

    fn open<'a>(
        &'a self,
        _mount: &'a str,
        _reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Arc<dyn Blob>, ContentError>> {
        self.opened.fetch_add(1, SeqCst);
        future::ready(Ok(Arc::new(OneBlob) as Arc<dyn Blob>)).boxed()
    }

    fn referrers<'a>(
        &'a self,
        _mount: &'a str,
        _reference: &'a Reference,
        _artifact_type: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Descriptor>, ContentError>> {
        future::ready(Ok(vec![])).boxed()
    }
}

impl HttpClient for World {
    fn send(
        &self,
        request: HttpRequest,
        terms: HttpTerms,
    ) -> BoxFuture<'_, Result<HttpResponse, HttpError>> {
        let answer = Arc::clone(&*self.answer.lock().expect("whole"));
        self.sent.lock().expect("whole").push((request.clone(), terms));
        answer(request)
    }
}

/// A mount with what is usual for a request policy, and a little more time: other tests run.
pub fn mount(name: &str) -> MountSpec {
    MountSpec {
        name: name.to_owned(),
        config: serde_json::json!({ "blocked_tags": ["latest"] }),
        secrets: BTreeMap::new(),
        grants: Grants::default(),
        limits: Limits {
            deadline: Duration::from_millis(20),
            ..Limits::for_hook(Hook::RequestPolicy)
        },
    }
}

/// Grants as they stand in the configuration.
pub fn grants(json: serde_json::Value) -> Grants {
    serde_json::from_value(json).expect("grants")
}

/// Grants of everything.
pub fn all_grants() -> Grants {
    grants(serde_json::json!({
        "http": { "allow": ["https://api.example"], "methods": ["GET"] },
        "kv": { "buckets": ["b"], "quota": "64KiB" },
        "content": { "read": ["manifest", "blob"] },
        "facts": { "write": true },
        "secrets": ["token"],
    }))
}

pub fn context() -> CallContext {
    CallContext {
        request_id: "request-1".to_owned(),
        now: 1_000_000,
        deadline_ms: 5,
        client: Client {
            address: "192.0.2.1".to_owned(),
            user_agent: Some("docker/28.0".to_owned()),
            tls_subject: None,
        },
        identity: Some(Identity {
            subject: "repo:team/app:ref:refs/heads/main".to_owned(),
            issuer: "https://token.actions.example".to_owned(),
            method: "bearer".to_owned(),
            groups: vec!["ci".to_owned()],
            claims: vec![("repository".to_owned(), "team/app".to_owned())],
            expires_at: None,
        }),
        attributes: vec![],
    }
}

pub fn reference() -> Reference {
    Reference {
        upstream: "docker.io".to_owned(),
        repository: "library/debian".to_owned(),
        tag: Some("latest".to_owned()),
        digest: None,
    }
}

pub fn request() -> Request {
    Request { action: Action::Pull, kind: ObjectKind::Manifest, reference: reference() }
}

/// Asks the request policy of a plugin.
pub async fn ask(plugin: &Plugin) -> Called<Verdict> {
    plugin.evaluate_request(&context(), &request()).await
}

/// Loads a guest and asks its request policy once.
pub async fn once(world: &Arc<World>, wasm: Bytes, spec: MountSpec) -> Called<Verdict> {
    let host = world.host();
    ask(&load(&host, wasm, spec).await.expect("it loads")).await
}

pub async fn load(host: &Host, wasm: Bytes, spec: MountSpec) -> Result<Plugin, LoadError> {
    host.load(wasm, spec).await
}

/// A guest: which of our interfaces it has, and what it does.
#[derive(Clone, Default)]
pub struct Guest {
    /// Interfaces to import.
    pub imports: Vec<&'static str>,
    /// Interfaces to export.
    pub exports: Vec<&'static str>,
    /// Imports and functions, as text.
    pub head: String,
    pub body: String,
    /// Pages of memory at the start.
    pub pages: u32,
}

/// The name of the request policy's function.
pub const EVALUATE: &str = "pierhead:plugin/request-policy@0.1.0#evaluate";

/// The name of the function that reads the settings.
pub const CONFIGURE: &str = "pierhead:plugin/lifecycle@0.1.0#configure";

impl Guest {
    /// A request policy whose function has this body. It has to leave an address of 52 bytes that
    /// hold the answer; 1024 has zeros, which mean `abstain`.
    pub fn policy(body: &str) -> Self {
        let body = format!(
            "(func $evaluate (export \"{EVALUATE}\") (param $args i32) (result i32) (local $i i32) {body})"
        );
        Self { exports: vec!["request-policy"], body, pages: 2, ..Self::default() }
    }

    /// Adds a function that reads the settings, with this body; 2048 has zeros, which mean `ok`.
    pub fn configured(mut self, body: &str) -> Self {
        self.exports.push("lifecycle");
        self.body.push_str(&format!(
            "(func (export \"{CONFIGURE}\") (param $json i32) (param $length i32) (result i32) {body})"
        ));
        self
    }

    /// Adds an imported function.
    pub fn import(mut self, interface: &'static str, function: &str, as_: &str) -> Self {
        if !self.imports.contains(&interface) {
            self.imports.push(interface);
        }
        let line = format!("(import \"pierhead:plugin/{interface}@0.1.0\" \"{function}\" {as_})");
        self.head.push_str(&line);
        self
    }

    /// Adds text: data, globals, functions.
    pub fn with(mut self, text: &str) -> Self {
        self.body.push_str(text);
        self
    }

    /// The core module, with the description that a compiler leaves in it.
    pub fn module(&self) -> Bytes {
        let Self { imports, exports, head, body, pages } = self;
        let text = format!(
            r#"(module {head}
                (memory (export "memory") {pages})
                (global $next (mut i32) (i32.const 65536))
                (func $realloc (export "cabi_realloc")
                    (param $old i32) (param $old_size i32) (param $align i32) (param $size i32)
                    (result i32) (local $at i32)
                    (local.set $at (i32.and
                        (i32.add (global.get $next) (i32.sub (local.get $align) (i32.const 1)))
                        (i32.sub (i32.const 0) (local.get $align))))
                    (global.set $next (i32.add (local.get $at) (local.get $size)))
                    (loop $grow
                        (if (i32.gt_u (global.get $next) (i32.mul (memory.size) (i32.const 65536)))
                            (then (drop (memory.grow (i32.const 1))) (br $grow))))
                    (local.get $at))
                {body})"#
        );
        let mut wasm = wat::parse_str(text).expect("a guest is written well");
        let mut resolve = Resolve::default();
        let wit = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit");
        resolve.push_dir(wit).expect("the interfaces are written well");
        let mut world = "package test:guest; world guest {".to_owned();
        for name in imports {
            world.push_str(&format!("import pierhead:plugin/{name}@0.1.0;"));
        }
        for name in exports {
            world.push_str(&format!("export pierhead:plugin/{name}@0.1.0;"));
        }
        world.push('}');
        let package = resolve.push_str("guest.wit", &world).expect("a world");
        let world = resolve.select_world(&[package], Some("guest")).expect("the world");
        wit_component::embed_component_metadata(&mut wasm, &resolve, world, StringEncoding::UTF8)
            .expect("described");
        wasm.into()
    }

    /// The component that the host would make of it.
    pub fn component(&self) -> Bytes {
        wit_component::ComponentEncoder::default()
            .module(&self.module())
            .and_then(|mut encoder| encoder.encode())
            .expect("a component")
            .into()
    }
}

/// Answers `abstain`.
pub const ABSTAIN: &str = "(i32.const 1024)";

/// Text that has the answer at 1024 be a denial, whose message stands at `at`.
pub fn denial(at: u32, length: u32) -> String {
    format!(
        "(i32.store8 (i32.const 1028) (i32.const 2))
         (i32.store (i32.const 1036) (i32.const {at}))
         (i32.store (i32.const 1040) (i32.const {length}))
         (i32.const 1024)"
    )
}
