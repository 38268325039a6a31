//! Which metrics and labels a PromQL expression names. Not a parser: `promtool` is one, and
//! `deploy/check` runs it; it knows nothing of what the program exports.

use std::collections::BTreeSet;

/// A matcher in braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matcher {
    pub(crate) label: String,
    pub(crate) operator: String,
    pub(crate) value: String,
}

/// What an expression names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// Metrics, with the matchers behind each.
    pub(crate) metrics: Vec<(String, Vec<Matcher>)>,
    /// Labels in `by (...)` and its like.
    pub(crate) labels: BTreeSet<String>,
}

const LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const WORDS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Mark(char),
}

fn tokens(expression: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = expression.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' | '\'' => {
                let mut text = String::new();
                while let Some(inner) = chars.next().filter(|inner| *inner != c) {
                    // A backslash keeps what follows from ending the string.
                    let kept = if inner == '\\' { chars.next() } else { Some(inner) };
                    text.extend(kept);
                }
                tokens.push(Token::Text(text));
            }
            // A duration, or a variable that stands for one.
            '[' => while chars.next().is_some_and(|inner| inner != ']') {},
            c if c.is_ascii_alphabetic() || c == '_' => {
                let mut word = String::from(c);
                while let Some(next) =
                    chars.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
                {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
            // A number, with its unit if it is a duration.
            c if c.is_ascii_digit() => {
                while chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '.').is_some() {}
            }
            c if c.is_whitespace() => {}
            c => tokens.push(Token::Mark(c)),
        }
    }
    tokens
}

/// What `expression` names.
pub(crate) fn names(expression: &str) -> Names {
    let tokens = tokens(expression);
    let mut names = Names::default();
    let mut rest = tokens.as_slice();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let Token::Word(word) = first else { continue };
        if LISTS.contains(&word.as_str()) {
            let end = rest.iter().position(|token| *token == Token::Mark(')')).unwrap_or(0);
            names.labels.extend(rest[..end].iter().filter_map(|token| match token {
                Token::Word(label) => Some(label.clone()),
                Token::Text(_) | Token::Mark(_) => None,
            }));
            rest = &rest[end..];
        } else if WORDS.contains(&word.as_str()) || is_call(rest) {
            // No metric.
        } else if rest.first() == Some(&Token::Mark('{')) {
            let end = rest.iter().position(|token| *token == Token::Mark('}')).unwrap_or(0);
            names.metrics.push((word.clone(), matchers(&rest[1..end])));
            rest = &rest[end..];
        } else {
            names.metrics.push((word.clone(), Vec::new()));
        }
    }
    names
}

/// `f(`, or `sum by (x) (`: the second has its list behind it.
fn is_call(rest: &[Token]) -> bool {
    match rest.first() {
        Some(Token::Mark('(')) => true,
        Some(Token::Word(word)) => matches!(word.as_str(), "by" | "without"),
        _ => false,
    }
}

fn matchers(tokens: &[Token]) -> Vec<Matcher> {
    let one = |tokens: &[Token]| match tokens {
        [Token::Word(label), operator @ .., Token::Text(value)] => {
            let operator = operator.iter().map(|token| match token {
                Token::Mark(mark) => *mark,
                token => panic!("{token:?} in a matcher"),
            });
            Matcher { label: label.clone(), operator: operator.collect(), value: value.clone() }
        }
        other => panic!("not a matcher: {other:?}"),
    };
    tokens.split(|token| *token == Token::Mark(',')).filter(|t| !t.is_empty()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_and_labels_are_found() {
        let found = names(
            "histogram_quantile(0.9, sum by (le, kind) (rate(a_bucket{x=~\"b|c\",y!=\"}\"}[5m]))) \
             / on (z) d > bool 1e3 offset 5m unless e",
        );
        let matcher = |label: &str, operator: &str, value: &str| Matcher {
            label: label.into(),
            operator: operator.into(),
            value: value.into(),
        };
        let expected = vec![
            ("a_bucket".to_owned(), vec![matcher("x", "=~", "b|c"), matcher("y", "!=", "}")]),
            ("d".to_owned(), vec![]),
            ("e".to_owned(), vec![]),
        ];
        assert_eq!(found.metrics, expected);
        assert_eq!(found.labels, ["kind", "le", "z"].map(String::from).into());
    }
}
