//! Where a value came from: a place in the file, or an environment variable.

use std::ops::Range;

/// The text of a configuration file and what to call it.
#[derive(Clone, Debug)]
pub(super) struct Document<'t> {
    /// The file's name as the operator gave it.
    pub(super) name: &'t str,
    /// Its content.
    pub(super) text: &'t str,
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// In the file, at these bytes.
    File(Range<usize>),
    /// In this environment variable.
    Variable(String),
    /// Nowhere: a default, or the interplay of several values.
    Nowhere,
}

/// A value and where it was set.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    /// The checked value.
    pub(super) value: T,
    /// Where it was set.
    pub(super) origin: Origin,
}

/// A line of a document, found from a position in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place<'t> {
    /// Counted from 1.
    pub(super) line: usize,
    /// In characters, counted from 1.
    pub(super) column: usize,
    /// The line without its end.
    pub(super) text: &'t str,
}

impl<'t> Document<'t> {
    /// The line that holds byte `position`; a position past the end means the end.
    pub(super) fn place(&self, position: usize) -> Place<'t> {
        let mut position = position.min(self.text.len());
        while !self.text.is_char_boundary(position) {
            position -= 1;
        }
        let (before, after) = self.text.split_at(position);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = after.find('\n').map_or(self.text.len(), |newline| position + newline);
        Place {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            text: self.text[line_start..line_end].trim_end_matches('\r'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_and_columns() {
        let document = Document { name: "f", text: "a\nbö = c\r\n\n" };
        assert_eq!(document.place(0), Place { line: 1, column: 1, text: "a" });
        // Inside the two bytes of ö, and right after them.
        assert_eq!(document.place(4), Place { line: 2, column: 2, text: "bö = c" });
        assert_eq!(document.place(5), Place { line: 2, column: 3, text: "bö = c" });
        assert_eq!(document.place(99), Place { line: 4, column: 1, text: "" });
    }
}
