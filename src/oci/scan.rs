//! A reader of the pieces that HTTP headers are made of.
//!
//! Source: RFC 9110 section 5.6: tokens, quoted strings, optional white space.

/// A place in a header's value. Every delimiter of HTTP is ASCII, so the place is always between
/// two characters.
#[derive(Clone, Copy)]
pub(super) struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    /// The start of a value.
    pub(super) const fn new(value: &'a str) -> Self {
        Self { rest: value }
    }

    /// The next character, which stays.
    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    /// Reads this character if it is the next, and tells whether it was.
    pub(super) fn eat(&mut self, expected: char) -> bool {
        match self.rest.strip_prefix(expected) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Reads the characters that belong, as many as there are.
    pub(super) fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// Reads white space, if any.
    pub(super) fn skip_space(&mut self) {
        self.take_while(is_space);
    }

    /// Reads a token, empty if there is none.
    pub(super) fn token(&mut self) -> &'a str {
        self.take_while(is_token)
    }

    /// Reads the value of a parameter: a quoted string without its escapes, or whatever stands
    /// before white space or one of `ends`. More than tokens may stand unquoted: some servers
    /// write URLs. Nothing if a quoted string does not end or has control characters.
    pub(super) fn parameter_value(&mut self, ends: &[char]) -> Option<String> {
        if !self.eat('"') {
            let value = self.take_while(|c| !is_space(c) && !ends.contains(&c) && c != '"');
            return (!value.contains(|c: char| c.is_control())).then(|| value.to_owned());
        }
        let mut value = String::new();
        let mut chars = self.rest.chars();
        loop {
            let c = match chars.next()? {
                '"' => break,
                '\\' => chars.next()?,
                c => c,
            };
            if c.is_control() && c != '\t' {
                return None;
            }
            value.push(c);
        }
        self.rest = chars.as_str();
        Some(value)
    }
}

/// Writes a quoted string. Control characters are left out: no header can carry them.
pub(super) fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars().filter(|c| !c.is_control() || *c == '\t') {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// Whether a character may stand in a token: RFC 9110 section 5.6.2.
pub(super) fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameter_values() {
        let read = |text| Scan::new(text).parameter_value(&[',']);
        assert_eq!(read(r#""a,b\"c\\d" x"#).as_deref(), Some(r#"a,b"c\d"#));
        assert_eq!(read("https://a/b,c").as_deref(), Some("https://a/b"));
        assert_eq!(read("").as_deref(), Some(""));
        assert_eq!(read("\"open"), None);
        assert_eq!(read("\"open\\"), None);
        assert_eq!(read("\"a\nb\""), None);
    }

    proptest! {
        #[test]
        fn quoted_strings_read_back(text in "\\PC*") {
            let mut quoted = String::new();
            push_quoted(&mut quoted, &text);
            let mut scan = Scan::new(&quoted);
            prop_assert_eq!(scan.parameter_value(&[]), Some(text));
            prop_assert_eq!(scan.peek(), None);
        }
    }
}
