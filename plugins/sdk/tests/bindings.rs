//! The bindings in `src/bindings` are what the generator makes of `wit/`.
//!
//! `PIERHEAD_REGENERATE=1 cargo test -p pierhead-plugin --test bindings` writes them.

#![allow(clippy::expect_used, clippy::panic, reason = "in a test, a panic is the report")]

use std::fs;
use std::path::Path;

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator as _};
use wit_bindgen_rust::{Opts, WithOption};

/// Interfaces that are imported. The bindings of exports share their types.
const IMPORTS: &[&str] =
    &["types", "verdicts", "log", "settings", "crypto", "facts", "kv", "http", "content"];

/// Interfaces that are exported, each in a world of its own: a plugin exports what it names.
const EXPORTS: &[&str] = &[
    "lifecycle",
    "authenticator",
    "authorizer",
    "request-policy",
    "manifest-policy",
    "resolver",
    "upstream-credentials",
    "observer",
];

/// What a generated file begins with.
const OPENING: &str = "//! Made from `wit/` by `tests/bindings.rs`. Do not edit.\n\n";

/// The worlds, in a package of their own.
fn worlds() -> String {
    let imports: String =
        IMPORTS.iter().map(|name| format!("import pierhead:plugin/{name}@0.1.0;\n")).collect();
    let mut text = format!("package pierhead:sdk;\nworld imports {{ {imports} }}\n");
    for name in EXPORTS {
        text += &format!("world {name} {{ {imports} export pierhead:plugin/{name}@0.1.0; }}\n");
    }
    text
}

/// The name of the Rust module of a WIT name.
fn module(name: &str) -> String {
    name.replace('-', "_")
}

/// The bindings of a world.
fn bindings(world: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut resolve = Resolve::default();
    resolve.push_dir(root.join("../../wit")).expect("wit/ is read");
    let package = resolve.push_str("sdk.wit", &worlds()).expect("the worlds are right");
    let id = resolve.select_world(&[package], Some(world)).expect("the world is there");

    let mut options = Opts {
        format: true,
        additional_derive_attributes: vec!["PartialEq".to_owned()],
        generate_unused_types: true,
        pub_export_macro: true,
        // The macro that exports a hook carries the whole type with it.
        disable_custom_section_link_helpers: true,
        export_macro_name: Some(format!("__export_{}", module(world))),
        default_bindings_module: Some(format!("$crate::bindings::{}", module(world))),
        ..Opts::default()
    };
    if world == "imports" {
        options.generate_all = true;
    } else {
        let shared = |name: &&str| {
            let path = format!("crate::bindings::imports::pierhead::plugin::{name}");
            (format!("pierhead:plugin/{name}@0.1.0"), WithOption::Path(path))
        };
        options.with = IMPORTS.iter().map(shared).collect();
        let own = format!("pierhead:plugin/{world}@0.1.0");
        options.with.push((own, WithOption::Generate));
    }
    let mut files = Files::default();
    options.build().generate(&mut resolve, id, &mut files).expect("bindings are made");
    let (_, text) = files.iter().next().expect("one file is made");
    let text = std::str::from_utf8(text).expect("Rust is UTF-8");
    // What describes the imports alone: the macro of an export says that as well, and linkers keep
    // all of them.
    let (text, _) = text
        .rsplit_once("#[rustfmt::skip]\n#[cfg(target_arch = \"wasm32\")]\n")
        .expect("it ends with a description");
    // Examples that show how to use a macro that nobody is to use: no tests.
    OPENING.to_owned() + &text.replace("/// ```rust", "/// ```text")
}

#[test]
fn the_bindings_are_those_of_the_interface() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bindings");
    for world in ["imports"].iter().chain(EXPORTS) {
        let path = folder.join(module(world)).with_extension("rs");
        let made = bindings(world);
        if std::env::var_os("PIERHEAD_REGENERATE").is_some() {
            fs::write(&path, &made).expect("the bindings are written");
        }
        let kept = fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == made, "{} is out of date: PIERHEAD_REGENERATE=1", path.display());
    }
}
