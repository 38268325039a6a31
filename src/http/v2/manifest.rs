//! `GET` and `HEAD /v2/<name>/manifests/<reference>`.
//!
//! Source: OCI distribution-spec, section "Pulling manifests".

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response};

use super::{Answer, Asked, Body, Registry, identify_content, set_cache_control};
use crate::http::error::ApiError;
use crate::oci::Reference;
use crate::pull::ManifestWant;
use crate::scope::Scope;

impl Registry {
    pub(super) async fn manifest(
        &self,
        asked: &Asked<'_>,
        scope: &Scope,
        reference: &Reference,
        warnings: &mut Vec<String>,
    ) -> Result<Answer, ApiError> {
        let want = if asked.is_head() { ManifestWant::Head } else { ManifestWant::Content };
        let manifest = asked.puller.manifest(&asked.caller.context, scope, reference, want).await?;
        warnings.extend(manifest.warnings);
        let mut response = Response::new(Body::empty());
        let immutable = matches!(reference, Reference::Digest(_));
        set_cache_control(&mut response, self.cache_control(scope, immutable));
        if !identify_content(&mut response, asked.headers, &manifest.digest) {
            let headers = response.headers_mut();
            if let Ok(value) = HeaderValue::from_str(manifest.media_type.as_str()) {
                headers.insert(CONTENT_TYPE, value);
            }
            headers.insert(CONTENT_LENGTH, HeaderValue::from(manifest.size));
            if let (false, Some(bytes)) = (asked.is_head(), manifest.bytes) {
                *response.body_mut() = Body::full(bytes);
            }
        }
        Ok(Answer { response, outcome: Some(manifest.outcome) })
    }
}
