//! Tar, read and written piece by piece.
//!
//! The `tar` crate knows the headers. What stands between them is read here and not there,
//! because it gathers extension headers of any length in memory, and archives come from anywhere.
//!
//! Source: POSIX.1-2024 `pax`, section "ustar Interchange Format"; the GNU long name.

use std::io;

use bytes::{Bytes, BytesMut};
use tar::{EntryType, Header, PaxExtensions};

use super::Pieces;

/// The unit of the format, in bytes.
const BLOCK: usize = 512;

/// The longest name, in bytes: far more than any name in a layout.
const NAME_BYTES_MAX: u64 = 4096;

/// The largest pax header, in bytes.
const PAX_BYTES_MAX: u64 = 64 * 1024;

/// The most members of one archive.
const MEMBERS_MAX: usize = 500_000;

/// The most bytes behind the archive's end: tools fill up their last record.
const TRAILER_BYTES_MAX: usize = 1 << 20;

/// The longest name that fits a plain header.
const PLAIN_NAME_BYTES_MAX: usize = 100;

/// Why a stream is no archive that is accepted.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream failed.
    #[error("cannot read the archive: {0}")]
    Read(#[source] io::Error),
    /// It ends in the middle.
    #[error("the archive ends in the middle")]
    Truncated,
    /// It is gzip.
    #[error("the archive is compressed; decompress it first (gunzip, zstd -d)")]
    Compressed,
    /// It is something else.
    #[error("this is no tar archive")]
    NotTar,
    /// A member has a name that leads out of the archive, or is no name.
    #[error("the archive has a member called {0:?}")]
    Name(String),
    /// A member is a link or a device.
    #[error("the archive has a member {0:?} that is no regular file")]
    NotRegular(String),
    /// A member is larger than its kind may be.
    #[error("{name:?} in the archive is larger than {max} bytes")]
    TooLarge {
        /// Which.
        name: String,
        /// The limit, in bytes.
        max: u64,
    },
    /// It has more than [`MEMBERS_MAX`] members.
    #[error("the archive has more than {MEMBERS_MAX} members")]
    TooMany,
    /// It is no layout, or not one that is understood.
    #[error("the archive is no OCI image layout: {0}")]
    Layout(String),
}

/// A regular file of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path, relative and without `.` and `..`.
    pub name: String,
    /// Its length, in bytes.
    pub len: u64,
}

/// An archive that is being read.
#[derive(Debug)]
pub struct Reader {
    pieces: Pieces,
    piece: Bytes,
    /// What is left of the current member, and of the filling behind it.
    left: u64,
    filling: u64,
    members: usize,
}

impl Reader {
    /// Reads the archive that `pieces` make up.
    pub const fn new(pieces: Pieces) -> Self {
        Self { pieces, piece: Bytes::new(), left: 0, filling: 0, members: 0 }
    }

    /// The next regular file; nothing at the end. What is left of the one before is skipped.
    pub async fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_size: Option<u64> = None;
        loop {
            self.skip().await?;
            let block = self.gather(BLOCK).await?;
            if block.iter().all(|byte| *byte == 0) {
                self.drain().await?;
                return Ok(None);
            }
            let header = self.header(&block)?;
            self.members += 1;
            if self.members > MEMBERS_MAX {
                return Err(ArchiveError::TooMany);
            }
            let own_size = header.entry_size().map_err(|_| ArchiveError::NotTar)?;
            let raw = match &long_name {
                Some(name) => name.clone(),
                None => header.path_bytes().into_owned(),
            };
            let shown = || String::from_utf8_lossy(&raw).chars().take(BLOCK).collect::<String>();
            match header.entry_type() {
                EntryType::GNULongName => {
                    let mut name = self.extension(own_size, NAME_BYTES_MAX, "a long name").await?;
                    while name.last() == Some(&0) {
                        name.pop();
                    }
                    long_name = Some(name);
                }
                EntryType::XHeader => {
                    let pax = self.extension(own_size, PAX_BYTES_MAX, "a pax header").await?;
                    for record in PaxExtensions::new(&pax) {
                        let record = record.map_err(|_| ArchiveError::NotTar)?;
                        match record.key_bytes() {
                            b"path" => long_name = Some(record.value_bytes().to_vec()),
                            b"size" => {
                                let size = record.value().ok().and_then(|text| text.parse().ok());
                                long_size = Some(size.ok_or(ArchiveError::NotTar)?);
                            }
                            _ => {}
                        }
                    }
                }
                EntryType::XGlobalHeader => {
                    self.extension(own_size, PAX_BYTES_MAX, "a pax header").await?;
                }
                EntryType::Directory => {
                    self.enter(own_size);
                    (long_name, long_size) = (None, None);
                }
                EntryType::Regular | EntryType::Continuous => {
                    let name = relative(&raw).ok_or_else(|| ArchiveError::Name(shown()))?;
                    let len = long_size.unwrap_or(own_size);
                    self.enter(len);
                    return Ok(Some(Member { name, len }));
                }
                _ => return Err(ArchiveError::NotRegular(shown())),
            }
        }
    }

    /// The next bytes of the current member; nothing at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, ArchiveError> {
        if self.left == 0 {
            return Ok(None);
        }
        let piece = self.take(self.left).await?;
        self.left -= piece.len() as u64;
        Ok(Some(piece))
    }

    /// All of the current member, which must not be larger than `max` bytes.
    pub async fn whole(&mut self, member: &Member, max: u64) -> Result<Vec<u8>, ArchiveError> {
        if member.len > max {
            return Err(ArchiveError::TooLarge { name: member.name.clone(), max });
        }
        let mut whole = Vec::new();
        while let Some(piece) = self.piece().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    fn header(&self, block: &[u8]) -> Result<Header, ArchiveError> {
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        let mut summed = header.clone();
        summed.set_cksum();
        let sum = header.cksum().ok();
        if sum.is_some() && sum == summed.cksum().ok() {
            return Ok(header);
        }
        const GZIP: &[u8] = &[0x1f, 0x8b];
        const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
        let compressed = block.starts_with(GZIP) || block.starts_with(ZSTD);
        Err(if self.members == 0 && compressed {
            ArchiveError::Compressed
        } else {
            ArchiveError::NotTar
        })
    }

    fn enter(&mut self, len: u64) {
        self.left = len;
        self.filling = filling(len);
    }

    /// The content of an extension header.
    async fn extension(&mut self, len: u64, max: u64, what: &str) -> Result<Vec<u8>, ArchiveError> {
        self.enter(len);
        self.whole(&Member { name: what.to_owned(), len }, max).await
    }

    /// Passes over what is left of the current member.
    async fn skip(&mut self) -> Result<(), ArchiveError> {
        let mut left = self.left.saturating_add(self.filling);
        (self.left, self.filling) = (0, 0);
        while left > 0 {
            left -= self.take(left).await?.len() as u64;
        }
        Ok(())
    }

    async fn gather(&mut self, len: usize) -> Result<Bytes, ArchiveError> {
        let mut block = BytesMut::with_capacity(len);
        while block.len() < len {
            block.extend_from_slice(&self.take((len - block.len()) as u64).await?);
        }
        Ok(block.freeze())
    }

    /// Some bytes, at least one and at most `max`.
    async fn take(&mut self, max: u64) -> Result<Bytes, ArchiveError> {
        while self.piece.is_empty() {
            match self.pieces.recv().await {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => return Err(ArchiveError::Read(error)),
                None => return Err(ArchiveError::Truncated),
            }
        }
        let len = usize::try_from(max).map_or(self.piece.len(), |max| max.min(self.piece.len()));
        Ok(self.piece.split_to(len))
    }

    /// Takes what tools put behind the end, so that whoever sends it is not cut off.
    async fn drain(&mut self) -> Result<(), ArchiveError> {
        let mut drained = self.piece.len();
        while drained <= TRAILER_BYTES_MAX {
            match self.pieces.recv().await {
                Some(Ok(piece)) => drained += piece.len(),
                Some(Err(error)) => return Err(ArchiveError::Read(error)),
                None => return Ok(()),
            }
        }
        Err(ArchiveError::NotTar)
    }
}

/// A path that stays inside: relative, without `..` and empty parts; a leading `./` is dropped.
fn relative(raw: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(raw).ok()?;
    let text = text.strip_prefix("./").unwrap_or(text);
    let is_part = |part: &str| {
        !part.is_empty()
            && !matches!(part, "." | "..")
            && !part.contains(|c: char| c.is_control() || c == '\\')
    };
    (text.len() as u64 <= NAME_BYTES_MAX && text.split('/').all(is_part)).then(|| text.to_owned())
}

/// What stands before the content of a file.
pub(super) fn head(name: &str, len: u64) -> Bytes {
    let mut out = BytesMut::new();
    if name.len() > PLAIN_NAME_BYTES_MAX {
        let mut long = name.as_bytes().to_vec();
        long.push(0);
        out.extend_from_slice(
            block("././@LongLink", long.len() as u64, EntryType::GNULongName).as_bytes(),
        );
        out.extend_from_slice(&long);
        out.extend_from_slice(&tail(long.len() as u64));
    }
    let plain: String = name.chars().take(PLAIN_NAME_BYTES_MAX).collect();
    out.extend_from_slice(block(&plain, len, EntryType::Regular).as_bytes());
    out.freeze()
}

fn block(name: &str, len: u64, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    // The names of a layout are ASCII and were cut to fit.
    let field = &mut header.as_old_mut().name;
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    header.set_entry_type(kind);
    header.set_size(len);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header
}

/// What stands behind the content of a file.
pub(super) fn tail(len: u64) -> Bytes {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    // Below 512, so it fits any integer.
    Bytes::from_static(&ZEROS).slice(..filling(len) as usize)
}

/// What ends an archive.
pub(super) fn end() -> Bytes {
    static ZEROS: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
    Bytes::from_static(&ZEROS)
}

const fn filling(len: u64) -> u64 {
    (BLOCK as u64 - len % BLOCK as u64) % BLOCK as u64
}
