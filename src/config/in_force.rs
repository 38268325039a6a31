//! Every key with the value that counts and where it came from, for operators.
//!
//! What was set is shown as it was written; what was not, as the example has it, whose values are
//! the defaults (a test holds that). No value is a secret: those stand in files of their own, of
//! which only the paths are configured; and what a plugin's own settings may hold is hidden.

use std::collections::BTreeMap;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::error::Problems;
use super::example;
use super::plugins::hidden;
use super::resolve::Upstream;
use super::sections::{ChainSection, RawPlugin, Section, Shown, to_json};
use crate::http::admin::api::config::Setting;
use crate::scope::UpstreamName;

/// The upstream in the example whose values are the defaults, for most keys.
const EXAMPLE_UPSTREAM: &str = "docker.io";

/// A section, as far as it is shown.
pub(super) struct Part<'a> {
    name: &'a str,
    keys: &'static [&'static str],
    shown: &'a BTreeMap<&'static str, Shown>,
}

/// A section by its name.
pub(super) fn part<'a, S: Section>(name: &'a str, section: &'a S) -> Part<'a> {
    Part { name, keys: S::KEYS, shown: section.shown() }
}

/// The keys of all sections and of every enabled upstream.
pub(super) fn settings(
    sections: &[Part<'_>],
    upstreams: &[Upstream],
    default_upstream: Option<&UpstreamName>,
    problems: &Problems<'_>,
) -> Vec<Setting> {
    let text = example::uncommented();
    let example = DeTable::parse(&text).ok().map(|table| table.into_inner());
    let mut list = Vec::new();
    for section in sections {
        list.extend(rows(section, &values(example.as_ref(), &[section.name]), problems));
    }
    let general = values(example.as_ref(), &["upstream", EXAMPLE_UPSTREAM]);
    for upstream in upstreams {
        let built_in = upstream.built_in;
        let endpoint = match built_in {
            Some(built_in) => built_in.endpoint.to_owned(),
            None => format!("https://{}", upstream.name),
        };
        let auth_hosts = built_in.map_or(&[][..], |built_in| built_in.auth_hosts);
        let mut defaults = general.clone();
        defaults.insert("endpoints".to_owned(), vec![endpoint].into());
        defaults.insert("auth_hosts".to_owned(), auth_hosts.into());
        defaults.insert("default".to_owned(), (default_upstream == Some(&upstream.name)).into());
        let name = format!("upstream.\"{}\"", upstream.name);
        list.extend(rows(&part(&name, &upstream.keys), &defaults, problems));
    }
    list
}

/// What was set of plugins and of the chain. What was not set has no value of its own: it depends
/// on the hook.
pub(super) fn plugins(
    plugins: &BTreeMap<String, RawPlugin>,
    chain: &ChainSection,
    problems: &Problems<'_>,
) -> Vec<Setting> {
    let set = |name: String, shown: &BTreeMap<&'static str, Shown>| -> Vec<Setting> {
        let row = |(key, shown): (&&'static str, &Shown)| Setting {
            key: format!("{name}.{key}"),
            value: hidden(shown.value.clone()),
            set_by: Some(problems.name_of(&shown.origin)),
        };
        shown.iter().map(row).collect()
    };
    let mut list: Vec<Setting> = plugins
        .iter()
        .flat_map(|(name, plugin)| set(format!("plugin.{name}"), plugin.keys.shown()))
        .collect();
    list.extend(set("chain".to_owned(), chain.shown()));
    list
}

/// The values of a table of the example.
fn values(example: Option<&DeTable<'_>>, path: &[&str]) -> BTreeMap<String, Value> {
    let mut table = example;
    for name in path {
        table = table.and_then(|table| match table.get(*name)?.get_ref() {
            DeValue::Table(inner) => Some(inner),
            _ => None,
        });
    }
    let pairs = table.into_iter().flat_map(|table| table.iter());
    pairs.map(|(key, value)| (key.get_ref().to_string(), to_json(value.get_ref()))).collect()
}

fn rows(
    section: &Part<'_>,
    defaults: &BTreeMap<String, Value>,
    problems: &Problems<'_>,
) -> Vec<Setting> {
    let row = |key: &&'static str| {
        let (value, set_by) = match section.shown.get(key) {
            Some(shown) => (shown.value.clone(), Some(problems.name_of(&shown.origin))),
            None => (defaults.get(*key).cloned().unwrap_or(Value::Null), None),
        };
        Setting { key: format!("{}.{key}", section.name), value, set_by }
    };
    section.keys.iter().map(row).collect()
}
