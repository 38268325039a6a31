//! Manifests as registries and tools really write them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::descriptor::tests::any_descriptor;
use super::*;

fn parse(document: &Value, content_type: Option<&MediaType>) -> Result<Manifest, ManifestError> {
    Manifest::parse(document.to_string().as_bytes(), content_type)
}

fn descriptor(media_type: &str, content: &str) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256(content.as_bytes()), "size": content.len()})
}

fn image() -> Value {
    json!({
        "schemaVersion": 2,
        "config": descriptor("application/vnd.oci.image.config.v1+json", "config"),
        "layers": [
            descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "one"),
            descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "two"),
        ],
        "annotations": {"a": "b"},
    })
}

fn index() -> Value {
    json!({
        "schemaVersion": 2,
        "manifests": [descriptor("application/vnd.oci.image.manifest.v1+json", "child")],
    })
}

fn schema1() -> Value {
    json!({
        "schemaVersion": 1, "name": "a", "tag": "b", "architecture": "amd64",
        "fsLayers": [{"blobSum": Digest::sha256(b"one")}, {"blobSum": Digest::sha256(b"two")}],
        "history": [{"v1Compatibility": "{}"}],
        "signatures": [{"header": {}}],
    })
}

fn with(mut document: Value, key: &str, value: Value) -> Value {
    document[key] = value;
    document
}

fn without(mut document: Value, key: &str) -> Value {
    document.as_object_mut().unwrap().remove(key);
    document
}

#[test]
fn images_name_their_blobs() {
    let manifest = parse(&image(), Some(&MediaType::OCI_MANIFEST)).unwrap();
    assert_eq!(manifest.kind(), ManifestKind::Image);
    assert_eq!(manifest.media_type(), &MediaType::OCI_MANIFEST);
    let blobs: Vec<BlobRef> = manifest.blobs().collect();
    assert_eq!(blobs.len(), 3);
    assert_eq!(blobs[0].digest, Digest::sha256(b"config"));
    assert_eq!(blobs[0].media_type, Some(MediaType::OCI_CONFIG));
    assert_eq!(blobs[1].size, Some(3));
    assert!(!blobs[1].foreign);
    assert!(blobs[2].foreign);
    assert!(manifest.children().is_empty());
    assert_eq!(manifest.artifact_type(), Some(&MediaType::OCI_CONFIG));
    assert_eq!(manifest.annotations().get("a").map(String::as_str), Some("b"));
    assert_eq!(manifest.layers().len(), 2);
    assert_eq!(manifest.config().map(|config| config.size), Some(6));
}

#[test]
fn indexes_name_their_children() {
    let manifest = parse(&index(), Some(&MediaType::DOCKER_MANIFEST_LIST)).unwrap();
    assert_eq!(manifest.kind(), ManifestKind::Index);
    assert_eq!(manifest.children().len(), 1);
    assert_eq!(manifest.blobs().count(), 0);
    assert_eq!(manifest.artifact_type(), None);
    let empty = with(index(), "manifests", Value::Null);
    assert!(parse(&empty, Some(&MediaType::OCI_INDEX)).unwrap().children().is_empty());
}

#[test]
fn schema1_names_its_layers_without_sizes() {
    for content_type in [None, Some("text/plain"), Some(MediaType::DOCKER_SCHEMA1_SIGNED.as_str())]
    {
        let content_type = content_type.map(|text| text.parse().unwrap());
        let manifest = parse(&schema1(), content_type.as_ref()).unwrap();
        assert_eq!(manifest.media_type(), &MediaType::DOCKER_SCHEMA1_SIGNED);
        let blobs: Vec<BlobRef> = manifest.blobs().collect();
        assert_eq!(blobs.len(), 2);
        assert_eq!(blobs[1].digest, Digest::sha256(b"two"));
        assert_eq!(blobs[1].size, None);
    }
    let unsigned = parse(&without(schema1(), "signatures"), None).unwrap();
    assert_eq!(unsigned.media_type(), &MediaType::DOCKER_SCHEMA1);
}

#[test]
fn artifacts_name_their_subject() {
    let artifact = with(image(), "subject", descriptor("application/x", "subject"));
    let artifact = with(artifact, "artifactType", json!("application/vnd.example.sbom"));
    let manifest = parse(&artifact, None).unwrap();
    assert_eq!(manifest.subject().map(|s| s.digest), Some(Digest::sha256(b"subject")));
    assert_eq!(manifest.artifact_type().unwrap().as_str(), "application/vnd.example.sbom");
    let untyped = with(image(), "artifactType", json!(""));
    assert_eq!(parse(&untyped, None).unwrap().artifact_type(), Some(&MediaType::OCI_CONFIG));
}

#[test]
fn effective_media_types() {
    let docker = || with(image(), "mediaType", json!(MediaType::DOCKER_MANIFEST));
    let effective = |document: &Value, content_type: Option<&str>| {
        let content_type = content_type.map(|text| text.parse().unwrap());
        parse(document, content_type.as_ref()).map(|manifest| manifest.media_type().clone())
    };
    for generic in [
        None,
        Some("text/plain"),
        Some("application/json"),
        Some("application/octet-stream"),
        Some("application/x-unknown"),
        Some(MediaType::DOCKER_MANIFEST.as_str()),
    ] {
        assert_eq!(effective(&docker(), generic), Ok(MediaType::DOCKER_MANIFEST), "{generic:?}");
    }
    for header in [&MediaType::OCI_MANIFEST, &MediaType::OCI_INDEX, &MediaType::DOCKER_SCHEMA1] {
        assert_eq!(
            effective(&docker(), Some(header.as_str())),
            Err(ManifestError::Contradiction {
                content_type: header.clone(),
                media_type: MediaType::DOCKER_MANIFEST
            })
        );
    }
    assert_eq!(effective(&image(), None), Ok(MediaType::OCI_MANIFEST));
    assert_eq!(effective(&index(), Some("text/plain")), Ok(MediaType::OCI_INDEX));
    assert_eq!(
        effective(&with(image(), "mediaType", json!("")), None),
        Ok(MediaType::OCI_MANIFEST)
    );
    assert_eq!(effective(&json!({}), None), Err(ManifestError::UnknownType));
    assert_eq!(
        effective(&with(image(), "mediaType", json!("no type")), None),
        Err(ManifestError::MediaType)
    );
    let own = with(image(), "mediaType", json!("application/x-own"));
    let header = MediaType::OCI_MANIFEST;
    assert_eq!(effective(&own, Some(header.as_str())), Ok(header));
}

#[test]
fn other_types_are_read_as_far_as_possible() {
    let artifact = json!({
        "mediaType": "application/vnd.oci.artifact.manifest.v1+json",
        "artifactType": "application/x-a",
        "blobs": [descriptor("application/x", "blob")],
        "subject": descriptor("application/x", "subject"),
    });
    let manifest = parse(&artifact, None).unwrap();
    assert_eq!(manifest.kind(), ManifestKind::Other);
    assert_eq!(manifest.blobs().count(), 1);
    assert!(manifest.subject().is_some());
    let unknown: MediaType = "application/x-unknown".parse().unwrap();
    assert_eq!(parse(&json!({}), Some(&unknown)).unwrap().blobs().count(), 0);
}

#[test]
fn what_clients_might_disagree_on_is_refused() {
    let ambiguous = |document, media_type| parse(&document, Some(&media_type)).unwrap_err();
    let both = with(image(), "manifests", index()["manifests"].clone());
    assert_eq!(
        ambiguous(both.clone(), MediaType::OCI_MANIFEST),
        ManifestError::Ambiguous("manifests")
    );
    assert_eq!(ambiguous(both, MediaType::OCI_INDEX), ManifestError::Ambiguous("config"));
    let old = with(image(), "fsLayers", json!([]));
    assert_eq!(ambiguous(old, MediaType::OCI_MANIFEST), ManifestError::Ambiguous("fsLayers"));
    assert_eq!(
        ambiguous(with(image(), "schemaVersion", json!(1)), MediaType::OCI_MANIFEST),
        ManifestError::SchemaVersion(1)
    );
    assert_eq!(
        ambiguous(without(image(), "config"), MediaType::OCI_MANIFEST),
        ManifestError::Missing("config")
    );
    assert_eq!(
        ambiguous(without(index(), "manifests"), MediaType::OCI_INDEX),
        ManifestError::Missing("manifests")
    );
    assert_eq!(
        ambiguous(without(schema1(), "fsLayers"), MediaType::DOCKER_SCHEMA1),
        ManifestError::Missing("fsLayers")
    );
}

#[test]
fn garbage_is_refused() {
    let image = image().to_string();
    let open = image.strip_suffix('}').unwrap();
    for document in [
        String::new(),
        "null".to_owned(),
        "[]".to_owned(),
        "<html>".to_owned(),
        format!("{image}x"),
        open.to_owned(),
        format!(r#"{open},"layers":[]}}"#),
        format!(r#"{open},"Layers":[]}}"#),
        format!(r#"{open},"layer\u017f":[]}}"#),
        format!(r#"{open},"subject":{{"size":-1}}}}"#),
        format!(r#"{open},"mediaType":["a"]}}"#),
        "[".repeat(100_000),
        r#"{"a":"#.repeat(100_000),
    ] {
        let error = Manifest::parse(document.as_bytes(), None).unwrap_err();
        assert!(matches!(error, ManifestError::Malformed(_)), "{document:.80}: {error}");
    }
}

#[test]
fn sizes_are_capped() {
    let mut large = image().to_string();
    large.push_str(&" ".repeat(MANIFEST_BYTES_MAX - large.len()));
    assert!(Manifest::parse(large.as_bytes(), None).is_ok());
    large.push(' ');
    assert_eq!(
        Manifest::parse(large.as_bytes(), None),
        Err(ManifestError::TooLarge(MANIFEST_BYTES_MAX + 1))
    );
    let layer = json!({"digest": Digest::sha256(b""), "size": 0});
    let most = with(image(), "layers", json!(vec![layer.clone(); MANIFEST_ENTRIES_MAX]));
    assert_eq!(parse(&most, None).unwrap().layers().len(), MANIFEST_ENTRIES_MAX);
    let many = with(image(), "layers", json!(vec![layer; MANIFEST_ENTRIES_MAX + 1]));
    assert!(matches!(parse(&many, None), Err(ManifestError::Malformed(_))));
}

proptest! {
    #[test]
    fn every_descriptor_is_found(
        config in any_descriptor(),
        layers in prop::collection::vec(any_descriptor(), 0..4),
    ) {
        let document = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let manifest = parse(&document, None).unwrap();
        prop_assert_eq!(manifest.blobs().count(), 1 + layers.len());
        prop_assert_eq!(manifest.config(), Some(&config));
        prop_assert_eq!(manifest.layers(), &layers[..]);

        let document = json!({"schemaVersion": 2, "manifests": layers});
        let manifest = parse(&document, None).unwrap();
        prop_assert_eq!(manifest.children(), &layers[..]);
    }

    #[test]
    fn the_effective_type_reads_the_same_again(own in 0..7usize, header in 0..7usize) {
        let types = [
            None,
            Some(MediaType::OCI_MANIFEST),
            Some(MediaType::DOCKER_MANIFEST),
            Some(MediaType::OCI_INDEX),
            Some(MediaType::DOCKER_SCHEMA1),
            Some(MediaType::JSON),
            Some(MediaType::OCI_EMPTY),
        ];
        let document = match &types[own] {
            Some(own) => with(image(), "mediaType", json!(own)),
            None => image(),
        };
        if let Ok(manifest) = parse(&document, types[header].as_ref()) {
            prop_assert_eq!(parse(&document, Some(manifest.media_type())), Ok(manifest));
        }
    }

    #[test]
    fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), cut in any::<prop::sample::Index>()) {
        let _ = Manifest::parse(&bytes, None);
        let image = image().to_string();
        let mut image = image.into_bytes();
        let at = cut.index(image.len());
        image.splice(at..at, bytes);
        let _ = Manifest::parse(&image, None);
    }
}
