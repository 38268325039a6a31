//! How an upstream asks who is there.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::{Duration, Instant};

/// How the registry side of an upstream authenticates. Its `/cdn/` never does: like object storage
/// behind signed URLs, it answers 400 to an `Authorization` header.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// Not at all.
    #[default]
    None,
    /// `Basic`, for everything under `/v2/`.
    Basic {
        /// The only user.
        username: String,
        /// The password.
        password: String,
    },
    /// `Bearer`, with tokens from `/token` of this same upstream (or of another realm).
    Bearer(Bearer),
}

/// A token service's ways.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// Who gets tokens; `None` gives them to anybody, whatever credentials come along.
    pub credentials: Option<(String, String)>,
    /// The realm in the challenge; `{self}` stands for this upstream's URL.
    pub realm: String,
    /// The service in the challenge.
    pub service: String,
    /// The scope in the challenge; `None` is `repository:NAME:pull`.
    pub scope: Option<String>,
    /// `expires_in` of the answers in seconds, which is also how long a token is good; `None`
    /// leaves it out, and tokens are good for 60 seconds.
    pub expires_in: Option<u64>,
    /// The member of the answer that holds the token: `token`, `access_token`, or both with `*`.
    pub field: String,
    /// Whether POST works; otherwise 405.
    pub post: bool,
    /// The padding that makes a token large.
    pub token_padding: usize,
}

impl Default for Bearer {
    fn default() -> Self {
        Self {
            credentials: None,
            realm: "{self}/token".into(),
            service: "kit".into(),
            scope: None,
            expires_in: Some(300),
            field: "*".into(),
            post: true,
            token_padding: 0,
        }
    }
}

impl Bearer {
    /// Tokens only for this user.
    pub fn with_credentials(username: &str, password: &str) -> Self {
        Self { credentials: Some((username.into(), password.into())), ..Self::default() }
    }
}

#[derive(Debug)]
struct Issued {
    scopes: Vec<String>,
    until: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) auth: Auth,
    issued: HashMap<String, Issued>,
    count: u64,
}

impl Gate {
    pub(super) fn forget_tokens(&mut self) {
        self.issued.clear();
    }

    /// `Err` is the challenge of a 401.
    pub(super) fn check(
        &self,
        own_url: &str,
        header: Option<&str>,
        repository: Option<&str>,
    ) -> Result<(), String> {
        match &self.auth {
            Auth::None => Ok(()),
            Auth::Basic { username, password } => {
                let good = header.and_then(basic) == Some((username.clone(), password.clone()));
                if good { Ok(()) } else { Err(r#"Basic realm="kit""#.into()) }
            }
            Auth::Bearer(bearer) => {
                let wanted = repository.map(|name| format!("repository:{name}:pull"));
                let token = header.and_then(|h| h.strip_prefix("Bearer "));
                let issued = token.and_then(|token| self.issued.get(token));
                let good = issued.is_some_and(|issued| {
                    issued.until > Instant::now()
                        && wanted.as_ref().is_none_or(|wanted| {
                            issued.scopes.iter().any(|scope| covers(scope, wanted))
                        })
                });
                if good {
                    return Ok(());
                }
                let realm = bearer.realm.replace("{self}", own_url);
                let mut challenge =
                    format!(r#"Bearer realm="{realm}",service="{}""#, bearer.service);
                if let Some(scope) = bearer.scope.clone().or(wanted) {
                    challenge.push_str(&format!(r#",scope="{scope}""#));
                }
                if token.is_some() {
                    challenge.push_str(r#",error="invalid_token""#);
                }
                Err(challenge)
            }
        }
    }

    /// The answer of `/token`: a status and a body.
    pub(super) fn token(
        &mut self,
        post: bool,
        header: Option<&str>,
        parameters: &[(String, String)],
    ) -> (u16, String) {
        let Auth::Bearer(bearer) = &self.auth else { return (404, "{}".into()) };
        if post && !bearer.post {
            return (405, "{}".into());
        }
        let parameter =
            |name: &str| parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        if let Some(credentials) = &bearer.credentials {
            let form = parameter("username").zip(parameter("password"));
            let refresh = parameter("refresh_token").map(|t| ("<token>".to_owned(), t));
            let given = if post { form.or(refresh) } else { header.and_then(basic) };
            if given.as_ref() != Some(credentials) {
                let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"bad credentials"}]}"#;
                return (401, body.into());
            }
        }
        // Scopes come repeated, or separated by spaces.
        let scopes = parameters.iter().filter(|(n, _)| n == "scope");
        let scopes = scopes.flat_map(|(_, v)| v.split(' ')).map(str::to_owned).collect();
        self.count += 1;
        let token = format!("kit-token-{}-{}", self.count, "x".repeat(bearer.token_padding));
        let lifetime = Duration::from_secs(bearer.expires_in.unwrap_or(60));
        let mut answer = serde_json::Map::new();
        for field in ["token", "access_token"] {
            if bearer.field == "*" || bearer.field == field {
                answer.insert(field.into(), token.clone().into());
            }
        }
        if let Some(seconds) = bearer.expires_in {
            answer.insert("expires_in".into(), seconds.into());
        }
        self.issued.insert(token, Issued { scopes, until: Instant::now() + lifetime });
        (200, serde_json::Value::Object(answer).to_string())
    }
}

/// Whether the scope `given` (`repository:NAME:ACTIONS`) includes `wanted` (`...:pull`).
fn covers(given: &str, wanted: &str) -> bool {
    let split = |scope: &str| {
        let (rest, actions) = scope.rsplit_once(':').unwrap_or((scope, ""));
        (rest.to_owned(), actions.split(',').map(str::to_owned).collect::<Vec<_>>())
    };
    let ((given, actions), (wanted, needed)) = (split(given), split(wanted));
    given == wanted && needed.iter().all(|action| actions.contains(action))
}

fn basic(header: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}
