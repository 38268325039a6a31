//! What stands under `deploy/`, held to the program: the metrics that dashboards and alerts name,
//! and the configuration that packages carry.

#![allow(clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

mod image;
mod metrics;
mod packages;
mod promql;

use std::path::Path;

/// The program under test.
const PIERHEAD: &str = env!("CARGO_BIN_EXE_pierhead");

/// The project's directory.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the project.
fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A YAML file of the project.
fn yaml(path: &str) -> serde_json::Value {
    serde_yaml_ng::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
