//! `pierhead scrub`: verifies what is stored, and waits for the end.

use std::time::Duration;

use super::args::ScrubArgs;
use super::client::Client;
use super::output::{Console, Exit, Failure, bytes, period, printable};
use crate::background::State;
use crate::http::admin::api::scrub::Scrub;

/// How often the server is asked how far it is.
const POLL: Duration = Duration::from_secs(1);

pub(super) async fn scrub(
    args: &ScrubArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let format = args.output.format;
    if args.last {
        let found = client.get("scrub", &[]).await?.show(format, console, text)?;
        return Ok(verdict(&found));
    }
    let answer = client.post("scrub", &()).await?;
    if args.no_wait {
        let text = |_: &Scrub| "verifying what is stored\n".to_owned();
        answer.show(format, console, text)?;
        return Ok(Exit::Yes);
    }
    let before: Scrub = answer.read()?;
    // A round that was running when we asked is not the one that we asked for.
    let running = before.worker.state == State::Running.as_str();
    let ours = before.worker.rounds + if running { 2 } else { 1 };
    let mut shown = false;
    let answer = loop {
        let answer = client.get("scrub", &[]).await?;
        let now: Scrub = answer.read()?;
        if now.worker.rounds >= ours {
            break answer;
        }
        if let Some(progress) = now.worker.progress.as_ref().filter(|_| console.is_terminal()) {
            let total = progress.total.map_or_else(|| "?".to_owned(), bytes);
            console.complain(&format!("\r{} of {total} read ", bytes(progress.done)));
            shown = true;
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = tokio::signal::ctrl_c() => {
                let message = "interrupted; the server goes on";
                return Err(Failure::new(Exit::No, "interrupted", message));
            }
        }
    };
    if shown {
        console.complain("\n");
    }
    let found = answer.show(format, console, text)?;
    Ok(verdict(&found))
}

/// Whether everything is as it was.
fn verdict(found: &Scrub) -> Exit {
    let clean = found.last.as_ref().is_some_and(|last| last.damaged + last.unreadable == 0);
    if clean && found.worker.last_error.is_none() { Exit::Yes } else { Exit::No }
}

fn text(found: &Scrub) -> String {
    if let Some(error) = &found.worker.last_error {
        return format!("the last round failed: {}\n", printable(error));
    }
    let Some(last) = &found.last else { return "nothing was verified yet\n".to_owned() };
    let mut text = format!(
        "{}: {} blobs ({}) verified in {}: {} damaged and removed, {} unreadable\n",
        last.ended,
        last.checked,
        bytes(last.bytes),
        period(last.seconds),
        last.damaged,
        last.unreadable
    );
    for digest in &last.damaged_digests {
        text.push_str(&format!("  {digest}\n"));
    }
    text
}
