//! `pierhead plugin new`: a project that builds and passes its own test at once.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use pierhead_plugin_host::Hook;

use crate::template_files::{self as files, File};

/// The longest name of a plugin, in characters.
const NAME_CHARS_MAX: usize = 64;

/// What a project is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Rust, for `wasm32-unknown-unknown`.
    Rust,
    /// JavaScript, by way of npm.
    Js,
}

impl Display for Language {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rust => "rust",
            Self::Js => "js",
        })
    }
}

/// The name of a project, which is that of its crate or package: lower case letters, digits and
/// hyphens, and a letter first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectName(String);

impl ProjectName {
    /// The name as it stands.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// It cannot be the name of a project.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be a plugin's name: write at most 64 lower case letters, digits and hyphens, a letter first"
)]
pub struct BadName(String);

impl FromStr for ProjectName {
    type Err = BadName;

    fn from_str(name: &str) -> Result<Self, BadName> {
        let good = name.len() <= NAME_CHARS_MAX
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && !name.ends_with('-')
            && !["test", "core", "std", "alloc", "proc-macro"].contains(&name)
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if good {
            Ok(Self(name.to_owned()))
        } else {
            Err(BadName(name.chars().take(NAME_CHARS_MAX * 2).collect()))
        }
    }
}

/// Why a project cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// There is no template.
    #[error("there is no template of {hook} in {language}; there are {has}")]
    None {
        /// For this hook.
        hook: Hook,
        /// In this language.
        language: Language,
        /// Those that there are.
        has: String,
    },
    /// The directory has something in it.
    #[error("{0} exists and is not empty; nothing was written")]
    NotEmpty(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Writes a project into `dir`, which must not exist or be empty. Returns what was written.
///
/// # Errors
/// When there is no such template, or a file cannot be written.
pub fn create(
    dir: &Path,
    name: &ProjectName,
    hook: Hook,
    language: Language,
) -> Result<Vec<PathBuf>, TemplateError> {
    let files = match language {
        Language::Rust => files::rust(hook),
        Language::Js => files::js(hook),
    };
    let files = files.ok_or_else(|| {
        let has = |hook: &Hook| match language {
            Language::Rust => files::rust(*hook).is_some(),
            Language::Js => files::js(*hook).is_some(),
        };
        let names: Vec<_> = Hook::ALL.iter().filter(|hook| has(hook)).map(|h| h.name()).collect();
        TemplateError::None { hook, language, has: names.join(", ") }
    })?;
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(TemplateError::NotEmpty(dir.to_owned()));
    }
    let mut written = Vec::new();
    for File { path, text } in files {
        let to = dir.join(path);
        let text = if path.starts_with(files::VENDORED) {
            text.to_owned()
        } else {
            text.replace("{{name}}", name.as_str())
                .replace("{{crate}}", &name.as_str().replace('-', "_"))
                .replace("{{hook}}", hook.name())
        };
        let failed = |source| TemplateError::Write { path: to.clone(), source };
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::write(&to, text).map_err(failed)?;
        written.push(to);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates_and_packages() {
        for good in ["a", "my-policy", "p2"] {
            assert_eq!(good.parse::<ProjectName>().unwrap().as_str(), good);
        }
        let long = "a".repeat(65);
        for bad in ["", "-a", "a-", "A", "a_b", "../a", "2p", "test", &long] {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad}");
        }
    }
}
