//! Tests of exporting and importing. `tests/e2e/transfer.rs` has real clients on both sides.

mod hostile;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use serde_json::{Value, json};

use super::folder::{Sink, Source, load, save};
use super::*;
use crate::clock::Timestamp;
use crate::oci::{Digest, MediaType, Platform, Reference, Tag, Verified};
use crate::scope::Scope;
use crate::store::blob::MemoryBlobs;
use crate::store::meta::MemoryMeta;
use crate::store::{HotOptions, Link, LinkKind, NoUses, TagRecord};

const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000);

pub(super) fn holdings() -> Holdings {
    Holdings {
        blobs: Arc::new(MemoryBlobs::new(1 << 30)),
        meta: Arc::new(MemoryMeta::default()),
        hot: Hot::new(HotOptions::default()),
        uses: Arc::new(NoUses),
        clock: Clock::manual(NOW),
    }
}

pub(super) fn scope(repo: &str) -> Scope {
    Scope { upstream: "docker.io".parse().unwrap(), repo: repo.parse().unwrap() }
}

pub(super) fn tagged(repo: &str, tag: &str) -> ImageRef {
    ImageRef { scope: scope(repo), reference: Reference::Tag(tag.parse().unwrap()) }
}

/// How imports are named, where nothing else is said.
pub(super) fn importing() -> Importing {
    Importing {
        rename: None,
        upstreams: vec!["docker.io".parse().unwrap()],
        place: Arc::new(|name| {
            let (repo, tag) = name.rsplit_once(':').ok_or("no tag")?;
            let repo = repo.strip_prefix("docker.io/").ok_or("an unknown registry")?;
            Ok(tagged(repo, tag))
        }),
        blob_bytes_max: 1 << 20,
    }
}

impl Holdings {
    pub(super) async fn keep(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let verified = Verified::check(bytes, &digest).unwrap();
        self.blobs.put(verified, Bytes::copy_from_slice(bytes)).await.unwrap();
        digest
    }

    async fn keep_json(&self, json: &Value) -> Digest {
        self.keep(json.to_string().as_bytes()).await
    }

    pub(super) async fn link(&self, scope: &Scope, digest: &Digest, kind: LinkKind) {
        let media_type = None;
        let link = Link { size: None, media_type, kind };
        self.meta.put_links(scope, &[(*digest, link)]).await.unwrap();
    }

    pub(super) async fn kind(&self, scope: &Scope, digest: &Digest) -> Option<LinkKind> {
        self.meta.link(scope, digest).await.unwrap().map(|link| link.kind)
    }

    async fn tag(&self, scope: &Scope, tag: &str, digest: Digest, at: Timestamp) {
        let record = TagRecord { digest, media_type: None, size: None, confirmed_at: at };
        self.meta.put_tag(scope, &tag.parse().unwrap(), &record).await.unwrap();
    }

    async fn meaning(&self, scope: &Scope, tag: &str) -> Option<TagRecord> {
        let tag: Tag = tag.parse().unwrap();
        self.meta.tag_history(scope, &tag).await.unwrap().into_iter().next()
    }

    /// What an upstream with that image would leave behind after a pull of all of it.
    pub(super) async fn image(&self, scope: &Scope, layers: &[&[u8]]) -> (Digest, Vec<Digest>) {
        let config = self.keep(format!("{{\"of\":\"{scope}\"}}").as_bytes()).await;
        let mut blobs = vec![config];
        for layer in layers {
            blobs.push(self.keep(layer).await);
        }
        let descriptor = |media_type: &str, digest: &Digest, size: usize| json!({"mediaType": media_type, "digest": digest, "size": size});
        let size = format!("{{\"of\":\"{scope}\"}}").len();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config, size),
            "layers": layers.iter().map(|layer| descriptor(
                "application/vnd.oci.image.layer.v1.tar", &Digest::sha256(layer), layer.len(),
            )).collect::<Vec<_>>(),
        });
        let manifest = self.keep_json(&manifest).await;
        self.link(scope, &manifest, LinkKind::Manifest).await;
        for blob in &blobs {
            self.link(scope, blob, LinkKind::Blob).await;
        }
        (manifest, blobs)
    }

    async fn index(&self, scope: &Scope, children: &[(Digest, &str)]) -> Digest {
        let entries = children.iter().map(|(digest, architecture)| {
            json!({
                "mediaType": MediaType::OCI_MANIFEST, "digest": digest, "size": 1,
                "platform": {"os": "linux", "architecture": architecture},
            })
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_INDEX,
            "manifests": entries.collect::<Vec<_>>(),
        });
        let index = self.keep_json(&index).await;
        self.link(scope, &index, LinkKind::Manifest).await;
        index
    }

    /// Exports: the report, and the archive in one piece.
    pub(super) async fn exported(&self, exporting: Exporting) -> (ExportReport, Vec<u8>) {
        let (out, mut pieces): (_, Pieces) = mpsc::channel(PIECES_WAITING_MAX);
        let gathered = async {
            let mut archive = Vec::new();
            while let Some(piece) = pieces.recv().await {
                archive.extend_from_slice(&piece.unwrap());
            }
            archive
        };
        let (report, archive) = join(export(self.clone(), exporting, out), gathered).await;
        (report.unwrap(), archive)
    }

    pub(super) async fn imported(
        &self,
        importing: Importing,
        archive: &[u8],
    ) -> Result<ImportReport, TransferError> {
        import(self.clone(), importing, stream(archive, 700)).await
    }
}

/// An archive as a stream of pieces of that length.
pub(super) fn stream(archive: &[u8], piece: usize) -> Pieces {
    let (out, pieces) = mpsc::channel(archive.len() / piece + 1);
    for piece in archive.chunks(piece) {
        out.try_send(Ok(Bytes::copy_from_slice(piece))).unwrap();
    }
    pieces
}

pub(super) fn images(images: &[ImageRef]) -> Exporting {
    Exporting { images: images.to_vec(), platforms: Vec::new() }
}

#[tokio::test]
async fn what_is_imported_is_what_was_exported() {
    let (here, there) = (holdings(), holdings());
    let a = scope("library/a");
    let (manifest, blobs) = here.image(&a, &[b"one", b"two"]).await;
    let confirmed_at = Timestamp::from_unix_ms(77);
    here.tag(&a, "1", manifest, confirmed_at).await;
    let (report, archive) = here.exported(images(&[tagged("library/a", "1")])).await;
    assert_eq!((report.images.len(), report.failed.len(), report.blobs), (1, 0, 4));
    assert_eq!(report.images[0].image, "docker.io/library/a:1");
    assert!(report.images[0].complete && report.images[0].missing.is_empty());

    let report = there.imported(importing(), &archive).await.unwrap();
    assert_eq!((report.blobs, report.new_blobs, report.damaged.len()), (4, 4, 0));
    assert_eq!(report.images[0].tag, TagOutcome::Set);
    assert_eq!(there.kind(&a, &manifest).await, Some(LinkKind::Manifest));
    for digest in blobs.iter().chain([&manifest]) {
        let (old, new) = (here.blobs.open(digest).await, there.blobs.open(digest).await);
        let (old, new) = (old.unwrap().unwrap(), new.unwrap().unwrap());
        assert_eq!(old.read_at(0, 99_999).await.unwrap(), new.read_at(0, 99_999).await.unwrap());
    }
    for blob in &blobs {
        assert_eq!(there.kind(&a, blob).await, Some(LinkKind::Blob));
    }
    let meaning = there.meaning(&a, "1").await.unwrap();
    assert_eq!((meaning.digest, meaning.confirmed_at), (manifest, confirmed_at));
    assert_eq!(meaning.media_type.as_deref(), Some(MediaType::OCI_MANIFEST.as_str()));

    // Once more changes nothing, and the way back is the same archive.
    let again = there.imported(importing(), &archive).await.unwrap();
    assert_eq!((again.new_blobs, again.images[0].tag), (0, TagOutcome::Known));
    assert_eq!(there.exported(images(&[tagged("library/a", "1")])).await.1, archive);
}

#[tokio::test]
async fn an_index_goes_with_the_platforms_that_were_pulled() {
    let (here, there) = (holdings(), holdings());
    let a = scope("library/a");
    let (amd64, _) = here.image(&a, &[b"amd64"]).await;
    let arm64 = Digest::sha256(b"never pulled");
    let index = here.index(&a, &[(amd64, "amd64"), (arm64, "arm64")]).await;
    here.tag(&a, "1", index, NOW).await;
    let (report, archive) = here.exported(images(&[tagged("library/a", "1")])).await;
    assert_eq!(report.images[0].missing, [arm64]);
    assert!(report.images[0].complete);
    let report = there.imported(importing(), &archive).await.unwrap();
    assert!(report.images[0].complete);
    assert_eq!(report.images[0].manifests, 2);
    assert_eq!(there.kind(&a, &amd64).await, Some(LinkKind::Manifest));
    assert_eq!(there.kind(&a, &arm64).await, None);

    // Of what was pulled, only some platforms.
    let (s390x, blobs) = here.image(&a, &[b"s390x"]).await;
    let index = here.index(&a, &[(amd64, "amd64"), (s390x, "s390x")]).await;
    here.tag(&a, "2", index, NOW).await;
    let platforms: Vec<Platform> = vec!["linux/amd64".parse().unwrap()];
    let some = Exporting { images: vec![tagged("library/a", "2")], platforms };
    let (report, archive) = here.exported(some).await;
    assert_eq!(report.images[0].missing, [s390x]);
    let other = holdings();
    other.imported(importing(), &archive).await.unwrap();
    assert!(other.blobs.open(&blobs[1]).await.unwrap().is_none());
}

#[tokio::test]
async fn an_export_opens_nothing_to_a_repository_that_was_closed_to_it() {
    let (here, there) = (holdings(), holdings());
    let (a, b) = (scope("library/a"), scope("private/b"));
    let (of_b, _) = here.image(&b, &[b"secret"]).await;
    // The repository names the other's layer, and upstream never showed that it has it.
    let (of_a, blobs) = here.image(&a, &[b"public", b"secret"]).await;
    let secret = blobs[2];
    here.meta.remove_link(&a, &secret).await.unwrap();
    here.link(&a, &secret, LinkKind::Named).await;
    here.tag(&a, "1", of_a, NOW).await;
    here.tag(&b, "1", of_b, NOW).await;
    let both = [tagged("library/a", "1"), tagged("private/b", "1")];
    let (report, archive) = here.exported(images(&both)).await;
    assert_eq!(report.images[0].missing, [secret]);
    assert!(!report.images[0].complete && report.images[1].complete);

    let report = there.imported(importing(), &archive).await.unwrap();
    assert_eq!(there.kind(&a, &secret).await, None);
    assert_eq!(there.kind(&b, &secret).await, Some(LinkKind::Blob));
    assert!(!report.images[0].complete && report.images[1].complete);
}

#[tokio::test]
async fn everything_is_every_tag_and_what_was_pulled_by_digest() {
    let (here, there) = (holdings(), holdings());
    let (a, b) = (scope("library/a"), scope("library/b"));
    let (first, _) = here.image(&a, &[b"first"]).await;
    here.tag(&a, "1", first, NOW).await;
    here.tag(&a, "2", first, NOW).await;
    // By digest: an index with its child, which is no image of its own.
    let (child, _) = here.image(&b, &[b"child"]).await;
    let index = here.index(&b, &[(child, "amd64")]).await;
    // Evicted since.
    here.link(&b, &Digest::sha256(b"gone"), LinkKind::Manifest).await;
    let (report, archive) = here.exported(Exporting::default()).await;
    let names: Vec<_> = report.images.iter().map(|image| image.image.clone()).collect();
    let by_digest = format!("docker.io/library/b@{index}");
    assert_eq!(names, ["docker.io/library/a:1", "docker.io/library/a:2", &by_digest]);
    assert_eq!(report.failed, []);
    let report = there.imported(importing(), &archive).await.unwrap();
    assert_eq!(report.images.len(), 3);
    assert_eq!(there.kind(&b, &index).await, Some(LinkKind::Manifest));
    assert_eq!(there.meaning(&a, "2").await.unwrap().digest, first);
}

#[tokio::test]
async fn what_is_not_here_is_named() {
    let here = holdings();
    let a = scope("library/a");
    let (manifest, _) = here.image(&a, &[b"layer"]).await;
    here.tag(&a, "1", manifest, NOW).await;
    here.tag(&a, "gone", Digest::sha256(b"evicted"), NOW).await;
    let wanted =
        [tagged("library/a", "none"), tagged("library/a", "gone"), tagged("library/a", "1")];
    let (report, _) = here.exported(images(&wanted)).await;
    let failed: Vec<_> = report.failed.iter().map(|failed| failed.image.as_str()).collect();
    assert_eq!(failed, ["docker.io/library/a:none", "docker.io/library/a:gone"]);
    assert!(report.failed[0].reason.contains("never pulled"), "{:?}", report.failed);
    assert_eq!(report.images.len(), 1);
}

#[tokio::test]
async fn a_damaged_blob_fails_its_image_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = crate::store::blob::FsBlobs::open(dir.path(), Default::default()).await.unwrap();
    let here = Holdings { blobs: Arc::new(store), ..holdings() };
    let (a, b) = (scope("library/a"), scope("library/b"));
    let (of_a, blobs) = here.image(&a, &[b"to be damaged"]).await;
    let (of_b, _) = here.image(&b, &[b"stays"]).await;
    here.tag(&a, "1", of_a, NOW).await;
    here.tag(&b, "1", of_b, NOW).await;
    let hex = blobs[1].encoded();
    let file = dir.path().join("blobs-v1/sha256").join(&hex[..2]).join(&hex);
    let mut writable = std::fs::metadata(&file).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut writable, 0o640);
    std::fs::set_permissions(&file, writable).unwrap();
    std::fs::write(&file, b"TO BE DAMAGED").unwrap();

    let both = [tagged("library/a", "1"), tagged("library/b", "1")];
    let (report, archive) = here.exported(images(&both)).await;
    assert_eq!(report.failed[0].image, "docker.io/library/a:1");
    assert!(report.failed[0].reason.contains(&blobs[1].to_string()), "{:?}", report.failed);
    assert_eq!(report.images[0].image, "docker.io/library/b:1");
    // Nothing damaged goes out.
    let there = holdings();
    let report = there.imported(importing(), &archive).await.unwrap();
    assert_eq!((report.images.len(), report.damaged.len()), (1, 0));
}

#[tokio::test]
async fn a_tag_that_is_known_to_have_moved_on_stays_there() {
    let (here, there) = (holdings(), holdings());
    let a = scope("library/a");
    let (old, _) = here.image(&a, &[b"old"]).await;
    here.tag(&a, "1", old, Timestamp::from_unix_ms(10)).await;
    let (new, _) = there.image(&a, &[b"new"]).await;
    there.tag(&a, "1", new, Timestamp::from_unix_ms(20)).await;
    let (_, archive) = here.exported(images(&[tagged("library/a", "1")])).await;
    let report = there.imported(importing(), &archive).await.unwrap();
    assert_eq!(report.images[0].tag, TagOutcome::Newer);
    assert_eq!(there.meaning(&a, "1").await.unwrap().digest, new);
    // By digest the old one is there.
    assert_eq!(there.kind(&a, &old).await, Some(LinkKind::Manifest));
    // A clock that ran ahead elsewhere confirms nothing in the future here.
    here.tag(&a, "1", old, NOW.plus(Duration::from_secs(9))).await;
    let (_, archive) = here.exported(images(&[tagged("library/a", "1")])).await;
    let report = there.imported(importing(), &archive).await.unwrap();
    assert_eq!(report.images[0].tag, TagOutcome::Set);
    assert_eq!(there.meaning(&a, "1").await.unwrap().confirmed_at, NOW);
}

#[tokio::test]
async fn what_is_hot_is_forgotten() {
    let (here, there) = (holdings(), holdings());
    let a = scope("library/a");
    let (manifest, blobs) = here.image(&a, &[b"layer"]).await;
    here.tag(&a, "1", manifest, NOW).await;
    let stale = Link { size: None, media_type: None, kind: LinkKind::Named };
    there.hot.put_link(&a, &blobs[1], stale);
    let (_, archive) = here.exported(images(&[tagged("library/a", "1")])).await;
    there.imported(importing(), &archive).await.unwrap();
    assert!(there.hot.link(&a, &blobs[1]).is_none());
}

#[tokio::test]
async fn an_export_ends_when_nobody_takes_it() {
    let here = holdings();
    let a = scope("library/a");
    let (manifest, _) = here.image(&a, &[&[7; 300_000]]).await;
    here.tag(&a, "1", manifest, NOW).await;
    let (out, pieces) = mpsc::channel(1);
    drop(pieces);
    let ended = export(here, images(&[tagged("library/a", "1")]), out).await;
    assert!(matches!(ended, Err(TransferError::Abandoned)), "{ended:?}");
}

#[tokio::test]
async fn a_directory_holds_the_same_layout() {
    let here = holdings();
    let a = scope("library/a");
    let (manifest, blobs) = here.image(&a, &[b"layer", &[3; 600_000]]).await;
    here.tag(&a, "1", manifest, NOW).await;
    let dir = tempfile::tempdir().unwrap();
    let (out, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let exporting = images(&[tagged("library/a", "1")]);
    let folder = || Sink::Folder(dir.path().to_owned());
    let (sent, saved) = join(export(here.clone(), exporting, out), save(pieces, folder())).await;
    assert_eq!(sent.unwrap(), saved.unwrap());
    assert_eq!(
        std::fs::read(dir.path().join("blobs/sha256").join(blobs[1].encoded())).unwrap(),
        b"layer"
    );

    let there = holdings();
    let (out, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let sending = load(Source::Folder(dir.path().to_owned()), out);
    let (sent, report) = join(sending, import(there.clone(), importing(), pieces)).await;
    sent.unwrap();
    let report = report.unwrap();
    assert_eq!((report.new_blobs, report.images.len()), (4, 1));
    assert_eq!(there.kind(&a, &blobs[2]).await, Some(LinkKind::Blob));

    // What is there is not overwritten.
    let (out, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let exporting = images(&[tagged("library/a", "1")]);
    let (sent, twice) = join(export(here, exporting, out), save(pieces, folder())).await;
    assert!(matches!(twice, Err(TransferError::File { .. })), "{twice:?}");
    assert!(sent.is_err());
}

#[tokio::test]
async fn a_directory_has_the_whole_layout_or_nothing() {
    let here = holdings();
    let a = scope("library/a");
    let (manifest, _) = here.image(&a, &[&[5; 400_000]]).await;
    here.tag(&a, "1", manifest, NOW).await;
    let (report, archive) = here.exported(images(&[tagged("library/a", "1")])).await;
    let dir = tempfile::tempdir().unwrap();
    let names = |of: &std::path::Path| {
        let entries = std::fs::read_dir(of).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    let (fresh, empty) = (dir.path().join("fresh"), dir.path().join("empty"));
    std::fs::create_dir(&empty).unwrap();
    let sink = |root: &std::path::Path| Sink::Folder(root.to_owned());
    for len in [0, 1, 512, 5000, archive.len() / 2, archive.len() - 1025] {
        for root in [&fresh, &empty] {
            let cut = save(stream(&archive[..len], 5000), sink(root)).await;
            assert!(matches!(cut, Err(TransferError::Archive(_))), "{len}: {cut:?}");
            assert_eq!(names(dir.path()), ["empty"], "{len}");
            assert_eq!(names(&empty), [""; 0], "{len}");
        }
    }

    // Somebody gives up in the middle: what was begun goes when the stream does.
    for root in [&fresh, &empty] {
        let (out, pieces) = mpsc::channel(PIECES_WAITING_MAX);
        let mut saving = Box::pin(save(pieces, sink(root)));
        let half = bytes::Bytes::copy_from_slice(&archive[..archive.len() / 2]);
        assert!(futures_util::poll!(&mut saving).is_pending());
        out.send(Ok(half)).await.unwrap();
        let begun = || names(dir.path()).len() + names(&empty).len() == 2;
        while !begun() {
            tokio::task::yield_now().await;
        }
        drop((saving, out));
        while begun() {
            tokio::task::yield_now().await;
        }
        assert_eq!((names(dir.path()), names(&empty)), (vec!["empty".to_owned()], vec![]));
    }

    for root in [&fresh, &empty] {
        assert_eq!(save(stream(&archive, 5000), sink(root)).await.unwrap(), report);
        assert_eq!(names(root), ["blobs", "index.json", "oci-layout"]);
        let twice = save(stream(&archive, 5000), sink(root)).await;
        assert!(matches!(twice, Err(TransferError::File { .. })), "{twice:?}");
        assert_eq!(names(root), ["blobs", "index.json", "oci-layout"]);
    }
    assert_eq!(names(dir.path()), ["empty", "fresh"]);
}

#[tokio::test]
async fn an_archive_is_saved_whole_or_not_at_all() {
    let here = holdings();
    let a = scope("library/a");
    let (manifest, _) = here.image(&a, &[&[5; 400_000]]).await;
    here.tag(&a, "1", manifest, NOW).await;
    let exporting = images(&[tagged("library/a", "1")]);
    let (report, archive) = here.exported(exporting).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    let sink = || Sink::Archive(Box::new(std::fs::File::create(&path).unwrap()));
    assert_eq!(save(stream(&archive, 5000), sink()).await.unwrap(), report);
    assert_eq!(std::fs::read(&path).unwrap(), archive);
    for len in [0, 1, 512, 5000, archive.len() - 1025] {
        let cut = save(stream(&archive[..len], 5000), sink()).await;
        assert!(matches!(cut, Err(TransferError::Archive(_))), "{len}: {cut:?}");
    }
}
