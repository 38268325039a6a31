//! How stored content is used, in SQLite.

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Damaged, SqliteMeta, time_from_sql, time_to_sql};
use crate::clock::Timestamp;
use crate::oci::Digest;
use crate::scope::Scope;
use crate::store::StoreError;
use crate::store::meta::{KeepingStore, Pin, UsageRecord};

#[async_trait]
impl KeepingStore for SqliteMeta {
    async fn usage(
        &self,
        after: Option<&Digest>,
        limit: u32,
    ) -> Result<Vec<(Digest, UsageRecord)>, StoreError> {
        self.page(
            "SELECT digest, last, heat, stored_at, upstream FROM usage \
             WHERE digest > ?1 ORDER BY digest LIMIT ?2",
            "list usage",
            after,
            limit,
            parse_usage,
        )
        .await
    }

    async fn put_usage(&self, records: &[(Digest, UsageRecord)]) -> Result<(), StoreError> {
        const DOING: &str = "record usage";
        let failed = |cause| self.failed(DOING, cause);
        let mut transaction = self.begin(DOING).await?;
        for (digest, record) in records {
            sqlx::query(
                "INSERT INTO usage (digest, last, heat, stored_at, upstream) \
                 VALUES (?1, ?2, ?3, ?4, ?5) \
                 ON CONFLICT DO UPDATE SET last = excluded.last, heat = excluded.heat, \
                   stored_at = excluded.stored_at, upstream = excluded.upstream",
            )
            .bind(digest.to_string())
            .bind(time_to_sql(record.last))
            .bind(f64::from(record.heat))
            .bind(time_to_sql(record.stored_at))
            .bind(record.upstream.as_ref().map(|upstream| upstream.as_str()))
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    async fn forget_usage(&self, digests: &[Digest]) -> Result<(), StoreError> {
        const DOING: &str = "forget usage";
        let failed = |cause| self.failed(DOING, cause);
        let mut transaction = self.begin(DOING).await?;
        for digest in digests {
            for query in
                ["DELETE FROM usage WHERE digest = ?1", "DELETE FROM part WHERE parent = ?1"]
            {
                sqlx::query(query)
                    .bind(digest.to_string())
                    .execute(&mut *transaction)
                    .await
                    .map_err(failed)?;
            }
        }
        transaction.commit().await.map_err(failed)
    }

    async fn parts(
        &self,
        after: Option<&Digest>,
        limit: u32,
    ) -> Result<Vec<(Digest, Vec<Digest>)>, StoreError> {
        self.page(
            "SELECT parent, children FROM part WHERE parent > ?1 ORDER BY parent LIMIT ?2",
            "list parts",
            after,
            limit,
            parse_parts,
        )
        .await
    }

    async fn put_parts(&self, manifest: &Digest, parts: &[Digest]) -> Result<(), StoreError> {
        let children: Vec<String> = parts.iter().map(Digest::to_string).collect();
        sqlx::query(
            "INSERT INTO part (parent, children) VALUES (?1, ?2) \
             ON CONFLICT DO UPDATE SET children = excluded.children",
        )
        .bind(manifest.to_string())
        .bind(children.join(" "))
        .execute(&self.writer())
        .await
        .map_err(|cause| self.failed("record parts", cause))?;
        Ok(())
    }

    async fn is_linked(&self, digest: &Digest) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM link WHERE digest = ?1 LIMIT 1")
            .bind(digest.to_string())
            .fetch_optional(&self.readers())
            .await
            .map_err(|cause| self.failed("look for links", cause))?;
        Ok(row.is_some())
    }

    async fn pins(&self) -> Result<Vec<Pin>, StoreError> {
        let rows = sqlx::query(
            "SELECT upstream, repo, reference FROM pin ORDER BY upstream, repo, reference",
        )
        .fetch_all(&self.readers())
        .await
        .map_err(|cause| self.failed("list pins", cause))?;
        Ok(rows.iter().filter_map(|row| undamaged("pin", parse_pin(row))).collect())
    }

    async fn put_pin(&self, pin: &Pin) -> Result<bool, StoreError> {
        let query = "INSERT INTO pin (upstream, repo, reference) VALUES (?1, ?2, ?3) \
                     ON CONFLICT DO NOTHING";
        self.change_pin(query, "record a pin", pin).await
    }

    async fn remove_pin(&self, pin: &Pin) -> Result<bool, StoreError> {
        let query = "DELETE FROM pin WHERE upstream = ?1 AND repo = ?2 AND reference = ?3";
        self.change_pin(query, "remove a pin", pin).await
    }

    fn losses(&self) -> u64 {
        self.times_remade()
    }

    async fn last_loss(&self) -> Result<Option<Timestamp>, StoreError> {
        self.last_remade().await
    }
}

impl SqliteMeta {
    /// A page of rows whose first column is a digest.
    async fn page<T>(
        &self,
        query: &'static str,
        doing: &'static str,
        after: Option<&Digest>,
        limit: u32,
        parse: fn(&SqliteRow) -> Result<T, Damaged>,
    ) -> Result<Vec<T>, StoreError> {
        let mut page = Vec::new();
        // No digest is empty, so all of them come after the empty text.
        let mut after = after.map_or_else(String::new, Digest::to_string);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        // Again only where damaged rows were skipped: a short answer would mean the end.
        while page.len() < limit {
            let wanted = limit - page.len();
            let rows = sqlx::query(query)
                .bind(after.as_str())
                .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
                .fetch_all(&self.readers())
                .await
                .map_err(|cause| self.failed(doing, cause))?;
            let end = rows.len() < wanted;
            for row in rows {
                let Ok(digest) = row.try_get::<String, _>(0) else { return Ok(page) };
                page.extend(undamaged(doing, parse(&row)));
                after = digest;
            }
            if end {
                break;
            }
        }
        Ok(page)
    }

    async fn change_pin(
        &self,
        query: &'static str,
        doing: &'static str,
        pin: &Pin,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(query)
            .bind(pin.scope.upstream.as_str())
            .bind(pin.scope.repo.as_str())
            .bind(pin.reference.to_string())
            .execute(&self.writer())
            .await
            .map_err(|cause| self.failed(doing, cause))?;
        Ok(done.rows_affected() > 0)
    }
}

fn undamaged<T>(what: &'static str, record: Result<T, Damaged>) -> Option<T> {
    record
        .inspect_err(|error| {
            tracing::warn!(what, %error, "a damaged record is taken for absent");
        })
        .ok()
}

fn parse_usage(row: &SqliteRow) -> Result<(Digest, UsageRecord), Damaged> {
    let upstream: Option<String> = row.try_get("upstream")?;
    #[expect(clippy::cast_possible_truncation, reason = "it was written as an f32")]
    let heat = row.try_get::<f64, _>("heat")? as f32;
    let record = UsageRecord {
        last: time_from_sql(row, "last")?,
        heat: if heat.is_finite() { heat.max(0.0) } else { 0.0 },
        stored_at: time_from_sql(row, "stored_at")?,
        upstream: upstream.map(|text| text.parse()).transpose()?,
    };
    Ok((row.try_get::<&str, _>("digest")?.parse()?, record))
}

fn parse_parts(row: &SqliteRow) -> Result<(Digest, Vec<Digest>), Damaged> {
    let children: &str = row.try_get("children")?;
    let children = children.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    Ok((row.try_get::<&str, _>("parent")?.parse()?, children))
}

fn parse_pin(row: &SqliteRow) -> Result<Pin, Damaged> {
    Ok(Pin {
        scope: Scope {
            upstream: row.try_get::<&str, _>("upstream")?.parse()?,
            repo: row.try_get::<&str, _>("repo")?.parse()?,
        },
        reference: row.try_get::<&str, _>("reference")?.parse()?,
    })
}
