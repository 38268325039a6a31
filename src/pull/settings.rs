//! What an operator can say about pulling.

use std::time::Duration;

use super::pattern::TagPattern;
use crate::background::Offload;
use crate::oci::{RepoName, Tag};
use crate::scope::UpstreamName;

/// How names are routed to upstreams. Built by `config`, which has checked for collisions.
#[derive(Clone, Debug)]
pub struct NamingSettings {
    /// Every upstream that clients can name.
    pub upstreams: Vec<NamedUpstream>,
    /// Answers bare names.
    pub default_upstream: Option<UpstreamName>,
    /// Prefixes (`hosted/`) of names that live here and nowhere else; the empty one stands for all.
    pub hosted_prefixes: Vec<String>,
    /// The host (with port, if any) of `server.public_url`: our own name in `?ns=`.
    pub public_host: Option<String>,
}

/// One upstream, as far as names are concerned.
#[derive(Clone, Debug)]
pub struct NamedUpstream {
    /// Its name; also the first path component that selects it.
    pub name: UpstreamName,
    /// Another first path component that selects it.
    pub alias: Option<RepoName>,
    /// Hosts (without port: any port) under which clients reach Pierhead and mean this upstream.
    pub hosts: Vec<String>,
    /// Other values of `?ns=` that mean this upstream (`index.docker.io`).
    pub ns_aliases: Vec<String>,
    /// Prefix for names of one component (`library/` on docker.io).
    pub single_component_prefix: Option<RepoName>,
}

/// How one upstream's tags are kept.
#[derive(Clone, Debug)]
pub struct TagSettings {
    /// How long a tag is served without asking upstream.
    pub tag_ttl: Duration,
    /// How long an absence is remembered.
    pub absent_ttl: Duration,
    /// How old a tag may be when upstream cannot confirm it.
    pub stale: StalePolicy,
    /// Tags that were pulled no longer ago than this are confirmed in the background when their
    /// `tag_ttl` runs out; zero: none is.
    pub refresh_ahead: Duration,
}

/// How old a tag may be that upstream has not confirmed within its `tag_ttl`. Times count from
/// when upstream last confirmed it, but for `on_401`.
#[derive(Clone, Debug)]
pub struct StalePolicy {
    /// When upstream cannot be reached, fails, or answers nonsense.
    pub on_error: Lifetime,
    /// When upstream refuses access: from the first refusal of the repository on, and then
    /// whatever else goes wrong.
    pub on_401: Lifetime,
    /// When upstream limits the rate, or our allowance there is used up.
    pub on_429: Lifetime,
    /// When upstream has the tag no more.
    pub on_404: Lifetime,
    /// For how long after its `tag_ttl` a tag is served at once while upstream is asked in the
    /// background; zero: not at all.
    pub while_revalidate: Duration,
    /// Tags that upstream is not asked about while their manifest is here.
    pub pinned: Vec<TagPattern>,
}

impl StalePolicy {
    /// Whether upstream is not asked about this tag while its manifest is here.
    pub fn pins(&self, repo: &RepoName, tag: &Tag) -> bool {
        self.pinned.iter().any(|pattern| pattern.matches(repo, tag))
    }
}

/// How long something lasts. Its order is that of length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lifetime {
    /// That long; zero is not at all.
    For(Duration),
    /// Without end.
    Forever,
}

impl Lifetime {
    /// Not at all.
    pub const NEVER: Self = Self::For(Duration::ZERO);

    /// What is left of it after `age`; `None` once it is over.
    pub fn left(self, age: Duration) -> Option<Self> {
        match self {
            Self::Forever => Some(Self::Forever),
            Self::For(whole) if age < whole => Some(Self::For(whole.saturating_sub(age))),
            Self::For(_) => None,
        }
    }
}

/// How blobs are filled.
#[derive(Clone, Debug)]
pub struct FillSettings {
    /// Fills at a time; further ones are refused with 503.
    pub concurrent_max: usize,
    /// Fills at a time that one client has begun; 0 is no limit. Further ones are refused with 503.
    pub per_client_max: u32,
    /// Answers at a time that read growing blobs; further ones are refused with 503.
    pub followers_max: u32,
    /// Readers at a time that fetch for themselves what cannot be stored; further ones are
    /// refused with 503.
    pub private_max: usize,
    /// The largest blob, in bytes.
    pub blob_bytes_max: u64,
    /// Whether bounded ranges of a growing blob are served before it is verified.
    pub serve_unverified_ranges: bool,
    /// How long a digest stays strict after content under it was wrong.
    pub condemned_for: Duration,
    /// How long a client waits for response headers before it gets a status instead.
    pub answer_within: Duration,
    /// Transfers at a time for one blob.
    pub connections: usize,
    /// Blobs above this size, in bytes, are fetched in several requests of disjoint ranges, several
    /// at a time where that is quicker.
    pub parallel_above: u64,
    /// How long a fill of which nothing lands goes on asking upstream.
    pub retry_for: Duration,
    /// How long a fill goes on that nobody reads and that is far from its end.
    pub pause_after: Duration,
    /// Spreads the waits of Pierheads whose upstream breaks off at the same moment.
    pub jitter_seed: u64,
    /// Where blobs are written and hashed.
    pub offload: Offload,
}
