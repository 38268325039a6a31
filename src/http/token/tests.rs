//! What clients ask of the token service, and what they get.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::AUTHORIZATION;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use super::*;
use crate::clock::Clock;
use crate::hooks::{Action, Notes};
use crate::http::connection::Connection;
use crate::http::login::tests::{House, NOW, SERVICE, login};
use crate::pull::settings::{NamedUpstream, NamingSettings};
use crate::secret::Secret;
use crate::token::Grant;

/// Everything that a request can differ in.
#[derive(Clone, Copy)]
struct Ask<'a> {
    method: &'a str,
    query: &'a str,
    form: &'a str,
    authorization: Option<&'a str>,
    host: &'a str,
    media_type: &'a str,
}

const ASK: Ask<'static> = Ask {
    method: "GET",
    query: "",
    form: "",
    authorization: None,
    host: "mirror.example",
    media_type: FORM,
};

struct Service {
    house: House,
    login: Login,
    clock: Clock,
    _dir: tempfile::TempDir,
}

fn service(house: House) -> Service {
    let clock = Clock::manual(NOW);
    let (login, dir) = login(&clock);
    Service { house, login, clock, _dir: dir }
}

fn naming() -> Naming {
    let upstream = |name: &str, hosts: &[&str]| NamedUpstream {
        name: name.parse().unwrap(),
        alias: None,
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        ns_aliases: Vec::new(),
        single_component_prefix: (name == "docker.io").then(|| "library".parse().unwrap()),
    };
    Naming::new(NamingSettings {
        upstreams: vec![
            upstream("docker.io", &[]),
            upstream("ghcr.io", &["ghcr.example"]),
            upstream("localhost:5000", &[]),
        ],
        default_upstream: Some("docker.io".parse().unwrap()),
        hosted_prefixes: vec!["hosted/".to_owned()],
        public_host: None,
    })
}

impl Service {
    async fn ask(&self, ask: Ask<'_>) -> Result<Value, ApiError> {
        let naming = naming();
        let service = TokenService { hooks: &self.house, naming: &naming, login: &self.login };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(ask.media_type).unwrap());
        if let Some(value) = ask.authorization {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let asking = Asking {
            request_id: "id",
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            headers: &headers,
            connection: &Connection::plain(),
            notes: &Notes::default(),
        };
        let method = ask.method.parse().unwrap();
        let wanted =
            Wanted { method: &method, query: Some(ask.query), host: Some(ask.host), asking };
        let mut body = Full::<Bytes>::from(ask.form.to_owned());
        let given = service.answer(&wanted, &mut body).await?;
        assert_eq!(given.response.headers()[CACHE_CONTROL], "no-store");
        Ok(json(given.response.into_body()).await)
    }

    /// What the token of an answer says.
    fn grant(&self, answer: &Value) -> Arc<Grant> {
        self.login.tokens.verify(&Secret::new(answer["token"].as_str().unwrap())).unwrap()
    }

    async fn repositories(&self, host: &str, scope: &str) -> Vec<String> {
        let query = format!("scope={scope}");
        let authorization = Some("Basic Y2k6cmlnaHQ=");
        let answer = self.ask(Ask { query: &query, authorization, host, ..ASK }).await.unwrap();
        self.grant(&answer).access.iter().map(|scope| scope.repository.clone()).collect()
    }
}

async fn json<B>(body: B) -> Value
where
    B: http_body::Body<Error: std::fmt::Debug>,
{
    serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test]
async fn a_login_gives_a_token_for_what_is_granted_and_nothing_else() {
    let service = service(House::default());
    let query = "account=ci&client_id=docker&offline_token=true&service=mirror.example&\
                 scope=repository:library/a:pull,push&scope=repository:team/b:pull";
    let authorization = basic("ci", "right");
    let answer = service.ask(Ask { query, authorization: Some(&authorization), ..ASK }).await;
    let answer = answer.unwrap();
    assert_eq!(answer["token"], answer["access_token"]);
    assert_eq!((&answer["expires_in"], &answer["token_type"]), (&300.into(), &"Bearer".into()));
    assert_eq!(answer["issued_at"], "2023-11-14T22:13:20Z");
    assert_eq!(answer.get("refresh_token"), None);
    let grant = service.grant(&answer);
    let identity = grant.identity.clone().unwrap();
    assert_eq!(
        (&*identity.subject, &*identity.issuer, &*identity.method),
        ("ci", "house", "basic")
    );
    assert_eq!((identity.groups.len(), identity.claims.len()), (1, 1));
    let [scope] = &grant.access[..] else { panic!("{:?}", grant.access) };
    assert_eq!(scope.repository, "docker.io/library/a");
    // Neither `admin` nor the repository that the plugin adds.
    assert!(!scope.actions.contains(&Action::Admin) && scope.actions.contains(&Action::Pull));
}

#[tokio::test]
async fn docker_login_asks_for_no_scope() {
    let service = service(House::default());
    let right = basic("ci", "right");
    let answer = service.ask(Ask { authorization: Some(&right), ..ASK }).await.unwrap();
    assert_eq!(service.grant(&answer).access, []);
    assert_eq!(service.house.authorized.load(Ordering::SeqCst), 0);
    for (authorization, says) in [
        (Some(basic("ci", "wrong")), "wrong user name or password"),
        (Some(basic("someone", "x")), "these credentials are not known here"),
        (None, "authentication required: log in first"),
    ] {
        let refusal = service.ask(Ask { authorization: authorization.as_deref(), ..ASK }).await;
        let refusal = refusal.unwrap_err();
        assert_eq!((refusal.status(), refusal.message()), (StatusCode::UNAUTHORIZED, says));
        let response = refusal.into_response(false);
        assert_eq!(response.headers()["www-authenticate"], "Basic realm=\"pierhead\"");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        let body = json(response.into_body()).await;
        assert_eq!(body["errors"][0]["code"], "UNAUTHORIZED");
        assert_eq!(body["errors"][0]["message"], says);
    }
}

#[tokio::test]
async fn containerd_posts_a_form() {
    let service = service(House::default());
    let form = "client_id=containerd-client&grant_type=password&username=ci&password=right&\
                service=mirror.example&scope=repository%3Alibrary%2Fa%3Apull";
    let answer = service.ask(Ask { method: "POST", form, ..ASK }).await.unwrap();
    assert_eq!(service.grant(&answer).access[0].repository, "docker.io/library/a");
    let form = form.replace("right", "wrong");
    let refusal = service.ask(Ask { method: "POST", form: &form, ..ASK }).await.unwrap_err();
    // 401, so that containerd goes on by GET, as it does with the token services it knows.
    assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
    let body = json(refusal.into_response(false).into_body()).await;
    assert_eq!(body["error"], "invalid_grant");
    assert_eq!(body["error_description"], "wrong user name or password");
    assert_eq!(body["errors"][0]["code"], "UNAUTHORIZED");
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_a_word_for_it() {
    let service = service(House::default());
    let large = format!("grant_type=password&username=ci&password={}", "x".repeat(20 << 10));
    let refresh = "grant_type=refresh_token&refresh_token=abc";
    let post = Ask { method: "POST", ..ASK };
    for (ask, status, oauth) in [
        (Ask { form: refresh, ..post }, StatusCode::BAD_REQUEST, "unsupported_grant_type"),
        (Ask { form: "x=y", ..post }, StatusCode::BAD_REQUEST, "invalid_request"),
        (Ask { form: &large, ..post }, StatusCode::PAYLOAD_TOO_LARGE, ""),
        (Ask { media_type: "application/json", ..post }, StatusCode::UNSUPPORTED_MEDIA_TYPE, ""),
        (Ask { method: "PUT", ..ASK }, StatusCode::METHOD_NOT_ALLOWED, ""),
        (Ask { query: "service=other.example", ..ASK }, StatusCode::BAD_REQUEST, ""),
    ] {
        let refusal = service.ask(ask).await.unwrap_err();
        assert_eq!(refusal.status(), status, "{}", refusal.message());
        let body = json(refusal.into_response(false).into_body()).await;
        assert_eq!(body["error"].as_str().unwrap_or_default(), oauth);
        assert!(body["errors"][0]["message"].is_string());
    }
    assert_eq!(service.house.authenticated.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn anonymous_clients_get_a_token_only_for_something() {
    let service = service(House { anonymous: true, ..House::default() });
    let query = "scope=repository:library/a:pull";
    let answer = service.ask(Ask { query, ..ASK }).await.unwrap();
    let grant = service.grant(&answer);
    assert_eq!((&grant.identity, grant.access.len()), (&None, 1));
    // So do those whose credentials nobody knows: docker sends the Hub's to every mirror.
    let hub = basic("hub-user", "x");
    let answer = service.ask(Ask { query, authorization: Some(&hub), ..ASK }).await.unwrap();
    assert_eq!(service.grant(&answer).identity, None);
    for query in ["", "scope=repository:team/b:pull", "scope=registry:catalog:*"] {
        let refusal = service.ask(Ask { query, ..ASK }).await.unwrap_err();
        assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED, "{query}");
    }
}

#[tokio::test]
async fn a_token_cannot_be_had_for_a_token() {
    let service = service(House::default());
    let right = basic("ci", "right");
    let answer = service.ask(Ask { authorization: Some(&right), ..ASK }).await.unwrap();
    let asked = service.house.authenticated.load(Ordering::SeqCst);
    let bearer = format!("Bearer {}", answer["token"].as_str().unwrap());
    let refusal = service.ask(Ask { authorization: Some(&bearer), ..ASK }).await.unwrap_err();
    assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(service.house.authenticated.load(Ordering::SeqCst), asked + 1, "as anonymous");
    // That of somebody else can be.
    let query = "scope=repository:library/a:pull";
    let answer = service.ask(Ask { authorization: Some("Bearer foreign"), query, ..ASK }).await;
    assert_eq!(service.grant(&answer.unwrap()).identity.as_ref().unwrap().subject, "robot");
}

#[tokio::test]
async fn a_token_ends_with_the_proof_it_was_made_for() {
    let proofs_end = Some(NOW.plus(Duration::from_secs(90)));
    let service = service(House { proofs_end, ..House::default() });
    let right = basic("ci", "right");
    let ask = Ask { authorization: Some(&right), ..ASK };
    assert_eq!(service.ask(ask).await.unwrap()["expires_in"], 90);
    service.clock.advance(Duration::from_secs(90));
    let refusal = service.ask(ask).await.unwrap_err();
    assert_eq!(refusal.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn scopes_are_named_as_clients_and_challenges_name_them() {
    let service = service(House::default());
    let (here, ghcr) = ("mirror.example", "ghcr.example");
    for (host, scope, expected) in [
        (here, "repository:a:pull", &["docker.io/library/a"][..]),
        (here, "repository:docker.io/library/a:pull", &["docker.io/library/a"]),
        // The same repository twice is one.
        (here, "repository:a:pull+repository:library/a:*", &["docker.io/library/a"]),
        // Under this host, the name may be one of ghcr.io and may be from a challenge.
        (ghcr, "repository:docker.io/library/a:pull", &["docker.io/library/a"]),
        (ghcr, "repository:library/a:pull", &[]),
        (here, "repository:ghcr.io/library/a:pull", &[]),
        (here, "repository:hosted/a:pull", &[]),
        (here, "repository:UPPER:pull", &[]),
    ] {
        assert_eq!(service.repositories(host, scope).await, expected, "{host} {scope}");
    }
    let login = &service.login;
    let tokens = TokenService { hooks: &service.house, naming: &naming(), login };
    assert_eq!(tokens.meanings("localhost:5000/a/b", None), ["localhost:5000/a/b"]);
    let both = tokens.meanings("docker.io/a/b", Some(ghcr));
    assert_eq!(both, ["ghcr.io/docker.io/a/b", "docker.io/a/b"]);
    assert_eq!(SERVICE, login.tokens.service());
}
