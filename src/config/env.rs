//! `PIERHEAD_SECTION__KEY`: values from the environment over those of the file.

use std::collections::BTreeSet;
use std::ffi::OsString;

use toml::de::DeValue;

use super::builtin::BUILT_IN;
use super::error::Problems;
use super::sections::{
    AuthSection, ChainSection, FillSection, HostedSection, LogSection, PluginsSection, Raw,
    RawUpstream, Section, ServerSection, StorageSection, TelemetrySection, UpstreamSection,
    unknown_key, unknown_table,
};
use super::source::Origin;
use super::values::Refusal;
use crate::scope::UpstreamName;

/// What all variables begin with. Those without a `__` behind it are not ours to judge:
/// `PIERHEAD_CONFIG`, `PIERHEAD_URL`, and what an orchestrator adds for a service of that name.
const PREFIX: &str = "PIERHEAD_";

/// Parts the section from the key.
const SEPARATOR: &str = "__";

/// Puts the variables' values over those of the file.
pub(super) fn apply(
    raw: &mut Raw,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    problems: &mut Problems<'_>,
) {
    let mut overrides: Vec<(String, OsString)> = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.strip_prefix(PREFIX).is_some_and(|rest| rest.contains(SEPARATOR)))
        .collect();
    // The environment has no order; messages should.
    overrides.sort();
    for (name, value) in overrides {
        let origin = Origin::Variable(name);
        match value.into_string() {
            Ok(value) => apply_one(raw, &value, &origin, problems),
            Err(_) => problems.add(&origin, "the value is not UTF-8", None),
        }
    }
}

fn apply_one(raw: &mut Raw, value: &str, origin: &Origin, problems: &mut Problems<'_>) {
    let Origin::Variable(name) = origin else { return };
    let Some((section, key)) =
        name.strip_prefix(PREFIX).and_then(|rest| rest.split_once(SEPARATOR))
    else {
        return;
    };
    if section == "UPSTREAM" {
        apply_upstream(raw, key, value, origin, problems);
        return;
    }
    if section == "PLUGIN" {
        apply_plugin(raw, key, value, origin, problems);
        return;
    }
    let key = key.to_ascii_lowercase();
    match section.to_ascii_lowercase().as_str() {
        "server" => set::<ServerSection>(&mut raw.server, &key, value, origin, problems),
        "storage" => set::<StorageSection>(&mut raw.storage, &key, value, origin, problems),
        // The only keys with dashes, which no variable can have.
        "chain" => {
            let key = key.replace('_', "-");
            set::<ChainSection>(&mut raw.chain, &key, value, origin, problems);
        }
        "plugins" => set::<PluginsSection>(&mut raw.plugins, &key, value, origin, problems),
        "hosted" => set::<HostedSection>(&mut raw.hosted, &key, value, origin, problems),
        "fill" => set::<FillSection>(&mut raw.fill, &key, value, origin, problems),
        "auth" => set::<AuthSection>(&mut raw.auth, &key, value, origin, problems),
        "log" => set::<LogSection>(&mut raw.log, &key, value, origin, problems),
        "telemetry" => set::<TelemetrySection>(&mut raw.telemetry, &key, value, origin, problems),
        other => unknown_table(other, origin, problems),
    }
}

/// `DOCKER_IO__TAG_TTL`: the name's form cannot be turned back into a name, so it has to be one
/// that is built in or in the file.
fn apply_upstream(
    raw: &mut Raw,
    rest: &str,
    value: &str,
    origin: &Origin,
    problems: &mut Problems<'_>,
) {
    let known: BTreeSet<UpstreamName> = raw
        .upstream
        .keys()
        .cloned()
        .chain(BUILT_IN.iter().filter_map(|built_in| built_in.name.parse().ok()))
        .collect();
    // A name may hold a `__` itself (`a--b`): the longest that fits is meant.
    let fits = |name: &UpstreamName| {
        let form = variable_form(name.as_str());
        let key = rest.strip_prefix(&form)?.strip_prefix(SEPARATOR)?;
        Some((form.len(), name.clone(), key.to_ascii_lowercase()))
    };
    let fitting: Vec<_> = known.iter().filter_map(fits).collect();
    let longest = fitting.iter().map(|(length, ..)| *length).max().unwrap_or_default();
    let mut fitting = fitting.into_iter().filter(|(length, ..)| *length == longest);
    let Some((_, name, key)) = fitting.next() else {
        let names: Vec<_> = known.iter().map(UpstreamName::as_str).collect();
        let help = format!(
            "variables change upstreams that are built in or in the file: {}",
            names.join(", ")
        );
        problems.add(origin, "it names no known upstream", Some(&help));
        return;
    };
    if let Some((_, other, _)) = fitting.next() {
        let message = format!("it may mean {name} or {other}");
        problems.add(origin, message, Some("set the key in the file"));
        return;
    }
    let upstream = raw.upstream.entry(name).or_insert_with(|| RawUpstream {
        origin: origin.clone(),
        keys: UpstreamSection::default(),
    });
    set(&mut upstream.keys, &key, value, origin, problems);
}

/// `HOUSE_RULES__MODE`: of a plugin in the file. Names have no underscores, so none means two.
fn apply_plugin(
    raw: &mut Raw,
    rest: &str,
    value: &str,
    origin: &Origin,
    problems: &mut Problems<'_>,
) {
    let found = rest.split_once(SEPARATOR).and_then(|(form, key)| {
        let plugin = raw.plugin.iter_mut().find(|(name, _)| variable_form(name) == form);
        plugin.map(|(_, plugin)| (plugin, key.to_ascii_lowercase()))
    });
    match found {
        Some((plugin, key)) => set(&mut plugin.keys, &key, value, origin, problems),
        None => {
            let names: Vec<_> = raw.plugin.keys().map(String::as_str).collect();
            let help = match names[..] {
                [] => "variables change plugins that are in the file: there is none".to_owned(),
                _ => format!("variables change plugins that are in the file: {}", names.join(", ")),
            };
            problems.add(origin, "it names no plugin", Some(&help));
        }
    }
}

/// A table's name as part of a variable's name.
fn variable_form(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect()
}

/// Sets a key to the value read as TOML where that fits the key, else to the text itself.
fn set<S: Section>(
    section: &mut S,
    key: &str,
    value: &str,
    origin: &Origin,
    problems: &mut Problems<'_>,
) {
    let as_toml = DeValue::parse(value).ok();
    let first = as_toml.and_then(|toml| section.set(key, toml.get_ref(), origin));
    let refusal: Option<Refusal> = match first {
        Some(Ok(())) => return,
        Some(Err(refusal)) => Some(refusal),
        None => None,
    };
    match (section.set(key, &DeValue::String(value.into()), origin), refusal) {
        (None, _) => unknown_key::<S>(key, origin, problems),
        (Some(Ok(())), _) => {}
        // The reading that came closer to the key's type explains better.
        (Some(Err(text)), Some(toml)) if text.wrong_type || !toml.wrong_type => {
            problems.add(origin, toml.message, None);
        }
        (Some(Err(text)), _) => problems.add(origin, text.message, None),
    }
}
