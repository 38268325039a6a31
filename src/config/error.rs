//! What is wrong with a configuration, told so that it can be put right.

use std::fmt;

use super::source::{Document, Origin};

/// How many problems are told at once; the rest usually follows from the first few.
const PROBLEMS_SHOWN_MAX: usize = 20;

/// The longest part of a line that is quoted, in characters.
const LINE_CHARS_MAX: usize = 120;

/// Everything found wrong with a configuration. Its `Display` names file, line and column (or the
/// environment variable), quotes the line without secrets, and says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.render())]
pub struct ConfigError {
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `FILE:LINE:COLUMN`, a variable's name, or the file's name.
    place: String,
    message: String,
    quote: Option<Quote>,
    help: Option<String>,
}

/// The offending line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Quote {
    line: usize,
    column: usize,
    width: usize,
    text: String,
}

impl ConfigError {
    /// What is wrong, in the order in which it was found; never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    fn render(&self) -> String {
        let mut lines: Vec<String> =
            self.problems.iter().take(PROBLEMS_SHOWN_MAX).map(ToString::to_string).collect();
        if let Some(more) = self.problems.len().checked_sub(PROBLEMS_SHOWN_MAX + 1) {
            lines.push(format!("and {} more", more + 1));
        }
        lines.join("\n")
    }
}

impl Problem {
    /// `FILE:LINE:COLUMN`, the name of an environment variable, or the file's name.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What is wrong, in one sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What would be right, where that is known.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        if let Some(quote) = &self.quote {
            let number = quote.line.to_string();
            let margin = " ".repeat(number.len());
            write!(f, "\n  {number} | {}", quote.text)?;
            // No caret where the line was cut before the place.
            let left = quote.text.chars().count().saturating_sub(quote.column - 1);
            if left > 0 {
                let indent = " ".repeat(quote.column - 1);
                write!(f, "\n  {margin} | {indent}{}", "^".repeat(quote.width.clamp(1, left)))?;
            }
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// Collects what is wrong while the configuration is read.
#[derive(Debug)]
pub(super) struct Problems<'t> {
    document: Document<'t>,
    found: Vec<Problem>,
}

impl<'t> Problems<'t> {
    /// None yet.
    pub(super) const fn new(document: Document<'t>) -> Self {
        Self { document, found: Vec::new() }
    }

    /// Notes a problem with the value that was set at `origin`.
    pub(super) fn add(&mut self, origin: &Origin, message: impl Into<String>, help: Option<&str>) {
        let (place, quote) = match origin {
            Origin::File(span) => {
                let place = self.document.place(span.start);
                let quote = Quote {
                    line: place.line,
                    column: place.column,
                    width: self
                        .document
                        .text
                        .get(span.clone())
                        .map_or(1, |text| text.chars().take_while(|c| *c != '\n').count()),
                    text: printable(&redacted(place.text)),
                };
                let name = format!("{}:{}:{}", self.document.name, place.line, place.column);
                (name, Some(quote))
            }
            Origin::Variable(name) => (name.clone(), None),
            Origin::Nowhere => (self.document.name.to_owned(), None),
        };
        self.found.push(Problem {
            place,
            message: message.into(),
            quote,
            help: help.map(str::to_owned),
        });
    }

    /// Whether nothing is wrong so far.
    pub(super) const fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// A short name of a place, for a message about another one.
    pub(super) fn name_of(&self, origin: &Origin) -> String {
        match origin {
            Origin::File(span) => format!("line {}", self.document.place(span.start).line),
            Origin::Variable(name) => name.clone(),
            Origin::Nowhere => "a built-in entry".to_owned(),
        }
    }

    /// `value` if nothing was wrong.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => Err(ConfigError { problems: self.found }),
        }
    }
}

impl From<Problems<'_>> for ConfigError {
    fn from(problems: Problems<'_>) -> Self {
        Self { problems: problems.found }
    }
}

/// Text from the file for a message or a quotation: no control characters, bounded length.
pub(super) fn printable(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(LINE_CHARS_MAX)
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect();
    if text.chars().nth(LINE_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

/// A line without what may be a secret: errors end up in logs and tickets.
///
/// Secrets belong in files of their own, but the line with one is just the line that is wrong.
fn redacted(line: &str) -> String {
    const SUSPECT: [&str; 4] = ["password", "token", "secret", "key"];
    let lower = line.to_ascii_lowercase();
    let secret_from = SUSPECT
        .iter()
        .flat_map(|word| lower.match_indices(word).map(|(at, word)| at + word.len()))
        .filter(|end| !lower[*end..].starts_with("_file"))
        .filter_map(|end| lower[end..].find('=').map(|equals| end + equals + 1))
        .min();
    // `lower` has the same bytes in the same places: only ASCII letters changed.
    let (kept, cut) = match secret_from {
        Some(from) => (&line[..from], " [redacted]"),
        None => (line, ""),
    };
    let mut shown = without_userinfo(kept);
    shown.push_str(cut);
    shown
}

/// Replaces `user:password@` in URLs.
fn without_userinfo(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let authority = after.find(['/', '"', '\'', ' ', ',']).unwrap_or(after.len());
        rest = match after[..authority].rfind('@') {
            Some(end) => {
                shown.push_str("[redacted]");
                &after[end..]
            }
            None => after,
        };
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_quotes_its_line_and_points_at_it() {
        let text = "[server]\nlisen = 1\n";
        let mut problems = Problems::new(Document { name: "p.toml", text });
        problems.add(&Origin::File(9..14), "unknown key `lisen`", Some("did you mean `listen`?"));
        let error = problems.finish(Some(())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "p.toml:2:1: unknown key `lisen`\n  2 | lisen = 1\n    | ^^^^^\n  help: did you mean `listen`?"
        );
    }

    #[test]
    fn secrets_are_not_quoted() {
        for (line, shown) in [
            ("password = \"hunter2\"", "password = [redacted]"),
            ("x = { Token = \"hunter2\" }", "x = { Token = [redacted]"),
            ("api_key=hunter2", "api_key= [redacted]"),
            ("password_file = \"/run/pw\"", "password_file = \"/run/pw\""),
            ("proxy = \"http://u:hunter2@p:1/\"", "proxy = \"http://[redacted]@p:1/\""),
            (
                "e = [\"http://a\", \"http://u:p@w@b\"]",
                "e = [\"http://a\", \"http://[redacted]@b\"]",
            ),
        ] {
            assert_eq!(redacted(line), shown);
        }
    }

    #[test]
    fn long_and_strange_lines_are_quoted_safely() {
        let line = format!("\u{1b}[31m\t{}", "ü".repeat(500));
        let shown = printable(&line);
        assert!(shown.starts_with("\u{fffd}[31m ü") && shown.ends_with("..."), "{shown}");
        assert_eq!(shown.chars().count(), LINE_CHARS_MAX + 3);
    }

    #[test]
    fn many_problems_are_counted() {
        let mut problems = Problems::new(Document { name: "f", text: "" });
        for n in 0..23 {
            problems.add(&Origin::Nowhere, format!("number {n}"), None);
        }
        let text = ConfigError::from(problems).to_string();
        assert!(text.ends_with("number 19\nand 3 more"), "{text}");
    }
}
