//! The pages of the bundled plugins. Those with an engine have tests of their own in
//! `plugins/engines`.

#![allow(clippy::expect_used, clippy::panic, reason = "in a test, a panic is the report")]

mod page;

/// Where the pages are.
const PAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/plugins");

#[test]
fn house_rules() {
    page::check::<house_rules::HouseRules>(PAGES, "house-rules");
}

#[test]
fn htpasswd() {
    page::check::<htpasswd::Htpasswd>(PAGES, "htpasswd");
}

#[test]
fn oidc() {
    page::check::<oidc::Oidc>(PAGES, "oidc");
}
