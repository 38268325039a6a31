//! Mounting, replacing and losing plugins, with a real one: the guest that holds the host to its
//! released interface.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use prometheus::Registry;

use super::settings::{MountPlan, PluginSettings};
use super::source::Source;
use super::{Plugins, PluginsParts};
use crate::background::{Tasks, Workers};
use crate::clock::{Clock, Timestamp};
use crate::hooks::chain::{
    Chained, ChainedParts, Hook, MatchSettings, Mode, MountSettings, MountView, OnError,
    PluginMetrics,
};
use crate::hooks::facts::Facts;
use crate::hooks::wasm::{Content, ContentFailure, Described, Grants, OpenBlob, Refers};
use crate::hooks::{
    AdmissionRequest, Anonymous, Client, Context, Hooks as _, Object, Target, Verdict,
};
use crate::net::OwnAddresses;
use crate::oci::{Digest, Reference};
use crate::scope::Scope;

/// No content at all.
struct Nothing;

#[async_trait]
impl Content for Nothing {
    async fn manifest(&self, _: &Scope, _: &Reference) -> Result<Described, ContentFailure> {
        Err(ContentFailure::NotFound)
    }

    async fn open(&self, _: &Scope, _: &Digest) -> Result<Arc<dyn OpenBlob>, ContentFailure> {
        Err(ContentFailure::NotFound)
    }

    async fn referrers(
        &self,
        _: &Scope,
        _: &Digest,
        _: Option<&str>,
    ) -> Result<Refers, ContentFailure> {
        Err(ContentFailure::NotFound)
    }
}

/// A process's plugins, and what is around them.
struct World {
    dir: tempfile::TempDir,
    chained: Chained,
    plugins: Plugins,
    tasks: Tasks,
}

/// The released guest with another digest: a custom section more, which means nothing.
fn guest(number: u8) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/host/tests/frozen/0.1.0.wasm");
    let mut wasm = fs::read(path).unwrap();
    wasm.extend([0, 3, 1, b'v', number]);
    wasm
}

impl World {
    fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap())
    }

    /// With the storage of an earlier process.
    fn on(dir: tempfile::TempDir) -> Self {
        let registry = Registry::new();
        let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000));
        let (metrics, facts) = (PluginMetrics::new(&registry).unwrap(), Facts::new(clock.clone()));
        let tasks = Tasks::new(&registry).unwrap();
        let chained = Chained::new(ChainedParts {
            clock: clock.clone(),
            metrics: metrics.clone(),
            facts: facts.clone(),
            tasks: tasks.clone(),
            decisions_max: 100,
        });
        let plugins = Plugins::new(PluginsParts {
            chained: chained.clone(),
            metrics,
            facts,
            content: Arc::new(Nothing),
            bundled: |name| Err(format!("there is no {name}")),
            artifacts: HashMap::new(),
            tasks: tasks.clone(),
            upstreams: HashSet::from(["docker.io".parse().unwrap()]),
            anonymous: Anonymous::Deny,
            own: OwnAddresses::default(),
            storage: dir.path().join("storage"),
            clock,
        });
        Self { dir, chained, plugins, tasks }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("plugin.wasm")
    }

    fn write(&self, content: &[u8]) {
        let part = self.file().with_extension("part");
        fs::write(&part, content).unwrap();
        fs::set_permissions(&part, Permissions::from_mode(0o644)).unwrap();
        fs::rename(part, self.file()).unwrap();
    }

    async fn load(&self, plan: MountPlan) {
        let mounts = vec![plan];
        self.plugins.load(PluginSettings { mounts, ..PluginSettings::default() }).await;
    }

    fn view(&self) -> MountView {
        self.chained.view().remove(0)
    }

    /// What the guest says of a manifest: it lets every one through.
    async fn admit(&self) -> Verdict {
        let manifest = AdmissionRequest {
            scope: debian(),
            reference: "1".parse().unwrap(),
            digest: Digest::sha256(b"{}"),
            media_type: "application/vnd.oci.image.manifest.v1+json".parse().unwrap(),
            bytes: Bytes::from_static(b"{}"),
            config: crate::hooks::ImageConfig::Unnamed,
        };
        self.chained.admit(&context(), &manifest).await
    }
}

fn debian() -> Scope {
    Scope { upstream: "docker.io".parse().unwrap(), repo: "library/debian".parse().unwrap() }
}

fn context() -> Context {
    let client = Client {
        address: Ipv4Addr::LOCALHOST.into(),
        encrypted: false,
        user_agent: None,
        tls_subject: None,
    };
    Context::new("1", client)
}

fn plan(source: Source) -> MountPlan {
    let grants = serde_json::json!({
        "http": { "allow": ["https://example.com/"] },
        "kv": { "buckets": ["frozen"] },
        "content": { "read": ["manifest"] },
        "facts": { "write": true },
    });
    MountPlan {
        mount: MountSettings {
            name: "frozen".into(),
            matching: MatchSettings::default(),
            on_error: Some(OnError::Deny),
            mode: Mode::Enforce,
            // Machines that run tests are busy.
            timeout: Some(std::time::Duration::from_secs(10)),
        },
        source,
        hooks: Some(vec![Hook::Resolver, Hook::ManifestPolicy]),
        memory_max: None,
        record: None,
        grants: serde_json::from_value(grants).unwrap(),
        config: serde_json::json!({}),
        secrets: BTreeMap::new(),
        verify: None,
    }
}

fn digest(wasm: &[u8]) -> Option<String> {
    Some(Digest::sha256(wasm).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_answers_is_replaced_and_survives_a_broken_version_and_a_restart() {
    let world = World::new();
    world.write(&guest(1));
    world.load(plan(Source::File(world.file()))).await;
    assert_eq!(world.view().digest, digest(&guest(1)), "{:?}", world.view());
    assert!(world.admit().await.is_ok());
    let tags = Target { scope: debian(), object: Object::Tags };
    let mapped = world.chained.resolve(&context(), tags).await.unwrap();
    assert_eq!(mapped.scope.to_string(), "docker.io/frozen");

    // Nothing is put in place when nothing changed.
    assert!(!world.plugins.reload().await);
    world.write(&guest(1));
    assert!(world.plugins.are_files_new() && !world.plugins.reload().await);
    world.write(&guest(2));
    assert!(world.plugins.reload().await);
    assert_eq!((world.view().digest, world.view().health()), (digest(&guest(2)), "ok"));

    // A broken version leaves the old one serving, and says so.
    world.write(b"no plugin");
    assert!(world.plugins.reload().await);
    assert_eq!((world.view().digest, world.view().health()), (digest(&guest(2)), "stale"));
    assert!(world.view().stale.unwrap().contains("not WebAssembly"));
    assert!(world.admit().await.is_ok());
    assert!(!world.plugins.reload().await, "it is told once");

    // At the next start the last good one serves.
    let world = World::on(world.dir);
    world.load(plan(Source::File(world.file()))).await;
    assert_eq!((world.view().digest, world.view().health()), (digest(&guest(2)), "stale"));
    assert!(world.admit().await.is_ok());
    // What is mended serves again.
    world.write(&guest(3));
    assert!(world.plugins.reload().await);
    assert_eq!((world.view().digest, world.view().health()), (digest(&guest(3)), "ok"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_loaded_again_when_they_change() {
    let world = World::new();
    world.write(&guest(1));
    world.load(plan(Source::File(world.file()))).await;
    let workers = Workers::new(world.tasks.clone(), Clock::system());
    world.plugins.watch(&workers);
    let seen = async |wanted: Option<String>| {
        while world.view().digest != wanted {
            tokio::task::yield_now().await;
        }
    };
    // The worker's first round only begins to listen; what comes before it is seen all the same.
    world.write(&guest(2));
    // Compilers that were not optimised take their time.
    let deadline = std::time::Duration::from_secs(300);
    tokio::time::timeout(deadline, seen(digest(&guest(2)))).await.expect("it is seen");
    world.write(&guest(3));
    tokio::time::timeout(deadline, seen(digest(&guest(3)))).await.expect("it is seen");
    world.tasks.stop();
    workers.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_loaded_is_answered_by_its_mount() {
    let world = World::new();
    let gone = Source::File(world.file());
    let no_grants = MountPlan { grants: Grants::default(), ..plan(gone.clone()) };
    let other_hook = MountPlan { hooks: None, ..plan("builtin:nobody".parse().unwrap()) };
    let says = async |plan: MountPlan, kind: &str, says: &str| {
        world.load(plan).await;
        let view = world.view();
        let last = view.last.clone().unwrap();
        assert_eq!((view.health(), last.kind), ("broken", kind), "{view:?}");
        assert!(last.message.contains(says), "{}", last.message);
        let denial = world.admit().await.unwrap_err();
        assert!(denial.message.starts_with("frozen could not be asked"), "{}", denial.message);
    };
    says(plan(gone.clone()), "fetch", "cannot read").await;
    says(other_hook, "fetch", "there is no nobody").await;
    // Not known what it would be asked: everything is refused, logins too.
    assert!(world.chained.wants_credentials());
    world.write(&guest(1));
    says(no_grants, "configuration", "grants.http").await;
    fs::set_permissions(world.file(), Permissions::from_mode(0o666)).unwrap();
    says(plan(gone), "fetch", "chmod go-w").await;
}
