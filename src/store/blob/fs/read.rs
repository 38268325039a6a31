//! Reading files, growing and committed.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::io::ReadWriteFlags;

use super::ledger::Lease;
use crate::store::blob::{ReadAt, map};

/// A file that is still being written.
#[derive(Debug)]
pub(super) struct GrowingFile {
    file: Arc<File>,
    /// The file takes its space for as long as it is open.
    _lease: Arc<Lease>,
}

impl GrowingFile {
    pub(super) const fn new(file: Arc<File>, lease: Arc<Lease>) -> Self {
        Self { file, _lease: lease }
    }
}

#[async_trait]
impl ReadAt for GrowingFile {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        if let Some(bytes) = read_cached(&self.file, offset, len) {
            return Ok(bytes);
        }
        let file = Arc::clone(&self.file);
        on_blocking_pool(move || {
            let total = file.metadata()?.len();
            let mut buffer = vec![0; within(total, offset, len)];
            // A file that grows or stays has at least `total` bytes.
            file.read_exact_at(&mut buffer, offset)?;
            Ok(buffer.into())
        })
        .await
    }
}

/// A file that never changes any more.
#[derive(Debug)]
pub(super) struct CommittedFile {
    file: Arc<File>,
    len: u64,
    /// The whole file, mapped when it is first wanted. `None` inside: it cannot be mapped.
    map: OnceLock<Option<Bytes>>,
    /// The file takes its space for as long as it is open or mapped.
    lease: Arc<Lease>,
}

impl CommittedFile {
    /// `file` must have been committed and be `len` bytes long.
    pub(super) fn new(file: Arc<File>, len: u64, lease: Arc<Lease>) -> Self {
        Self { file, len, map: OnceLock::new(), lease }
    }

    fn map(&self) -> Option<Bytes> {
        let Ok(len) = usize::try_from(self.len) else { return None };
        if len == 0 {
            return Some(Bytes::new());
        }
        match map::map_committed(&self.file, len, Arc::clone(&self.lease)) {
            Ok(map) => Some(map),
            Err(cause) => {
                // Reads serve as well, only slower: `vm.max_map_count` is the likely limit.
                tracing::debug!(len, error = %cause, "a blob's file cannot be mapped");
                None
            }
        }
    }
}

#[async_trait]
impl ReadAt for CommittedFile {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let len = within(self.len, offset, len);
        if len == 0 {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = read_cached(&self.file, offset, len) {
            return Ok(bytes);
        }
        let file = Arc::clone(&self.file);
        on_blocking_pool(move || {
            // Zeroed memory of this size comes from the kernel as it is: zeroing costs nothing
            // measurable beside the read.
            let mut buffer = vec![0; len];
            // Short means that somebody cut the file: an error, never an end.
            file.read_exact_at(&mut buffer, offset)?;
            Ok(buffer.into())
        })
        .await
    }

    fn mapped(&self, range: Range<u64>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        let map = self.map.get_or_init(|| self.map()).as_ref()?;
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        Some(map.slice(start..end))
    }
}

/// The largest read that may stay on an async thread, in bytes: copying more takes too long there.
const CACHED_READ_BYTES_MAX: usize = 256 * 1024;

/// All `len` bytes at `offset` if they are in the page cache, where what has just landed is: then
/// the read does not block, and needs no other thread. `None` where it would, and for every error.
fn read_cached(file: &File, offset: u64, len: usize) -> Option<Bytes> {
    if len > CACHED_READ_BYTES_MAX {
        return None;
    }
    let mut buffer = vec![0; len];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    match rustix::io::preadv2(file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
        Ok(read) if read == len => Some(buffer.into()),
        Ok(_) | Err(_) => None,
    }
}

/// How many of `len` bytes at `offset` lie within `total`.
fn within(total: u64, offset: u64, len: usize) -> usize {
    let left = total.saturating_sub(offset);
    usize::try_from(left).map_or(len, |left| left.min(len))
}

async fn on_blocking_pool<F>(read: F) -> io::Result<Bytes>
where
    F: FnOnce() -> io::Result<Bytes> + Send + 'static,
{
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}
