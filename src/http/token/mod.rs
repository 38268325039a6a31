//! The token service, `/token`: credentials against a token for some repositories.
//!
//! Source: docker's `spec/auth/token.md` (GET, with `Authorization: Basic` or without) and
//! `spec/auth/oauth.md` (POST with a form). docker, podman and skopeo ask by GET; containerd by POST
//! if it has credentials.

mod request;

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response};
use serde::Serialize;

pub use request::{RequestError, SCOPES_MAX, TokenRequest, USER_NAME_BYTES_MAX};

use self::request::RequestedScope;
use super::body::Body;
use super::caller::{self, Asking};
use super::error::ApiError;
use super::login::Login;
use super::request_body;
use crate::hooks::{Context, Hooks, Presented, WantedScope};
use crate::pull::naming::{Naming, Place};
use crate::token::Issued;

/// The form of a POST.
const FORM: &str = "application/x-www-form-urlencoded";

/// What the service is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenService<'a> {
    pub(super) hooks: &'a dyn Hooks,
    pub(super) naming: &'a Naming,
    pub(super) login: &'a Login,
}

/// A request for a token.
pub(super) struct Wanted<'a> {
    pub(super) method: &'a Method,
    pub(super) query: Option<&'a str>,
    pub(super) host: Option<&'a str>,
    pub(super) asking: Asking<'a>,
}

/// The answer, with what it knows of the client.
pub(super) struct Given {
    pub(super) response: Response<Body>,
    /// Whom the client turned out to be.
    pub(super) subject: Option<String>,
}

/// Source: docker's `spec/auth/token.md`, "Token Response Fields"; RFC 6749, section 5.1.
#[derive(Serialize)]
struct Answer<'a> {
    token: &'a str,
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    issued_at: String,
}

impl TokenService<'_> {
    /// A token, or why there is none. Of the body a form is read, and nothing else.
    pub(super) async fn answer<B>(
        &self,
        wanted: &Wanted<'_>,
        body: &mut B,
    ) -> Result<Given, ApiError>
    where
        B: http_body::Body + Unpin,
    {
        let by_form = *wanted.method == Method::POST;
        let request = if *wanted.method == Method::GET {
            TokenRequest::of_query(wanted.query)
        } else if by_form {
            is_form(wanted.asking.headers)?;
            TokenRequest::of_form(&request_body::read_form(body).await?)
        } else {
            return Err(ApiError::token_method_not_allowed());
        };
        let request = request.map_err(|error| ApiError::bad_token_request(error, by_form))?;
        let given = self.give(wanted, request).await;
        given.map_err(|error| if by_form { error.in_words_of_oauth() } else { error })
    }

    async fn give(&self, wanted: &Wanted<'_>, request: TokenRequest) -> Result<Given, ApiError> {
        let own = self.login.tokens.service();
        if request.service.is_some_and(|service| service != own) {
            return Err(ApiError::wrong_service(own));
        }
        let claimed = match request.credentials {
            Some((username, password)) => Presented::Basic { username, password },
            None => match caller::claimed(wanted.asking.headers) {
                // A token against a token would have no end; and no plugin is shown one.
                Presented::Bearer(token) if self.login.tokens.is_ours(&token) => {
                    Presented::Anonymous
                }
                claimed => claimed,
            },
        };
        let is_anonymous = matches!(claimed, Presented::Anonymous);
        let mut context = wanted.asking.context();
        let presented = wanted.asking.with_certificate(claimed);
        context.identity = self.login.authenticate(self.hooks, &context, &presented).await?;
        let granted = self.granted(&context, &request.scopes, wanted.host).await?;
        let identity = context.identity.as_deref();
        if identity.is_none() && granted.is_empty() {
            return Err(ApiError::login_required(is_anonymous));
        }
        let issued = self.login.tokens.issue(identity, &granted)?;
        self.login.has_issued();
        let subject = identity.map(|identity| identity.subject.clone());
        Ok(Given { response: response(&issued), subject })
    }

    /// The part of the scopes that the hooks grant.
    async fn granted(
        &self,
        context: &Context,
        scopes: &[RequestedScope],
        host: Option<&str>,
    ) -> Result<Vec<WantedScope>, ApiError> {
        let mut wanted: Vec<WantedScope> = Vec::new();
        for scope in scopes {
            for repository in self.meanings(&scope.name, host) {
                match wanted.iter_mut().find(|other| other.repository == repository) {
                    Some(other) => {
                        let new = scope.actions.iter().filter(|a| !other.actions.contains(a));
                        let new: Vec<_> = new.copied().collect();
                        other.actions.extend(new);
                    }
                    None => wanted.push(WantedScope { repository, actions: scope.actions.clone() }),
                }
            }
        }
        if wanted.is_empty() {
            return Ok(wanted);
        }
        let mut granted = self.hooks.authorize_scopes(context, &wanted).await?;
        // Nobody is given more than they asked for, whatever a plugin says.
        for scope in &mut granted {
            let asked = wanted.iter().find(|asked| asked.repository == scope.repository);
            scope.actions.retain(|action| asked.is_some_and(|a| a.actions.contains(action)));
        }
        granted.retain(|scope| !scope.actions.is_empty());
        Ok(granted)
    }

    /// The repositories that a name in a scope may mean: the client's own name for it, as this
    /// host has it, and ours, which begins with the upstream and may have come from a challenge.
    /// Where these are two, the hooks decide about each.
    fn meanings(&self, name: &str, host: Option<&str>) -> Vec<String> {
        let mut found = Vec::new();
        let mut add = |place| match place {
            // Hosted repositories are not served by this version.
            Ok(Place::Hosted(_)) | Err(_) => {}
            Ok(Place::Upstream(scope)) => {
                let text = scope.to_string();
                if !found.contains(&text) {
                    found.push(text);
                }
            }
        };
        if let Ok(name) = name.parse() {
            add(self.naming.place(None, host, &name));
        }
        if let Some((first, rest)) = name.split_once('/')
            && self.naming.component_selects(first)
            && let Ok(rest) = rest.parse()
        {
            add(self.naming.place(Some(first), None, &rest));
        }
        found
    }
}

fn is_form(headers: &HeaderMap) -> Result<(), ApiError> {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    if media_type.trim().eq_ignore_ascii_case(FORM) {
        Ok(())
    } else {
        Err(ApiError::not_a_form(FORM))
    }
}

fn response(issued: &Issued) -> Response<Body> {
    let token = issued.token.expose();
    let at = UNIX_EPOCH + Duration::from_millis(issued.at.unix_ms());
    let answer = Answer {
        token,
        access_token: token,
        token_type: "Bearer",
        expires_in: issued.lasts.as_secs(),
        issued_at: humantime::format_rfc3339_seconds(at).to_string(),
    };
    // Text and numbers always serialise.
    let bytes = Bytes::from(serde_json::to_vec(&answer).unwrap_or_default());
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *response.body_mut() = Body::full(bytes);
    response
}

#[cfg(test)]
mod tests;
