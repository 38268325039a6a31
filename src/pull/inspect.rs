//! What is here of an image: for operators who want to know, not for answers to clients.

use std::collections::{HashMap, HashSet};

use super::error::PullError;
use super::flight::{FillStatus, FlightKey};
use super::{Puller, Site};
use crate::oci::{Digest, Manifest, ManifestKind, Tag};
use crate::scope::{Scope, UpstreamName};
use crate::store::{LinkKind, TagRecord};
use crate::upstream::{EndpointStatus, RateLimit, Upstream};

/// How many platforms of an image are looked at; indexes come from strangers.
pub const PLATFORMS_SHOWN_MAX: usize = 64;

/// How many blobs are looked for, for one image.
const BLOBS_LOOKED_FOR_MAX: usize = 4096;

/// What an operator sees of an upstream.
#[derive(Clone, Debug)]
pub struct UpstreamStatus {
    /// What clients call it.
    pub name: UpstreamName,
    /// How its endpoints are doing.
    pub endpoints: Vec<EndpointStatus>,
    /// What it last said about our allowance.
    pub rate_limit: Option<RateLimit>,
    /// Whether Pierhead logs in there.
    pub has_credentials: bool,
}

/// Whether a manifest is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is stored, and its repository is known to have it.
    Stored,
    /// Its bytes are stored, but upstream has not shown that this repository has it.
    Unproven,
    /// It is not here.
    Missing,
}

impl Presence {
    /// Its name in answers to operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Unproven => "unproven",
            Self::Missing => "missing",
        }
    }
}

/// Some blobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub blobs: u64,
    /// Their bytes, as far as the manifest says.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: Option<u64>) {
        self.blobs += 1;
        self.bytes = self.bytes.saturating_add(bytes.unwrap_or_default());
    }
}

/// What is here of an image for one platform.
#[derive(Clone, Debug)]
pub struct PlatformState {
    /// Which platform, where the index says.
    pub platform: Option<String>,
    /// Its manifest.
    pub digest: Digest,
    /// Whether that is here.
    pub manifest: Presence,
    /// Blobs that are stored and may be read through this repository.
    pub stored: Tally,
    /// Blobs that are stored, but of which upstream has to show first that the repository has them.
    pub unproven: Tally,
    /// Blobs that are being fetched.
    pub growing: Tally,
    /// Blobs that are not here.
    pub missing: Tally,
    /// Blobs under whose digest wrong content came a short while ago.
    pub condemned: Vec<Digest>,
}

impl PlatformState {
    /// Whether everything that a pull for this platform needs is here.
    pub fn is_complete(&self) -> bool {
        let rest = self.unproven.blobs + self.growing.blobs + self.missing.blobs;
        self.manifest == Presence::Stored && rest == 0
    }
}

/// What is here of an image.
#[derive(Clone, Debug)]
pub struct ImageState {
    /// Its manifest or index.
    pub digest: Digest,
    /// Whether that is here.
    pub manifest: Presence,
    /// Its media type, if it is here.
    pub media_type: Option<String>,
    /// What is here for each platform; one without a name for an image that is no index.
    pub platforms: Vec<PlatformState>,
}

impl ImageState {
    /// Whether a pull for at least one platform needs nothing from upstream.
    pub fn is_complete(&self) -> bool {
        self.manifest == Presence::Stored && self.platforms.iter().any(PlatformState::is_complete)
    }
}

impl Puller {
    /// The fills that run, the oldest first.
    pub fn fills(&self) -> Vec<FillStatus> {
        self.flights.list()
    }

    /// Every upstream, by name.
    pub fn upstreams_by_name(&self) -> HashMap<UpstreamName, Upstream> {
        let pair = |(name, site): (&UpstreamName, &Site)| (name.clone(), site.upstream.clone());
        self.sites.iter().map(pair).collect()
    }

    /// How the upstreams are doing, by name.
    pub fn upstreams(&self) -> Vec<UpstreamStatus> {
        let mut list: Vec<_> = self
            .sites
            .values()
            .map(|site| UpstreamStatus {
                name: site.upstream.name().clone(),
                endpoints: site.upstream.status(),
                rate_limit: site.upstream.rate_limit(),
                has_credentials: site.has_credentials,
            })
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// At most `limit` tags that are known here with what they meant last, ordered by upstream,
    /// repository and tag, from the first after `after` on. Fewer than `limit` are the last.
    ///
    /// # Errors
    /// When the metadata store fails.
    pub async fn known_images(
        &self,
        after: Option<(&Scope, &str)>,
        limit: u32,
    ) -> Result<Vec<(Scope, Tag, TagRecord)>, PullError> {
        self.meta.list_tags(after, limit).await.map_err(PullError::Store)
    }

    /// What the tag was last confirmed to mean, if it was ever pulled.
    pub async fn known_meaning(&self, scope: &Scope, tag: &Tag) -> Option<TagRecord> {
        self.latest(scope, tag).await.map(|record| TagRecord::clone(&record))
    }

    /// What is here of the image `digest` of `scope`. Upstream is not asked.
    pub async fn inspect(&self, scope: &Scope, digest: &Digest) -> ImageState {
        let mut state = ImageState {
            digest: *digest,
            manifest: self.presence(scope, digest).await,
            media_type: None,
            platforms: Vec::new(),
        };
        let mut left = BLOBS_LOOKED_FOR_MAX;
        let Some(manifest) = self.readable(scope, digest).await else { return state };
        state.media_type = Some(manifest.media_type().as_str().to_owned());
        if manifest.kind() != ManifestKind::Index {
            let platform = self.platform(scope, digest, None, &mut left).await;
            state.platforms.push(platform);
            return state;
        }
        let mut seen = HashSet::new();
        for child in manifest.children() {
            let name = child.platform.as_ref().map(ToString::to_string);
            // Attestations are no platform that anybody pulls.
            let is_attestation = child.platform.as_ref().is_some_and(|p| p.os() == "unknown");
            if is_attestation || !seen.insert(child.digest) {
                continue;
            }
            if state.platforms.len() == PLATFORMS_SHOWN_MAX {
                break;
            }
            let platform = self.platform(scope, &child.digest, name, &mut left).await;
            state.platforms.push(platform);
        }
        state
    }

    async fn platform(
        &self,
        scope: &Scope,
        digest: &Digest,
        name: Option<String>,
        left: &mut usize,
    ) -> PlatformState {
        let mut state = PlatformState {
            platform: name,
            digest: *digest,
            manifest: self.presence(scope, digest).await,
            stored: Tally::default(),
            unproven: Tally::default(),
            growing: Tally::default(),
            missing: Tally::default(),
            condemned: Vec::new(),
        };
        let Some(manifest) = self.readable(scope, digest).await else { return state };
        for blob in manifest.blobs().filter(|blob| !blob.foreign) {
            if *left == 0 {
                state.missing.add(blob.size);
                continue;
            }
            *left -= 1;
            if self.condemned.is_condemned(&blob.digest) {
                state.condemned.push(blob.digest);
            }
            let link = self.links.get(scope, &blob.digest).await;
            let proven = link.is_some_and(|link| link.is_proven());
            let tally = match self.blobs.contains(&blob.digest).await {
                Ok(true) if proven => &mut state.stored,
                Ok(true) => &mut state.unproven,
                _ if self.flights.get(&FlightKey::new(scope, &blob.digest)).is_some() => {
                    &mut state.growing
                }
                _ => &mut state.missing,
            };
            tally.add(blob.size);
        }
        state
    }

    async fn presence(&self, scope: &Scope, digest: &Digest) -> Presence {
        let stored = self.hot.bytes(digest).is_some()
            || matches!(self.blobs.contains(digest).await, Ok(true));
        let link = self.links.get(scope, digest).await;
        match (stored, link.is_some_and(|link| link.kind == LinkKind::Manifest)) {
            (true, true) => Presence::Stored,
            (true, false) => Presence::Unproven,
            (false, _) => Presence::Missing,
        }
    }

    /// The manifest, if it is here and `scope` has it.
    pub(super) async fn readable(&self, scope: &Scope, digest: &Digest) -> Option<Manifest> {
        // Everything may come from memory, and then nothing else would give way to others.
        tokio::task::yield_now().await;
        let kept = self.kept(scope, digest).await?;
        Manifest::parse(&kept.bytes, Some(&kept.media_type)).ok()
    }
}
