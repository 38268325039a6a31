//! The files of the templates, which are a part of the program: `plugin new` needs no network.

use pierhead_plugin_host::Hook;

/// Where a project's copy of the SDK is. Its files are written as they are.
pub(crate) const VENDORED: &str = "vendor/";

/// A file of a project.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File {
    /// Where it goes.
    pub(crate) path: &'static str,
    /// What is in it.
    pub(crate) text: &'static str,
}

macro_rules! file {
    ($path:literal, $from:expr) => {
        File { path: $path, text: include_str!($from) }
    };
}

/// Files of the SDK, by their path in it.
macro_rules! sdk {
    ($($path:literal),+ $(,)?) => {
        const SDK: &[File] = &[$(File {
            path: concat!("vendor/pierhead-plugin/", $path),
            text: include_str!(concat!("../../sdk/", $path)),
        }),+];
    };
}

sdk!(
    "src/bindings.rs",
    "src/bindings/authenticator.rs",
    "src/bindings/authorizer.rs",
    "src/bindings/imports.rs",
    "src/bindings/lifecycle.rs",
    "src/bindings/manifest_policy.rs",
    "src/bindings/observer.rs",
    "src/bindings/request_policy.rs",
    "src/bindings/resolver.rs",
    "src/bindings/upstream_credentials.rs",
    "src/content.rs",
    "src/crypto.rs",
    "src/export.rs",
    "src/facts.rs",
    "src/failure.rs",
    "src/glob.rs",
    "src/hooks.rs",
    "src/http.rs",
    "src/kv.rs",
    "src/lib.rs",
    "src/log.rs",
    "src/metadata.rs",
    "src/settings.rs",
    "src/testing.rs",
    "src/testing/case.rs",
    "src/testing/functions.rs",
    "src/testing/functions/content.rs",
    "src/testing/functions/crypto.rs",
    "src/testing/tests.rs",
    "src/units.rs",
    "src/document.rs",
    "src/verdict.rs",
);

/// What every project in Rust has.
const RUST: &[File] = &[
    file!("Cargo.toml", "../templates/rust/Cargo.toml.in"),
    file!("build.rs", "../templates/rust/build.rs.in"),
    file!(".gitignore", "../templates/rust/gitignore.in"),
    file!("README.md", "../templates/rust/README.md.in"),
    file!("vendor/pierhead-plugin/Cargo.toml", "../../sdk/vendored.toml"),
    file!("vendor/pierhead-plugin/README.md", "../../sdk/README.md"),
];

/// The two files that depend on the hook.
macro_rules! rust_hook {
    ($hook:literal) => {
        [
            file!("src/lib.rs", concat!("../templates/rust/", $hook, "/lib.rs.in")),
            file!("tests/cases.yaml", concat!("../templates/rust/", $hook, "/cases.yaml.in")),
        ]
    };
}

/// A project in JavaScript. The interface goes along: the compiler reads it.
const JS: &[File] = &[
    file!("package.json", "../templates/js/package.json.in"),
    file!(".gitignore", "../templates/js/gitignore.in"),
    file!("README.md", "../templates/js/README.md.in"),
    file!("policy.js", "../templates/js/request-policy/policy.js.in"),
    file!("tests/cases.yaml", "../templates/js/request-policy/cases.yaml.in"),
    file!("wit/world.wit", "../templates/js/request-policy/world.wit.in"),
    file!("wit/deps/pierhead-plugin/types.wit", "../../../wit/types.wit"),
    file!("wit/deps/pierhead-plugin/host.wit", "../../../wit/host.wit"),
    file!("wit/deps/pierhead-plugin/hooks.wit", "../../../wit/hooks.wit"),
    file!("wit/deps/pierhead-plugin/worlds.wit", "../../../wit/worlds.wit"),
];

/// The files of a project in Rust, if there is a template for the hook.
pub(crate) fn rust(hook: Hook) -> Option<Vec<File>> {
    let own = match hook {
        Hook::Authenticator => rust_hook!("authenticator"),
        Hook::Authorizer => rust_hook!("authorizer"),
        Hook::RequestPolicy => rust_hook!("request-policy"),
        Hook::ManifestPolicy => rust_hook!("manifest-policy"),
        Hook::Resolver => rust_hook!("resolver"),
        Hook::UpstreamCredentials | Hook::Scanner | Hook::Replicator | Hook::Observer => {
            return None;
        }
    };
    Some([RUST, &own, SDK].concat())
}

/// The files of a project in JavaScript, if there is a template for the hook.
pub(crate) fn js(hook: Hook) -> Option<Vec<File>> {
    (hook == Hook::RequestPolicy).then(|| JS.to_vec())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn files(dir: &Path, found: &mut Vec<String>, root: &Path) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, found, root);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_string_lossy().into_owned());
            }
        }
    }

    #[test]
    fn the_whole_sdk_goes_along() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk");
        let mut there = Vec::new();
        files(&root.join("src"), &mut there, &root);
        there.sort();
        let mut listed: Vec<_> = SDK
            .iter()
            .map(|file| file.path.strip_prefix("vendor/pierhead-plugin/").unwrap().to_owned())
            .collect();
        listed.sort();
        assert_eq!(listed, there);
    }
}
