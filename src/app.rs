//! Wires everything: the only file that knows all concrete types.

mod plugins;

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::background::{Tasks, Workers};
use crate::clock::Clock;
use crate::config::{Config, LogFormat};
use crate::gate::{Gates, Limit};
use crate::hooks::Hooks;
use crate::http::admin::api::config::ConfigInForce;
use crate::http::admin::api::origin::Origins;
use crate::http::admin::api::status::Process;
use crate::http::admin::api::token::{AdminToken, TokenError};
use crate::http::admin::api::transfer::Transfers;
use crate::http::admin::api::{Api, ApiParts};
use crate::http::admin::{Admin, Probes};
use crate::http::door::Door;
use crate::http::login::Login;
use crate::http::metrics::HttpMetrics;
use crate::http::overload::Overload;
use crate::http::recent::Recent;
use crate::http::server::{Server, ServerParts};
use crate::http::tls::{self, Tls, TlsError};
use crate::http::v2::Registry;
use crate::keep::scrub::{Scrub, ScrubMetrics, ScrubParts};
use crate::keep::shelf::Finder;
use crate::keep::{self, Keeper};
use crate::net::OwnAddresses;
use crate::plugins::Plugins;
use crate::pull::metrics::PullMetrics;
use crate::pull::naming::Naming;
use crate::pull::settings::FillSettings;
use crate::pull::{Parts, Puller, Site};
use crate::scope::UpstreamName;
use crate::store::blob::{FsBlobs, FsOptions};
use crate::store::meta::SqliteMeta;
use crate::store::note::Note;
use crate::store::{BlobStore as _, Hot, HotOptions, KeepingStore, MetaStore, NoUses, StoreError};
use crate::telemetry::filter::LogFilter;
use crate::telemetry::otlp::Traces;
use crate::telemetry::{self, TelemetryError};
use crate::token::{KeyError, Tokens};
use crate::transfer::Holdings;
use crate::upstream::{
    HttpTransport, LoopId, StaticCredentials, TransportSetupError, Upstream, UpstreamParts,
};

use self::plugins::Prepared;

/// How long the runtime may take to end what is still running after the drain.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);

/// How many threads may read and write the disk, beside those of fills.
const DISK_THREADS_MAX: usize = 256;

/// Why serving ended in failure.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The threads of the runtime could not be started.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
    /// The logs or traces could not be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The storage could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operator's token could not be read or made.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The keys of tokens could not be read or made.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// An address could not be bound.
    #[error("cannot listen on {address} ({key}): {source}")]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The settings of an upstream cannot be put into practice.
    #[error("upstream {name:?}: {source}")]
    Upstream {
        /// Which one.
        name: UpstreamName,
        /// Why not.
        source: TransportSetupError,
    },
    /// Encryption could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Two metrics have one name: a mistake of ours.
    #[error("cannot set up metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Something that every system has, is missing.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Reads the configuration once more, as it was read at the start; an error is a text for people.
pub type Reread = Box<dyn Fn() -> Result<Config, String> + Send + Sync>;

/// Serves until it is told to stop. A SIGHUP has the configuration read by `reread`.
///
/// # Errors
/// When what it needs cannot be set up.
pub fn serve(config: Config, reread: Reread) -> Result<(), AppError> {
    let filter = std::env::var(telemetry::FILTER_VARIABLE).ok();
    let json = config.log.format == LogFormat::Json;
    let log = telemetry::init(config.log.level.as_str(), json, filter.as_deref())?;
    let traces = config.traces.as_ref().map(Traces::start).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // Each fill has one of these threads, and reading the disk must never wait for upstream.
        .max_blocking_threads(DISK_THREADS_MAX + config.fill.concurrent_max)
        .build()
        .map_err(AppError::Runtime)?;
    let result = runtime.block_on(run(config, log, traces.as_ref(), &reread));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    // Sends the last spans, now that nothing can end another.
    drop(traces);
    result
}

async fn run(
    config: Config,
    log: LogFilter,
    traces: Option<&Traces>,
    reread: &Reread,
) -> Result<(), AppError> {
    // Before anything else: a signal that comes while the storage is opened must not be lost, nor
    // end the process.
    let signals = Signals::listen()?;
    for notice in &config.notices {
        tracing::warn!("{notice}");
    }
    let registry = prometheus::Registry::new();
    telemetry::process::register(&registry)?;
    if let Some(traces) = traces {
        traces.register(&registry)?;
    }
    let tasks = Tasks::new(&registry)?;
    let clock = Clock::system();
    let workers = Workers::new(tasks.clone(), clock.clone());
    let prepared = Prepared::new(&config, &registry, &tasks, &clock)?;
    let chained = prepared.chained.clone();
    let hooks: Arc<dyn Hooks> = Arc::new(chained.clone());

    let hot = Hot::new(HotOptions::default());
    let files = FsBlobs::open(&config.storage.path, fs_options(&config)).await?;
    let has_content = !files.list(None, 1).await?.is_empty();
    let records =
        Arc::new(SqliteMeta::open_or_heal(&config.storage.path, has_content, &clock).await?);
    let meta: Arc<dyn MetaStore> = Arc::clone(&records) as Arc<dyn MetaStore>;
    let keeper = Keeper::start(
        keep::Parts {
            blobs: Arc::new(files),
            keeping: Arc::clone(&records) as Arc<dyn KeepingStore>,
            meta: Arc::clone(&meta),
            hot: hot.clone(),
            limits: config.limits.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            workers: workers.clone(),
        },
        &registry,
    )
    .await?;
    let blobs = keeper.shelf();
    records.tend(&workers, Arc::clone(&blobs), &clock, &registry)?;

    let listener = bind("server.listen", config.server.listen).await?;
    let admin_listener = bind("server.admin_listen", config.server.admin_listen).await?;
    let address = local_address(&listener)?;
    let admin_address = local_address(&admin_listener)?;
    let own = OwnAddresses::default();
    own.set(vec![address, admin_address]);

    let id = instance_id()?;
    let sites = sites(&config, &registry, &tasks, &clock, &own, &id)?;
    let gates = Gates::new(&registry)?;
    let holdings = Holdings {
        blobs: Arc::clone(&blobs),
        meta: Arc::clone(&meta),
        hot: hot.clone(),
        uses: keeper.uses(),
        clock: clock.clone(),
    };
    let puller = Puller::new(Parts {
        sites,
        blobs: Arc::clone(&blobs),
        meta: Arc::clone(&meta),
        hot: hot.clone(),
        hooks: Arc::clone(&hooks),
        uses: keeper.uses(),
        fill: FillSettings { jitter_seed: u64::from_le_bytes(random()?), ..config.fill.clone() },
        gates: gates.clone(),
        clock: clock.clone(),
        tasks: tasks.clone(),
        workers: workers.clone(),
        metrics: PullMetrics::new(&registry)?,
    });

    let plugins = prepared.start(&config, &puller, &own, &clock, &workers).await;
    let refreshing = puller.refresh_worker();
    let (scrub, scrubbing) = Scrub::new(ScrubParts {
        blobs: keeper.shelf_of(Finder::Scrub),
        hot,
        settings: config.storage.scrub,
        clock: clock.clone(),
        note: Note::new(&config.storage.path, "scrub.json"),
        metrics: ScrubMetrics::new(&registry)?,
    });
    let naming = Arc::new(Naming::new(config.naming.clone()));
    let recent = Recent::new(clock.clone());
    let overload = Overload::new(&registry, recent.clone())?;
    let metrics = HttpMetrics::new(&registry)?;
    let probes = Probes::new(blobs, meta, tasks.stopping());
    let tokens = Tokens::open(&config.storage.path, config.auth.tokens.clone(), clock.clone())?;
    workers.start(tokens.rotation());
    let api = Arc::new(Registry {
        puller: puller.clone(),
        naming: Arc::clone(&naming),
        hooks,
        login: Login::new(tokens, config.public_url.clone(), &registry)?,
        metrics: metrics.clone(),
        probes: probes.clone(),
        recent: recent.clone(),
        overload: overload.clone(),
        body_memory: gates.gate(Limit::BodyMemory, config.server.body_memory_max),
        id,
    });
    let process = Process {
        started_at: clock.now(),
        registry: address,
        admin: admin_address,
        storage: config.storage.path.clone(),
    };
    let operator = ApiParts {
        clock: clock.clone(),
        process,
        probes: probes.clone(),
        workers: workers.clone(),
        keeper,
        transfers: transfers(&config, holdings, &tasks),
        scrub,
        puller,
        plugins: chained,
        naming,
        recent,
        config: ConfigInForce {
            settings: config.in_force.clone(),
            notices: config.notices.clone(),
        },
        log,
    };
    let operator = operator_api(&config, operator)?;
    let tls = match &config.server.tls {
        Some(settings) => Some(Tls::open(settings, &clock, &registry)?.start(&workers)),
        None => None,
    };
    let admin_tls = tls.clone().filter(|_| config.server.admin_has_tls());
    let schemes =
        [tls.is_some(), admin_tls.is_some()].map(|tls| if tls { "https" } else { "http" });
    let admin = Arc::new(Admin { probes, registry, metrics: metrics.clone(), api: operator });
    let listener_of = |name, tls, door| {
        let parts = ServerParts {
            name,
            tls,
            door,
            overload: overload.clone(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
        };
        Server::new(&config.server, parts)
    };
    let server = listener_of("registry", tls, Door::registry(&config.server, &gates));
    let admin_server = listener_of("admin", admin_tls, Door::admin(&config.server, &gates));
    tasks.spawn("listener", server.run(listener, api));
    tasks.spawn("listener", admin_server.run(admin_listener, admin));

    workers.start(scrubbing);
    workers.start(refreshing);

    announce(schemes, address, admin_address);
    signals.wait_for_stop(&workers, &plugins, reread).await;
    drain(&tasks, config.server.drain_timeout).await;
    workers.stopped().await;
    // A database that was not closed is checked from end to end at the next start.
    records.close().await;
    Ok(())
}

/// Opens the storage of a configuration for a command that exports or imports without a server.
/// The size cap holds; nothing is evicted to make room.
///
/// # Errors
/// When it cannot be opened, above all because a Pierhead serves from it.
pub async fn open_holdings(config: &Config) -> Result<Holdings, StoreError> {
    Ok(Holdings {
        blobs: Arc::new(FsBlobs::open(&config.storage.path, fs_options(config)).await?),
        meta: Arc::new(SqliteMeta::open(&config.storage.path).await?),
        hot: Hot::new(HotOptions::default()),
        // Whoever serves from it next finds out by reading the manifests.
        uses: Arc::new(NoUses),
        clock: Clock::system(),
    })
}

fn fs_options(config: &Config) -> FsOptions {
    FsOptions {
        max_bytes: config.storage.max_size,
        min_free_bytes: config.storage.min_free,
        ..FsOptions::default()
    }
}

/// Exports and imports under that configuration.
fn transfers(config: &Config, holdings: Holdings, tasks: &Tasks) -> Transfers {
    Transfers {
        holdings,
        upstreams: config.upstreams.iter().map(|(upstream, _)| upstream.name.clone()).collect(),
        blob_bytes_max: config.fill.blob_bytes_max,
        tasks: tasks.clone(),
    }
}

/// The operator's API, for whoever can read the token in the storage.
fn operator_api(config: &Config, parts: ApiParts) -> Result<Api, AppError> {
    let token = AdminToken::open(&config.storage.path)?;
    let origins =
        Origins::new(parts.process.admin, config.server.admin_has_tls(), config.public_url.clone());
    Ok(Api::new(parts, token, origins))
}

fn sites(
    config: &Config,
    registry: &prometheus::Registry,
    tasks: &Tasks,
    clock: &Clock,
    own: &OwnAddresses,
    id: &LoopId,
) -> Result<HashMap<UpstreamName, Site>, AppError> {
    let metrics = crate::upstream::Metrics::new(registry)?;
    let mut sites = HashMap::new();
    for (settings, tags) in &config.upstreams {
        let transport = HttpTransport::new(settings, own.clone())
            .map_err(|source| AppError::Upstream { name: settings.name.clone(), source })?;
        let parts = UpstreamParts {
            transport: Arc::new(transport),
            credentials: Arc::new(StaticCredentials::new(settings.credentials.clone())),
            clock: clock.clone(),
            tasks: tasks.clone(),
            metrics: metrics.clone(),
            id: id.clone(),
        };
        let site = Site {
            upstream: Upstream::new(settings, parts),
            tags: tags.clone(),
            has_credentials: settings.credentials.is_some(),
        };
        sites.insert(settings.name.clone(), site);
    }
    Ok(sites)
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, AppError> {
    TcpListener::bind(address).await.map_err(|source| AppError::Listen { key, address, source })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, AppError> {
    listener
        .local_addr()
        .map_err(|source| AppError::System { what: "cannot read a listener's address", source })
}

/// A random name for this process, by which it knows its own requests when they come back.
fn instance_id() -> Result<LoopId, AppError> {
    LoopId::new(&hex::encode(random()?)).map_err(|error| AppError::System {
        what: "cannot make a name for this process",
        source: io::Error::other(error),
    })
}

fn random() -> Result<[u8; 8], AppError> {
    let mut bytes = [0; 8];
    let what = "cannot get random bytes";
    getrandom::fill(&mut bytes)
        .map_err(|error| AppError::System { what, source: io::Error::other(error.to_string()) })?;
    Ok(bytes)
}

/// Tells scripts on the standard output that both listeners accept, and where.
fn announce([scheme, admin]: [&str; 2], address: SocketAddr, admin_address: SocketAddr) {
    let mut out = io::stdout().lock();
    // Whoever closed the output does not want to know.
    let _ = writeln!(out, "listening on {scheme}://{address}");
    let _ = writeln!(out, "admin on {admin}://{admin_address}");
    let _ = out.flush();
}

/// The signals that mean something here. Listened for before anybody is told that the process is
/// ready, so that none is missed.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, AppError> {
        let listen = |kind| {
            let what = "cannot wait for signals";
            signal(kind).map_err(|source| AppError::System { what, source })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn wait_for_stop(mut self, workers: &Workers, plugins: &Plugins, reread: &Reread) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    let looks = tls::look_now(workers);
                    tracing::warn!(
                        certificates = if looks { "looked at again" } else { "none" },
                        "SIGHUP: this version reloads certificates and plugins only; for the rest \
                         of the configuration, restart it"
                    );
                    match reread() {
                        // A source far away takes its time; whoever wants an end need not wait.
                        Ok(config) => tokio::select! {
                            () = plugins.load(config.plugins) => {}
                            _ = self.terminate.recv() => return,
                            _ = self.interrupt.recv() => return,
                        },
                        Err(error) => tracing::error!(
                            error,
                            "the configuration is not right; the plugins stay as they are"
                        ),
                    }
                }
            }
        }
    }
}

/// Stops accepting, lets running answers finish, and cuts those that take longer than `grace`.
async fn drain(tasks: &Tasks, grace: Duration) {
    tracing::info!(connections = tasks.answering(), ?grace, "stopping");
    tasks.stop();
    if tokio::time::timeout(grace, tasks.answered()).await.is_err() {
        tracing::warn!(connections = tasks.answering(), "cut connections that took too long");
    }
}
