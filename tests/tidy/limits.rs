//! `docs/limits.md` against the constants that it names.

use crate::source::Source;

/// What is wrong with the rows of the page, with the row's line.
pub(crate) fn wrong(sources: &[Source], page: &str) -> Vec<(usize, String)> {
    let mut wrong = Vec::new();
    let mut rows = 0;
    for (index, line) in page.lines().enumerate() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, value, constant, _] = cells[..] else { continue };
        let mut code = constant.split('`').skip(1).step_by(2);
        let (Some(path), Some(name)) = (code.next(), code.next()) else { continue };
        rows += 1;
        let found = sources
            .iter()
            .find(|source| source.path == path)
            .and_then(|source| expression(&source.text, name));
        let message = match (found.as_deref().map(evaluate), read(value)) {
            (None, _) => format!("{path} has no constant {name}"),
            (Some(None), _) => format!("cannot work out {name} = {}", found.unwrap_or_default()),
            (_, None) => format!("cannot read the value {value:?}"),
            (Some(Some(is)), Some(says)) if is != says => format!("{name} is {is}, not {says}"),
            (Some(Some(_)), Some(_)) => continue,
        };
        wrong.push((index + 1, message));
    }
    if rows == 0 {
        wrong.push((1, "it has no rows".to_owned()));
    }
    wrong
}

/// What stands behind `const NAME: TYPE =`.
fn expression(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("const {name}: "))?;
    let (_, rest) = rest.split_once('=')?;
    let (expression, _) = rest.split_once(';')?;
    Some(expression.trim().to_owned())
}

/// Products, sums and shifts of whole numbers, and durations in seconds.
fn evaluate(expression: &str) -> Option<u64> {
    let expression = expression
        .strip_prefix("Duration::from_secs(")
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap_or(expression);
    if let Some((left, right)) = expression.split_once(" + ") {
        return evaluate(left)?.checked_add(evaluate(right)?);
    }
    if let Some((left, right)) = expression.split_once(" << ") {
        return evaluate(left)?.checked_shl(u32::try_from(evaluate(right)?).ok()?);
    }
    if let Some((left, right)) = expression.split_once(" * ") {
        return evaluate(left)?.checked_mul(evaluate(right)?);
    }
    expression.replace('_', "").parse().ok()
}

/// A number with a unit, as the page writes it.
fn read(value: &str) -> Option<u64> {
    let (number, unit) = value.split_once(' ').unwrap_or((value, ""));
    let factor = match unit {
        "" | "bytes" | "s" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_their_page_agree() {
        let text = "pub const A_MAX: usize = 4 * 1024;\nconst B: Duration =\n    \
                    Duration::from_secs(24 * 3600);\nconst C: u64 = 1_000 << 1;\nconst D: u8 = X;";
        let sources = [Source::new("src/a.rs", text)];
        let row = |value: &str, name: &str| format!("| x | {value} | `src/a.rs` `{name}` | y |\n");
        let found = |page: &str| wrong(&sources, page).len();
        let right = row("4 KiB", "A_MAX") + &row("86400 s", "B") + &row("2000", "C");
        assert_eq!(found(&right), 0);
        for bad in [
            row("5 KiB", "A_MAX"),
            row("4 kB", "A_MAX"),
            row("1", "A_MIN"),
            row("1", "D"),
            row("1", "A"),
            String::new(),
        ] {
            assert_eq!(found(&bad), 1, "{bad}");
        }
    }
}
