//! `GET /v2/<name>/referrers/<digest>`.
//!
//! Source: OCI distribution-spec, section "Listing Referrers".

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::{Answer, Asked, Registry, json};
use crate::http::error::ApiError;
use crate::oci::{Digest, MediaType};
use crate::scope::Scope;

static OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

impl Registry {
    pub(super) async fn referrers(
        &self,
        asked: &Asked<'_>,
        scope: &Scope,
        digest: &Digest,
        warnings: &mut Vec<String>,
    ) -> Result<Answer, ApiError> {
        let mut answer = asked.puller.referrers(scope, digest).await?;
        warnings.append(&mut answer.warnings);
        let filter = asked.query.artifact_type.as_deref();
        if let Some(wanted) = filter {
            answer.manifests.retain(|manifest| {
                manifest.get("artifactType").and_then(Value::as_str) == Some(wanted)
            });
        }
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_INDEX.as_str(),
            "manifests": answer.manifests,
        });
        let mut response = json(index.to_string().into());
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(MediaType::OCI_INDEX.as_str()) {
            headers.insert(CONTENT_TYPE, value);
        }
        if filter.is_some() {
            headers.insert(OCI_FILTERS_APPLIED.clone(), HeaderValue::from_static("artifactType"));
        }
        Ok(Answer { response, outcome: Some(answer.outcome) })
    }
}
