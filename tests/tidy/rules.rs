//! The rules, each a function from a file to what is wrong with it.

use std::fmt;

use crate::source::{Source, Word};

/// The rules' tables; `main.rs` has the project's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tables {
    pub(crate) layers: &'static [&'static [&'static str]],
    pub(crate) siblings: &'static [(&'static str, &'static str, &'static str)],
    pub(crate) owners: &'static [(&'static str, &'static [&'static str])],
    pub(crate) unsafe_in: &'static [&'static str],
    pub(crate) lines_max: usize,
    pub(crate) large: &'static [(&'static str, usize)],
    pub(crate) sleepers: &'static [&'static str],
    pub(crate) forbidden: &'static [&'static str],
    pub(crate) forbidden_exempt: &'static [&'static str],
}

/// Something wrong, and where.
#[derive(Debug)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Whether a list of files and folders (with their `/`) names `path`.
fn listed(list: &[&str], path: &str) -> bool {
    list.iter().any(|entry| path == *entry || (entry.ends_with('/') && path.starts_with(entry)))
}

fn in_src(source: &Source) -> bool {
    source.path.starts_with("src/")
}

/// Layers import from below only, and siblings not at all.
pub(crate) fn walls(tables: &Tables, source: &Source) -> Vec<Finding> {
    let Some(module) = source.module() else { return Vec::new() };
    let layer = |name: &str| tables.layers.iter().position(|layer| layer.contains(&name));
    let Some(own) = layer(module) else {
        return vec![Finding::new(&source.path, 1, format!("`{module}` has no layer"))];
    };
    let mut findings = Vec::new();
    for (line, target) in imports(source) {
        let allowed = target == module
            || layer(target).is_some_and(|below| below < own)
            || tables.siblings.iter().any(|(who, whom, _)| *who == module && *whom == target);
        if !allowed {
            let why = match layer(target) {
                None => "has no layer".to_owned(),
                Some(other) if other == own => format!("is a sibling of `{module}`"),
                Some(_) => format!("is above `{module}`"),
            };
            findings.push(Finding::new(&source.path, line, format!("`{target}` {why}")));
        }
    }
    findings
}

/// The top-level modules that a file names, by `crate::`, by enough `super::`, or, in the
/// program, by the library's name.
fn imports(source: &Source) -> Vec<(usize, &str)> {
    let words: Vec<Word<'_>> = source.words().collect();
    let roots = if source.path == "src/main.rs" { ["crate", "pierhead"] } else { ["crate"; 2] };
    let mut found = Vec::new();
    let mut index = 0;
    while let Some(word) = words.get(index) {
        index += 1;
        if roots.contains(&word.text) {
            found.extend(after_path(source, word.line, word.end));
        } else if word.text == "super" {
            // A chain of them reaches the root if it is as long as the file is deep.
            let mut chain = 1;
            let mut last = word;
            while let Some(next) = words.get(index)
                && next.text == "super"
                && &source.code[last.end..next.start] == "::"
            {
                chain += 1;
                last = next;
                index += 1;
            }
            // Inside `mod tests` the first one only leaves that.
            let levels =
                if source.is_test(word.line) && !source.all_tests { chain - 1 } else { chain };
            if levels >= source.depth() {
                found.extend(after_path(source, last.line, last.end));
            }
        }
    }
    found
}

/// What stands behind a path's root: one name, or the first names of a group.
fn after_path(source: &Source, line: usize, end: usize) -> Vec<(usize, &str)> {
    let Some(rest) = source.code[end..].strip_prefix("::") else { return Vec::new() };
    let name = |text: &'_ str| -> usize {
        text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
    };
    if !rest.starts_with('{') {
        let length = name(rest);
        // A glob names everything.
        return vec![(line, if length == 0 { "*" } else { &rest[..length] })];
    }
    let mut found = Vec::new();
    let (mut depth, mut line, mut expects) = (0, line, false);
    for (at, c) in rest.char_indices() {
        match c {
            '\n' => line += 1,
            '{' => {
                depth += 1;
                expects = depth == 1;
            }
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => expects = true,
            c if expects && !c.is_whitespace() => {
                let length = name(&rest[at..]).max(1);
                found.push((line, &rest[at..at + length]));
                expects = false;
            }
            _ => {}
        }
    }
    found
}

/// A foreign crate is named by its owner only. Test fixtures may use what they like.
pub(crate) fn owners(tables: &Tables, source: &Source) -> Vec<Finding> {
    if !in_src(source) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for word in source.words() {
        let Some((name, owners)) = tables.owners.iter().find(|(name, _)| *name == word.text) else {
            continue;
        };
        // The crate, not a field or a variable of that name.
        let before = source.code[..word.start].trim_end();
        let is_path = source.code[word.end..].starts_with("::") && !before.ends_with("::");
        let is_import = before.ends_with("use") || before.ends_with("extern crate");
        if (is_path || is_import) && !listed(owners, &source.path) {
            let message = format!("`{name}` belongs to {}", owners.join(", "));
            findings.push(Finding::new(&source.path, word.line, message));
        }
    }
    findings
}

/// `unsafe` stands in named files only.
pub(crate) fn unsafe_code(tables: &Tables, source: &Source) -> Vec<Finding> {
    if listed(tables.unsafe_in, &source.path) {
        return Vec::new();
    }
    source
        .words()
        .filter(|word| word.text == "unsafe")
        .map(|word| Finding::new(&source.path, word.line, "`unsafe` outside the named files"))
        .collect()
}

/// Files under `src` stay readable in one sitting.
pub(crate) fn size(tables: &Tables, source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    let listed = tables.large.iter().find(|(path, _)| *path == source.path);
    let most = listed.map_or(tables.lines_max - 1, |(_, lines)| *lines);
    if !in_src(source) || lines <= most {
        return Vec::new();
    }
    vec![Finding::new(&source.path, lines, format!("{lines} lines, at most {most}"))]
}

/// Exceptions to [`size`] shrink with the files, and end.
pub(crate) fn large_is_current(tables: &Tables, sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, allowed) in tables.large {
        let lines = sources
            .iter()
            .find(|source| source.path == *path)
            .map_or(0, |source| source.text.lines().count());
        if lines < tables.lines_max {
            findings.push(Finding::new(path, 1, "needs no exception for its size any more"));
        } else if lines < *allowed {
            let message = format!("has shrunk: lower its exception to {lines}");
            findings.push(Finding::new(path, 1, message));
        }
    }
    findings
}

/// A file says first what it is for.
pub(crate) fn opening(_: &Tables, source: &Source) -> Vec<Finding> {
    if !in_src(source) || source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![Finding::new(&source.path, 1, "the first line is not a `//!` that says what this is")]
}

/// Nothing is left undone or switched off.
pub(crate) fn macros(_: &Tables, source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for word in source.words() {
        let calls = source.code[word.end..].starts_with('!');
        if calls && matches!(word.text, "todo" | "dbg" | "unimplemented") {
            let message = format!("`{}!` left in", word.text);
            findings.push(Finding::new(&source.path, word.line, message));
        }
        if word.text == "ignore" && source.code[..word.start].ends_with("#[") {
            let message = "a test that is ignored tests nothing: fix it or remove it";
            findings.push(Finding::new(&source.path, word.line, message));
        }
    }
    findings
}

/// Tests wait for what they wait for.
pub(crate) fn sleeps(tables: &Tables, source: &Source) -> Vec<Finding> {
    if listed(tables.sleepers, &source.path) {
        return Vec::new();
    }
    source
        .words()
        .filter(|word| matches!(word.text, "sleep" | "sleep_until") && source.is_test(word.line))
        .map(|word| {
            let message = "a test sleeps: poll for the condition, or pause and advance the clock";
            Finding::new(&source.path, word.line, message)
        })
        .collect()
}

/// No word of the list stands in the text, comments included.
pub(crate) fn words(tables: &Tables, path: &str, text: &str) -> Vec<Finding> {
    if listed(tables.forbidden_exempt, path) {
        return Vec::new();
    }
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for forbidden in tables.forbidden {
            let stands_alone = line.match_indices(forbidden).any(|(at, found)| {
                let own_edges = is_word(found.chars().next());
                let before = line[..at].chars().next_back();
                let after = line[at + found.len()..].chars().next();
                !own_edges || (!is_word(before) && !is_word(after))
            });
            if stands_alone {
                let message = format!("\"{forbidden}\" does not belong here");
                findings.push(Finding::new(path, number + 1, message));
            }
        }
    }
    findings
}

/// The tables themselves make sense.
pub(crate) fn tables(tables: &Tables) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut complain =
        |message: String| findings.push(Finding::new("tests/tidy/main.rs", 1, message));
    let layer = |name: &str| tables.layers.iter().position(|layer| layer.contains(&name));
    let names: Vec<&str> = tables.layers.iter().flat_map(|layer| layer.iter().copied()).collect();
    for name in &names {
        if names.iter().filter(|other| other == &name).count() > 1 {
            complain(format!("`{name}` has two layers"));
        }
    }
    for (who, whom, why) in tables.siblings {
        if layer(who).is_none() || layer(who) != layer(whom) || why.is_empty() {
            complain(format!("`{who}` and `{whom}` are no siblings with a reason"));
        }
        if tables.siblings.iter().any(|(a, b, _)| a == whom && b == who) {
            complain(format!("`{who}` and `{whom}` import one another"));
        }
    }
    findings
}

/// What the README tells people to run is what the checks run.
pub(crate) fn readme(readme: &str, run: &str) -> Vec<Finding> {
    let tests: Vec<&str> =
        readme.lines().map(str::trim).filter(|line| line.starts_with("cargo test")).collect();
    let [command] = tests.as_slice() else {
        let message = format!("names {} test commands instead of one", tests.len());
        return vec![Finding::new("README.md", 1, message)];
    };
    if run.lines().any(|line| line.trim().strip_prefix("stage tests ") == Some(command)) {
        return Vec::new();
    }
    vec![Finding::new(".ci/run", 1, format!("does not run the README's `{command}` as it stands"))]
}

/// Every metric of the code is in the operator's page, and every one of the page in the code.
pub(crate) fn metrics(sources: &[Source], path: &str, page: &str) -> Vec<Finding> {
    const START: &str = "pierhead_";
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let name = |rest: &str| rest.split(|c| !is_name(c)).next().unwrap_or_default().to_owned();
    let mut known = Vec::new();
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| in_src(source)) {
        for (number, line) in source.text.lines().enumerate() {
            for (at, _) in line.match_indices(&format!("\"{START}")) {
                let metric = name(&line[at + 1..]);
                if !page.contains(&format!("`{metric}`")) {
                    let message = format!("`{metric}` is not in {path}");
                    findings.push(Finding::new(&source.path, number + 1, message));
                }
                known.push(metric);
            }
        }
    }
    for (number, line) in page.lines().enumerate() {
        for (at, _) in line.match_indices(START) {
            let metric = name(&line[at..]);
            if !known.contains(&metric) {
                let message = format!("there is no metric `{metric}`");
                findings.push(Finding::new(path, number + 1, message));
            }
        }
    }
    findings
}

/// Every test that a page names as a proof exists: `tests/pulls/fill::name` is a function of that
/// name in `tests/pulls/fill.rs`.
pub(crate) fn proofs(sources: &[Source], path: &str, page: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in page.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let Some((file, function)) = quoted.split_once("::") else { continue };
            let is_ours = file.starts_with("tests/") || file.starts_with("src/");
            let is_name = function.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !is_ours || !is_name {
                continue;
            }
            let file = format!("{file}.rs");
            let source = sources.iter().find(|source| source.path == file);
            let wanted = format!("fn {function}(");
            if source.is_none_or(|source| !source.code.contains(&wanted)) {
                let message = format!("there is no `{function}` in {file}");
                findings.push(Finding::new(path, number + 1, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: Tables = Tables {
        layers: &[&["low", "floor"], &["mid", "side"], &["top", "main"]],
        siblings: &[("side", "mid", "because")],
        owners: &[("foreign", &["src/mid/foreign.rs", "src/side/"])],
        unsafe_in: &["src/mid/foreign.rs"],
        lines_max: 3,
        large: &[("src/large.rs", 5)],
        sleepers: &["tests/poll.rs"],
        forbidden: &["NEVER", "/secret/"],
        forbidden_exempt: &["exempt/"],
    };

    fn lines(rule: fn(&Tables, &Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
        rule(&TABLES, &Source::new(path, text)).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn walls_hold() {
        let bad = |path: &str, text: &str| lines(walls, path, text);
        assert_eq!(bad("src/mid.rs", "use crate::low::A;\nuse crate::mid::B;"), [0; 0]);
        assert_eq!(bad("src/mid/x.rs", "use crate::low;\nuse crate::top::A;"), [2]);
        assert_eq!(bad("src/mid.rs", "use crate::side::A;"), [1]);
        assert_eq!(bad("src/side.rs", "use crate::mid::A;"), [0; 0]);
        assert_eq!(bad("src/low.rs", "fn f() { crate::mid::f(); }"), [1]);
        assert_eq!(bad("src/low.rs", "use crate::{\n floor::{a, b},\n  low, top::x,\n};"), [2, 3]);
        assert_eq!(bad("src/low.rs", "use crate::*;"), [1]);
        assert_eq!(bad("src/low.rs", "use crate::Reexported;"), [1]);
        assert_eq!(bad("src/low.rs", "// crate::top\n/// [`crate::top`]"), [0; 0]);
        assert_eq!(bad("src/new.rs", ""), [1]);
        assert_eq!(bad("src/lib.rs", "use crate::top::A;"), [0; 0]);
        assert_eq!(bad("src/main.rs", "fn f() { pierhead::top::f() }"), [1]);
        assert_eq!(bad("src/low.rs", "pub(crate) fn f() {}"), [0; 0]);
    }

    #[test]
    fn walls_hold_against_super() {
        let bad = |path: &str, text: &str| lines(walls, path, text);
        assert_eq!(bad("src/mid/x.rs", "use super::y;"), [0; 0]);
        assert_eq!(bad("src/mid/x.rs", "use super::super::top::y;"), [1]);
        assert_eq!(bad("src/mid/x.rs", "use super::super::low::y;"), [0; 0]);
        assert_eq!(bad("src/low.rs", "use super::mid::y;"), [1]);
        assert_eq!(bad("src/low.rs", "#[cfg(test)]\nmod tests {\n    use super::*;\n}"), [0; 0]);
        assert_eq!(bad("src/low.rs", "#[cfg(test)]\nmod t {\n use super::super::mid;\n}"), [3]);
    }

    #[test]
    fn owners_are_asked() {
        assert_eq!(lines(owners, "src/low.rs", "use foreign::A;\nfn f() { foreign::g() }"), [1, 2]);
        assert_eq!(lines(owners, "src/low.rs", "use foreign;"), [1]);
        assert_eq!(
            lines(owners, "src/low.rs", "a.foreign(); let foreign = 1; b::foreign::c"),
            [0; 0]
        );
        assert_eq!(lines(owners, "src/mid/foreign.rs", "use foreign::A;"), [0; 0]);
        assert_eq!(lines(owners, "src/side/x.rs", "use foreign::A;"), [0; 0]);
        assert_eq!(lines(owners, "tests/x.rs", "use foreign::A;"), [0; 0]);
    }

    #[test]
    fn unsafe_is_found() {
        assert_eq!(lines(unsafe_code, "src/low.rs", "\nunsafe { x() }"), [2]);
        assert_eq!(lines(unsafe_code, "src/low.rs", "// unsafe\n#![deny(unsafe_code)]"), [0; 0]);
        assert_eq!(lines(unsafe_code, "src/mid/foreign.rs", "unsafe {}"), [0; 0]);
    }

    #[test]
    fn sizes_are_counted() {
        assert_eq!(lines(size, "src/low.rs", "1\n2"), [0; 0]);
        assert_eq!(lines(size, "src/low.rs", "1\n2\n3"), [3]);
        assert_eq!(lines(size, "src/large.rs", "1\n2\n3\n4\n5"), [0; 0]);
        assert_eq!(lines(size, "src/large.rs", "1\n2\n3\n4\n5\n6"), [6]);
        assert_eq!(lines(size, "tests/low.rs", "1\n2\n3"), [0; 0]);
        for (text, current) in [("1\n2\n3\n4\n5", true), ("1\n2\n3\n4", false), ("1", false)] {
            let sources = [Source::new("src/large.rs", text)];
            assert_eq!(large_is_current(&TABLES, &sources).is_empty(), current, "{text}");
        }
        assert!(!large_is_current(&TABLES, &[]).is_empty());
    }

    #[test]
    fn files_open_with_their_purpose() {
        assert_eq!(lines(opening, "src/low.rs", "//! What.\n"), [0; 0]);
        assert_eq!(lines(opening, "src/low.rs", "use a;\n//! What."), [1]);
        assert_eq!(lines(opening, "src/low.rs", ""), [1]);
    }

    #[test]
    fn what_is_left_undone_is_found() {
        assert_eq!(lines(macros, "src/low.rs", "todo!()\ndbg!(x)\n#[ignore]\n"), [1, 2, 3]);
        assert_eq!(lines(macros, "tests/x.rs", "#[ignore = \"slow\"]"), [1]);
        assert_eq!(lines(macros, "src/low.rs", "let todo = a != b; x.ignore(); \"todo!\""), [0; 0]);
    }

    #[test]
    fn sleeping_tests_are_found() {
        let inner = "fn f() { tokio::time::sleep(x) }\n#[cfg(test)]\nmod tests {\nsleep(y);\n}";
        assert_eq!(lines(sleeps, "src/low.rs", inner), [4]);
        assert_eq!(lines(sleeps, "tests/x.rs", "std::thread::sleep(x)"), [1]);
        assert_eq!(lines(sleeps, "tests/poll.rs", "std::thread::sleep(x)"), [0; 0]);
    }

    #[test]
    fn forbidden_words_are_found() {
        let found = |path: &str, text: &str| words(&TABLES, path, text).len();
        assert_eq!(found("a.md", "say NEVER\n# NEVER: x"), 2);
        assert_eq!(found("a.md", "NEVERMORE, never, A_NEVER"), 0);
        assert_eq!(found("a.md", "see /secret/place"), 1);
        assert_eq!(found("exempt/a.md", "NEVER"), 0);
    }

    #[test]
    fn the_tables_are_checked() {
        assert!(tables(&TABLES).is_empty());
        let twice = Tables { layers: &[&["a"], &["a"]], siblings: &[], ..TABLES };
        assert!(!tables(&twice).is_empty());
        let strangers = Tables { siblings: &[("low", "mid", "x")], ..TABLES };
        assert!(!tables(&strangers).is_empty());
        let circle = Tables { siblings: &[("side", "mid", "x"), ("mid", "side", "x")], ..TABLES };
        assert!(!tables(&circle).is_empty());
    }

    #[test]
    fn the_readme_is_compared() {
        let text = "```\ncargo test --all\n```";
        assert!(readme(text, "x\nstage tests cargo test --all\n").is_empty());
        assert!(!readme(text, "stage tests cargo test --all --release").is_empty());
        assert!(!readme(text, "# stage tests cargo test --all").is_empty());
        assert!(!readme("nothing", "stage tests cargo test --all").is_empty());
        assert!(!readme("cargo test a\ncargo test b", "stage tests cargo test a").is_empty());
    }
    #[test]
    fn metrics_and_their_page_agree() {
        let sources = [
            Source::new("src/low.rs", "new(\"pierhead_a_total\", \"pierhead\")"),
            Source::new("tests/x.rs", "metric(\"pierhead_b\")"),
        ];
        let found = |page: &str| metrics(&sources, "page.md", page).len();
        assert_eq!(found("`pierhead_a_total` and `pierhead_a_total{x=1}`"), 0);
        assert_eq!(found("pierhead_a_total"), 1, "not as a name");
        assert_eq!(found("`pierhead_a_total`, `pierhead_b`"), 1);
    }

    #[test]
    fn proofs_exist() {
        let sources = [Source::new("tests/x.rs", "fn good() {}\n// fn comment()")];
        let found = |page: &str| proofs(&sources, "page.md", page).len();
        assert_eq!(found("`tests/x::good`, `tests/x::…`, `x::other`, tests/x::bad"), 0);
        assert_eq!(found("`tests/x::bad` `tests/y::good` `tests/x::comment`"), 3);
    }
}
