//! What a program can check of the architecture and the habits (`docs/ARCHITECTURE.md`).
//!
//! The tables here are the rules. A new module needs a line in [`LAYERS`]; an exception needs a
//! line with its reason.

#![allow(clippy::expect_used, clippy::panic, reason = "in a test, a panic is the report")]

mod limits;
mod rules;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use rules::{Finding, Tables};
use source::Source;

/// The layers from below. A module imports only from layers below its own.
const LAYERS: &[&[&str]] = &[
    &["oci", "client_id", "clock", "private_file", "secret", "scope", "spans"],
    &["background", "events", "gate", "metrics", "net", "shutdown", "single_flight", "telemetry"],
    &["store", "upstream"],
    &["hooks"],
    &["keep", "plugins", "pull", "push", "lifecycle", "replicate", "audit", "token", "transfer"],
    &["http"],
    &["main", "cli", "app", "config"],
];

/// Modules that may import a sibling: which, whom, why.
const SIBLINGS: &[(&str, &str, &str)] = &[
    ("scope", "oci", "a scope is made of a repository name"),
    ("background", "telemetry", "a task is done for the request that started it"),
    ("single_flight", "background", "the shared work is a task of the process"),
    ("app", "config", "wires what was configured"),
    ("cli", "config", "prints and checks it"),
    ("cli", "app", "starts it"),
    ("main", "cli", "is only a door"),
];

/// Foreign crates and the only places that may name them: a file, or a folder with its `/`.
const OWNERS: &[(&str, &[&str])] = &[
    ("opentelemetry", &["src/telemetry/"]),
    ("opentelemetry_sdk", &["src/telemetry/"]),
    ("opentelemetry_otlp", &["src/telemetry/otlp.rs"]),
    ("tracing_subscriber", &["src/telemetry.rs", "src/telemetry/"]),
    (
        "reqwest",
        &[
            "src/upstream/http_transport.rs",
            "src/telemetry/otlp.rs",
            "src/cli/client.rs",
            "src/cli/warm/registry.rs",
        ],
    ),
    ("axum", &["src/http/admin/api/"]),
    ("utoipa", &["src/http/admin/api/"]),
    ("utoipa_axum", &["src/http/admin/api/"]),
    ("tower", &["src/http/admin/api/"]),
    ("sqlx", &["src/store/meta/sqlite.rs", "src/store/meta/sqlite/"]),
    ("memmap2", &["src/store/blob/map.rs"]),
    ("clap", &["src/cli/", "src/main.rs"]),
    ("wasmtime", &["plugins/host/src/"]),
    ("indicatif", &["src/cli/progress.rs"]),
    (
        "tar",
        &["src/transfer/archive.rs", "src/plugins/artifact.rs", "src/transfer/tests/hostile.rs"],
    ),
    ("toml", &["src/config/", "src/cli/node_config/tests.rs"]),
    (
        "rustls",
        &[
            "src/http/tls/",
            "src/upstream/http_transport.rs",
            "src/upstream/tests/tls.rs",
            // Whoever speaks TLS sets up whom it trusts.
            "src/cli/client.rs",
            "src/telemetry/otlp.rs",
        ],
    ),
    ("tokio_rustls", &["src/http/tls/"]),
    ("jsonwebtoken", &["src/token/jwt.rs"]),
    (
        "ring",
        &["plugins/host/", "src/plugins/verify.rs", "src/token/jwt.rs", "tests/kit/src/issuer.rs"],
    ),
    ("instant_acme", &["src/http/tls/acme/"]),
    ("hyper_rustls", &["src/http/tls/acme/transport.rs"]),
    ("rcgen", &["src/http/tls/", "src/config/tests/encryption.rs"]),
    ("x509_parser", &["src/http/tls/"]),
    (
        "ipnet",
        &[
            "src/config/values.rs",
            "src/http/connection.rs",
            "src/http/door.rs",
            "src/http/server.rs",
            "src/http/settings.rs",
        ],
    ),
    (
        "humantime",
        &[
            "src/config/",
            "src/pull/resolve.rs",
            "src/http/admin/api/time.rs",
            "src/http/token/mod.rs",
            "src/cli/",
        ],
    ),
    (
        "moka",
        &[
            // Bounded maps of what is expensive to ask again.
            "src/store/hot.rs",
            "src/store/hot/",
            "src/store/blob/fs.rs",
            "src/upstream/auth.rs",
            "src/upstream/token.rs",
            "src/token/mod.rs",
            "src/upstream/http_transport.rs",
            "src/pull/",
            "src/hooks/facts.rs",
            "src/hooks/chain/decisions.rs",
            "src/hooks/chain/logins.rs",
        ],
    ),
    ("globset", &["src/hooks/chain/filter.rs"]),
    ("pierhead_plugin_host", &["src/hooks/wasm/", "src/cli/plugin.rs"]),
    ("pierhead_plugin_tools", &["src/hooks/wasm/", "src/cli/plugin.rs"]),
    ("flate2", &["src/plugins/artifact.rs"]),
    ("pierhead_plugin_bundled", &["src/app/plugins.rs"]),
    ("notify", &["src/plugins/watch.rs"]),
    ("arc_swap", &["src/hooks/chain/"]),
];

/// The only places with `unsafe`.
const UNSAFE: &[&str] = &[
    "src/store/blob/map.rs",
    "plugins/host/src/compiled/trusted.rs",
    // What a generator makes of `wit/`, and the names of exports and sections of plugins.
    "plugins/sdk/src/bindings/",
    "plugins/sdk/src/export.rs",
];

/// Lines of a file under `src`, at most.
const LINES_MAX: usize = 600;

/// Larger files, with their length when they were listed: they may only shrink.
const LARGE: &[(&str, usize)] = &[];

/// Tests that may sleep: a file, or a folder with its `/`. Elsewhere they wait for what they
/// wait for, or pause the clock.
const SLEEPERS: &[&str] = &[
    // The misbehaving upstream stalls on purpose, and the helpers that poll live here.
    "tests/kit/",
];

/// Words that stand for work left undone or for somebody's machine.
const FORBIDDEN: &[&str] = &["TODO", "FIXME", "XXX", "HACK", "WIP", "/work/"];

/// Files with the forbidden words as data.
const FORBIDDEN_EXEMPT: &[&str] = &["tests/tidy/"];

const TABLES: Tables = Tables {
    layers: LAYERS,
    siblings: SIBLINGS,
    owners: OWNERS,
    unsafe_in: UNSAFE,
    lines_max: LINES_MAX,
    large: LARGE,
    sleepers: SLEEPERS,
    forbidden: FORBIDDEN,
    forbidden_exempt: FORBIDDEN_EXEMPT,
};

/// Folders that are not ours to judge.
const SKIPPED: &[&str] = &[".git", "target", "corpus", "artifacts", "pierhead-data"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the project whose name passes, with its path from the root.
fn files(wanted: fn(&str) -> bool) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the project can be read") {
            let path = entry.expect("the project can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_symlink() || SKIPPED.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if wanted(&name) {
                let relative = path.strip_prefix(root()).expect("found under the root");
                // Seeds of the fuzzers need not be text.
                let bytes = fs::read(&path).expect("the file can be read");
                let text = String::from_utf8_lossy(&bytes).into_owned();
                found.push((relative.to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

fn rust() -> Vec<Source> {
    files(|name| name.ends_with(".rs"))
        .into_iter()
        .map(|(path, text)| Source::new(&path, &text))
        .collect()
}

#[track_caller]
fn none(findings: Vec<Finding>) {
    let shown: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(shown.is_empty(), "\n{}\n", shown.join("\n"));
}

fn judge(rule: fn(&Tables, &Source) -> Vec<Finding>) {
    let sources = rust();
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"), "the walk finds the sources");
    none(sources.iter().flat_map(|source| rule(&TABLES, source)).collect());
}

#[test]
fn layers_import_only_from_below() {
    judge(rules::walls);
}

#[test]
fn foreign_crates_have_one_owner() {
    judge(rules::owners);
}

#[test]
fn unsafe_stands_only_where_it_is_argued_for() {
    judge(rules::unsafe_code);
}

#[test]
fn files_are_small_and_say_what_they_are() {
    judge(rules::size);
    judge(rules::opening);
}

#[test]
fn the_list_of_large_files_is_current() {
    let sources = rust();
    none(rules::large_is_current(&TABLES, &sources));
}

#[test]
fn nothing_is_left_undone() {
    judge(rules::macros);
}

#[test]
fn tests_do_not_sleep() {
    judge(rules::sleeps);
}

#[test]
fn no_forbidden_words() {
    let wanted = |name: &str| {
        [".rs", ".toml", ".md", ".sh", ".yml", ".wit"].iter().any(|end| name.ends_with(end))
            || !name.contains('.')
    };
    none(files(wanted).iter().flat_map(|(path, text)| rules::words(&TABLES, path, text)).collect());
}

#[test]
fn every_module_has_a_layer_and_every_name_one() {
    none(rules::tables(&TABLES));
}

#[test]
fn continuous_integration_runs_the_readmes_command() {
    none(rules::readme(&read("README.md"), &read(".ci/run")));
}

/// A file of the project.
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_metrics_are_documented() {
    let page = "docs/operations.md";
    none(rules::metrics(&rust(), page, &read(page)));
}

#[test]
fn the_limits_are_documented_as_they_are() {
    let wrong = limits::wrong(&rust(), &read("docs/limits.md"));
    assert!(wrong.is_empty(), "docs/limits.md: {wrong:#?}");
}

#[test]
fn the_proofs_of_failure_modes_exist() {
    let page = "docs/failure-modes.md";
    none(rules::proofs(&rust(), page, &read(page)));
}
