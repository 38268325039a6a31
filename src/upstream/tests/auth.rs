//! Logging in.

use std::time::Duration;

use futures_util::future::join_all;

use super::*;

const CHALLENGE: &str = r#"realm="https://auth.example/token",service="reg""#;

fn logged_in(endpoint: &str) -> UpstreamSettings {
    let mut settings = settings(&[endpoint]);
    settings.credentials = password();
    settings.auth_hosts = vec!["auth.example".to_owned()];
    settings
}

async fn head(lab: &Lab, name: &str) -> Result<ManifestHead, UpstreamError> {
    lab.upstream.head_manifest(&repo(name), &tag("1")).await
}

#[tokio::test]
async fn the_next_repository_needs_no_refusal() {
    let lab = Lab::at("https://reg.example");
    lab.says(bearer(CHALLENGE)).says(token("t1", 300)).says(answer(200));
    lab.says(token("t2", 300)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    head(&lab, "b").await.expect("a head");
    let asked = lab.asked();
    assert!(asked[3].url().ends_with("scope=repository%3Ab%3Apull"), "{}", asked[3].url());
    assert_eq!(asked[4].auth(), Some("Bearer t2"));
    assert_eq!(asked[1].reach, Reach::Guarded { endpoint: 0 });
    assert_eq!(lab.counted("token", "ok"), 2.0);
}

#[tokio::test]
async fn a_token_is_replaced_shortly_before_it_ends() {
    let lab = Lab::at("https://reg.example");
    lab.says(bearer(CHALLENGE)).says(token("t1", 300)).says(answer(200)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    lab.clock.advance(Duration::from_secs(269));
    head(&lab, "a").await.expect("a head");
    lab.says(token("t2", 300)).says(answer(200));
    lab.clock.advance(Duration::from_secs(1));
    head(&lab, "a").await.expect("a head");
    assert_eq!(lab.asked()[5].auth(), Some("Bearer t2"));
}

#[tokio::test]
async fn a_token_without_an_end_is_good_for_a_minute() {
    let lab = Lab::at("https://reg.example");
    lab.says(bearer(CHALLENGE)).says(answer(200).body(r#"{"access_token":"t1"}"#));
    lab.says(answer(200)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    lab.clock.advance(Duration::from_secs(44));
    head(&lab, "a").await.expect("a head");
    lab.clock.advance(Duration::from_secs(1));
    lab.says(token("t2", 300)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    assert_eq!(lab.asked().len(), 6);
}

#[tokio::test]
async fn a_herd_asks_for_one_token() {
    let lab = Lab::at("https://reg.example");
    // The first learns how to log in, and all others wait for its token.
    lab.says(bearer(CHALLENGE)).says(token("t", 300));
    for _ in 0..20 {
        lab.says(answer(200));
    }
    for outcome in join_all((0..20).map(|_| head(&lab, "a"))).await {
        outcome.expect("a head");
    }
    let asked = lab.asked();
    assert_eq!(asked.iter().filter(|asked| asked.url().contains("auth.example")).count(), 1);
    assert_eq!(asked.iter().filter(|asked| asked.auth() == Some("Bearer t")).count(), 20);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once() {
    let lab = Lab::at("https://reg.example");
    lab.says(bearer(CHALLENGE)).says(token("t1", 300)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    lab.says(bearer(CHALLENGE)).says(token("t2", 300)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    assert_eq!(lab.asked()[5].auth(), Some("Bearer t2"));
    // And when the new one is refused as well, that is the answer.
    lab.says(bearer(CHALLENGE)).says(token("t3", 300)).says(bearer(CHALLENGE));
    assert_eq!(failure(head(&lab, "a").await), Failure::Denied { status: 401 });
    assert_eq!(lab.asked().len(), 3);
}

#[tokio::test]
async fn a_revoked_token_is_replaced_without_a_challenge() {
    let lab = Lab::at("https://reg.example");
    lab.says(bearer(CHALLENGE)).says(token("t1", 300)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    lab.says(answer(401)).says(token("t2", 300)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    assert_eq!(lab.asked()[5].auth(), Some("Bearer t2"));
    lab.says(answer(401)).says(token("t3", 300)).says(answer(401));
    assert_eq!(failure(head(&lab, "a").await), Failure::Denied { status: 401 });
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_gets_one_more_chance() {
    let lab = Lab::at("https://reg.example");
    lab.says(bearer(CHALLENGE)).says(token("t1", 300));
    lab.says(bearer(CHALLENGE)).says(token("t2", 300)).says(bearer(CHALLENGE));
    assert_eq!(failure(head(&lab, "a").await), Failure::Denied { status: 401 });
    assert_eq!(lab.asked().len(), 5);
}

#[tokio::test]
async fn credentials_go_to_the_token_service_in_a_form() {
    let lab = Lab::new(&logged_in("https://reg.example"));
    lab.says(bearer(CHALLENGE)).says(token("t", 300)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    let asked = lab.asked();
    assert_eq!(asked[0].auth(), None);
    assert_eq!(asked[1].method(), Method::POST);
    assert_eq!(asked[1].url(), "https://auth.example/token");
    let expected = "grant_type=password&service=reg&scope=repository%3Aa%3Apull\
                    &client_id=pierhead&username=ann&password=s3cret";
    assert_eq!(asked[1].form(), expected);
    assert_eq!(asked[2].auth(), Some("Bearer t"));
}

#[tokio::test]
async fn a_token_service_without_post_gets_basic() {
    for status in [400, 401, 404, 405] {
        let lab = Lab::new(&logged_in("https://reg.example"));
        lab.says(bearer(CHALLENGE)).says(answer(status)).says(token("t", 300)).says(answer(200));
        head(&lab, "a").await.expect("a head");
        let asked = lab.asked();
        assert_eq!(asked[2].method(), Method::GET);
        assert_eq!(asked[2].auth(), Some("Basic YW5uOnMzY3JldA=="));
        assert!(asked[2].url().starts_with("https://auth.example/token?service=reg&scope="));
    }
}

#[tokio::test]
async fn a_token_service_that_knows_no_post_is_remembered() {
    let lab = Lab::new(&logged_in("https://reg.example"));
    lab.says(bearer(CHALLENGE)).says(answer(405)).says(token("t", 300)).says(answer(200));
    lab.says(token("t", 300)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    head(&lab, "b").await.expect("a head");
    assert_eq!(lab.asked()[4].method(), Method::GET);
}

#[tokio::test]
async fn a_realm_outside_the_trust_domain_gets_no_credentials() {
    let mut settings = logged_in("https://reg.example");
    settings.auth_hosts.clear();
    let lab = Lab::new(&settings);
    lab.says(bearer(CHALLENGE));
    let error = head(&lab, "a").await.expect_err("a failure");
    assert!(error.to_string().contains("add \"auth.example\" to `auth_hosts`"), "{error}");
    let host = "auth.example".into();
    assert_eq!(error.failure, Misbehaved::RealmNotTrusted { host }.into());
    assert_eq!(lab.asked().len(), 1, "nothing was sent there");
}

#[tokio::test]
async fn a_realm_that_is_not_https_is_refused() {
    for realm in ["http://reg.example/t", "ftp://reg.example/t", "https://u:p@reg.example/t"] {
        let lab = Lab::at("https://reg.example");
        lab.says(bearer(&format!(r#"realm="{realm}""#)));
        assert_eq!(failure(head(&lab, "a").await), Misbehaved::BadRealm.into(), "{realm}");
    }
    let lab = Lab::at("http://reg.example:5000");
    lab.says(bearer(r#"realm="http://reg.example:5001/t""#)).says(token("t", 300));
    lab.says(answer(200));
    head(&lab, "a").await.expect("a head");
}

#[tokio::test]
async fn a_token_request_follows_no_redirect() {
    let lab = Lab::new(&logged_in("https://reg.example"));
    lab.says(bearer(CHALLENGE)).says(answer(307).to("https://evil.example/"));
    assert_eq!(failure(head(&lab, "a").await), Misbehaved::TokenRedirect.into());
    assert_eq!(lab.asked().len(), 2);
}

#[tokio::test]
async fn what_a_token_service_answers_is_never_taken_for_absence() {
    for (said, expected) in [
        (answer(404), Failure::UnexpectedStatus { status: 404 }),
        (answer(403), Failure::Denied { status: 403 }),
        (answer(500), Failure::ServerError { status: 500 }),
        (answer(429), Failure::RateLimited { retry_after: None }),
        (answer(200).body("<html>"), Misbehaved::Garbled { what: "token" }.into()),
        (answer(200).body("{}"), Misbehaved::Garbled { what: "token" }.into()),
        (answer(200).body(r#"{"token":"a\nb"}"#), Misbehaved::Garbled { what: "token" }.into()),
        (
            answer(200).header("content-length", "99999999"),
            Misbehaved::AnswerTooLarge { what: "token" }.into(),
        ),
    ] {
        let lab = Lab::at("https://reg.example");
        lab.says(bearer(CHALLENGE)).says(said);
        assert_eq!(failure(head(&lab, "a").await), expected);
    }
}

/// How many of the requests since the last look were for a token.
fn tokens_asked(lab: &Lab) -> usize {
    lab.asked().iter().filter(|asked| asked.url().contains("auth.example")).count()
}

async fn rests(lab: &Lab, name: &str, first: &Failure) {
    let failure = failure(head(lab, name).await);
    assert_eq!(failure.kind(), first.kind());
    assert!(matches!(&failure, Failure::Resting { last, .. } if **last == *first), "{name}");
}

#[tokio::test(start_paused = true)]
async fn a_token_service_that_fails_is_left_alone_for_a_while() {
    let lab = Lab::at("https://reg.example");
    lab.says(bearer(CHALLENGE)).fails(TransportError::Connect("connection refused".into()));
    let first = failure(head(&lab, "a").await);
    for name in ["b", "c", "d", "e"] {
        rests(&lab, name, &first).await;
    }
    assert_eq!(tokens_asked(&lab), 1);
    lab.pass(Duration::from_secs(1)).await;
    lab.says(token("t", 300)).says(answer(200));
    head(&lab, "b").await.expect("a head");
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_a_token_service_fails_for_rests_alone() {
    for fails in [answer(503), answer(200).body("<html>")] {
        let lab = Lab::at("https://reg.example");
        lab.says(bearer(CHALLENGE)).says(fails.clone());
        let first = failure(head(&lab, "a").await);
        for _ in 0..20 {
            rests(&lab, "a", &first).await;
        }
        assert_eq!(tokens_asked(&lab), 1);
        lab.says(token("t", 300)).says(answer(200));
        head(&lab, "b").await.expect("a head: another scope is not kept out");
        for _ in 0..10 {
            lab.pass(Duration::from_secs(30)).await;
            lab.says(fails.clone());
            assert_eq!(failure(head(&lab, "a").await), first);
            // There may be another token service by now, so the endpoint is asked for it.
            lab.says(bearer(CHALLENGE));
            rests(&lab, "a", &first).await;
        }
        lab.says(token("t", 300)).says(answer(200));
        head(&lab, "c").await.expect("a head: nor after many failures of the one");
        lab.pass(Duration::from_secs(30)).await;
        lab.says(token("t", 300)).says(answer(200));
        head(&lab, "a").await.expect("a head");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_service_that_fails_for_all_scopes_is_left_alone() {
    let lab = Lab::at("https://reg.example");
    for (name, is_challenged) in [("a", true), ("b", false), ("c", true), ("d", false), ("e", true)]
    {
        if is_challenged {
            lab.says(bearer(CHALLENGE));
        }
        lab.says(answer(503));
        failure(head(&lab, name).await);
    }
    assert_eq!(tokens_asked(&lab), 5);
    let first = Failure::ServerError { status: 503 };
    rests(&lab, "f", &first).await;
}

#[tokio::test(start_paused = true)]
async fn a_token_service_that_says_when_to_come_back_is_asked_then() {
    let lab = Lab::at("https://reg.example");
    lab.says(bearer(CHALLENGE)).says(answer(429).header("retry-after", "17"));
    let limited =
        |seconds| Failure::RateLimited { retry_after: Some(Duration::from_secs(seconds)) };
    assert_eq!(failure(head(&lab, "a").await), limited(17));
    lab.pass(Duration::from_secs(10)).await;
    for name in ["a", "b"] {
        assert_eq!(failure(head(&lab, name).await), limited(7));
    }
    lab.asked();
    lab.pass(Duration::from_secs(7)).await;
    lab.says(token("t", 300)).says(answer(200));
    head(&lab, "a").await.expect("a head");
}

#[tokio::test(start_paused = true)]
async fn a_token_is_used_to_its_end_if_there_is_no_new_one() {
    let lab = Lab::at("https://reg.example");
    lab.says(bearer(CHALLENGE)).says(token("t", 300)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    lab.asked();
    lab.pass(Duration::from_secs(270)).await;
    for said in [answer(503), answer(429)] {
        lab.says(said).says(answer(200));
        head(&lab, "a").await.expect("a head with the old token");
        assert_eq!(lab.asked()[1].auth(), Some("Bearer t"));
        // And the token service is not even asked.
        lab.says(answer(200));
        head(&lab, "a").await.expect("a head with the old token");
        assert_eq!(lab.asked()[0].auth(), Some("Bearer t"));
        lab.pass(Duration::from_secs(10)).await;
    }
    lab.pass(Duration::from_secs(10)).await;
    lab.says(answer(500));
    assert_eq!(failure(head(&lab, "a").await), Failure::ServerError { status: 500 });
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_not_used_to_its_end() {
    let lab = Lab::at("https://reg.example");
    lab.says(bearer(CHALLENGE)).says(token("t", 300)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    lab.pass(Duration::from_secs(270)).await;
    lab.says(answer(401));
    assert_eq!(failure(head(&lab, "a").await), Failure::Denied { status: 401 });
}

#[tokio::test]
async fn an_endpoint_that_moved_its_token_service_is_asked_anew() {
    let lab = Lab::at("https://reg.example");
    lab.says(bearer(CHALLENGE)).says(token("t", 300)).says(answer(200));
    head(&lab, "a").await.expect("a head");
    lab.says(answer(404));
    failure(head(&lab, "b").await);
    lab.says(bearer(r#"realm="https://new.example/token""#)).says(token("t2", 300));
    lab.says(answer(200));
    head(&lab, "b").await.expect("a head");
}

#[tokio::test]
async fn a_ready_token_is_sent_as_it_is() {
    let mut settings = settings(&["https://reg.example"]);
    settings.credentials = Some(Credentials::Token(Secret::new("s3cret")));
    let lab = Lab::new(&settings);
    lab.says(answer(200)).says(bearer(CHALLENGE));
    head(&lab, "a").await.expect("a head");
    assert_eq!(failure(head(&lab, "a").await), Failure::Denied { status: 401 });
    assert_eq!(lab.asked()[0].auth(), Some("Bearer s3cret"));
}

#[tokio::test]
async fn credentials_are_dropped_across_hosts_and_stay_dropped() {
    let mut settings = settings(&["https://reg.example"]);
    settings.credentials = Some(Credentials::Token(Secret::new("s3cret")));
    let lab = Lab::new(&settings);
    lab.says(answer(307).to("https://cdn.example/x?signature=1"))
        .says(answer(302).to("https://reg.example/back"))
        .says(answer(200).body("0123456789"));
    lab.upstream.get_blob(&repo("a"), &blob(), &BlobPart::whole()).await.expect("a body");
    let asked = lab.asked();
    let sent: Vec<_> = asked.iter().map(|asked| asked.auth().is_some()).collect();
    assert_eq!(sent, [true, false, false]);
    // Another port is another host.
    lab.says(answer(307).to("https://reg.example:8443/x")).says(answer(404));
    failure(lab.upstream.get_blob(&repo("a"), &blob(), &BlobPart::whole()).await);
    assert_eq!(lab.asked()[1].auth(), None);
}

#[tokio::test]
async fn a_challenge_from_another_host_is_not_answered() {
    let lab = Lab::new(&logged_in("https://reg.example"));
    lab.says(answer(307).to("https://cdn.example/x"))
        .says(bearer(r#"realm="https://auth.example/token""#));
    let outcome = lab.upstream.get_blob(&repo("a"), &blob(), &BlobPart::whole()).await;
    assert_eq!(failure(outcome), Failure::Denied { status: 401 });
    assert_eq!(lab.asked().len(), 2);
}

#[tokio::test]
async fn https_to_http_is_refused() {
    let lab = Lab::at("https://reg.example");
    lab.says(answer(307).to("http://cdn.example/x?signature=1"));
    let outcome = lab.upstream.get_blob(&repo("a"), &blob(), &BlobPart::whole()).await;
    let host = "cdn.example".into();
    assert_eq!(failure(outcome), Misbehaved::RedirectDowngrade { host }.into());
}

#[tokio::test]
async fn hops_are_passed_on() {
    let lab = Lab::at("https://reg.example");
    let id = LoopId::new("other").expect("an id");
    let before =
        HeaderMap::from_iter([(loop_guard::CDN_LOOP, HeaderValue::from_static("pierhead-first"))]);
    let hops = id.check(&before).expect("no loop");
    lab.says(answer(200));
    lab.upstream.after(hops).head_manifest(&repo("a"), &tag("1")).await.expect("a head");
    assert_eq!(lab.asked()[0].header("cdn-loop"), Some("pierhead-first, pierhead-test"));
}

/// Credentials that a plugin would bring.
struct Minted(Mutex<u32>);

#[async_trait]
impl CredentialSource for Minted {
    async fn credentials(
        &self,
        scope: &crate::scope::Scope,
    ) -> Result<Option<Granted>, CredentialError> {
        if scope.repo.as_str() == "broken" {
            return Err(CredentialError("the plugin trapped".into()));
        }
        let mut minted = self.0.lock().expect("a lock");
        *minted += 1;
        Ok(Some(Granted {
            credentials: Credentials::Token(Secret::new(format!("m{minted}"))),
            expires: Some(Timestamp::from_unix_ms(1_700_000_060_000)),
        }))
    }
}

#[tokio::test]
async fn credentials_with_an_end_are_kept_until_then_or_refused() {
    let settings = settings(&["https://reg.example"]);
    let lab = Lab::new(&settings);
    let mut parts = parts(
        &settings,
        Arc::clone(&lab.script) as Arc<dyn Transport>,
        &Registry::new(),
        &lab.clock,
    );
    parts.credentials = Arc::new(Minted(Mutex::new(0)));
    let upstream = Upstream::new(&settings, parts);
    let head = async |name| upstream.head_manifest(&repo(name), &tag("1")).await;
    lab.says(answer(200)).says(answer(200)).says(answer(401)).says(answer(200));
    head("a").await.expect("a head");
    head("a").await.expect("a head");
    head("a").await.expect("a head, with new credentials");
    let sent: Vec<_> =
        lab.asked().iter().map(|asked| asked.auth().expect("a login").to_owned()).collect();
    assert_eq!(sent, ["Bearer m1", "Bearer m1", "Bearer m1", "Bearer m2"]);
    let cause = "the plugin trapped".into();
    assert_eq!(failure(head("broken").await), Failure::NoCredentials { cause });
}
