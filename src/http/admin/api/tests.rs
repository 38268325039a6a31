//! The document: it is made from the routes, and the committed copy is the one that is served.

use super::*;

/// Where the copy is that people and generators of clients read.
const COPY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

/// Makes the test write the copy instead of judging it.
const REGENERATE: &str = "PIERHEAD_REGENERATE";

#[test]
fn the_committed_document_is_the_served_one() {
    let served = document().unwrap();
    if std::env::var_os(REGENERATE).is_some() {
        std::fs::write(COPY, &served).unwrap();
    }
    let copy = std::fs::read_to_string(COPY).unwrap_or_default();
    assert!(
        copy == served,
        "docs/openapi.json is not what the routes say; write it anew and look at what changed:\n  \
         {REGENERATE}=1 cargo test --lib http::admin::api"
    );
}

#[test]
fn the_document_tells_what_every_operation_answers() {
    let document: serde_json::Value = serde_json::from_str(&document().unwrap()).unwrap();
    assert_eq!(document["security"][0]["token"], serde_json::json!([]));
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.contains_key("/api/v1/workers"), "{paths:?}");
    let mut names = std::collections::BTreeSet::new();
    for (path, methods) in paths {
        assert!(path.starts_with(PREFIX), "{path}");
        for (method, operation) in methods.as_object().unwrap() {
            assert!(!operation["responses"].as_object().unwrap().is_empty(), "{method} {path}");
            let described = operation["summary"].as_str().is_some_and(|text| !text.is_empty());
            assert!(described, "{method} {path} does not say what it does");
            let name = operation["operationId"].as_str().unwrap().to_owned();
            assert!(names.insert(name), "{method} {path}: the name is taken");
        }
    }
}

#[test]
fn only_what_is_below_the_prefix_is_the_apis() {
    for path in ["/api/v1", "/api/v1/", "/api/v1/status"] {
        assert!(Api::owns(path), "{path}");
    }
    for path in ["/", "/api", "/api/v10", "/api/v1x/status", "/metrics"] {
        assert!(!Api::owns(path), "{path}");
    }
}
