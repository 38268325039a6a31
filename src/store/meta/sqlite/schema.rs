//! The tables, and the check that the file is one of ours.

use std::path::Path;

use sqlx::Row as _;
use sqlx::sqlite::SqlitePool;

use super::{BEGIN, failed};
use crate::store::{StoreError, StoreErrorKind};

/// What this Pierhead writes into the file's header (`PRAGMA user_version`).
pub(super) const VERSION: i64 = 2;

/// What the first version wrote. Executed once, in one transaction with what came later. Names in text, because an
/// operator who looks into the file should see them; text compares by bytes.
const SCHEMA: &str = "
CREATE TABLE link (
    upstream TEXT NOT NULL,
    repo TEXT NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER,
    media_type TEXT,
    kind INTEGER NOT NULL,
    PRIMARY KEY (upstream, repo, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE tag (
    upstream TEXT NOT NULL,
    repo TEXT NOT NULL,
    tag TEXT NOT NULL,
    digest TEXT NOT NULL,
    media_type TEXT,
    size INTEGER,
    confirmed_at INTEGER NOT NULL, -- ms since 1970
    seq INTEGER NOT NULL,          -- greater is later, within one tag
    PRIMARY KEY (upstream, repo, tag, digest)
) STRICT, WITHOUT ROWID;

CREATE TABLE denied (
    upstream TEXT NOT NULL,
    repo TEXT NOT NULL,
    since INTEGER NOT NULL,        -- ms since 1970
    PRIMARY KEY (upstream, repo)
) STRICT, WITHOUT ROWID;

CREATE TABLE document (
    id INTEGER PRIMARY KEY,
    upstream TEXT NOT NULL,
    repo TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    bytes BLOB NOT NULL,
    fetched_at INTEGER NOT NULL,   -- ms since 1970
    UNIQUE (upstream, repo, kind, key)
) STRICT;
CREATE INDEX document_by_age ON document (upstream, repo, kind, fetched_at);

CREATE TABLE probe (
    id INTEGER PRIMARY KEY,
    writes INTEGER NOT NULL
) STRICT;
";

/// What the second version added: how content is used, and what is pinned.
const SECOND: &str = "
CREATE INDEX link_by_digest ON link (digest);

CREATE TABLE usage (
    digest TEXT PRIMARY KEY,
    last INTEGER NOT NULL,         -- ms since 1970
    heat REAL NOT NULL,
    stored_at INTEGER NOT NULL,    -- ms since 1970
    upstream TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE part (
    parent TEXT PRIMARY KEY,
    children TEXT NOT NULL         -- digests, a space between them
) STRICT, WITHOUT ROWID;

CREATE TABLE pin (
    upstream TEXT NOT NULL,
    repo TEXT NOT NULL,
    reference TEXT NOT NULL,       -- a tag or a digest
    PRIMARY KEY (upstream, repo, reference)
) STRICT, WITHOUT ROWID;

PRAGMA user_version = 2;
";

/// Creates the tables in an empty file; refuses a file that something else wrote.
pub(super) async fn prepare(writer: &SqlitePool, path: &Path) -> Result<(), StoreError> {
    const DOING: &str = "prepare the database";
    let failed = |cause| failed(path, DOING, cause);
    let refused = |why: String| {
        let doing = format!("use the database {}", path.display());
        StoreError::new(StoreErrorKind::Database, doing, Some(why.into()))
    };

    let mut transaction = writer.begin_with(BEGIN).await.map_err(failed)?;
    let version: i64 = sqlx::query("PRAGMA user_version")
        .fetch_one(&mut *transaction)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed)?;
    let tables: i64 = sqlx::query("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut *transaction)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed)?;
    match version {
        VERSION => {}
        0 if tables == 0 => {
            sqlx::raw_sql(SCHEMA).execute(&mut *transaction).await.map_err(failed)?;
            sqlx::raw_sql(SECOND).execute(&mut *transaction).await.map_err(failed)?;
        }
        1 => {
            sqlx::raw_sql(SECOND).execute(&mut *transaction).await.map_err(failed)?;
        }
        newer if newer > VERSION => {
            return Err(refused(format!(
                "a newer Pierhead wrote it, in format {newer}; this one knows formats up to \
                 {VERSION}: run the newer one, or give this one a storage path of its own"
            )));
        }
        other => {
            return Err(refused(format!(
                "it is no database of Pierhead's (format {other}, with {tables} tables and \
                 indexes): give Pierhead a storage path of its own"
            )));
        }
    }
    transaction.commit().await.map_err(failed)
}
