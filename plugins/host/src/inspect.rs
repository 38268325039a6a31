//! What a file is: its form, hooks, imports and the grants that it needs. Nothing is run.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmparser::{Encoding, Parser, Payload};

use crate::error::LoadError;
use crate::hook::Hook;

/// The largest file that is looked at, in bytes.
pub(crate) const PLUGIN_BYTES_MAX: usize = 64 << 20;

/// The largest description of itself that a plugin may carry, in bytes.
const METADATA_BYTES_MAX: usize = 1 << 20;

/// Imports and exports together, at most: a plugin has a dozen.
const NAMES_MAX: usize = 1000;

/// The custom section with the plugin's description of itself.
const METADATA_SECTION: &str = "pierhead:plugin";

/// What all our interfaces begin with.
const PACKAGE: &str = "pierhead:plugin/";

/// The line of versions that this host speaks.
const VERSION_LINE: &str = "0.1.";

/// Interfaces that every plugin may import.
pub(crate) const FREE: &[&str] = &["types", "verdicts", "log", "settings", "crypto", "facts"];

/// What a file is.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// SHA-256 of the file: `sha256:…`.
    pub digest: String,
    /// Whether it is a component already.
    pub form: Form,
    /// The file's size in bytes.
    pub bytes: usize,
    /// What it can be asked.
    pub hooks: Vec<Hook>,
    /// Whether it wants its settings once, before anything else.
    pub configures: bool,
    /// What it imports, as it names it.
    pub imports: Vec<String>,
    /// The grants without which it is not loaded.
    pub grants: Vec<MissingGrant>,
    /// What it says about itself.
    pub metadata: Option<Metadata>,
}

/// What a file is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A component.
    Component,
    /// A core module with a description of its world, as `cargo build --target
    /// wasm32-unknown-unknown` leaves it. The host makes the component.
    CoreModule,
}

/// A grant that a plugin needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingGrant {
    /// Its name below `grants`.
    pub name: &'static str,
    /// The line for the mount's table, to be filled in.
    pub line: String,
}

impl MissingGrant {
    /// The grant that an interface needs, if it needs one.
    fn for_import(interface: &str) -> Option<Self> {
        let (name, line) = match interface {
            "http" => ("http", r#"grants.http = { allow = ["https://…"], methods = ["GET"] }"#),
            "kv" => ("kv", r#"grants.kv = { buckets = ["…"], quota = "1MiB" }"#),
            "content" => {
                ("content", r#"grants.content = { read = ["manifest"], repositories = ["**"] }"#)
            }
            _ => return None,
        };
        Some(Self { name, line: line.to_owned() })
    }
}

/// What a plugin says about itself, in its custom section `pierhead:plugin`. None of it is
/// believed where it matters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it does, in a sentence.
    pub description: String,
    /// Its license, as an SPDX expression.
    pub license: String,
    /// Where its source is.
    pub source: String,
    /// The JSON schema of its settings.
    pub settings_schema: Option<serde_json::Value>,
    /// Limits that it suggests, by the names of the configuration.
    pub limits: Option<serde_json::Value>,
    /// Calls with the answers that are expected.
    pub examples: Vec<serde_json::Value>,
}

/// Says what a file is, and runs nothing of it.
///
/// # Errors
/// If it is too large, no plugin, exports no hook, or imports what nothing can grant.
pub fn inspect(wasm: &[u8]) -> Result<Inspection, LoadError> {
    Ok(open(wasm)?.inspection)
}

/// A file that was looked at, with the component that it is or that was made of it.
pub(crate) struct Opened {
    pub(crate) inspection: Inspection,
    /// The component, if it is not the file itself.
    pub(crate) made: Option<Vec<u8>>,
    /// What it exports, as it names it.
    pub(crate) exports: Vec<String>,
}

pub(crate) fn open(wasm: &[u8]) -> Result<Opened, LoadError> {
    if wasm.len() > PLUGIN_BYTES_MAX {
        return Err(LoadError::TooLarge { bytes: wasm.len(), max: PLUGIN_BYTES_MAX });
    }
    let form = form(wasm)?;
    let made = match form {
        Form::Component => None,
        Form::CoreModule => Some(componentize(wasm)?),
    };
    let names = names(made.as_deref().unwrap_or(wasm))?;
    let mut grants = Vec::new();
    for import in &names.imports {
        grants.extend(judge_import(import)?);
    }
    let exported: Vec<&str> = names.exports.iter().filter_map(|name| ours(name)).collect();
    let hooks: Vec<Hook> =
        Hook::ALL.into_iter().filter(|hook| exported.contains(&hook.name())).collect();
    if hooks.is_empty() {
        return Err(LoadError::NoHook);
    }
    let inspection = Inspection {
        digest: format!("sha256:{}", hex::encode(Sha256::digest(wasm))),
        form,
        bytes: wasm.len(),
        hooks,
        configures: exported.contains(&"lifecycle"),
        imports: names.imports,
        grants,
        metadata: names.metadata,
    };
    Ok(Opened { inspection, made, exports: names.exports })
}

fn form(wasm: &[u8]) -> Result<Form, LoadError> {
    match Parser::new(0).parse_all(wasm).next() {
        Some(Ok(Payload::Version { encoding: Encoding::Component, .. })) => Ok(Form::Component),
        Some(Ok(Payload::Version { encoding: Encoding::Module, .. })) => Ok(Form::CoreModule),
        _ => Err(LoadError::NotAPlugin("the file is not WebAssembly".to_owned())),
    }
}

/// Makes a component of what the Rust compiler leaves.
fn componentize(wasm: &[u8]) -> Result<Vec<u8>, LoadError> {
    let described = Parser::new(0).parse_all(wasm).any(|payload| {
        matches!(payload, Ok(Payload::CustomSection(section)) if section.name().starts_with("component-type"))
    });
    if !described {
        return Err(LoadError::NotAPlugin(
            "the module does not say which interfaces it has; build it with the plugin SDK or wit-bindgen"
                .to_owned(),
        ));
    }
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(wasm)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| LoadError::NotAPlugin(explain(&error)))
}

/// The reason of a foreign error, in one line of bounded length.
pub(crate) fn explain(error: &(impl std::fmt::Display + ?Sized)) -> String {
    let text = format!("{error:#}");
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}

#[derive(Default)]
struct Names {
    imports: Vec<String>,
    exports: Vec<String>,
    metadata: Option<Metadata>,
}

/// The names at the component's own door, and its description, wherever it is.
fn names(component: &[u8]) -> Result<Names, LoadError> {
    let broken = |error: wasmparser::BinaryReaderError| LoadError::NotAPlugin(explain(&error));
    let mut names = Names::default();
    let mut depth = 0usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(broken)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    names.imports.push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    names.exports.push(export.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section)
                if section.name() == METADATA_SECTION && names.metadata.is_none() =>
            {
                names.metadata = Some(metadata(section.data())?);
            }
            _ => {}
        }
        if names.imports.len() + names.exports.len() > NAMES_MAX {
            return Err(LoadError::NotAPlugin("it has too many imports and exports".to_owned()));
        }
    }
    Ok(names)
}

fn metadata(json: &[u8]) -> Result<Metadata, LoadError> {
    if json.len() > METADATA_BYTES_MAX {
        return Err(LoadError::NotAPlugin("its description of itself is too large".to_owned()));
    }
    serde_json::from_slice(json).map_err(|error| {
        LoadError::NotAPlugin(format!("its section {METADATA_SECTION} is malformed: {error}"))
    })
}

/// The interface's name, if it is one of ours and of a version that is spoken here.
pub(crate) fn ours(name: &str) -> Option<&str> {
    let (interface, version) = name.strip_prefix(PACKAGE)?.split_once('@')?;
    version.starts_with(VERSION_LINE).then_some(interface)
}

fn judge_import(import: &str) -> Result<Option<MissingGrant>, LoadError> {
    let refused = |reason: &str| {
        Err(LoadError::UnknownImport {
            import: import.chars().take(200).collect(),
            reason: reason.to_owned(),
        })
    };
    match ours(import) {
        Some(interface) if FREE.contains(&interface) => Ok(None),
        Some("files") => refused("files are for scanners, which this version does not run"),
        Some(interface) => match MissingGrant::for_import(interface) {
            Some(grant) => Ok(Some(grant)),
            None => refused("pierhead:plugin@0.1 has no such interface"),
        },
        None if import.starts_with(PACKAGE) => {
            refused("this version of Pierhead speaks pierhead:plugin@0.1; build the plugin for it")
        }
        None if import.starts_with("wasi:") => refused(
            "plugins have no files, sockets, clocks or environment; build for wasm32-unknown-unknown, and use pierhead:plugin/http, kv and settings",
        ),
        None => refused("a plugin imports pierhead:plugin and nothing else"),
    }
}
