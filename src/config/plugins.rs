//! `[plugin.NAME]`, `[chain]` and `[plugins]`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use serde_json::Value as Json;
use toml::de::DeValue;

use super::error::{Problems, printable};
use super::secrets::{ReadFile, read_named, read_secret};
use super::sections::{ChainSection, PluginSection, PluginsSection, RawPlugin, to_json};
use super::source::{At, Origin};
use super::suggest::closest;
use super::table::{Placed, table};
use super::values::{FilePath, List, Refusal, Text, Value, read_text};
use crate::hooks::Action;
use crate::hooks::chain::{Hook, MatchSettings, Mode, MountSettings, OnError, Pattern};
use crate::hooks::wasm::Grants;
use crate::plugins::settings::{MountPlan, PluginSettings};
use crate::plugins::source::Source;
use crate::plugins::verify::PublicKey;
use crate::scope::UpstreamName;
use crate::secret::Secret;

/// The longest name of a mount, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// The most mounts.
const MOUNTS_MAX: usize = 64;

/// The largest file of a public key, in bytes.
const KEY_BYTES_MAX: usize = 16 << 10;

table! {
    /// `match` of a plugin.
    MatchTable {
        repositories: List<Pattern>,
        actions: List<Action>,
        upstreams: List<UpstreamName>,
        media_types: List<Pattern>,
    }
}

table! {
    /// `verify` of a plugin.
    VerifyTable {
        public_key: FilePath,
    }
}

impl Text for Source {
    const EXPECTED: &'static str = "a source such as \"file:house-rules.wasm\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::plugins::source::SourceError| error.to_string())
    }
}

impl Text for Hook {
    const EXPECTED: &'static str = "a hook such as \"request-policy\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::hooks::chain::HookError| error.to_string())
    }
}

impl Text for Action {
    const EXPECTED: &'static str = "an action such as \"pull\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::hooks::ActionError| error.to_string())
    }
}

impl Text for Pattern {
    const EXPECTED: &'static str = "a pattern such as \"library/**\"";

    fn parse(text: &str) -> Result<Self, String> {
        Self::new(text).map_err(|error| error.to_string())
    }
}

impl Text for UpstreamName {
    const EXPECTED: &'static str = "an upstream's name such as \"docker.io\"";

    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: crate::scope::UpstreamNameError| error.to_string())
    }
}

/// One of a few words.
fn word<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: &str) -> Result<T, String> {
    all.iter().copied().find(|item| name(*item) == text).ok_or_else(|| {
        let names: Vec<String> = all.iter().map(|item| format!("{:?}", name(*item))).collect();
        format!("is one of {}", names.join(", "))
    })
}

impl Text for OnError {
    const EXPECTED: &'static str = "\"deny\", \"allow\" or \"skip\"";

    fn parse(text: &str) -> Result<Self, String> {
        word(&Self::ALL, Self::as_str, text)
    }
}

impl Text for Mode {
    const EXPECTED: &'static str = "\"enforce\", \"warn\" or \"shadow\"";

    fn parse(text: &str) -> Result<Self, String> {
        word(&Self::ALL, Self::as_str, text)
    }
}

/// The name of a mount.
#[derive(Clone, Debug)]
pub(super) struct MountName(pub(super) String);

impl Text for MountName {
    const EXPECTED: &'static str = "the name of a plugin";

    fn parse(text: &str) -> Result<Self, String> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(fits) {
            return Err(format!(
                "a plugin's name is 1 to {NAME_BYTES_MAX} lower-case letters, digits and '-'"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

macro_rules! texts {
    ($($type:ty),* $(,)?) => {$(
        impl Value for $type {
            fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
                read_text(value)
            }
        }
    )*};
}

texts!(Action, Hook, Mode, MountName, OnError, Pattern, Source, UpstreamName);

/// A table of any keys, for the plugin to judge.
#[derive(Clone, Debug)]
pub(super) struct Settings(Json);

impl Value for Settings {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        match value {
            DeValue::Table(_) => Ok(Self(to_json(value))),
            other => Err(Refusal::wrong_type("a table such as { blocked_tags = [] }", other)),
        }
    }
}

/// What a plugin may do. Each grant is read by itself, so that a mistake has its place.
#[derive(Clone, Debug, Default)]
pub(super) struct GrantsTable(Grants);

/// The grants, for suggestions.
const GRANTS: [&str; 5] = ["http", "kv", "content", "secrets", "facts"];

impl Value for GrantsTable {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let DeValue::Table(table) = value else {
            let example = "a table such as { kv = { buckets = [\"sessions\"] } }";
            return Err(Refusal::wrong_type(example, value));
        };
        let refuse = |message: String, span: Range<usize>| {
            Err(Refusal { message, span: Some(span), wrong_type: false })
        };
        for (key, grant) in table {
            let name = key.get_ref().as_ref();
            if !GRANTS.contains(&name) {
                let help = match closest(name, GRANTS) {
                    Some(grant) => format!("did you mean `{grant}`?"),
                    None => format!("the grants are {}", GRANTS.join(", ")),
                };
                let message = format!("`{}`: there is no such grant; {help}", printable(name));
                return refuse(message, key.span());
            }
            let one = serde_json::json!({ name: to_json(grant.get_ref()) });
            if let Err(error) = serde_json::from_value::<Grants>(one) {
                return refuse(format!("`{name}`: {error}"), grant.span());
            }
        }
        let grants: Grants = serde_json::from_value(to_json(value))
            .map_err(|error| Refusal::new(error.to_string()))?;
        grants.check().map_err(Refusal::new)?;
        Ok(Self(grants))
    }
}

/// Secrets by name: the files that hold them.
#[derive(Clone, Debug, Default)]
pub(super) struct SecretFiles(Vec<(String, FilePath, Range<usize>)>);

impl Value for SecretFiles {
    fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
        let DeValue::Table(table) = value else {
            let example = "a table of files such as { api-key = \"/run/secrets/api-key\" }";
            return Err(Refusal::wrong_type(example, value));
        };
        let read = |(name, path): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            let file = FilePath::read(path.get_ref())
                .map_err(|refusal| Refusal { span: Some(path.span()), ..refusal })?;
            Ok((name.to_string(), file, path.span()))
        };
        table.iter().map(read).collect::<Result<_, _>>().map(Self)
    }
}

/// `value` with what may be a secret hidden: for operators' eyes.
pub(super) fn hidden(value: Json) -> Json {
    const SUSPECT: [&str; 5] = ["password", "token", "secret", "key", "users"];
    match value {
        Json::Object(map) => map
            .into_iter()
            .map(|(key, value)| {
                let lower = key.to_ascii_lowercase();
                let is_file = lower.ends_with("_file") || lower == "public_key";
                let suspect = !is_file && SUSPECT.iter().any(|word| lower.contains(word));
                let value = if suspect { "[hidden]".into() } else { hidden(value) };
                (key, value)
            })
            .collect(),
        Json::Array(items) => items.into_iter().map(hidden).collect(),
        other => other,
    }
}

/// What was set, as settings.
pub(super) fn resolve(
    plugins: BTreeMap<String, RawPlugin>,
    chain: ChainSection,
    shared: &PluginsSection,
    upstreams: &BTreeSet<&UpstreamName>,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> PluginSettings {
    let mut plugins: Vec<(String, RawPlugin)> = plugins.into_iter().collect();
    // In the order of the file; what variables added comes behind.
    plugins.sort_by_key(|(_, plugin)| match &plugin.origin {
        Origin::File(span) => span.start,
        Origin::Variable(_) | Origin::Nowhere => usize::MAX,
    });
    if let Some((_, plugin)) = plugins.get(MOUNTS_MAX) {
        problems.add(&plugin.origin, format!("there are more than {MOUNTS_MAX} plugins"), None);
    }
    let order = order(chain, &plugins, problems);
    let defaults = PluginSettings::default();
    let mut settings = PluginSettings {
        order,
        memory_max: shared.memory_max.as_ref().map_or(defaults.memory_max, |at| at.value.0),
        calls_max: shared.calls_max.as_ref().map_or(defaults.calls_max, |at| at.value.0),
        decisions_max: shared
            .decisions_max
            .as_ref()
            .map_or(defaults.decisions_max, |at| at.value.0.into()),
        watch: shared.watch.as_ref().map_or(defaults.watch, |at| at.value),
        pagemap_scan: shared.pagemap_scan.as_ref().map_or(defaults.pagemap_scan, |at| at.value),
        mounts: Vec::new(),
    };
    for (name, plugin) in plugins {
        settings.mounts.extend(mount(&name, plugin, upstreams, read, problems));
    }
    settings
}

/// The order of `[chain]`, whose names have to be plugins that are asked there.
fn order(
    chain: ChainSection,
    plugins: &[(String, RawPlugin)],
    problems: &mut Problems<'_>,
) -> BTreeMap<&'static str, Vec<String>> {
    let hooks = [
        (Hook::Authenticator, chain.authenticator),
        (Hook::Authorizer, chain.authorizer),
        (Hook::Resolver, chain.resolver),
        (Hook::RequestPolicy, chain.request_policy),
        (Hook::ManifestPolicy, chain.manifest_policy),
    ];
    let mut order = BTreeMap::new();
    for (hook, names) in hooks {
        let Some(At { value: List(names), origin }) = names else { continue };
        let mut seen: Vec<String> = Vec::new();
        for (MountName(name), span) in names {
            let place = match &origin {
                Origin::File(_) => Origin::File(span),
                other => other.clone(),
            };
            match plugins.iter().find(|(known, _)| *known == name) {
                None => {
                    let known = plugins.iter().map(|(known, _)| known.as_str());
                    let help = match closest(&name, known) {
                        Some(known) => format!("did you mean {known:?}?"),
                        None => format!("add [plugin.{name}]"),
                    };
                    problems.add(&place, format!("there is no plugin {name:?}"), Some(&help));
                }
                Some((_, plugin)) if !is_asked(&plugin.keys, hook) => {
                    let message = format!("plugin {name:?} is not asked there");
                    let help = format!("add {:?} to its `hooks`", hook.as_str());
                    problems.add(&place, message, Some(&help));
                }
                Some(_) if seen.contains(&name) => {
                    problems.add(&place, format!("{name:?} stands here twice"), None);
                }
                Some(_) => seen.push(name),
            }
        }
        order.insert(hook.as_str(), seen);
    }
    order
}

/// Whether a plugin may be asked at a hook, as far as its table tells.
fn is_asked(keys: &PluginSection, hook: Hook) -> bool {
    keys.hooks.as_ref().is_none_or(|at| at.value.0.iter().any(|(asked, _)| *asked == hook))
}

fn mount(
    name: &str,
    RawPlugin { origin, keys }: RawPlugin,
    upstreams: &BTreeSet<&UpstreamName>,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> Option<MountPlan> {
    let Some(source) = keys.source else {
        let help = "add `source`, such as \"file:house-rules.wasm\" or \"builtin:house-rules\"";
        problems.add(&origin, format!("plugin {name:?} has no source"), Some(help));
        return None;
    };
    if let Source::Oci(artifact) = &source.value
        && !upstreams.contains(&artifact.upstream)
    {
        let message = format!("`source`: {} is no upstream", artifact.upstream);
        let help = format!("add [upstream.\"{}\"]: how to reach it", artifact.upstream);
        problems.add(&source.origin, message, Some(&help));
    }
    let matching = keys.matching.map_or_else(MatchSettings::default, |at| {
        let place = |span: &Range<usize>| match &at.origin {
            Origin::File(_) => Origin::File(span.clone()),
            other => other.clone(),
        };
        if let Some((List(names), _)) = &at.value.upstreams {
            for (unknown, span) in names.iter().filter(|(name, _)| !upstreams.contains(name)) {
                let message = format!("`match`: there is no upstream {unknown}");
                problems.add(&place(span), message, None);
            }
        }
        MatchSettings {
            repositories: items(at.value.repositories),
            actions: items(at.value.actions),
            upstreams: items(at.value.upstreams),
            media_types: items(at.value.media_types),
        }
    });
    let secrets = secrets(keys.secrets, read, problems);
    let verify = keys.verify.and_then(|at| verify(&at, read, problems));
    let grants = keys.grants.map(|at| at.value.0).unwrap_or_default();
    for granted in &grants.secrets {
        if !secrets.contains_key(granted) {
            let message = format!("`grants`: there is no secret {granted:?}");
            let help = format!("add it: secrets = {{ {granted} = \"FILE\" }}");
            problems.add(&origin, message, Some(&help));
        }
    }
    Some(MountPlan {
        mount: MountSettings {
            name: name.into(),
            matching,
            on_error: keys.on_error.map(|at| at.value),
            mode: keys.mode.map(|at| at.value).unwrap_or_default(),
            timeout: keys.timeout.map(|at| at.value.0),
        },
        source: source.value,
        hooks: keys.hooks.map(|at| at.value.0.into_iter().map(|(hook, _)| hook).collect()),
        memory_max: keys.memory_max.map(|at| at.value.0),
        grants,
        config: keys.config.map_or_else(|| Json::Object(serde_json::Map::new()), |at| at.value.0),
        secrets,
        verify,
        record: keys.record.map(|at| at.value.0),
    })
}

fn items<T>(list: Placed<List<T>>) -> Option<Vec<T>> {
    list.map(|(List(items), _)| items.into_iter().map(|(item, _)| item).collect())
}

fn secrets(
    files: Option<At<SecretFiles>>,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> BTreeMap<String, Secret> {
    let Some(At { value: SecretFiles(files), origin }) = files else { return BTreeMap::new() };
    let mut secrets = BTreeMap::new();
    for (name, path, span) in files {
        let origin = match &origin {
            Origin::File(_) => Origin::File(span),
            other => other.clone(),
        };
        let file = At { value: path, origin };
        if let Some(secret) = read_secret("secrets", &file, read, problems) {
            secrets.insert(name, secret);
        }
    }
    secrets
}

fn verify(
    table: &At<VerifyTable>,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> Option<PublicKey> {
    let (path, span) = table.value.public_key.clone()?;
    let origin = match &table.origin {
        Origin::File(_) => Origin::File(span),
        other => other.clone(),
    };
    let file = At { value: path, origin };
    let content = read_named("verify.public_key", &file, KEY_BYTES_MAX, read, problems)?;
    match PublicKey::from_pem(&content) {
        Ok(key) => Some(key),
        Err(error) => {
            let path = Path::display(&file.value.0);
            let message = format!("`verify.public_key`: {path}: {error}");
            problems.add(&file.origin, message, None);
            None
        }
    }
}
