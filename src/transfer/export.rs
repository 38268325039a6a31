//! From the stores to a stream: exactly what was pulled, verified while it goes out.

use std::collections::{BTreeSet, HashSet};
use std::io;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::archive::{end, head, tail};
use super::layout::{
    Entry, INDEX_FILE, ImageRef, Index, LAYOUT_FILE, REPORT_FILE, blob_name, layout_file,
};
use super::report::{ExportReport, ExportedImage, FailedImage};
use super::walk::{Shelf, Walk, walk};
use super::{Holdings, PIECE_BYTES, TransferError, on_a_thread};
use crate::clock::Timestamp;
use crate::oci::{Digest, Hasher, MANIFEST_BYTES_MAX, MediaType, Platform, Reference, Verified};
use crate::scope::Scope;
use crate::store::{Blob, LinkKind, StoreError};

/// Repositories, tags or manifests that are read from the metadata store at a time.
const PAGE: u32 = 256;

/// What is wanted of an export.
#[derive(Clone, Debug, Default)]
pub struct Exporting {
    /// These images; none means everything there is.
    pub images: Vec<ImageRef>,
    /// Of multi-platform images only these; none means all that were pulled.
    pub platforms: Vec<Platform>,
}

/// Writes an OCI image layout in a tar stream to `out`.
///
/// An image that is not here, or of which a stored blob is damaged, is left out and named in the
/// report, which is also the last file of the archive. Runs on a thread of its own; it ends when
/// `out` is closed.
///
/// # Errors
/// When the storage fails altogether, or nobody takes the stream. The stream is then cut off.
pub async fn export(
    holdings: Holdings,
    exporting: Exporting,
    out: mpsc::Sender<io::Result<Bytes>>,
) -> Result<ExportReport, TransferError> {
    on_a_thread(async move {
        let failing = out.clone();
        let mut exporter = Exporter {
            holdings,
            platforms: exporting.platforms,
            out,
            index: Index::default(),
            written: HashSet::new(),
            report: ExportReport::default(),
        };
        match exporter.run(exporting.images).await {
            Ok(()) => Ok(exporter.report),
            Err(error) => {
                // So that a cut is not taken for an end. If nobody listens, nobody is misled.
                let _ = failing.send(Err(io::Error::other(error.to_string()))).await;
                Err(error)
            }
        }
    })
    .await
}

struct Exporter {
    holdings: Holdings,
    platforms: Vec<Platform>,
    out: mpsc::Sender<io::Result<Bytes>>,
    index: Index,
    written: HashSet<Digest>,
    report: ExportReport,
}

/// What is stored and proven to be in one repository.
struct Proven<'a> {
    holdings: &'a Holdings,
    scope: &'a Scope,
}

impl Exporter {
    async fn run(&mut self, images: Vec<ImageRef>) -> Result<(), TransferError> {
        self.file(LAYOUT_FILE, layout_file()).await?;
        if images.is_empty() {
            self.everything().await?;
        }
        for image in images {
            self.image(image).await?;
        }
        let index = self.index.file();
        self.file(INDEX_FILE, index).await?;
        let report = serde_json::json!(self.report).to_string();
        self.file(REPORT_FILE, report.into_bytes()).await?;
        self.send(end()).await
    }

    /// Every tag's latest meaning, and every manifest that none of these leads to.
    async fn everything(&mut self) -> Result<(), TransferError> {
        let meta = self.holdings.meta.clone();
        let mut after: Option<Scope> = None;
        loop {
            let scopes = meta.scopes(after.as_ref(), PAGE).await?;
            let Some(last) = scopes.last() else { return Ok(()) };
            after = Some(last.clone());
            for scope in &scopes {
                self.repository(scope).await?;
            }
        }
    }

    async fn repository(&mut self, scope: &Scope) -> Result<(), TransferError> {
        let meta = self.holdings.meta.clone();
        let mut reached = BTreeSet::new();
        let mut after: Option<String> = None;
        loop {
            let tags = meta.tags(scope, after.as_deref(), PAGE).await?;
            let Some(last) = tags.last() else { break };
            after = Some(last.to_string());
            for tag in tags {
                let reference = Reference::Tag(tag);
                reached.extend(self.image(ImageRef { scope: scope.clone(), reference }).await?);
            }
        }
        for digest in self.roots(scope, &reached).await? {
            let reference = Reference::Digest(digest);
            self.image(ImageRef { scope: scope.clone(), reference }).await?;
        }
        Ok(())
    }

    /// The stored manifests that are not among `reached` and that no other of them names.
    async fn roots(
        &self,
        scope: &Scope,
        reached: &BTreeSet<Digest>,
    ) -> Result<BTreeSet<Digest>, TransferError> {
        let shelf = Proven { holdings: &self.holdings, scope };
        let (mut roots, mut named) = (BTreeSet::new(), BTreeSet::new());
        let mut after: Option<Digest> = None;
        loop {
            let page = self.holdings.meta.manifests(scope, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(*last);
            for digest in page.into_iter().filter(|digest| !reached.contains(digest)) {
                // What was evicted since is nothing that anybody asked for.
                let Ok(found) = walk(&shelf, digest, None, &[]).await else { continue };
                roots.insert(digest);
                let others = found.manifests.iter().map(|manifest| manifest.digest);
                named.extend(others.filter(|other| *other != digest));
            }
        }
        roots.retain(|digest| !named.contains(digest));
        Ok(roots)
    }

    /// Writes one image, or notes why not. Returns the manifests that it consists of.
    async fn image(&mut self, image: ImageRef) -> Result<Vec<Digest>, TransferError> {
        let (digest, confirmed_at) = match self.meaning(&image).await? {
            Ok(meaning) => meaning,
            Err(reason) => return Ok(self.failed(&image, reason)),
        };
        let platforms = self.platforms.clone();
        let shelf = Proven { holdings: &self.holdings, scope: &image.scope };
        let found = match walk(&shelf, digest, None, &platforms).await {
            Ok(found) => found,
            Err(super::walk::WalkError::Store(error)) => return Err(error.into()),
            Err(error) => return Ok(self.failed(&image, error.to_string())),
        };
        if let Err(reason) = self.contents(&found).await? {
            return Ok(self.failed(&image, reason));
        }
        self.list(&image, digest, confirmed_at, &found);
        Ok(found.manifests.iter().map(|manifest| manifest.digest).collect())
    }

    fn list(
        &mut self,
        image: &ImageRef,
        digest: Digest,
        confirmed_at: Option<Timestamp>,
        found: &Walk,
    ) {
        // A walk begins with the image's own manifest.
        let Some(root) = found.manifests.first() else { return };
        let entry = Entry {
            image: image.clone(),
            media_type: root.manifest.media_type().clone(),
            digest,
            size: root.len,
            confirmed_at,
            missing: found.missing.iter().copied().collect(),
        };
        if !self.index.push(&entry) {
            self.failed(image, "the index is full; export fewer images at a time".to_owned());
            return;
        }
        let manifests: u64 = found.manifests.iter().map(|manifest| manifest.len).sum();
        let blobs: u64 = found.blobs.iter().map(|(_, len)| len).sum();
        self.report.images.push(ExportedImage {
            image: image.to_string(),
            digest,
            manifests: found.manifests.len(),
            blobs: found.blobs.len(),
            bytes: manifests + blobs,
            complete: found.complete,
            missing: found.missing.iter().copied().collect(),
        });
    }

    fn failed(&mut self, image: &ImageRef, reason: String) -> Vec<Digest> {
        self.report.failed.push(FailedImage { image: image.to_string(), reason });
        Vec::new()
    }

    /// The digest that is exported under that name: of a tag the latest meaning whose manifest is
    /// still here.
    #[allow(clippy::type_complexity, reason = "a failure of the store, or of the image")]
    async fn meaning(
        &self,
        image: &ImageRef,
    ) -> Result<Result<(Digest, Option<Timestamp>), String>, TransferError> {
        let tag = match &image.reference {
            Reference::Digest(digest) => return Ok(Ok((*digest, None))),
            Reference::Tag(tag) => tag,
        };
        let shelf = Proven { holdings: &self.holdings, scope: &image.scope };
        let history = self.holdings.meta.tag_history(&image.scope, tag).await?;
        for record in &history {
            if shelf.manifest(&record.digest).await?.is_some() {
                return Ok(Ok((record.digest, Some(record.confirmed_at))));
            }
        }
        Ok(Err(if history.is_empty() {
            "it was never pulled through this Pierhead".to_owned()
        } else {
            "its tag is known, and its manifest is not stored (any more)".to_owned()
        }))
    }

    /// Writes what is not in the archive yet; the inner error says what is damaged.
    async fn contents(&mut self, found: &Walk) -> Result<Result<(), String>, TransferError> {
        let manifests = found.manifests.iter().map(|manifest| manifest.digest);
        let digests: Vec<_> = manifests.chain(found.blobs.iter().map(|(d, _)| *d)).collect();
        for digest in digests {
            if self.written.contains(&digest) {
                continue;
            }
            let Some(blob) = self.holdings.blobs.open(&digest).await? else {
                return Ok(Err(format!("{digest} was removed from the storage meanwhile")));
            };
            // A file's head says what follows it, so damage has to be known before.
            match pass(&blob, None).await {
                Ok(_) => {}
                Err(PassError::Read(error)) => {
                    return Ok(Err(format!("its blob {digest} cannot be read: {error}")));
                }
                Err(PassError::Wrong) => {
                    tracing::error!(%digest, "a stored blob is damaged");
                    return Ok(Err(format!("its stored blob {digest} is damaged")));
                }
                Err(PassError::Closed) => return Err(TransferError::Abandoned),
            }
            self.send(head(&blob_name(&digest), blob.len())).await?;
            match pass(&blob, Some(&self.out)).await {
                Ok(()) => {}
                Err(PassError::Closed) => return Err(TransferError::Abandoned),
                Err(PassError::Read(_) | PassError::Wrong) => {
                    return Err(TransferError::Damaged(digest));
                }
            }
            self.send(tail(blob.len())).await?;
            self.written.insert(digest);
            self.report.blobs += 1;
            self.report.bytes += blob.len();
        }
        Ok(Ok(()))
    }

    async fn file(&self, name: &str, content: Vec<u8>) -> Result<(), TransferError> {
        let len = content.len() as u64;
        self.send(head(name, len)).await?;
        self.send(content.into()).await?;
        self.send(tail(len)).await
    }

    async fn send(&self, piece: Bytes) -> Result<(), TransferError> {
        if piece.is_empty() {
            return Ok(());
        }
        self.out.send(Ok(piece)).await.map_err(|_| TransferError::Abandoned)
    }
}

/// Why a blob was not read to its end.
enum PassError {
    Read(io::Error),
    Wrong,
    Closed,
}

/// Reads a whole blob and compares its digest; sends it to `out` on the way.
async fn pass(blob: &Blob, out: Option<&mpsc::Sender<io::Result<Bytes>>>) -> Result<(), PassError> {
    let mut hasher = Hasher::new(blob.digest().algorithm());
    while hasher.len() < blob.len() {
        let piece = blob.read_at(hasher.len(), PIECE_BYTES).await.map_err(PassError::Read)?;
        if piece.is_empty() {
            return Err(PassError::Wrong);
        }
        hasher.update(&piece);
        if let Some(out) = out {
            out.send(Ok(piece)).await.map_err(|_| PassError::Closed)?;
        }
    }
    hasher.verify(blob.digest()).map(drop).map_err(|_| PassError::Wrong)
}

#[async_trait]
impl Shelf for Proven<'_> {
    async fn manifest(
        &self,
        digest: &Digest,
    ) -> Result<Option<(Bytes, Option<MediaType>)>, StoreError> {
        let link = self.holdings.meta.link(self.scope, digest).await?;
        let Some(link) = link.filter(|link| link.kind == LinkKind::Manifest) else {
            return Ok(None);
        };
        let bytes = stored_manifest(self.holdings, digest).await?;
        let media_type = link.media_type.and_then(|text| text.parse().ok());
        Ok(bytes.map(|bytes| (bytes, media_type)))
    }

    async fn blob(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let link = self.holdings.meta.link(self.scope, digest).await?;
        if !link.is_some_and(|link| link.is_proven()) {
            return Ok(None);
        }
        Ok(self.holdings.blobs.open(digest).await?.map(|blob| blob.len()))
    }
}

/// The bytes of a stored manifest, verified anew; nothing if they are damaged.
pub(super) async fn stored_manifest(
    holdings: &Holdings,
    digest: &Digest,
) -> Result<Option<Bytes>, StoreError> {
    let Some(blob) = holdings.blobs.open(digest).await? else { return Ok(None) };
    let len = usize::try_from(blob.len()).unwrap_or(usize::MAX);
    if len > MANIFEST_BYTES_MAX {
        return Ok(None);
    }
    let bytes = blob
        .read_at(0, len)
        .await
        .map_err(|cause| StoreError::io(format!("read the manifest {digest}"), cause))?;
    match Verified::check(&bytes, digest) {
        Ok(_) => Ok(Some(bytes)),
        Err(mismatch) => {
            tracing::error!(%mismatch, "a stored manifest is damaged");
            Ok(None)
        }
    }
}
