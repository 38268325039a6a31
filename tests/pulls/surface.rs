//! The registry API as clients see it: headers, ranges, conditions, lists, errors.

use pierhead_kit::http::{self, Request, head};
use pierhead_kit::random::Random;
use pierhead_kit::upstream::{Fault, FaultyUpstream, On};

use super::{blob_url, code, get_range, manifest_url, pierhead, wait_until_stored};

const MIB: u64 = 1024 * 1024;

#[test]
fn base() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "");
    for path in ["/v2/", "/v2", "/v2/?ns=docker.io&x=y"] {
        let answer = http::get(format!("{}{path}", pierhead.url())).expect(200);
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
        assert_eq!(answer.json(), serde_json::json!({}));
    }
    let answer = Request::new("POST", format!("{}/v2/", pierhead.url())).send();
    assert_eq!((answer.status, code(&answer).as_str()), (405, "UNSUPPORTED"));
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    assert_eq!(upstream.log().len(), 0, "the base needs no upstream");
}

#[test]
fn get_and_head_have_the_headers_that_clients_need() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/a", "v1", vec![vec![1_u8; 100_000]]);
    let pierhead = pierhead(&upstream, "");
    let layer = &image.layers[0];
    let blob = blob_url(&pierhead, "library/a", layer);
    let cold = head(&*blob);
    http::get(&*blob).expect(200);
    wait_until_stored(&pierhead, 1.0);
    for answer in [cold, head(&*blob), http::get(&*blob).expect(200)] {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-length"), Some("100000"));
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        assert_eq!(answer.header("docker-content-digest"), Some(layer.as_str()));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert_eq!(answer.header("etag"), Some(format!("\"{layer}\"").as_str()));
        let cache_control = answer.header("cache-control").unwrap();
        assert!(cache_control.contains("immutable"), "{cache_control}");
        assert!(answer.header("x-request-id").is_some());
        assert!(answer.header("cache-status").unwrap().starts_with("pierhead"));
    }
    let manifest = manifest_url(&pierhead, "library/a", "v1");
    let (got, headed) = (http::get(&*manifest).expect(200), head(&*manifest));
    for name in ["content-length", "content-type", "docker-content-digest", "etag"] {
        assert!(got.header(name).is_some(), "{name}");
        assert_eq!(got.header(name), headed.header(name), "{name}");
    }
    assert_eq!(got.header("cache-control"), Some("no-cache"), "a tag may move");
}

#[test]
fn what_the_client_has_is_not_sent_again() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/a", "v1", vec![vec![1_u8; 1000]]);
    let pierhead = pierhead(&upstream, "");
    for url in [
        blob_url(&pierhead, "library/a", &image.layers[0]),
        manifest_url(&pierhead, "library/a", "v1"),
    ] {
        let etag = http::get(&*url).expect(200).header("etag").unwrap().to_owned();
        for value in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".into()] {
            let answer = Request::new("GET", &*url).header("If-None-Match", value).send();
            assert_eq!((answer.status, answer.body.len()), (304, 0));
            assert_eq!(answer.header("etag"), Some(etag.as_str()));
        }
        Request::new("GET", &*url).header("If-None-Match", "\"other\"").send().expect(200);
    }
}

#[test]
fn single_ranges_of_stored_blobs() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 2 * MIB;
    let digest = upstream.add_random_blob("library/a", 1, size);
    let random = Random::new(1, size);
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    http::get(&*url).expect(200);
    wait_until_stored(&pierhead, 1.0);
    for (range, start, len) in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-1", 0, 2),
        ("bytes=5-", 5, size - 5),
        ("bytes=-1", size - 1, 1),
        ("bytes=-99999999999999999999999", 0, size),
        ("bytes=1000000-1299999", 1_000_000, 300_000),
        ("bytes=100-99999999999999999999", 100, size - 100),
        ("BYTES = 7-8", 7, 2),
    ] {
        let part = get_range(&url, range).expect(206);
        assert_eq!(
            part.header("content-range").unwrap(),
            format!("bytes {start}-{}/{size}", start + len - 1),
            "{range}"
        );
        assert_eq!(part.header("content-length"), Some(len.to_string().as_str()));
        assert!(part.body == random.part(start, len as usize), "{range}");
    }
    for range in [format!("bytes={size}-"), "bytes=-0".into(), "bytes=9999999999-".into()] {
        let answer = get_range(&url, &range);
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.header("content-range").unwrap(), format!("bytes */{size}"));
        code(&answer);
    }
    for range in ["bytes=5-2", "bytes=", "bytes=a-b", "lines=1-2", "nonsense", "bytes=1-2-3"] {
        assert_eq!(get_range(&url, range).expect(200).body.len() as u64, size, "{range}");
    }
    let etag = format!("\"{digest}\"");
    for (if_range, status) in [(etag.as_str(), 206), ("\"other\"", 200)] {
        Request::new("GET", &*url)
            .header("Range", "bytes=1-2")
            .header("If-Range", if_range)
            .send()
            .expect(status);
    }
}

#[test]
fn several_ranges_of_stored_blobs() {
    let upstream = FaultyUpstream::start_blocking();
    let size = 2 * MIB;
    let digest = upstream.add_random_blob("library/a", 2, size);
    let random = Random::new(2, size);
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/a", &digest);
    http::get(&*url).expect(200);
    wait_until_stored(&pierhead, 1.0);

    let answer = get_range(&url, "bytes=0-9, 1000-1499,-5").expect(206);
    let content_type = answer.header("content-type").unwrap();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut expected = Vec::new();
    for (index, (start, len)) in [(0, 10), (1000, 500), (size - 5, 5)].into_iter().enumerate() {
        if index > 0 {
            expected.extend_from_slice(b"\r\n");
        }
        let last = start + len - 1;
        expected.extend_from_slice(
            format!(
                "--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                 Content-Range: bytes {start}-{last}/{size}\r\n\r\n"
            )
            .as_bytes(),
        );
        expected.extend(random.part(start, len as usize));
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(answer.body == expected, "{answer:?}");

    // podman's zstd:chunked asks for up to 1024 parts.
    let many: Vec<_> = (0..1024).map(|n| format!("{}-{}", n * 2000, n * 2000 + 99)).collect();
    let answer = get_range(&url, &format!("bytes={}", many.join(","))).expect(206);
    assert_eq!(answer.text().matches("Content-Range: bytes").count(), 1024);

    // Overlaps that ask for more than there is get the whole, once.
    let overlapping = vec!["0-"; 50].join(",");
    let answer = get_range(&url, &format!("bytes={overlapping}")).expect(200);
    assert_eq!(answer.body.len() as u64, size);
}

#[test]
fn tags_are_listed_in_pages_with_links_of_our_own() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/a", "t0", vec![vec![1_u8; 10]]);
    for n in 1..5 {
        upstream.set_tag("library/a", &format!("t{n}"), &image.manifest);
    }
    let pierhead = pierhead(&upstream, "");
    let list = |name: &str, query: &str| {
        http::get(format!("{}/v2/{name}/tags/list{query}", pierhead.url()))
    };
    let all = list("a", "").expect(200).json();
    assert_eq!(all["name"], "a");
    assert_eq!(all["tags"], serde_json::json!(["t0", "t1", "t2", "t3", "t4"]));

    let page = list("docker.io/library/a", "?n=2&unknown=1").expect(200);
    assert_eq!(page.json()["tags"], serde_json::json!(["t0", "t1"]));
    let link = page.header("link").unwrap();
    assert_eq!(link, "</v2/docker.io/library/a/tags/list?n=2&last=t1>; rel=\"next\"");
    let page = list("library/a", "?n=2&last=t3").expect(200);
    assert_eq!(page.json()["tags"], serde_json::json!(["t4"]));
    assert_eq!(page.header("link"), None);

    assert_eq!(list("a", "?n=0").expect(200).json()["tags"], serde_json::json!([]));
    let bad = list("a", "?n=many");
    assert_eq!((bad.status, code(&bad).as_str()), (400, "UNSUPPORTED"));
    let unknown = list("none", "");
    assert_eq!((unknown.status, code(&unknown).as_str()), (404, "NAME_UNKNOWN"));

    http::get(manifest_url(&pierhead, "library/a", "t1")).expect(200);
    upstream.down();
    let known = list("a", "").expect(200);
    assert_eq!(known.json()["tags"], serde_json::json!(["t1"]));
    assert!(known.header("warning").is_some());
}

#[test]
fn referrers_are_listed_filtered_and_never_404() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/a", "v1", vec![vec![1_u8; 10]]);
    let pierhead = pierhead(&upstream, "tag_ttl = \"0s\"\n");
    let url = format!("{}/v2/library/a/referrers/{}", pierhead.url(), image.manifest);
    let empty = http::get(&*url).expect(200);
    assert_eq!(empty.header("content-type"), Some("application/vnd.oci.image.index.v1+json"));
    assert_eq!(empty.json()["manifests"], serde_json::json!([]));

    upstream.add_referrer("library/a", &image.manifest, "application/x.sbom");
    upstream.add_referrer("library/a", &image.manifest, "application/x.signature");
    let all = http::get(&*url).expect(200).json();
    assert_eq!(all["manifests"].as_array().unwrap().len(), 2);
    let one = http::get(format!("{url}?artifactType=application/x.sbom")).expect(200);
    assert_eq!(one.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(one.json()["manifests"].as_array().unwrap().len(), 1);

    upstream.down();
    let stale = http::get(&*url).expect(200);
    assert_eq!(stale.json()["manifests"].as_array().unwrap().len(), 2);
    assert!(stale.header("warning").is_some());

    upstream.up();
    upstream.set_referrers(false);
    http::get(&*url).expect(200);

    let bad = http::get(format!("{}/v2/library/a/referrers/v1", pierhead.url()));
    assert_eq!((bad.status, code(&bad).as_str()), (400, "DIGEST_INVALID"));
}

#[test]
fn every_error_has_the_specifications_form() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "");
    let zeros = "0".repeat(64);
    for (path, status, expected) in [
        ("/v2/UPPER/manifests/a".to_owned(), 400, "NAME_INVALID"),
        ("/v2/a..b/manifests/a".to_owned(), 400, "NAME_INVALID"),
        (format!("/v2/{}/manifests/a", "a/".repeat(200)), 400, "NAME_INVALID"),
        ("/v2/a/manifests/.bad".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/sha256:zz".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/latest".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/a/blobs/md5:00000000000000000000000000000000".to_owned(), 400, "DIGEST_INVALID"),
        (format!("/v2/a/blobs/sha256:{}", "A".repeat(64)), 400, "DIGEST_INVALID"),
        (format!("/v2/a/blobs/sha256:{zeros}"), 404, "BLOB_UNKNOWN"),
        (format!("/v2/a/manifests/sha256:{zeros}"), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/a/manifests/sha512:{zeros}{zeros}"), 404, "MANIFEST_UNKNOWN"),
        ("/v2/a/manifests/none".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("/v2/_catalog".to_owned(), 404, "UNSUPPORTED"),
        ("/somewhere/else".to_owned(), 404, "UNSUPPORTED"),
    ] {
        let answer = http::get(format!("{}{path}", pierhead.url()));
        assert_eq!((answer.status, code(&answer).as_str()), (status, expected), "{path}");
        let headed = head(format!("{}{path}", pierhead.url()));
        assert_eq!((headed.status, headed.body.len()), (status, 0), "{path}");
    }
}

#[test]
fn upstreams_html_never_reaches_a_client() {
    for status in [403, 500, 502] {
        let upstream = FaultyUpstream::start_blocking();
        upstream.fault(On::any(), Fault::html(status));
        let pierhead = pierhead(&upstream, "");
        let answer = http::get(manifest_url(&pierhead, "library/a", "v1"));
        assert!(answer.status >= 400, "{answer:?}");
        code(&answer);
    }
}

#[test]
fn pushes_are_refused_with_the_way_out() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "");
    for (method, path) in [
        ("POST", "/v2/library/a/blobs/uploads/"),
        ("PUT", "/v2/library/a/manifests/v1"),
        ("DELETE", "/v2/library/a/manifests/v1"),
        ("PATCH", "/v2/library/a/blobs/uploads/some-id"),
    ] {
        let answer = Request::new(method, format!("{}{path}", pierhead.url())).body("{}").send();
        assert_eq!((answer.status, code(&answer).as_str()), (403, "DENIED"), "{method} {path}");
        assert!(answer.text().contains("hosted/"), "{answer:?}");
    }
    assert_eq!(upstream.log().len(), 0);
}
