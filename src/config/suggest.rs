//! Guesses which word was meant.

/// Longer words are not compared: nothing here is that long.
const WORD_BYTES_MAX: usize = 64;

/// The candidate closest to `word`, if one is close enough to be a slip of the keyboard.
pub(super) fn closest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    let allowed = match word.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        6..=9 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: insertions, deletions and replacements.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, in_a) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (in_b, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(in_a != *in_b);
            diagonal = *cell;
            left = replaced.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, n) in [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), n, "{a} {b}");
        }
    }

    #[test]
    fn only_close_words_are_suggested() {
        let keys = ["listen", "admin_listen", "tag_ttl", "alias"];
        assert_eq!(closest("lisen", keys), Some("listen"));
        assert_eq!(closest("Admin-Listen", keys), Some("admin_listen"));
        assert_eq!(closest("ttl", keys), None);
        assert_eq!(closest("completely_else", keys), None);
    }
}
