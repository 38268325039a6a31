//! `pierhead explain`: what the next pull of an image would be, and why.

use super::args::ExplainArgs;
use super::client::Client;
use super::images::content;
use super::output::{Console, Exit, Failure, Table, printable};
use crate::http::admin::api::explain::Explanation;

/// Verdicts under which a pull gets nothing.
const NOTHING: [&str; 5] = ["denied", "absent", "unavailable", "unknown_name", "hosted"];

pub(super) async fn explain(
    args: &ExplainArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let mut query = vec![("image", args.image.as_str())];
    if let Some(ns) = &args.ns {
        query.push(("ns", ns));
    }
    if args.probe {
        query.push(("probe", "true"));
    }
    let answer = client.get("explain", &query).await?;
    let explanation: Explanation = answer.show(args.output.format, console, text)?;
    let nothing = NOTHING.contains(&explanation.verdict.as_str());
    Ok(if nothing { Exit::No } else { Exit::Yes })
}

fn text(explanation: &Explanation) -> String {
    let image = explanation.image.as_deref().unwrap_or(&explanation.asked);
    let mut text =
        printable(&format!("{image}: {}\n", explanation.verdict.replace('_', " ").to_uppercase()));
    let mut table = Table::bare();
    table.row(["the client sees", &explanation.client_sees]);
    table.row(["the name", &explanation.name.text]);
    if let Some(tag) = &explanation.tag {
        table.row(["the tag means", &format!("{} (confirmed {})", tag.digest, tag.confirmed_at)]);
    }
    if let Some(since) = &explanation.denied_since {
        table.row(["refused since", since]);
    }
    if let Some(probe) = &explanation.probe {
        let said = match (probe.found, &probe.digest, &probe.error) {
            (true, Some(digest), _) => digest.clone(),
            (true, None, _) => "it has it".to_owned(),
            (false, _, error) => error.clone().unwrap_or_default(),
        };
        table.row(["upstream says now", &said]);
    }
    text.push_str(&table.text("  "));
    text.push_str("\nwhy\n");
    for reason in &explanation.reasons {
        text.push_str(&format!("  - {}", printable(&reason.text)));
        if let Some(key) = &reason.key {
            text.push_str(&format!(" [{key}]"));
        }
        text.push('\n');
    }
    if let Some(staleness) = &explanation.staleness {
        text.push_str("\nhow old it may be\n");
        let mut table = Table::new(&["", "ROW", "WHAT IT DOES"]);
        for row in &staleness.rows {
            let mark = if row.row == staleness.row { ">" } else { "" };
            table.row([mark, &row.row, &row.text]);
        }
        text.push_str(&table.text("  "));
    }
    if let Some(found) = explanation.content.as_ref().filter(|found| !found.platforms.is_empty()) {
        text.push_str("\nwhat is here\n");
        text.push_str(&content(found).text("  "));
    }
    if !explanation.advice.is_empty() {
        text.push_str("\nwhat to do\n");
        for advice in &explanation.advice {
            text.push_str(&format!("  - {}\n", printable(advice)));
        }
    }
    text
}
