//! What a plugin says about itself, in a section of its own of the file: readable without running it.

/// What a plugin says about itself. [`plugin!`](crate::plugin) fills it in.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// A line about it.
    pub description: &'static str,
    /// An SPDX expression.
    pub license: &'static str,
    /// Where its source is.
    pub source: &'static str,
    /// A JSON schema of the settings; none if it is empty.
    pub settings_schema: &'static str,
    /// Suggested limits, as a JSON object; none if it is empty.
    pub limits: &'static str,
    /// Example cases, as a JSON array; none if it is empty.
    pub examples: &'static str,
    /// Free memory that a call begins with, in bytes. Not a part of the section.
    pub heap_bytes: usize,
}

/// A member of the JSON object.
#[derive(Clone, Copy)]
enum Member {
    /// A text.
    Text(&'static str, &'static str),
    /// JSON already.
    Json(&'static str, &'static str),
}

/// Writes into an array, or only counts if that has no room at all.
struct Writer<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Writer<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    const fn byte(&mut self, byte: u8) {
        if N > 0 {
            self.bytes[self.length] = byte;
        }
        self.length += 1;
    }

    const fn json(&mut self, text: &str) {
        let mut index = 0;
        while index < text.len() {
            self.byte(text.as_bytes()[index]);
            index += 1;
        }
    }

    const fn text(&mut self, text: &str) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.byte(b'"');
        let mut index = 0;
        while index < text.len() {
            let byte = text.as_bytes()[index];
            if byte < 0x20 {
                self.json("\\u00");
                self.byte(DIGITS[(byte >> 4) as usize]);
                self.byte(DIGITS[(byte & 15) as usize]);
            } else {
                if byte == b'"' || byte == b'\\' {
                    self.byte(b'\\');
                }
                self.byte(byte);
            }
            index += 1;
        }
        self.byte(b'"');
    }

    const fn object(mut self, members: &[Member]) -> Self {
        self.byte(b'{');
        let mut index = 0;
        let mut first = true;
        while index < members.len() {
            let (Member::Text(key, value) | Member::Json(key, value)) = members[index];
            if !value.is_empty() {
                if !first {
                    self.byte(b',');
                }
                first = false;
                self.text(key);
                self.byte(b':');
                match members[index] {
                    Member::Text(..) => self.text(value),
                    Member::Json(..) => self.json(value),
                }
            }
            index += 1;
        }
        self.byte(b'}');
        self
    }
}

impl Metadata {
    const fn members(&self) -> [Member; 8] {
        [
            Member::Text("name", self.name),
            Member::Text("version", self.version),
            Member::Text("description", self.description),
            Member::Text("license", self.license),
            Member::Text("source", self.source),
            Member::Json("settings_schema", self.settings_schema),
            Member::Json("limits", self.limits),
            Member::Json("examples", self.examples),
        ]
    }

    /// The length of the JSON object, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub const fn len(&self) -> usize {
        Writer::<0>::new().object(&self.members()).length
    }

    /// The JSON object. `N` is [`Metadata::len`].
    #[must_use]
    pub const fn json<const N: usize>(&self) -> [u8; N] {
        Writer::<N>::new().object(&self.members()).bytes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const METADATA: Metadata = Metadata {
        name: "a \"quoted\" \\ name\n",
        version: "1",
        description: "",
        license: "",
        source: "",
        settings_schema: "{\"type\": \"object\"}",
        limits: "",
        examples: "[]",
        heap_bytes: 0,
    };

    #[test]
    fn it_is_json_at_compile_time() {
        const JSON: [u8; METADATA.len()] = METADATA.json();
        let value: Value = serde_json::from_slice(&JSON).expect("it is JSON");
        let expected = json!({
            "name": "a \"quoted\" \\ name\n",
            "version": "1",
            "settings_schema": {"type": "object"},
            "examples": [],
        });
        assert_eq!(value, expected);
    }
}
