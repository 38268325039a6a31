//! Logs: one line per event on the standard error, as text or JSON.

pub mod filter;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use self::filter::LogFilter;

/// Replaces the configured level where finer filters are needed (`RUST_LOG`'s syntax).
pub const FILTER_VARIABLE: &str = "PIERHEAD_LOG";

/// The logs could not be set up: something in this process did so before.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up logging: {0}")]
pub struct TelemetryError(String);

/// Starts logging at `level` (`info` and the like); `filter` is the content of
/// [`FILTER_VARIABLE`], if it is set. What comes back changes what is logged.
pub fn init(level: &str, json: bool, filter: Option<&str>) -> Result<LogFilter, TelemetryError> {
    let configured = filter.unwrap_or(level);
    let filter = match filter {
        Some(filter) => {
            EnvFilter::try_new(filter).map_err(|error| TelemetryError(error.to_string()))?
        }
        None => EnvFilter::new(level),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Last, as the way to change the filter depends on everything else.
    let (started, filter) = if json {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let filter = LogFilter::new(configured, builder.reload_handle());
        (builder.try_init(), filter)
    } else {
        let builder = builder.with_filter_reloading();
        let filter = LogFilter::new(configured, builder.reload_handle());
        (builder.try_init(), filter)
    };
    started.map(|()| filter).map_err(|error| TelemetryError(error.to_string()))
}
