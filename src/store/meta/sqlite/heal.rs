//! A database that is damaged or gone is made anew.
//!
//! The damaged files are moved aside, never removed while there is room for them. In their place
//! comes the last backup, or an empty database: links cannot be invented, so upstream has to prove
//! again who may read what, and nothing is open that was not proven.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::backup::{BACKUP_FILE, Depth, check, exists, keep_damaged, restore};
use super::connect::{self, Pools};
use super::health::{Remade, Source};
use super::{META_FILE, SqliteMeta, schema};
use crate::clock::{Clock, Timestamp};
use crate::store::note::Note;
use crate::store::{StoreError, StoreErrorKind, blocking};

/// Damaged databases that are kept beside the one in use.
pub(super) const DAMAGED_KEPT_MAX: usize = 2;

/// What stands between the database's name and the time in the name of a damaged one.
const DAMAGED: &str = ".damaged-";

/// What SQLite appends to the names of the files of one database.
const SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// The note of when the database was last made anew.
const REMADE_NOTE: &str = "meta-v1.remade";

/// The file's first bytes, and where the format of its content stands (SQLite's file format,
/// section "The Database Header").
const MAGIC: &[u8] = b"SQLite format 3\0";
const HEADER_BYTES: usize = 100;
const USER_VERSION_AT: usize = 60;

impl SqliteMeta {
    /// [`SqliteMeta::open`], and where the database is damaged it is made anew. `has_content`
    /// tells that there are blobs, so that a missing database is a loss and no beginning.
    ///
    /// A database of another format is refused and left alone.
    pub async fn open_or_heal(
        root: &Path,
        has_content: bool,
        clock: &Clock,
    ) -> Result<Self, StoreError> {
        let path = root.join(META_FILE);
        let why = match look(&path).await? {
            Found::Missing if has_content || exists(&root.join(BACKUP_FILE)).await? => {
                Some("it was missing".to_owned())
            }
            Found::Unclean => match check(&path, Depth::Pages, false).await {
                Ok(()) => None,
                Err(error) if error.kind() == StoreErrorKind::Corrupt => Some(error.to_string()),
                Err(error) => return Err(error),
            },
            Found::Missing | Found::Usual => None,
        };
        let why = match why {
            Some(why) => why,
            None => match connect::open(&path).await {
                Ok(pools) => return Ok(Self::with(root, pools)),
                Err(error) if error.kind() == StoreErrorKind::Corrupt => error.to_string(),
                Err(error) => return Err(error),
            },
        };
        let (pools, remade) = remake(root, &path, why, clock.now()).await?;
        let store = Self::with(root, pools);
        store.0.health.remade(remade);
        Ok(store)
    }

    /// How often the database was made anew in this process.
    pub(super) fn times_remade(&self) -> u64 {
        self.0.health.losses()
    }

    /// When it last was, in this process or an earlier one.
    pub(super) async fn last_remade(&self) -> Result<Option<Timestamp>, StoreError> {
        let note = Note::new(&self.0.root, REMADE_NOTE).read().await?;
        let ms = note.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
        Ok(ms.map(Timestamp::from_unix_ms))
    }
}

/// What is at the database's place before it is opened.
enum Found {
    /// Nothing.
    Missing,
    /// What a process left that did not close it.
    Unclean,
    /// Anything else.
    Usual,
}

/// Looks at the file, which nothing has open.
async fn look(path: &Path) -> Result<Found, StoreError> {
    let path = path.to_owned();
    blocking("look at the database", move || {
        let failed = |cause| StoreError::io(format!("read {}", path.display()), cause);
        let mut header = Vec::with_capacity(HEADER_BYTES);
        match fs::File::open(&path) {
            Ok(file) => {
                file.take(HEADER_BYTES as u64).read_to_end(&mut header).map(drop).map_err(failed)?
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(failed(cause)),
        }
        if header.is_empty() {
            return Ok(Found::Missing);
        }
        // A newer format is not ours to judge: it is refused when it is opened.
        let version = header.get(USER_VERSION_AT..USER_VERSION_AT + 4);
        let version = version.and_then(|bytes| Some(u32::from_be_bytes(bytes.try_into().ok()?)));
        let is_newer = version.is_some_and(|version| i64::from(version) > schema::VERSION);
        if header.starts_with(MAGIC) && is_newer {
            return Ok(Found::Usual);
        }
        let log = fs::metadata(beside(&path, "-wal")).map_or(0, |metadata| metadata.len());
        Ok(if log > 0 { Found::Unclean } else { Found::Usual })
    })
    .await
}

/// Moves what is at the database's place aside and opens a new one there: the last backup, or an
/// empty one. Nothing has the database open.
pub(super) async fn remake(
    root: &Path,
    path: &Path,
    why: String,
    at: Timestamp,
) -> Result<(Pools, Remade), StoreError> {
    let aside = move_aside(path, at).await?;
    // What fails now may work in a moment: an empty database in its place would lose everything.
    let mut from = if restore(root, path).await? { Source::Backup } else { Source::Nothing };
    if from == Source::Nothing {
        keep_damaged(root).await?;
    }
    let pools = match connect::open(path).await {
        Err(error) if from == Source::Backup && error.kind() != StoreErrorKind::Io => {
            tracing::error!(%error, "the restored metadata database is of no use");
            move_aside(path, at).await?;
            keep_damaged(root).await?;
            from = Source::Nothing;
            connect::open(path).await?
        }
        opened => opened?,
    };
    prune(path).await;
    let remade = Remade { at, from, why, aside };
    tracing::error!(
        from = from.as_str(),
        why = remade.why,
        damaged = remade.aside.as_ref().map(|path| path.display().to_string()),
        "the metadata database was made anew; upstream is asked again who may read what"
    );
    // For `gc`, which must not take content for garbage whose links were lost.
    let note = Note::new(root, REMADE_NOTE).write(at.unix_ms().to_string().into_bytes()).await;
    if let Err(error) = note {
        tracing::warn!(%error, "cannot note that the metadata database was made anew");
    }
    Ok((pools, remade))
}

/// Renames the files of the database. Empty ones, as an attempt to open it leaves them, go. Returns
/// where the database's own file went, if there was one.
async fn move_aside(path: &Path, at: Timestamp) -> Result<Option<PathBuf>, StoreError> {
    let path = path.to_owned();
    blocking("move the database aside", move || {
        let failed = |cause| StoreError::io(format!("move {} aside", path.display()), cause);
        let earlier = damaged(&path).map_err(failed)?;
        // Later than all others, whatever the clock says: the oldest go first.
        let after = earlier.last().map_or(0, |last| last.saturating_add(1));
        let aside = beside(&path, &format!("{DAMAGED}{}", after.max(at.unix_ms() / 1000)));
        let mut moved = None;
        for suffix in SUFFIXES {
            let (source, target) = (beside(&path, suffix), beside(&aside, suffix));
            if fs::metadata(&source).is_ok_and(|metadata| metadata.len() == 0) {
                fs::remove_file(&source).map_err(failed)?;
                continue;
            }
            match fs::rename(source, &target) {
                Ok(()) if suffix.is_empty() => moved = Some(target),
                Ok(()) => {}
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(failed(cause)),
            }
        }
        Ok(moved)
    })
    .await
}

/// Removes damaged databases beyond [`DAMAGED_KEPT_MAX`], the oldest first. Only once there is a
/// new one: until then they may be all that is left.
async fn prune(path: &Path) {
    let path = path.to_owned();
    let pruned = blocking("remove old damaged databases", move || {
        remove_oldest(&path)
            .map_err(|cause| StoreError::io(format!("prune beside {}", path.display()), cause))
    });
    if let Err(error) = pruned.await {
        tracing::warn!(%error, "an old damaged database cannot be removed");
    }
}

fn remove_oldest(path: &Path) -> io::Result<()> {
    let seconds = damaged(path)?;
    let old = seconds.len().saturating_sub(DAMAGED_KEPT_MAX);
    for second in seconds.into_iter().take(old) {
        for suffix in SUFFIXES {
            match fs::remove_file(beside(path, &format!("{DAMAGED}{second}{suffix}"))) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The times in the names of damaged databases.
fn damaged(path: &Path) -> io::Result<BTreeSet<u64>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(BTreeSet::new());
    };
    let before = format!("{}{DAMAGED}", name.to_string_lossy());
    let mut seconds = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&before)) else {
            continue;
        };
        let second = SUFFIXES.iter().rev().find_map(|suffix| rest.strip_suffix(suffix));
        seconds.extend(second.and_then(|second| second.parse::<u64>().ok()));
    }
    Ok(seconds)
}

/// `path` with `suffix` appended to its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
