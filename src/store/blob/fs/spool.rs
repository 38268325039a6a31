//! A spool file and its way into the store.

use std::fs::{self, File, Permissions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use super::Shared;
use super::crash::{self, Point};
use super::files::{BLOB_MODE, create_new, sync_dir};
use super::ledger::{Lease, allocated, set_aside};
use super::parked::{Claim, Waiting, modified};
use super::read::GrowingFile;
use super::sidecar::{Pair, Sidecar};
use super::stored_len;
use crate::oci::Verified;
use crate::spans::Spans;
use crate::store::StoreError;
use crate::store::blob::{
    Blob, Expect, ReadAt, Recorded, Recorder, Spool, SpoolKey, check_len, reserve_step,
};

#[derive(Debug)]
pub(super) struct FsSpool {
    shared: Arc<Shared>,
    path: PathBuf,
    file: Arc<File>,
    lease: Arc<Lease>,
    /// How far the file has been written, in bytes.
    end: u64,
    /// The blocks that were written, or that the disk has set aside.
    claimed: Spans,
    /// What of the lease they take, in bytes.
    used: u64,
    /// The file has its blob's name: there is nothing to discard any more.
    renamed: bool,
    /// What an earlier fill left.
    recorded: Recorded,
    keyed: Option<Keyed>,
}

/// What makes a spool one that can be found again.
#[derive(Debug)]
struct Keyed {
    claim: Claim,
    sidecar: Arc<Sidecar>,
    /// Whether what was recorded is to stay when this is dropped.
    keep: bool,
}

impl FsSpool {
    /// A spool that nobody finds again.
    pub(super) fn create(shared: &Arc<Shared>, expect: Expect) -> Result<Self, StoreError> {
        Self::new(shared, shared.next_spool_path(), None, expect)
    }

    /// The spool of `key`, with what an earlier fill left in it.
    pub(super) fn resume(
        shared: &Arc<Shared>,
        key: &SpoolKey,
        expect: Expect,
    ) -> Result<Self, StoreError> {
        // Somebody writes to it: this one is nobody's.
        let Some((claim, waiting)) = Claim::of(shared, key) else {
            return Self::create(shared, expect);
        };
        if let Some(waiting) = waiting {
            match waiting.reopen(key) {
                Ok((file, recorded)) => {
                    let Waiting { pair, lease, .. } = waiting;
                    let file = Arc::new(file);
                    let written = recorded.landed.iter();
                    let claimed = written.map(|span| shared.ledger.touched(&span)).collect();
                    let sidecar = Sidecar::new(
                        key.clone(),
                        pair.clone(),
                        Arc::clone(&file),
                        recorded.clone(),
                    );
                    let mut spool = Self {
                        shared: Arc::clone(shared),
                        path: pair.part,
                        file,
                        used: lease.bytes(),
                        lease,
                        end: recorded.landed.end(),
                        claimed,
                        renamed: false,
                        recorded,
                        keyed: Some(Keyed { claim, sidecar: Arc::new(sidecar), keep: true }),
                    };
                    crash::point(Point::Resumed);
                    // Where that fails it is parked again.
                    spool.expect(expect)?;
                    return Ok(spool);
                }
                Err(why) => {
                    tracing::info!(digest = %key.digest, why, "what an earlier fill left is of no use");
                    waiting.pair.remove();
                }
            }
        }
        let pair = Pair::new(&shared.spool, key, shared.next_number());
        Self::new(shared, pair.part.clone(), Some((claim, key, pair)), expect)
    }

    fn new(
        shared: &Arc<Shared>,
        path: PathBuf,
        keyed: Option<(Claim, &SpoolKey, Pair)>,
        expect: Expect,
    ) -> Result<Self, StoreError> {
        let lease = shared.ledger.take(0)?;
        let file = create_new(&path)
            .map_err(|cause| StoreError::io(format!("create {}", path.display()), cause))?;
        crash::point(Point::SpoolCreated);
        let file = Arc::new(file);
        let keyed = keyed.map(|(claim, key, pair)| {
            let sidecar = Sidecar::new(key.clone(), pair, Arc::clone(&file), Recorded::default());
            Keyed { claim, sidecar: Arc::new(sidecar), keep: true }
        });
        let mut spool = Self {
            shared: Arc::clone(shared),
            path,
            file,
            lease,
            end: 0,
            claimed: Spans::new(),
            used: 0,
            renamed: false,
            recorded: Recorded::default(),
            keyed,
        };
        spool.expect(expect)?;
        Ok(spool)
    }

    fn expect(&mut self, expect: Expect) -> Result<(), StoreError> {
        match expect {
            Expect::Whole(Some(size)) => self.reserve_whole(size),
            // In steps, as it is written.
            Expect::Whole(None) | Expect::Parts => Ok(()),
        }
    }

    /// Reserves what `size` bytes from the first on need beside what is there.
    fn reserve_whole(&mut self, size: u64) -> Result<(), StoreError> {
        let whole = 0..self.shared.ledger.blocks(size);
        let more = whole.end - self.claimed.len_within(whole.clone());
        let grown = self.used.saturating_add(more).saturating_sub(self.lease.bytes());
        if grown > 0 {
            self.lease.grow(grown)?;
        }
        match set_aside(&self.file, size) {
            Ok(true) => self.lease.landed(more),
            Ok(false) => {}
            Err(cause) => {
                self.lease.shrink(grown);
                let doing = format!("set {size} bytes aside for {}", self.path.display());
                return Err(StoreError::io(doing, cause));
            }
        }
        self.claimed.insert(whole);
        self.used = self.used.saturating_add(more);
        Ok(())
    }

    /// Reserves what writing `blocks` needs beside what is there; how many bytes that is.
    fn reserve(&mut self, blocks: Range<u64>) -> io::Result<u64> {
        let more = blocks.end - blocks.start - self.claimed.len_within(blocks.clone());
        let needed = self.used.saturating_add(more);
        let reserved = self.lease.bytes();
        if needed > reserved {
            let step = reserve_step(self.shared.max_bytes);
            self.lease.grow((needed - reserved).max(step)).map_err(full)?;
        }
        self.claimed.insert(blocks);
        self.used = needed;
        Ok(more)
    }

    /// Leaves what was recorded for the next one, or nothing.
    fn leave(&mut self) {
        let Some(Keyed { claim, sidecar, keep }) = self.keyed.take() else {
            if let Err(cause) = fs::remove_file(&self.path) {
                // The next start removes it.
                tracing::warn!(path = %self.path.display(), error = %cause, "a spool file stays behind");
            }
            crash::point(Point::SpoolRemoved);
            return;
        };
        let recorded = sidecar.close();
        let described = fs::symlink_metadata(&sidecar.pair().state);
        match described {
            Ok(described) if keep && !recorded.landed.is_empty() => {
                crash::point(Point::ParkBegun);
                let mut waiting = Waiting {
                    pair: sidecar.pair().clone(),
                    lease: Arc::clone(&self.lease),
                    recorded,
                    since: modified(&described),
                    untrimmed: false,
                };
                // This one's own hold of the lease is no reader's.
                self.lease = self.shared.ledger.held(0);
                waiting.trim(&self.file);
                crash::point(Point::Parked);
                claim.park(waiting);
            }
            _ => sidecar.pair().remove(),
        }
    }
}

/// As an error of the file system, which is what a writer knows.
fn full(error: StoreError) -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, error)
}

impl Spool for FsSpool {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let end = offset
            .checked_add(bytes.len() as u64)
            .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let more = self.reserve(self.shared.ledger.touched(&(offset..end)))?;
        self.file.write_all_at(bytes, offset)?;
        self.lease.landed(more);
        self.end = self.end.max(end);
        crash::point(Point::Written);
        Ok(())
    }

    fn reader(&self) -> Arc<dyn ReadAt> {
        Arc::new(GrowingFile::new(Arc::clone(&self.file), Arc::clone(&self.lease)))
    }

    fn read_back(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_full(&self.file, offset, buffer)
    }

    fn recorded(&self) -> &Recorded {
        &self.recorded
    }

    fn recorder(&self) -> Option<Arc<dyn Recorder>> {
        let sidecar = Arc::clone(&self.keyed.as_ref()?.sidecar);
        Some(sidecar)
    }

    fn expect_whole(&mut self, size: u64) -> io::Result<()> {
        self.reserve_whole(size).map_err(full)
    }

    fn reserved(&self) -> u64 {
        self.lease.bytes()
    }

    fn discard(mut self: Box<Self>) {
        if let Some(keyed) = &mut self.keyed {
            keyed.keep = false;
        }
    }

    fn commit(mut self: Box<Self>, verified: Verified) -> Result<Blob, StoreError> {
        if let Some(keyed) = &mut self.keyed {
            keyed.keep = false;
            keyed.sidecar.close();
        }
        let doing = |what: &str| format!("{what} {}", self.path.display());
        let metadata =
            self.file.metadata().map_err(|cause| StoreError::io(doing("look at"), cause))?;
        check_len(&verified, self.end.min(metadata.len()))?;
        if self.keyed.as_ref().is_some_and(|keyed| keyed.sidecar.has_failed()) {
            let cause = io::Error::other("the disk did not take what was written");
            return Err(StoreError::io(doing("sync"), cause));
        }
        let digest = *verified.digest();
        if let Some(blob) = self.shared.stored_already(&verified)? {
            return Ok(blob);
        }
        if metadata.len() > self.end {
            // Left by an earlier fill, which had not recorded it.
            self.file.set_len(self.end).map_err(|cause| StoreError::io(doing("cut"), cause))?;
        }
        // Also against a slip of our own: from here on this file is read-only and may be mapped.
        self.file
            .set_permissions(Permissions::from_mode(BLOB_MODE))
            .map_err(|cause| StoreError::io(doing("protect"), cause))?;
        self.file.sync_all().map_err(|cause| StoreError::io(doing("sync"), cause))?;
        crash::point(Point::CommitSynced);
        // Only now does every file system know what the file takes.
        let metadata =
            self.file.metadata().map_err(|cause| StoreError::io(doing("look at"), cause))?;
        let dir = self.shared.shard_of(&digest)?;
        let blob = {
            let mut leases = self.shared.leases();
            let target = self.shared.blob_path(&digest);
            if stored_len(&target, &digest)? == Some(verified.len()) {
                // Another one was quicker. Ours is discarded.
                None
            } else {
                // One that cannot be right has its name, and loses it now.
                let replaced = fs::symlink_metadata(&target).ok();
                fs::rename(&self.path, &target)
                    .map_err(|cause| StoreError::io(doing("give its name to"), cause))?;
                self.renamed = true;
                if let Some(replaced) = replaced {
                    match leases.get(&digest) {
                        Some(lease) => lease.removed(),
                        None => self.shared.ledger.removed(allocated(&replaced)),
                    }
                }
                self.lease.stored(allocated(&metadata));
                leases.put(&digest, &self.lease);
                let (file, lease) = (Arc::clone(&self.file), Arc::clone(&self.lease));
                Some(self.shared.keep_open(&digest, file, verified.len(), lease))
            }
        };
        if let Some(blob) = blob {
            crash::point(Point::CommitRenamed);
            // The content is there, under its name, and right. Should the machine crash before the
            // name is on the disk, it is fetched again.
            if let Err(error) = sync_dir(&dir) {
                tracing::warn!(%digest, %error, "a blob's name may not survive a crash");
            }
            crash::point(Point::CommitNamed);
            if let Some(keyed) = &self.keyed {
                keyed.sidecar.pair().remove_state();
            }
            return Ok(blob);
        }
        match self.shared.open_blob(&digest)? {
            Some(blob) => Ok(blob),
            None => Err(StoreError::corrupt(doing("store"), "the blob vanished".to_owned())),
        }
    }
}

/// Reads until `buffer` is full or the file ends.
fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl Drop for FsSpool {
    fn drop(&mut self) {
        if !self.renamed {
            self.leave();
        }
    }
}
