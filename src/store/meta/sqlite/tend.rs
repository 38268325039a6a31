//! The worker that looks after the database: it makes backups, notices that the file is damaged
//! or gone, and makes it anew while the process goes on.
//!
//! While it does so every operation fails, quickly, and whoever asked takes it that nothing is
//! known.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::Instant;

use super::backup::{Depth, check, exists};
use super::connect::{self, Pools, file_id, options};
use super::heal::remake;
use super::{SqliteMeta, failed};
use crate::background::{Report, Round, Worker, Workers};
use crate::clock::Clock;
use crate::store::{BlobStore, Spool, StoreError, StoreErrorKind};

/// The worker's name.
pub(super) const TENDER: &str = "database";

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long after a backup the next one is made, if anything has changed.
pub(super) const BACKUP_EVERY: Duration = Duration::from_secs(3600);

/// How long after the start the first one is made, and after a failure the next.
const BACKUP_SOON: Duration = Duration::from_secs(300);

/// How long after it could not be made anew that is tried again.
const HEAL_AGAIN: Duration = Duration::from_secs(5);

/// How often queries may report damage where the quick check finds none, before every index is
/// compared with its table. What passes that is never moved away: it is opened anew.
const FALSE_ALARMS_MAX: u32 = 2;

/// The worker; see [`SqliteMeta::tend`].
#[derive(Debug)]
struct Tender {
    store: SqliteMeta,
    blobs: Arc<dyn BlobStore>,
    clock: Clock,
    backup_due: Instant,
    /// Changes that the last backup has.
    backed_up: u64,
    /// How often something was forgotten, and the backup with it, when that was last looked at.
    forgotten: u64,
    /// Alarms without damage since the database was last made anew, or checked in full.
    false_alarms: u32,
}

impl SqliteMeta {
    /// Has `workers` look after the database, from now on. Room for its backup is made in `blobs`.
    ///
    /// # Errors
    /// When two metrics have one name.
    pub fn tend(
        &self,
        workers: &Workers,
        blobs: Arc<dyn BlobStore>,
        clock: &Clock,
        registry: &Registry,
    ) -> Result<(), prometheus::Error> {
        self.0.health.watched(workers, registry)?;
        workers.start(Tender::new(self.clone(), blobs, clock.clone()));
        Ok(())
    }
}

#[async_trait]
impl Worker for Tender {
    fn name(&self) -> &'static str {
        TENDER
    }

    async fn round(&mut self, _: &Report) -> Round {
        if let Err(error) = self.look().await {
            return Round::Failed(error.to_string(), HEAL_AGAIN);
        }
        match self.back_up_if_due().await {
            Ok(()) => Round::Done(LOOK_EVERY),
            Err(error) => Round::Failed(error.to_string(), LOOK_EVERY),
        }
    }
}

impl Tender {
    fn new(store: SqliteMeta, blobs: Arc<dyn BlobStore>, clock: Clock) -> Self {
        Self {
            store,
            blobs,
            clock,
            backup_due: Instant::now() + BACKUP_SOON,
            backed_up: 0,
            forgotten: 0,
            false_alarms: 0,
        }
    }

    /// Makes the database anew if anything is wrong with it.
    async fn look(&mut self) -> Result<(), StoreError> {
        let pools = self.store.pools();
        let shared = &self.store.0;
        if file_id(&shared.path).await? != pools.file {
            shared.health.suspect();
        } else if !shared.health.is_suspect()
            && let Err(error) = first_page(&self.store).await
            && error.kind() == StoreErrorKind::Corrupt
        {
            shared.health.suspect();
        }
        if shared.health.is_suspect() { self.heal(pools).await } else { Ok(()) }
    }

    async fn heal(&mut self, pools: Pools) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.store.0);
        let (root, path) = (&shared.root, &shared.path);
        let gone = !exists(path).await?;
        if gone && !pools.writer.is_closed() {
            // Whoever has it open can still read it.
            let saved = match pools.writer.acquire().await {
                Ok(mut connection) => self.store.snapshot(&mut connection).await,
                Err(cause) => Err(failed(path, "save the removed database", cause)),
            };
            if let Err(error) = saved {
                tracing::warn!(%error, "what the removed metadata database knew cannot be saved");
            }
        }
        pools.close().await;
        let depth = match self.false_alarms {
            0..FALSE_ALARMS_MAX => Depth::Pages,
            _ => Depth::Indexes,
        };
        let why = if gone {
            Some("it was removed while it was in use".to_owned())
        } else {
            match check(path, depth, false).await {
                Ok(()) => None,
                Err(error) if error.kind() == StoreErrorKind::Corrupt => Some(error.to_string()),
                Err(error) => return Err(error),
            }
        };
        let pools = match why {
            None => {
                self.false_alarms = (self.false_alarms + 1) % (FALSE_ALARMS_MAX + 1);
                tracing::warn!("the metadata database was opened anew; a check found no damage");
                connect::open(path).await?
            }
            Some(why) => {
                let (pools, remade) = remake(root, path, why, self.clock.now()).await?;
                self.false_alarms = 0;
                shared.health.remade(remade);
                pools
            }
        };
        *shared.pools.write().unwrap_or_else(PoisonError::into_inner) = pools;
        shared.health.is_well();
        Ok(())
    }

    async fn back_up_if_due(&mut self) -> Result<(), StoreError> {
        let changed = self.store.0.health.changed();
        let forgotten = self.store.0.health.forgotten();
        if forgotten != self.forgotten {
            self.forgotten = forgotten;
            self.backup_due = self.backup_due.min(Instant::now() + BACKUP_SOON);
        }
        if Instant::now() < self.backup_due || changed == self.backed_up {
            return Ok(());
        }
        self.backup_due = Instant::now() + BACKUP_SOON;
        let room = self.room().await?;
        self.store.back_up().await?;
        drop(room);
        self.store.0.health.backed_up(self.clock.now());
        self.backed_up = changed;
        self.backup_due = Instant::now() + BACKUP_EVERY;
        Ok(())
    }

    /// Room for a backup, reserved: the size cap holds for it too.
    async fn room(&self) -> Result<Box<dyn Spool>, StoreError> {
        let size = tokio::fs::metadata(&self.store.0.path).await.map_or(0, |file| file.len());
        self.blobs.spool(Some(size)).await
    }
}

/// Reads the first page of the file as SQLite would that has never seen it: connections that have
/// it in memory would not notice that it is overwritten.
async fn first_page(store: &SqliteMeta) -> Result<(), StoreError> {
    let failed = |cause| failed(&store.0.path, "read the database", cause);
    let mut connection =
        options(&store.0.path).create_if_missing(false).connect().await.map_err(failed)?;
    let read = sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(&mut connection).await;
    let _ = connection.close().await;
    read.map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::clock::Timestamp;
    use crate::store::blob::MemoryBlobs;
    use crate::store::meta::conformance::{bare, digest, record, scope};
    use crate::store::{KeepingStore as _, LinkKind, MetaStore as _};

    fn clock() -> Clock {
        Clock::manual(Timestamp::from_unix_ms(5_000_000))
    }

    async fn opened(root: &TempDir) -> SqliteMeta {
        SqliteMeta::open_or_heal(root.path(), true, &clock()).await.unwrap()
    }

    fn tender(store: &SqliteMeta) -> Tender {
        Tender::new(store.clone(), Arc::new(MemoryBlobs::new(1 << 30)), clock())
    }

    /// A database that knows `links` links of `a/b`, on disk and closed.
    async fn filled(root: &TempDir, links: usize) {
        let store = SqliteMeta::open(root.path()).await.unwrap();
        let links: Vec<_> = (0..links).map(|n| (digest(n), bare(LinkKind::Blob))).collect();
        store.put_links(&scope("a/b"), &links).await.unwrap();
        store.close().await;
    }

    fn file(root: &TempDir) -> std::path::PathBuf {
        root.path().join("meta-v1.sqlite")
    }

    /// The names of files moved aside, those of logs left out.
    fn aside(root: &TempDir) -> Vec<String> {
        let names = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<String> = names
            .filter_map(|name| name.into_string().ok())
            .filter(|name| name.contains(".damaged-") && !name.ends_with("-wal"))
            .filter(|name| !name.ends_with("-shm"))
            .collect();
        names.sort();
        names
    }

    async fn knows(store: &SqliteMeta, n: usize) -> bool {
        store.link(&scope("a/b"), &digest(n)).await.unwrap().is_some()
    }

    /// All but the first page becomes nonsense.
    fn scribble(root: &TempDir) {
        let mut bytes = fs::read(file(root)).unwrap();
        assert!(bytes.len() > 8192);
        bytes[4096..].fill(0x5a);
        fs::write(file(root), bytes).unwrap();
    }

    #[tokio::test]
    async fn garbage_at_the_start_is_moved_aside_and_nothing_is_invented() {
        let root = TempDir::new().unwrap();
        fs::write(file(&root), "this is no database ".repeat(1000)).unwrap();
        let store = opened(&root).await;
        assert!(!knows(&store, 1).await);
        assert_eq!(aside(&root), ["meta-v1.sqlite.damaged-5000"]);
        assert_eq!(store.losses(), 1);
        assert_eq!(store.last_loss().await.unwrap(), Some(Timestamp::from_unix_ms(5_000_000)));
        assert!(store.remarks()[0].contains("damaged-5000"), "{:?}", store.remarks());
        store.probe().await.unwrap();
        store.close().await;
        let store = opened(&root).await;
        assert_eq!((store.losses(), store.remarks().len()), (0, 0), "it stays well");
        assert!(store.last_loss().await.unwrap().is_some());
    }

    #[tokio::test]
    async fn the_last_backup_takes_the_place_of_what_is_damaged_or_gone() {
        for missing in [false, true] {
            let root = TempDir::new().unwrap();
            filled(&root, 5_000).await;
            let store = opened(&root).await;
            store.back_up().await.unwrap();
            store.close().await;
            if missing {
                fs::remove_file(file(&root)).unwrap();
            } else {
                fs::write(file(&root), "this is no database ".repeat(1000)).unwrap();
            }
            let store = opened(&root).await;
            assert!(knows(&store, 4_999).await);
            assert!(store.remarks()[0].contains("from its last backup"), "{:?}", store.remarks());
            assert_eq!(aside(&root).len(), usize::from(!missing));
        }
    }

    #[tokio::test]
    async fn a_damaged_backup_is_not_used() {
        let root = TempDir::new().unwrap();
        filled(&root, 5_000).await;
        let store = opened(&root).await;
        store.back_up().await.unwrap();
        store.close().await;
        let backup = root.path().join(super::super::backup::BACKUP_FILE);
        let mut bytes = fs::read(&backup).unwrap();
        bytes[4096..].fill(0x5a);
        fs::write(&backup, &bytes).unwrap();
        fs::remove_file(file(&root)).unwrap();
        let store = opened(&root).await;
        assert!(!knows(&store, 1).await);
        store.probe().await.unwrap();
        store.back_up().await.unwrap();
        let kept = root.path().join(super::super::backup::DAMAGED_BACKUP_FILE);
        assert_eq!(fs::read(kept).unwrap(), bytes, "the next backup does not overwrite it");
    }

    #[tokio::test]
    async fn a_backup_that_cannot_be_judged_is_not_done_without() {
        let root = TempDir::new().unwrap();
        let backup = root.path().join(super::super::backup::BACKUP_FILE);
        // SQLite can open no directory, which is nothing that it says about damage.
        fs::create_dir(&backup).unwrap();
        fs::write(backup.join("x"), "x").unwrap();
        fs::write(file(&root), "this is no database ".repeat(1000)).unwrap();
        for _ in 0..4 {
            let error = SqliteMeta::open_or_heal(root.path(), true, &clock()).await.unwrap_err();
            assert_ne!(error.kind(), StoreErrorKind::Corrupt, "{error}");
            assert!(!file(&root).exists(), "no empty one took its place");
            fs::write(file(&root), "").unwrap();
        }
        assert_eq!(aside(&root), ["meta-v1.sqlite.damaged-5000"], "empty files are not kept");
        assert!(backup.exists());
    }

    #[tokio::test]
    async fn what_a_crash_left_is_checked_and_a_good_log_is_kept() {
        let root = TempDir::new().unwrap();
        filled(&root, 5_000).await;
        let store = opened(&root).await;
        store.put_links(&scope("a/b"), &[(digest(9_999), bare(LinkKind::Blob))]).await.unwrap();
        // As a crash leaves it: with a log.
        let copy = TempDir::new().unwrap();
        for suffix in ["", "-wal"] {
            let name = format!("meta-v1.sqlite{suffix}");
            fs::copy(root.path().join(&name), copy.path().join(&name)).unwrap();
        }
        store.close().await;
        let store = opened(&copy).await;
        assert!(knows(&store, 9_999).await, "it was in the log");
        assert_eq!(store.losses(), 0);
        drop(store);
        scribble(&root);
        fs::write(root.path().join("meta-v1.sqlite-wal"), [7; 100]).unwrap();
        let store = opened(&root).await;
        assert_eq!(store.losses(), 1, "found by the check");
    }

    #[tokio::test]
    async fn damage_that_a_query_meets_heals_without_a_restart() {
        let root = TempDir::new().unwrap();
        filled(&root, 5_000).await;
        let store = opened(&root).await;
        let mut tender = tender(&store);
        scribble(&root);
        let error = store.link(&scope("a/b"), &digest(77)).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt, "{error}");
        assert!(store.probe().await.is_err());
        tender.look().await.unwrap();
        assert!(!knows(&store, 77).await);
        store.probe().await.unwrap();
        store.put_links(&scope("a/b"), &[(digest(77), bare(LinkKind::Blob))]).await.unwrap();
        assert!(knows(&store, 77).await);
        assert_eq!((store.losses(), aside(&root).len()), (1, 1));
        tender.look().await.unwrap();
        assert_eq!(store.losses(), 1, "once");
    }

    #[tokio::test]
    async fn a_database_that_is_removed_in_use_loses_nothing() {
        let root = TempDir::new().unwrap();
        filled(&root, 100).await;
        let store = opened(&root).await;
        store.put_tag(&scope("a/b"), &"v1".parse().unwrap(), &record(digest(1), 1)).await.unwrap();
        for suffix in ["", "-wal", "-shm"] {
            fs::remove_file(root.path().join(format!("meta-v1.sqlite{suffix}"))).unwrap();
        }
        tender(&store).look().await.unwrap();
        assert!(knows(&store, 99).await);
        assert_eq!(
            store.tag_history(&scope("a/b"), &"v1".parse().unwrap()).await.unwrap().len(),
            1
        );
        assert!(file(&root).exists());
        assert_eq!(store.losses(), 1);
    }

    #[tokio::test]
    async fn false_alarms_open_it_anew_and_move_nothing_away() {
        let root = TempDir::new().unwrap();
        filled(&root, 100).await;
        let store = opened(&root).await;
        let mut tender = tender(&store);
        for _ in 0..FALSE_ALARMS_MAX {
            store.0.health.suspect();
            tender.look().await.unwrap();
            assert!(knows(&store, 99).await);
        }
        assert_eq!(store.losses(), 0);
        assert_eq!(tender.false_alarms, FALSE_ALARMS_MAX);
        store.0.health.suspect();
        tender.look().await.unwrap();
        assert_eq!(tender.false_alarms, 0, "it was checked in full");
        assert_eq!(store.losses(), 0);
        assert!(knows(&store, 99).await);
    }

    #[tokio::test]
    async fn what_was_forgotten_does_not_come_back_with_a_backup() {
        let root = TempDir::new().unwrap();
        filled(&root, 10).await;
        let store = opened(&root).await;
        let backup = root.path().join(super::super::backup::BACKUP_FILE);
        store.back_up().await.unwrap();
        assert!(backup.exists());
        store.remove_link(&scope("a/b"), &digest(3)).await.unwrap();
        assert!(!backup.exists());
        store.back_up().await.unwrap();
        store.forget_scope(&scope("a/b")).await.unwrap();
        assert!(!backup.exists());
        store.back_up().await.unwrap();
        let since = |ms| Some(Timestamp::from_unix_ms(ms));
        store.set_denied(&scope("made/up"), since(7)).await.unwrap();
        assert!(backup.exists(), "nothing is known of it, and clients can name anything");
        store.put_links(&scope("a/b"), &[(digest(3), bare(LinkKind::Blob))]).await.unwrap();
        store.set_denied(&scope("a/b"), since(7)).await.unwrap();
        assert!(!backup.exists(), "a refusal must not be forgotten");
        store.back_up().await.unwrap();
        store.set_denied(&scope("a/b"), since(9)).await.unwrap();
        assert!(backup.exists(), "it is known already");
        let mut tender = tender(&store);
        tender.backup_due = Instant::now() + BACKUP_EVERY;
        tender.back_up_if_due().await.unwrap();
        assert!(tender.backup_due <= Instant::now() + BACKUP_SOON, "the next one comes soon");
    }

    #[tokio::test]
    async fn only_the_last_damaged_databases_are_kept() {
        let root = TempDir::new().unwrap();
        for round in 0..4 {
            fs::write(file(&root), format!("no database, round {round}").repeat(1000)).unwrap();
            fs::write(root.path().join("meta-v1.sqlite-wal"), [7; 100]).unwrap();
            opened(&root).await.close().await;
        }
        let aside = aside(&root);
        assert_eq!(aside.len(), super::super::heal::DAMAGED_KEPT_MAX);
        let last = fs::read_to_string(root.path().join(&aside[1])).unwrap();
        assert!(last.contains("round 3"));
    }

    #[tokio::test]
    async fn a_backup_is_made_when_it_is_due_and_something_has_changed() {
        let root = TempDir::new().unwrap();
        let store = opened(&root).await;
        let mut tender = tender(&store);
        let backup = root.path().join(super::super::backup::BACKUP_FILE);
        store.put_links(&scope("a/b"), &[(digest(1), bare(LinkKind::Blob))]).await.unwrap();
        tender.back_up_if_due().await.unwrap();
        assert!(!backup.exists(), "too soon after the start");
        tender.backup_due = Instant::now();
        tender.backed_up = store.0.health.changed();
        tender.back_up_if_due().await.unwrap();
        assert!(!backup.exists(), "nothing has changed");
        store.put_links(&scope("a/b"), &[(digest(1), bare(LinkKind::Blob))]).await.unwrap();
        tender.back_up_if_due().await.unwrap();
        assert!(backup.exists());
        fs::remove_file(&backup).unwrap();
        store.put_links(&scope("a/b"), &[(digest(2), bare(LinkKind::Blob))]).await.unwrap();
        tender.back_up_if_due().await.unwrap();
        assert!(!backup.exists(), "not due yet");
        tender.backup_due = Instant::now();
        tender.back_up_if_due().await.unwrap();
        assert!(backup.exists());
    }

    #[tokio::test]
    async fn a_newer_format_is_left_alone_also_after_a_crash() {
        let root = TempDir::new().unwrap();
        filled(&root, 10).await;
        let mut bytes = fs::read(file(&root)).unwrap();
        bytes[60..64].copy_from_slice(&9_u32.to_be_bytes());
        fs::write(file(&root), &bytes).unwrap();
        let error = SqliteMeta::open_or_heal(root.path(), true, &clock()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Database, "{error}");
        assert_eq!(fs::read(file(&root)).unwrap(), bytes);
        assert!(aside(&root).is_empty());
    }
}
