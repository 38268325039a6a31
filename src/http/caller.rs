//! Who asks, and whether it may: the questions to the hooks before anything is looked up.
//!
//! A token of ours answers both without a question: who it is was asked when it was made, and so
//! was what it may.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, USER_AGENT};

use super::challenge::BearerError;
use super::connection::Connection;
use super::error::ApiError;
use super::login::Login;
use crate::hooks::{Client, Context, Hooks, Notes, Presented, Target, WantedScope};
use crate::secret::Secret;
use crate::token::Grant;

/// The longest user agent that is kept, in characters.
const USER_AGENT_CHARS_MAX: usize = 256;

/// A request, as far as it tells who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Its id in logs.
    pub request_id: &'a str,
    /// The client's address.
    pub address: IpAddr,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its connection.
    pub connection: &'a Connection,
    /// What plugins want in the access log.
    pub notes: &'a Notes,
}

impl Asking<'_> {
    /// The request for the hooks, of somebody who is not known yet.
    pub fn context(&self) -> Context {
        let user_agent = self.headers.get(USER_AGENT).and_then(|value| value.to_str().ok());
        let certificate = self.connection.certificate();
        let client = Client {
            address: self.address,
            encrypted: self.connection.client_is_encrypted(),
            user_agent: user_agent.map(|value| value.chars().take(USER_AGENT_CHARS_MAX).collect()),
            tls_subject: certificate.map(|certificate| certificate.subject.clone()),
        };
        Context { notes: self.notes.clone(), ..Context::new(self.request_id, client) }
    }

    /// What is claimed, beside the certificate that was shown, if one was.
    pub fn with_certificate(&self, claimed: Presented) -> Presented {
        match self.connection.certificate() {
            Some(certificate) => Presented::Certificate { certificate, beside: Box::new(claimed) },
            None => claimed,
        }
    }
}

/// Who asks, and what they may do already.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The request for the hooks.
    pub context: Context,
    /// What a token of ours grants, if one came.
    pub grant: Option<Arc<Grant>>,
    /// What is wrong with the token that came, should what it is for be refused.
    error: Option<BearerError>,
}

impl Caller {
    /// Whether it has logged in, be it as nobody.
    pub const fn has_logged_in(&self) -> bool {
        self.grant.is_some() || self.context.identity.is_some()
    }

    /// The refusal of somebody who has to log in.
    pub fn login_required(&self) -> ApiError {
        ApiError::login_required(self.error.is_none()).about_token(self.error)
    }
}

/// Who asks.
pub async fn identify(
    hooks: &dyn Hooks,
    login: &Login,
    asking: Asking<'_>,
) -> Result<Caller, ApiError> {
    let mut context = asking.context();
    let claimed = claimed(asking.headers);
    let mut error = None;
    // Without authenticators credentials mean nothing, and those of yesterday are no mistake.
    if let Presented::Bearer(token) = &claimed
        && hooks.wants_credentials()
    {
        if login.tokens.is_ours(token) {
            let grant = login.verify(token).map_err(ApiError::invalid_token)?;
            context.identity.clone_from(&grant.identity);
            let error = Some(BearerError::InsufficientScope);
            return Ok(Caller { context, grant: Some(grant), error });
        }
        error = Some(BearerError::InvalidToken);
    }
    let presented = asking.with_certificate(claimed);
    context.identity = login
        .authenticate(hooks, &context, &presented)
        .await
        .map_err(|refusal| refusal.about_token(error))?;
    Ok(Caller { context, grant: None, error })
}

/// Whether it may do that to `target`, and to what its name leads. The warnings are for the
/// client.
pub async fn admit(
    hooks: &dyn Hooks,
    caller: &Caller,
    target: Target,
) -> Result<(Target, Vec<String>), ApiError> {
    let context = &caller.context;
    let covers = |grant: &Arc<Grant>| grant.covers(&WantedScope::of(&target));
    if !caller.grant.as_ref().is_some_and(covers) {
        // Also of who holds a token that is for something else: if a plugin refuses, its message
        // is worth more than the advice to get another token.
        let refused = |denial| ApiError::from(denial).about_token(caller.error);
        hooks.authorize(context, &target).await.map_err(refused)?;
        if caller.grant.is_some() {
            return Err(ApiError::insufficient_scope());
        }
    }
    let target = hooks.resolve(context, target).await?;
    let allowed = hooks.request(context, &target).await?;
    Ok((target, allowed.warnings))
}

/// What the client claims by its `Authorization` header. Docker sends a Hub login to mirrors, and
/// others send anything: what cannot be read is nothing, not an error.
pub fn claimed(headers: &HeaderMap) -> Presented {
    let Some(value) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
        return Presented::Anonymous;
    };
    let Some((scheme, rest)) = value.split_once(' ') else { return Presented::Anonymous };
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Presented::Bearer(Secret::new(rest));
    }
    if scheme.eq_ignore_ascii_case("basic")
        && let Ok(decoded) = STANDARD.decode(rest)
        && let Ok(decoded) = String::from_utf8(decoded)
        && let Some((username, password)) = decoded.split_once(':')
    {
        return Presented::Basic { username: username.to_owned(), password: Secret::new(password) };
    }
    Presented::Anonymous
}

#[cfg(test)]
mod tests;
