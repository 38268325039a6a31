//! Who has how much of the space that the store may take.
//!
//! Counted are allocated bytes (`st_blocks`), because these are what a disk runs out of: of the
//! blobs, of what is on its way in (reserved before it is written), of removed files that somebody
//! still has open, and of everything else below the root, such as the database.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::blob::RoomUse;
use crate::store::{StoreError, StoreErrorKind};

/// What `st_blocks` counts in, whatever the file system's own blocks are.
const ST_BLOCK_BYTES: u64 = 512;

/// The block that files are rounded up to where the file system does not say.
const FALLBACK_BLOCK_BYTES: u64 = 4096;

/// One in so many bytes of the cap stays unused, for what grows between two looks: the database's
/// log, directories, the file system's own blocks of large files.
const HEADROOM_SHARE: u64 = 32;
const HEADROOM_MIN_BYTES: u64 = 512 << 10;
const HEADROOM_MAX_BYTES: u64 = 32 << 20;

/// The allocated bytes of a file.
pub(super) fn allocated(metadata: &fs::Metadata) -> u64 {
    metadata.blocks().saturating_mul(ST_BLOCK_BYTES)
}

/// What an unprivileged process may still write at `path`, in bytes. A file system that does not
/// say will refuse the write.
pub(super) fn free_on_disk(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

/// The space of one store. Methods that look at the disk block.
#[derive(Debug)]
pub(super) struct Ledger {
    root: PathBuf,
    max: u64,
    min_free: u64,
    block: u64,
    /// Allocated by directories below the root; looked at from time to time.
    directories: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Allocated by committed blobs that have their name.
    stored: u64,
    /// Held by leases: reserved, or allocated by files without a name.
    held: u64,
    /// The part of `held` that is not on the disk yet: the disk still calls it free.
    unallocated: u64,
}

impl Ledger {
    /// The space below `root`, of which `stored` bytes are blobs already.
    pub(super) fn new(root: &Path, max: u64, min_free: u64, stored: u64) -> Self {
        let block = rustix::fs::statvfs(root).map_or(FALLBACK_BLOCK_BYTES, |fs| fs.f_frsize.max(1));
        Self {
            root: root.to_owned(),
            max,
            min_free,
            block,
            directories: AtomicU64::new(0),
            state: Mutex::new(State { stored, ..State::default() }),
        }
    }

    /// Reserves `bytes` (rounded up to whole blocks) until the answer is dropped.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Result<Arc<Lease>, StoreError> {
        let lease = Lease {
            ledger: Arc::clone(self),
            inner: Mutex::new(Inner { bytes: 0, unallocated: 0, stage: Stage::Growing }),
        };
        lease.grow(bytes)?;
        Ok(Arc::new(lease))
    }

    /// The lease of a blob that is stored, and found `allocated` bytes large.
    pub(super) fn stored(self: &Arc<Self>, allocated: u64) -> Arc<Lease> {
        let inner = Inner { bytes: allocated, unallocated: 0, stage: Stage::Stored };
        Arc::new(Lease { ledger: Arc::clone(self), inner: Mutex::new(inner) })
    }

    /// The lease of a file that was found `allocated` bytes large and is no blob. The disk has it
    /// already, so this is never refused.
    pub(super) fn held(self: &Arc<Self>, allocated: u64) -> Arc<Lease> {
        let lease = self.stored(0);
        lease.lock().stage = Stage::Growing;
        lease.settle(allocated);
        lease
    }

    /// A blob of `allocated` bytes that nobody has open lost its name.
    pub(super) fn removed(&self, allocated: u64) {
        let mut state = self.lock();
        state.stored = state.stored.saturating_sub(allocated);
    }

    /// Directories take this much now.
    pub(super) fn set_directories(&self, allocated: u64) {
        self.directories.store(allocated, Ordering::Relaxed);
    }

    /// The whole blocks that bytes of `span` touch.
    pub(super) fn touched(&self, span: &Range<u64>) -> Range<u64> {
        let start = span.start / self.block * self.block;
        start..self.blocks(span.end)
    }

    /// `bytes` in whole blocks.
    pub(super) fn blocks(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.block).saturating_mul(self.block)
    }

    /// Who uses what, now. What of it is parked or in quarantine is not known here.
    pub(super) fn room(&self) -> RoomUse {
        let (others, free) = (self.others(), self.free_on_disk());
        let state = self.lock();
        RoomUse {
            max: self.max,
            stored: state.stored,
            reserved: state.held,
            parked: 0,
            quarantined: 0,
            quarantined_files: 0,
            others,
            free_on_disk: free,
            min_free: self.min_free,
            available: self.available(&state, others, free),
            shortfall: self.shortfall(&state, others, free),
        }
    }

    fn available(&self, state: &State, others: u64, free_on_disk: u64) -> u64 {
        let (taken, kept_free) = self.claims(state, others);
        self.max.saturating_sub(taken).min(free_on_disk.saturating_sub(kept_free))
    }

    fn shortfall(&self, state: &State, others: u64, free_on_disk: u64) -> u64 {
        let (taken, kept_free) = self.claims(state, others);
        taken.saturating_sub(self.max).max(kept_free.saturating_sub(free_on_disk))
    }

    /// What is taken of the cap, and what the disk has to keep free.
    fn claims(&self, state: &State, others: u64) -> (u64, u64) {
        let headroom = (self.max / HEADROOM_SHARE).clamp(HEADROOM_MIN_BYTES, HEADROOM_MAX_BYTES);
        let taken = [state.stored, state.held, others, headroom];
        let taken = taken.into_iter().fold(0, u64::saturating_add);
        (taken, self.min_free.saturating_add(state.unallocated))
    }

    /// Allocated bytes below the root that are neither blobs nor spool.
    fn others(&self) -> u64 {
        let files = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let files = files.filter_map(|entry| entry.metadata().ok());
        let files = files.filter(fs::Metadata::is_file).map(|metadata| allocated(&metadata));
        files.sum::<u64>().saturating_add(self.directories.load(Ordering::Relaxed))
    }

    fn free_on_disk(&self) -> u64 {
        free_on_disk(&self.root)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The space of one file, for as long as anybody has the file open. Its last holder gives back
/// what is no longer below a blob's name.
#[derive(Debug)]
pub(super) struct Lease {
    ledger: Arc<Ledger>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    bytes: u64,
    unallocated: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A file on its way in: the bytes are held.
    Growing,
    /// A blob: the bytes are counted with the stored ones, and the lease gives nothing back.
    Stored,
    /// A blob that lost its name: the bytes are held until the last reader is gone.
    Removed,
}

impl Lease {
    /// Reserves `more` bytes. Nothing is reserved after an error.
    pub(super) fn grow(&self, more: u64) -> Result<(), StoreError> {
        let more = self.ledger.blocks(more);
        let (others, free) = (self.ledger.others(), self.ledger.free_on_disk());
        let mut inner = self.lock();
        let mut state = self.ledger.lock();
        let available = self.ledger.available(&state, others, free);
        if more > available {
            let doing = format!("reserve {more} bytes");
            let why = format!(
                "storage.max_size and storage.min_free leave {available} bytes ({} stored, {} \
                 reserved, {others} of the database and directories, {free} free on the disk)",
                state.stored, state.held
            );
            return Err(StoreError::new(StoreErrorKind::NoSpace, doing, Some(why.into())));
        }
        state.held = state.held.saturating_add(more);
        state.unallocated = state.unallocated.saturating_add(more);
        inner.bytes = inner.bytes.saturating_add(more);
        inner.unallocated = inner.unallocated.saturating_add(more);
        Ok(())
    }

    /// What is reserved or allocated, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// The disk has set `bytes` more aside.
    pub(super) fn landed(&self, bytes: u64) {
        let mut inner = self.lock();
        let mut state = self.ledger.lock();
        let landed = inner.unallocated.min(bytes);
        inner.unallocated -= landed;
        state.unallocated = state.unallocated.saturating_sub(landed);
    }

    /// The file takes `allocated` bytes, and nothing more is going to be written to it.
    pub(super) fn settle(&self, allocated: u64) {
        let mut inner = self.lock();
        let mut state = self.ledger.lock();
        state.held = state.held.saturating_sub(inner.bytes).saturating_add(allocated);
        state.unallocated = state.unallocated.saturating_sub(inner.unallocated);
        inner.bytes = allocated;
        inner.unallocated = 0;
    }

    /// Gives back the last `bytes` that were reserved, of which nothing is on the disk.
    pub(super) fn shrink(&self, bytes: u64) {
        let mut inner = self.lock();
        let mut state = self.ledger.lock();
        let bytes = bytes.min(inner.unallocated);
        inner.unallocated -= bytes;
        inner.bytes = inner.bytes.saturating_sub(bytes);
        state.unallocated = state.unallocated.saturating_sub(bytes);
        state.held = state.held.saturating_sub(bytes);
    }

    /// The file got its blob's name and takes `allocated` bytes.
    pub(super) fn stored(&self, allocated: u64) {
        let mut inner = self.lock();
        let mut state = self.ledger.lock();
        state.held = state.held.saturating_sub(inner.bytes);
        state.unallocated = state.unallocated.saturating_sub(inner.unallocated);
        state.stored = state.stored.saturating_add(allocated);
        *inner = Inner { bytes: allocated, unallocated: 0, stage: Stage::Stored };
    }

    /// The blob lost its name while somebody has its file open.
    pub(super) fn removed(&self) {
        let mut inner = self.lock();
        if inner.stage == Stage::Stored {
            let mut state = self.ledger.lock();
            state.stored = state.stored.saturating_sub(inner.bytes);
            state.held = state.held.saturating_add(inner.bytes);
            inner.stage = Stage::Removed;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let inner = self.lock();
        if inner.stage != Stage::Stored {
            let mut state = self.ledger.lock();
            state.held = state.held.saturating_sub(inner.bytes);
            state.unallocated = state.unallocated.saturating_sub(inner.unallocated);
        }
    }
}

/// Sets the disk's blocks for the first `bytes` of `file` aside, without changing its length.
/// Whether that worked; a file system that cannot do it is no failure, a full one is.
pub(super) fn set_aside(file: &fs::File, bytes: u64) -> io::Result<bool> {
    use rustix::fs::FallocateFlags;
    if bytes == 0 {
        return Ok(true);
    }
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
        Err(cause) => Err(cause.into()),
    }
}

/// Gives back the disk's blocks of `span`, which reads as zeros from then on. A file system that
/// cannot do it keeps them.
pub(super) fn punch(file: &fs::File, span: Range<u64>) -> io::Result<()> {
    use rustix::fs::FallocateFlags;
    if span.start >= span.end {
        return Ok(());
    }
    let flags = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
    match rustix::fs::fallocate(file, flags, span.start, span.end - span.start) {
        Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}

/// Allocated bytes of the files of all blobs, by looking at each.
pub(super) fn measure(blobs: &Path) -> io::Result<u64> {
    let mut total = 0_u64;
    for dir in directories(blobs)? {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                continue;
            }
            match entry.metadata() {
                Ok(metadata) => total = total.saturating_add(allocated(&metadata)),
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(cause),
            }
        }
    }
    Ok(total)
}

/// Allocated bytes of the directories themselves, which grow with the names in them.
pub(super) fn measure_directories(blobs: &Path, others: [&Path; 2]) -> io::Result<u64> {
    let mut total = 0_u64;
    for dir in directories(blobs)?.into_iter().chain(others.map(Path::to_owned)) {
        total = total.saturating_add(allocated(&fs::metadata(dir)?));
    }
    Ok(total)
}

/// `blobs` and the two levels of directories below it.
fn directories(blobs: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![blobs.to_owned()];
    let mut level = found.clone();
    for _ in 0..2 {
        let mut below = Vec::new();
        for dir in level {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    below.push(entry.path());
                }
            }
        }
        found.extend_from_slice(&below);
        level = below;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn ledger(max: u64) -> (TempDir, Arc<Ledger>) {
        let root = TempDir::new().unwrap();
        let ledger = Arc::new(Ledger::new(root.path(), max, 0, 0));
        (root, ledger)
    }

    #[test]
    fn what_is_reserved_cannot_be_reserved_again_until_it_is_given_back() {
        let (_root, ledger) = ledger(10 * MIB);
        let first = ledger.take(6 * MIB).unwrap();
        let error = ledger.take(6 * MIB).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::NoSpace);
        assert!(error.to_string().contains("storage.max_size"), "{error}");
        assert_eq!(ledger.room().reserved, 6 * MIB);
        drop(first);
        assert_eq!(ledger.room().reserved, 0);
        ledger.take(6 * MIB).unwrap();
    }

    #[test]
    fn a_lease_changes_sides_with_its_file() {
        let (_root, ledger) = ledger(10 * MIB);
        let lease = ledger.take(4 * MIB).unwrap();
        lease.stored(3 * MIB);
        assert_eq!((ledger.room().stored, ledger.room().reserved), (3 * MIB, 0));
        drop(lease);
        assert_eq!(ledger.room().stored, 3 * MIB, "a blob needs no lease to be counted");
        let lease = ledger.stored(3 * MIB);
        lease.removed();
        assert_eq!((ledger.room().stored, ledger.room().reserved), (0, 3 * MIB));
        lease.removed();
        drop(lease);
        assert_eq!((ledger.room().stored, ledger.room().reserved), (0, 0));
    }

    #[test]
    fn the_disk_may_leave_less_than_the_cap() {
        let root = TempDir::new().unwrap();
        let roomy = Ledger::new(root.path(), u64::MAX, 0, 0).room();
        assert!(roomy.available > 0, "{roomy:?}");
        let ledger = Ledger::new(root.path(), u64::MAX, u64::MAX / 2, 0);
        let room = ledger.room();
        assert_eq!(room.available, 0, "min_free is more than the disk has");
        assert!(room.shortfall > 0, "{room:?}");
        assert!(Arc::new(ledger).take(1).is_err());
    }

    #[test]
    fn what_else_lies_below_the_root_counts() {
        let (root, ledger) = ledger(10 * MIB);
        let before = ledger.room().available;
        fs::write(root.path().join("meta-v1.sqlite"), vec![1; 2 * MIB as usize]).unwrap();
        let after = ledger.room();
        assert!(after.others >= 2 * MIB && after.available <= before - 2 * MIB, "{after:?}");
        assert_eq!(after.shortfall, 0);
        fs::write(root.path().join("more"), vec![1; 9 * MIB as usize]).unwrap();
        let over = ledger.room();
        assert!(over.available == 0 && over.shortfall >= MIB, "{over:?}");
    }

    #[test]
    fn reservations_are_whole_blocks() {
        let (_root, ledger) = ledger(10 * MIB);
        let lease = ledger.take(1).unwrap();
        assert_eq!(lease.bytes(), ledger.blocks(1));
        assert!(lease.bytes() >= ST_BLOCK_BYTES);
    }
}
