//! `vendored.toml`, which projects outside of this repository get, says what `Cargo.toml` says.

#![allow(clippy::expect_used, reason = "in a test, a panic is the report")]

use std::path::Path;

fn read(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("it is there")
}

/// The lines of a section, without comments.
fn section(text: &str, name: &str) -> Vec<String> {
    let mut lines = text.lines().skip_while(|line| *line != name).skip(1);
    let mut found = Vec::new();
    for line in lines.by_ref().take_while(|line| !line.starts_with('[')) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            found.push(line.to_owned());
        }
    }
    found
}

#[test]
fn a_project_gets_the_same_dependencies() {
    let (ours, theirs) = (read("Cargo.toml"), read("vendored.toml"));
    for name in [
        "[features]",
        "[dependencies]",
        "[target.'cfg(not(target_arch = \"wasm32\"))'.dependencies]",
    ] {
        let expected = section(&ours, name);
        assert!(!expected.is_empty(), "{name}");
        assert_eq!(section(&theirs, name), expected, "{name}");
    }
}

#[test]
fn a_project_gets_the_same_edition() {
    let (workspace, theirs) = (read("../../Cargo.toml"), read("vendored.toml"));
    let workspace = section(&workspace, "[workspace.package]");
    let theirs = section(&theirs, "[package]");
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        let line = |lines: &[String]| {
            lines.iter().find(|line| line.starts_with(&format!("{key} = "))).cloned()
        };
        assert!(line(&workspace).is_some(), "{key}");
        assert_eq!(line(&theirs), line(&workspace), "{key}");
    }
}
