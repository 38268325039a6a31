//! Lists of an upstream: tags, and what refers to a manifest.
//!
//! Source: OCI distribution-spec, "Listing Tags" and "Listing Referrers".

use http::header::LINK;
use http::{HeaderMap, Method};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::oci::{Digest, RepoName, Tag, next_link};

use super::client::{Ask, Upstream};
use super::endpoint::Endpoint;
use super::error::{ErrorKind, Failure, Misbehaved, UpstreamError};
use super::metrics::Operation;
use super::redirect::{Landed, resolve, same_origin};

/// The largest page of tags, in bytes. Registries without paging send tens of thousands at once.
pub const TAGS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest page of referrers, in bytes: the spec limits it as a manifest.
pub const REFERRERS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most pages of referrers that are read.
pub const REFERRERS_PAGES_MAX: usize = 16;
/// The most referrers that are returned.
pub const REFERRERS_MAX: usize = 4096;

/// One page of tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPage {
    /// The tags, in upstream's order.
    pub tags: Vec<Tag>,
    /// How to ask for the next page, if there is one.
    pub next: Option<NextTags>,
}

/// How to ask for the next page of tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextTags {
    /// How many tags.
    pub n: Option<u32>,
    /// After which tag.
    pub last: String,
}

/// What refers to a manifest.
#[derive(Clone, Debug, PartialEq)]
pub enum Referrers {
    /// Upstream's list.
    Listed {
        /// The descriptors, as they came.
        descriptors: Vec<Value>,
        /// Whether there are more than [`REFERRERS_MAX`] or [`REFERRERS_PAGES_MAX`] let through.
        truncated: bool,
    },
    /// Upstream does not know the endpoint: the tag `sha256-<hex>` may have the list.
    Unsupported,
}

impl Upstream {
    /// One page of a repository's tags: at most `n`, after the tag `last`.
    ///
    /// Cancel-safe.
    pub async fn tags(
        &self,
        repo: &RepoName,
        n: Option<u32>,
        last: Option<&str>,
    ) -> Result<TagPage, UpstreamError> {
        self.first(Operation::Tags, |endpoint| async move {
            self.tags_at(&endpoint, repo, n, last).await
        })
        .await
    }

    /// Everything that refers to the manifest `digest`, page by page.
    ///
    /// Cancel-safe.
    pub async fn referrers(
        &self,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Referrers, UpstreamError> {
        let listed = self.first(Operation::Referrers, |endpoint| async move {
            self.referrers_at(&endpoint, repo, digest).await
        });
        match listed.await {
            // The spec has no other 404 for it: without referrers the list is empty.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Referrers::Unsupported),
            listed => listed,
        }
    }

    async fn tags_at(
        &self,
        endpoint: &Endpoint,
        repo: &RepoName,
        n: Option<u32>,
        last: Option<&str>,
    ) -> Result<TagPage, Failure> {
        let mut ask = ask(Operation::Tags, repo, "tags/list".to_owned());
        ask.query.extend(n.map(|n| ("n".to_owned(), n.to_string())));
        ask.query.extend(last.map(|last| ("last".to_owned(), last.to_owned())));
        let Landed { response, url, .. } = self.ask(endpoint, &ask).await?;
        let next = next_url(&url, &response.headers);
        let too_large = Misbehaved::AnswerTooLarge { what: "list of tags" };
        let answer = self.inner.wire.whole(response, TAGS_BYTES_MAX, too_large).await?;
        let answer: TagsAnswer = serde_json::from_slice(&answer)
            .map_err(|_| Misbehaved::Garbled { what: "list of tags" })?;
        // What is no tag cannot be pulled through us either.
        let tags: Vec<Tag> =
            answer.tags.unwrap_or_default().iter().filter_map(|tag| tag.parse().ok()).collect();
        let next = next.and_then(|url| {
            let find = |name| url.query_pairs().find(|(key, _)| key == name).map(|(_, v)| v);
            // Some registries page by a word of their own; the last tag serves as well.
            let last = find("last")
                .map(|last| last.into_owned())
                .or_else(|| tags.last().map(|tag| tag.as_str().to_owned()))?;
            Some(NextTags { n: find("n").and_then(|n| n.parse().ok()).or(n), last })
        });
        Ok(TagPage { tags, next })
    }

    async fn referrers_at(
        &self,
        endpoint: &Endpoint,
        repo: &RepoName,
        digest: &Digest,
    ) -> Result<Referrers, Failure> {
        let mut ask = ask(Operation::Referrers, repo, format!("referrers/{digest}"));
        let mut descriptors = Vec::new();
        for _ in 0..REFERRERS_PAGES_MAX {
            let landed = self.ask(endpoint, &ask).await.map_err(|failure| match failure {
                // Said by registries that know nothing of it.
                Failure::UnexpectedStatus { status: 405 }
                | Failure::ServerError { status: 501 } => Failure::NotFound,
                failure => failure,
            })?;
            let next = next_url(&landed.url, &landed.response.headers);
            let too_large = Misbehaved::AnswerTooLarge { what: "list of referrers" };
            let page =
                self.inner.wire.whole(landed.response, REFERRERS_BYTES_MAX, too_large).await?;
            let page: ReferrersAnswer = serde_json::from_slice(&page)
                .map_err(|_| Misbehaved::Garbled { what: "list of referrers" })?;
            descriptors.extend(page.manifests);
            if descriptors.len() > REFERRERS_MAX {
                descriptors.truncate(REFERRERS_MAX);
                return Ok(Referrers::Listed { descriptors, truncated: true });
            }
            let Some(next) = next else {
                return Ok(Referrers::Listed { descriptors, truncated: false });
            };
            ask.query = next_query(endpoint, &ask, &next)?;
        }
        Ok(Referrers::Listed { descriptors, truncated: true })
    }
}

/// The query of the next page. Only the query is taken from upstream's word, and only from a link
/// to the same list: so paging leads nowhere else.
fn next_query(
    endpoint: &Endpoint,
    ask: &Ask<'_>,
    next: &Url,
) -> Result<Vec<(String, String)>, Failure> {
    let here = endpoint.url(&format!("{}/{}", ask.repo, ask.path), &[]);
    if !same_origin(here.expose(), next) || here.expose().path() != next.path() {
        return Err(Misbehaved::BadLocation.into());
    }
    Ok(next.query_pairs().into_owned().collect())
}

/// Where the next page is, if upstream says so in a way that can be followed.
fn next_url(here: &Url, headers: &HeaderMap) -> Option<Url> {
    let values = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    resolve(here, next_link(values)?).ok()
}

fn ask(operation: Operation, repo: &RepoName, path: String) -> Ask<'_> {
    let (method, accept) =
        (Method::GET, "application/vnd.oci.image.index.v1+json, application/json");
    Ask { operation, method, repo, path, query: Vec::new(), accept, range: None, if_range: None }
}

#[derive(Deserialize)]
struct TagsAnswer {
    // `null` for an empty repository, in some registries.
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ReferrersAnswer {
    #[serde(default)]
    manifests: Vec<Value>,
}
