//! Images in requests: names as people write them, and where they lead.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::ApiParts;
use super::error::Problem;
use crate::oci::{Reference, Tag};
use crate::pull::image::ImageName;
use crate::pull::naming::{Place, Placement};
use crate::scope::Scope;

/// What an image's name means without tag and digest, as for docker.
pub(super) const DEFAULT_TAG: &str = "latest";

/// An image, in a query.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ImageQuery {
    /// The image as a client would write it: `debian`, `ghcr.io/owner/x:1`,
    /// `127.0.0.1:5000/library/debian@sha256:…`. Without tag and digest, `latest` is meant.
    pub(super) image: String,
    /// What containerd would send as `?ns=`.
    pub(super) ns: Option<String>,
}

/// An image, in a body.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageRequest {
    /// The image as a client would write it.
    #[schema(examples("docker.io/library/debian:bookworm"))]
    pub image: String,
}

pub(super) fn parse(image: &str) -> Result<ImageName, Problem> {
    image.parse().map_err(|error| {
        let shown: String = image.chars().take(255).collect();
        Problem::bad_request(format!("{shown:?} names no image: {error}"))
            .help("such as debian, ghcr.io/owner/name:tag or quay.io/owner/name@sha256:…")
    })
}

/// Where the name leads, or why nowhere.
pub(super) fn placement(
    parts: &ApiParts,
    image: &ImageName,
    namespace: Option<&str>,
) -> Result<Placement, Problem> {
    Ok(image.placement(&parts.naming, namespace, parts.process.registry)?)
}

/// The repository of an upstream that the name means.
pub(super) fn upstream(
    parts: &ApiParts,
    image: &ImageName,
    namespace: Option<&str>,
) -> Result<Scope, Problem> {
    match placement(parts, image, namespace)?.place {
        Place::Upstream(scope) => Ok(scope),
        Place::Hosted(name) => Err(hosted(name.as_str())),
    }
}

/// What a client would pull under that name.
pub(super) fn pulled(parts: &ApiParts, query: &ImageQuery) -> Result<(Scope, Reference), Problem> {
    let image = parse(&query.image)?;
    let scope = upstream(parts, &image, query.ns.as_deref())?;
    Ok((scope, reference(&image)?))
}

/// The tag or digest, or what is meant without either.
pub(super) fn reference(image: &ImageName) -> Result<Reference, Problem> {
    match image.reference() {
        Some(reference) => Ok(reference.clone()),
        None => {
            let tag: Result<Tag, _> = DEFAULT_TAG.parse();
            tag.map(Reference::Tag).map_err(Problem::bad_request)
        }
    }
}

pub(super) fn hosted(name: &str) -> Problem {
    Problem::not_found(format!("{name} is a hosted name, and this version serves none"))
        .help("hosted.prefixes says which names are hosted")
}

/// An image in full: upstream, repository and tag or digest.
pub(super) fn shown(scope: &Scope, reference: &Reference) -> String {
    match reference {
        Reference::Tag(tag) => format!("{scope}:{tag}"),
        Reference::Digest(digest) => format!("{scope}@{digest}"),
    }
}
