//! What the process tells of itself: log lines on the standard error, and traces for a collector.
//!
//! | file | what it is about |
//! |---|---|
//! | [`cause`] | which request is behind what is going on: for log lines and for traces |
//! | [`span`] | one piece of work in a trace |
//! | [`otlp`] | the way to the collector: bounded, on a thread of its own |
//! | [`process`] | what the process uses |
//! | [`settings`] | what an operator says of it |

pub mod cause;
mod line;
pub mod otlp;
pub mod process;
pub mod settings;
pub mod span;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

pub use self::cause::{Cause, RequestId};
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
/// [`FILTER_VARIABLE`], if it is set.
pub fn init(level: &str, json: bool, filter: Option<&str>) -> Result<(), TelemetryError> {
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
    let started = if json {
        let builder = builder.json().flatten_event(true);
        builder.map_event_format(line::WithRequest::new).try_init()
    } else {
        builder.map_event_format(|format| line::WithRequest::new(format.with_ansi(ansi))).try_init()
    };
    started.map_err(|error| TelemetryError::Log(error.to_string()))
}
