//! What is in the cache.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::error::{ErrorBody, Problem};
use super::extract::Params;
use super::name::{self, ImageQuery};
use super::time::rfc3339;
use super::{ApiParts, Shared};
use crate::clock::Timestamp;
use crate::oci::{Digest, RepoName};
use crate::pull::inspect::{ImageState as Found, PlatformState, Tally as Counted};
use crate::scope::{Scope, UpstreamName};

/// How many images a page has, unless another number is asked for.
const PAGE_DEFAULT: u32 = 100;

/// The most images on a page.
const PAGE_MAX: u32 = 1_000;

/// A page of the cache's contents.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    /// Tags that were pulled through here, by upstream, repository and tag.
    pub images: Vec<Image>,
    /// What to ask for as `after` to see the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A tag that was pulled through here.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// The image: upstream, repository and tag.
    #[schema(examples("docker.io/library/debian:bookworm"))]
    pub image: String,
    /// The upstream.
    pub upstream: String,
    /// The repository there.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// What the tag was last confirmed to mean.
    pub digest: String,
    /// When that was.
    pub confirmed_at: String,
    /// When it was last pulled, as far as that is known.
    pub last_used: Option<String>,
    /// Whether a pull for at least one platform needs nothing from upstream.
    pub complete: bool,
}

/// What is here of one image.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageDetail {
    /// The image: upstream, repository and tag or digest.
    pub image: String,
    /// What the tag was last confirmed to mean, or the digest that was asked for.
    pub digest: String,
    /// When the tag was last confirmed.
    pub confirmed_at: Option<String>,
    /// When it was last pulled, as far as that is known.
    pub last_used: Option<String>,
    /// What is here of it.
    pub content: ImageContent,
}

/// What is here of the content of an image.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImageContent {
    /// The manifest or index.
    pub digest: String,
    /// Whether that is here: `stored`, `unproven` (the bytes are, but upstream has not shown that
    /// this repository has them) or `missing`.
    pub manifest: String,
    /// Its media type, if it is here.
    pub media_type: Option<String>,
    /// Whether a pull for at least one platform needs nothing from upstream.
    pub complete: bool,
    /// What is here for each platform; one without a name for an image that is no index.
    pub platforms: Vec<ImagePlatform>,
}

/// What is here of an image for one platform.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImagePlatform {
    /// The platform, where the index says.
    #[schema(examples("linux/arm64/v8"))]
    pub platform: Option<String>,
    /// Its manifest.
    pub digest: String,
    /// Whether the manifest is here: `stored`, `unproven` or `missing`.
    pub manifest: String,
    /// Whether everything that a pull for this platform needs is here.
    pub complete: bool,
    /// Blobs that are here.
    pub stored: Tally,
    /// Blobs that are here, but of which upstream has to show first that the repository has them.
    pub unproven: Tally,
    /// Blobs that are being fetched.
    pub growing: Tally,
    /// Blobs that are not here.
    pub missing: Tally,
    /// Blobs under whose digest wrong content came a short while ago.
    pub condemned: Vec<String>,
}

/// Some blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tally {
    /// How many.
    pub blobs: u64,
    /// Their bytes, as far as the manifest says.
    pub bytes: u64,
}

/// Which page.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// The `next` of the page before.
    after: Option<String>,
    /// How many images, at most 1000.
    limit: Option<u32>,
}

/// The tags that were pulled through here, and whether they are complete.
#[utoipa::path(
    get,
    path = "/images",
    params(Page),
    responses((status = 200, body = ImageList), (status = 400, body = ErrorBody))
)]
pub(super) async fn list_images(
    State(parts): Shared,
    Params(page): Params<Page>,
) -> Result<Json<ImageList>, Problem> {
    let limit = page.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let after = page.after.as_deref().map(cursor).transpose()?;
    let after = after.as_ref().map(|(scope, tag)| (scope, tag.as_str()));
    let known = parts.puller.known_images(after, limit).await?;
    let full = known.len() == limit as usize;
    let mut images = Vec::with_capacity(known.len());
    for (scope, tag, record) in known {
        images.push(Image {
            image: format!("{scope}:{tag}"),
            upstream: scope.upstream.to_string(),
            repository: scope.repo.to_string(),
            tag: tag.to_string(),
            digest: record.digest.to_string(),
            confirmed_at: rfc3339(record.confirmed_at),
            last_used: parts.keeper.last_used(&record.digest).map(rfc3339),
            complete: parts.puller.inspect(&scope, &record.digest).await.is_complete(),
        });
    }
    let next = images.last().filter(|_| full).map(|image| image.image.clone());
    Ok(Json(ImageList { images, next }))
}

/// What is here of one image: its manifests, platforms and blobs. Upstream is not asked.
#[utoipa::path(
    get,
    path = "/image",
    params(ImageQuery),
    responses(
        (status = 200, body = ImageDetail),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody)
    )
)]
pub(super) async fn get_image(
    State(parts): Shared,
    Params(query): Params<ImageQuery>,
) -> Result<Json<ImageDetail>, Problem> {
    let (scope, reference) = name::pulled(&parts, &query)?;
    let (digest, confirmed_at) = meaning(&parts, &scope, &reference).await?;
    let content = parts.puller.inspect(&scope, &digest).await;
    Ok(Json(ImageDetail {
        image: name::shown(&scope, &reference),
        digest: digest.to_string(),
        confirmed_at: confirmed_at.map(rfc3339),
        last_used: parts.keeper.last_used(&digest).map(rfc3339),
        content: content.into(),
    }))
}

async fn meaning(
    parts: &ApiParts,
    scope: &Scope,
    reference: &crate::oci::Reference,
) -> Result<(Digest, Option<Timestamp>), Problem> {
    let tag = match reference {
        crate::oci::Reference::Digest(digest) => return Ok((*digest, None)),
        crate::oci::Reference::Tag(tag) => tag,
    };
    match parts.puller.known_meaning(scope, tag).await {
        Some(record) => Ok((record.digest, Some(record.confirmed_at))),
        None => Err(Problem::not_found(format!("{scope}:{tag} was never pulled through here"))
            .help("`pierhead explain` tells what a pull of it would be")),
    }
}

/// Reads `UPSTREAM/REPOSITORY:TAG`.
fn cursor(text: &str) -> Result<(Scope, String), Problem> {
    let read = || {
        let (upstream, rest) = text.split_once('/')?;
        let (repo, tag) = rest.rsplit_once(':')?;
        let upstream: UpstreamName = upstream.parse().ok()?;
        let repo: RepoName = repo.parse().ok()?;
        Some((Scope { upstream, repo }, tag.to_owned()))
    };
    read().ok_or_else(|| Problem::bad_request("`after` is the `next` of another page"))
}

impl From<Found> for ImageContent {
    fn from(found: Found) -> Self {
        Self {
            digest: found.digest.to_string(),
            manifest: found.manifest.as_str().to_owned(),
            complete: found.is_complete(),
            media_type: found.media_type,
            platforms: found.platforms.into_iter().map(ImagePlatform::from).collect(),
        }
    }
}

impl From<PlatformState> for ImagePlatform {
    fn from(found: PlatformState) -> Self {
        Self {
            complete: found.is_complete(),
            platform: found.platform,
            digest: found.digest.to_string(),
            manifest: found.manifest.as_str().to_owned(),
            stored: found.stored.into(),
            unproven: found.unproven.into(),
            growing: found.growing.into(),
            missing: found.missing.into(),
            condemned: found.condemned.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<Counted> for Tally {
    fn from(counted: Counted) -> Self {
        Self { blobs: counted.blobs, bytes: counted.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_an_image_of_the_list() {
        for text in ["docker.io/library/a:v1", "localhost:5000/a/b/c:x-y"] {
            let (scope, tag) = cursor(text).unwrap();
            assert_eq!(format!("{scope}:{tag}"), text);
        }
        for text in ["", "a", "docker.io/library/a", "docker.io/A:v1", "/a:b"] {
            assert!(cursor(text).is_err(), "{text}");
        }
    }
}
