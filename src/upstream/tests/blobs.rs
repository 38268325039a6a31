//! Bodies, whole and in parts.

use super::*;

async fn get(lab: &Lab, from: u64) -> Result<BlobBody, UpstreamError> {
    lab.upstream.get_blob(&repo("a"), &blob(), &BlobPart::from(from)).await
}

#[tokio::test]
async fn a_blob_arrives_whole() {
    let lab = Lab::at("https://reg.example");
    lab.says(answer(200).header("content-length", "10").chunk("01234").chunk("").chunk("56789"));
    let body = get(&lab, 0).await.expect("a body");
    assert_eq!(body.size, Some(10));
    assert_eq!(&**body.host(), "reg.example");
    assert_eq!(read(body).await.expect("a blob"), "0123456789");
    let asked = lab.asked();
    assert_eq!(asked[0].header("range"), None);
    assert_eq!(asked[0].url(), format!("https://reg.example/v2/a/blobs/{}", blob()));
}

#[tokio::test]
async fn a_body_that_ends_early_is_interrupted() {
    for said in [
        answer(200).header("content-length", "10").chunk("01234"),
        answer(200).header("content-length", "10").chunk("01234").broken(),
        answer(200).chunk("01234").broken(),
    ] {
        let lab = Lab::at("https://reg.example");
        lab.says(said);
        let mut body = get(&lab, 0).await.expect("a body");
        assert_eq!(body.chunk().await.expect("a chunk").expect("bytes"), "01234");
        assert_eq!(failure(body.chunk().await), Failure::Interrupted);
        assert_eq!(body.position(), 5);
    }
}

#[tokio::test]
async fn a_body_that_goes_on_is_refused() {
    let lab = Lab::at("https://reg.example");
    lab.says(answer(200).header("content-length", "5").chunk("0123456789"));
    let outcome = read(get(&lab, 0).await.expect("a body")).await;
    let mismatch = Misbehaved::LengthMismatch { announced: 5, sent: 10 };
    assert_eq!(failure(outcome), mismatch.into());
}

#[tokio::test]
async fn a_blob_without_a_length_ends_where_it_ends() {
    let lab = Lab::at("https://reg.example");
    lab.says(answer(200).chunk("0123456789"));
    let body = get(&lab, 0).await.expect("a body");
    assert_eq!(body.size, None);
    assert_eq!(read(body).await.expect("a blob"), "0123456789");
}

#[tokio::test]
async fn the_rest_of_a_blob_is_asked_for_by_range() {
    let lab = Lab::at("https://reg.example");
    lab.says(answer(307).to("https://cdn.example/x"));
    lab.says(answer(206).header("content-range", "bytes 4-9/10").body("456789"));
    let body = get(&lab, 4).await.expect("a body");
    assert_eq!(body.size, Some(10));
    assert_eq!(read(body).await.expect("the rest"), "456789");
    for asked in lab.asked() {
        assert_eq!(asked.header("range"), Some("bytes=4-"));
    }
}

#[tokio::test]
async fn a_part_is_asked_for_by_range() {
    let lab = Lab::at("https://reg.example");
    lab.says(answer(206).header("content-range", "bytes 4-6/*").body("456"));
    lab.says(answer(206).header("content-range", "bytes 8-9/10").body("89"));
    let part =
        lab.upstream.get_blob(&repo("a"), &blob(), &BlobPart::span(4..7)).await.expect("a body");
    assert_eq!(part.size, None);
    assert_eq!(read(part).await.expect("a part"), "456");
    let part =
        lab.upstream.get_blob(&repo("a"), &blob(), &BlobPart::span(8..12)).await.expect("a body");
    assert_eq!(read(part).await.expect("the end"), "89");
    let asked = lab.asked();
    assert_eq!(asked[0].header("range"), Some("bytes=4-6"));
    assert_eq!(asked[1].header("range"), Some("bytes=8-11"));
}

#[tokio::test]
async fn an_answer_of_another_range_is_refused() {
    let ranged = |range: &str| answer(206).header("content-range", range).body("456789");
    for said in [
        answer(206).body("456789"),
        ranged("bytes 3-9/10"),
        ranged("bytes 5-9/10"),
        ranged("bytes 0-9/10"),
        ranged("bytes */10"),
        ranged("lines 4-9/10"),
        answer(206).header("content-type", "multipart/byteranges; boundary=x").body("--x"),
    ] {
        let lab = Lab::at("https://reg.example");
        lab.says(said);
        assert_eq!(failure(get(&lab, 4).await), Misbehaved::WrongRange.into());
    }
}

#[tokio::test]
async fn the_whole_instead_of_a_part_is_said_to_be_that() {
    let lab = Lab::at("https://reg.example");
    lab.says(answer(200).body("0123456789"));
    let body = get(&lab, 4).await.expect("a body");
    assert!(body.is_range_ignored);
    assert_eq!((body.position(), body.size), (0, Some(10)));
    assert_eq!(read(body).await.expect("the whole"), "0123456789");
}

#[tokio::test]
async fn a_part_is_asked_for_only_if_the_content_is_still_the_same() {
    let lab = Lab::at("https://reg.example");
    lab.says(answer(200).header("etag", "\"one\"").body("0123456789"));
    lab.says(answer(206).header("content-range", "bytes 4-9/10").body("456789"));
    lab.says(answer(200).header("etag", "W/\"weak\"").body("0123456789"));
    let body = get(&lab, 0).await.expect("a body");
    let etag = body.etag.clone().expect("a strong validator");
    assert_eq!(etag.as_bytes(), b"\"one\"");
    let etag = Some((Arc::clone(body.host()), etag));
    let part = BlobPart::from(4).if_still(etag.clone());
    lab.upstream.get_blob(&repo("a"), &blob(), &part).await.expect("a body");
    let whole = BlobPart::whole().if_still(etag);
    let weak = lab.upstream.get_blob(&repo("a"), &blob(), &whole).await.expect("a body").etag;
    assert_eq!(weak, None, "it says nothing about the bytes");
    let asked = lab.asked();
    assert_eq!(asked[1].header("if-range"), Some("\"one\""));
    assert_eq!(asked[2].header("if-range"), None);
    let lab = Lab::at("https://other.example");
    lab.says(answer(206).header("content-range", "bytes 4-9/10").body("456789"));
    lab.upstream.get_blob(&repo("a"), &blob(), &part).await.expect("a body");
    assert_eq!(lab.asked()[0].header("if-range"), None, "it may call it something else");
}

#[tokio::test]
async fn less_than_the_rest_is_not_the_end() {
    let lab = Lab::at("https://reg.example");
    lab.says(answer(206).header("content-range", "bytes 4-6/10").body("456"));
    let mut body = get(&lab, 4).await.expect("a body");
    assert_eq!(body.chunk().await.expect("a chunk").expect("bytes"), "456");
    assert_eq!(failure(body.chunk().await), Failure::Interrupted);
    assert_eq!(body.position(), 7);
}

#[tokio::test]
async fn a_part_whose_headers_disagree_is_refused() {
    let lab = Lab::at("https://reg.example");
    lab.says(answer(206).header("content-range", "bytes 4-9/10").body("45"));
    let mismatch = Misbehaved::LengthMismatch { announced: 2, sent: 6 };
    assert_eq!(failure(get(&lab, 4).await), mismatch.into());
}

#[tokio::test]
async fn encoded_bodies_are_refused() {
    for encoding in ["gzip", "zstd", "identity, gzip"] {
        let lab = Lab::at("https://reg.example");
        lab.says(answer(200).header("content-encoding", encoding).body("x"));
        let expected = Misbehaved::Encoded { encoding: encoding.into() };
        assert_eq!(failure(get(&lab, 0).await), expected.into());
    }
    let lab = Lab::at("https://reg.example");
    lab.says(answer(200).header("content-encoding", "identity").body("x"));
    get(&lab, 0).await.expect("a body");
}

#[tokio::test]
async fn a_manifest_has_a_limit_announced_or_not() {
    let limit = crate::oci::MANIFEST_BYTES_MAX;
    let large = "x".repeat(limit + 1);
    for said in
        [answer(200).header("content-length", &large.len().to_string()), answer(200).chunk(&large)]
    {
        let lab = Lab::at("https://reg.example");
        lab.says(said);
        let outcome = lab.upstream.get_manifest(&repo("a"), &tag("1")).await;
        assert_eq!(failure(outcome), Misbehaved::ManifestTooLarge.into());
    }
    let lab = Lab::at("https://reg.example");
    lab.says(answer(200).body(&large[..limit]));
    lab.upstream.get_manifest(&repo("a"), &tag("1")).await.expect("a manifest");
}

#[tokio::test]
async fn a_manifest_names_its_digest() {
    let digest = Digest::sha256(b"{}");
    let lab = Lab::at("https://reg.example");
    lab.says(answer(200).header("docker-content-digest", &digest.to_string()).body("{}"));
    lab.says(answer(200).header("docker-content-digest", "md5:x").header("content-length", "2"));
    let manifest = lab.upstream.get_manifest(&repo("a"), &tag("1")).await.expect("a manifest");
    assert_eq!(manifest.digest_header, Some(digest));
    let head = lab.upstream.head_manifest(&repo("a"), &tag("1")).await.expect("a head");
    assert_eq!(head, ManifestHead { digest: None, media_type: None, size: Some(2) });
}
