//! `pierhead plugin inspect`: what a plugin is and could do, without running it.

use std::path::{Path, PathBuf};

use pierhead_plugin_host::{Inspection, LoadError};

/// The largest plugin that is looked at, in bytes.
pub const PLUGIN_BYTES_MAX: u64 = 64 << 20;

/// Why a plugin cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("{0} is larger than 64 MiB, which is more than Pierhead loads")]
    TooLarge(PathBuf),
    /// It is no plugin.
    #[error("{path}: {source}")]
    Load {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: LoadError,
    },
}

/// Reads a plugin's file.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, InspectError> {
    let failed = |source| InspectError::Read { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(failed)?.len() > PLUGIN_BYTES_MAX {
        return Err(InspectError::TooLarge(path.to_owned()));
    }
    std::fs::read(path).map_err(failed)
}

/// Looks at a plugin's file without running it.
///
/// # Errors
/// When it is none.
pub fn inspect(path: &Path) -> Result<Inspection, InspectError> {
    pierhead_plugin_host::inspect(&read(path)?)
        .map_err(|source| InspectError::Load { path: path.to_owned(), source })
}
