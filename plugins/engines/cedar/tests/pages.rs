//! The plugin's page.

#![allow(clippy::expect_used, clippy::panic, reason = "in a test, a panic is the report")]

#[path = "../../../bundled/tests/page/mod.rs"]
mod page;

#[test]
fn cedar() {
    let pages = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/plugins");
    page::check::<cedar::Cedar>(pages, "cedar");
}
