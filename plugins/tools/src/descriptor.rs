//! What a descriptor of a manifest says that the manifest says of itself.

use pierhead_plugin_host::wit::Descriptor;
use serde::Deserialize;
use serde_json::Value;

/// The two fields; the others are passed over.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Stated {
    artifact_type: Value,
    annotations: Value,
}

/// The descriptor of the manifest `raw`, as policies are shown it: when they are asked in `serve`,
/// and in their tests. What is of another type than it should be is left out.
#[must_use]
pub fn of_manifest(raw: &[u8], media_type: String, digest: String) -> Descriptor {
    let stated: Stated = serde_json::from_slice(raw).unwrap_or_default();
    let annotation = |(name, value): (String, Value)| match value {
        Value::String(value) => Some((name, value)),
        _ => None,
    };
    Descriptor {
        media_type,
        digest,
        size: raw.len() as u64,
        artifact_type: match stated.artifact_type {
            Value::String(artifact_type) => Some(artifact_type),
            _ => None,
        },
        // An index says it of its images, and no manifest of itself.
        platform: None,
        annotations: match stated.annotations {
            Value::Object(all) => all.into_iter().filter_map(annotation).collect(),
            _ => Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(raw: &str) -> Descriptor {
        of_manifest(raw.as_bytes(), "m".to_owned(), "d".to_owned())
    }

    #[test]
    fn what_a_manifest_says_of_itself_is_in_its_descriptor() {
        let said =
            of(r#"{"artifactType": "a/b", "annotations": {"x": "y", "n": 1}, "layers": []}"#);
        assert_eq!(said.artifact_type.as_deref(), Some("a/b"));
        assert_eq!(said.annotations, [("x".to_owned(), "y".to_owned())]);
        for nothing in ["", "[]", r#"{"artifactType": null, "annotations": null}"#] {
            let said = of(nothing);
            assert_eq!((said.artifact_type, said.annotations.len()), (None, 0), "{nothing}");
        }
    }
}
