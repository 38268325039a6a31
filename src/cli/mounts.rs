//! `pierhead plugin list`: the plugins of a running Pierhead.

use super::args::PluginListArgs;
use super::client::Client;
use super::output::{Console, Exit, Failure, Table, printable};
use crate::http::admin::api::plugins::{Plugin, PluginList};

/// How much of a digest is shown to people, in characters, `sha256:` included.
const DIGEST_CHARS_SHOWN: usize = 19;

/// Shows them. The exit status is 1 if one of them is not well.
pub(super) async fn list(
    args: &PluginListArgs,
    client: &Client,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let text = |list: &PluginList| match table(&list.plugins) {
        Some(table) => format!("{}{}", table.text(""), troubles(&list.plugins)),
        None => "no plugins\n".to_owned(),
    };
    let list: PluginList =
        client.get("plugins", &[]).await?.show(args.output.format, console, text)?;
    let well = list.plugins.iter().all(|plugin| plugin.health == "ok");
    Ok(if well { Exit::Yes } else { Exit::No })
}

/// The plugins, if there are any.
pub(super) fn table(plugins: &[Plugin]) -> Option<Table> {
    let mut table = Table::new(&[
        "NAME", "HEALTH", "MODE", "HOOKS", "VERSION", "DIGEST", "CALLS", "BREAKS", "REUSED",
    ]);
    for plugin in plugins {
        let verdicts = plugin.decisions_reused + plugin.decisions_asked;
        let reused = match (plugin.decisions_reused * 100).checked_div(verdicts) {
            Some(percent) => format!("{percent} %"),
            None => "-".to_owned(),
        };
        let digest = plugin.digest.as_deref().unwrap_or("-");
        table.row([
            plugin.name.clone(),
            plugin.health.clone(),
            plugin.mode.clone(),
            plugin.hooks.join(", "),
            plugin.version.as_deref().map_or_else(|| "-".to_owned(), printable),
            digest.chars().take(DIGEST_CHARS_SHOWN).collect(),
            plugin.calls.to_string(),
            plugin.breaks.to_string(),
            reused,
        ]);
    }
    (!plugins.is_empty()).then_some(table)
}

/// What is wrong with those that are not well.
pub(super) fn troubles(plugins: &[Plugin]) -> String {
    let mut text = String::new();
    for plugin in plugins.iter().filter(|plugin| plugin.health != "ok") {
        let refused = plugin.refused.as_ref().filter(|_| plugin.health == "stale");
        let error = refused.or(plugin.last_error.as_ref());
        let error = error.map(|error| printable(error)).unwrap_or_default();
        text.push_str(&format!("  ! {}: {error}\n", plugin.name));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(name: &str, health: &str) -> Plugin {
        Plugin {
            name: name.to_owned(),
            hooks: vec!["request-policy".to_owned()],
            digest: Some(format!("sha256:{}", "ab".repeat(32))),
            version: None,
            mode: "enforce".to_owned(),
            on_error: None,
            health: health.to_owned(),
            refused: (health == "stale").then(|| "it is no plugin".to_owned()),
            circuit: "closed".to_owned(),
            last_error: matches!(health, "breaking" | "broken").then(|| "it is gone".to_owned()),
            last_error_kind: None,
            last_error_at: None,
            calls: 4,
            breaks: 1,
            decisions_reused: 3,
            decisions_asked: 1,
        }
    }

    #[test]
    fn plugins_are_shown_with_what_is_wrong() {
        let plugins = [
            plugin("a", "ok"),
            plugin("b", "stale"),
            plugin("c", "broken"),
            plugin("d", "breaking"),
        ];
        let text = table(&plugins).unwrap().text("");
        assert!(text.contains("sha256:abababababab ") && text.contains("75 %"), "{text}");
        assert_eq!(
            troubles(&plugins),
            "  ! b: it is no plugin\n  ! c: it is gone\n  ! d: it is gone\n"
        );
        assert!(table(&[]).is_none());
    }
}
