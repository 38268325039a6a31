//! What Pierhead keeps: blobs, what is known about them, and the hot part of both in memory.
//!
//! Nothing above this layer sees a file path or a line of SQL. Each trait has one conformance
//! suite that runs on every implementation.

pub mod blob;
mod error;
pub mod hot;
pub mod meta;
pub mod note;
pub mod uses;

pub use blob::{
    Blob, BlobStore, Evicted, Expect, Parked, ReadAt, Recorded, Recorder, RoomUse, Spool, SpoolKey,
};
pub use error::{StoreError, StoreErrorKind};
pub use hot::{Hot, HotOptions};
pub use meta::{
    Document, DocumentKind, KeepingStore, Link, LinkKind, MetaStore, Pin, TagRecord, UsageRecord,
};
pub use uses::{NoUses, Uses};

/// Runs `work` on the blocking pool; `doing` ("read a blob") is for the message should it fail to
/// run at all.
///
/// Cancel-safe in this sense: `work` runs to its end also if the future is dropped.
async fn blocking<T, F>(doing: &'static str, work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StoreError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // It panicked, or the runtime is being shut down.
        Err(cause) => Err(StoreError::new(StoreErrorKind::Io, doing, Some(Box::new(cause)))),
    }
}
