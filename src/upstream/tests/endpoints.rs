//! Several endpoints: who is asked, and what is answered when they disagree.

use std::time::Duration;

use super::*;

fn two() -> Lab {
    Lab::new(&settings(&["https://one.example", "https://two.example"]))
}

async fn head(lab: &Lab) -> Result<ManifestHead, UpstreamError> {
    lab.upstream.head_manifest(&repo("a"), &tag("1")).await
}

fn hosts(lab: &Lab) -> Vec<String> {
    lab.asked().iter().map(|asked| asked.url()[8..11].to_owned()).collect()
}

fn refused() -> TransportError {
    TransportError::Connect("connection refused".into())
}

#[tokio::test]
async fn every_failure_moves_on_to_the_next_endpoint() {
    for status in [400, 403, 404, 429, 500, 503] {
        let lab = two();
        lab.says(answer(status)).says(answer(200));
        head(&lab).await.expect("a head");
        assert_eq!(hosts(&lab), ["one", "two"]);
    }
    for error in [refused(), TransportError::Timeout, TransportError::Tls("x".into())] {
        let lab = two();
        lab.fails(error).says(answer(200));
        head(&lab).await.expect("a head");
    }
}

#[tokio::test]
async fn absence_is_proven_only_if_all_agree() {
    let lab = two();
    lab.says(answer(404)).says(answer(404));
    assert_eq!(failure(head(&lab).await), Failure::NotFound);
    lab.says(answer(404)).says(answer(403));
    assert_eq!(failure(head(&lab).await), Failure::Denied { status: 403 });
    lab.says(answer(500)).says(answer(404));
    let error = head(&lab).await.expect_err("a failure");
    assert_eq!(error.failure, Failure::ServerError { status: 500 });
    assert_eq!(&*error.host, "one.example");
}

#[tokio::test]
async fn a_rate_limit_says_more_than_an_outage() {
    let lab = two();
    lab.says(answer(429)).fails(refused());
    assert_eq!(failure(head(&lab).await), Failure::RateLimited { retry_after: None });
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_in_trouble_comes_last_for_a_while() {
    let lab = two();
    lab.fails(refused()).says(answer(200)).says(answer(200));
    head(&lab).await.expect("a head");
    head(&lab).await.expect("a head");
    assert_eq!(hosts(&lab), ["one", "two", "two"]);
    lab.pass(Duration::from_secs(10)).await;
    lab.says(answer(200));
    head(&lab).await.expect("a head");
    assert_eq!(hosts(&lab), ["one"]);
    // A missing manifest is no trouble.
    lab.says(answer(404)).says(answer(200)).says(answer(200));
    head(&lab).await.expect("a head");
    head(&lab).await.expect("a head");
    assert_eq!(hosts(&lab), ["one", "two", "one"]);
}

#[tokio::test]
async fn a_broken_body_sends_the_next_try_to_another_endpoint() {
    let lab = two();
    lab.says(answer(200).header("content-length", "10").chunk("0123").broken());
    let mut body =
        lab.upstream.get_blob(&repo("a"), &blob(), &BlobPart::whole()).await.expect("a body");
    body.chunk().await.expect("a chunk");
    failure(body.chunk().await);
    lab.says(answer(206).header("content-range", "bytes 4-9/10").body("456789"));
    let body =
        lab.upstream.get_blob(&repo("a"), &blob(), &BlobPart::from(4)).await.expect("a body");
    assert_eq!(read(body).await.expect("the rest"), "456789");
    assert_eq!(hosts(&lab), ["one", "two"]);
}

#[tokio::test]
async fn a_connection_that_breaks_before_an_answer_is_tried_once_more() {
    let lab = Lab::at("https://one.example");
    lab.fails(TransportError::Interrupted).says(answer(200));
    head(&lab).await.expect("a head");
    lab.fails(TransportError::Interrupted).fails(TransportError::Interrupted);
    assert_eq!(failure(head(&lab).await), Failure::Interrupted);
}

#[tokio::test]
async fn our_own_address_is_a_loop() {
    let lab = Lab::at("https://one.example");
    lab.fails(TransportError::Refused(transport::Refusal::Own));
    assert_eq!(failure(head(&lab).await), Failure::LoopDetected);
    lab.says(answer(508));
    assert_eq!(failure(head(&lab).await), Failure::LoopDetected);
}

#[tokio::test]
async fn tokens_are_kept_by_endpoint() {
    let lab = two();
    let challenge = r#"realm="https://auth.example/t""#;
    lab.says(bearer(challenge)).says(token("one", 300)).says(answer(404));
    lab.says(bearer(challenge)).says(token("two", 300)).says(answer(200));
    head(&lab).await.expect("a head");
    lab.says(answer(404)).says(answer(200));
    head(&lab).await.expect("a head");
    let asked = lab.asked();
    assert_eq!(asked[6].auth(), Some("Bearer one"));
    assert_eq!(asked[7].auth(), Some("Bearer two"));
}

#[tokio::test]
async fn an_upstream_without_endpoints_says_so() {
    let lab = Lab::new(&settings(&[]));
    let error = head(&lab).await.expect_err("a failure");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
}
