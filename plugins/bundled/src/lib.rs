//! The plugins that are a part of the program: `builtin:NAME`.
//!
//! `cargo xtask plugins` builds them for WebAssembly, and what it leaves in `target/bundled` is
//! embedded. A program that was built without them says so when one is asked for.

/// The names, and what was built of them.
static TABLE: &[(&str, Option<&[u8]>)] = &include!(concat!(env!("OUT_DIR"), "/table.rs"));

/// Why there is no such plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// There is none of this name.
    #[error("there is no bundled plugin {0}; there are {names}", names = all().join(", "))]
    Unknown(String),
    /// There is one, and it was not built.
    #[error(
        "this pierhead was built without bundled plugins; run `cargo xtask plugins` and build again"
    )]
    NotBuilt,
}

/// The names of all bundled plugins, built or not.
#[must_use]
pub fn all() -> Vec<&'static str> {
    TABLE.iter().map(|(name, _)| *name).collect()
}

/// The names of those that are in this program.
#[must_use]
pub fn names() -> Vec<&'static str> {
    TABLE.iter().filter(|(_, bytes)| bytes.is_some()).map(|(name, _)| *name).collect()
}

/// The bytes of a plugin, if it is in this program.
#[must_use]
pub fn get(name: &str) -> Option<&'static [u8]> {
    find(name).ok()
}

/// The bytes of a plugin.
///
/// # Errors
/// When there is none of this name, or it is not in this program.
pub fn find(name: &str) -> Result<&'static [u8], Missing> {
    let known = TABLE.iter().find(|(known, _)| *known == name);
    let (_, bytes) = known.ok_or_else(|| Missing::Unknown(name.to_owned()))?;
    bytes.ok_or(Missing::NotBuilt)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a WebAssembly file begins with.
    const MAGIC: &[u8] = b"\0asm";

    #[test]
    fn all_plugins_are_in_the_program() {
        let missing: Vec<_> = all().into_iter().filter(|name| get(name).is_none()).collect();
        if std::env::var_os("CI").is_some() {
            assert!(missing.is_empty(), "{missing:?} are not built: run `cargo xtask plugins`");
        }
        for name in names() {
            assert!(get(name).is_some_and(|bytes| bytes.starts_with(MAGIC)), "{name}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_told_the_others() {
        let error = find("nobody").expect_err("there is none").to_string();
        assert!(error.contains("nobody") && error.contains("house-rules"), "{error}");
    }
}
