//! The configuration in force.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;

/// The configuration in force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConfigInForce {
    /// Every key, by section.
    pub settings: Vec<Setting>,
    /// What the operator should know although it is allowed.
    pub notices: Vec<String>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// The key with its section.
    #[schema(examples("server.listen"))]
    pub key: String,
    /// The value that counts; null where none was set and there is no default. Secrets stand in
    /// files, of which this shows the paths.
    pub value: serde_json::Value,
    /// The line of the file, or the variable, that set it; absent for a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(examples("line 12", "PIERHEAD_SERVER__LISTEN"))]
    pub set_by: Option<String>,
}

/// The configuration in force: every key with its value, and where that came from.
#[utoipa::path(get, path = "/config", responses((status = 200, body = ConfigInForce)))]
pub(super) async fn get_config(State(parts): Shared) -> Json<ConfigInForce> {
    Json(parts.config.clone())
}
