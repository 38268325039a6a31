//! Rust text without what only looks like code.

/// A file of Rust.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the root of the project.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// With comments and literals blanked, line for line.
    pub(crate) code: String,
    /// Whether the whole file is test code.
    pub(crate) all_tests: bool,
    /// The first line (from 1) of the test module at the end, if any.
    tests_from: Option<usize>,
}

/// A word of the code and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word<'s> {
    /// The word.
    pub(crate) text: &'s str,
    /// Counted from 1.
    pub(crate) line: usize,
    /// Byte offsets in the code.
    pub(crate) start: usize,
    /// One past it.
    pub(crate) end: usize,
}

impl Source {
    /// Reads a file's text.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = blank(text);
        let tests_from = tests_from(&code);
        let in_tests = path.starts_with("tests/") || path.contains("/tests/");
        let all_tests = in_tests || path.ends_with("/tests.rs");
        Self { path: path.to_owned(), text: text.to_owned(), code, all_tests, tests_from }
    }

    /// Whether that line is test code.
    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.all_tests || self.tests_from.is_some_and(|from| line >= from)
    }

    /// The top-level module that the file belongs to; none for `lib.rs` and outside of `src`.
    pub(crate) fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next()?;
        let name = first.strip_suffix(".rs").unwrap_or(first);
        (name != "lib").then_some(name)
    }

    /// How many modules the file is below the crate's root: `src/a/b.rs` is 2.
    pub(crate) fn depth(&self) -> usize {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let components = inside.split('/').count();
        if inside.ends_with("/mod.rs") { components - 1 } else { components }
    }

    /// Every identifier and keyword.
    pub(crate) fn words(&self) -> impl Iterator<Item = Word<'_>> {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let mut line = 1;
        let mut at = 0;
        std::iter::from_fn(move || {
            let rest = self.code.get(at..)?;
            let skipped = rest.find(is_word)?;
            line += rest[..skipped].matches('\n').count();
            let start = at + skipped;
            let length =
                self.code[start..].find(|c| !is_word(c)).unwrap_or(self.code.len() - start);
            at = start + length;
            Some(Word { text: &self.code[start..at], line, start, end: at })
        })
    }
}

fn tests_from(code: &str) -> Option<usize> {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    lines.iter().enumerate().find_map(|(at, line)| {
        // `mod tests;` and single items do not reach to the end of the file.
        let opens = line.starts_with("#[cfg(test)]")
            && lines
                .iter()
                .skip(at + 1)
                .find(|line| !line.is_empty() && !line.starts_with("#["))
                .is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'));
        opens.then_some(at + 1)
    })
}

/// Replaces comments, strings and characters by spaces.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied();
    let mut code = String::with_capacity(text.len());
    let mut index = 0;
    while let Some(c) = at(index) {
        let end = match c {
            '/' if at(index + 1) == Some('/') => until(index, |i| at(i).is_none_or(|c| c == '\n')),
            '/' if at(index + 1) == Some('*') => comment_end(&chars, index),
            '"' => string_end(&chars, index),
            'r' if !continues_word(&chars, index) => raw_end(&chars, index).unwrap_or(index),
            '\'' => char_end(&chars, index).unwrap_or(index),
            _ => index,
        };
        if end == index {
            code.push(c);
            index += 1;
        } else {
            let blanked = &chars[index..end.min(chars.len())];
            code.extend(blanked.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            index = end;
        }
    }
    code
}

fn until(from: usize, end: impl Fn(usize) -> bool) -> usize {
    (from..).find(|index| end(*index)).unwrap_or(from)
}

fn continues_word(chars: &[char], index: usize) -> bool {
    // The b and c of br"" and cr"" are no word of their own.
    let before = index.checked_sub(1).and_then(|before| chars.get(before));
    before.is_some_and(|c| (c.is_alphanumeric() || *c == '_') && !matches!(c, 'b' | 'c'))
}

fn comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut index = start;
    while index < chars.len() {
        match (chars.get(index), chars.get(index + 1)) {
            (Some('/'), Some('*')) => {
                depth += 1;
                index += 2;
            }
            (Some('*'), Some('/')) => {
                depth -= 1;
                index += 2;
                if depth == 0 {
                    return index;
                }
            }
            _ => index += 1,
        }
    }
    index
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut index = start + 1;
    while let Some(c) = chars.get(index) {
        match c {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    index
}

fn raw_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars.iter().skip(start + 1).take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |index: usize| {
        chars.get(index) == Some(&'"')
            && chars.iter().skip(index + 1).take(hashes).filter(|c| **c == '#').count() == hashes
    };
    let close = (open + 1..chars.len()).find(|index| closes(*index)).unwrap_or(chars.len());
    Some(close + 1 + hashes)
}

/// The end of a character; none if it is a lifetime.
fn char_end(chars: &[char], start: usize) -> Option<usize> {
    match (chars.get(start + 1)?, chars.get(start + 2)?) {
        ('\\', _) => (start + 3..chars.len()).find(|i| chars[*i] == '\'').map(|i| i + 1),
        (_, '\'') => Some(start + 3),
        _ => None,
    }
}

#[test]
fn literals_and_comments_are_not_code() {
    for (text, code) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        ("x(\"a\\\"b\", c)", "x(      , c)"),
        ("x(r#\"a\"b\"#, c)", "x(        , c)"),
        ("x(br\"a\", c)", "x(b    , c)"),
        ("f('\"', 'a', '\\'', 'b)", "f(   ,    ,     , 'b)"),
        ("'\\u{1f}' x", "         x"),
        ("for r in \"\" {}", "for r in    {}"),
        ("\"open", "     "),
    ] {
        assert_eq!(blank(text), code, "{text}");
    }
}

#[test]
fn test_code_is_told_from_the_rest() {
    let text = "fn a() {}\n#[cfg(test)]\nfn b() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n}";
    let source = Source::new("src/a.rs", text);
    assert_eq!((source.is_test(3), source.is_test(4), source.is_test(7)), (false, true, true));
    assert!(!Source::new("src/a.rs", "#[cfg(test)]\nmod tests;\nfn a() {}").is_test(3));
    assert!(Source::new("src/a/tests.rs", "").is_test(1));
    assert!(Source::new("tests/a.rs", "").is_test(1));
}

#[test]
fn places_in_the_tree_are_known() {
    for (path, module, depth) in [
        ("src/lib.rs", None, 1),
        ("src/a.rs", Some("a"), 1),
        ("src/a/mod.rs", Some("a"), 1),
        ("src/a/b.rs", Some("a"), 2),
        ("src/a/b/mod.rs", Some("a"), 2),
        ("tests/x.rs", None, 2),
    ] {
        let source = Source::new(path, "");
        assert_eq!((source.module(), source.depth()), (module, depth), "{path}");
    }
}

#[test]
fn words_know_their_lines() {
    let source = Source::new("src/a.rs", "use a::{b,\n c_d};");
    let words: Vec<_> = source.words().map(|word| (word.text, word.line)).collect();
    assert_eq!(words, [("use", 1), ("a", 1), ("b", 1), ("c_d", 2)]);
}
