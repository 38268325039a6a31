//! `/api/v1`: what an operator can see and do, described by an OpenAPI document that is made from
//! the same routes.
//!
//! | file | what it is about |
//! |---|---|
//! | [`token`], [`origin`] | who may ask, and from where |
//! | [`error`] | the one shape of errors |
//! | [`name`] | images in requests, and where their names lead |
//! | [`status`] | the whole at a glance |
//! | [`upstreams`], [`fills`], [`workers`], [`plugins`] | what runs |
//! | [`recent`] | what went wrong lately |
//! | [`images`] | what is in the cache |
//! | [`explain`] | what the next pull would be, and why |
//! | [`change`] | purge and refresh |
//! | [`storage`], [`scrub`] | how full it is, making room, pins; verifying what is stored |
//! | [`config`], [`log_level`] | the configuration in force, and what is logged |
//! | [`transfer`] | images out of the cache and into it |
//!
//! To add an endpoint: write a handler with `#[utoipa::path]` in the file of its subject, name it
//! in [`routes`], and regenerate `docs/openapi.json` as the test here says.

pub mod change;
pub mod config;
pub mod error;
pub mod explain;
mod extract;
pub mod fills;
pub mod images;
pub mod log_level;
pub mod name;
pub mod origin;
pub mod plugins;
pub mod recent;
pub mod scrub;
pub mod status;
pub mod storage;
mod time;
pub mod token;
pub mod transfer;
pub mod upstreams;
pub mod workers;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::response::IntoResponse;
use axum::{Extension, Json, Router};
use http::{Request, Response};
use hyper::body::Incoming;
use tower::ServiceExt as _;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Components, Info, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::config::ConfigInForce;
use self::error::Problem;
use self::origin::Origins;
use self::status::Process;
use self::token::AdminToken;
use self::transfer::Transfers;
use super::Probes;
use crate::background::Workers;
use crate::clock::Clock;
use crate::hooks::chain::Chained;
use crate::http::body::Body;
use crate::http::recent::Recent;
use crate::keep::Keeper;
use crate::keep::scrub::Scrub;
use crate::pull::Puller;
use crate::pull::naming::Naming;
use crate::telemetry::filter::LogFilter;

/// What all paths of the API begin with.
pub const PREFIX: &str = "/api/v1";

/// The largest body of a request in JSON, in bytes. Routes that take archives set their own limit.
pub const JSON_BODY_BYTES_MAX: usize = 64 << 10;

/// What the API shows and changes.
#[derive(Clone, Debug)]
pub struct ApiParts {
    /// The time.
    pub clock: Clock,
    /// This process.
    pub process: Process,
    /// Whether the process should be sent requests.
    pub probes: Probes,
    /// Background work.
    pub workers: Workers,
    /// Exports and imports.
    pub transfers: Transfers,
    /// The engine.
    pub puller: Puller,
    /// What is stored, and what stays.
    pub keeper: Keeper,
    /// The verification of what is stored.
    pub scrub: Scrub,
    /// The plugins.
    pub plugins: Chained,
    /// Where names lead.
    pub naming: Arc<Naming>,
    /// What went wrong lately.
    pub recent: Recent,
    /// The configuration in force.
    pub config: ConfigInForce,
    /// What is logged.
    pub log: LogFilter,
}

/// What handlers are given.
type Shared = axum::extract::State<Arc<ApiParts>>;

/// The API, behind its gate.
#[derive(Clone, Debug)]
pub struct Api {
    router: Router,
    token: AdminToken,
    origins: Origins,
}

impl Api {
    /// The API for whoever has `token` and asks from one of `origins`.
    pub fn new(parts: ApiParts, token: AdminToken, origins: Origins) -> Self {
        let (router, document) = routes().split_for_parts();
        let router = router
            .layer(Extension(Arc::new(complete(document))))
            .fallback(|| async { Problem::no_such_route() })
            .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
            .layer(DefaultBodyLimit::max(JSON_BODY_BYTES_MAX))
            .with_state(Arc::new(parts));
        Self { router, token, origins }
    }

    /// Whether a path is the API's to answer.
    pub fn owns(path: &str) -> bool {
        path.strip_prefix(PREFIX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The answer to `request`. Bodies stream both ways: nothing is gathered in memory here.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let refused = match self.origins.check(&head) {
            Err(error) => Some(Problem::origin(&error, &self.origins.names())),
            Ok(()) if !self.token.is_presented(&head.headers) => {
                Some(Problem::unauthorized(self.token.path()))
            }
            Ok(()) => None,
        };
        let answer = match refused {
            Some(problem) => problem.into_response(),
            None => {
                let request = Request::from_parts(head, axum::body::Body::new(body));
                let Ok(answer) = self.router.clone().oneshot(request).await;
                answer
            }
        };
        answer.map(Body::foreign)
    }
}

/// This description of the API.
#[utoipa::path(
    get,
    path = "/openapi.json",
    responses((status = 200, description = "An OpenAPI document", body = serde_json::Value))
)]
async fn get_openapi(Extension(document): Extension<Arc<OpenApi>>) -> Json<OpenApi> {
    Json(OpenApi::clone(&document))
}

/// Every route. One that is not here does not exist.
fn routes() -> OpenApiRouter<Arc<ApiParts>> {
    let routes = OpenApiRouter::default()
        .routes(routes!(get_openapi))
        .routes(routes!(status::get_status))
        .routes(routes!(upstreams::list_upstreams))
        .routes(routes!(fills::list_fills))
        .routes(routes!(workers::list_workers))
        .routes(routes!(plugins::list_plugins))
        .routes(routes!(recent::list_recent))
        .routes(routes!(storage::get_storage))
        .routes(routes!(storage::collect))
        .routes(routes!(storage::list_pins, storage::pin, storage::unpin))
        .routes(routes!(scrub::get_scrub, scrub::start_scrub))
        .routes(routes!(images::list_images))
        .routes(routes!(images::get_image))
        .routes(routes!(explain::get_explanation))
        .routes(routes!(change::purge))
        .routes(routes!(change::refresh))
        .routes(routes!(config::get_config))
        .routes(routes!(
            log_level::get_log_level,
            log_level::set_log_level,
            log_level::reset_log_level
        ))
        .routes(routes!(transfer::export_images))
        .routes(routes!(transfer::import_images));
    OpenApiRouter::default().nest(PREFIX, routes)
}

/// The document as it is served: what the routes cannot say about themselves is added.
fn complete(mut document: OpenApi) -> OpenApi {
    document.info = Info::new("Pierhead", env!("CARGO_PKG_VERSION"));
    document.info.description = Some(
        "The operator's side of Pierhead. Every request needs the bearer token that `pierhead \
         serve` keeps in `<storage.path>/admin.token`. Errors have the form of the schema `Error`."
            .to_owned(),
    );
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme("token", scheme);
    document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    document
}

/// The document as text, as it stands in `docs/openapi.json`.
///
/// # Errors
/// When it cannot be written as JSON, which no document of ours is.
pub fn document() -> Result<String, serde_json::Error> {
    let mut text = complete(routes().split_for_parts().1).to_pretty_json()?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests;
