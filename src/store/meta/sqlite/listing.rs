//! What concerns many records at once: lists for operators, and forgetting.

use std::collections::HashSet;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Damaged, SqliteMeta, parse_tag};
use crate::oci::{Digest, Tag};
use crate::scope::Scope;
use crate::store::StoreError;
use crate::store::meta::TagRecord;

/// How many digests one question is about: SQLite takes some 32 thousand values.
const DIGESTS_PER_QUESTION: usize = 1_000;

impl SqliteMeta {
    pub(super) async fn tags_of_all(
        &self,
        after: Option<(&Scope, &str)>,
        limit: u32,
    ) -> Result<Vec<(Scope, Tag, TagRecord)>, StoreError> {
        let mut tags = Vec::new();
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        // No name is empty, so all of them come after the empty texts.
        let mut after = match after {
            Some((scope, tag)) => {
                [scope.upstream.as_str(), scope.repo.as_str(), tag].map(str::to_owned)
            }
            None => [const { String::new() }; 3],
        };
        // Again only where damaged rows were skipped: a short answer would mean the end.
        while tags.len() < limit {
            let wanted = limit - tags.len();
            // SQLite takes the other columns from the row that has the greatest `seq`.
            let rows = sqlx::query(
                "SELECT upstream, repo, tag, digest, media_type, size, confirmed_at, max(seq) \
                 FROM tag WHERE (upstream, repo, tag) > (?1, ?2, ?3) \
                 GROUP BY upstream, repo, tag ORDER BY upstream, repo, tag LIMIT ?4",
            )
            .bind(after[0].as_str())
            .bind(after[1].as_str())
            .bind(after[2].as_str())
            .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
            .fetch_all(&self.readers())
            .await
            .map_err(|cause| self.failed("list tags", cause))?;
            let end = rows.len() < wanted;
            for row in rows {
                let Ok(key) = key(&row) else { return Ok(tags) };
                match listed(&row, &key) {
                    Ok(tag) => tags.push(tag),
                    Err(error) => {
                        tracing::warn!(table = "tag", ?key, %error, "a damaged record is skipped");
                    }
                }
                after = key;
            }
            if end {
                break;
            }
        }
        Ok(tags)
    }

    pub(super) async fn remove_scope(&self, scope: &Scope) -> Result<Vec<Digest>, StoreError> {
        const DOING: &str = "forget a repository";
        let failed = |cause| self.failed(DOING, cause);
        let mut transaction = self.begin(DOING).await?;
        let rows =
            sqlx::query("DELETE FROM link WHERE upstream = ?1 AND repo = ?2 RETURNING digest")
                .bind(scope.upstream.as_str())
                .bind(scope.repo.as_str())
                .fetch_all(&mut *transaction)
                .await
                .map_err(failed)?;
        for query in [
            "DELETE FROM tag WHERE upstream = ?1 AND repo = ?2",
            "DELETE FROM denied WHERE upstream = ?1 AND repo = ?2",
            "DELETE FROM document WHERE upstream = ?1 AND repo = ?2",
        ] {
            sqlx::query(query)
                .bind(scope.upstream.as_str())
                .bind(scope.repo.as_str())
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        let digest = |row: &SqliteRow| row.try_get::<&str, _>(0).ok()?.parse().ok();
        Ok(rows.iter().filter_map(digest).collect())
    }

    pub(super) async fn linked_anywhere(
        &self,
        digests: &[Digest],
    ) -> Result<HashSet<Digest>, StoreError> {
        let mut linked = HashSet::new();
        for some in digests.chunks(DIGESTS_PER_QUESTION) {
            let texts: Vec<String> = some.iter().map(ToString::to_string).collect();
            // Every link is looked at once, however many digests are asked about.
            let list = serde_json::Value::from(texts).to_string();
            let rows = sqlx::query(
                "SELECT DISTINCT digest FROM link \
                 WHERE digest IN (SELECT value FROM json_each(?1))",
            )
            .bind(list)
            .fetch_all(&self.readers())
            .await
            .map_err(|cause| self.failed("look for links", cause))?;
            let digest = |row: &SqliteRow| row.try_get::<&str, _>(0).ok()?.parse::<Digest>().ok();
            linked.extend(rows.iter().filter_map(digest));
        }
        Ok(linked)
    }
}

fn key(row: &SqliteRow) -> Result<[String; 3], sqlx::Error> {
    Ok([row.try_get("upstream")?, row.try_get("repo")?, row.try_get("tag")?])
}

fn listed(
    row: &SqliteRow,
    [upstream, repo, tag]: &[String; 3],
) -> Result<(Scope, Tag, TagRecord), Damaged> {
    let scope = Scope { upstream: upstream.parse()?, repo: repo.parse()? };
    Ok((scope, tag.parse()?, parse_tag(row)?))
}
