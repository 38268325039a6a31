//! Text that people see: in a terminal, in a log, in a header.

/// Whether a character is not seen, or changes how what stands around it is seen: control
/// characters, separators of lines, marks of writing direction, and what has no width. With them
/// a text can look like another one.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// The text on one line, with a space for each character that is hidden.
pub(crate) fn on_one_line(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect()
}

/// Takes a text, with a space for each hidden character but the ends of lines, and stops whoever
/// writes it when it is full.
#[derive(Debug)]
pub(crate) struct Bounded {
    kept: String,
    bytes_max: usize,
}

impl Bounded {
    /// The text as far as it fits.
    pub(crate) fn of(text: impl std::fmt::Display, bytes_max: usize) -> String {
        use std::fmt::Write as _;

        let mut bounded = Self { kept: String::new(), bytes_max };
        // An error says that it is full: what did not fit is left out.
        let _ = write!(bounded, "{text:#}");
        bounded.kept
    }
}

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for c in text.chars() {
            let c = if is_hidden(c) && c != '\n' { ' ' } else { c };
            if self.kept.len() + c.len_utf8() > self.bytes_max {
                return Err(std::fmt::Error);
            }
            self.kept.push(c);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fmt;

    use super::*;

    #[test]
    fn what_is_hidden() {
        for c in ['\0', '\n', '\u{7f}', '\u{200b}', '\u{200d}', '\u{202e}', '\u{2028}', '\u{2029}']
        {
            assert!(is_hidden(c), "{c:?}");
        }
        for c in ['\u{2066}', '\u{2069}', '\u{feff}', '\u{61c}', '\u{e0041}'] {
            assert!(is_hidden(c), "{c:?}");
        }
        for c in ['a', ' ', 'ä', 'א', '–', '語', '€'] {
            assert!(!is_hidden(c), "{c:?}");
        }
        assert_eq!(on_one_line("a\u{202e}b\nc"), "a b c");
    }

    /// Writes for ever, and counts how often.
    struct Endless<'a>(&'a Cell<usize>);

    impl fmt::Display for Endless<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                self.0.set(self.0.get() + 1);
                f.write_str("ä\u{200b}\n")?;
            }
        }
    }

    #[test]
    fn who_writes_too_much_is_stopped() {
        let written = Cell::new(0);
        let kept = Bounded::of(Endless(&written), 9);
        assert_eq!(kept, "ä \nä \n");
        assert_eq!(written.get(), 3);
    }
}
