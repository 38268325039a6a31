//! What the process tells of itself: log lines on the standard error, and traces for a collector.
//!
//! | file | what it is about |
//! |---|---|
//! | [`cause`] | which request is behind what is going on: for log lines and for traces |
//! | [`span`] | one piece of work in a trace |
//! | [`otlp`] | the way to the collector: bounded, on a thread of its own |
//! | [`filter`] | what is logged, and changing that while the process runs |
//! | [`process`] | what the process uses |
//! | [`settings`] | what an operator says of it |

pub mod cause;
pub mod filter;
mod line;
pub mod otlp;
pub mod process;
pub mod settings;
pub mod span;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

pub use self::cause::{Cause, RequestId};
use self::filter::LogFilter;
pub use self::span::{Answered, Span};

/// Replaces the configured level where finer filters are needed (`RUST_LOG`'s syntax).
pub const FILTER_VARIABLE: &str = "PIERHEAD_LOG";

/// The logs or traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Something in this process set up logs before, or the filter is none.
    #[error("cannot set up logging: {0}")]
    Log(String),
    /// The exporter of traces could not be made.
    #[error("cannot set up traces: {0}")]
    Traces(String),
}

/// Starts logging at `level` (`info` and the like); `filter` is the content of
/// [`FILTER_VARIABLE`], if it is set. What comes back changes what is logged.
pub fn init(level: &str, json: bool, filter: Option<&str>) -> Result<LogFilter, TelemetryError> {
    let configured = filter.unwrap_or(level);
    let filter = match filter {
        Some(filter) => {
            EnvFilter::try_new(filter).map_err(|error| TelemetryError::Log(error.to_string()))?
        }
        None => EnvFilter::new(level),
    };
    let ansi = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi);
    // The way to change the filter depends on everything else, so it is asked for last.
    let (started, filter) = if json {
        let builder = builder.json().flatten_event(true);
        let builder = builder.map_event_format(line::WithRequest::new).with_filter_reloading();
        let filter = LogFilter::new(configured, builder.reload_handle());
        (builder.try_init(), filter)
    } else {
        let builder = builder
            .map_event_format(|format| line::WithRequest::new(format.with_ansi(ansi)))
            .with_filter_reloading();
        let filter = LogFilter::new(configured, builder.reload_handle());
        (builder.try_init(), filter)
    };
    started.map(|()| filter).map_err(|error| TelemetryError::Log(error.to_string()))
}
