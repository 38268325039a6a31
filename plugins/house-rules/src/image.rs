//! What rules want to know of an image: read from its manifest and its configuration.

use pierhead_plugin::units::rfc3339;
use pierhead_plugin::{Failure, Manifest};
use serde::Deserialize;
use serde_json::Value;

/// The annotation that says when an image was made.
const CREATED: &str = "org.opencontainers.image.created";

/// Media types of indexes: OCI's and Docker's.
const INDEXES: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// What the media types of an image's layers begin with: OCI's and Docker's.
const LAYERS: &[&str] =
    &["application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs."];

/// Media types of an image's configuration: OCI's and Docker's.
const CONFIGS: &[&str] =
    &["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// An image, or an index of images.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// When it was made, in milliseconds since 1970, if it says so.
    pub(crate) created: Option<u64>,
    /// The bytes of all layers, as they are pulled; none for an index.
    pub(crate) bytes: Option<u64>,
    /// What it runs on: `linux/arm64/v8`. Of an index, what its images run on. None if it does
    /// not say.
    pub(crate) platforms: Option<Vec<String>>,
    /// Whether it is an index.
    pub(crate) index: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stated {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    config: Option<Part>,
    #[serde(default)]
    layers: Vec<Part>,
    #[serde(default)]
    manifests: Vec<Part>,
    #[serde(default)]
    annotations: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl Platform {
    fn name(&self) -> String {
        let variant = self.variant.iter().filter(|variant| !variant.is_empty());
        variant.fold(format!("{}/{}", self.os, self.architecture), |name, variant| {
            format!("{name}/{variant}")
        })
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    created: Option<String>,
    #[serde(flatten)]
    platform: Platform,
}

fn one_of(media_type: &str, known: &[&str]) -> bool {
    known.contains(&media_type)
}

impl Image {
    /// Reads a manifest. None if it is not that of an image.
    pub(crate) fn read(manifest: &Manifest) -> Result<Option<Self>, Failure> {
        let stated: Stated = serde_json::from_slice(&manifest.raw)
            .map_err(|error| Failure::input(format!("the manifest makes no sense: {error}")))?;
        let media_type = stated.media_type.as_deref().unwrap_or(&manifest.descriptor.media_type);
        let annotated = stated.annotations.as_ref().and_then(|all| all.get(CREATED)?.as_str());
        let annotated = annotated.and_then(rfc3339);
        if one_of(media_type, INDEXES) {
            let platforms = stated.manifests.iter().filter_map(|part| part.platform.as_ref());
            let platforms = platforms.map(Platform::name).collect();
            return Ok(Some(Self {
                created: annotated,
                bytes: None,
                platforms: Some(platforms),
                index: true,
            }));
        }
        let layered = |layer: &Part| LAYERS.iter().any(|known| layer.media_type.starts_with(known));
        let image =
            stated.config.as_ref().is_some_and(|config| one_of(&config.media_type, CONFIGS))
                && stated.artifact_type.is_none()
                && (stated.layers.is_empty() || stated.layers.iter().any(layered));
        if !image {
            return Ok(None);
        }
        let config = manifest.config.as_deref();
        let config: Option<Config> = config.and_then(|bytes| serde_json::from_slice(bytes).ok());
        let created = config.as_ref().and_then(|config| rfc3339(config.created.as_deref()?));
        let platform = config.map(|config| config.platform).filter(|named| !named.os.is_empty());
        Ok(Some(Self {
            created: created.or(annotated),
            bytes: Some(stated.layers.iter().fold(0, |sum, layer| layer.size.saturating_add(sum))),
            platforms: platform.map(|platform| vec![platform.name()]),
            index: false,
        }))
    }
}
