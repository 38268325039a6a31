//! Images out of the cache and into it, as OCI layouts in tar streams.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, BodyDataStream};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use futures_util::future::join;
use futures_util::stream::unfold;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio::sync::mpsc;

use super::Shared;
use super::error::{ErrorBody, Problem};
use super::extract::Params;
use super::name::DEFAULT_TAG;
use crate::background::Tasks;
use crate::oci::{Platform, Reference, Tag};
use crate::pull::image::ImageName;
use crate::pull::naming::{Naming, Place};
use crate::scope::UpstreamName;
use crate::transfer::{
    ExportReport, Exporting, Holdings, ImageRef, ImportReport, Importing, PIECES_WAITING_MAX,
    TransferError, export, import,
};

/// How much of a refused archive is still taken, in bytes, so that the client reads the answer
/// before it notices that nobody listens.
const REFUSED_BYTES_MAX: usize = 16 << 20;

/// What the routes here need.
#[derive(Clone, Debug)]
pub struct Transfers {
    /// What is there.
    pub holdings: Holdings,
    /// The upstreams that are configured.
    pub upstreams: Vec<UpstreamName>,
    /// The largest blob, in bytes.
    pub blob_bytes_max: u64,
    /// Who runs exports.
    pub tasks: Tasks,
}

/// The image that a name means, in a Pierhead that listens on `own`; without tag, `latest`.
///
/// # Errors
/// What is wrong with the name, in words.
pub fn image_ref(naming: &Naming, own: SocketAddr, text: &str) -> Result<ImageRef, String> {
    let name: ImageName = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
    let placement = name.placement(naming, None, own).map_err(|error| error.to_string())?;
    let scope = match placement.place {
        Place::Upstream(scope) => scope,
        Place::Hosted(repo) => return Err(format!("{repo} is hosted here, and not cached")),
    };
    let reference = match name.reference() {
        Some(reference) => reference.clone(),
        None => {
            let tag: Tag = DEFAULT_TAG.parse().map_err(|error| format!("{text:?}: {error}"))?;
            Reference::Tag(tag)
        }
    };
    Ok(ImageRef { scope, reference })
}

/// Exports images as an OCI image layout.
///
/// Exactly what was pulled: of an image with several platforms those that are here. The archive's
/// last file, `pierhead.json`, says what is in it and what is not; an archive without that file is
/// not whole.
#[utoipa::path(
    get,
    path = "/export",
    params(
        ("image" = Option<Vec<String>>, Query, description = "An image; may stand several times. \
            Without any, everything is exported"),
        ("platform" = Option<Vec<String>>, Query, description = "Only this platform (os/architecture) \
            of images that have several; may stand several times"),
    ),
    responses(
        (status = 200, description = "A tar stream", body = Vec<u8>, content_type = "application/x-tar"),
        (status = 400, body = ErrorBody),
    )
)]
pub(super) async fn export_images(
    State(parts): Shared,
    Params(query): Params<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let transfers = &parts.transfers;
    let mut exporting = Exporting::default();
    for (key, value) in &query {
        match key.as_str() {
            "image" => exporting.images.push(
                image_ref(&parts.naming, parts.process.registry, value)
                    .map_err(Problem::bad_request)?,
            ),
            "platform" => {
                exporting.platforms.push(value.parse::<Platform>().map_err(Problem::bad_request)?)
            }
            _ => return Err(Problem::bad_request(format!("there is no parameter {key:?} here"))),
        }
    }
    let (out, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let holdings = transfers.holdings.clone();
    transfers.tasks.spawn_answering("export", async move {
        match export(holdings, exporting, out).await {
            Ok(ExportReport { images, failed, bytes, .. }) => {
                tracing::info!(images = images.len(), failed = failed.len(), bytes, "exported");
            }
            // The client sees that the stream is cut off.
            Err(error) => tracing::warn!(%error, "an export ended early"),
        }
    });
    let stream =
        unfold(pieces, async |mut pieces| pieces.recv().await.map(|piece| (piece, pieces)));
    Ok(([(CONTENT_TYPE, "application/x-tar")], Body::from_stream(stream)).into_response())
}

/// Imports images from an OCI image layout.
///
/// Every blob is verified. Links and tags are recorded when the archive has ended, so an import
/// that breaks off changes nothing that clients see, and one that is repeated changes nothing.
#[utoipa::path(
    post,
    path = "/import",
    params(("as" = Option<String>, Query, description = "What to call the only image of the layout")),
    request_body(content = Vec<u8>, content_type = "application/x-tar", description = "A tar stream"),
    responses(
        (status = 200, description = "What was taken in, and what was not", body = serde_json::Value),
        (status = 400, body = ErrorBody),
        (status = 422, description = "The archive is no layout, or ends early", body = ErrorBody),
        (status = 503, description = "The storage failed", body = ErrorBody),
    )
)]
pub(super) async fn import_images(
    State(parts): Shared,
    Params(query): Params<Vec<(String, String)>>,
    body: Body,
) -> Result<Json<ImportReport>, Problem> {
    let transfers = &parts.transfers;
    let own = parts.process.registry;
    let mut rename = None;
    for (key, value) in &query {
        if key != "as" {
            return Err(Problem::bad_request(format!("there is no parameter {key:?} here")));
        }
        let image = image_ref(&parts.naming, own, value).map_err(Problem::bad_request)?;
        rename = Some(image);
    }
    let (out, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let naming = Arc::clone(&parts.naming);
    let importing = Importing {
        rename,
        upstreams: transfers.upstreams.clone(),
        place: Arc::new(move |name| image_ref(&naming, own, name)),
        blob_bytes_max: transfers.blob_bytes_max,
    };
    let taking = take(body.into_data_stream(), out);
    let ((), report) = join(taking, import(transfers.holdings.clone(), importing, pieces)).await;
    let report = report?;
    tracing::info!(
        images = report.images.len(),
        failed = report.failed.len(),
        bytes = report.bytes,
        "imported"
    );
    Ok(Json(report))
}

/// Hands on what the client sends. Dropping it tells the import that there is no more.
async fn take(mut body: BodyDataStream, out: mpsc::Sender<io::Result<bytes::Bytes>>) {
    let mut refused = 0;
    while let Some(piece) = body.next().await {
        let len = piece.as_ref().map_or(0, bytes::Bytes::len);
        let failed = piece.is_err();
        if out.send(piece.map_err(io::Error::other)).await.is_err() {
            refused += len;
        }
        if failed || refused > REFUSED_BYTES_MAX {
            return;
        }
    }
}

impl From<TransferError> for Problem {
    fn from(error: TransferError) -> Self {
        match error {
            TransferError::Store(error) => error.into(),
            TransferError::Archive(error) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_archive", error)
            }
            other => Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", other),
        }
    }
}
