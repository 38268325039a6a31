//! How full the store is, making room, and images that are to stay.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ErrorBody, Problem};
use super::extract::{Params, Payload};
use super::name::{self, ImageQuery, ImageRequest};
use super::{ApiParts, Shared};
use crate::keep::{PinError, Usage};
use crate::store::{Pin, RoomUse};

/// Where content is kept, and how full that is. Sizes are in bytes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Storage {
    /// The directory, as it was configured.
    pub path: String,
    /// How much is used. Absent while the storage cannot tell.
    pub usage: Option<StorageUsage>,
}

/// How much of the storage is used. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageUsage {
    /// The cap (`storage.max_size`); absent if there is none.
    pub max_bytes: Option<u64>,
    /// Taken by blobs and manifests.
    pub stored_bytes: u64,
    /// Reserved for what is on its way in, and taken by what was removed and is still being read,
    /// by fills that wait to be continued, and by damaged blobs.
    pub reserved_bytes: u64,
    /// The part of the reserved bytes that fills take which wait to be continued.
    pub parked_bytes: u64,
    /// The part of the reserved bytes that damaged blobs take, which are kept for a look at them.
    pub quarantined_bytes: u64,
    /// How many damaged blobs are kept.
    pub quarantined_files: u64,
    /// Taken by everything else, such as the database.
    pub other_bytes: u64,
    /// What may still come in without anything going out.
    pub available_bytes: u64,
    /// Free on the disk.
    pub disk_free_bytes: u64,
    /// What is kept free on the disk (`storage.min_free`).
    pub min_free_bytes: u64,
    /// How many blobs are stored, manifests included.
    pub blobs: u64,
    /// How many of them are manifests.
    pub manifests: u64,
    /// How many images are pinned.
    pub pins: u64,
}

/// What a collection did.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Collected {
    /// Blobs and manifests that were removed.
    pub blobs: u64,
    /// The bytes that are free now.
    pub bytes: u64,
}

/// Images that are to stay.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PinList {
    /// The images in full: upstream, repository and tag or digest. A pinned tag keeps whatever it
    /// means at the time.
    pub pins: Vec<String>,
}

/// Whether an image is pinned.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Pinned {
    /// The image in full.
    pub image: String,
    /// Whether it is pinned now.
    pub pinned: bool,
    /// Whether that is new.
    pub changed: bool,
}

/// How full the store is.
#[utoipa::path(get, path = "/storage", responses((status = 200, body = Storage)))]
pub(super) async fn get_storage(State(parts): Shared) -> Json<Storage> {
    Json(storage(&parts).await)
}

/// Remove what the limits of upstreams forbid, what no repository is known to have, and fills that
/// nobody went on with for a day.
#[utoipa::path(
    post,
    path = "/gc",
    responses((status = 200, body = Collected), (status = 503, body = ErrorBody))
)]
pub(super) async fn collect(State(parts): Shared) -> Result<Json<Collected>, Problem> {
    let collected = parts.keeper.collect().await?;
    Ok(Json(Collected { blobs: collected.blobs, bytes: collected.bytes }))
}

/// The images that are pinned.
#[utoipa::path(get, path = "/pins", responses((status = 200, body = PinList)))]
pub(super) async fn list_pins(State(parts): Shared) -> Result<Json<PinList>, Problem> {
    let pins = parts.keeper.pins().await?;
    let shown = |pin: &Pin| name::shown(&pin.scope, &pin.reference);
    Ok(Json(PinList { pins: pins.iter().map(shown).collect() }))
}

/// Pin an image: it stays, whatever else has to go. It need not be stored yet.
#[utoipa::path(
    put,
    path = "/pins",
    request_body = ImageRequest,
    responses(
        (status = 200, body = Pinned),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody)
    )
)]
pub(super) async fn pin(
    State(parts): Shared,
    Payload(request): Payload<ImageRequest>,
) -> Result<Json<Pinned>, Problem> {
    let query = ImageQuery { image: request.image, ns: None };
    let pin = wanted(&parts, &query)?;
    let changed = parts.keeper.pin(&pin).await?;
    let image = name::shown(&pin.scope, &pin.reference);
    Ok(Json(Pinned { image, pinned: true, changed }))
}

/// Unpin an image: it may go when room is needed.
#[utoipa::path(
    delete,
    path = "/pins",
    params(ImageQuery),
    responses(
        (status = 200, body = Pinned),
        (status = 400, body = ErrorBody),
        (status = 404, body = ErrorBody)
    )
)]
pub(super) async fn unpin(
    State(parts): Shared,
    Params(query): Params<ImageQuery>,
) -> Result<Json<Pinned>, Problem> {
    let pin = wanted(&parts, &query)?;
    let changed = parts.keeper.unpin(&pin).await?;
    let image = name::shown(&pin.scope, &pin.reference);
    Ok(Json(Pinned { image, pinned: false, changed }))
}

fn wanted(parts: &ApiParts, query: &ImageQuery) -> Result<Pin, Problem> {
    let (scope, reference) = name::pulled(parts, query)?;
    Ok(Pin { scope, reference })
}

/// The storage as it is now. One that cannot tell how full it is must not take the status with it.
pub(super) async fn storage(parts: &ApiParts) -> Storage {
    let usage = parts.keeper.usage().await.map(StorageUsage::from);
    let usage = usage.inspect_err(|error| tracing::error!(%error, "how full the storage is"));
    Storage { path: parts.process.storage.display().to_string(), usage: usage.ok() }
}

impl From<Usage> for StorageUsage {
    fn from(usage: Usage) -> Self {
        let room: RoomUse = usage.room;
        Self {
            max_bytes: (room.max != u64::MAX).then_some(room.max),
            stored_bytes: room.stored,
            reserved_bytes: room.reserved,
            parked_bytes: room.parked,
            quarantined_bytes: room.quarantined,
            quarantined_files: room.quarantined_files,
            other_bytes: room.others,
            available_bytes: room.available,
            disk_free_bytes: room.free_on_disk,
            min_free_bytes: room.min_free,
            blobs: usage.blobs as u64,
            manifests: usage.manifests as u64,
            pins: usage.pins as u64,
        }
    }
}

impl From<PinError> for Problem {
    fn from(error: PinError) -> Self {
        match error {
            PinError::TooMany => Self::new(StatusCode::CONFLICT, "too_many_pins", error),
            PinError::Store(error) => error.into(),
        }
    }
}
