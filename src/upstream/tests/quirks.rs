//! The quirks of real registries, one test each, named after the registry.

use std::time::Duration;

use super::*;

const HUB: &str = "https://registry-1.docker.io";
const HUB_CHALLENGE: &str = r#"realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/redis:pull""#;

#[tokio::test]
async fn docker_hub_answers_401_for_a_repository_that_does_not_exist() {
    let lab = Lab::at(HUB);
    lab.says(bearer(HUB_CHALLENGE))
        .says(token("t1", 300))
        .says(bearer(&format!(r#"{HUB_CHALLENGE},error="insufficient_scope""#)));
    let outcome = lab.upstream.head_manifest(&repo("library/redis"), &tag("nope")).await;
    assert_eq!(failure(outcome), Failure::Denied { status: 401 });
    // A fresh token that is for too little is not worth another one.
    assert_eq!(lab.asked().len(), 3);
    assert_eq!(lab.counted("manifest_head", "denied"), 1.0);
}

#[tokio::test]
async fn docker_hub_says_what_is_left_of_the_allowance() {
    let lab = Lab::at(HUB);
    lab.says(
        answer(200)
            .header("ratelimit-limit", "100;w=21600")
            .header("ratelimit-remaining", "7;w=21600"),
    );
    assert_eq!(lab.upstream.rate_limit(), None);
    lab.upstream.head_manifest(&repo("library/redis"), &tag("7")).await.expect("a head");
    assert_eq!(lab.upstream.rate_limit().map(|limit| limit.remaining), Some(7));
}

#[tokio::test]
async fn docker_hub_has_an_undocumented_abuse_limit_without_retry_after() {
    let lab = Lab::at(HUB);
    lab.says(answer(429).header("content-type", "text/html").body("<html>"));
    let outcome = lab.upstream.get_manifest(&repo("library/redis"), &tag("7")).await;
    assert_eq!(failure(outcome), Failure::RateLimited { retry_after: None });
}

#[tokio::test]
async fn docker_hub_limits_its_token_service_too() {
    let lab = Lab::at(HUB);
    lab.says(bearer(HUB_CHALLENGE)).says(answer(429).header("retry-after", "30"));
    let outcome = lab.upstream.get_manifest(&repo("library/redis"), &tag("7")).await;
    let retry_after = Some(Duration::from_secs(30));
    assert_eq!(failure(outcome), Failure::RateLimited { retry_after });
}

#[tokio::test]
async fn ghcr_answers_403_to_a_token_request_without_scope_so_there_is_always_one() {
    let lab = Lab::at("https://ghcr.io");
    lab.says(bearer(r#"realm="https://ghcr.io/token",service="ghcr.io""#))
        .says(token("t", 300))
        .says(answer(200));
    lab.upstream.head_manifest(&repo("owner/app"), &tag("1")).await.expect("a head");
    let asked = lab.asked();
    let expected = "https://ghcr.io/token?service=ghcr.io&scope=repository%3Aowner%2Fapp%3Apull";
    assert_eq!(asked[1].url(), expected);
    assert_eq!(asked[2].auth(), Some("Bearer t"));
}

#[tokio::test]
async fn ghcr_refuses_tokens_for_private_packages() {
    let lab = Lab::at("https://ghcr.io");
    lab.says(bearer(r#"realm="https://ghcr.io/token",service="ghcr.io""#)).says(answer(401));
    let outcome = lab.upstream.head_manifest(&repo("owner/private"), &tag("1")).await;
    assert_eq!(failure(outcome), Failure::Denied { status: 401 });
}

#[tokio::test]
async fn ghcr_and_quay_judge_by_accept_so_everything_is_accepted() {
    let lab = Lab::at("https://quay.io");
    lab.says(answer(200).body("{}"));
    lab.upstream.get_manifest(&repo("a/b"), &tag("1")).await.expect("a manifest");
    let asked = lab.asked();
    let accept = asked[0].header("accept").expect("an Accept");
    for wanted in [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ] {
        assert!(accept.contains(wanted), "{accept}");
    }
    assert_eq!(asked[0].header("accept-encoding"), Some("identity"));
    assert_eq!(asked[0].header("cdn-loop"), Some("pierhead-test"));
    assert!(asked[0].header("user-agent").expect("a name").starts_with("pierhead/"));
}

#[tokio::test]
async fn quay_has_502_outages() {
    let lab = Lab::at("https://quay.io");
    lab.says(answer(502).body("<html>"));
    let outcome = lab.upstream.get_manifest(&repo("a/b"), &tag("1")).await;
    assert_eq!(failure(outcome), Failure::ServerError { status: 502 });
}

#[tokio::test]
async fn gcr_answers_401_without_www_authenticate() {
    let lab = Lab::at("https://gcr.io");
    lab.says(answer(401));
    let outcome = lab.upstream.get_manifest(&repo("project/app"), &tag("1")).await;
    assert_eq!(failure(outcome), Failure::Denied { status: 401 });
    assert_eq!(lab.asked().len(), 1);
}

#[tokio::test]
async fn gar_redirects_relatively_and_to_itself_with_the_token() {
    let lab = Lab::at("https://europe-docker.pkg.dev");
    lab.says(bearer(r#"realm="https://europe-docker.pkg.dev/v2/token",service="x""#))
        .says(token("t", 300))
        .says(answer(302).to("/artifacts-downloads/x?y=1"))
        .says(answer(200).body("0123456789"));
    let body =
        lab.upstream.get_blob(&repo("p/r/app"), &blob(), &BlobPart::whole()).await.expect("a body");
    assert_eq!(read(body).await.expect("a blob"), "0123456789");
    let asked = lab.asked();
    assert_eq!(asked[3].url(), "https://europe-docker.pkg.dev/artifacts-downloads/x?y=1");
    assert_eq!(asked[3].auth(), Some("Bearer t"));
    assert_eq!(asked[3].reach, Reach::Endpoint);
}

#[tokio::test]
async fn registry_k8s_io_has_no_auth_and_redirects_everything() {
    let lab = Lab::at("https://registry.k8s.io");
    lab.says(answer(307).to("https://us.pkg.dev/v2/k8s/images/pause/manifests/3.9")).says(
        answer(200).header("content-type", "application/vnd.oci.image.index.v1+json").body("{}"),
    );
    let manifest =
        lab.upstream.get_manifest(&repo("pause"), &tag("3.9")).await.expect("a manifest");
    assert_eq!(&manifest.bytes[..], b"{}");
    assert_eq!(manifest.media_type, Some(crate::oci::MediaType::OCI_INDEX));
    let asked = lab.asked();
    assert_eq!(asked[1].reach, Reach::Guarded { endpoint: 0 });
    assert!(asked[1].header("accept").expect("an Accept").contains("oci.image.index"));
}

#[tokio::test]
async fn registry_k8s_io_sends_400_for_a_resume() {
    let lab = Lab::at("https://registry.k8s.io");
    lab.says(answer(307).to("https://us.pkg.dev/x")).says(answer(400));
    let outcome = lab.upstream.get_blob(&repo("pause"), &blob(), &BlobPart::from(5)).await;
    assert_eq!(failure(outcome), Failure::UnexpectedStatus { status: 400 });
}

#[tokio::test]
async fn public_ecr_wants_a_token_for_the_scope_aws() {
    let lab = Lab::at("https://public.ecr.aws");
    let challenge = r#"realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#;
    lab.says(bearer(challenge)).says(token("t", 300)).says(answer(200)).says(answer(200));
    lab.upstream.head_manifest(&repo("nginx/nginx"), &tag("1")).await.expect("a head");
    // The next repository needs neither a refusal nor another token.
    lab.upstream.head_manifest(&repo("redis/redis"), &tag("1")).await.expect("a head");
    let asked = lab.asked();
    assert_eq!(asked[1].url(), "https://public.ecr.aws/token/?service=public.ecr.aws&scope=aws");
    assert_eq!(asked[3].auth(), Some("Bearer t"));
}

#[tokio::test]
async fn ecr_wants_basic_and_redirects_to_s3_which_refuses_it() {
    let mut settings = settings(&["https://1.dkr.ecr.eu-west-1.amazonaws.com"]);
    settings.credentials = password();
    let lab = Lab::new(&settings);
    lab.says(answer(401).header("www-authenticate", r#"Basic realm="https://1.dkr.ecr/""#))
        .says(answer(307).to("https://s3.amazonaws.com/x?signature=1"))
        .says(answer(200).body("0123456789"))
        .says(answer(200));
    lab.upstream.get_blob(&repo("app"), &blob(), &BlobPart::whole()).await.expect("a body");
    lab.upstream.head_manifest(&repo("other"), &tag("1")).await.expect("a head");
    let asked = lab.asked();
    assert_eq!(asked[0].auth(), None);
    assert_eq!(asked[1].auth(), Some("Basic YW5uOnMzY3JldA=="));
    assert_eq!(asked[2].auth(), None, "storage must not see the password");
    assert_eq!(asked[3].auth(), Some("Basic YW5uOnMzY3JldA=="), "the scheme is known by now");
}

#[tokio::test]
async fn mcr_answers_429_with_a_body_that_is_not_json() {
    let lab = Lab::at("https://mcr.microsoft.com");
    lab.says(answer(429).header("retry-after", "9").body("Ref A: 1 Ref B: 2"));
    let outcome = lab.upstream.get_manifest(&repo("dotnet/sdk"), &tag("8.0")).await;
    let retry_after = Some(Duration::from_secs(9));
    assert_eq!(failure(outcome), Failure::RateLimited { retry_after });
}

#[tokio::test]
async fn redhat_calls_manifests_text_plain() {
    let lab = Lab::at("https://registry.access.redhat.com");
    lab.says(answer(200).header("content-type", "text/plain; charset=utf-8").body("{}"));
    let manifest = lab.upstream.get_manifest(&repo("ubi9"), &tag("1")).await.expect("a manifest");
    assert_eq!(manifest.media_type, None, "the manifest itself must tell");
}

#[tokio::test]
async fn artifactory_answers_400_instead_of_404() {
    let lab = Lab::at("https://artifactory.example/artifactory/api/docker/remote");
    lab.says(answer(400));
    let outcome = lab.upstream.head_manifest(&repo("a/b"), &tag("1")).await;
    assert_eq!(failure(outcome), Failure::UnexpectedStatus { status: 400 });
    let expected = "https://artifactory.example/artifactory/api/docker/remote/v2/a/b/manifests/1";
    assert_eq!(lab.asked()[0].url(), expected);
}

#[tokio::test]
async fn a_registry_without_head_is_asked_with_get() {
    let lab = Lab::at("https://old.example");
    lab.says(answer(405)).says(answer(200).body("{}"));
    let head = lab.upstream.head_manifest(&repo("a"), &tag("1")).await.expect("a head");
    assert_eq!(head.digest, Some(Digest::sha256(b"{}")));
    assert_eq!(head.size, Some(2));
}

#[tokio::test]
async fn storage_whose_signature_is_for_get_is_asked_for_the_first_byte() {
    let lab = Lab::at("https://reg.example");
    let there = "https://s3.example/b?signature=1";
    lab.says(answer(307).to(there))
        .says(answer(403))
        .says(answer(307).to(there))
        .says(answer(206).header("content-range", "bytes 0-0/10").body("0"));
    let head = lab.upstream.head_blob(&repo("a"), &blob()).await.expect("a head");
    assert_eq!(head.size, Some(10));
    assert_eq!(lab.asked()[3].header("range"), Some("bytes=0-0"));
}

#[tokio::test]
async fn quay_pages_tags_by_a_word_of_its_own() {
    let lab = Lab::at("https://quay.io");
    lab.says(
        answer(200)
            .header("link", r#"</v2/a/tags/list?next_page=gAAA&n=2>; rel="next""#)
            .body(r#"{"name":"a","tags":["1","2"]}"#),
    )
    .says(answer(200).body(r#"{"name":"a","tags":null}"#));
    let page = lab.upstream.tags(&repo("a"), Some(2), None).await.expect("tags");
    assert_eq!(page.next, Some(NextTags { n: Some(2), last: "2".to_owned() }));
    let page = lab.upstream.tags(&repo("a"), Some(2), Some("2")).await.expect("tags");
    assert_eq!(page, TagPage { tags: Vec::new(), next: None });
    assert_eq!(lab.asked()[1].url(), "https://quay.io/v2/a/tags/list?n=2&last=2");
}

#[tokio::test]
async fn referrers_are_read_page_by_page() {
    let lab = Lab::at("https://reg.example");
    let here = format!("/v2/a/referrers/{}", blob());
    lab.says(
        answer(200)
            .header("link", &format!(r#"<{here}?page=2>; rel="next""#))
            .body(r#"{"manifests":[{"digest":"x"}]}"#),
    )
    .says(answer(200).body(r#"{"manifests":[{"digest":"y"}]}"#));
    let listed = lab.upstream.referrers(&repo("a"), &blob()).await.expect("referrers");
    let Referrers::Listed { descriptors, truncated: false } = listed else {
        panic!("not listed: {listed:?}")
    };
    assert_eq!(descriptors.len(), 2);
    assert!(lab.asked()[1].url().ends_with("?page=2"));
}

#[tokio::test]
async fn referrers_are_not_known_everywhere() {
    for status in [404, 405, 501] {
        let lab = Lab::at("https://reg.example");
        lab.says(answer(status));
        let listed = lab.upstream.referrers(&repo("a"), &blob()).await.expect("an answer");
        assert_eq!(listed, Referrers::Unsupported);
    }
    let lab = Lab::at("https://reg.example");
    lab.says(answer(200).body("<html>"));
    let outcome = lab.upstream.referrers(&repo("a"), &blob()).await;
    let garbled = Misbehaved::Garbled { what: "list of referrers" };
    assert_eq!(failure(outcome), garbled.into());
}

#[tokio::test]
async fn a_page_elsewhere_is_not_followed() {
    let lab = Lab::at("https://reg.example");
    lab.says(
        answer(200)
            .header("link", r#"<https://evil.example/v2/a/referrers/x>; rel="next""#)
            .body("{}"),
    );
    let outcome = lab.upstream.referrers(&repo("a"), &blob()).await;
    assert_eq!(failure(outcome), Misbehaved::BadLocation.into());
}
