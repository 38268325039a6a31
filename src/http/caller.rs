//! Who asks, and whether it may: the questions to the hooks before anything is looked up.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, USER_AGENT};

use super::connection::Connection;
use super::error::ApiError;
use crate::hooks::{Client, Context, Hooks, Notes, Presented, Target};
use crate::secret::Secret;

/// The longest user agent that is kept, in characters.
const USER_AGENT_CHARS_MAX: usize = 256;

/// Who asks.
pub async fn identify(
    hooks: &dyn Hooks,
    request_id: &str,
    address: std::net::IpAddr,
    headers: &HeaderMap,
    connection: &Connection,
    notes: Notes,
) -> Result<Context, ApiError> {
    let user_agent = headers
        .get(USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.chars().take(USER_AGENT_CHARS_MAX).collect());
    let certificate = connection.certificate();
    let client = Client {
        address,
        encrypted: connection.client_is_encrypted(),
        user_agent,
        tls_subject: certificate.as_ref().map(|certificate| certificate.subject.clone()),
    };
    let claimed = presented(headers);
    let presented = match certificate {
        Some(certificate) => Presented::Certificate { certificate, beside: Box::new(claimed) },
        None => claimed,
    };
    let mut context = Context { notes, ..Context::new(request_id, client) };
    context.identity = hooks.authenticate(&context, &presented).await?;
    Ok(context)
}

/// Whether it may do that to `target`, and to what its name leads. The warnings are for the
/// client.
pub async fn admit(
    hooks: &dyn Hooks,
    context: &Context,
    target: Target,
) -> Result<(Target, Vec<String>), ApiError> {
    hooks.authorize(context, &target).await?;
    let target = hooks.resolve(context, target).await?;
    let allowed = hooks.request(context, &target).await?;
    Ok((target, allowed.warnings))
}

/// What the client claims by its `Authorization` header. Docker sends a Hub login to mirrors, and others send anything: what
/// cannot be read is nothing, not an error.
fn presented(headers: &HeaderMap) -> Presented {
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
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(value: &[u8]) -> Presented {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        presented(&headers)
    }

    #[test]
    fn credentials_are_read() {
        let Presented::Basic { username, password } = of(b"Basic dXNlcjpwYTpzcw==") else {
            panic!("not basic")
        };
        assert_eq!((username.as_str(), password.expose()), ("user", "pa:ss"));
        assert!(matches!(of(b"bearer abc"), Presented::Bearer(token) if token.expose() == "abc"));
    }

    #[tokio::test]
    async fn a_certificate_is_believed_and_what_stands_beside_it_is_handed_on() {
        let certificate = std::sync::Arc::new(crate::hooks::ClientCertificate {
            subject: "runner.example".to_owned(),
            fingerprint: String::new(),
            der: bytes::Bytes::new(),
        });
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic dXNlcjpwYTpzcw=="));
        let identify = async |connection: Connection| {
            let address = std::net::Ipv4Addr::LOCALHOST.into();
            let hooks = crate::hooks::AllowAll;
            let notes = Notes::default();
            identify(&hooks, "id", address, &headers, &connection, notes).await.unwrap()
        };
        let context = identify(Connection::encrypted(Some(certificate))).await;
        assert_eq!(context.identity.unwrap().subject, "runner.example");
        assert_eq!(context.client.tls_subject.as_deref(), Some("runner.example"));
        assert!(context.client.encrypted);
        // Docker's login to the Hub says nothing here.
        assert_eq!(identify(Connection::encrypted(None)).await.identity, None);
        assert!(!identify(Connection::plain()).await.client.encrypted);
    }

    #[test]
    fn what_cannot_be_read_is_nothing() {
        for value in [&b"Basic"[..], b"Basic ???", b"Basic dXNlcg==", b"Digest a=b", b"\xff"] {
            assert!(matches!(of(value), Presented::Anonymous));
        }
        assert!(matches!(presented(&HeaderMap::new()), Presented::Anonymous));
    }
}
