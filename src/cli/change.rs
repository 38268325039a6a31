//! `pierhead refresh` and `pierhead purge`.

use super::args::ImageArgs;
use super::client::Client;
use super::output::{Console, Exit, Failure, bytes};
use crate::http::admin::api::change::{Purged, Refreshed};
use crate::http::admin::api::name::ImageRequest;

pub(super) async fn refresh(
    args: &ImageArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let answer = client.post("refresh", &ImageRequest { image: args.image.clone() }).await?;
    answer.show(args.output.format, console, |refreshed: &Refreshed| {
        let (image, now) = (&refreshed.image, &refreshed.now);
        match (&refreshed.before, refreshed.changed) {
            (None, _) => format!("{image} means {now}; it was not known before\n"),
            (Some(_), false) => format!("{image} still means {now}\n"),
            (Some(before), true) => format!("{image} means {now} now, and meant {before}\n"),
        }
    })?;
    Ok(Exit::Yes)
}

pub(super) async fn purge(
    args: &ImageArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let answer = client.post("purge", &ImageRequest { image: args.image.clone() }).await?;
    answer.show(args.output.format, console, |purged: &Purged| {
        let mut text = format!(
            "{}: {} tags and {} links forgotten, {} blobs ({}) removed\n",
            purged.image,
            purged.tags.len(),
            purged.links,
            purged.blobs,
            bytes(purged.bytes),
        );
        if purged.shared > 0 {
            text.push_str(&format!(
                "{} blobs stay because other repositories use them\n",
                purged.shared
            ));
        }
        text
    })?;
    Ok(Exit::Yes)
}
