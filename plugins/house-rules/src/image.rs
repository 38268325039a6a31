//! What rules want to know of an image: read from its manifest and its configuration.

use pierhead_plugin::units::rfc3339;
use pierhead_plugin::{Failure, Manifest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The annotation that says when an image was made.
const CREATED: &str = "org.opencontainers.image.created";

/// Media types of indexes: OCI's and Docker's.
const INDEXES: &[&str] = &[
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// What the media types of layers begin with that clients unpack: OCI's and Docker's, whatever
/// their compression, and those that are not distributed.
const LAYERS: &[&str] = &["application/vnd.oci.image.", "application/vnd.docker."];

/// Media types of an image's configuration: OCI's and Docker's.
const CONFIGS: &[&str] =
    &["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// Media types that old images have for their configuration and their layers: Docker still takes
/// them for what they are meant to be (moby's `distribution/registry.go`).
const IMPLIED: &[&str] = &["application/octet-stream", "application/json", "text/html", ""];

/// What the media types of Docker's first manifests begin with.
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";

/// An image, or an index of images.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// When it was made, in milliseconds since 1970, if it says so.
    pub(crate) created: Option<u64>,
    /// The bytes of all layers, as they are pulled; none for an index, and if it does not say.
    pub(crate) bytes: Option<u64>,
    /// What it runs on: `linux/arm64/v8`. Of an index, what its images run on. None if it does
    /// not say.
    pub(crate) platforms: Option<Vec<String>>,
    /// Whether it is an index.
    pub(crate) index: bool,
    /// Whether it has a configuration that could not be had.
    pub(crate) config_missing: bool,
}

/// What is of another type than it should be counts as not said, as `null` does: clients that
/// write in Go take `null` for empty, and a manifest that no client takes needs no rule.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Stated {
    #[serde(deserialize_with = "or_nothing")]
    media_type: String,
    #[serde(deserialize_with = "or_nothing")]
    config: Option<Part>,
    #[serde(deserialize_with = "each")]
    layers: Vec<Part>,
    #[serde(deserialize_with = "or_nothing")]
    fs_layers: Vec<Value>,
    #[serde(deserialize_with = "each")]
    manifests: Vec<Part>,
    annotations: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Part {
    #[serde(deserialize_with = "or_nothing")]
    media_type: String,
    #[serde(deserialize_with = "or_nothing")]
    size: u64,
    #[serde(deserialize_with = "or_nothing")]
    platform: Option<Platform>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Platform {
    #[serde(deserialize_with = "or_nothing")]
    os: String,
    #[serde(deserialize_with = "or_nothing")]
    architecture: String,
    #[serde(deserialize_with = "or_nothing")]
    variant: Option<String>,
}

/// The value, or its type's own nothing if it is of another type.
fn or_nothing<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(
    value: D,
) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(value)?).unwrap_or_default())
}

/// Each element of a list, so that one of another type does not hide the others.
fn each<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<Part>, D::Error> {
    let parts: Vec<Value> = or_nothing(value)?;
    Ok(parts.into_iter().map(|part| serde_json::from_value(part).unwrap_or_default()).collect())
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
    #[serde(default, deserialize_with = "or_nothing")]
    created: Option<String>,
    #[serde(flatten)]
    platform: Platform,
}

/// A media type as clients compare it: without parameters, in lower case.
fn bare(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

impl Part {
    fn is_one_of(&self, known: &[&str]) -> bool {
        known.contains(&bare(&self.media_type).as_str())
    }

    fn is_unpacked(&self) -> bool {
        let media_type = bare(&self.media_type);
        LAYERS.iter().any(|known| media_type.starts_with(known))
    }
}

impl Stated {
    /// Whether there is a client that runs what is stated here. What the author calls it
    /// (`artifactType`) does not count: clients unpack it all the same.
    fn is_image(&self) -> bool {
        let config = |known| self.config.as_ref().is_some_and(|config| config.is_one_of(known));
        config(CONFIGS)
            || self.layers.iter().any(Part::is_unpacked)
            || (config(IMPLIED) && self.layers.iter().any(|layer| layer.is_one_of(IMPLIED)))
    }
}

impl Image {
    /// Reads a manifest. None if it is not that of an image.
    pub(crate) fn read(manifest: &Manifest) -> Result<Option<Self>, Failure> {
        let makes_no_sense = |error: serde_json::Error| {
            Failure::input(format!("the manifest makes no sense: {error}"))
        };
        // By way of a value, in which a key that is there twice has its last value: so do clients.
        let stated: Value = serde_json::from_slice(&manifest.raw).map_err(makes_no_sense)?;
        let stated: Stated = serde_json::from_value(stated).map_err(makes_no_sense)?;
        // It is served as the one, and may say the other of itself.
        let served = bare(&manifest.descriptor.media_type);
        let own = bare(&stated.media_type);
        let annotated = stated.annotations.get(CREATED).and_then(Value::as_str).and_then(rfc3339);
        if [&served, &own].iter().any(|named| INDEXES.contains(&named.as_str())) {
            let platforms = stated.manifests.iter().filter_map(|part| part.platform.as_ref());
            let platforms = platforms.map(Platform::name).collect();
            return Ok(Some(Self {
                created: annotated,
                bytes: None,
                platforms: Some(platforms),
                index: true,
                config_missing: false,
            }));
        }
        if !stated.fs_layers.is_empty() || [&served, &own].iter().any(|n| n.starts_with(SCHEMA1)) {
            // Its author's word for all of this lies in texts within texts, and is not looked for.
            return Ok(Some(Self {
                created: None,
                bytes: None,
                platforms: None,
                index: false,
                config_missing: false,
            }));
        }
        if !stated.is_image() {
            return Ok(None);
        }
        let config = manifest.config.as_deref();
        let config_missing = config.is_none();
        let config: Option<Config> = config.and_then(|bytes| serde_json::from_slice(bytes).ok());
        let created = config.as_ref().and_then(|config| rfc3339(config.created.as_deref()?));
        let platform = config.map(|config| config.platform).filter(|named| !named.os.is_empty());
        Ok(Some(Self {
            created: created.or(annotated),
            bytes: Some(stated.layers.iter().fold(0, |sum, layer| layer.size.saturating_add(sum))),
            platforms: platform.map(|platform| vec![platform.name()]),
            index: false,
            config_missing,
        }))
    }

    /// What is said of an image that keeps something to itself: `what` as in "how old it is".
    pub(crate) fn silence(&self, name: &str, what: &str) -> String {
        if self.config_missing {
            format!("{name} has a configuration that could not be read, so nobody knows {what}")
        } else {
            format!("{name} does not say {what}")
        }
    }
}
