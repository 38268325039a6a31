//! Mapping a committed blob: the one place with `unsafe`.

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};

/// A mapping, and what has to live as long as it does.
struct Mapped<K> {
    map: Mmap,
    _keep: K,
}

impl<K> AsRef<[u8]> for Mapped<K> {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

/// Maps the first `len` bytes of a committed blob's file. Slices of the answer share the mapping,
/// which lives as long as the last of them, and `keep` with it.
///
/// `file` must be one that was committed: see the safety argument.
pub(super) fn map_committed<K>(file: &File, len: usize, keep: K) -> io::Result<Bytes>
where
    K: Send + 'static,
{
    #[expect(unsafe_code, reason = "mapping a file is unsafe by nature; argued for below")]
    // SAFETY: a mapping is sound as long as nobody writes or truncates the file while it lives.
    // - Only Pierhead writes below its storage root: what it creates there nobody else may write,
    //   and an exclusive lock keeps a second Pierhead out.
    // - Pierhead itself never writes or truncates a file once it has been committed: the spool,
    //   the only writer, is consumed by the commit; from then on the file is of mode 0440, and it
    //   is only ever unlinked or replaced as a whole by `rename`, which leaves this inode alone.
    // - The caller checked that the file has `len` bytes, so no page lies beyond its end.
    // A disk that cannot deliver a page makes the access fail: `EFAULT` for a `write` of the
    // page, SIGBUS (the end of the process, not undefined behaviour) for a load. So the bytes are
    // used for plaintext vectored writes only; `ReadAt::mapped` says so to its callers.
    let map = unsafe { MmapOptions::new().len(len).map(file)? };
    Ok(Bytes::from_owner(Mapped { map, _keep: keep }))
}
