//! `pierhead log-level`.

use super::args::LogLevelArgs;
use super::client::Client;
use super::output::{Console, Exit, Failure};
use crate::http::admin::api::log_level::{LogLevel, SetLogLevel};

/// Where the level is.
const PATH: &str = "log-level";

pub(super) async fn log_level(
    args: &LogLevelArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let answer = match &args.filter {
        Some(filter) => client.put(PATH, &SetLogLevel { filter: filter.clone() }).await?,
        None if args.reset => client.delete(PATH, &[]).await?,
        None => client.get(PATH, &[]).await?,
    };
    answer.show(args.output.format, console, |level: &LogLevel| {
        let mut text = level.filter.clone();
        if level.filter != level.configured {
            text.push_str(&format!(" (configured: {})", level.configured));
        }
        text.push('\n');
        text
    })?;
    Ok(Exit::Yes)
}
