//! A layout in a directory, to and from the form of an archive.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::archive::{Reader, end, head, tail};
use super::layout::{INDEX_FILE, LAYOUT_FILE, Part, REPORT_BYTES_MAX, blob_name};
use super::report::ExportReport;
use super::{ArchiveError, PIECE_BYTES, PIECES_WAITING_MAX, Pieces, TransferError, on_a_thread};
use crate::oci::{Algorithm, Digest};

/// The folder of a layout that holds its content.
const BLOBS_FOLDER: &str = "blobs";

/// Ends the name of what is not whole yet.
const UNFINISHED: &str = ".unfinished";

/// Where an archive goes.
pub enum Sink {
    /// As it is, into something that is written to.
    Archive(Box<dyn Write + Send>),
    /// Its files, into this directory, which is empty or not there. It has nothing of an export
    /// that does not come to its end, or has no image.
    Folder(PathBuf),
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive(_) => f.write_str("Archive"),
            Self::Folder(root) => write!(f, "Folder({root:?})"),
        }
    }
}

/// Writes an export to where it belongs and returns what it says about itself.
///
/// Runs on a thread of its own, until `pieces` ends, also if the future is dropped. A directory
/// is then cleaned up there; what an archive was written to is its owner's.
///
/// # Errors
/// When the archive is not whole, or cannot be written.
pub async fn save(pieces: Pieces, sink: Sink) -> Result<ExportReport, TransferError> {
    on_a_thread(async move {
        match sink {
            Sink::Archive(writer) => save_archive(pieces, writer).await,
            Sink::Folder(root) => save_folder(pieces, &root).await,
        }
    })
    .await
}

/// Writes the stream as it is while reading along.
async fn save_archive(
    mut pieces: Pieces,
    mut writer: Box<dyn Write + Send>,
) -> Result<ExportReport, TransferError> {
    let (copy, copied) = mpsc::channel(PIECES_WAITING_MAX);
    let writing = async {
        while let Some(piece) = pieces.recv().await {
            if let Ok(bytes) = &piece {
                writer
                    .write_all(bytes)
                    .map_err(|error| TransferError::file("write the archive", error))?;
            }
            // Whoever reads along has stopped for a reason of its own, which counts.
            if copy.send(piece).await.is_err() {
                break;
            }
        }
        drop(copy);
        writer.flush().map_err(|error| TransferError::file("write the archive", error))
    };
    let reading = async {
        let mut archive = Reader::new(copied);
        let mut report = None;
        while let Some(member) = archive.next().await? {
            if Part::of(&member.name) == Part::Report {
                report = Some(archive.whole(&member, REPORT_BYTES_MAX).await?);
            }
        }
        read_report(report)
    };
    let (written, report) = futures_util::future::join(writing, reading).await;
    let report = report?;
    written.map(|()| report)
}

async fn save_folder(pieces: Pieces, root: &Path) -> Result<ExportReport, TransferError> {
    let unfinished = Unfinished::begin(root)?;
    let report = save_files(pieces, &unfinished.at).await?;
    // A layout without any image is of no use to anybody.
    if !report.images.is_empty() || report.failed.is_empty() {
        unfinished.keep()?;
    }
    Ok(report)
}

/// A layout in the making, which goes away unless it is kept.
struct Unfinished {
    /// Where it is made.
    at: PathBuf,
    /// What it becomes.
    root: PathBuf,
    /// Whether that directory was there before: it may be a mount point, and is not replaced.
    into: bool,
}

impl Unfinished {
    fn begin(root: &Path) -> Result<Self, TransferError> {
        let into = root.is_dir();
        let failed = |error| TransferError::file(format_args!("use {}", root.display()), error);
        let at = if into {
            if fs::read_dir(root).map_err(failed)?.next().is_some() {
                return Err(failed(io::ErrorKind::DirectoryNotEmpty.into()));
            }
            root.join(UNFINISHED)
        } else {
            let name = root.file_name().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
            let mut name = name.to_owned();
            name.push(UNFINISHED);
            let at = root.with_file_name(name);
            if let Some(parent) = at.parent() {
                fs::create_dir_all(parent).map_err(failed)?;
            }
            at
        };
        // What is there may be the work of another export, which is not disturbed.
        fs::create_dir(&at)
            .map_err(|error| TransferError::file(format_args!("begin {}", at.display()), error))?;
        Ok(Self { at, root: root.to_owned(), into })
    }

    /// It is whole.
    fn keep(self) -> Result<(), TransferError> {
        let failed =
            |error| TransferError::file(format_args!("finish {}", self.root.display()), error);
        if !self.into {
            return fs::rename(&self.at, &self.root).map_err(failed);
        }
        // It is a layout when the index is there.
        for name in [BLOBS_FOLDER, LAYOUT_FILE, INDEX_FILE] {
            match fs::rename(self.at.join(name), self.root.join(name)) {
                // Without images there are no blobs.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                moved => moved.map_err(failed)?,
            }
        }
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Not there if it got its name. If it cannot be removed, its name tells what it is.
        let _ = fs::remove_dir_all(&self.at);
    }
}

/// Writes the files of a layout into `root`, each to the disk before the next.
async fn save_files(pieces: Pieces, root: &Path) -> Result<ExportReport, TransferError> {
    let mut archive = Reader::new(pieces);
    let mut report = None;
    while let Some(member) = archive.next().await? {
        let path = match Part::of(&member.name) {
            Part::Layout => root.join(LAYOUT_FILE),
            Part::Index => root.join(INDEX_FILE),
            Part::Blob(digest) => root.join(blob_name(&digest)),
            Part::Report => {
                report = Some(archive.whole(&member, REPORT_BYTES_MAX).await?);
                continue;
            }
            Part::Other => continue,
        };
        let failed = |error| TransferError::file(format_args!("write {}", path.display()), error);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
        while let Some(piece) = archive.piece().await? {
            file.write_all(&piece).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
    }
    read_report(report)
}

fn read_report(report: Option<Vec<u8>>) -> Result<ExportReport, TransferError> {
    let report = report.and_then(|report| serde_json::from_slice(&report).ok());
    report.ok_or(TransferError::Archive(ArchiveError::Truncated))
}

/// Sends a layout, in a directory or in an archive, as the stream that an import takes.
///
/// Runs on a thread of its own, until `out` is closed.
///
/// # Errors
/// When it cannot be read. The stream is then cut off.
pub async fn load(
    source: Source,
    out: mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), TransferError> {
    on_a_thread(async move {
        let failing = out.clone();
        let sent = match source {
            Source::Folder(root) => send_folder(&root, &out).await,
            Source::Archive(mut reader) => send_all(&mut *reader, u64::MAX, &out).await.map(drop),
        };
        if let Err(error) = &sent {
            // If nobody listens, nobody is misled.
            let _ = failing.send(Err(io::Error::other(error.to_string()))).await;
        }
        sent
    })
    .await
}

/// Where a layout is.
pub enum Source {
    /// In an archive that is read from the start.
    Archive(Box<dyn io::Read + Send>),
    /// In a directory.
    Folder(PathBuf),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive(_) => f.write_str("Archive"),
            Self::Folder(root) => write!(f, "Folder({root:?})"),
        }
    }
}

async fn send_folder(
    root: &Path,
    out: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), TransferError> {
    for name in [LAYOUT_FILE, INDEX_FILE] {
        send_file(root, name, out).await?;
    }
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let folder = root.join(BLOBS_FOLDER).join(algorithm.as_str());
        let failed = |error| TransferError::file(format_args!("read {}", folder.display()), error);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let digest = format!("{algorithm}:{}", name.to_string_lossy()).parse::<Digest>();
            // What is not called by a digest is no part of the layout.
            if let Ok(digest) = digest {
                send_file(root, &blob_name(&digest), out).await?;
            }
        }
    }
    send(out, end()).await
}

async fn send_file(
    root: &Path,
    name: &str,
    out: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), TransferError> {
    let path = root.join(name);
    let failed = |error| TransferError::file(format_args!("read {}", path.display()), error);
    let mut file = File::open(&path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    send(out, head(name, len)).await?;
    let sent = send_all(&mut file, len, out).await?;
    if sent < len {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    send(out, tail(len)).await
}

/// Sends what `reader` has, at most `max` bytes; how many there were.
async fn send_all(
    reader: &mut (dyn io::Read + Send),
    max: u64,
    out: &mpsc::Sender<io::Result<Bytes>>,
) -> Result<u64, TransferError> {
    let mut sent = 0;
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let wanted = (max - sent).min(PIECE_BYTES as u64);
        reader
            .take(wanted)
            .read_to_end(&mut piece)
            .map_err(|error| TransferError::file("read the archive", error))?;
        if piece.is_empty() {
            return Ok(sent);
        }
        sent += piece.len() as u64;
        send(out, piece.into()).await?;
    }
}

async fn send(out: &mpsc::Sender<io::Result<Bytes>>, piece: Bytes) -> Result<(), TransferError> {
    if piece.is_empty() {
        return Ok(());
    }
    out.send(Ok(piece)).await.map_err(|_| TransferError::Abandoned)
}
