//! Lines in Pierhead's log. They carry the mount's name and the request's id.

pub use crate::bindings::imports::pierhead::plugin::log::Level;
use crate::host;

/// Whether anybody wants lines of this level, so that none is made in vain.
#[must_use]
pub fn enabled(level: Level) -> bool {
    host::log::enabled(level)
}

/// Writes a line with fields, if anybody wants it.
pub fn write(level: Level, message: &str, fields: &[(&str, &str)]) {
    if enabled(level) {
        let fields: Vec<(String, String)> =
            fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        host::log::write(level, message, &fields);
    }
}

/// For whoever looks for a mistake.
pub fn debug(message: &str) {
    write(Level::Debug, message, &[]);
}

/// Worth knowing.
pub fn info(message: &str) {
    write(Level::Info, message, &[]);
}

/// Somebody may have to do something.
pub fn warn(message: &str) {
    write(Level::Warn, message, &[]);
}

/// Somebody has to do something.
pub fn error(message: &str) {
    write(Level::Error, message, &[]);
}
