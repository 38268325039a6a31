//! Patterns of names.
//!
//! `*` stands for any characters within a component (which ends at `/`), `**` for any characters at
//! all, and `?` for one character of a component. Everything else stands for itself. A `**/` at the
//! beginning also stands for nothing, so that `**/debian` is `debian` as well.

/// Whether the pattern is the name's. It takes time in proportion to both lengths' product at
/// most, whatever they are.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern = pattern.as_bytes();
    let name = name.as_bytes();
    if let Some(rest) = pattern.strip_prefix(b"**/")
        && run(rest, name)
    {
        return true;
    }
    run(pattern, name)
}

/// Whether one of the patterns is the name's.
pub fn any<'a>(patterns: impl IntoIterator<Item = &'a String>, name: &str) -> bool {
    patterns.into_iter().any(|pattern| matches(pattern, name))
}

/// One row of the table at a time: which lengths of `name` the pattern so far can stand for.
fn run(pattern: &[u8], name: &[u8]) -> bool {
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    let mut rest = pattern;
    while let Some((&first, tail)) = rest.split_first() {
        let (any, within) = match rest {
            [b'*', b'*', ..] => (true, false),
            [b'*', ..] => (true, true),
            _ => (false, false),
        };
        if any {
            for index in 0..name.len() {
                let crosses = within && name[index] == b'/';
                reached[index + 1] |= reached[index] && !crosses;
            }
            rest = if within { tail } else { &rest[2..] };
            continue;
        }
        for index in (0..name.len()).rev() {
            let fits = if first == b'?' { name[index] != b'/' } else { name[index] == first };
            reached[index + 1] = reached[index] && fits;
        }
        reached[0] = false;
        rest = tail;
    }
    reached[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_ends_at_a_slash_and_two_do_not() {
        for (pattern, name, expected) in [
            ("debian", "debian", true),
            ("debian", "debian2", false),
            ("library/*", "library/debian", true),
            ("library/*", "library/a/b", false),
            ("library/**", "library/a/b", true),
            ("**", "library/a/b", true),
            ("**", "", true),
            ("*", "", true),
            ("**/debian", "library/debian", true),
            ("**/debian", "debian", true),
            ("**/debian", "library/notdebian", false),
            ("v?", "v1", true),
            ("v?", "v", false),
            ("a?b", "a/b", false),
            ("*-rc*", "1.2-rc3", true),
            ("*-rc*", "1.2", false),
            ("a**c", "a/b/c", true),
            ("", "", true),
            ("", "a", false),
            ("repo:octo/*:ref:refs/heads/**", "repo:octo/app:ref:refs/heads/a/b", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn an_evil_pattern_takes_no_longer() {
        let name = "a".repeat(2_000);
        assert!(!matches(&("*a".repeat(200) + "b"), &name));
    }
}
