//! Tests of grants.

use super::*;
use crate::wit::{HttpError, HttpRequest};

fn grant(allow: &[&str]) -> HttpGrant {
    serde_json::from_value(serde_json::json!({ "allow": allow, "methods": ["GET", "POST"] }))
        .expect("a grant")
}

fn request(url: &str) -> HttpRequest {
    HttpRequest { method: "GET".to_owned(), url: url.to_owned(), headers: vec![], body: None }
}

fn allows(pattern: &str, url: &str) -> bool {
    grant(&[pattern]).accept(request(url)).is_ok()
}

#[test]
fn a_host_is_matched_as_a_whole() {
    assert!(allows("https://api.example", "https://api.example/any?thing"));
    assert!(allows("https://api.example", "https://API.Example:443/"));
    for wrong in [
        "http://api.example/",
        "https://api.example:8443/",
        "https://api.example.evil/",
        "https://evil-api.example/",
        "https://api.example./",
        "https://x.api.example/",
    ] {
        assert!(!allows("https://api.example", wrong), "{wrong}");
    }
}

#[test]
fn a_star_stands_for_labels_only() {
    let star = "https://*.osv.example/v1/*";
    assert!(allows(star, "https://api.osv.example/v1/query"));
    assert!(allows(star, "https://a.b.osv.example/v1/"));
    for wrong in [
        "https://osv.example/v1/query",
        "https://evilosv.example/v1/query",
        "https://api.osv.example/v2/query",
        "https://api.osv.example/v1",
        "https://api.osv.example/v1/../admin",
        "https://api.osv.example/v1/%2e%2e/admin",
        "https://api.osv.example/v1/..%2fadmin",
        "https://api.osv.example/v1/..%5cadmin",
        "https://api.osv.example/v1/..%252fadmin",
        "https://api.osv.example/v1/x\\..\\..\\admin",
        "https://api.osv.example/v1/..;/admin",
        "https://api.osv.example/v1/..;x=1/admin",
        "https://api.osv.example/v1/..%3b/admin",
        "https://api.osv.example/v1/..%3B/admin",
    ] {
        assert!(!allows(star, wrong), "{wrong}");
    }
}

#[test]
fn credentials_and_other_schemes_do_not_pass() {
    for wrong in ["https://api.example@evil.example/", "https://u:p@api.example/", "file:///etc/x"]
    {
        assert!(!allows("https://api.example", wrong), "{wrong}");
    }
    // What looks like the host is its user.
    assert!(!allows("https://api.example", "https://api.example:443@evil.example/"));
}

#[test]
fn addresses_are_compared_as_addresses() {
    assert!(allows("http://127.0.0.1:8080", "http://127.1:8080/x"));
    assert!(allows("http://[::1]:8080", "http://[0:0::1]:8080/x"));
    assert!(!allows("http://127.0.0.1:8080", "http://127.0.0.2:8080/x"));
}

#[test]
fn patterns_that_mean_nothing_are_refused() {
    for wrong in [
        "api.example",
        "ftp://api.example",
        "https://a.*.example",
        "https://*.127.0.0.1",
        "https://api.example/v*/x",
        "https://api.example/v*",
        "https://api.example?x",
        "https://u@api.example",
        "https://",
    ] {
        let read = UrlPattern::try_from(wrong.to_owned());
        assert!(read.is_err(), "{wrong}");
    }
}

#[test]
fn methods_and_headers_are_checked() {
    let grant = grant(&["https://api.example"]);
    let mut delete = request("https://api.example/");
    delete.method = "DELETE".to_owned();
    assert!(matches!(grant.accept(delete), Err(HttpError::Denied(why)) if why.contains("DELETE")));
    for (name, value) in [
        ("Host", "evil.example"),
        ("Transfer-Encoding", "chunked"),
        ("content-length", "3"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("x-http-method", "DELETE"),
        ("X-Method-Override", "DELETE"),
        ("X-Original-URL", "/admin"),
        ("X-Rewrite-URL", "/admin"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("x-forwarded-host", "evil.example"),
        ("Forwarded", "for=127.0.0.1"),
        ("x y", "1"),
        ("", "1"),
        ("x", "a\r\nb: c"),
        ("x", "\u{0}"),
    ] {
        let mut bad = request("https://api.example/");
        bad.headers.push((name.to_owned(), value.to_owned()));
        assert!(matches!(grant.accept(bad), Err(HttpError::Invalid(_))), "{name}: {value:?}");
    }
    let mut good = request("https://api.example/a/./b#c");
    good.headers.push(("Accept".to_owned(), "application/json".to_owned()));
    let sent = grant.accept(good).expect("granted");
    assert_eq!(sent.url, "https://api.example/a/b");
    assert_eq!(sent.headers, [("accept".to_owned(), "application/json".to_owned())]);
}

#[test]
fn globs() {
    for (glob, name, matches) in [
        ("**", "docker.io/library/debian", true),
        ("docker.io/*", "docker.io/debian", true),
        ("docker.io/*", "docker.io/library/debian", false),
        ("docker.io/**", "docker.io/library/debian", true),
        ("*/team-*/**", "ghcr.io/team-a/x/y", true),
        ("*/team-*/**", "ghcr.io/other/x", false),
        ("docker.io/library/debian", "docker.io/library/debian", true),
        ("docker.io/library/debian", "docker.io/library/debian2", false),
        ("", "", true),
        ("", "a", false),
    ] {
        assert_eq!(glob_matches(glob, name), matches, "{glob} {name}");
    }
    // No glob is slow.
    assert!(!glob_matches(&"*a".repeat(40), &"a".repeat(200).replace("aa", "ab")));
}

#[test]
fn content_is_granted_by_kind_and_name() {
    let grant: ContentGrant = serde_json::from_value(
        serde_json::json!({ "read": ["manifest"], "repositories": ["docker.io/library/*"] }),
    )
    .expect("a grant");
    let reference = |repository: &str| Reference {
        upstream: "docker.io".to_owned(),
        repository: repository.to_owned(),
        tag: None,
        digest: None,
    };
    assert!(grant.covers(ContentKind::Manifest, &reference("library/debian")));
    assert!(!grant.covers(ContentKind::Blob, &reference("library/debian")));
    assert!(!grant.covers(ContentKind::Manifest, &reference("team/debian")));
}

#[test]
fn unknown_grants_are_mistakes() {
    let read = serde_json::from_value::<Grants>(serde_json::json!({ "htpp": {} }));
    assert!(read.is_err());
    let empty: Grants =
        serde_json::from_value(serde_json::json!({ "kv": { "buckets": [] } })).expect("reads");
    assert!(empty.check().is_err());
}
