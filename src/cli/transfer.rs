//! `pierhead export` and `pierhead import`: through a running Pierhead, or on its storage while
//! none runs.

mod worker;

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::future::join;
use tokio::sync::mpsc;

use self::worker::Worker;
use super::Variables;
use super::args::{ExportArgs, ImportArgs};
use super::output::{Console, Exit, Failure, Format, bytes, counted, printable};
use super::progress::Meter;
use crate::http::admin::api::transfer::image_ref;
use crate::pull::naming::Naming;
use crate::transfer::folder::{self, Sink, Source};
use crate::transfer::{
    self, ExportReport, ExportedImage, Exporting, FailedImage, ImportReport, Importing,
    PIECES_WAITING_MAX, Pieces, TagOutcome, TransferError,
};

/// The name that stands for the standard input or output.
const STANDARD: &str = "-";

/// Writes images.
pub(super) async fn export(
    args: &ExportArgs,
    variables: &Variables,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let target = Destination::new(&args.to)?;
    let worker = Worker::find(&args.target, variables, false, console).await?;
    let meter = Meter::bytes("exporting");
    let (out, produced) = mpsc::channel(PIECES_WAITING_MAX);
    let (counted, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let saving = folder::save(pieces, target.sink()?);
    let work = async {
        // Both ends may be threads that run on: they end when nothing is passed between them.
        let passing = pass(produced, counted, &meter);
        let sending = send_export(worker, args, out);
        let (sent, ((), saved)) = join(sending, join(passing, saving)).await;
        // What went wrong at the source says more than a stream that is cut off.
        sent?;
        saved.map_err(failure)
    };
    let report = uninterrupted(work).await;
    meter.done();
    let report = report?;
    // A file without any image is of no use to anybody.
    if !report.images.is_empty() || report.failed.is_empty() {
        target.keep()?;
    }
    let said = match args.output.format {
        Format::Json => format!("{}\n", serde_json::json!(report)),
        Format::Text => exported(&report, &args.to),
    };
    if target.is_standard() {
        console.complain(&said);
    } else if console.say(&said) != Exit::Yes {
        return Ok(Exit::No);
    }
    Ok(told(&report.failed, args.output.format, console))
}

async fn send_export(
    worker: Worker,
    args: &ExportArgs,
    out: mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), Failure> {
    match worker {
        Worker::Server(client) => {
            let platforms: Vec<String> = args.platform.iter().map(ToString::to_string).collect();
            let images = args.images.iter().map(|image| ("image", image.as_str()));
            let platforms = platforms.iter().map(|platform| ("platform", platform.as_str()));
            let query: Vec<_> = images.chain(platforms).collect();
            client.download("export", &query, out).await
        }
        Worker::Storage(config, holdings) => {
            let naming = Naming::new(config.naming.clone());
            let named = |image: &String| image_ref(&naming, config.server.listen, image);
            let images = args.images.iter().map(named).collect::<Result<Vec<_>, _>>();
            let images = images.map_err(Failure::usage)?;
            let exporting = Exporting { images, platforms: args.platform.clone() };
            match transfer::export(holdings, exporting, out).await {
                // Whoever stopped taking it knows why.
                Ok(_) | Err(TransferError::Abandoned) => Ok(()),
                Err(error) => Err(failure(error)),
            }
        }
    }
}

/// Takes images in.
pub(super) async fn import(
    args: &ImportArgs,
    variables: &Variables,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let source = source(&args.from)?;
    let worker = Worker::find(&args.target, variables, true, console).await?;
    let meter = Meter::bytes("importing");
    let (out, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let (counted, counting) = mpsc::channel(PIECES_WAITING_MAX);
    let work = async {
        let sending = folder::load(source, out);
        let passing = pass(pieces, counted, &meter);
        let (sent, ((), report)) =
            join(sending, join(passing, take_import(worker, args, counting))).await;
        match (sent, report) {
            // The archive was refused before its end, or could not be read: the one says why.
            (Ok(()) | Err(TransferError::Abandoned), report) => report,
            (Err(error), _) => Err(failure(error)),
        }
    };
    let report = uninterrupted(work).await;
    meter.done();
    let report = report?;
    let said = match args.output.format {
        Format::Json => format!("{}\n", serde_json::json!(report)),
        Format::Text => imported(&report),
    };
    if console.say(&said) != Exit::Yes {
        return Ok(Exit::No);
    }
    Ok(told(&report.failed, args.output.format, console))
}

async fn take_import(
    worker: Worker,
    args: &ImportArgs,
    pieces: Pieces,
) -> Result<ImportReport, Failure> {
    match worker {
        Worker::Server(client) => {
            let query: Vec<_> = args.rename.iter().map(|name| ("as", name.as_str())).collect();
            client.upload("import", &query, pieces).await?.read()
        }
        Worker::Storage(config, holdings) => {
            let naming = Naming::new(config.naming.clone());
            let own = config.server.listen;
            let rename = args.rename.as_ref().map(|name| image_ref(&naming, own, name));
            let importing = Importing {
                rename: rename.transpose().map_err(Failure::usage)?,
                upstreams: config.upstreams.iter().map(|(u, _)| u.name.clone()).collect(),
                place: std::sync::Arc::new(move |name| image_ref(&naming, own, name)),
                blob_bytes_max: config.fill.blob_bytes_max,
            };
            transfer::import(holdings, importing, pieces).await.map_err(failure)
        }
    }
}

/// Counts what passes by.
async fn pass(mut from: Pieces, to: mpsc::Sender<io::Result<Bytes>>, meter: &Meter) {
    while let Some(piece) = from.recv().await {
        meter.passed(piece.as_ref().map_or(0, Bytes::len));
        if to.send(piece).await.is_err() {
            return;
        }
    }
}

/// Runs `work` until it ends or somebody presses Ctrl-C.
async fn uninterrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(Exit::No, "interrupted", "interrupted")
                .help("nothing half is left: do it again when you like"))
        }
    }
}

fn failure(error: TransferError) -> Failure {
    let code = match &error {
        TransferError::Archive(_) => "bad_archive",
        TransferError::Store(_) | TransferError::Damaged(_) => "storage",
        TransferError::File { .. } => "file",
        TransferError::Abandoned | TransferError::Ending => "abandoned",
    };
    Failure::new(Exit::No, code, error)
}

/// Where an export goes. A file gets its name when it is whole.
enum Destination {
    Standard,
    Folder(PathBuf),
    File { path: PathBuf, unfinished: PathBuf },
}

impl Destination {
    fn new(to: &Path) -> Result<Self, Failure> {
        if to.as_os_str() == STANDARD {
            if io::stdout().is_terminal() {
                return Err(Failure::usage("an archive is nothing for a terminal")
                    .help("redirect the output, or name a file with --to"));
            }
            return Ok(Self::Standard);
        }
        // A directory gets its files when it is whole: `folder` sees to that.
        let with_slash = to.as_os_str().as_encoded_bytes().ends_with(b"/");
        if !with_slash && !to.is_dir() {
            let mut unfinished = to.as_os_str().to_owned();
            unfinished.push(".unfinished");
            return Ok(Self::File { path: to.to_owned(), unfinished: unfinished.into() });
        }
        if to.exists() && fs::read_dir(to).map_err(|e| unusable(to, e))?.next().is_some() {
            let message = format!("{} is not empty", to.display());
            return Err(Failure::new(Exit::No, "exists", message));
        }
        Ok(Self::Folder(to.to_owned()))
    }

    const fn is_standard(&self) -> bool {
        matches!(self, Self::Standard)
    }

    fn sink(&self) -> Result<Sink, Failure> {
        Ok(match self {
            Self::Standard => Sink::Archive(Box::new(io::stdout())),
            Self::Folder(root) => Sink::Folder(root.clone()),
            Self::File { unfinished, .. } => {
                let file = File::create(unfinished).map_err(|error| unusable(unfinished, error))?;
                Sink::Archive(Box::new(file))
            }
        })
    }

    /// The export is whole.
    fn keep(&self) -> Result<(), Failure> {
        let Self::File { path, unfinished } = self else { return Ok(()) };
        let synced = File::open(unfinished).and_then(|file| file.sync_all());
        synced.and_then(|()| fs::rename(unfinished, path)).map_err(|error| unusable(path, error))
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Self::File { unfinished, .. } = self {
            // Not there if it got its name; and whoever reads it anyway sees that it is cut off.
            let _ = fs::remove_file(unfinished);
        }
    }
}

fn source(from: &Path) -> Result<Source, Failure> {
    if from.as_os_str() == STANDARD {
        if io::stdin().is_terminal() {
            return Err(Failure::usage("there is no archive on a terminal")
                .help("redirect the input, or name a file"));
        }
        return Ok(Source::Archive(Box::new(io::stdin())));
    }
    if from.is_dir() {
        return Ok(Source::Folder(from.to_owned()));
    }
    let file = File::open(from).map_err(|error| unusable(from, error))?;
    let reader: Box<dyn Read + Send> = Box::new(file);
    Ok(Source::Archive(reader))
}

fn unusable(path: &Path, error: io::Error) -> Failure {
    Failure::new(Exit::No, "file", format!("{}: {error}", path.display()))
}

/// Says what failed; the exit status.
fn told(failed: &[FailedImage], format: Format, console: &mut Console<'_>) -> Exit {
    if format == Format::Text {
        for FailedImage { image, reason } in failed {
            console.complain(&printable(&format!("pierhead: {image}: {reason}\n")));
        }
    }
    if failed.is_empty() { Exit::Yes } else { Exit::No }
}

fn exported(report: &ExportReport, to: &Path) -> String {
    let mut text = String::new();
    for image in &report.images {
        let ExportedImage { digest, manifests, blobs, bytes: len, .. } = image;
        let name = &image.image;
        let missing = match (image.missing.len(), image.complete) {
            (0, _) => String::new(),
            (missing, true) => format!(", without {missing} parts that were not pulled"),
            (missing, false) => format!(", INCOMPLETE: {missing} parts were not pulled"),
        };
        text.push_str(&format!(
            "{name} {digest}: {}, {}, {}{missing}\n",
            counted(*manifests, "manifest"),
            counted(*blobs, "blob"),
            bytes(*len),
        ));
    }
    text.push_str(&format!(
        "{} in {}: {} blobs and manifests, {}\n",
        counted(report.images.len(), "image"),
        to.display(),
        report.blobs,
        bytes(report.bytes),
    ));
    printable(&text)
}

fn imported(report: &ImportReport) -> String {
    let mut text = String::new();
    for image in &report.images {
        let tag = match image.tag {
            TagOutcome::Set | TagOutcome::None => "",
            TagOutcome::Known => ", was known",
            TagOutcome::Newer => ", its tag is known to mean something newer and still does",
        };
        let whole = if image.complete { "" } else { ", INCOMPLETE: upstream will be asked" };
        text.push_str(&format!(
            "{} {}: {}, {}{tag}{whole}\n",
            image.image,
            image.digest,
            counted(image.manifests, "manifest"),
            counted(image.blobs, "blob"),
        ));
    }
    text.push_str(&format!(
        "{}: {} blobs and manifests, {}; {} new\n",
        counted(report.images.len(), "image"),
        report.blobs,
        bytes(report.bytes),
        report.new_blobs,
    ));
    printable(&text)
}
