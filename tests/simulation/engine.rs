//! The system under test: the engine over the simulated registry and stores in memory. The only
//! file here that knows how it is put together.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use pierhead::background::{Offload, State, Tasks, Workers};
use pierhead::clock::Clock;
use pierhead::gate::Gates;
use pierhead::hooks::{AllowAll, Client, Context, Hooks};
use pierhead::oci::Digest;
use pierhead::pull::metrics::PullMetrics;
use pierhead::pull::refresh::REFRESH_WORKER;
use pierhead::pull::settings::{FillSettings, Lifetime, StalePolicy, TagSettings};
use pierhead::pull::{BlobAnswer, BlobWant, Parts, PullError, Puller, Site};
use pierhead::scope::Scope;
use pierhead::store::blob::MemoryBlobs;
use pierhead::store::meta::MemoryMeta;
use pierhead::store::{BlobStore as _, Hot, HotOptions, NoUses};
use pierhead::upstream::settings::UpstreamSettings;
use pierhead::upstream::{LoopId, Metrics, StaticCredentials, Upstream, UpstreamParts};

use crate::catalogue::UPSTREAM;
use crate::model::Left;
use crate::registry::Registry;
use crate::store::Blobs;
use crate::trace::ms;

/// How long clients wait for an answer to begin.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// How long nothing of a blob is sent before it is verified whose content was wrong.
pub(crate) const CONDEMNED_FOR: Duration = Duration::from_secs(60);

/// How long a fill goes on of which nothing lands: shorter than clients bear silence.
const RETRY_FOR: Duration = Duration::from_secs(120);

/// How long a fill goes on that nobody reads.
const PAUSE_AFTER: Duration = Duration::from_secs(5);

/// Blobs above this size may be fetched in several requests, in bytes.
const PARALLEL_ABOVE: u64 = 300_000;

/// How long tags may be served that upstream does not confirm: longer than a seed's story.
const STALE_FOR: Lifetime = Lifetime::For(Duration::from_secs(7 * 24 * 3_600));

/// How the tags of a seed are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TagTimes {
    pub(crate) ttl: Duration,
    pub(crate) while_revalidate: Duration,
    pub(crate) refresh_ahead: Duration,
}

/// What outlives the process.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) blobs: Blobs,
    meta: MemoryMeta,
}

impl Disk {
    /// An empty one with room for that many bytes.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self { blobs: Blobs(MemoryBlobs::new(bytes_max)), meta: MemoryMeta::default() }
    }
}

/// One life of the process.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    pub(crate) puller: Puller,
    pub(crate) context: Context,
    disk: Disk,
    metrics: prometheus::Registry,
    workers: Workers,
}

impl Engine {
    /// Starts it over what is on the disk.
    pub(crate) fn start(
        disk: &Disk,
        registry: &Registry,
        endpoints: usize,
        how: (TagTimes, u64),
        clock: &Clock,
    ) -> Self {
        Self::start_with(disk, registry, endpoints, how, clock, Arc::new(AllowAll))
    }

    /// The same with plugins.
    pub(crate) fn start_with(
        disk: &Disk,
        registry: &Registry,
        endpoints: usize,
        (times, seed): (TagTimes, u64),
        clock: &Clock,
        hooks: Arc<dyn Hooks>,
    ) -> Self {
        let metrics = prometheus::Registry::new();
        let tasks = Tasks::new(&metrics).expect("a fresh registry");
        let workers = Workers::new(tasks.clone(), clock.clone());
        let settings = UpstreamSettings {
            name: UPSTREAM.parse().expect("a name"),
            endpoints: (0..endpoints)
                .map(|n| format!("http://e{n}.{UPSTREAM}").parse().expect("a URL"))
                .collect(),
            credentials: None,
            auth_hosts: Vec::new(),
            redirect_hosts: Vec::new(),
            ca_file: None,
            proxy: None,
            connect_timeout: ms(5_000),
            header_timeout: ms(6_000),
            silence_timeout: ms(10_000),
        };
        let upstream = Upstream::new(
            &settings,
            UpstreamParts {
                transport: Arc::new(registry.clone()),
                credentials: Arc::new(StaticCredentials::new(None)),
                clock: clock.clone(),
                tasks: tasks.clone(),
                metrics: Metrics::new(&metrics).expect("a fresh registry"),
                id: LoopId::new("simulation").expect("an id"),
            },
        );
        let tags = TagSettings {
            tag_ttl: times.ttl,
            absent_ttl: ms(10_000),
            stale: StalePolicy {
                on_error: STALE_FOR,
                on_401: STALE_FOR,
                on_429: STALE_FOR,
                on_404: STALE_FOR,
                while_revalidate: times.while_revalidate,
                pinned: Vec::new(),
            },
            refresh_ahead: times.refresh_ahead,
        };
        let site = Site { upstream, tags, has_credentials: false };
        let puller = Puller::new(Parts {
            sites: HashMap::from([(settings.name, site)]),
            blobs: Arc::new(disk.blobs.clone()),
            meta: Arc::new(disk.meta.clone()),
            hot: Hot::new(HotOptions::default()),
            hooks,
            uses: Arc::new(NoUses),
            fill: FillSettings {
                concurrent_max: 64,
                per_client_max: 0,
                followers_max: 1_024,
                private_max: 64,
                blob_bytes_max: 1 << 30,
                serve_unverified_ranges: true,
                condemned_for: CONDEMNED_FOR,
                answer_within: ANSWER_WITHIN,
                connections: 4,
                parallel_above: PARALLEL_ABOVE,
                retry_for: RETRY_FOR,
                pause_after: PAUSE_AFTER,
                jitter_seed: seed,
                offload: Offload::Inline,
            },
            gates: Gates::new(&metrics).expect("a fresh registry"),
            clock: clock.clone(),
            tasks,
            workers: workers.clone(),
            metrics: PullMetrics::new(&metrics).expect("a fresh registry"),
        });
        workers.start(puller.refresh_worker());
        let client = Client {
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            encrypted: false,
            user_agent: None,
            tls_subject: None,
        };
        let context = Context::new("simulation", client);
        Self { puller, context, disk: disk.clone(), metrics, workers }
    }

    /// Asks for a blob, as the HTTP side does.
    pub(crate) async fn blob(
        &self,
        scope: &Scope,
        digest: &Digest,
        want: BlobWant,
    ) -> Result<BlobAnswer, PullError> {
        self.puller.blob(scope, digest, want).await
    }

    /// What is at work, and takes room.
    pub(crate) async fn left(&self) -> Left {
        let room = self.disk.blobs.room().await.expect("memory has room to tell of");
        let parked = self.disk.blobs.parked().await.expect("memory knows what is parked");
        let mut useless = Vec::new();
        for parked in &parked {
            if matches!(self.disk.blobs.contains(&parked.key.digest).await, Ok(true)) {
                useless.push(parked.key.digest);
            }
        }
        let parked: u64 = parked.iter().map(|parked| parked.allocated).sum();
        let mut tasks = self.gauge("pierhead_tasks_running");
        // A worker is there for as long as the process.
        let rests = |name| {
            let mut list = self.workers.list().into_iter();
            list.any(|worker| worker.name == name && worker.state == State::Waiting)
        };
        if rests(REFRESH_WORKER) {
            tasks.remove(REFRESH_WORKER);
        }
        Left {
            fills: self.puller.fills().len(),
            followers: self.gauge("pierhead_fill_followers").values().sum(),
            tasks,
            limits: self.gauge("pierhead_limit_used"),
            reserved: room.reserved.saturating_sub(parked),
            useless,
        }
    }

    /// What a gauge has that is not zero, by its labels.
    fn gauge(&self, name: &str) -> BTreeMap<String, i64> {
        let families = self.metrics.gather();
        let samples = families.iter().filter(|family| family.name() == name);
        samples
            .flat_map(|family| family.get_metric())
            .map(|metric| {
                let labels: Vec<&str> =
                    metric.get_label().iter().map(|label| label.value()).collect();
                #[expect(clippy::cast_possible_truncation, reason = "a gauge of whole numbers")]
                (labels.join(","), metric.get_gauge().get_value() as i64)
            })
            .filter(|(_, value)| *value != 0)
            .collect()
    }
}
