//! What there is at all, page by page: read when everything is exported.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Damaged, KIND_MANIFEST, SqliteMeta, parsed};
use crate::oci::Digest;
use crate::scope::Scope;
use crate::store::StoreError;

impl SqliteMeta {
    /// See [`MetaStore::scopes`](crate::store::MetaStore::scopes).
    pub(super) async fn known_scopes(
        &self,
        after: Option<&Scope>,
        limit: u32,
    ) -> Result<Vec<Scope>, StoreError> {
        // Texts compare by bytes, as scopes do; no name is empty.
        let (upstream, repo) =
            after.map(|scope| (scope.upstream.as_str(), scope.repo.as_str())).unwrap_or_default();
        let rows = sqlx::query(
            "SELECT DISTINCT upstream, repo FROM link \
             WHERE kind = ?1 AND (upstream, repo) > (?2, ?3) \
             ORDER BY upstream, repo LIMIT ?4",
        )
        .bind(KIND_MANIFEST)
        .bind(upstream)
        .bind(repo)
        .bind(i64::from(limit))
        .fetch_all(&self.readers())
        .await
        .map_err(|cause| self.failed("list the repositories", cause))?;
        let parse = |row: &SqliteRow| -> Result<Scope, Damaged> {
            let (upstream, repo) = (row.try_get::<&str, _>("upstream")?, row.try_get("repo")?);
            Ok(Scope { upstream: upstream.parse()?, repo: str::parse(repo)? })
        };
        let note = |error: &Damaged| tracing::warn!(%error, "a damaged name is taken for absent");
        Ok(rows.iter().filter_map(|row| parse(row).inspect_err(note).ok()).collect())
    }

    /// See [`MetaStore::manifests`](crate::store::MetaStore::manifests).
    pub(super) async fn known_manifests(
        &self,
        scope: &Scope,
        after: Option<&Digest>,
        limit: u32,
    ) -> Result<Vec<Digest>, StoreError> {
        let rows = sqlx::query(
            "SELECT digest FROM link \
             WHERE upstream = ?1 AND repo = ?2 AND digest > ?3 AND kind = ?4 \
             ORDER BY digest LIMIT ?5",
        )
        .bind(scope.upstream.as_str())
        .bind(scope.repo.as_str())
        .bind(after.map(Digest::to_string).unwrap_or_default())
        .bind(KIND_MANIFEST)
        .bind(i64::from(limit))
        .fetch_all(&self.readers())
        .await
        .map_err(|cause| self.failed("list the manifests", cause))?;
        let parse = |row: &SqliteRow| -> Result<Digest, Damaged> {
            Ok(row.try_get::<&str, _>("digest")?.parse()?)
        };
        Ok(rows.iter().filter_map(|row| parsed("link", scope, parse(row))).collect())
    }
}
