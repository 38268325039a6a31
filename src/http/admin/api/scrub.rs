//! Verifying what is stored anew.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ErrorBody, Problem};
use super::time::rfc3339;
use super::workers::Worker;
use super::{ApiParts, Shared};
use crate::keep::scrub::{SCRUB_WORKER, ScrubSummary as Summary};

/// The verification of what is stored.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Scrub {
    /// What it is doing.
    pub worker: Worker,
    /// What the last whole round found, also if that was before a restart.
    pub last: Option<ScrubSummary>,
}

/// What a whole round found.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScrubSummary {
    /// When it ended.
    pub ended: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Blobs and manifests that were read.
    pub checked: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that were not what their digests say. They were removed, and the next pull fetches
    /// them.
    pub damaged: u64,
    /// The first hundred of them.
    pub damaged_digests: Vec<String>,
    /// Those that could not be read. They stay: the disk may be well again.
    pub unreadable: u64,
}

/// The verification of what is stored: what it is doing, and what it last found.
#[utoipa::path(
    get,
    path = "/scrub",
    responses((status = 200, body = Scrub), (status = 503, body = ErrorBody))
)]
pub(super) async fn get_scrub(State(parts): Shared) -> Result<Json<Scrub>, Problem> {
    state(&parts).map(Json)
}

/// Verify what is stored now. What is damaged is removed. A round that runs is followed by another.
#[utoipa::path(
    post,
    path = "/scrub",
    responses((status = 200, body = Scrub), (status = 503, body = ErrorBody))
)]
pub(super) async fn start_scrub(State(parts): Shared) -> Result<Json<Scrub>, Problem> {
    let before = state(&parts)?;
    parts.workers.wake(SCRUB_WORKER);
    Ok(Json(before))
}

fn state(parts: &ApiParts) -> Result<Scrub, Problem> {
    let worker = parts.workers.list().into_iter().find(|worker| worker.name == SCRUB_WORKER);
    let worker = worker.ok_or_else(Problem::stopping)?;
    Ok(Scrub { worker: worker.into(), last: parts.scrub.last().map(ScrubSummary::from) })
}

impl From<Summary> for ScrubSummary {
    fn from(summary: Summary) -> Self {
        Self {
            ended: rfc3339(summary.ended),
            seconds: summary.took.as_secs_f64(),
            checked: summary.checked,
            bytes: summary.bytes,
            damaged: summary.damaged,
            damaged_digests: summary.damaged_digests.iter().map(ToString::to_string).collect(),
            unreadable: summary.unreadable,
        }
    }
}
