//! Manifests of an upstream.
//!
//! Source: OCI distribution-spec, "Pulling manifests" and "Checking if content exists".

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};

use crate::oci::{ACCEPT_MANIFESTS, Digest, MANIFEST_BYTES_MAX, MediaType, Reference, RepoName};

use super::client::{Ask, Upstream};
use super::endpoint::Endpoint;
use super::error::{Failure, Misbehaved, UpstreamError};
use super::metrics::Operation;
use super::wire::content_length;

/// What upstream says about a manifest. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    /// Its digest. Not every registry says.
    pub digest: Option<Digest>,
    /// Its media type, unless upstream has only a general one for it.
    pub media_type: Option<MediaType>,
    /// Its size, in bytes.
    pub size: Option<u64>,
}

/// A manifest as it came. Nothing of it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedManifest {
    /// The manifest itself, at most [`MANIFEST_BYTES_MAX`].
    pub bytes: Bytes,
    /// Its media type, unless upstream has only a general one for it (registry.access.redhat.com
    /// says `text/plain`): then the manifest itself must tell.
    pub media_type: Option<MediaType>,
    /// Its digest, as upstream says.
    pub digest_header: Option<Digest>,
}

impl Upstream {
    /// Asks what `reference` is, which most registries do not count as a pull. A registry that
    /// refuses HEAD is asked with GET.
    ///
    /// Cancel-safe.
    pub async fn head_manifest(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<ManifestHead, UpstreamError> {
        self.first_head(Operation::ManifestHead, |endpoint| async move {
            self.head_manifest_at(&endpoint, repo, reference).await
        })
        .await
    }

    /// Fetches a manifest.
    ///
    /// Cancel-safe.
    pub async fn get_manifest(
        &self,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<FetchedManifest, UpstreamError> {
        self.first(Operation::ManifestGet, |endpoint| async move {
            self.get_manifest_at(&endpoint, repo, reference).await
        })
        .await
    }

    async fn head_manifest_at(
        &self,
        endpoint: &Endpoint,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<ManifestHead, Failure> {
        let ask = ask(Method::HEAD, repo, reference);
        let landed = self.ask_any(endpoint, &ask).await?;
        let (status, headers) = (landed.response.status, &landed.response.headers);
        if matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) {
            let manifest = self.get_manifest_at(endpoint, repo, reference).await?;
            return Ok(ManifestHead {
                digest: manifest.digest_header.or_else(|| Some(Digest::sha256(&manifest.bytes))),
                media_type: manifest.media_type,
                size: Some(manifest.bytes.len() as u64),
            });
        }
        if !status.is_success() {
            return Err(self.inner.wire.refusal(status, headers));
        }
        Ok(ManifestHead {
            digest: digest_header(headers),
            media_type: media_type(headers),
            size: content_length(headers),
        })
    }

    async fn get_manifest_at(
        &self,
        endpoint: &Endpoint,
        repo: &RepoName,
        reference: &Reference,
    ) -> Result<FetchedManifest, Failure> {
        let ask = ask(Method::GET, repo, reference);
        let response = self.ask(endpoint, &ask).await?.response;
        let digest_header = digest_header(&response.headers);
        let media_type = media_type(&response.headers);
        let too_large = Misbehaved::ManifestTooLarge;
        let bytes = self.inner.wire.whole(response, MANIFEST_BYTES_MAX, too_large).await?;
        Ok(FetchedManifest { bytes, media_type, digest_header })
    }
}

fn ask<'a>(method: Method, repo: &'a RepoName, reference: &Reference) -> Ask<'a> {
    let path = format!("manifests/{reference}");
    let operation =
        if method == Method::HEAD { Operation::ManifestHead } else { Operation::ManifestGet };
    Ask {
        operation,
        method,
        repo,
        path,
        query: Vec::new(),
        accept: ACCEPT_MANIFESTS,
        range: None,
        if_range: None,
    }
}

/// `Docker-Content-Digest`; one that cannot be read counts as not there.
fn digest_header(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.trim().parse().ok()
}

fn media_type(headers: &HeaderMap) -> Option<MediaType> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    MediaType::from_content_type(text).ok().filter(|media_type| !media_type.is_generic())
}
