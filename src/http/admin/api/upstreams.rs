//! The upstream registries, and how talking to them went lately.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::time::rfc3339;
use crate::pull::inspect::UpstreamStatus;
use crate::upstream::{EndpointStatus, RateLimit as Limit};

/// The upstreams.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UpstreamList {
    /// The upstreams, by name.
    pub upstreams: Vec<Upstream>,
}

/// An upstream registry.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Upstream {
    /// What clients call it.
    pub name: String,
    /// `untried` (not asked since the start), `up`, or `in_trouble` (every endpoint that was asked
    /// failed last time).
    pub state: String,
    /// Whether Pierhead logs in there.
    pub has_credentials: bool,
    /// Its endpoints, in the order in which they are asked.
    pub endpoints: Vec<Endpoint>,
    /// What it last said about how often we may ask, if it ever did.
    pub rate_limit: Option<RateLimit>,
}

/// One endpoint of an upstream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// Where it is.
    pub url: String,
    /// `untried`, `up`, or `in_trouble` (it failed last time).
    pub state: String,
    /// Whether it is asked after the others for some seconds, or not at all.
    pub resting: bool,
    /// Whether it is asked at all: `closed` (it is), `open` (it failed too often in a row and is
    /// not), `half_open` (one question is finding out whether it works again), or `limited` (it
    /// said how long it wants to be left alone, and is).
    pub circuit: String,
    /// Since when that is so, if it was ever otherwise.
    pub circuit_since: Option<String>,
    /// From when on one question is let through to see whether it works again.
    pub next_probe: Option<String>,
    /// When it last answered, if only with "not found".
    pub last_answer: Option<String>,
    /// When it last failed to.
    pub last_failure: Option<String>,
    /// Why it failed then.
    pub last_error: Option<String>,
}

/// How often an upstream may be asked.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RateLimit {
    /// How many pulls there are in a window.
    pub limit: Option<u64>,
    /// How many are left.
    pub remaining: u64,
    /// How long a window is, in seconds.
    pub window_seconds: Option<u64>,
    /// When the upstream said so.
    pub at: String,
    /// Until none is left, in seconds, if pulls go on as in the last hour; absent if they would
    /// last for ever.
    pub exhausted_in_seconds: Option<u64>,
    /// Until there is a new allowance, in seconds, at the latest; absent if there is one by now.
    pub restored_in_seconds: Option<u64>,
}

/// The upstreams, and how talking to them went lately.
#[utoipa::path(get, path = "/upstreams", responses((status = 200, body = UpstreamList)))]
pub(super) async fn list_upstreams(State(parts): Shared) -> Json<UpstreamList> {
    Json(UpstreamList {
        upstreams: parts.puller.upstreams().into_iter().map(Upstream::from).collect(),
    })
}

impl From<UpstreamStatus> for Upstream {
    fn from(status: UpstreamStatus) -> Self {
        let endpoints: Vec<_> = status.endpoints.into_iter().map(Endpoint::from).collect();
        let is = |state: &str| endpoints.iter().any(|endpoint| endpoint.state == state);
        let state = match (is("up"), is("in_trouble")) {
            (true, _) => "up",
            (false, true) => "in_trouble",
            (false, false) => "untried",
        };
        Self {
            name: status.name.to_string(),
            state: state.to_owned(),
            has_credentials: status.has_credentials,
            endpoints,
            rate_limit: status.rate_limit.map(RateLimit::from),
        }
    }
}

impl From<EndpointStatus> for Endpoint {
    fn from(status: EndpointStatus) -> Self {
        let state = match (status.answered_at, status.failed_at) {
            (None, None) => "untried",
            (answered, failed) if answered >= failed => "up",
            _ => "in_trouble",
        };
        Self {
            url: status.url.to_string(),
            state: state.to_owned(),
            resting: status.resting,
            circuit: status.circuit.as_str().to_owned(),
            circuit_since: status.circuit_since.map(rfc3339),
            next_probe: status.next_probe.map(rfc3339),
            last_answer: status.answered_at.map(rfc3339),
            last_failure: status.failed_at.map(rfc3339),
            last_error: status.failure.map(|failure| failure.to_string()),
        }
    }
}

impl From<Limit> for RateLimit {
    fn from(limit: Limit) -> Self {
        Self {
            limit: limit.limit,
            remaining: limit.remaining,
            window_seconds: limit.window.map(|window| window.as_secs()),
            at: rfc3339(limit.at),
            exhausted_in_seconds: limit.exhausted_in.map(|left| left.as_secs()),
            restored_in_seconds: limit.restored_in.map(|left| left.as_secs()),
        }
    }
}
