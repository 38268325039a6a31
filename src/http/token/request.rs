//! What a client asks of the token service. Pure.
//!
//! Source: docker's `spec/auth/token.md` (GET) and `spec/auth/oauth.md` (POST).

use std::borrow::Cow;

use url::form_urlencoded;

use crate::hooks::Action;
use crate::secret::Secret;

/// The most scopes of one request.
pub const SCOPES_MAX: usize = 16;

/// The longest scope that is read, in bytes: the longest upstream, the longest repository, and
/// what stands around them.
const SCOPE_BYTES_MAX: usize = 640;

/// The longest user name, in bytes.
pub const USER_NAME_BYTES_MAX: usize = 256;

/// A request for a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRequest {
    /// The registry that it is for, as a challenge has named it.
    pub service: Option<String>,
    /// What it is to be good for.
    pub scopes: Vec<RequestedScope>,
    /// User name and password, where the request itself holds them.
    pub credentials: Option<(String, Secret)>,
}

/// What somebody wants to do in one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedScope {
    /// The repository as the client calls it; nothing has checked it.
    pub name: String,
    /// What is to be done there, in our words.
    pub actions: Vec<Action>,
}

/// Why there is no token for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// More scopes than anybody needs.
    #[error("a token is good for {SCOPES_MAX} scopes at most")]
    TooManyScopes,
    /// A way to log in that is not offered.
    #[error("tokens are given for a user name and a password (grant_type=password) alone")]
    GrantType,
    /// Something is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The user name is too long.
    #[error("a user name has at most {USER_NAME_BYTES_MAX} bytes")]
    UserName,
}

impl RequestError {
    /// The error in OAuth's words. Source: RFC 6749, section 5.2.
    pub const fn oauth(self) -> &'static str {
        match self {
            Self::TooManyScopes => "invalid_scope",
            Self::GrantType => "unsupported_grant_type",
            Self::Missing(_) | Self::UserName => "invalid_request",
        }
    }
}

impl TokenRequest {
    /// Reads the query of a GET. What is not known is tolerated, such as `account` and
    /// `offline_token`: there are no refresh tokens, and docker does without.
    pub fn of_query(query: Option<&str>) -> Result<Self, RequestError> {
        let mut request = Self::default();
        for (key, value) in form_urlencoded::parse(query.unwrap_or("").as_bytes()) {
            request.read(&key, value)?;
        }
        Ok(request)
    }

    /// Reads the form of a POST.
    pub fn of_form(form: &[u8]) -> Result<Self, RequestError> {
        let mut request = Self::default();
        let (mut grant, mut user, mut password) = (None, None, None);
        for (key, value) in form_urlencoded::parse(form) {
            match &*key {
                "grant_type" => grant = Some(value),
                "username" => user = Some(value),
                "password" => password = Some(Secret::new(value)),
                _ => request.read(&key, value)?,
            }
        }
        match grant.as_deref() {
            Some("password") => {}
            Some(_) => return Err(RequestError::GrantType),
            None => return Err(RequestError::Missing("grant_type")),
        }
        let user = user.ok_or(RequestError::Missing("username"))?;
        if user.len() > USER_NAME_BYTES_MAX {
            return Err(RequestError::UserName);
        }
        let password = password.ok_or(RequestError::Missing("password"))?;
        request.credentials = Some((user.into_owned(), password));
        Ok(request)
    }

    fn read(&mut self, key: &str, value: Cow<'_, str>) -> Result<(), RequestError> {
        match key {
            "service" if self.service.is_none() => self.service = Some(value.into_owned()),
            "scope" => {
                for scope in value.split(' ').filter(|scope| !scope.is_empty()) {
                    if self.scopes.len() >= SCOPES_MAX {
                        return Err(RequestError::TooManyScopes);
                    }
                    self.scopes.extend(RequestedScope::parse(scope));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl RequestedScope {
    /// Reads `repository:NAME:ACTION,...`. Other types are none of ours: the token does not grant
    /// them, as docker's specification wants it.
    fn parse(text: &str) -> Option<Self> {
        if text.len() > SCOPE_BYTES_MAX {
            return None;
        }
        let (kind, rest) = text.split_once(':')?;
        // A name may have a port in it.
        let (name, words) = rest.rsplit_once(':')?;
        // Docker once told plugins from images by a class: `repository(plugin)`.
        let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind);
        if kind != "repository" || name.is_empty() {
            return None;
        }
        let mut actions = Vec::new();
        for word in words.split(',') {
            for action in meaning(word) {
                if !actions.contains(action) {
                    actions.push(*action);
                }
            }
        }
        (!actions.is_empty()).then(|| Self { name: name.to_owned(), actions })
    }
}

/// What docker's words for actions mean in ours: who may pull may look around.
fn meaning(word: &str) -> &'static [Action] {
    match word {
        "pull" => &[Action::Pull, Action::ListTags, Action::Referrers],
        "push" => &[Action::Push, Action::Mount],
        "delete" => &[Action::Delete],
        "*" => &[
            Action::Pull,
            Action::ListTags,
            Action::Referrers,
            Action::Push,
            Action::Mount,
            Action::Delete,
        ],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PULL: [Action; 3] = [Action::Pull, Action::ListTags, Action::Referrers];

    fn scopes(query: &str) -> Vec<(String, Vec<Action>)> {
        let request = TokenRequest::of_query(Some(query)).unwrap();
        request.scopes.into_iter().map(|scope| (scope.name, scope.actions)).collect()
    }

    #[test]
    fn what_docker_and_containerd_ask() {
        let docker = "account=ci&client_id=docker&offline_token=true&\
                      scope=repository%3Alibrary%2Fdebian%3Apull&service=mirror.example";
        let request = TokenRequest::of_query(Some(docker)).unwrap();
        assert_eq!(request.service.as_deref(), Some("mirror.example"));
        assert_eq!(request.credentials, None);
        assert_eq!(scopes(docker), [("library/debian".to_owned(), PULL.to_vec())]);

        let containerd = "client_id=containerd-client&grant_type=password&password=p%26s&\
                          scope=repository%3Aa%2Fb%3Apull+repository%3Aghcr.io%2Fa%2Fb%3Apull&\
                          service=mirror.example&username=ci";
        let request = TokenRequest::of_form(containerd.as_bytes()).unwrap();
        assert_eq!(request.credentials, Some(("ci".to_owned(), Secret::new("p&s"))));
        assert_eq!(request.scopes.len(), 2);
        assert_eq!(TokenRequest::of_query(None).unwrap(), TokenRequest::default());
    }

    #[test]
    fn scopes_are_read_and_what_is_foreign_is_left_out() {
        let twice = "scope=repository:a:pull&scope=repository:b:pull,push";
        assert_eq!(scopes(twice).len(), 2);
        assert_eq!(scopes(twice)[1].1.len(), 5);
        assert_eq!(scopes("scope=repository:localhost:5000/a:pull")[0].0, "localhost:5000/a");
        assert_eq!(scopes("scope=repository(plugin):a:pull,pull")[0].1, PULL);
        assert_eq!(scopes("scope=repository:a:*")[0].1.len(), 6);
        for foreign in [
            "registry:catalog:*",
            "repository:a",
            "repository::pull",
            "repository:a:",
            "repository:a:PULL",
            "aws",
            "::",
            &format!("repository:{}:pull", "a".repeat(SCOPE_BYTES_MAX)),
        ] {
            assert_eq!(scopes(&format!("scope={foreign}")), [], "{foreign}");
        }
    }

    #[test]
    fn requests_are_bounded() {
        let many = vec!["repository:a:pull"; SCOPES_MAX].join("+");
        assert_eq!(scopes(&format!("scope={many}")).len(), SCOPES_MAX);
        let more = format!("scope={many}&scope=repository:a:pull");
        assert_eq!(TokenRequest::of_query(Some(&more)), Err(RequestError::TooManyScopes));
    }

    #[test]
    fn forms_that_lack_something_are_refused() {
        let user = "a".repeat(USER_NAME_BYTES_MAX + 1);
        for (form, error) in [
            ("", RequestError::Missing("grant_type")),
            ("grant_type=refresh_token&refresh_token=x", RequestError::GrantType),
            ("grant_type=password&password=p", RequestError::Missing("username")),
            ("grant_type=password&username=u", RequestError::Missing("password")),
            (&format!("grant_type=password&username={user}&password=p"), RequestError::UserName),
        ] {
            assert_eq!(TokenRequest::of_form(form.as_bytes()), Err(error), "{form}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_panics(text in "\\PC*|scope=repository[:a-c,*( ]{0,30}") {
            let _ = TokenRequest::of_form(text.as_bytes());
            if let Ok(request) = TokenRequest::of_query(Some(&text)) {
                prop_assert!(request.scopes.len() <= SCOPES_MAX);
                prop_assert!(request.scopes.iter().all(|scope| !scope.name.is_empty()));
            }
        }
    }
}
