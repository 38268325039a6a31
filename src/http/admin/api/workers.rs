//! Background work: what each worker is doing, and how its last round went.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::time::rfc3339;
use crate::background::WorkerStatus;

/// All background work.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkerList {
    /// The workers, by name.
    pub workers: Vec<Worker>,
}

/// One worker.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// Its name.
    pub name: String,
    /// `running`, `waiting` (for its next round) or `stopped`.
    pub state: String,
    /// How far the running round is, or how far the last one came.
    pub progress: Option<WorkerProgress>,
    /// Rounds that ended.
    pub rounds: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// Why the last round failed, if it did.
    pub last_error: Option<String>,
    /// When the last round ended.
    pub last_ended: Option<String>,
    /// How long the last round took, in seconds.
    pub last_seconds: Option<f64>,
}

/// How far a round is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkerProgress {
    /// How much is done.
    pub done: u64,
    /// Of how much, where that is known.
    pub total: Option<u64>,
    /// What is counted: `bytes`, for example.
    pub unit: String,
}

/// What each worker is doing.
#[utoipa::path(get, path = "/workers", responses((status = 200, body = WorkerList)))]
pub(super) async fn list_workers(State(parts): Shared) -> Json<WorkerList> {
    let workers = parts.workers.list().into_iter().map(Worker::from).collect();
    Json(WorkerList { workers })
}

impl From<WorkerStatus> for Worker {
    fn from(status: WorkerStatus) -> Self {
        Self {
            name: status.name.to_owned(),
            state: status.state.as_str().to_owned(),
            progress: status.progress.map(|progress| WorkerProgress {
                done: progress.done,
                total: progress.total,
                unit: progress.unit.to_owned(),
            }),
            rounds: status.rounds,
            failures: status.failures,
            last_error: status.last_error,
            last_ended: status.last_ended.map(rfc3339),
            last_seconds: status.last_took.map(|took| took.as_secs_f64()),
        }
    }
}
