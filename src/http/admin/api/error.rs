//! The one shape of the API's errors: `{"error": {"code", "message", "help"}}`.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::origin::OriginError;
use crate::http::error::ApiError;
use crate::pull::PullError;
use crate::pull::naming::NamingError;
use crate::store::StoreError;

/// An answer that is an error.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// One word for scripts; it does not change between versions.
    #[schema(examples("unauthorized"))]
    pub code: String,
    /// What happened, for people.
    pub message: String,
    /// What to do about it, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Why a request of the operator's is refused.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: ErrorDetail,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &str, message: impl ToString) -> Self {
        let (code, message) = (code.to_owned(), message.to_string());
        Self { status, detail: ErrorDetail { code, message, help: None } }
    }

    #[must_use]
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.detail.help = Some(help.into());
        self
    }

    pub(super) fn bad_request(message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn not_found(message: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn unauthorized(token_file: &std::path::Path) -> Self {
        let message = "the request has no valid token (Authorization: Bearer TOKEN)";
        let help = format!("the token is in {} on the server", token_file.display());
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message).help(help)
    }

    pub(super) fn origin(error: &OriginError, names: &str) -> Self {
        let (code, help) = match error {
            OriginError::Host(_) => ("wrong_host", format!("ask for {names}")),
            OriginError::CrossOrigin => {
                ("cross_origin", "use a program, or a page of the operator's side".to_owned())
            }
        };
        Self::new(StatusCode::FORBIDDEN, code, error).help(help)
    }

    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the process is stopping")
    }

    pub(super) fn no_such_route() -> Self {
        Self::not_found("there is no such endpoint")
            .help("GET /api/v1/openapi.json describes all of them")
    }

    pub(super) fn method_not_allowed() -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, "method_not_allowed", "the endpoint does not have this method")
            .help("GET /api/v1/openapi.json describes all of them")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let unauthorized = self.status == StatusCode::UNAUTHORIZED;
        let mut response = (self.status, Json(ErrorBody { error: self.detail })).into_response();
        if unauthorized {
            let challenge = HeaderValue::from_static("Bearer realm=\"pierhead\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        let code = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => "too_large",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "not_json",
            _ => "bad_request",
        };
        Self::new(rejection.status(), code, rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), "bad_request", rejection.body_text())
    }
}

impl From<NamingError> for Problem {
    fn from(error: NamingError) -> Self {
        Self::new(StatusCode::NOT_FOUND, "name_unknown", error)
    }
}

impl From<PullError> for Problem {
    fn from(error: PullError) -> Self {
        // A client of the registry would get the same status.
        let told = ApiError::from(error);
        let code = match told.status() {
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => "denied",
            StatusCode::GATEWAY_TIMEOUT => "timed_out",
            StatusCode::BAD_GATEWAY => "upstream_failed",
            _ => "unavailable",
        };
        // 401 is about the operator's token here.
        let status = match told.status() {
            StatusCode::UNAUTHORIZED => StatusCode::FORBIDDEN,
            status => status,
        };
        Self::new(status, code, told.message())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed a request of the operator's");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "storage", error)
    }
}
