//! Archives that nobody should trust, and layouts that other programs write.

use proptest::prelude::*;

use super::super::archive::{Reader, end, head, tail};
use super::*;
use crate::oci::Algorithm;

const LAYOUT: &[u8] = b"{\"imageLayoutVersion\": \"1.0.0\"}";

/// An archive of these files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, content) in files {
        out.extend_from_slice(&head(name, content.len() as u64));
        out.extend_from_slice(content);
        out.extend_from_slice(&tail(content.len() as u64));
    }
    out.extend_from_slice(&end());
    out
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.encoded())
}

/// A layout that another program might write, with these names for its one image.
fn foreign(annotations: Value) -> Vec<u8> {
    let config = b"{}".as_slice();
    let manifest = json!({
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                   "digest": Digest::sha256(config), "size": 2},
        "layers": [],
    })
    .to_string();
    let digest = Digest::sha256(manifest.as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": MediaType::OCI_MANIFEST, "digest": digest, "size": manifest.len(),
        "annotations": annotations,
    }]})
    .to_string();
    archive(&[
        ("index.json", index.as_bytes()),
        ("manifest.json", b"[]"),
        (&blob_path(&digest), manifest.as_bytes()),
        (&blob_path(&Digest::sha256(config)), config),
        ("oci-layout", LAYOUT),
    ])
}

#[tokio::test]
async fn layouts_of_others_need_a_full_name() {
    for (annotations, image) in [
        (json!({"org.opencontainers.image.ref.name": "docker.io/o/x:1"}), "docker.io/o/x:1"),
        (
            json!({"org.opencontainers.image.ref.name": "1",
                   "io.containerd.image.name": "docker.io/o/x:2"}),
            "docker.io/o/x:2",
        ),
    ] {
        let there = holdings();
        let report = there.imported(importing(), &foreign(annotations)).await.unwrap();
        assert_eq!(report.images[0].image, image);
        assert!(report.images[0].complete);
        let (_, tag) = image.rsplit_once(':').unwrap();
        // Nobody said when: whoever imports it says it now.
        assert_eq!(there.meaning(&scope("o/x"), tag).await.unwrap().confirmed_at, NOW);
    }
    for (annotations, word) in [
        (json!({"org.opencontainers.image.ref.name": "latest"}), "--as"),
        (json!({}), "--as"),
        (json!({"org.opencontainers.image.ref.name": "quay.io/o/x:1"}), "unknown registry"),
        (
            json!({"dev.pierhead.upstream": "quay.io", "dev.pierhead.repository": "o/x",
                   "dev.pierhead.tag": "1"}),
            "no upstream is called quay.io",
        ),
    ] {
        let there = holdings();
        let report = there.imported(importing(), &foreign(annotations.clone())).await.unwrap();
        assert_eq!(report.images, [], "{annotations}");
        assert!(report.failed[0].reason.contains(word), "{:?}", report.failed);
        let rename = Some(tagged("o/y", "3"));
        let renamed = Importing { rename, ..importing() };
        let report = there.imported(renamed, &foreign(annotations)).await.unwrap();
        assert_eq!(report.images[0].image, "docker.io/o/y:3");
    }
}

#[tokio::test]
async fn naming_a_blob_in_a_layout_opens_nothing() {
    let there = holdings();
    let (victim, thief) = (scope("private/victim"), scope("o/thief"));
    let (_, blobs) = there.image(&victim, &[b"secret"]).await;
    // Another repository's layer is named, and not brought along.
    let elsewhere = holdings();
    let (manifest, _) = elsewhere.image(&thief, &[b"secret"]).await;
    elsewhere.tag(&thief, "1", manifest, NOW).await;
    elsewhere.blobs.remove(&blobs[1]).await.unwrap();
    let (_, archive) = elsewhere.exported(images(&[tagged("o/thief", "1")])).await;
    let text =
        String::from_utf8_lossy(&archive).replace("dev.pierhead.missing", "dev.pierhead.MISSING");
    let report = there.imported(importing(), text.as_bytes()).await.unwrap();
    assert_eq!(there.kind(&thief, &blobs[1]).await, None);
    assert!(!report.images[0].complete);
}

#[tokio::test]
async fn a_wrong_blob_is_not_kept_and_fails_its_image() {
    let here = holdings();
    let a = scope("library/a");
    let (manifest, blobs) = here.image(&a, &[b"the right layer"]).await;
    here.tag(&a, "1", manifest, NOW).await;
    let (_, mut archive) = here.exported(images(&[tagged("library/a", "1")])).await;
    let at = archive.windows(15).position(|bytes| bytes == b"the right layer").unwrap();
    archive[at..at + 15].copy_from_slice(b"the wrong layer");
    let there = holdings();
    let report = there.imported(importing(), &archive).await.unwrap();
    assert_eq!(report.damaged, [blobs[1]]);
    assert_eq!(report.images, []);
    assert!(report.failed[0].reason.contains("damaged"), "{:?}", report.failed);
    assert!(there.blobs.open(&blobs[1]).await.unwrap().is_none());
    assert_eq!(there.kind(&a, &manifest).await, None);
}

#[tokio::test]
async fn archives_that_are_none_are_refused() {
    let index = b"{\"schemaVersion\":2,\"manifests\":[]}".as_slice();
    let layout = ("oci-layout", LAYOUT);
    let mut link = archive(&[layout]);
    link[156] = b'2';
    let sum: u32 = link[..148].iter().chain(&link[156..512]).map(|b| u32::from(*b)).sum();
    link[148..156].copy_from_slice(format!("{:06o}\0 ", sum + 8 * 32).as_bytes());
    let long = [b'a'; 5000];
    let mut long_name = head("x", 0).to_vec();
    long_name[156] = b'L';
    long_name[124..136].copy_from_slice(b"00077777777\0");
    let sum: u32 = long_name[..148].iter().chain(&long_name[156..512]).map(|b| u32::from(*b)).sum();
    long_name[148..156].copy_from_slice(format!("{:06o}\0 ", sum + 8 * 32).as_bytes());
    long_name.extend_from_slice(&long);
    for (what, bytes, word) in [
        ("nothing", Vec::new(), "in the middle"),
        ("no archive", vec![7; 2000], "no tar"),
        ("gzip", [&[0x1f, 0x8b][..], &[0; 2000]].concat(), "compressed"),
        ("no layout file", archive(&[("index.json", index)]), "no file oci-layout"),
        ("no index", archive(&[layout]), "no file index.json"),
        ("two indexes", archive(&[layout, ("index.json", index), ("./index.json", index)]), "two"),
        (
            "another version",
            archive(&[("oci-layout", b"{\"imageLayoutVersion\":\"2\"}")]),
            "version",
        ),
        ("no JSON", archive(&[layout, ("index.json", b"{")]), "index.json"),
        ("above", archive(&[layout, ("../x", b"")]), "../x"),
        ("inside above", archive(&[layout, ("blobs/../../x", b"")]), ".."),
        ("absolute", archive(&[layout, ("/etc/passwd", b"")]), "/etc/passwd"),
        ("a link", link, "no regular file"),
        ("a long name without end", long_name, "larger"),
        ("a large layout file", archive(&[("oci-layout", &[b' '; 5000])]), "larger"),
    ] {
        let refused = holdings().imported(importing(), &bytes).await;
        let message = refused.map_or_else(|error| error.to_string(), |done| format!("{done:?}"));
        assert!(message.contains(word), "{what}: {message}");
    }
    // Larger than a blob may be, as its head says: not a byte of it is waited for.
    let digest = Digest::sha256(b"");
    let mut large = archive(&[layout]);
    large.truncate(1024);
    large.extend_from_slice(&head(&blob_path(&digest), u64::MAX / 4));
    let refused = holdings().imported(importing(), &large).await.unwrap_err();
    assert!(refused.to_string().contains("larger than 1048576"), "{refused}");
}

#[tokio::test]
async fn an_import_that_breaks_off_links_nothing() {
    let here = holdings();
    let a = scope("library/a");
    let (manifest, _) = here.image(&a, &[b"layer"]).await;
    here.tag(&a, "1", manifest, NOW).await;
    let (_, archive) = here.exported(images(&[tagged("library/a", "1")])).await;
    // Everything but the archive's end.
    for len in (0..=archive.len() - 1024).step_by(512) {
        let there = holdings();
        let cut = there.imported(importing(), &archive[..len]).await;
        assert!(matches!(cut, Err(TransferError::Archive(ArchiveError::Truncated))), "{len}");
        assert_eq!(there.meta.scopes(None, 9).await.unwrap(), []);
        assert_eq!(there.meaning(&a, "1").await, None);
    }
    // A failure of the stream is told.
    let (out, pieces) = mpsc::channel(2);
    out.try_send(Ok(Bytes::copy_from_slice(&archive[..600]))).unwrap();
    out.try_send(Err(io::Error::other("the cable"))).unwrap();
    let failed = import(holdings(), importing(), pieces).await.unwrap_err();
    assert!(failed.to_string().contains("the cable"), "{failed}");
}

#[tokio::test]
async fn one_name_is_for_one_image() {
    let here = holdings();
    let a = scope("library/a");
    let (manifest, _) = here.image(&a, &[b"layer"]).await;
    here.tag(&a, "1", manifest, NOW).await;
    here.tag(&a, "2", manifest, NOW).await;
    let (_, archive) = here.exported(Exporting::default()).await;
    let renamed = Importing { rename: Some(tagged("o/x", "1")), ..importing() };
    let refused = holdings().imported(renamed, &archive).await.unwrap_err();
    assert!(refused.to_string().contains("2 images"), "{refused}");
}

#[tokio::test]
async fn long_names_and_the_forms_of_other_programs_are_read() {
    let digest = Digest::of(Algorithm::Sha512, b"content");
    let path = blob_path(&digest);
    assert!(path.len() > 100);
    let mut reader = Reader::new(stream(&archive(&[(&path, b"content")]), 100));
    let member = reader.next().await.unwrap().unwrap();
    assert_eq!((member.name, member.len), (path.clone(), 7));
    assert!(reader.next().await.unwrap().is_none());

    // What the `tar` crate writes in its own ways, directories included.
    let mut builder = tar::Builder::new(Vec::new());
    let mut directory = tar::Header::new_ustar();
    directory.set_entry_type(tar::EntryType::Directory);
    directory.set_size(0);
    builder.append_data(&mut directory, "blobs/sha512/", std::io::empty()).unwrap();
    builder.append_pax_extensions([("path", path.as_bytes()), ("size", b"7".as_slice())]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(7);
    builder.append_data(&mut header, "cut", b"content".as_slice()).unwrap();
    let mut reader = Reader::new(stream(&builder.into_inner().unwrap(), 512));
    let member = reader.next().await.unwrap().unwrap();
    assert_eq!((member.name.as_str(), member.len), (path.as_str(), 7));
    assert_eq!(reader.whole(&member, 7).await.unwrap(), b"content");
    assert!(reader.next().await.unwrap().is_none());
}

proptest! {
    #[test]
    fn whatever_comes_is_read_or_refused(
        mut at in prop::collection::vec((0usize..4096, any::<u8>()), 0..6),
        len in 0usize..6000,
        piece in 1usize..900,
    ) {
        let mut bytes = foreign(json!({"org.opencontainers.image.ref.name": "docker.io/o/x:1"}));
        for (at, byte) in at.drain(..) {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(len.max(1));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let there = holdings();
        let done = runtime.block_on(import(there.clone(), importing(), stream(&bytes, piece)));
        if let Ok(report) = done {
            // What was accepted has its digests.
            prop_assert!(report.images.len() <= 1);
        }
    }

    #[test]
    fn archives_read_back(
        files in prop::collection::vec(("[a-z]{1,9}(/[a-z0-9.]{1,40}){0,4}", prop::collection::vec(any::<u8>(), 0..1500)), 0..5),
        piece in 1usize..2000,
    ) {
        let named: Vec<_> = files.iter()
            .filter(|(name, _)| name.split('/').all(|part| part != "." && part != ".."))
            .map(|(name, content)| (name.as_str(), content.as_slice()))
            .collect();
        let bytes = archive(&named);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut reader = Reader::new(stream(&bytes, piece));
            for (name, content) in &named {
                let member = reader.next().await.unwrap().unwrap();
                assert_eq!(&member.name, name);
                assert_eq!(&reader.whole(&member, 2000).await.unwrap(), content);
            }
            assert!(reader.next().await.unwrap().is_none());
        });
    }
}
