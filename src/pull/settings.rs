//! What an operator can say about pulling.

use std::time::Duration;

use crate::background::Offload;
use crate::oci::RepoName;
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
