//! What went wrong lately.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::time::rfc3339;
use crate::http::recent::Event;

/// The last answers to clients that were not what a client hopes for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RecentList {
    /// The events, the last one first. The same thing happening again is one event.
    pub recent: Vec<RecentEvent>,
}

/// An answer that was not what a client hopes for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RecentEvent {
    /// `stale` (upstream could not confirm it), `denied`, `absent` (404), `failed` (another error,
    /// or the answer broke off), `abandoned` (the client left before the answer), `slow`, or
    /// `overload` (refused at a limit, which `reason` names).
    pub trouble: String,
    /// When it happened last.
    pub at: String,
    /// How often it happened.
    pub times: u64,
    /// Where the name led: upstream and repository.
    pub image: Option<String>,
    /// The request's method.
    pub method: String,
    /// The request's path.
    pub path: String,
    /// The answer's status.
    pub status: u16,
    /// The cache's part: `hit`, `follow`, `miss`, `revalidated`, `stale` or `passed`; empty for
    /// errors.
    pub cache: String,
    /// Why the cache had that part, such as `unreachable`.
    pub reason: String,
    /// What the client was told, or why the answer broke off.
    pub error: Option<String>,
    /// The address of the client that asked last.
    pub client: String,
    /// The last request's id, as in its `X-Request-Id` and in the log.
    pub request_id: String,
    /// How long the last answer took to its head, in seconds.
    pub head_seconds: f64,
    /// How long it took to its end, in seconds.
    pub seconds: f64,
    /// How many bytes of it went out.
    pub bytes: u64,
}

/// The last answers to clients that were stale, refused, not found, failed or slow.
#[utoipa::path(get, path = "/recent", responses((status = 200, body = RecentList)))]
pub(super) async fn list_recent(State(parts): Shared) -> Json<RecentList> {
    let recent = parts.recent.list().into_iter().map(RecentEvent::from).collect();
    Json(RecentList { recent })
}

impl From<Event> for RecentEvent {
    fn from(event: Event) -> Self {
        Self {
            trouble: event.trouble.as_str().to_owned(),
            at: rfc3339(event.at),
            times: event.times,
            image: event.image,
            method: event.method,
            path: event.path,
            status: event.status,
            cache: event.cache.to_owned(),
            reason: event.reason.to_owned(),
            error: event.error,
            client: event.client.to_string(),
            request_id: event.request_id,
            head_seconds: event.head.as_secs_f64(),
            seconds: event.whole.as_secs_f64(),
            bytes: event.bytes,
        }
    }
}
