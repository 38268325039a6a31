//! The store in SQLite, beyond what every store must do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;
use tokio::task::JoinSet;

use sqlx::sqlite::SqliteConnectOptions;

use super::*;
use crate::store::meta::conformance::{self, bare, digest, record, scope};

async fn store(root: &TempDir) -> SqliteMeta {
    SqliteMeta::open(root.path()).await.unwrap()
}

fn file(root: &TempDir) -> PathBuf {
    root.path().join("meta-v1.sqlite")
}

/// Says something to the database that Pierhead would not say.
async fn sql(store: &SqliteMeta, sql: &'static str) {
    sqlx::raw_sql(sql).execute(&store.writer()).await.unwrap();
}

#[tokio::test]
async fn conforms() {
    let root = TempDir::new().unwrap();
    conformance::all(&store(&root).await).await;
    conformance::keeping(&store(&root).await).await;
}

#[tokio::test]
async fn records_survive_a_restart_with_and_without_a_goodbye() {
    let root = TempDir::new().unwrap();
    let (scope, tag): (_, Tag) = (scope("library/alpine"), "3.20".parse().unwrap());
    for n in 0..4 {
        let store = store(&root).await;
        for earlier in 0..n {
            assert!(store.link(&scope, &digest(earlier)).await.unwrap().is_some());
        }
        store.put_links(&scope, &[(digest(n), bare(LinkKind::Manifest))]).await.unwrap();
        store.put_tag(&scope, &tag, &record(digest(n), 1)).await.unwrap();
        assert_eq!(store.tag_history(&scope, &tag).await.unwrap().len(), n + 1);
        if n % 2 == 0 {
            store.close().await;
            assert!(store.link(&scope, &digest(n)).await.is_err(), "closed is closed");
        }
    }
}

#[tokio::test]
async fn the_database_is_not_readable_by_others() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    store.probe().await.unwrap();
    let mut seen = 0;
    for entry in fs::read_dir(root.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o027, 0, "{:?} has mode {mode:o}", entry.file_name());
        seen += 1;
    }
    assert_eq!(seen, 3, "database, log and shared memory");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_with_its_path_and_a_way_out() {
    let root = TempDir::new().unwrap();
    fs::write(file(&root), "this is no database ".repeat(1000)).unwrap();
    let error = SqliteMeta::open(root.path()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
    let text = error.to_string();
    assert!(text.contains(file(&root).to_str().unwrap()), "{text}");
    assert!(text.contains("moves it aside"), "{text}");
}

#[tokio::test]
async fn a_damaged_database_is_an_error_and_no_panic() {
    let root = TempDir::new().unwrap();
    let here = scope("library/alpine");
    let links: Vec<_> = (0..5_000).map(|n| (digest(n), bare(LinkKind::Blob))).collect();
    {
        let store = store(&root).await;
        store.put_links(&here, &links).await.unwrap();
        store.close().await;
    }
    // Everything but the header page.
    let mut bytes = fs::read(file(&root)).unwrap();
    bytes[4096..].fill(0x5a);
    fs::write(file(&root), bytes).unwrap();
    let error = match SqliteMeta::open(root.path()).await {
        Ok(store) => store.link(&here, &digest(77)).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("moves it aside"), "{error}");
}

#[tokio::test]
async fn a_newer_format_is_refused_and_left_alone() {
    let root = TempDir::new().unwrap();
    let first = store(&root).await;
    sql(&first, "PRAGMA user_version = 3").await;
    first.close().await;
    let before = fs::read(file(&root)).unwrap();
    let error = SqliteMeta::open(root.path()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Database);
    assert!(error.to_string().contains("newer Pierhead"), "{error}");
    assert_eq!(fs::read(file(&root)).unwrap(), before);
}

#[tokio::test]
async fn a_database_of_something_else_is_refused() {
    let root = TempDir::new().unwrap();
    let options = SqliteConnectOptions::new().filename(file(&root)).create_if_missing(true);
    let theirs = SqlitePool::connect_with(options).await.unwrap();
    sqlx::raw_sql("CREATE TABLE theirs (x)").execute(&theirs).await.unwrap();
    theirs.close().await;
    let error = SqliteMeta::open(root.path()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Database);
    assert!(error.to_string().contains("no database of Pierhead's"), "{error}");
}

#[tokio::test]
async fn damaged_rows_are_absent() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let here = scope("library/alpine");
    let tag: Tag = "good".parse().unwrap();
    let kinds = [(1, "kind = 9"), (2, "size = -1"), (3, "media_type = CAST(x'ff' AS TEXT)")];
    let links: Vec<_> = (1..=4).map(|n| (digest(n), bare(LinkKind::Blob))).collect();
    store.put_links(&here, &links).await.unwrap();
    for (n, damage) in kinds {
        let update = format!("UPDATE link SET {damage} WHERE digest = '{}'", digest(n));
        sqlx::raw_sql(sqlx::AssertSqlSafe(update)).execute(&store.writer()).await.unwrap();
        assert_eq!(store.link(&here, &digest(n)).await.unwrap(), None, "{damage}");
    }
    assert!(store.link(&here, &digest(4)).await.unwrap().is_some());

    store.put_tag(&here, &tag, &record(digest(1), 1)).await.unwrap();
    sql(
        &store,
        "INSERT INTO tag SELECT upstream, repo, tag, 'md5:no', NULL, NULL, 5, 99 FROM tag;
         INSERT INTO tag SELECT upstream, repo, 'no tag/' || digest, digest, NULL, NULL, 5, 1 FROM tag;
         INSERT INTO tag SELECT upstream, repo, 'a no tag', digest, NULL, NULL, 5, 1 FROM tag
           WHERE tag = 'good';
         INSERT INTO tag SELECT upstream, repo, 'zzz', digest, NULL, NULL, 5, 1 FROM tag
           WHERE tag = 'good';",
    )
    .await;
    assert_eq!(store.tag_history(&here, &tag).await.unwrap(), [record(digest(1), 1)]);
    // Skipped rows must not make a page look like the last.
    for limit in 1..5 {
        let first = store.tags(&here, None, limit).await.unwrap();
        assert_eq!(first.len(), (limit as usize).min(2));
        assert_eq!(first[0].as_str(), "good");
    }

    store.set_denied(&here, Some(Timestamp::from_unix_ms(1))).await.unwrap();
    sql(&store, "UPDATE denied SET since = -5").await;
    assert_eq!(store.denied_since(&here).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_herd_of_writers_and_readers_is_never_told_that_the_database_is_locked() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let mut herd = JoinSet::new();
    for writer in 0..64 {
        let store = store.clone();
        herd.spawn(async move {
            let scope = scope(&format!("herd/{}", writer % 8));
            for n in 0..20 {
                let links: Vec<_> = (0..10)
                    .map(|k| (digest(writer * 1000 + n * 10 + k), bare(LinkKind::Blob)))
                    .collect();
                store.put_links(&scope, &links).await.unwrap();
                for (digest, _) in &links {
                    assert!(store.link(&scope, digest).await.unwrap().is_some());
                }
            }
        });
    }
    while let Some(done) = herd.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_is_dropped_happens_whole_or_not_at_all_and_blocks_nobody() {
    const LINKS: usize = 50;
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    for n in 0..200 {
        let here = scope(&format!("dropped/{n}"));
        let links: Vec<_> = (0..LINKS).map(|k| (digest(k), bare(LinkKind::Blob))).collect();
        let mut write = Box::pin(store.put_links(&here, &links));
        // Every poll advances it by a step, so each round drops it a little later.
        for _ in 0..n {
            let step = std::future::poll_fn(|cx| {
                std::task::Poll::Ready(write.as_mut().poll(cx).is_ready())
            });
            if step.await {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(write);
        store.set_denied(&here, Some(Timestamp::from_unix_ms(1))).await.unwrap();
        let mut found = 0;
        for (digest, _) in &links {
            found += usize::from(store.link(&here, digest).await.unwrap().is_some());
        }
        assert!(found == 0 || found == LINKS, "{found} of {LINKS} links after {n} steps");
    }
}

#[tokio::test]
async fn a_database_of_the_first_version_keeps_what_it_knows() {
    let root = TempDir::new().unwrap();
    let store = store(&root).await;
    let scope = conformance::scope("a/b");
    let link = conformance::bare(crate::store::LinkKind::Blob);
    store.put_links(&scope, &[(conformance::digest(1), link.clone())]).await.unwrap();
    // Back to what the first version wrote.
    sqlx::raw_sql(
        "DROP INDEX link_by_digest; DROP TABLE usage; DROP TABLE part; DROP TABLE pin; \
         PRAGMA user_version = 1;",
    )
    .execute(&store.writer())
    .await
    .unwrap();
    store.close().await;
    let store = self::store(&root).await;
    assert_eq!(store.link(&scope, &conformance::digest(1)).await.unwrap(), Some(link));
    conformance::keeping(&store).await;
}
