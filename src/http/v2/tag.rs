//! `GET /v2/<name>/tags/list`.
//!
//! Source: OCI distribution-spec, section "Listing Tags".

use http::HeaderValue;
use http::header::LINK;
use url::form_urlencoded;

use super::{Answer, Asked, Registry, json};
use crate::http::error::ApiError;
use crate::oci::{Tag, format_next_link};
use crate::pull::{Outcome, TagsAnswer};
use crate::scope::Scope;
use crate::upstream::NextTags;

impl Registry {
    pub(super) async fn tags(
        &self,
        asked: &Asked<'_>,
        scope: &Scope,
        warnings: &mut Vec<String>,
    ) -> Result<Answer, ApiError> {
        let n: Option<u32> = match &asked.query.n {
            Some(n) => Some(n.parse().map_err(|_| ApiError::bad_page_size())?),
            None => None,
        };
        let page = if n == Some(0) {
            let outcome = Outcome::Passed;
            TagsAnswer { tags: Vec::new(), next: None, outcome, warnings: Vec::new() }
        } else {
            asked.puller.tags(scope, n, asked.query.last.as_deref()).await?
        };
        warnings.extend(page.warnings);
        // The name as the client knows it, not as upstream does.
        let path = asked.path;
        let name = path.strip_prefix("/v2/").unwrap_or(path);
        let name = name.strip_suffix("/tags/list").unwrap_or(name);
        let body = serde_json::json!({ "name": name, "tags": page.tags.iter().map(Tag::as_str).collect::<Vec<_>>() }).to_string();
        let mut response = json(body.into());
        if let Some(NextTags { n, last }) = page.next {
            let mut query = form_urlencoded::Serializer::new(String::new());
            if let Some(n) = n {
                query.append_pair("n", &n.to_string());
            }
            query.append_pair("last", &last);
            if let Some(namespace) = &asked.query.namespace {
                query.append_pair("ns", namespace);
            }
            let target = format!("{path}?{}", query.finish());
            if let Ok(value) = HeaderValue::from_str(&format_next_link(&target)) {
                response.headers_mut().insert(LINK, value);
            }
        }
        Ok(Answer { response, outcome: Some(page.outcome) })
    }
}
