//! What policies answer, fit to be shown.

use crate::oci::ErrorCode;

/// A refusal that reaches the client as a well-formed registry error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The error code of the distribution specification.
    pub code: ErrorCode,
    /// Shown to the person who ran the pull.
    pub message: String,
    /// Whether a plugin ran out of time or memory, or trapped, over the question: who asks such
    /// questions again and again may do so on purpose.
    pub overtaxed: bool,
}

impl Denial {
    /// A refusal with status 401: who asks has to log in.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::Unauthorized, message: message.into(), overtaxed: false }
    }

    /// A refusal with status 403.
    pub fn denied(message: impl Into<String>) -> Self {
        Self { code: ErrorCode::Denied, message: message.into(), overtaxed: false }
    }
}

/// Permission, with what the host has to do besides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Sent as `Warning` headers, which clients print.
    pub warnings: Vec<String>,
}

/// A policy's answer.
pub type Verdict = Result<Allowed, Denial>;

/// What anonymous clients may do where there is an authenticator and no authorizer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// Nothing: they have to log in.
    #[default]
    Deny,
    /// Read.
    Pull,
}

/// `text` in one line of at most `bytes_max` bytes: what is shown to people, sent in headers or
/// written to logs must not end them, nor order a terminal about.
pub(super) fn line(text: &str, bytes_max: usize) -> String {
    let mut line = String::with_capacity(text.len().min(bytes_max));
    for c in text.trim().chars() {
        let c = if c.is_control() || is_layout(c) { ' ' } else { c };
        if line.len() + c.len_utf8() > bytes_max {
            break;
        }
        line.push(c);
    }
    line.truncate(line.trim_end().len());
    line
}

/// Separators of lines and paragraphs, and the marks that turn the direction of writing: with them
/// a text can look like another one.
const fn is_layout(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_lines() {
        for (text, expected) in [
            ("plain", "plain"),
            (" a\r\nb\u{1b}[31m ", "a  b [31m"),
            ("a\u{202e}b\u{2028}c", "a b c"),
            ("\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}", "\u{e4}\u{e4}\u{e4}\u{e4}\u{e4}"),
        ] {
            assert_eq!(line(text, 11), expected);
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_bounded(text in any::<String>(), max in 0_usize..64) {
            let line = line(&text, max);
            prop_assert!(line.len() <= max && !line.chars().any(char::is_control));
        }
    }
}
