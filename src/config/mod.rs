//! The configuration: a TOML file and the environment, checked into plain settings of the layers
//! below.
//!
//! A configuration is all right or refused as a whole; a refusal names file, line and column (or
//! the variable), quotes the line and says what would be right. Nothing below this module sees a
//! value that was not checked.

mod auth;
mod builtin;
mod defaults;
mod encryption;
mod env;
mod error;
pub mod example;
mod in_force;
mod plugins;
mod resolve;
mod safety;
mod secrets;
mod sections;
mod source;
mod stale;
mod suggest;
mod table;
mod telemetry;
#[cfg(test)]
mod tests;
mod values;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;
use url::Url;

pub use self::error::{ConfigError, Problem};
pub use self::secrets::{ReadFile, read_from_disk};

use self::error::Problems;
use self::sections::Raw;
use self::source::{Document, Origin};
use crate::hooks::Anonymous;
use crate::http::admin::api::config::Setting;
use crate::http::settings::ServerSettings;
use crate::keep::scrub::ScrubSettings;
use crate::keep::settings::UpstreamLimits;
use crate::plugins::settings::PluginSettings;
use crate::pull::settings::{FillSettings, NamingSettings, TagSettings};
use crate::scope::UpstreamName;
use crate::telemetry::settings::TraceSettings;
use crate::token::settings::TokenSettings;
use crate::upstream::settings::UpstreamSettings;

/// The largest configuration file, in bytes.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;

/// Everything an operator can say, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The listeners.
    pub server: ServerSettings,
    /// Where content is kept.
    pub storage: StorageSettings,
    /// Every enabled upstream, by name.
    pub upstreams: Vec<(UpstreamSettings, TagSettings)>,
    /// The limits of upstreams that have any of their own.
    pub limits: HashMap<UpstreamName, UpstreamLimits>,
    /// Which name goes where. The hosted prefix `"*"` is the empty prefix here.
    pub naming: NamingSettings,
    /// How blobs are filled.
    pub fill: FillSettings,
    /// Who has to log in, where an authenticator is mounted.
    pub auth: AuthSettings,
    /// What is logged, and how.
    pub log: LogSettings,
    /// Plugins.
    pub plugins: PluginSettings,
    /// Where traces go, if anywhere.
    pub traces: Option<TraceSettings>,
    /// Our own URL, when a proxy stands before us: for `realm` and `Location`.
    pub public_url: Option<Url>,
    /// What the operator should know although it is allowed; to be logged at the start.
    pub notices: Vec<String>,
    /// Every key with the value that counts and where it came from: for operators to read.
    pub in_force: Vec<Setting>,
}

/// Where content is kept.
#[derive(Clone, Debug)]
pub struct StorageSettings {
    /// Blobs, spool and the embedded database.
    pub path: PathBuf,
    /// The cap for cached content, in bytes. `None`: the smaller of 50 GiB and 80 % of the space
    /// that is free, or taken by the cache.
    pub max_size: Option<u64>,
    /// What is kept free on the disk, in bytes.
    pub min_free: u64,
    /// How what is stored is verified anew.
    pub scrub: ScrubSettings,
}

/// Who has to log in, and the tokens they get.
#[derive(Clone, Debug)]
pub struct AuthSettings {
    /// What those may do who do not.
    pub anonymous: Anonymous,
    /// The tokens.
    pub tokens: TokenSettings,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug)]
pub struct LogSettings {
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

/// A level of severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed and needs someone.
    Error,
    /// What was odd.
    Warn,
    /// What happened.
    Info,
    /// How it happened.
    Debug,
    /// Every step of it.
    Trace,
}

impl LogLevel {
    pub(crate) const ALL: [Self; 5] =
        [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The level's name, as `tracing` and the configuration write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Reads the configuration from a file (none: zero configuration) and the environment, with the
/// files of secrets that it names.
///
/// # Errors
/// When the file cannot be read, or anything in it or in a variable is not right.
pub fn load(
    file: Option<&Path>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Config, ConfigError> {
    let Some(file) = file else {
        return from_text("(no file)", "", variables, &read_from_disk);
    };
    let name = file.display().to_string();
    let refuse = |message: String| {
        let mut problems = Problems::new(Document { name: &name, text: "" });
        problems.add(&Origin::Nowhere, message, None);
        Err(problems.into())
    };
    match read_from_disk(file, CONFIG_BYTES_MAX) {
        Err(error) => refuse(format!("cannot read it: {error}")),
        Ok(content) => match String::from_utf8(content) {
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let line = error.as_bytes().iter().take(at).filter(|b| **b == b'\n').count() + 1;
                refuse(format!("line {line} is not UTF-8 text"))
            }
            Ok(text) => from_text(&name, &text, variables, &read_from_disk),
        },
    }
}

/// Reads a configuration from text that messages call `name`, and from variables. Touches the
/// outside only through `read_file`.
///
/// # Errors
/// When anything in the text or in a variable is not right.
pub fn from_text(
    name: &str,
    text: &str,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    read_file: ReadFile<'_>,
) -> Result<Config, ConfigError> {
    let document = Document { name, text };
    let mut problems = Problems::new(document);
    if text.len() > CONFIG_BYTES_MAX {
        let message = format!("it is larger than {CONFIG_BYTES_MAX} bytes");
        problems.add(&Origin::Nowhere, message, None);
        return Err(problems.into());
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            let origin = error.span().map_or(Origin::Nowhere, Origin::File);
            problems.add(&origin, format!("not TOML: {}", error.message()), None);
        }
        return Err(problems.into());
    }
    let mut raw = Raw::read(table.get_ref(), &mut problems);
    env::apply(&mut raw, variables, &mut problems);
    // Half of the values would make misleading errors about their interplay.
    let config =
        if problems.is_empty() { resolve::resolve(raw, read_file, &mut problems) } else { None };
    problems.finish(config)
}

/// The body of the fuzz target: any text gives a configuration or an error, and both can be
/// shown. Reads no files.
pub fn config_from_text(text: &str) {
    let no_files = |_: &Path, _: usize| Ok(b"content of a file".to_vec());
    // The same text in a variable: the other way in.
    let variable = ("PIERHEAD_SERVER__PUBLIC_URL".into(), text.into());
    for variables in [vec![], vec![variable]] {
        match from_text("fuzz.toml", text, variables, &no_files) {
            Ok(config) => drop(format!("{config:?}")),
            Err(error) => drop(error.to_string()),
        }
    }
}
