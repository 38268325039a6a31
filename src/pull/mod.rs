//! The pull-through engine.
//!
//! | file | what it is about |
//! |---|---|
//! | [`naming`] | which upstream and repository a name means (pure) |
//! | [`manifest`], [`resolve`], [`decide`], [`closure`] | manifests by digest and by tag |
//! | [`blob`] | blobs: who may read, from where, who fetches |
//! | [`flight`] | the fills that run, and their progress |
//! | [`fetch`] | the leader of a fill: opens both sides of it and says what became of it |
//! | [`fill`], [`plan`], [`demand`], [`lane`], [`retry`], [`pace`] | the fetching side: what is asked for when, in the order of need, and again |
//! | [`verify`] | the landing side: through the hasher to the store |
//! | [`damage`] | stored blobs that turn out to be damaged when they are read |
//! | [`follow`] | everybody else: reading what is stored or growing |
//! | [`clients`] | how many fills one client may have begun |
//! | [`ring`], [`private`] | the same for a blob that cannot be stored |
//! | [`links`], [`absences`], [`condemned`] | what is known to be there, not there, and suspect |
//! | [`denials`] | who may still see what is kept |
//! | [`pattern`] | tags by pattern |
//! | [`tags`], [`referrers`] | the two lists |
//! | [`refresh`] | tags that are confirmed in the background |
//! | [`image`], [`explain`], [`inspect`], [`purge`] | for operators: what a pull would be and why, what is here, and forgetting it |
//! | [`outcome`] | what the cache did, in the words of logs, metrics and headers |

pub mod absences;
pub mod blob;
pub mod clients;
pub mod closure;
pub mod condemned;
pub mod damage;
pub mod decide;
pub mod demand;
pub mod denials;
pub mod error;
pub mod explain;
pub mod fetch;
pub mod fill;
pub mod flight;
pub mod follow;
pub mod image;
pub mod inspect;
pub mod lane;
pub mod links;
pub mod manifest;
pub mod metrics;
pub mod naming;
pub mod outcome;
pub mod pace;
pub mod pattern;
pub mod plan;
pub mod private;
pub mod purge;
pub mod referrers;
pub mod refresh;
pub mod resolve;
pub mod retry;
pub mod ring;
pub mod settings;
pub mod tags;
pub mod verify;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

pub use self::blob::{BlobAnswer, BlobWant};
pub use self::damage::StoredReader;
pub use self::demand::Wanted;
pub use self::error::PullError;
pub use self::flight::FillError;
pub use self::follow::{BlobReader, ReadError};
pub use self::manifest::{ManifestAnswer, ManifestWant};
pub use self::outcome::{MissReason, Outcome, StaleReason};
pub use self::referrers::ReferrersAnswer;
pub use self::tags::TagsAnswer;

use self::absences::Absences;
use self::clients::ClientFills;
use self::condemned::Condemned;
use self::damage::Damage;
use self::fetch::Fetcher;
use self::flight::Flights;
use self::links::Links;
use self::manifest::Kept;
use self::metrics::PullMetrics;
use self::refresh::Refresher;
use self::resolve::Confirmed;
use self::settings::{FillSettings, TagSettings};
use crate::background::{Tasks, Workers};
use crate::client_id::ClientId;
use crate::clock::Clock;
use crate::gate::{Gate, Gates, Limit};
use crate::hooks::Hooks;
use crate::oci::{Digest, Reference, Tag};
use crate::scope::{Scope, UpstreamName};
use crate::single_flight::SingleFlight;
use crate::store::{BlobStore, Hot, MetaStore, Uses};
use crate::upstream::{Hops, ManifestHead, TagPage, Upstream, UpstreamError};

/// One upstream, as the engine uses it.
#[derive(Clone)]
pub struct Site {
    /// Asks it.
    pub upstream: Upstream,
    /// How its tags are kept.
    pub tags: TagSettings,
    /// Whether Pierhead logs in there: then what it answers may be private.
    pub has_credentials: bool,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Site({})", self.upstream.name())
    }
}

/// What the engine is made of.
#[derive(Debug)]
pub struct Parts {
    /// Every upstream.
    pub sites: HashMap<UpstreamName, Site>,
    /// Content.
    pub blobs: Arc<dyn BlobStore>,
    /// Links and tags.
    pub meta: Arc<dyn MetaStore>,
    /// Memory in front of both.
    pub hot: Hot,
    /// Plugins.
    pub hooks: Arc<dyn Hooks>,
    /// Hears of every use of what is stored.
    pub uses: Arc<dyn Uses>,
    /// Limits.
    pub fill: FillSettings,
    /// Shows how far they are reached.
    pub gates: Gates,
    /// The time.
    pub clock: Clock,
    /// Who runs what outlives a request.
    pub tasks: Tasks,
    /// Where the worker runs that confirms tags; see [`Puller::refresh_worker`].
    pub workers: Workers,
    /// Counters.
    pub metrics: PullMetrics,
}

/// The engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Puller {
    shared: Arc<Inner>,
    hops: Hops,
    client: Option<ClientId>,
}

/// Descriptors as upstream wrote them, shared by everybody who waited for them.
type Descriptors = Arc<[Value]>;

/// Which page of which tags: its size, and the tag before it.
type TagPageKey = (Scope, Option<u32>, Option<String>);

/// What every clone of the engine shares.
#[derive(Debug)]
pub struct Inner {
    sites: HashMap<UpstreamName, Site>,
    blobs: Arc<dyn BlobStore>,
    meta: Arc<dyn MetaStore>,
    hot: Hot,
    hooks: Arc<dyn Hooks>,
    uses: Arc<dyn Uses>,
    clock: Clock,
    metrics: PullMetrics,
    tasks: Tasks,
    links: Links,
    absences: Absences,
    refresher: Refresher,
    condemned: Condemned,
    damage: Damage,
    flights: Flights,
    fetcher: Fetcher,
    client_fills: ClientFills,
    followers: Gate,
    answer_within: Duration,
    serve_unverified_ranges: bool,
    blob_heads: SingleFlight<(Scope, Digest), Result<Option<u64>, UpstreamError>>,
    manifest_heads: SingleFlight<(Scope, Reference), Result<ManifestHead, UpstreamError>>,
    manifest_gets: SingleFlight<(Scope, Reference), Result<(Kept, MissReason), PullError>>,
    confirmations: SingleFlight<(Scope, Tag, bool), Result<Confirmed, PullError>>,
    tag_pages: SingleFlight<TagPageKey, Result<TagPage, UpstreamError>>,
    referrers_gets: SingleFlight<(Scope, Digest), Result<Descriptors, PullError>>,
}

impl std::ops::Deref for Puller {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.shared
    }
}

impl Puller {
    /// Puts the engine together.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            sites,
            blobs,
            meta,
            hot,
            hooks,
            uses,
            fill,
            gates,
            clock,
            tasks,
            workers,
            metrics,
        } = parts;
        let links = Links::new(Arc::clone(&meta), hot.clone());
        let condemned = Condemned::new(clock.clone(), fill.condemned_for);
        let (answer_within, serve_unverified_ranges) =
            (fill.answer_within, fill.serve_unverified_ranges);
        let client_fills = ClientFills::new(fill.per_client_max);
        let followers = gates.gate(Limit::Followers, u64::from(fill.followers_max));
        let fetcher = Fetcher::new(
            Arc::clone(&blobs),
            links.clone(),
            condemned.clone(),
            fill,
            Arc::clone(&uses),
            tasks.clone(),
            metrics.clone(),
        );
        let damage = Damage::new(Arc::clone(&blobs), hot.clone(), tasks.clone());
        let shared = Arc::new(Inner {
            sites,
            blobs,
            meta,
            hot,
            hooks,
            uses,
            absences: Absences::new(clock.clone()),
            refresher: Refresher::new(workers),
            clock,
            metrics,
            tasks: tasks.clone(),
            links,
            condemned,
            damage,
            flights: Flights::default(),
            fetcher,
            client_fills,
            followers,
            answer_within,
            serve_unverified_ranges,
            blob_heads: SingleFlight::new("blob_head", tasks.clone()),
            manifest_heads: SingleFlight::new("manifest_head", tasks.clone()),
            manifest_gets: SingleFlight::new("manifest_get", tasks.clone()),
            confirmations: SingleFlight::new("tag_confirmation", tasks.clone()),
            tag_pages: SingleFlight::new("tag_page", tasks.clone()),
            referrers_gets: SingleFlight::new("referrers_get", tasks),
        });
        Self { shared, hops: Hops::default(), client: None }
    }

    /// The same engine, on behalf of a request that has `hops` behind it: they go along to
    /// upstream, so that a loop of caches is noticed.
    #[must_use]
    pub fn after(&self, hops: Hops) -> Self {
        Self { shared: Arc::clone(&self.shared), hops, client: self.client.clone() }
    }

    /// The same engine, on behalf of `client`: the fills that it begins are counted as that one's.
    #[must_use]
    pub fn on_behalf_of(mut self, client: ClientId) -> Self {
        self.client = Some(client);
        self
    }

    /// The upstream of `site`, asked on behalf of this request.
    fn asking(&self, site: &Site) -> Upstream {
        site.upstream.after(self.hops.clone())
    }

    /// Whether bounded ranges of a growing blob may be served before it is verified.
    pub fn serves_unverified_ranges(&self) -> bool {
        self.serve_unverified_ranges
    }

    /// What the engine counts.
    pub fn metrics(&self) -> &PullMetrics {
        &self.metrics
    }

    /// Whether answers of this upstream may be private, because Pierhead logs in there.
    pub fn is_private(&self, upstream: &UpstreamName) -> bool {
        self.sites.get(upstream).is_some_and(|site| site.has_credentials)
    }

    fn site(&self, scope: &Scope) -> Result<&Site, PullError> {
        self.sites.get(&scope.upstream).ok_or(PullError::NameUnknown)
    }

    /// When a request that begins now must have its answer's head: clients give up on a mirror
    /// that keeps them waiting longer.
    fn deadline(&self) -> Instant {
        Instant::now() + self.answer_within
    }
}

/// Gives up waiting, not the work, when there is no answer by `deadline`.
async fn in_time<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, PullError>>,
) -> Result<T, PullError> {
    match tokio::time::timeout_at(deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(PullError::TimedOut),
    }
}
