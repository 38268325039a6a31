//! A manifest reads the same again as its effective type, and its descriptors survive JSON.
//! The first byte chooses the Content-Type.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pierhead::oci::{Descriptor, Manifest, ManifestKind, MediaType};

static CONTENT_TYPES: [Option<MediaType>; 8] = [
    None,
    Some(MediaType::OCI_MANIFEST),
    Some(MediaType::OCI_INDEX),
    Some(MediaType::DOCKER_MANIFEST),
    Some(MediaType::DOCKER_MANIFEST_LIST),
    Some(MediaType::DOCKER_SCHEMA1),
    Some(MediaType::JSON),
    Some(MediaType::OCI_EMPTY),
];

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let content_type = &CONTENT_TYPES[usize::from(*choice) % CONTENT_TYPES.len()];
    let Ok(manifest) = Manifest::parse(bytes, content_type.as_ref()) else { return };
    assert_eq!(manifest.media_type().kind(), manifest.kind());
    match manifest.kind() {
        ManifestKind::Image => assert!(manifest.config().is_some()),
        ManifestKind::Index | ManifestKind::Schema1 => assert!(manifest.config().is_none()),
        ManifestKind::Other => {}
    }
    let described = manifest.config().iter().count() + manifest.layers().len();
    if manifest.kind() != ManifestKind::Schema1 {
        assert!(manifest.blobs().count() >= described);
    }
    let descriptors = manifest
        .config()
        .into_iter()
        .chain(manifest.layers())
        .chain(manifest.children())
        .chain(manifest.subject());
    for descriptor in descriptors {
        let json = serde_json::to_vec(descriptor).expect("descriptors serialise");
        let again: Descriptor = serde_json::from_slice(&json).expect("what was written reads back");
        assert_eq!(again, *descriptor);
    }
    assert_eq!(Manifest::parse(bytes, Some(manifest.media_type())), Ok(manifest.clone()));
});
