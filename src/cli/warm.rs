//! `pierhead warm`: pulls images through a running Pierhead as a client of its own, and throws the
//! content away when it is verified. What the server fetched for it, the server keeps.

mod registry;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::path::Path;

use futures_util::StreamExt as _;
use futures_util::stream::iter;
use serde::Serialize;

use self::registry::{Got, Login, Read, Registry};
use super::args::{WarmArgs, WarmPlatform};
use super::client::{Client, given, of_listener};
use super::output::{Console, Exit, Failure, Format, bytes, counted, printable};
use super::progress::Board;
use super::{Variables, load};
use crate::config::read_from_disk;
use crate::http::admin::api::name::ImageRequest;
use crate::oci::{Descriptor, Digest, ManifestKind, Platform, Reference, Tag};
use crate::pull::image::ImageName;
use crate::secret::Secret;

/// The largest list of images, in bytes.
const LIST_BYTES_MAX: usize = 1 << 20;

/// The largest password, in bytes: tokens of CI jobs are some kilobytes long.
const PASSWORD_BYTES_MAX: usize = 64 << 10;

/// The most manifests of one image: indexes come from strangers and may name each other at will.
const MANIFESTS_MAX: usize = 256;

/// What a name without tag and digest means, as for every client.
const DEFAULT_TAG: &str = "latest";

/// Digits of a digest that tell the layers of an image apart.
const SHOWN_DIGITS: usize = 12;

/// What became of all images.
#[derive(Debug, Default, Serialize)]
struct Warmed {
    images: Vec<WarmImage>,
    failed: Vec<ColdImage>,
}

/// An image that is in the cache now.
#[derive(Debug, Serialize)]
struct WarmImage {
    image: String,
    digest: Digest,
    platforms: Vec<String>,
    manifests: usize,
    blobs: usize,
    /// The length of manifests and blobs, in bytes.
    bytes: u64,
    /// How many of the manifests and blobs were in the cache before.
    cached: usize,
}

/// An image that is not.
#[derive(Debug, Serialize)]
struct ColdImage {
    image: String,
    code: String,
    reason: String,
}

/// Warms every image, one after the other.
pub(super) async fn warm(
    args: &WarmArgs,
    variables: Variables,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let base = match &args.registry {
        Some(url) => given(url)?,
        None => {
            let config = load(args.target.config.clone(), variables.clone()).1;
            let config = config.map_err(Failure::usage)?;
            of_listener(config.server.listen, config.server.tls.is_some())?
        }
    };
    let operator = args.pin.then(|| Client::new(&args.target, &variables)).transpose()?;
    let mut names = args.images.clone();
    if let Some(file) = &args.from_file {
        names.extend(list(file)?);
    }
    let images = names.iter().map(|name| {
        let image: Result<ImageName, _> = name.parse();
        image.map_err(|error| Failure::usage(format!("{name:?} names no image: {error}")))
    });
    let images = images.collect::<Result<Vec<_>, _>>()?;
    let registry = Registry::new(base, login(args)?, &args.target.tls)?;
    let wanted = Wanted::new(&args.platform)?;
    let board = Board::new();
    let mut warmed = Warmed::default();
    let work = async {
        for image in &images {
            board.label(&image.to_string());
            let concurrency = args.concurrency.into();
            let mut done = warm_image(&registry, image, &wanted, concurrency, &board).await;
            if let (Some(operator), Ok(_)) = (&operator, &done) {
                done = pin(operator, image).await.and(done);
            }
            match done {
                Ok(warm) => {
                    // On a terminal the bars have shown it so far.
                    if args.output.format == Format::Text {
                        console.say(&line(&warm));
                    }
                    warmed.images.push(warm);
                }
                Err(failure) if failure.exit == Exit::NoServer => return Err(failure),
                Err(failure) => {
                    let help = failure.help.map(|help| format!(" ({help})")).unwrap_or_default();
                    let reason = format!("{}{help}", failure.message);
                    if args.output.format == Format::Text {
                        console.complain(&printable(&format!("pierhead: {image}: {reason}\n")));
                    }
                    let (image, code) = (image.to_string(), failure.code);
                    warmed.failed.push(ColdImage { image, code, reason });
                }
            }
        }
        Ok(())
    };
    let ended = tokio::select! {
        ended = work => ended,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(Exit::No, "interrupted", "interrupted")
                .help("what the server has begun to fetch, it goes on fetching"))
        }
    };
    board.done();
    ended?;
    if args.output.format == Format::Json
        && console.say(&format!("{}\n", serde_json::json!(warmed))) != Exit::Yes
    {
        return Ok(Exit::No);
    }
    Ok(if warmed.failed.is_empty() { Exit::Yes } else { Exit::No })
}

/// Keeps an image from being evicted.
async fn pin(operator: &Client, image: &ImageName) -> Result<(), Failure> {
    let request = ImageRequest { image: image.to_string() };
    operator.put("pins", &request).await.map(drop).map_err(|failure| {
        let message = format!("it was warmed and not pinned: {}", failure.message);
        Failure { message, ..failure }
    })
}

/// Whom to log in as, if that is said.
fn login(args: &WarmArgs) -> Result<Option<Login>, Failure> {
    let (Some(user), Some(path)) = (&args.user, &args.password_file) else { return Ok(None) };
    let password = text_of(path, PASSWORD_BYTES_MAX)?;
    // Editors end a file with a newline, and no password does.
    let password = Secret::new(password.trim_end_matches(['\r', '\n']));
    Ok(Some(Login { user: user.clone(), password }))
}

fn text_of(path: &Path, bytes_max: usize) -> Result<String, Failure> {
    let bad = |error: String| Failure::usage(format!("{}: {error}", path.display()));
    let content = read_from_disk(path, bytes_max).map_err(|error| bad(error.to_string()))?;
    String::from_utf8(content).map_err(|_| bad("it is not UTF-8 text".to_owned()))
}

/// The images of a list: one a line, `#` begins a comment.
fn list(path: &Path) -> Result<Vec<String>, Failure> {
    let text = text_of(path, LIST_BYTES_MAX)?;
    let names = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let names: Vec<_> = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Failure::usage(format!("{}: it names no image", path.display())));
    }
    Ok(names)
}

/// Which entries of an index are pulled.
#[derive(Debug)]
enum Wanted {
    All,
    These(Vec<Platform>),
}

impl Wanted {
    fn new(platforms: &[WarmPlatform]) -> Result<Self, Failure> {
        if platforms.contains(&WarmPlatform::All) {
            return Ok(Self::All);
        }
        let mut these: Vec<Platform> = platforms
            .iter()
            .filter_map(|platform| match platform {
                WarmPlatform::One(platform) => Some(platform.clone()),
                WarmPlatform::All => None,
            })
            .collect();
        if these.is_empty() {
            these.push(this_machine()?);
        }
        Ok(Self::These(these))
    }

    fn wants(&self, entry: &Descriptor) -> bool {
        match (self, &entry.platform) {
            (Self::All, _) | (_, None) => true,
            (Self::These(these), Some(platform)) => these.iter().any(|wanted| {
                wanted.os() == platform.os()
                    && wanted.architecture() == platform.architecture()
                    && (wanted.variant().is_none() || wanted.variant() == platform.variant())
            }),
        }
    }
}

/// What images for this machine are called, in Go's words.
fn this_machine() -> Result<Platform, Failure> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    Platform::new("linux", architecture, None).map_err(Failure::usage)
}

async fn warm_image(
    registry: &Registry,
    image: &ImageName,
    wanted: &Wanted,
    concurrency: usize,
    board: &Board,
) -> Result<WarmImage, Failure> {
    let reference = match image.reference() {
        Some(reference) => reference.clone(),
        None => Reference::Tag(DEFAULT_TAG.parse::<Tag>().map_err(Failure::usage)?),
    };
    let root = registry.manifest(image, &reference).await?;
    let digest = root.digest;
    let (manifests, platforms) = manifests(registry, image, root, wanted).await?;
    let mut seen = HashSet::new();
    let blobs: Vec<_> = manifests
        .iter()
        .flat_map(|got| got.manifest.blobs())
        // Clients fetch foreign layers from where their URLs say.
        .filter(|blob| !blob.foreign && seen.insert(blob.digest))
        .collect();
    board.expect(blobs.iter().filter_map(|blob| blob.size).sum());
    let reads = iter(&blobs).map(async |blob| {
        let label: String = blob.digest.encoded().chars().take(SHOWN_DIGITS).collect();
        let mut part = board.part(&label, blob.size);
        let passed = |len: Option<usize>| match len {
            Some(len) => part.passed(len),
            None => part.again(),
        };
        registry.blob(image, &blob.digest, passed).await
    });
    let mut reads = std::pin::pin!(reads.buffer_unordered(concurrency));
    let mut warm = WarmImage {
        image: image.to_string(),
        digest,
        platforms,
        manifests: manifests.len(),
        blobs: blobs.len(),
        bytes: manifests.iter().map(|got| got.bytes).sum(),
        cached: manifests.iter().filter(|got| got.cached).count(),
    };
    while let Some(read) = reads.next().await {
        let Read { bytes, cached } = read?;
        warm.bytes += bytes;
        warm.cached += usize::from(cached);
    }
    Ok(warm)
}

/// The image's manifests, and the platforms that they are for.
async fn manifests(
    registry: &Registry,
    image: &ImageName,
    root: Got,
    wanted: &Wanted,
) -> Result<(Vec<Got>, Vec<String>), Failure> {
    let is_index = root.manifest.kind() == ManifestKind::Index;
    let (mut offered, mut platforms) = (BTreeSet::new(), BTreeSet::new());
    let mut seen = HashSet::from([root.digest]);
    let (mut manifests, mut queue) = (Vec::new(), VecDeque::from([root]));
    while let Some(got) = queue.pop_front() {
        for child in got.manifest.children() {
            let platform = child.platform.as_ref().filter(|p| p.os() != "unknown");
            offered.extend(platform.map(Platform::to_string));
            if !wanted.wants(child) || !seen.insert(child.digest) {
                continue;
            }
            if seen.len() > MANIFESTS_MAX {
                let message = format!("it has more than {MANIFESTS_MAX} manifests");
                return Err(Failure::new(Exit::No, "too_many", message));
            }
            platforms.extend(platform.map(Platform::to_string));
            let child = Reference::Digest(child.digest);
            queue.push_back(registry.manifest(image, &child).await?);
        }
        manifests.push(got);
    }
    if is_index && manifests.len() == 1 {
        let offered: Vec<_> = offered.into_iter().collect();
        let message = "it has no entry for the platforms that were asked for";
        return Err(Failure::new(Exit::No, "no_platform", message)
            .help(format!("it has {}", offered.join(", "))));
    }
    Ok((manifests, platforms.into_iter().collect()))
}

fn line(warm: &WarmImage) -> String {
    let parts = warm.manifests + warm.blobs;
    let platforms = match warm.platforms.is_empty() {
        true => String::new(),
        false => format!(" for {}", warm.platforms.join(", ")),
    };
    printable(&format!(
        "{} {}{platforms}: {}, {}, {}; {} of {parts} parts were cached\n",
        warm.image,
        warm.digest,
        counted(warm.manifests, "manifest"),
        counted(warm.blobs, "blob"),
        bytes(warm.bytes),
        warm.cached,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_comments_and_blank_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("images.txt");
        std::fs::write(&path, "# ours\n\ndebian:12  # base\n\tghcr.io/o/x\r\n").unwrap();
        assert_eq!(list(&path).unwrap(), ["debian:12", "ghcr.io/o/x"]);
        std::fs::write(&path, "# nothing\n").unwrap();
        assert_eq!(list(&path).unwrap_err().exit, Exit::Usage);
        assert_eq!(list(&dir.path().join("none")).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn platforms_are_chosen_as_clients_do() {
        let entry = |platform: &str| Descriptor {
            platform: platform.parse().ok(),
            ..Descriptor::new(crate::oci::MediaType::OCI_MANIFEST, Digest::sha256(b""), 1)
        };
        let these = |text: &[&str]| {
            let platforms: Vec<_> = text.iter().map(|text| text.parse().unwrap()).collect();
            Wanted::new(&platforms).unwrap()
        };
        let arm = these(&["linux/arm"]);
        assert!(arm.wants(&entry("linux/arm/v7")) && arm.wants(&entry("linux/arm/v6")));
        assert!(!arm.wants(&entry("linux/arm64")) && !arm.wants(&entry("unknown/unknown")));
        assert!(!these(&["linux/arm/v7"]).wants(&entry("linux/arm/v6")));
        assert!(arm.wants(&entry("no platform")), "what does not say may be what is wanted");
        assert!(these(&["all"]).wants(&entry("unknown/unknown")));
        let own = these(&[]);
        assert!(own.wants(&entry(&this_machine().unwrap().to_string())));
        assert!(!own.wants(&entry("windows/amd64")));
    }
}
