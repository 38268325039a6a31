//! `pierhead gc`, `pierhead pin`, `pierhead unpin` and `pierhead pins`.

use super::args::{AskArgs, ImageArgs};
use super::client::Client;
use super::output::{Console, Exit, Failure, bytes, printable};
use crate::http::admin::api::name::ImageRequest;
use crate::http::admin::api::storage::{Collected, PinList, Pinned, StorageUsage};

pub(super) async fn collect(
    args: &AskArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let answer = client.post("gc", &()).await?;
    answer.show(args.output.format, console, |collected: &Collected| {
        format!("{} blobs removed, {} freed\n", collected.blobs, bytes(collected.bytes))
    })?;
    Ok(Exit::Yes)
}

pub(super) async fn pins(
    args: &AskArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let answer = client.get("pins", &[]).await?;
    answer.show(args.output.format, console, |list: &PinList| match list.pins.is_empty() {
        true => "nothing is pinned\n".to_owned(),
        false => list.pins.iter().map(|pin| format!("{}\n", printable(pin))).collect(),
    })?;
    Ok(Exit::Yes)
}

pub(super) async fn pin(
    args: &ImageArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let answer = client.put("pins", &ImageRequest { image: args.image.clone() }).await?;
    answer.show(args.output.format, console, text)?;
    Ok(Exit::Yes)
}

pub(super) async fn unpin(
    args: &ImageArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let answer = client.delete("pins", &[("image", &args.image)]).await?;
    answer.show(args.output.format, console, text)?;
    Ok(Exit::Yes)
}

fn text(pinned: &Pinned) -> String {
    let image = printable(&pinned.image);
    match (pinned.pinned, pinned.changed) {
        (true, true) => format!("{image} stays from now on\n"),
        (true, false) => format!("{image} was pinned already\n"),
        (false, true) => format!("{image} may go when room is needed\n"),
        (false, false) => format!("{image} was not pinned\n"),
    }
}

/// How full the store is, on one line.
pub(super) fn usage(usage: &StorageUsage) -> String {
    let used =
        usage.stored_bytes.saturating_add(usage.reserved_bytes).saturating_add(usage.other_bytes);
    let of = match usage.max_bytes {
        Some(max) => format!("{} of {} used", bytes(used), bytes(max)),
        None => format!("{} used, without a cap", bytes(used)),
    };
    let mut line = format!(
        "{of}, {} available without eviction, {} blobs, {} pinned images",
        bytes(usage.available_bytes),
        usage.blobs,
        usage.pins
    );
    if usage.parked_bytes > 0 {
        line += &format!(", {} of unfinished fills", bytes(usage.parked_bytes));
    }
    match usage.quarantined_files {
        0 => {}
        files => line += &format!(", {files} damaged in quarantine"),
    }
    line
}
