//! From a stream that nobody vouches for to the stores.
//!
//! Blobs go to the store as they come, each verified; a blob without a link is harmless content
//! of the cache. When the archive has ended, links and tags are recorded, image by image. So an
//! import that breaks off leaves verified blobs and nothing else, and doing it again changes
//! nothing.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::archive::{ArchiveError, Member, Reader};
use super::export::stored_manifest;
use super::layout::{
    INDEX_BYTES_MAX, ImageRef, LAYOUT_BYTES_MAX, Listed, Name, Part, check_layout, read_index,
};
use super::report::{FailedImage, ImportReport, ImportedImage, TagOutcome};
use super::walk::{Shelf, Walk, WalkError, walk};
use super::{Holdings, Pieces, TransferError, on_a_thread};
use crate::oci::{Digest, Hasher, MediaType, Reference, Tag, Verified};
use crate::scope::{Scope, UpstreamName};
use crate::store::{Link, LinkKind, Spool, StoreError, TagRecord};

/// Finds the repository that a full image name without its tag means.
pub type Place = Arc<dyn Fn(&str) -> Result<ImageRef, String> + Send + Sync>;

/// How names are given to what comes.
#[derive(Clone)]
pub struct Importing {
    /// What to call the only image of a layout.
    pub rename: Option<ImageRef>,
    /// The upstreams that are configured here.
    pub upstreams: Vec<UpstreamName>,
    /// Reads a full name that another program wrote, such as `docker.io/library/debian:12`.
    pub place: Place,
    /// The largest blob, in bytes.
    pub blob_bytes_max: u64,
}

impl fmt::Debug for Importing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rename, upstreams, blob_bytes_max, .. } = self;
        write!(f, "Importing({rename:?}, {upstreams:?}, {blob_bytes_max})")
    }
}

/// The most images of one archive.
const IMAGES_MAX: usize = 4096;

/// Takes in an OCI image layout in a tar stream.
///
/// An image that is damaged or has no name is left out and named in the report. Runs on a thread
/// of its own; it ends when `pieces` does.
///
/// # Errors
/// When the stream is no layout, breaks off, or is hostile; or the storage fails. Nothing is
/// linked then.
pub async fn import(
    holdings: Holdings,
    importing: Importing,
    pieces: Pieces,
) -> Result<ImportReport, TransferError> {
    on_a_thread(async move {
        let mut importer = Importer {
            holdings,
            importing,
            carried: HashSet::new(),
            report: ImportReport::default(),
        };
        importer.run(Reader::new(pieces)).await?;
        Ok(importer.report)
    })
    .await
}

struct Importer {
    holdings: Holdings,
    importing: Importing,
    /// What came with the archive and has the digest that it is called by.
    carried: HashSet<Digest>,
    report: ImportReport,
}

/// What an archive carried for one image.
struct Carried<'a> {
    holdings: &'a Holdings,
    carried: &'a HashSet<Digest>,
    /// What the exporter said is not this image's.
    missing: &'a HashSet<Digest>,
}

impl Importer {
    async fn run(&mut self, mut archive: Reader) -> Result<(), TransferError> {
        let (mut is_layout, mut listed) = (false, None);
        while let Some(member) = archive.next().await? {
            match Part::of(&member.name) {
                Part::Layout => {
                    check_layout(&archive.whole(&member, LAYOUT_BYTES_MAX).await?)?;
                    is_layout = true;
                }
                Part::Index => {
                    let index = archive.whole(&member, INDEX_BYTES_MAX as u64).await?;
                    if listed.replace(read_index(&index)?).is_some() {
                        return Err(no_layout("it has two files index.json").into());
                    }
                }
                Part::Blob(digest) => self.blob(&mut archive, &member, digest).await?,
                Part::Report | Part::Other => {}
            }
        }
        if !is_layout {
            return Err(no_layout("it has no file oci-layout").into());
        }
        let listed = listed.ok_or_else(|| no_layout("it has no file index.json"))?;
        if self.importing.rename.is_some() && listed.len() != 1 {
            let why = format!("it holds {} images, and one name was given", listed.len());
            return Err(no_layout(&why).into());
        }
        if listed.len() > IMAGES_MAX {
            return Err(no_layout(&format!("it lists more than {IMAGES_MAX} images")).into());
        }
        for image in &listed {
            self.image(image).await?;
        }
        Ok(())
    }

    /// Verifies a blob as it comes, and keeps it if it is new.
    async fn blob(
        &mut self,
        archive: &mut Reader,
        member: &Member,
        digest: Digest,
    ) -> Result<(), TransferError> {
        let max = self.importing.blob_bytes_max;
        if member.len > max {
            return Err(ArchiveError::TooLarge { name: member.name.clone(), max }.into());
        }
        let is_known = self.holdings.blobs.contains(&digest).await?;
        let mut landing = match is_known {
            true => None,
            false => Some(Landing::new(self.holdings.blobs.spool(Some(member.len)).await?)),
        };
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(piece) = archive.piece().await? {
            hasher.update(&piece);
            landing = match landing {
                Some(landing) => Some(landing.add(piece).await?),
                None => None,
            };
        }
        let verified = match hasher.verify(&digest) {
            Ok(verified) => verified,
            Err(mismatch) => {
                tracing::error!(%mismatch, "an archive has a damaged blob");
                self.report.damaged.push(digest);
                return Ok(());
            }
        };
        self.report.blobs += 1;
        self.report.bytes += verified.len();
        if let Some(landing) = landing {
            landing.commit(verified).await?;
            self.report.new_blobs += 1;
        }
        self.carried.insert(digest);
        Ok(())
    }

    /// Links one image and sets its tag, or notes why not.
    async fn image(&mut self, listed: &Listed) -> Result<(), TransferError> {
        let image = match self.name(listed) {
            Ok(image) => image,
            Err((image, reason)) => {
                self.report.failed.push(FailedImage { image, reason });
                return Ok(());
            }
        };
        let shelf =
            Carried { holdings: &self.holdings, carried: &self.carried, missing: &listed.missing };
        let found = match walk(&shelf, listed.digest, listed.media_type.clone(), &[]).await {
            Ok(found) => found,
            Err(WalkError::Store(error)) => return Err(error.into()),
            Err(error) => {
                let reason = match error {
                    WalkError::NotHere(digest) => self.absence(&digest),
                    other => other.to_string(),
                };
                self.report.failed.push(FailedImage { image: image.to_string(), reason });
                return Ok(());
            }
        };
        // What came and went again, because the store has no room or somebody collected.
        let gone =
            |digest: &&Digest| self.carried.contains(*digest) && !listed.missing.contains(*digest);
        if let Some(gone) = found.missing.iter().find(gone) {
            let reason = format!(
                "{gone} was removed before the import was over: there is not enough room for it, \
                 or something collected; make storage.max_size larger and import it again"
            );
            self.report.failed.push(FailedImage { image: image.to_string(), reason });
            return Ok(());
        }
        // An image that was whole when it was written must not come out in parts.
        if let Some(damaged) = found.missing.iter().find(|d| self.report.damaged.contains(d)) {
            let reason = self.absence(damaged);
            self.report.failed.push(FailedImage { image: image.to_string(), reason });
            return Ok(());
        }
        self.note(&image.scope, &found);
        self.link(&image.scope, &found).await?;
        let tag = match &image.reference {
            Reference::Tag(tag) => self.tag(&image.scope, tag, listed, &found).await?,
            Reference::Digest(_) => TagOutcome::None,
        };
        self.report.images.push(ImportedImage {
            image: image.to_string(),
            digest: listed.digest,
            manifests: found.manifests.len(),
            blobs: found.blobs.len(),
            complete: found.complete,
            tag,
        });
        Ok(())
    }

    fn absence(&self, digest: &Digest) -> String {
        if self.report.damaged.contains(digest) {
            format!("the archive's {digest} is damaged")
        } else {
            format!("the archive does not have {digest}")
        }
    }

    /// What the image is called here; else what it is called there, and why that will not do.
    fn name(&self, listed: &Listed) -> Result<ImageRef, (String, String)> {
        const HINT: &str = "give it one with --as NAME:TAG";
        let shown = |text: &str| text.chars().filter(|c| !c.is_control()).take(512).collect();
        let image = match (&self.importing.rename, &listed.name) {
            (Some(rename), _) => rename.clone(),
            (None, Name::Own(image)) => image.clone(),
            (None, Name::Foreign(None)) => {
                return Err((listed.digest.to_string(), format!("it has no name; {HINT}")));
            }
            (None, Name::Foreign(Some(name))) => {
                // A first part with a dot or a colon is a registry; all else is a name that means
                // something only where it was made.
                let is_full = name
                    .split_once('/')
                    .is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
                if !is_full {
                    let reason =
                        format!("its name {:?} names no registry; {HINT}", shown(name) as String);
                    return Err((listed.digest.to_string(), reason));
                }
                (self.importing.place)(name).map_err(|reason| (shown(name), reason))?
            }
        };
        if !self.importing.upstreams.contains(&image.scope.upstream) {
            let reason = format!(
                "no upstream is called {} here, so nobody could pull it; add [upstream.\"{}\"] to \
                 the configuration",
                image.scope.upstream, image.scope.upstream,
            );
            return Err((image.to_string(), reason));
        }
        Ok(image)
    }

    /// Tells whoever decides what stays what belongs together, and to whom.
    fn note(&self, scope: &Scope, found: &Walk) {
        let uses = &self.holdings.uses;
        for part in &found.manifests {
            uses.names(&part.digest, part.manifest.parts());
            uses.came_from(&part.digest, &scope.upstream);
        }
        found.blobs.iter().for_each(|(digest, _)| uses.came_from(digest, &scope.upstream));
    }

    /// Records what the archive has shown the repository to have.
    async fn link(&self, scope: &Scope, found: &Walk) -> Result<(), TransferError> {
        let here: HashSet<Digest> = found.blobs.iter().map(|(digest, _)| *digest).collect();
        for part in &found.manifests {
            let link = |size, kind| Link { size, media_type: None, kind };
            let mut links = vec![(
                part.digest,
                Link {
                    size: Some(part.len),
                    media_type: Some(part.manifest.media_type().as_str().to_owned()),
                    kind: LinkKind::Manifest,
                },
            )];
            // What is only named proves nothing, and an archive can name anything.
            let carried = part.manifest.blobs().filter(|blob| here.contains(&blob.digest));
            links.extend(carried.map(|blob| (blob.digest, link(blob.size, LinkKind::Blob))));
            self.holdings.meta.put_links(scope, &links).await?;
            links.iter().for_each(|(digest, _)| self.holdings.hot.forget_link(scope, digest));
        }
        Ok(())
    }

    async fn tag(
        &self,
        scope: &Scope,
        tag: &Tag,
        listed: &Listed,
        found: &Walk,
    ) -> Result<TagOutcome, TransferError> {
        let Holdings { meta, hot, clock, .. } = &self.holdings;
        let now = clock.now();
        // Another program's layout does not say when; whoever imports it says it now. And no
        // clock elsewhere can confirm anything in our future.
        let confirmed_at = listed.confirmed_at.unwrap_or(now).min(now);
        let latest = meta.tag_history(scope, tag).await?.into_iter().next();
        if let Some(latest) = latest
            && latest.confirmed_at >= confirmed_at
        {
            let same = latest.digest == listed.digest;
            return Ok(if same { TagOutcome::Known } else { TagOutcome::Newer });
        }
        let record = TagRecord {
            digest: listed.digest,
            media_type: found.manifests.first().map(|m| m.manifest.media_type().to_string()),
            size: found.manifests.first().map(|m| m.len),
            confirmed_at,
        };
        meta.put_tag(scope, tag, &record).await?;
        hot.forget_tag(scope, tag);
        Ok(TagOutcome::Set)
    }
}

/// How much of a blob is gathered before it is written, in bytes: clients send small pieces.
const GATHERED_BYTES: usize = 1 << 20;

/// A blob on its way to the disk. Dropping it discards what there is.
///
/// A spool that is full waits for room, which blocks: it is written on threads where that may be.
struct Landing {
    spool: Box<dyn Spool>,
    written: u64,
    gathered: Vec<Bytes>,
    gathered_bytes: usize,
}

impl Landing {
    fn new(spool: Box<dyn Spool>) -> Self {
        Self { spool, written: 0, gathered: Vec::new(), gathered_bytes: 0 }
    }

    async fn add(mut self, piece: Bytes) -> Result<Self, TransferError> {
        self.gathered_bytes += piece.len();
        self.gathered.push(piece);
        if self.gathered_bytes < GATHERED_BYTES {
            return Ok(self);
        }
        blocking(move || {
            self.write()?;
            Ok(self)
        })
        .await
    }

    async fn commit(mut self, verified: Verified) -> Result<(), TransferError> {
        blocking(move || {
            self.write()?;
            self.spool.commit(verified)?;
            Ok(())
        })
        .await
    }

    fn write(&mut self) -> Result<(), TransferError> {
        for piece in self.gathered.drain(..) {
            self.spool
                .write_at(self.written, &piece)
                .map_err(|cause| StoreError::io("write a blob of the archive", cause))?;
            self.written += piece.len() as u64;
        }
        self.gathered_bytes = 0;
        Ok(())
    }
}

/// Runs what blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransferError> + Send + 'static,
) -> Result<T, TransferError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(TransferError::Ending))
}

fn no_layout(why: &str) -> ArchiveError {
    ArchiveError::Layout(why.to_owned())
}

#[async_trait]
impl Shelf for Carried<'_> {
    async fn manifest(
        &self,
        digest: &Digest,
    ) -> Result<Option<(Bytes, Option<MediaType>)>, StoreError> {
        if !self.carried.contains(digest) || self.missing.contains(digest) {
            return Ok(None);
        }
        Ok(stored_manifest(self.holdings, digest).await?.map(|bytes| (bytes, None)))
    }

    async fn blob(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        if !self.carried.contains(digest) || self.missing.contains(digest) {
            return Ok(None);
        }
        Ok(self.holdings.blobs.open(digest).await?.map(|blob| blob.len()))
    }
}
