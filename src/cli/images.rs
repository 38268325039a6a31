//! `pierhead images`: what is in the cache.

use super::args::ImagesArgs;
use super::client::Client;
use super::output::{Console, Exit, Failure, Format, Table, bytes, short};
use crate::http::admin::api::images::{ImageContent, ImageDetail, ImageList, Tally};

pub(super) async fn images(
    args: &ImagesArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    if let Some(image) = &args.image {
        let answer = client.get("image", &[("image", image)]).await?;
        answer.show(args.output.format, console, detail)?;
        return Ok(Exit::Yes);
    }
    let limit = args.limit.map(|limit| limit.to_string());
    let mut query = Vec::new();
    if let Some(after) = &args.after {
        query.push(("after", after.as_str()));
    }
    if let Some(limit) = &limit {
        query.push(("limit", limit.as_str()));
    }
    let answer = client.get("images", &query).await?;
    let list: ImageList = answer.show(args.output.format, console, list)?;
    if let (Format::Text, Some(next)) = (args.output.format, &list.next) {
        console.complain(&format!("there are more: pierhead images --after {next}\n"));
    }
    Ok(Exit::Yes)
}

fn list(list: &ImageList) -> String {
    let mut table = Table::new(&["IMAGE", "DIGEST", "COMPLETE", "LAST PULLED", "CONFIRMED"]);
    for image in &list.images {
        let complete = if image.complete { "yes" } else { "no" };
        let used = image.last_used.as_deref().unwrap_or("-");
        let digest = short(&image.digest);
        table.row([&image.image, digest.as_str(), complete, used, &image.confirmed_at]);
    }
    if list.images.is_empty() {
        "nothing was pulled by tag yet\n".to_owned()
    } else {
        table.text("")
    }
}

fn detail(detail: &ImageDetail) -> String {
    let mut table = Table::bare();
    table.row(["image", &detail.image]);
    table.row(["digest", &detail.digest]);
    if let Some(confirmed) = &detail.confirmed_at {
        table.row(["confirmed", confirmed]);
    }
    if let Some(used) = &detail.last_used {
        table.row(["last pulled", used]);
    }
    table.row(["manifest", &detail.content.manifest]);
    if let Some(media_type) = &detail.content.media_type {
        table.row(["type", media_type]);
    }
    let mut text = table.text("");
    if !detail.content.platforms.is_empty() {
        text.push('\n');
        text.push_str(&content(&detail.content).text(""));
    }
    text
}

/// What is here of an image, a line for each platform.
pub(super) fn content(content: &ImageContent) -> Table {
    let mut table = Table::new(&[
        "PLATFORM", "MANIFEST", "COMPLETE", "STORED", "GROWING", "UNPROVEN", "MISSING",
    ]);
    let tally = |tally: Tally| match tally.blobs {
        0 => "-".to_owned(),
        blobs => format!("{blobs} ({})", bytes(tally.bytes)),
    };
    for platform in &content.platforms {
        table.row([
            platform.platform.clone().unwrap_or_else(|| "(the image's)".to_owned()),
            platform.manifest.clone(),
            if platform.complete { "yes" } else { "no" }.to_owned(),
            tally(platform.stored),
            tally(platform.growing),
            tally(platform.unproven),
            tally(platform.missing),
        ]);
    }
    table
}
