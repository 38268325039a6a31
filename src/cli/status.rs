//! `pierhead status`: what runs.

use std::time::Duration;

use super::args::StatusArgs;
use super::client::{Answer, Client};
use super::mounts;
use super::output::{Console, Exit, Failure, Format, Table, bytes, period, printable, short};
use super::storage::usage;
use crate::http::admin::api::fills::Fill;
use crate::http::admin::api::recent::RecentEvent;
use crate::http::admin::api::status::Status;
use crate::http::admin::api::upstreams::{Endpoint, RateLimit, Upstream};
use crate::http::admin::api::workers::Worker;

/// How many events are shown to people; scripts get all of them.
const EVENTS_SHOWN_MAX: usize = 12;

/// Puts the terminal's cursor into the first corner.
const HOME: &str = "\u{1b}[H";

/// Clears the rest of a terminal's line.
const CLEAR_LINE: &str = "\u{1b}[K";

/// Clears the terminal below the cursor.
const CLEAR_BELOW: &str = "\u{1b}[J";

/// Shows the state once, or again and again until it is interrupted.
pub(super) async fn status(
    args: &StatusArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let Some(every) = args.watch else {
        let answer = client.get("status", &[]).await?;
        let (text, exit) = shown(&answer, args.output.format)?;
        return Ok(match console.say(&text) {
            Exit::Yes => exit,
            failed => failed,
        });
    };
    loop {
        let answer = client.get("status", &[]).await?;
        let (text, exit) = shown(&answer, args.output.format)?;
        let text = match args.output.format {
            Format::Text if console.is_terminal() => {
                let lines = text.lines().map(|line| format!("{line}{CLEAR_LINE}\n"));
                format!("{HOME}{}{CLEAR_BELOW}", lines.collect::<String>())
            }
            Format::Text => format!("{text}\n"),
            Format::Json => text,
        };
        match console.tell(&text) {
            Ok(true) => {}
            // Nobody looks any more.
            Ok(false) => return Ok(exit),
            Err(error) => return Err(Failure::new(Exit::No, "output", error)),
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(every.get().into())) => {}
            _ = tokio::signal::ctrl_c() => return Ok(exit),
        }
    }
}

/// The answer in the wanted form, and whether the server is ready.
fn shown(answer: &Answer, format: Format) -> Result<(String, Exit), Failure> {
    let status: Status = answer.read()?;
    let exit = if status.ready { Exit::Yes } else { Exit::No };
    let text = match format {
        Format::Json => answer.line(),
        Format::Text => text(&status),
    };
    Ok((text, exit))
}

fn text(status: &Status) -> String {
    let state = match (status.ready, status.degraded.is_empty()) {
        (true, true) => "ready",
        (true, false) => "ready, DEGRADED",
        (false, _) => "NOT READY",
    };
    let mut text =
        format!("pierhead {}, {state}, up {}\n", status.version, period(status.uptime_seconds));
    text.push_str(&mounts::troubles(&status.plugins));
    for reason in status.reasons.iter().chain(&status.degraded).chain(&status.notices) {
        text.push_str(&format!("  ! {}\n", printable(reason)));
    }
    let mut table = Table::bare();
    table.row(["registry", &status.listeners.registry]);
    table.row(["operator", &status.listeners.admin]);
    table.row(["storage", &status.storage.path]);
    if let Some(used) = &status.storage.usage {
        table.row(["", &usage(used)]);
    }
    text.push_str(&table.text(""));
    let mut section = |title: &str, empty: &str, table: Option<Table>| {
        text.push_str(&match table {
            Some(table) => format!("\n{title}\n{}", table.text("  ")),
            None => format!("\n{title}: {empty}\n"),
        });
    };
    section("upstreams", "none that was asked", upstreams(&status.upstreams));
    section("fills", "none", fills(&status.fills));
    if let Some(table) = mounts::table(&status.plugins) {
        section("plugins", "none", Some(table));
    }
    section("background work", "none", workers(&status.workers));
    section("trouble lately", "none", recent(&status.recent));
    text
}

/// Those that were asked since the start: the others say nothing.
fn upstreams(upstreams: &[Upstream]) -> Option<Table> {
    let mut table = Table::new(&["NAME", "STATE", "ASKED", "RATE LIMIT", "LAST ERROR"]);
    let mut asked = false;
    for upstream in upstreams.iter().filter(|upstream| upstream.state != "untried") {
        asked = true;
        let failed = upstream.endpoints.iter().filter(|e| e.last_failure > e.last_answer);
        let failed = failed.max_by(|a, b| a.last_failure.cmp(&b.last_failure));
        let error = failed.map(|endpoint| {
            let when = endpoint.last_failure.as_deref().unwrap_or_default();
            let error = endpoint.last_error.as_deref().unwrap_or_default();
            format!("{} {when}: {error}", endpoint.url)
        });
        table.row([
            upstream.name.clone(),
            upstream.state.replace('_', " "),
            circuits(&upstream.endpoints),
            upstream.rate_limit.as_ref().map_or_else(|| "-".to_owned(), allowance),
            error.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    asked.then_some(table)
}

/// Which endpoints are not asked, since when, and until when.
fn circuits(endpoints: &[Endpoint]) -> String {
    let resting: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| endpoint.circuit != "closed")
        .map(|endpoint| {
            let mut text = endpoint.circuit.replace('_', "-");
            if let Some(since) = &endpoint.circuit_since {
                text.push_str(&format!(" since {since}"));
            }
            if let Some(probe) = &endpoint.next_probe {
                text.push_str(&format!(", next probe {probe}"));
            }
            if endpoints.len() > 1 { format!("{}: {text}", endpoint.url) } else { text }
        })
        .collect();
    if resting.is_empty() { "yes".to_owned() } else { resting.join("; ") }
}

fn allowance(limit: &RateLimit) -> String {
    let mut text = match limit.limit {
        Some(of) => format!("{} of {of} left", limit.remaining),
        None => format!("{} left", limit.remaining),
    };
    match limit.exhausted_in_seconds {
        Some(0) | None => {}
        Some(left) => text.push_str(&format!(", used up in {}", period(left as f64))),
    }
    if let Some(left) = limit.restored_in_seconds {
        text.push_str(&format!(", restored in {}", period(left as f64)));
    }
    text
}

fn fills(fills: &[Fill]) -> Option<Table> {
    let mut table = Table::new(&["BLOB", "IMAGE", "STATE", "LANDED", "RATE", "AGE", "FOLLOWERS"]);
    for fill in fills {
        let landed = match fill.total_bytes {
            Some(total) => format!("{} of {}", bytes(fill.landed_bytes), bytes(total)),
            None => bytes(fill.landed_bytes),
        };
        table.row([
            short(&fill.digest),
            fill.image.clone(),
            fill.state.clone(),
            landed,
            format!("{}/s", bytes(fill.bytes_per_second as u64)),
            period(fill.age_seconds),
            fill.followers.to_string(),
        ]);
    }
    (!fills.is_empty()).then_some(table)
}

fn workers(workers: &[Worker]) -> Option<Table> {
    let mut table = Table::new(&["NAME", "STATE", "PROGRESS", "ROUNDS", "FAILED", "LAST ERROR"]);
    for worker in workers {
        let progress = worker.progress.as_ref().map(|progress| match progress.total {
            Some(total) => format!("{} of {total} {}", progress.done, progress.unit),
            None => format!("{} {}", progress.done, progress.unit),
        });
        table.row([
            worker.name.clone(),
            worker.state.clone(),
            progress.unwrap_or_else(|| "-".to_owned()),
            worker.rounds.to_string(),
            worker.failures.to_string(),
            worker.last_error.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    (!workers.is_empty()).then_some(table)
}

fn recent(events: &[RecentEvent]) -> Option<Table> {
    let mut table =
        Table::new(&["LAST", "TIMES", "TROUBLE", "STATUS", "CACHE", "TOOK", "CLIENT", "WHAT"]);
    for event in events.iter().take(EVENTS_SHOWN_MAX) {
        let cache = [event.cache.as_str(), event.reason.as_str()];
        let cache: Vec<&str> = cache.into_iter().filter(|word| !word.is_empty()).collect();
        let said = [Some(event.path.as_str()), event.error.as_deref()];
        let said: Vec<&str> = said.into_iter().flatten().filter(|text| !text.is_empty()).collect();
        let what = said.join(": ");
        table.row([
            event.at.clone(),
            event.times.to_string(),
            event.trouble.clone(),
            event.status.to_string(),
            if cache.is_empty() { "-".to_owned() } else { cache.join(" ") },
            period(event.seconds),
            event.client.clone(),
            what,
        ]);
    }
    (!events.is_empty()).then_some(table)
}
