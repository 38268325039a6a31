//! The chain with guests that are written in Rust.

mod auth;
mod broken;
mod modes;
mod reuse;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use prometheus::Registry;

use super::*;
use crate::clock::Timestamp;
use crate::hooks::{Action, Client, ImageConfig, Object};
use crate::oci::{Digest, ErrorCode, Reference};
use crate::scope::Scope;

type Script<I, O> = Box<dyn Fn(&I) -> Result<O, Broke> + Send + Sync>;

/// A guest that does what a test says.
struct Scripted {
    calls: AtomicUsize,
    /// Calls that are under way, and the most that ever were.
    running: AtomicUsize,
    most: AtomicUsize,
    /// How long a call takes.
    takes: Duration,
    authenticate: Script<Presented, Authenticated>,
    authorize: Script<Vec<WantedScope>, Vec<WantedScope>>,
    resolve: Script<Target, Option<Proposed>>,
    request: Script<Target, Said>,
    manifest: Script<AdmissionRequest, Said>,
    hangs: bool,
}

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Default for Scripted {
    fn default() -> Self {
        Self {
            calls: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            takes: Duration::ZERO,
            authenticate: Box::new(|_| Ok(Authenticated::Abstain)),
            authorize: Box::new(|wanted| Ok(wanted.clone())),
            resolve: Box::new(|_| Ok(None)),
            request: Box::new(|_| Ok(Said::only(Decision::Abstain))),
            manifest: Box::new(|_| Ok(Said::only(Decision::Abstain))),
            hangs: false,
        }
    }
}

impl Scripted {
    fn requests(request: impl Fn(&Target) -> Result<Said, Broke> + Send + Sync + 'static) -> Self {
        Self { request: Box::new(request), ..Self::default() }
    }

    /// Always the same answer to requests.
    fn says(said: Result<Said, Broke>) -> Self {
        Self::requests(move |_| said.clone())
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn run<I: Sync, O>(&self, script: &Script<I, O>, input: &I) -> Called<O> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        if !self.takes.is_zero() {
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(running, Ordering::SeqCst);
            let pause = std::future::pending::<()>();
            let _elapsed = tokio::time::timeout(self.takes, pause).await;
            self.running.fetch_sub(1, Ordering::SeqCst);
        }
        script(input).into()
    }
}

#[async_trait]
impl Guest for Scripted {
    async fn authenticate(&self, _: Call<'_>, presented: &Presented) -> Called<Authenticated> {
        self.run(&self.authenticate, presented).await
    }

    async fn authorize(&self, _: Call<'_>, wanted: &[WantedScope]) -> Called<Vec<WantedScope>> {
        self.run(&self.authorize, &wanted.to_vec()).await
    }

    async fn resolve(&self, _: Call<'_>, target: &Target) -> Called<Option<Proposed>> {
        self.run(&self.resolve, target).await
    }

    async fn request(&self, _: Call<'_>, target: &Target) -> Called<Said> {
        self.run(&self.request, target).await
    }

    async fn manifest(&self, _: Call<'_>, _: Stage, manifest: &AdmissionRequest) -> Called<Said> {
        self.run(&self.manifest, manifest).await
    }
}

/// A chain with everything around it.
struct World {
    chained: Chained,
    clock: Clock,
    facts: Facts,
    registry: Registry,
}

impl World {
    fn new() -> Self {
        let registry = Registry::new();
        let clock = Clock::manual(Timestamp::from_unix_ms(1_000_000));
        let facts = Facts::new(clock.clone());
        let chained = Chained::new(ChainedParts {
            clock: clock.clone(),
            metrics: PluginMetrics::new(&registry).unwrap(),
            facts: facts.clone(),
            tasks: Tasks::new(&registry).unwrap(),
            decisions_max: 1000,
        });
        Self { chained, clock, facts, registry }
    }

    fn with(mounts: Vec<Mounted>) -> Self {
        let world = Self::new();
        world.mount(mounts);
        world
    }

    fn mount(&self, mounts: Vec<Mounted>) {
        self.chained
            .replace(ChainParts { mounts, upstreams: upstreams(), ..ChainParts::default() })
            .unwrap();
    }

    /// The value of a counter or gauge whose labels have these values, in any order.
    fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        family
            .into_iter()
            .flat_map(prometheus::proto::MetricFamily::get_metric)
            .filter(|metric| {
                labels.iter().all(|l| metric.get_label().iter().any(|label| label.value() == *l))
            })
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }

    async fn request(&self, target: &Target) -> Verdict {
        self.chained.request(&context(), target).await
    }

    /// A request of the client with that number.
    async fn request_of(&self, client: u8, target: &Target) -> Verdict {
        self.chained.request(&context_of(client), target).await
    }
}

fn upstreams() -> HashSet<UpstreamName> {
    ["docker.io", "ghcr.io"].map(|name| name.parse().unwrap()).into()
}

fn mounted(name: &str, hook: Hook, guest: &Arc<Scripted>) -> Mounted {
    Mounted {
        settings: MountSettings {
            name: name.into(),
            matching: MatchSettings::default(),
            on_error: None,
            mode: Mode::Enforce,
            timeout: None,
        },
        hooks: vec![hook],
        are_hooks_known: true,
        guest: Ok(Arc::clone(guest) as Arc<dyn Guest>),
        digest: Some("sha256:aa".to_owned()),
        version: None,
        stale: None,
    }
}

fn policy(name: &str, guest: &Arc<Scripted>) -> Mounted {
    mounted(name, Hook::RequestPolicy, guest)
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

/// What the client with that number asks.
fn context_of(client: u8) -> Context {
    let mut context = context();
    context.client.address = Ipv4Addr::new(192, 0, 2, client).into();
    context
}

fn known(subject: &str) -> Context {
    let identity = Identity { subject: subject.to_owned(), ..Identity::default() };
    Context { identity: Some(Arc::new(identity)), ..context() }
}

fn debian() -> Scope {
    Scope { upstream: "docker.io".parse().unwrap(), repo: "library/debian".parse().unwrap() }
}

fn manifest(tag: &str) -> Target {
    Target { scope: debian(), object: Object::Manifest(tag.parse().unwrap()) }
}

fn blob(content: &[u8]) -> Target {
    Target { scope: debian(), object: Object::Blob(Digest::sha256(content)) }
}

fn deny(message: &str) -> Decision {
    let message = message.to_owned();
    Decision::Deny { code: ErrorCode::Denied, message, detail: None }
}

fn said(decision: Decision) -> Arc<Scripted> {
    Arc::new(Scripted::says(Ok(Said::only(decision))))
}

fn message(verdict: Verdict) -> String {
    verdict.unwrap_err().message
}

#[tokio::test]
async fn mounts_are_asked_in_their_order_until_one_decides() {
    let (quiet, yes, no) = (said(Decision::Abstain), said(Decision::Allow), said(deny("no")));
    let all = || vec![policy("no", &no), policy("yes", &yes), policy("quiet", &quiet)];
    let world = World::with(all());
    // As in the configuration.
    assert_eq!(message(world.request(&manifest("1")).await), "no");
    assert_eq!((no.calls(), yes.calls(), quiet.calls()), (1, 0, 0));
    // As `[chain]` says, and the rest behind.
    let order = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let parts = ChainParts {
            mounts: all(),
            order: [("request-policy", names)].into(),
            upstreams: upstreams(),
            anonymous: Anonymous::Deny,
        };
        world.chained.replace(parts).unwrap();
    };
    order(&["quiet", "yes"]);
    assert_eq!(world.request(&manifest("1")).await, Ok(Allowed::default()));
    assert_eq!((no.calls(), yes.calls(), quiet.calls()), (1, 1, 1));
    order(&["quiet"]);
    assert_eq!(message(world.request(&manifest("1")).await), "no");
    assert_eq!((no.calls(), yes.calls(), quiet.calls()), (2, 1, 2));
    let calls = "pierhead_plugin_calls_total";
    assert_eq!(world.metric(calls, &["no", "request-policy", "deny"]), 2.0);
    assert_eq!(world.metric(calls, &["quiet", "abstain"]), 2.0);
}

#[tokio::test]
async fn what_does_not_match_costs_no_call() {
    let no = said(deny("no"));
    let mut mount = policy("no", &no);
    mount.settings.matching.repositories = Some(vec![Pattern::new("team/**").unwrap()]);
    mount.settings.matching.actions = Some(vec![Action::Pull]);
    let world = World::with(vec![mount]);
    assert!(world.request(&manifest("1")).await.is_ok());
    let scope = Scope { repo: "team/app".parse().unwrap(), ..debian() };
    let tags = Target { scope: scope.clone(), object: Object::Tags };
    assert!(world.request(&tags).await.is_ok());
    assert_eq!(no.calls(), 0);
    let object = Object::Manifest("1".parse().unwrap());
    assert!(world.request(&Target { scope, object }).await.is_err());
}

#[tokio::test]
async fn obligations_are_done_whatever_is_decided() {
    let obliged = |text: &str, decision| {
        let obligations = vec![
            Obligation::Warn(format!("old {text}")),
            Obligation::Audit("rule".to_owned(), text.to_owned()),
            Obligation::Count(text.to_owned()),
            Obligation::Scan("scanner".to_owned()),
        ];
        let said = Said { decision, obligations, reuse: None };
        Arc::new(Scripted::says(Ok(said)))
    };
    let (one, two) = (obliged("one", Decision::Abstain), obliged("two", Decision::Allow));
    let world = World::with(vec![policy("a", &one), policy("b", &two)]);
    let context = context();
    let allowed = world.chained.request(&context, &manifest("1")).await.unwrap();
    assert_eq!(allowed.warnings, ["old one", "old two"]);
    let notes = context.notes.line().unwrap();
    assert_eq!(notes, r#"a.rule="one" b.rule="two""#);
    assert_eq!(world.metric("pierhead_plugin_labels_total", &["b", "two"]), 1.0);
    assert_eq!(world.metric("pierhead_plugin_scans_wanted_total", &["a"]), 1.0);
}

#[tokio::test]
async fn manifests_are_judged_by_what_they_are() {
    let guest = Arc::new(Scripted {
        manifest: Box::new(|manifest| {
            Ok(Said::only(if manifest.bytes.starts_with(b"bad") {
                deny("it is bad")
            } else {
                Decision::Abstain
            }))
        }),
        ..Scripted::default()
    });
    let world = World::with(vec![mounted("m", Hook::ManifestPolicy, &guest)]);
    let admit = async |bytes: &'static [u8]| {
        let manifest = AdmissionRequest {
            scope: debian(),
            reference: Reference::Tag("1".parse().unwrap()),
            digest: Digest::sha256(bytes),
            media_type: "application/vnd.oci.image.manifest.v1+json".parse().unwrap(),
            bytes: Bytes::from_static(bytes),
            config: ImageConfig::Unnamed,
        };
        world.chained.admit(&context(), &manifest).await
    };
    assert_eq!(message(admit(b"bad manifest").await), "it is bad");
    assert!(admit(b"good manifest").await.is_ok());
    // Nobody is asked about requests.
    assert!(world.request(&manifest("1")).await.is_ok());
    assert_eq!(guest.calls(), 2);
}

#[tokio::test]
async fn names_lead_elsewhere_if_they_make_sense() {
    let to = |upstream: &str| {
        let upstream = upstream.to_owned();
        Arc::new(Scripted {
            resolve: Box::new(move |_| {
                Ok(Some(Proposed {
                    upstream: upstream.clone(),
                    repository: "mirror/debian".to_owned(),
                    tag: None,
                    digest: None,
                }))
            }),
            ..Scripted::default()
        })
    };
    let (silent, lies, good) = (Arc::default(), to("unknown.example"), to("ghcr.io"));
    let resolver = |name, guest: &Arc<Scripted>| mounted(name, Hook::Resolver, guest);
    let all = || vec![resolver("s", &silent), resolver("l", &lies), resolver("g", &good)];
    let world = World::with(all());
    let mapped = world.chained.resolve(&context(), manifest("1")).await.unwrap();
    assert_eq!(mapped.scope.to_string(), "ghcr.io/mirror/debian");
    assert_eq!(mapped.object, manifest("1").object);
    assert_eq!(world.metric("pierhead_plugin_calls_total", &["l", "resolver", "lie"]), 1.0);
    // A resolver that must not be wrong.
    let mut strict = all();
    strict[1].settings.on_error = Some(OnError::Deny);
    world.mount(strict);
    let refused = world.chained.resolve(&context(), manifest("1")).await.unwrap_err();
    assert!(refused.message.contains("(lie)"), "{}", refused.message);
}

#[tokio::test]
async fn without_mounts_everybody_may_read() {
    let world = World::new();
    assert!(!world.chained.wants_credentials());
    let context = context();
    assert_eq!(world.chained.authorize(&context, &manifest("1")).await, Ok(()));
    assert_eq!(world.request(&manifest("1")).await, Ok(Allowed::default()));
    assert_eq!(world.chained.resolve(&context, manifest("1")).await, Ok(manifest("1")));
    let someone =
        Presented::Basic { username: "u".into(), password: crate::secret::Secret::new("p") };
    assert_eq!(world.chained.authenticate(&context, &someone).await, Ok(None));
    assert!(world.chained.view().is_empty());
}

#[tokio::test]
async fn a_call_in_flight_finishes_on_the_old_chain() {
    let old = Arc::new(Scripted { hangs: true, ..Scripted::says(Ok(Said::only(deny("old")))) });
    let mut slow = policy("p", &old);
    slow.settings.timeout = Some(Duration::from_secs(60));
    let world = World::with(vec![slow]);
    let (context, target) = (context(), manifest("1"));
    let mut in_flight = Box::pin(world.chained.request(&context, &target));
    assert!(futures_util::poll!(&mut in_flight).is_pending());
    let new = said(Decision::Allow);
    world.mount(vec![policy("p", &new)]);
    assert!(world.request(&manifest("1")).await.is_ok());
    assert!(futures_util::poll!(&mut in_flight).is_pending());
    assert_eq!((old.calls(), new.calls()), (1, 1));
}
