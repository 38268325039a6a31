//! Blobs on their way in.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use crate::pull::flight::FillStatus;

/// The fills that run.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FillList {
    /// The fills, the oldest first.
    pub fills: Vec<Fill>,
}

/// A blob on its way in.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Fill {
    /// The blob.
    pub digest: String,
    /// The upstream and repository through which it is asked for.
    pub image: String,
    /// `asking` (upstream has not answered), `growing`, `waiting` (upstream broke off, and is asked
    /// again in a moment), `verified` (and being stored), or for a moment `failed`.
    pub state: String,
    /// How many bytes have landed.
    pub landed_bytes: u64,
    /// How many there are, where upstream said so.
    pub total_bytes: Option<u64>,
    /// How long ago it began, in seconds.
    pub age_seconds: f64,
    /// Bytes a second since it began.
    pub bytes_per_second: f64,
    /// Answers that read from it now.
    pub followers: u64,
    /// Whether nothing of it is sent before all of it is verified, because wrong content came under
    /// its digest a short while ago.
    pub strict: bool,
    /// Transfers from upstream that run for it.
    pub connections: u64,
    /// How often a transfer broke off and was continued.
    pub resumed: u64,
}

/// The blobs that are on their way in.
#[utoipa::path(get, path = "/fills", responses((status = 200, body = FillList)))]
pub(super) async fn list_fills(State(parts): Shared) -> Json<FillList> {
    Json(FillList { fills: parts.puller.fills().into_iter().map(Fill::from).collect() })
}

impl From<FillStatus> for Fill {
    fn from(fill: FillStatus) -> Self {
        let age = fill.age.as_secs_f64();
        Self {
            digest: fill.digest.to_string(),
            image: fill.scope.to_string(),
            state: fill.state.to_owned(),
            landed_bytes: fill.landed,
            total_bytes: fill.total,
            age_seconds: age,
            bytes_per_second: if age > 0.0 { fill.landed as f64 / age } else { 0.0 },
            followers: fill.followers as u64,
            strict: fill.strict,
            connections: fill.connections as u64,
            resumed: fill.resumed,
        }
    }
}
