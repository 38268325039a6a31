//! What the simulated registry holds, and what its tags mean over time.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use pierhead::oci::{Digest, Tag};
use pierhead::scope::Scope;
use pierhead_kit::random::Random;
use serde_json::{Value, json};

use crate::dice::Dice;

/// The type of image manifests.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The type of indexes.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The upstream's name.
pub(crate) const UPSTREAM: &str = "sim.example";

/// Blobs that the images share.
const BLOBS: u64 = 6;
/// Around this size a blob is small enough to be verified before its answer begins, in bytes.
const HOLD_BACK: u64 = 64 * 1024;

/// An image.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The index above it, if there is one.
    pub(crate) index: Option<Digest>,
    /// Its manifest.
    pub(crate) manifest: Digest,
    /// Its configuration and layers.
    pub(crate) blobs: Vec<Digest>,
}

impl Image {
    /// What its tag names.
    pub(crate) fn top(&self) -> Digest {
        self.index.unwrap_or(self.manifest)
    }

    /// Everything that a pull of it needs.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Digest> + '_ {
        self.index.into_iter().chain([self.manifest]).chain(self.blobs.iter().copied())
    }
}

/// A repository: its images, and from when on each tag means which of them (or none).
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(crate) scope: Scope,
    pub(crate) images: Vec<Image>,
    pub(crate) tags: BTreeMap<Tag, Vec<(Duration, Option<usize>)>>,
}

impl Repository {
    /// What the tag means at that time.
    pub(crate) fn meaning(&self, tag: &Tag, at: Duration) -> Option<&Image> {
        let history = self.tags.get(tag)?;
        let (_, image) = history.iter().rev().find(|(from, _)| *from <= at)?;
        image.and_then(|image| self.images.get(image))
    }

    /// Whether the tag meant that at any time until `at`.
    pub(crate) fn ever_meant(&self, tag: &Tag, digest: &Digest, at: Duration) -> bool {
        let history = self.tags.get(tag).into_iter().flatten();
        let mut past = history.filter(|(from, _)| *from <= at).filter_map(|(_, image)| *image);
        past.any(|image| self.images[image].top() == *digest)
    }
}

/// Everything.
#[derive(Clone, Debug)]
pub(crate) struct Catalogue {
    /// Blobs and manifests.
    pub(crate) contents: BTreeMap<Digest, Bytes>,
    pub(crate) repositories: Vec<Repository>,
}

impl Catalogue {
    /// The content of that seed, whose tags move within the first `time`.
    pub(crate) fn draw(seed: u64, time: Duration) -> Self {
        let mut dice = Dice::new(seed, "catalogue");
        let mut contents = BTreeMap::new();
        let mut add = |bytes: Vec<u8>| {
            let digest = Digest::sha256(&bytes);
            contents.insert(digest, Bytes::from(bytes));
            digest
        };
        let mut shared = Vec::new();
        for n in 0..BLOBS {
            let size = match dice.within(0..5) {
                0 => dice.within(1..3_000),
                1 => dice.within(HOLD_BACK - 1..HOLD_BACK + 2),
                2 | 3 => dice.within(HOLD_BACK..400_000),
                _ => dice.within(400_000..1_200_000),
            };
            let len = usize::try_from(size).expect("a small number");
            shared.push((add(Random::new(seed ^ n, size).part(0, len)), size));
        }
        let mut repositories = Vec::new();
        for name in ["app/a", "app/b"] {
            let scope = Scope {
                upstream: UPSTREAM.parse().expect("a name"),
                repo: name.parse().expect("a name"),
            };
            let mut images = Vec::new();
            for n in 0..dice.within(1..4) {
                let config = json!({"architecture": "amd64", "os": "linux", "of": name, "n": n});
                let config = config.to_string().into_bytes();
                let mut parts = vec![(add(config.clone()), config.len() as u64)];
                for _ in 0..dice.within(1..4) {
                    let layer = *dice.pick(&shared);
                    if !parts.contains(&layer) {
                        parts.push(layer);
                    }
                }
                let manifest = manifest(&parts).into_bytes();
                let size = manifest.len();
                let manifest = add(manifest);
                let index = dice.chance(30).then(|| add(index(&manifest, size).into_bytes()));
                let blobs = parts.iter().map(|(digest, _)| *digest).collect();
                images.push(Image { index, manifest, blobs });
            }
            let mut tags = BTreeMap::new();
            for tag in ["latest", "stable"] {
                let count = images.len() as u64;
                let mut history = vec![(Duration::ZERO, Some(0))];
                if tag == "latest" {
                    let span = u64::try_from(time.as_millis()).expect("a short time");
                    let moves = dice.within(0..4);
                    let mut moves: Vec<u64> = (0..moves).map(|_| dice.within(1..span)).collect();
                    moves.sort_unstable();
                    for at in moves {
                        let image = usize::try_from(dice.within(0..count)).expect("an index");
                        // Sometimes the tag is deleted.
                        let image = dice.chance(80).then_some(image);
                        history.push((Duration::from_millis(at), image));
                    }
                }
                tags.insert(tag.parse().expect("a tag"), history);
            }
            repositories.push(Repository { scope, images, tags });
        }
        Self { contents, repositories }
    }

    /// The repository of that name.
    pub(crate) fn repository(&self, name: &str) -> Option<&Repository> {
        self.repositories.iter().find(|repository| repository.scope.repo.as_str() == name)
    }

    /// The content of `digest`, which is from here.
    pub(crate) fn content(&self, digest: &Digest) -> &Bytes {
        &self.contents[digest]
    }
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": size})
}

/// The manifest of a configuration and layers.
fn manifest(parts: &[(Digest, u64)]) -> String {
    let layer = |(digest, size): &(Digest, u64)| {
        descriptor("application/vnd.oci.image.layer.v1.tar+gzip", digest, *size)
    };
    let (config, layers) = parts.split_first().expect("a configuration");
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config.0, config.1),
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    })
    .to_string()
}

fn index(manifest: &Digest, size: usize) -> String {
    let mut child = descriptor(MANIFEST, manifest, size as u64);
    child["platform"] = json!({"os": "linux", "architecture": "amd64"});
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}).to_string()
}
