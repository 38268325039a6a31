//! Opening the database: its file, and the connections to it.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::{failed, schema};
use crate::store::{StoreError, blocking};

/// Of the database and, as SQLite copies it, of the files beside it.
const FILE_MODE: u32 = 0o640;

/// Connections that read. Each is a thread; reads take microseconds, and the hot ones are answered
/// from memory before they come here.
const READERS_MAX: u32 = 4;

/// How long an operation waits in line for a connection.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a connection waits for one outside our process, such as an operator's shell.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// How large the write-ahead log's file may stay, in bytes.
const LOG_BYTES_MAX: &str = "409600";

/// At how many pages (of 4 KiB) the log is folded into the database.
const LOG_PAGES: &str = "100";

/// How long closing waits for operations that run.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The connections to one file.
#[derive(Clone, Debug)]
pub(super) struct Pools {
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    /// Which file that is, if it has its name still.
    pub(super) file: Option<FileId>,
}

/// Device and number of a file: another one under the same name differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

impl Pools {
    /// Ends the connections, once their work is done.
    pub(super) async fn close(&self) {
        let closed = async {
            self.readers.close().await;
            self.writer.close().await;
        };
        if tokio::time::timeout(CLOSE_WITHIN, closed).await.is_err() {
            tracing::warn!("the database was still being used when it was closed");
        }
    }
}

/// Opens the database at `path`, creating it if it is missing.
pub(super) async fn open(path: &Path) -> Result<Pools, StoreError> {
    create_file(path).await?;
    let options = options(path);
    let failed = |cause| failed(path, "open the database", cause);
    let writer = pool_options(1).connect_with(options.clone()).await.map_err(failed)?;
    schema::prepare(&writer, path).await?;
    let readers = pool_options(READERS_MAX)
        .connect_with(options.pragma("query_only", "ON"))
        .await
        .map_err(failed)?;
    Ok(Pools { writer, readers, file: file_id(path).await? })
}

/// How every connection to the database at `path` is set up.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(BUSY_TIMEOUT)
        // The log counts against storage.max_size: it must not stay as large as it once was.
        .pragma("journal_size_limit", LOG_BYTES_MAX)
        .pragma("wal_autocheckpoint", LOG_PAGES)
}

/// The file at `path`, if there is one. It is not opened: closing a file gives up all locks that
/// the process has on it, SQLite's too.
pub(super) async fn file_id(path: &Path) -> Result<Option<FileId>, StoreError> {
    let path = path.to_owned();
    blocking("look at the database", move || match std::fs::metadata(&path) {
        Ok(metadata) => Ok(Some(FileId(metadata.dev(), metadata.ino()))),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(StoreError::io(format!("look at {}", path.display()), cause)),
    })
    .await
}

fn pool_options(connections_max: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(QUEUE_TIMEOUT)
        // A connection is a file and its cache: there is nothing to gain from a new one.
        .idle_timeout(None)
        .max_lifetime(None)
}

/// Makes sure that there is a file, which others cannot read.
pub(super) async fn create_file(path: &Path) -> Result<(), StoreError> {
    let path = path.to_owned();
    blocking("create the database", move || {
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(|cause| StoreError::io(format!("create {}", path.display()), cause))?;
        Ok(())
    })
    .await
}
