//! `pierhead status`: what runs.

use std::time::Duration;

use super::args::StatusArgs;
use super::client::{Answer, Client};
use super::output::{Console, Exit, Failure, Format, Table, period};
use crate::http::admin::api::status::Status;
use crate::http::admin::api::workers::Worker;

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
    let state = if status.ready { "ready" } else { "NOT READY" };
    let mut text =
        format!("pierhead {}, {state}, up {}\n", status.version, period(status.uptime_seconds));
    for reason in &status.reasons {
        text.push_str(&format!("  ! {reason}\n"));
    }
    let mut table = Table::bare();
    table.row(["registry", &status.listeners.registry]);
    table.row(["operator", &status.listeners.admin]);
    table.row(["storage", &status.storage.path]);
    text.push_str(&table.text(""));
    if !status.workers.is_empty() {
        text.push_str("\nbackground work\n");
        text.push_str(&workers(&status.workers).text("  "));
    }
    text
}

fn workers(workers: &[Worker]) -> Table {
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
            worker.last_error.clone().unwrap_or_default(),
        ]);
    }
    table
}
