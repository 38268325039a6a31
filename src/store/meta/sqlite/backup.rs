//! A second copy of the database, for the day on which the first one is damaged.
//!
//! It is a snapshot that SQLite writes while the database is used, into a file that gets its name
//! when it is whole. What an operator has had forgotten must not come back with it, so forgetting
//! removes it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use super::connect::{create_file, options};
use super::{SqliteMeta, failed};
use crate::store::{StoreError, StoreErrorKind, blocking};

/// The backup's name below the storage root.
pub(super) const BACKUP_FILE: &str = "meta-v1.backup.sqlite";

/// Its name after it turned out to be of no use: somebody may yet read something out of it.
pub(super) const DAMAGED_BACKUP_FILE: &str = "meta-v1.backup.damaged";

/// Where it is written.
const ON_ITS_WAY: &str = "meta-v1.backup.new";

impl SqliteMeta {
    /// Replaces the backup by what is known now.
    pub(super) async fn back_up(&self) -> Result<(), StoreError> {
        let doing = |cause| failed(&self.0.path, "back up the database", cause);
        let mut connection = options(&self.0.path).connect().await.map_err(doing)?;
        let done = self.snapshot(&mut connection).await;
        // What could not be closed well is closed anyway.
        let _ = connection.close().await;
        done
    }

    /// The same, through a connection that may be the last way to a file that was removed.
    pub(super) async fn snapshot(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<(), StoreError> {
        let target = self.0.root.join(ON_ITS_WAY);
        remove(&target).await?;
        create_file(&target).await?;
        let forgotten = self.0.health.forgotten();
        let written = sqlx::query("VACUUM INTO ?1")
            .bind(target.to_string_lossy().into_owned())
            .execute(connection)
            .await
            .map_err(|cause| failed(&self.0.path, "back up the database", cause));
        let backup = self.0.root.join(BACKUP_FILE);
        let kept = match written {
            Ok(_) => match check(&target, Depth::Pages, true).await {
                Ok(()) => rename(&target, &backup).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if kept.is_err() {
            // Half a copy takes room and is of no use.
            let _ = remove(&target).await;
        } else if self.0.health.forgotten() != forgotten {
            // It may have what was forgotten while it was written.
            remove(&backup).await?;
        }
        kept
    }

    /// Removes the backup, after something was forgotten.
    pub(super) async fn forget_backup(&self) -> Result<(), StoreError> {
        self.0.health.forgets();
        remove(&self.0.root.join(BACKUP_FILE)).await
    }
}

/// Puts a copy of the backup in the place of the database, or the backup itself where there is no
/// room for two; whether there was a good one. Nothing has the database open.
///
/// Fails if the backup cannot be judged or placed just now: that is no reason to do without it.
pub(super) async fn restore(root: &Path, path: &Path) -> Result<bool, StoreError> {
    let backup = root.join(BACKUP_FILE);
    if !exists(&backup).await? {
        return Ok(false);
    }
    match check(&backup, Depth::Pages, true).await {
        Ok(()) => {}
        Err(error) if error.kind() == StoreErrorKind::Corrupt => {
            tracing::error!(%error, "the backup of the metadata database is of no use either");
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    let target = root.join(ON_ITS_WAY);
    let copied = {
        let (target, backup) = (target.clone(), backup.clone());
        blocking("restore the database", move || {
            fs::copy(&backup, &target)
                .and_then(|_| File::open(&target)?.sync_all())
                .map_err(|cause| StoreError::io(format!("copy {}", backup.display()), cause))
        })
        .await
    };
    let placed = match copied {
        Ok(()) => rename(&target, path).await,
        Err(error) if error.kind() == StoreErrorKind::NoSpace => {
            let _ = remove(&target).await;
            rename(&backup, path).await
        }
        Err(error) => Err(error),
    };
    if placed.is_err() {
        let _ = remove(&target).await;
    }
    placed.map(|()| true)
}

/// Gives a backup that is of no use another name, so that the next one does not overwrite it.
pub(super) async fn keep_damaged(root: &Path) -> Result<(), StoreError> {
    let backup = root.join(BACKUP_FILE);
    if !exists(&backup).await? {
        return Ok(());
    }
    rename(&backup, &root.join(DAMAGED_BACKUP_FILE)).await
}

/// How closely a database is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Every page and record.
    Pages,
    /// And that every index agrees with its table, which takes several times as long.
    Indexes,
}

/// Reads the whole database at `path` and judges it. `at_rest` promises that nothing writes to it,
/// and leaves no trace beside it.
///
/// Fails with [`StoreErrorKind::Corrupt`] if it is damaged, otherwise if it cannot be judged.
pub(super) async fn check(path: &Path, depth: Depth, at_rest: bool) -> Result<(), StoreError> {
    const DOING: &str = "check the database";
    let failed = |cause| failed(path, DOING, cause);
    let options = if at_rest {
        SqliteConnectOptions::new().filename(path).read_only(true).immutable(true)
    } else {
        options(path)
    };
    let mut connection = options.connect().await.map_err(failed)?;
    let pragma = match depth {
        Depth::Pages => "PRAGMA quick_check(1)",
        Depth::Indexes => "PRAGMA integrity_check(1)",
    };
    let verdict = sqlx::query(pragma)
        .fetch_one(&mut connection)
        .await
        .and_then(|row| row.try_get::<String, _>(0))
        .map_err(failed);
    let _ = connection.close().await;
    match verdict?.as_str() {
        "ok" => Ok(()),
        damage => Err(StoreError::corrupt(format!("{DOING} {}", path.display()), damage)),
    }
}

/// Whether there is such a file with anything in it.
pub(super) async fn exists(path: &Path) -> Result<bool, StoreError> {
    let path = path.to_owned();
    blocking("look for a file", move || match fs::metadata(&path) {
        Ok(metadata) => Ok(metadata.len() > 0),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(StoreError::io(format!("look for {}", path.display()), cause)),
    })
    .await
}

/// Removes a file that need not be there.
pub(super) async fn remove(path: &Path) -> Result<(), StoreError> {
    let path = path.to_owned();
    blocking("remove a file", move || match fs::remove_file(&path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io(format!("remove {}", path.display()), cause))
        }
        _ => Ok(()),
    })
    .await
}

/// Gives a whole file its name, so that both survive a crash.
async fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    let (from, to): (PathBuf, PathBuf) = (from.to_owned(), to.to_owned());
    blocking("rename a file", move || {
        let renamed = || {
            File::open(&from)?.sync_all()?;
            fs::rename(&from, &to)?;
            to.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
        };
        renamed().map_err(|cause| StoreError::io(format!("write {}", to.display()), cause))
    })
    .await
}
