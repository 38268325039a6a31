//! Wires everything: the only file that knows all concrete types.

use std::io;

use crate::config::Config;

/// Why serving ended in failure.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The threads of the runtime could not be started.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
}

/// Serves until it is told to stop.
///
/// # Errors
/// When what it needs cannot be set up.
pub fn serve(config: Config) -> Result<(), AppError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(AppError::Runtime)?;
    runtime.block_on(async move { drop(config) });
    Ok(())
}
