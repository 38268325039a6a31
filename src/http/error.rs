//! The only place that chooses statuses, and the form in which errors reach clients.
//!
//! Source: OCI distribution-spec, section "Error Codes". What each client does with a status
//! decides which one it gets: where a client should fall back to the origin at once it is 502, 503
//! or 504, never 429, which containerd retries five times without a pause.

use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};

use super::attempts::TooMany;
use super::body::Body;
use super::challenge::BearerError;
use super::request_body::FormError;
use super::route::RouteError;
use super::token::RequestError;
use crate::gate::{Full, Limit};
use crate::hooks::Denial;
use crate::oci::{Challenge, ErrorBody, ErrorCode};
use crate::pull::naming::NamingError;
use crate::pull::{FillError, PullError};
use crate::store::StoreError;
use crate::token::{IssueError, TokenError};
use crate::upstream::{ErrorKind, UpstreamError};

/// What a client is told to wait when upstream limits the rate without saying for how long, in
/// seconds.
const RETRY_AFTER_SECONDS_DEFAULT: u64 = 60;

/// What a client is told to wait when a limit is reached, in seconds. Clients with another mirror
/// go there at once, whatever this says.
pub const RETRY_AFTER_OVERLOAD_SECONDS: u64 = 5;

/// An answer that is an error.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    extra: Option<(http::HeaderName, HeaderValue)>,
    limit: Option<Limit>,
    bearer: Option<BearerError>,
    oauth: Option<&'static str>,
}

impl ApiError {
    fn new(status: StatusCode, code: ErrorCode, message: impl ToString) -> Self {
        let message = message.to_string();
        Self { status, code, message, extra: None, limit: None, bearer: None, oauth: None }
    }

    fn with(mut self, name: http::HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.extra = Some((name, value.into()));
        self
    }

    /// The status of the answer.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// What the client is told.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The limit that was reached, if that is why.
    pub const fn limit(&self) -> Option<Limit> {
        self.limit
    }

    /// Not 429: containerd repeats that at once, five times.
    fn overloaded(limit: Limit, message: impl ToString) -> Self {
        let mut error = Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message)
            .with(RETRY_AFTER, RETRY_AFTER_OVERLOAD_SECONDS);
        error.limit = Some(limit);
        error
    }

    /// The method is not one that this endpoint has.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::Unsupported,
            "this endpoint is read with GET and HEAD",
        )
        .with(ALLOW, HeaderValue::from_static("GET, HEAD"))
    }

    /// A push to a name that belongs to an upstream.
    pub fn push_denied(place: &str, hosted_prefix: Option<&str>) -> Self {
        let advice = match hosted_prefix {
            Some(prefix) => format!("push to a name under {prefix} instead"),
            None => "no name is configured for pushes (hosted.prefixes)".to_owned(),
        };
        Self::new(
            StatusCode::FORBIDDEN,
            ErrorCode::Denied,
            format!("{place} is cached from upstream and cannot be pushed to; {advice}"),
        )
    }

    /// A hosted name, which this version reserves and does not serve.
    pub fn hosted_not_served(is_push: bool) -> Self {
        let message = "names under hosted.prefixes are reserved for hosted repositories, which this \
                       version does not serve";
        if is_push {
            Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
        } else {
            Self::new(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, message)
        }
    }

    /// A page size that is none.
    pub fn bad_page_size() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::Unsupported,
            "the query parameter n is a number of tags, 0 or more",
        )
    }

    /// The answer cannot be told from a broken one in the client's version of HTTP.
    pub fn needs_http_1_1() -> Self {
        Self::new(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            ErrorCode::Unsupported,
            "upstream does not say how large this blob is; ask with HTTP/1.1 or HTTP/2",
        )
    }

    /// The request has come through this very process before.
    pub fn loop_detected() -> Self {
        Self::new(
            StatusCode::LOOP_DETECTED,
            ErrorCode::Unsupported,
            "an upstream of this cache leads back to it; check the endpoints in its configuration",
        )
    }

    /// A range that starts behind the blob's end. Source: RFC 9110, section 15.5.17.
    pub fn range_not_satisfiable(content_range: HeaderValue) -> Self {
        Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            ErrorCode::SizeInvalid,
            "the range lies outside the blob",
        )
        .with(http::header::CONTENT_RANGE, content_range)
    }

    /// Somebody has to log in who presented nothing, or nothing that anybody knows.
    pub fn login_required(is_anonymous: bool) -> Self {
        Denial::unauthorized(if is_anonymous {
            "authentication required: log in first"
        } else {
            "these credentials are not known here"
        })
        .into()
    }

    /// A token of ours that is not good.
    pub fn invalid_token(error: TokenError) -> Self {
        Self::from(Denial::unauthorized(error.to_string()))
            .about_token(Some(BearerError::InvalidToken))
    }

    /// A token of ours that was not made for this; another one would do.
    pub fn insufficient_scope() -> Self {
        Self::from(Denial::unauthorized("the token was not made for this; get another one"))
            .about_token(Some(BearerError::InsufficientScope))
    }

    /// Says what is wrong with the token that came, where the answer asks for a login.
    pub const fn about_token(mut self, error: Option<BearerError>) -> Self {
        self.bearer = error;
        self
    }

    /// What is wrong with the token that came, if one came.
    pub const fn token_error(&self) -> Option<BearerError> {
        self.bearer
    }

    /// Says how to log in.
    pub fn with_challenge(self, challenge: &Challenge) -> Self {
        match HeaderValue::from_str(&challenge.to_string()) {
            Ok(value) => self.with(WWW_AUTHENTICATE, value),
            Err(_) => self,
        }
    }

    /// Too many logins of this client have failed.
    pub fn too_many_logins(TooMany(wait): TooMany) -> Self {
        let seconds = u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(1).max(1);
        Self::overloaded(Limit::FailedLogins, Full(Limit::FailedLogins)).with(RETRY_AFTER, seconds)
    }

    /// The token service is asked by GET or POST.
    pub fn token_method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::Unsupported,
            "tokens are asked for with GET and POST",
        )
        .with(ALLOW, HeaderValue::from_static("GET, POST"))
    }

    /// A request for a token that makes no sense.
    pub fn bad_token_request(error: RequestError, by_form: bool) -> Self {
        let mut answer = Self::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, error);
        answer.oauth = by_form.then_some(error.oauth());
        answer
    }

    /// A request for a token of somebody else.
    pub fn wrong_service(own: &str) -> Self {
        let message = format!("the tokens that are made here are for the service {own:?}");
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message)
    }

    /// A body that is no form.
    pub fn not_a_form(media_type: &str) -> Self {
        let message = format!("the body has to be {media_type}");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::Unsupported, message)
    }

    /// With the fields that OAuth's clients look for. Source: RFC 6749, section 5.2; the status
    /// stays docker's, because clients go on by GET after a 401.
    pub fn in_words_of_oauth(mut self) -> Self {
        self.oauth = self.oauth.or(Some(match self.status {
            StatusCode::UNAUTHORIZED => "invalid_grant",
            StatusCode::FORBIDDEN => "access_denied",
            status if status.is_client_error() => "invalid_request",
            _ => "temporarily_unavailable",
        }));
        self
    }

    /// The answer. HEAD gets the same head and no body.
    pub fn into_response(self, head: bool) -> Response<Body> {
        let body = match self.oauth {
            Some(error) => oauth_body(error, self.code, self.message),
            None => ErrorBody::new(self.code, self.message).to_json(),
        };
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        if let Some((name, value)) = self.extra {
            headers.insert(name, value);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // It may name a host that only this client has sent: see `challenge`.
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if !head {
            *response.body_mut() = Body::full(body);
        }
        response
    }
}

/// Docker reads the one half of it and OAuth's clients the other.
fn oauth_body(error: &str, code: ErrorCode, message: String) -> Vec<u8> {
    let body = serde_json::json!({
        "error": error,
        "error_description": message,
        "errors": ErrorBody::new(code, message).errors,
    });
    body.to_string().into_bytes()
}

impl From<FormError> for ApiError {
    fn from(error: FormError) -> Self {
        let status = match error {
            FormError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            FormError::TimedOut => StatusCode::REQUEST_TIMEOUT,
            FormError::BrokeOff => StatusCode::BAD_REQUEST,
        };
        Self::new(status, ErrorCode::Unsupported, error)
    }
}

impl From<IssueError> for ApiError {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Over => Denial::unauthorized(error.to_string()).into(),
            IssueError::TooLarge => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, error)
            }
            IssueError::Failed => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, error)
            }
        }
    }
}

impl From<RouteError> for ApiError {
    fn from(error: RouteError) -> Self {
        let (status, code) = match error {
            RouteError::NoSuchEndpoint => (StatusCode::NOT_FOUND, ErrorCode::Unsupported),
            RouteError::Name(_) => (StatusCode::BAD_REQUEST, ErrorCode::NameInvalid),
            RouteError::Digest(_)
            | RouteError::Reference(crate::oci::ReferenceError::Digest(_)) => {
                (StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid)
            }
            // What cannot be a tag is not there; the conformance suite asks so.
            RouteError::Reference(crate::oci::ReferenceError::Tag(_)) => {
                (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown)
            }
        };
        Self::new(status, code, error)
    }
}

impl From<NamingError> for ApiError {
    fn from(error: NamingError) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, error)
    }
}

impl From<Denial> for ApiError {
    fn from(denial: Denial) -> Self {
        let status = match denial.code {
            ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
            ErrorCode::NameUnknown | ErrorCode::ManifestUnknown | ErrorCode::BlobUnknown => {
                StatusCode::NOT_FOUND
            }
            ErrorCode::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::FORBIDDEN,
        };
        let error = Self::new(status, denial.code, denial.message);
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"pierhead\"");
            return error.with(WWW_AUTHENTICATE, challenge);
        }
        error
    }
}

impl From<PullError> for ApiError {
    fn from(error: PullError) -> Self {
        let message = error.to_string();
        let (status, code) = match error {
            PullError::ManifestUnknown => (StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown),
            PullError::BlobUnknown => (StatusCode::NOT_FOUND, ErrorCode::BlobUnknown),
            PullError::NameUnknown => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
            PullError::Denied(denial) => return denial.into(),
            PullError::Upstream(error) | PullError::Fill(FillError::Upstream(error)) => {
                return error.into();
            }
            PullError::Fill(FillError::Mismatch(_)) | PullError::WrongManifest(_) => {
                (StatusCode::BAD_GATEWAY, ErrorCode::DigestInvalid)
            }
            PullError::WrongSize { .. } => (StatusCode::BAD_GATEWAY, ErrorCode::SizeInvalid),
            PullError::InvalidManifest(_) => (StatusCode::BAD_GATEWAY, ErrorCode::ManifestInvalid),
            PullError::Fill(FillError::TooLarge { .. } | FillError::Changed { .. }) => {
                (StatusCode::BAD_GATEWAY, ErrorCode::SizeInvalid)
            }
            PullError::TimedOut => (StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable),
            PullError::Store(error) | PullError::Fill(FillError::Store(error)) => {
                return error.into();
            }
            PullError::Full(full) => return full.into(),
            PullError::Fill(FillError::Busy) => {
                return Self::overloaded(Limit::Fills, message);
            }
            PullError::Fill(FillError::NoPrivate) => {
                return Self::overloaded(Limit::PrivateTransfers, message);
            }
            PullError::Fill(FillError::Unread | FillError::Abandoned)
            | PullError::Busy
            | PullError::Abandoned => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable),
        };
        Self::new(status, code, message)
    }
}

impl From<Full> for ApiError {
    fn from(full: Full) -> Self {
        Self::overloaded(full.0, full)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        // Paths and causes are for the operator's log, not for clients.
        tracing::error!(%error, "the store failed a request");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Unavailable,
            "the cache's storage failed; its log says why",
        )
    }
}

impl From<UpstreamError> for ApiError {
    fn from(error: UpstreamError) -> Self {
        let message = error.to_string();
        let (status, code) = match error.kind() {
            ErrorKind::NotFound => (StatusCode::NOT_FOUND, ErrorCode::NameUnknown),
            ErrorKind::Denied => (StatusCode::FORBIDDEN, ErrorCode::Denied),
            ErrorKind::RateLimited => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TooManyRequests),
            ErrorKind::TimedOut => (StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable),
            ErrorKind::LoopDetected => (StatusCode::LOOP_DETECTED, ErrorCode::Unsupported),
            _ => (StatusCode::BAD_GATEWAY, ErrorCode::Unavailable),
        };
        let answer = Self::new(status, code, message);
        match retry_after_seconds(&error) {
            Some(seconds) => answer.with(RETRY_AFTER, seconds),
            None => answer,
        }
    }
}

/// What a client is told to wait, in seconds, when upstream limits the rate or is not asked.
fn retry_after_seconds(error: &UpstreamError) -> Option<u64> {
    let known = error.failure.retry_after().map(|after| {
        let seconds = after.as_millis().div_ceil(1000);
        u64::try_from(seconds).unwrap_or(RETRY_AFTER_SECONDS_DEFAULT).max(1)
    });
    let limited = error.kind() == ErrorKind::RateLimited;
    known.or(limited.then_some(RETRY_AFTER_SECONDS_DEFAULT))
}
