//! Descriptors: how manifests name content.
//!
//! Source: OCI image-spec, `descriptor.md`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::json::{Capped, KnownKey, TextMap, next_value};
use super::platform::LooseObject;
use super::{Digest, MediaType, Platform};

/// The largest size of content: clients hold it in a signed 64-bit number.
pub const CONTENT_SIZE_MAX: u64 = i64::MAX as u64;

/// The most `urls` of one descriptor.
pub const URLS_MAX: usize = 64;

/// The most annotations of one descriptor or manifest.
pub const ANNOTATIONS_MAX: usize = 4096;

/// What a manifest says about a piece of content. Unknown properties are tolerated and not kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The type of the content; nothing where the descriptor has none or an odd one, which clients
    /// tolerate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// What the content is.
    pub digest: Digest,
    /// The content's length in bytes: a hint until the content has been seen.
    pub size: u64,
    /// Where else the content may be had, as text that nothing has checked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free-form notes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What kind of artifact the content is the manifest of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<MediaType>,
    /// What the content runs on; nothing where the descriptor does not name a whole platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// A descriptor with the three required properties.
    pub const fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self {
            media_type: Some(media_type),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            artifact_type: None,
            platform: None,
        }
    }
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Properties)
    }
}

struct Properties;

impl<'de> Visitor<'de> for Properties {
    type Value = Descriptor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a descriptor")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Descriptor, A::Error> {
        const KEYS: KnownKey = KnownKey(&[
            "mediaType",
            "digest",
            "size",
            "urls",
            "annotations",
            "artifactType",
            "platform",
        ]);
        let mut media_type: Option<Option<String>> = None;
        let mut digest: Option<Option<Digest>> = None;
        let mut size: Option<Option<u64>> = None;
        let mut urls: Option<Option<Capped<String, URLS_MAX>>> = None;
        let mut annotations: Option<Option<TextMap<ANNOTATIONS_MAX>>> = None;
        let mut artifact_type: Option<Option<String>> = None;
        let mut platform: Option<Option<LooseObject>> = None;
        while let Some(key) = map.next_key_seed(KEYS)? {
            match key {
                Some(key @ "mediaType") => next_value(&mut map, key, &mut media_type)?,
                Some(key @ "digest") => next_value(&mut map, key, &mut digest)?,
                Some(key @ "size") => next_value(&mut map, key, &mut size)?,
                Some(key @ "urls") => next_value(&mut map, key, &mut urls)?,
                Some(key @ "annotations") => next_value(&mut map, key, &mut annotations)?,
                Some(key @ "artifactType") => next_value(&mut map, key, &mut artifact_type)?,
                Some(key @ "platform") => next_value(&mut map, key, &mut platform)?,
                Some(_) | None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let missing = A::Error::missing_field;
        let size = size.flatten().ok_or_else(|| missing("size"))?;
        if size > CONTENT_SIZE_MAX {
            return Err(A::Error::custom("the size is too large"));
        }
        Ok(Descriptor {
            media_type: media_type.flatten().and_then(|text| text.parse().ok()),
            digest: digest.flatten().ok_or_else(|| missing("digest"))?,
            size,
            urls: urls.flatten().map(|list| list.0).unwrap_or_default(),
            annotations: annotations.flatten().map(|map| map.0).unwrap_or_default(),
            artifact_type: artifact_type.flatten().and_then(|text| text.parse().ok()),
            platform: platform.flatten().and_then(|object| object.platform().ok()),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str) -> Result<Descriptor, serde_json::Error> {
        serde_json::from_str(json)
    }

    fn with_size(size: &str) -> Result<Descriptor, serde_json::Error> {
        let digest = Digest::sha256(b"");
        parse(&format!(
            r#"{{"mediaType":"application/octet-stream","digest":"{digest}","size":{size}}}"#
        ))
    }

    /// Any descriptor.
    pub(in super::super) fn any_descriptor() -> impl Strategy<Value = Descriptor> {
        let media_type = || "[a-z]{1,4}/[a-z.+]{0,6}[a-z]".prop_map(|text| text.parse().ok());
        (
            media_type(),
            any::<[u8; 4]>(),
            0..=CONTENT_SIZE_MAX,
            prop::collection::vec("\\PC{0,9}", 0..3),
            prop::collection::btree_map("\\PC{0,9}", "\\PC{0,9}", 0..3),
            prop_oneof![Just(None), media_type()],
            prop_oneof![Just(None), "[a-z]{1,4}/[a-z0-9]{1,4}".prop_map(|text| text.parse().ok())],
        )
            .prop_map(
                |(media_type, content, size, urls, annotations, artifact_type, platform)| {
                    Descriptor {
                        media_type,
                        digest: Digest::sha256(&content),
                        size,
                        urls,
                        annotations,
                        artifact_type,
                        platform,
                    }
                },
            )
    }

    #[test]
    fn example_of_the_specification() {
        let descriptor = parse(
            r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":7682,
                "digest":"sha256:5b0bcabd1ed22e9fb1310cf6c2dec7cdef19f0ad69efa1f392e94a4333501270",
                "urls":["https://example.com/example-manifest"],"data":"e30=","new":{"a":[1]}}"#,
        )
        .unwrap();
        assert_eq!(descriptor.media_type, Some(MediaType::OCI_MANIFEST));
        assert_eq!(descriptor.size, 7682);
        assert_eq!(descriptor.urls, ["https://example.com/example-manifest"]);
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(with_size("0").unwrap().size, 0);
        assert_eq!(with_size("9223372036854775807").unwrap().size, CONTENT_SIZE_MAX);
        for size in
            ["-1", "9223372036854775808", "18446744073709551616", "1e3", "1.0", "\"1\"", "null"]
        {
            assert!(with_size(size).is_err(), "{size}");
        }
    }

    #[test]
    fn odd_types_and_platforms_are_tolerated() {
        let digest = Digest::sha256(b"");
        for extra in [
            String::new(),
            r#","mediaType":"","platform":{"os":"","architecture":""}"#.to_owned(),
            r#","mediaType":null,"urls":null,"annotations":null,"platform":null"#.to_owned(),
            r#","mediaType":"a b","artifactType":"","platform":{}"#.to_owned(),
        ] {
            let json = format!(r#"{{"digest":"{digest}","size":1{extra}}}"#);
            let descriptor = parse(&json).unwrap();
            assert_eq!(descriptor.media_type, None);
            assert_eq!(descriptor.platform, None);
            assert_eq!(serde_json::to_string(&descriptor).unwrap(), {
                format!(r#"{{"digest":"{digest}","size":1}}"#)
            });
        }
    }

    #[test]
    fn hostile_objects_are_refused() {
        let digest = Digest::sha256(b"");
        let urls = serde_json::to_string(&vec![""; URLS_MAX + 1]).unwrap();
        for extra in [
            format!(r#","digest":"{digest}""#),
            r#","Size":2"#.to_owned(),
            r#","\u017fize":2"#.to_owned(),
            format!(r#","urls":{urls}"#),
            r#","annotations":{"a":"1","a":"2"}"#.to_owned(),
            r#","mediaType":7"#.to_owned(),
        ] {
            let json = format!(r#"{{"digest":"{digest}","size":1{extra}}}"#);
            assert!(parse(&json).is_err(), "{json}");
        }
        assert!(parse(r#"{"size":1}"#).is_err());
        assert!(parse(r#"{"size":1,"digest":"sha384:00"}"#).is_err());
    }

    proptest! {
        #[test]
        fn json_parses_back(descriptor in any_descriptor()) {
            let json = serde_json::to_string(&descriptor).unwrap();
            prop_assert_eq!(parse(&json).unwrap(), descriptor);
        }
    }
}
