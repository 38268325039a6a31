//! Forgetting images, and asking upstream for a tag at once.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::error::{ErrorBody, Problem};
use super::extract::Payload;
use super::name::{self, ImageRequest};
use super::time::rfc3339;
use crate::oci::Reference;
use crate::pull::purge::Purge;

/// What was forgotten.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Purged {
    /// What was named, in full.
    pub image: String,
    /// The tags that are not known any more.
    pub tags: Vec<String>,
    /// Manifests and blobs that the repository is not known to have any more.
    pub links: u64,
    /// Manifests and blobs that were removed from the disk.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Manifests and blobs that stay on the disk because other repositories use them.
    pub shared: u64,
}

/// What a tag meant, and what it means now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Refreshed {
    /// The image in full.
    pub image: String,
    /// What the tag meant before, if it was known.
    pub before: Option<String>,
    /// When that was last confirmed.
    pub confirmed_at: Option<String>,
    /// What upstream says now.
    pub now: String,
    /// Whether it means something else now.
    pub changed: bool,
}

/// Forget a tag, a digest or a whole repository, and remove from the disk what nothing else uses.
/// The next pull fetches it anew.
#[utoipa::path(
    post,
    path = "/purge",
    request_body = ImageRequest,
    responses(
        (status = 200, body = Purged),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody)
    )
)]
pub(super) async fn purge(
    State(parts): Shared,
    Payload(request): Payload<ImageRequest>,
) -> Result<Json<Purged>, Problem> {
    let image = name::parse(&request.image)?;
    let scope = name::upstream(&parts, &image, None)?;
    // Without tag and digest the repository is meant: nothing is assumed where something is removed.
    let (what, shown) = match image.reference() {
        Some(reference @ Reference::Tag(tag)) => {
            (Purge::Tag(tag.clone()), name::shown(&scope, reference))
        }
        Some(reference @ Reference::Digest(digest)) => {
            (Purge::Digest(*digest), name::shown(&scope, reference))
        }
        None => (Purge::Repository, scope.to_string()),
    };
    let purged = parts.puller.purge(&scope, &what).await?;
    Ok(Json(Purged {
        image: shown,
        tags: purged.tags.iter().map(ToString::to_string).collect(),
        links: purged.links,
        blobs: purged.blobs,
        bytes: purged.bytes,
        shared: purged.shared,
    }))
}

/// Ask upstream what a tag means, however fresh the last answer is.
#[utoipa::path(
    post,
    path = "/refresh",
    request_body = ImageRequest,
    responses(
        (status = 200, body = Refreshed),
        (status = 400, body = ErrorBody),
        (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 502, body = ErrorBody),
        (status = 504, body = ErrorBody)
    )
)]
pub(super) async fn refresh(
    State(parts): Shared,
    Payload(request): Payload<ImageRequest>,
) -> Result<Json<Refreshed>, Problem> {
    let image = name::parse(&request.image)?;
    let scope = name::upstream(&parts, &image, None)?;
    let reference = name::reference(&image)?;
    let Reference::Tag(tag) = &reference else {
        return Err(Problem::bad_request("a digest means the same for ever; name a tag"));
    };
    let refreshed = parts.puller.refresh(&scope, tag).await?;
    let before = refreshed.before;
    Ok(Json(Refreshed {
        image: name::shown(&scope, &reference),
        changed: before.as_ref().is_some_and(|before| before.digest != refreshed.digest),
        confirmed_at: before.as_ref().map(|before| rfc3339(before.confirmed_at)),
        before: before.map(|before| before.digest.to_string()),
        now: refreshed.digest.to_string(),
    }))
}
