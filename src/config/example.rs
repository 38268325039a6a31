//! The commented example of every key.

/// Prose starts with `# `, and a key with `#` alone: removing that makes it count. The values
/// are the defaults, but for the invented upstream at the end of its section.
pub const EXAMPLE: &str = include_str!("example.toml");

/// The example with every key counting.
pub(super) fn uncommented() -> String {
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let key = line.strip_prefix('#').filter(|key| !key.starts_with(' ') && !key.is_empty());
        text.push_str(key.unwrap_or(line));
        text.push('\n');
    }
    text
}
