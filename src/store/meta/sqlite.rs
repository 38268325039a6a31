//! Records in an embedded SQLite database, `<root>/meta-v1.sqlite`.
//!
//! SQLite allows one writer at a time. All writes go through one connection, whose queue is fair
//! and in our hands, so a herd of them waits in line and is never told "database is locked". Reads
//! go through connections of their own: in WAL mode a writer does not keep them waiting.
//!
//! `synchronous=NORMAL`: a crash of the machine may lose the last writes, never the database. What
//! it loses upstream still knows.
//!
//! A database that is damaged or gone is made anew, at the start and while it is used: see
//! [`heal`], [`backup`] and [`tend`].

mod backup;
mod catalog;
mod connect;
mod heal;
mod health;
mod keeping;
mod listing;
mod schema;
mod tend;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Row as _, Sqlite, Transaction};

use self::connect::Pools;
use self::health::Health;
use super::{
    DOCUMENTS_PER_SCOPE_MAX, Document, DocumentKind, Link, LinkKind, MetaStore, TAG_HISTORY_MAX,
    TagRecord,
};
use crate::clock::Timestamp;
use crate::oci::{Digest, Tag};
use crate::scope::Scope;
use crate::store::{StoreError, StoreErrorKind};

/// The database's name below the storage root. The version is that of the whole file.
pub const META_FILE: &str = "meta-v1.sqlite";

/// Takes the write lock at once: a transaction that reads first and then wants to write could be
/// refused halfway.
const BEGIN: &str = "BEGIN IMMEDIATE";

/// A [`MetaStore`] in SQLite. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct SqliteMeta(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    path: PathBuf,
    /// Replaced when the database is made anew.
    pools: RwLock<Pools>,
    health: Health,
}

impl SqliteMeta {
    /// Opens the database below `root`, creating it if it is missing.
    ///
    /// Fails with [`StoreErrorKind::Corrupt`] if the file is damaged or no database, and with
    /// [`StoreErrorKind::Database`] if another version of Pierhead, or something else, wrote it.
    /// Whoever calls holds the lock of `root`. Cancel-safe.
    pub async fn open(root: &Path) -> Result<Self, StoreError> {
        let pools = connect::open(&root.join(META_FILE)).await?;
        Ok(Self::with(root, pools))
    }

    fn with(root: &Path, pools: Pools) -> Self {
        let (root, path) = (root.to_owned(), root.join(META_FILE));
        Self(Arc::new(Shared { root, path, pools: RwLock::new(pools), health: Health::default() }))
    }

    /// Ends all connections, once their work is done, and folds the write-ahead log into the
    /// database. Later operations fail. Not calling it loses nothing, but the next start has to
    /// check the whole database.
    pub async fn close(&self) {
        self.pools().close().await;
    }

    fn pools(&self) -> Pools {
        self.0.pools.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn readers(&self) -> SqlitePool {
        self.pools().readers
    }

    /// For a change of what is known.
    fn writer(&self) -> SqlitePool {
        self.0.health.changes();
        self.pools().writer
    }

    async fn begin(&self, doing: &'static str) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.writer().begin_with(BEGIN).await.map_err(|cause| self.failed(doing, cause))
    }

    fn failed(&self, doing: &str, cause: sqlx::Error) -> StoreError {
        let error = failed(&self.0.path, doing, cause);
        if error.kind() == StoreErrorKind::Corrupt {
            self.0.health.suspect();
        }
        error
    }
}

#[async_trait]
impl MetaStore for SqliteMeta {
    async fn link(&self, scope: &Scope, digest: &Digest) -> Result<Option<Link>, StoreError> {
        let row = sqlx::query(
            "SELECT size, media_type, kind FROM link \
             WHERE upstream = ?1 AND repo = ?2 AND digest = ?3",
        )
        .bind(scope.upstream.as_str())
        .bind(scope.repo.as_str())
        .bind(digest.to_string())
        .fetch_optional(&self.readers())
        .await
        .map_err(|cause| self.failed("read a link", cause))?;
        Ok(row.and_then(|row| parsed("link", scope, parse_link(&row))))
    }

    async fn put_links(&self, scope: &Scope, links: &[(Digest, Link)]) -> Result<(), StoreError> {
        const DOING: &str = "record links";
        let failed = |cause| self.failed(DOING, cause);
        let mut transaction = self.begin(DOING).await?;
        for (digest, link) in links {
            // The same as `Link::merged`.
            sqlx::query(
                "INSERT INTO link (upstream, repo, digest, size, media_type, kind) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                 ON CONFLICT DO UPDATE SET \
                   size = coalesce(excluded.size, size), \
                   media_type = coalesce(excluded.media_type, media_type), \
                   kind = max(excluded.kind, kind)",
            )
            .bind(scope.upstream.as_str())
            .bind(scope.repo.as_str())
            .bind(digest.to_string())
            .bind(size_to_sql(link.size))
            .bind(link.media_type.as_deref())
            .bind(kind_to_sql(link.kind))
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    async fn remove_link(&self, scope: &Scope, digest: &Digest) -> Result<bool, StoreError> {
        let done =
            sqlx::query("DELETE FROM link WHERE upstream = ?1 AND repo = ?2 AND digest = ?3")
                .bind(scope.upstream.as_str())
                .bind(scope.repo.as_str())
                .bind(digest.to_string())
                .execute(&self.writer())
                .await
                .map_err(|cause| self.failed("remove a link", cause))?;
        self.forget_backup().await?;
        Ok(done.rows_affected() > 0)
    }

    async fn tag_history(&self, scope: &Scope, tag: &Tag) -> Result<Vec<TagRecord>, StoreError> {
        let rows = sqlx::query(
            "SELECT digest, media_type, size, confirmed_at FROM tag \
             WHERE upstream = ?1 AND repo = ?2 AND tag = ?3 ORDER BY seq DESC",
        )
        .bind(scope.upstream.as_str())
        .bind(scope.repo.as_str())
        .bind(tag.as_str())
        .fetch_all(&self.readers())
        .await
        .map_err(|cause| self.failed("read a tag", cause))?;
        Ok(rows.iter().filter_map(|row| parsed("tag", scope, parse_tag(row))).collect())
    }

    async fn put_tag(
        &self,
        scope: &Scope,
        tag: &Tag,
        record: &TagRecord,
    ) -> Result<(), StoreError> {
        const DOING: &str = "record a tag";
        let failed = |cause| self.failed(DOING, cause);
        let mut transaction = self.begin(DOING).await?;
        sqlx::query(
            "INSERT INTO tag (upstream, repo, tag, digest, media_type, size, confirmed_at, seq) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, \
               (SELECT coalesce(max(seq), 0) + 1 FROM tag \
                WHERE upstream = ?1 AND repo = ?2 AND tag = ?3)) \
             ON CONFLICT DO UPDATE SET \
               media_type = coalesce(excluded.media_type, media_type), \
               size = coalesce(excluded.size, size), \
               confirmed_at = excluded.confirmed_at, \
               seq = excluded.seq",
        )
        .bind(scope.upstream.as_str())
        .bind(scope.repo.as_str())
        .bind(tag.as_str())
        .bind(record.digest.to_string())
        .bind(record.media_type.as_deref())
        .bind(size_to_sql(record.size))
        .bind(time_to_sql(record.confirmed_at))
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        sqlx::query(
            "DELETE FROM tag WHERE upstream = ?1 AND repo = ?2 AND tag = ?3 AND digest NOT IN \
               (SELECT digest FROM tag WHERE upstream = ?1 AND repo = ?2 AND tag = ?3 \
                ORDER BY seq DESC LIMIT ?4)",
        )
        .bind(scope.upstream.as_str())
        .bind(scope.repo.as_str())
        .bind(tag.as_str())
        .bind(TAG_HISTORY_MAX as i64)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    async fn tags(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Tag>, StoreError> {
        let mut tags = Vec::new();
        // No tag is empty, so all of them come after the empty text.
        let mut after = after.unwrap_or_default().to_owned();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        // Again only where damaged rows were skipped: a short answer would mean the end.
        while tags.len() < limit {
            let wanted = limit - tags.len();
            let rows = sqlx::query(
                "SELECT DISTINCT tag FROM tag WHERE upstream = ?1 AND repo = ?2 AND tag > ?3 \
                 ORDER BY tag LIMIT ?4",
            )
            .bind(scope.upstream.as_str())
            .bind(scope.repo.as_str())
            .bind(after.as_str())
            .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
            .fetch_all(&self.readers())
            .await
            .map_err(|cause| self.failed("list tags", cause))?;
            let end = rows.len() < wanted;
            for row in rows {
                let Ok(text) = row.try_get::<String, _>(0) else { return Ok(tags) };
                tags.extend(parsed("tag", scope, text.parse().map_err(Damaged::from)));
                after = text;
            }
            if end {
                break;
            }
        }
        Ok(tags)
    }

    async fn scopes(&self, after: Option<&Scope>, limit: u32) -> Result<Vec<Scope>, StoreError> {
        self.known_scopes(after, limit).await
    }

    async fn manifests(
        &self,
        scope: &Scope,
        after: Option<&Digest>,
        limit: u32,
    ) -> Result<Vec<Digest>, StoreError> {
        self.known_manifests(scope, after, limit).await
    }

    async fn list_tags(
        &self,
        after: Option<(&Scope, &str)>,
        limit: u32,
    ) -> Result<Vec<(Scope, Tag, TagRecord)>, StoreError> {
        self.tags_of_all(after, limit).await
    }

    async fn remove_tag(&self, scope: &Scope, tag: &Tag) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM tag WHERE upstream = ?1 AND repo = ?2 AND tag = ?3")
            .bind(scope.upstream.as_str())
            .bind(scope.repo.as_str())
            .bind(tag.as_str())
            .execute(&self.writer())
            .await
            .map_err(|cause| self.failed("remove a tag", cause))?;
        self.forget_backup().await?;
        Ok(done.rows_affected() > 0)
    }

    async fn forget_scope(&self, scope: &Scope) -> Result<Vec<Digest>, StoreError> {
        let forgotten = self.remove_scope(scope).await?;
        self.forget_backup().await?;
        Ok(forgotten)
    }

    async fn linked(&self, digests: &[Digest]) -> Result<HashSet<Digest>, StoreError> {
        self.linked_anywhere(digests).await
    }

    async fn denied_since(&self, scope: &Scope) -> Result<Option<Timestamp>, StoreError> {
        let row = sqlx::query("SELECT since FROM denied WHERE upstream = ?1 AND repo = ?2")
            .bind(scope.upstream.as_str())
            .bind(scope.repo.as_str())
            .fetch_optional(&self.readers())
            .await
            .map_err(|cause| self.failed("read a refusal", cause))?;
        Ok(row.and_then(|row| parsed("denied", scope, time_from_sql(&row, "since"))))
    }

    async fn set_denied(&self, scope: &Scope, since: Option<Timestamp>) -> Result<(), StoreError> {
        let query = match since {
            Some(_) => {
                "INSERT INTO denied (upstream, repo, since) VALUES (?1, ?2, ?3) \
                 ON CONFLICT DO UPDATE SET since = excluded.since WHERE excluded.since < since"
            }
            None => "DELETE FROM denied WHERE upstream = ?1 AND repo = ?2",
        };
        let mut query = sqlx::query(query).bind(scope.upstream.as_str()).bind(scope.repo.as_str());
        if let Some(since) = since {
            query = query.bind(time_to_sql(since));
        }
        let done = query
            .execute(&self.writer())
            .await
            .map_err(|cause| self.failed("record a refusal", cause))?;
        // A backup from before would serve what is refused, if it knows anything of it: clients can
        // name what does not exist.
        if since.is_some() && done.rows_affected() > 0 && self.knows(scope).await? {
            self.forget_backup().await?;
        }
        Ok(())
    }

    async fn document(
        &self,
        scope: &Scope,
        kind: DocumentKind,
        key: &str,
    ) -> Result<Option<Document>, StoreError> {
        let row = sqlx::query(
            "SELECT bytes, fetched_at FROM document \
             WHERE upstream = ?1 AND repo = ?2 AND kind = ?3 AND key = ?4",
        )
        .bind(scope.upstream.as_str())
        .bind(scope.repo.as_str())
        .bind(kind.as_str())
        .bind(key)
        .fetch_optional(&self.readers())
        .await
        .map_err(|cause| self.failed("read a document", cause))?;
        Ok(row.and_then(|row| parsed("document", scope, parse_document(&row))))
    }

    async fn put_document(
        &self,
        scope: &Scope,
        kind: DocumentKind,
        key: &str,
        document: &Document,
    ) -> Result<(), StoreError> {
        const DOING: &str = "record a document";
        let failed = |cause| self.failed(DOING, cause);
        let mut transaction = self.begin(DOING).await?;
        sqlx::query(
            "INSERT INTO document (upstream, repo, kind, key, bytes, fetched_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT DO UPDATE SET bytes = excluded.bytes, fetched_at = excluded.fetched_at",
        )
        .bind(scope.upstream.as_str())
        .bind(scope.repo.as_str())
        .bind(kind.as_str())
        .bind(key)
        .bind(document.bytes.as_ref())
        .bind(time_to_sql(document.fetched_at))
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        // All but this one and the latest of the others.
        sqlx::query(
            "DELETE FROM document WHERE id IN \
               (SELECT id FROM document \
                WHERE upstream = ?1 AND repo = ?2 AND kind = ?3 AND key <> ?4 \
                ORDER BY fetched_at DESC LIMIT -1 OFFSET ?5)",
        )
        .bind(scope.upstream.as_str())
        .bind(scope.repo.as_str())
        .bind(kind.as_str())
        .bind(key)
        .bind(DOCUMENTS_PER_SCOPE_MAX as i64 - 1)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    async fn probe(&self) -> Result<(), StoreError> {
        const DOING: &str = "probe the database";
        if self.0.health.is_suspect() {
            let doing = format!("{DOING} {}", self.0.path.display());
            return Err(StoreError::corrupt(doing, "it is damaged and about to be made anew"));
        }
        let pools = self.pools();
        sqlx::query(
            "INSERT INTO probe (id, writes) VALUES (1, 1) \
             ON CONFLICT DO UPDATE SET writes = (writes + 1) % 1000000",
        )
        .execute(&pools.writer)
        .await
        .map_err(|cause| self.failed(DOING, cause))?;
        sqlx::query("SELECT writes FROM probe")
            .fetch_optional(&pools.readers)
            .await
            .map_err(|cause| self.failed(DOING, cause))?;
        Ok(())
    }

    fn remarks(&self) -> Vec<String> {
        self.0.health.remarks()
    }
}

/// Primary result codes of SQLite that mean something to us (`sqlite3.h`).
mod code {
    pub(super) const READONLY: u32 = 8;
    pub(super) const IOERR: u32 = 10;
    pub(super) const CORRUPT: u32 = 11;
    pub(super) const FULL: u32 = 13;
    pub(super) const CANTOPEN: u32 = 14;
    pub(super) const NOTADB: u32 = 26;
}

fn failed(path: &Path, doing: &str, cause: sqlx::Error) -> StoreError {
    let code = cause.as_database_error().and_then(|error| error.code()?.parse::<u32>().ok());
    // The low byte is the primary code, whatever extends it.
    let kind = match code.map(|code| code & 0xff) {
        Some(code::READONLY) => StoreErrorKind::ReadOnly,
        Some(code::FULL) => StoreErrorKind::NoSpace,
        Some(code::IOERR | code::CANTOPEN) => StoreErrorKind::Io,
        Some(code::CORRUPT | code::NOTADB) => StoreErrorKind::Corrupt,
        _ => StoreErrorKind::Database,
    };
    let doing = format!("{doing} in {}", path.display());
    if kind == StoreErrorKind::Corrupt {
        return StoreError::corrupt(
            doing,
            format!(
                "{cause}; `pierhead serve` moves it aside and goes on with its last backup, or \
                 without what it knew"
            ),
        );
    }
    StoreError::new(kind, doing, Some(Box::new(cause)))
}

/// Why a row is no record.
type Damaged = Box<dyn std::error::Error + Send + Sync>;

/// The record of a row, or none, with a word in the log, if the row is damaged.
fn parsed<T>(table: &'static str, scope: &Scope, record: Result<T, Damaged>) -> Option<T> {
    record
        .inspect_err(|error| {
            tracing::warn!(table, %scope, %error, "a damaged record is taken for absent");
        })
        .ok()
}

impl SqliteMeta {
    /// Whether anything is known of that repository that could be served.
    async fn knows(&self, scope: &Scope) -> Result<bool, StoreError> {
        sqlx::query_scalar(
            "SELECT EXISTS(SELECT 1 FROM link WHERE upstream = ?1 AND repo = ?2) \
             OR EXISTS(SELECT 1 FROM tag WHERE upstream = ?1 AND repo = ?2)",
        )
        .bind(scope.upstream.as_str())
        .bind(scope.repo.as_str())
        .fetch_one(&self.readers())
        .await
        .map_err(|cause| self.failed("look for a repository", cause))
    }
}

fn parse_link(row: &SqliteRow) -> Result<Link, Damaged> {
    Ok(Link {
        size: size_from_sql(row)?,
        media_type: row.try_get("media_type")?,
        kind: match row.try_get("kind")? {
            KIND_NAMED => LinkKind::Named,
            KIND_BLOB => LinkKind::Blob,
            KIND_MANIFEST => LinkKind::Manifest,
            other => return Err(format!("{other} is no kind of link").into()),
        },
    })
}

fn parse_tag(row: &SqliteRow) -> Result<TagRecord, Damaged> {
    Ok(TagRecord {
        digest: row.try_get::<&str, _>("digest")?.parse()?,
        media_type: row.try_get("media_type")?,
        size: size_from_sql(row)?,
        confirmed_at: time_from_sql(row, "confirmed_at")?,
    })
}

fn parse_document(row: &SqliteRow) -> Result<Document, Damaged> {
    Ok(Document {
        bytes: Bytes::from(row.try_get::<Vec<u8>, _>("bytes")?),
        fetched_at: time_from_sql(row, "fetched_at")?,
    })
}

// The numbers are in the files of users. Their order is that of `LinkKind`: `put_links` takes the
// greater.
const KIND_NAMED: i64 = 0;
const KIND_BLOB: i64 = 1;
const KIND_MANIFEST: i64 = 2;

const fn kind_to_sql(kind: LinkKind) -> i64 {
    match kind {
        LinkKind::Named => KIND_NAMED,
        LinkKind::Blob => KIND_BLOB,
        LinkKind::Manifest => KIND_MANIFEST,
    }
}

/// Sizes are hints: one beyond all reason is no hint.
fn size_to_sql(size: Option<u64>) -> Option<i64> {
    size.and_then(|size| i64::try_from(size).ok())
}

fn size_from_sql(row: &SqliteRow) -> Result<Option<u64>, Damaged> {
    Ok(row.try_get::<Option<i64>, _>("size")?.map(u64::try_from).transpose()?)
}

fn time_to_sql(time: Timestamp) -> i64 {
    i64::try_from(time.unix_ms()).unwrap_or(i64::MAX)
}

fn time_from_sql(row: &SqliteRow, column: &str) -> Result<Timestamp, Damaged> {
    Ok(Timestamp::from_unix_ms(u64::try_from(row.try_get::<i64, _>(column)?)?))
}
