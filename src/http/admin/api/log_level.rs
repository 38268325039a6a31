//! What is logged.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::error::{ErrorBody, Problem};
use super::extract::Payload;
use crate::telemetry::filter::{FilterError, LogFilter};

/// What is logged.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogLevel {
    /// What counts now: a level, or levels of targets.
    #[schema(examples("info,pierhead::upstream=debug"))]
    pub filter: String,
    /// What the configuration says.
    pub configured: String,
}

/// What is to be logged.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetLogLevel {
    /// A level (`off`, `error`, `warn`, `info`, `debug`, `trace`), or levels of targets.
    #[schema(examples("info,pierhead::upstream=debug"))]
    pub filter: String,
}

/// What is logged.
#[utoipa::path(get, path = "/log-level", responses((status = 200, body = LogLevel)))]
pub(super) async fn get_log_level(State(parts): Shared) -> Json<LogLevel> {
    Json(state(&parts.log))
}

/// Log something else from now on, until the process ends or the level is set back.
#[utoipa::path(
    put,
    path = "/log-level",
    request_body = SetLogLevel,
    responses((status = 200, body = LogLevel), (status = 400, body = ErrorBody))
)]
pub(super) async fn set_log_level(
    State(parts): Shared,
    Payload(wanted): Payload<SetLogLevel>,
) -> Result<Json<LogLevel>, Problem> {
    parts.log.set(&wanted.filter)?;
    Ok(Json(state(&parts.log)))
}

/// Log what the configuration says.
#[utoipa::path(delete, path = "/log-level", responses((status = 200, body = LogLevel)))]
pub(super) async fn reset_log_level(State(parts): Shared) -> Result<Json<LogLevel>, Problem> {
    parts.log.reset()?;
    Ok(Json(state(&parts.log)))
}

fn state(log: &LogFilter) -> LogLevel {
    LogLevel { filter: log.current().to_string(), configured: log.configured().to_string() }
}

impl From<FilterError> for Problem {
    fn from(error: FilterError) -> Self {
        Self::bad_request(error).help("such as `debug`, or `info,pierhead::upstream=debug`")
    }
}
