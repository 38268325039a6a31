//! `docs/configuration.md` cannot drift: it has every key once, with its default, and examples
//! that are accepted.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeTable;

use crate::config::example::EXAMPLE;
use crate::config::sections::{
    AuthSection, ChainSection, FillSection, HostedSection, LogSection, PluginSection,
    PluginsSection, Section, ServerSection, StorageSection, TelemetrySection, UpstreamSection,
};
use crate::config::source::Origin;

const REFERENCE: &str = include_str!("../../../docs/configuration.md");

const KEYS: [(&str, &[&str]); 11] = [
    ("server", ServerSection::KEYS),
    ("storage", StorageSection::KEYS),
    ("upstream", UpstreamSection::KEYS),
    ("hosted", HostedSection::KEYS),
    ("plugin", PluginSection::KEYS),
    ("chain", ChainSection::KEYS),
    ("plugins", PluginsSection::KEYS),
    ("fill", FillSection::KEYS),
    ("auth", AuthSection::KEYS),
    ("log", LogSection::KEYS),
    ("telemetry", TelemetrySection::KEYS),
];

/// What a row of the reference says of a key.
#[derive(Debug)]
struct Row {
    default: &'static str,
    example: &'static str,
}

/// The section of a table's header: `upstream` for `upstream."NAME"]`.
fn section(header: &'static str) -> &'static str {
    header.split(['.', ']']).next().unwrap_or(header)
}

/// The rows of the reference, by section and key.
fn rows() -> BTreeMap<(&'static str, &'static str), Row> {
    let mut rows = BTreeMap::new();
    let mut here = None;
    for line in REFERENCE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            here = heading.strip_prefix("`[").map(section);
            continue;
        }
        let Some(here) = here else { continue };
        let Some(row) = line.strip_prefix("| `").and_then(|row| row.strip_suffix(" |")) else {
            continue;
        };
        let cells: Vec<&str> = row.split(" | ").collect();
        // The table of the built-in upstreams has other columns.
        let [key, _, default, _, example] = cells[..] else { continue };
        let key = key.trim_end_matches('`');
        let twice = rows.insert((here, key), Row { default, example });
        assert!(twice.is_none(), "[{here}] {key} stands there twice");
    }
    rows
}

#[test]
fn every_key_is_there() {
    let documented: BTreeSet<_> = rows().into_keys().collect();
    let known: BTreeSet<_> = KEYS
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| (*section, *key)))
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn every_default_is_that_of_the_example() {
    let rows = rows();
    let mut seen = BTreeSet::new();
    let (mut here, mut is_invented) = ("", false);
    for line in EXAMPLE.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if line.is_empty() || line.starts_with(' ') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            here = section(header);
            is_invented = header.contains("example.com");
            continue;
        }
        let (key, value) = line.split_once(" = ").expect(line);
        let row = rows.get(&(here, key)).unwrap_or_else(|| panic!("[{here}] {key}"));
        let default = row.default;
        if is_invented {
            assert_eq!(default, "none", "[{here}] {key}");
        } else if here == "plugin" && !default.starts_with('`') {
            let by = default == "none" || default.starts_with("by ");
            assert!(by, "[{here}] {key}: {default}");
        } else {
            assert!(default.contains(&format!("`{value}`")), "[{here}] {key}: {default}");
        }
        seen.insert((here, key));
    }
    assert_eq!(seen, rows.into_keys().collect());
}

#[test]
fn every_example_is_accepted() {
    for ((section, key), row) in rows() {
        let example = row.example.trim_matches('`');
        let table = DeTable::parse(example).unwrap_or_else(|error| panic!("{example}: {error}"));
        let (name, value) = table.get_ref().iter().next().expect(example);
        assert_eq!(name.get_ref().as_ref(), key, "{example}");
        let (value, origin) = (value.get_ref(), Origin::Nowhere);
        let set = match section {
            "server" => ServerSection::default().set(key, value, &origin),
            "storage" => StorageSection::default().set(key, value, &origin),
            "upstream" => UpstreamSection::default().set(key, value, &origin),
            "hosted" => HostedSection::default().set(key, value, &origin),
            "plugin" => PluginSection::default().set(key, value, &origin),
            "chain" => ChainSection::default().set(key, value, &origin),
            "plugins" => PluginsSection::default().set(key, value, &origin),
            "fill" => FillSection::default().set(key, value, &origin),
            "auth" => AuthSection::default().set(key, value, &origin),
            "telemetry" => TelemetrySection::default().set(key, value, &origin),
            _ => LogSection::default().set(key, value, &origin),
        };
        assert!(matches!(set, Some(Ok(()))), "{example}: {set:?}");
    }
}
