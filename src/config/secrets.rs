//! Files that a configuration names and that are read with it: passwords, tokens, certificates.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::error::Problems;
use super::source::At;
use super::values::FilePath;
use crate::secret::Secret;

/// The largest secret, in bytes: the longest real ones are signed tokens of a few KiB.
pub(super) const SECRET_BYTES_MAX: usize = 64 << 10;

/// The largest file of certificates, in bytes: a whole system's list is about 250 KiB.
pub(super) const CA_BYTES_MAX: usize = 4 << 20;

/// Reads at most that many bytes of a file; more is an error. A parameter, so that reading a
/// configuration in a test or a fuzz target touches no disk.
pub type ReadFile<'a> = &'a dyn Fn(&Path, usize) -> io::Result<Vec<u8>>;

/// [`ReadFile`] from the file system.
pub fn read_from_disk(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(bytes_max as u64 + 1).read_to_end(&mut content)?;
    if content.len() > bytes_max {
        let message = format!("it is larger than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(content)
}

/// The secret in the file that `key` names, without the newline that editors leave.
pub(super) fn read_secret(
    key: &str,
    file: &At<FilePath>,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> Option<Secret> {
    let content = read_named(key, file, SECRET_BYTES_MAX, read, problems)?;
    let path = file.value.0.display();
    let mut refuse = |why: &str| {
        problems.add(&file.origin, format!("`{key}`: {path} {why}"), None);
        None
    };
    let Ok(text) = String::from_utf8(content) else { return refuse("is not UTF-8 text") };
    let text = text
        .strip_suffix('\n')
        .map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return refuse("is empty");
    }
    if text.chars().any(char::is_control) {
        return refuse("holds more than one line, or control characters");
    }
    Some(Secret::new(text))
}

/// Checks that the file that `key` names holds certificates, so that a slip shows at the start
/// and not at the first pull.
pub(super) fn check_certificates(
    key: &str,
    file: &At<FilePath>,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    let Some(content) = read_named(key, file, CA_BYTES_MAX, read, problems) else { return };
    if !content.windows(BEGIN.len()).any(|window| window == BEGIN) {
        let path = file.value.0.display();
        let message = format!("`{key}`: {path} holds no certificate in PEM form");
        problems.add(&file.origin, message, None);
    }
}

/// The content of the file that `key` names.
pub(super) fn read_named(
    key: &str,
    file: &At<FilePath>,
    bytes_max: usize,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> Option<Vec<u8>> {
    match read(&file.value.0, bytes_max) {
        Ok(content) => Some(content),
        Err(error) => {
            let path = file.value.0.display();
            let message = format!("`{key}`: cannot read {path}: {error}");
            let help = match error.kind() {
                io::ErrorKind::NotFound if file.value.0.is_relative() => {
                    Some("a relative path starts at the directory that Pierhead is started in")
                }
                _ => None,
            };
            problems.add(&file.origin, message, help);
            None
        }
    }
}
