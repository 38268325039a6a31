//! Images out of the cache and into another: `export` writes what was pulled as an OCI image
//! layout in a tar stream, `import` reads one.
//!
//! | file | what it is about |
//! |---|---|
//! | [`export`] | from the stores to a stream |
//! | [`import`] | from a stream that nobody vouches for to the stores |
//! | [`layout`] | the names and JSON files of a layout |
//! | [`archive`] | tar, read and written piece by piece |
//! | [`folder`] | the same layout in a directory |
//! | `walk` | what an image consists of, and what of that is there |
//!
//! Two rules keep access what it was. An export holds of an image only what was proven to belong
//! to its repository, and says what it leaves out. An import proves only what it carries: a
//! layout that names a blob does not open that blob to the repository, having its bytes does.
//!
//! Source: OCI image-spec, `image-layout.md` and `annotations.md`.

pub mod archive;
pub mod export;
pub mod folder;
pub mod import;
pub mod layout;
mod report;
mod walk;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub use self::archive::ArchiveError;
pub use self::export::{Exporting, export};
pub use self::import::{Importing, import};
pub use self::layout::ImageRef;
pub use self::report::{
    ExportReport, ExportedImage, FailedImage, ImportReport, ImportedImage, TagOutcome,
};

use crate::clock::Clock;
use crate::store::{BlobStore, Hot, MetaStore, Notes, StoreError};

/// Pieces of a stream that may wait for whoever takes them.
pub const PIECES_WAITING_MAX: usize = 8;

/// The length of a piece, in bytes.
pub const PIECE_BYTES: usize = 256 * 1024;

/// A stream of bytes with an explicit failure. That it ends is judged by whoever reads it: a tar
/// stream says where its end is.
pub type Pieces = mpsc::Receiver<io::Result<Bytes>>;

/// What there is to be exported, and where imports go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Holdings {
    /// Content.
    pub blobs: Arc<dyn BlobStore>,
    /// Links and tags.
    pub meta: Arc<dyn MetaStore>,
    /// Memory in front of it, which is told what changed.
    pub hot: Hot,
    /// Who decides what stays is told what came.
    pub notes: Arc<dyn Notes>,
    /// The time.
    pub clock: Clock,
}

/// Why nothing was transferred.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive is none, or none that is accepted.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Whoever took the stream is gone.
    #[error("nobody takes the export any more")]
    Abandoned,
    /// A blob changed under the reader.
    #[error("{0} was damaged while it was written out; the archive is cut off")]
    Damaged(crate::oci::Digest),
    /// A file of a directory could not be read or written.
    #[error("cannot {doing}: {source}")]
    File {
        /// What was tried.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The process is ending.
    #[error("the process is ending")]
    Ending,
}

impl TransferError {
    fn file(doing: impl fmt::Display, source: io::Error) -> Self {
        Self::File { doing: doing.to_string(), source }
    }
}

/// Runs work that hashes and touches the disk on a thread of its own.
///
/// Cancel-safe in this sense: the work runs on if the future is dropped, and ends at its next
/// piece, because its stream is gone.
async fn on_a_thread<T, F>(work: F) -> Result<T, TransferError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, TransferError>> + Send + 'static,
{
    let handle = Handle::current();
    let done = tokio::task::spawn_blocking(move || handle.block_on(work)).await;
    done.unwrap_or(Err(TransferError::Ending))
}
