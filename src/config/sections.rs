//! The keys of the configuration, each once, and the reading of a file into them.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::auth::{TokenService, TokenTtl};
use super::encryption::{AcmeTable, TlsTable};
use super::error::{Problems, printable};
use super::plugins::{GrantsTable, MatchTable, MountName, SecretFiles, Settings, VerifyTable};
use super::source::{At, Origin};
use super::stale::StaleTable;
use super::suggest::closest;
use super::telemetry::{Collector, HeadersFile, Ratio, ServiceName};
use super::values::{
    Alias, BaseUrl, Count, FilePath, HostName, HostedPrefix, List, Listen, NamedHost, Network,
    Period, PublicUrl, Refusal, Size, Text as _, Timeout, UserName, Value,
};
use super::{LogFormat, LogLevel};
use crate::hooks::Anonymous;
use crate::hooks::chain::{Hook, Mode, OnError};
use crate::plugins::source::Source;
use crate::scope::UpstreamName;

/// A table of keys.
pub(super) trait Section {
    /// What it is called in messages.
    const LABEL: &'static str;
    /// Its keys.
    const KEYS: &'static [&'static str];
    /// Keys that are promised for later versions.
    const LATER: &'static [&'static str];
    /// Sets a key; none if there is no such key.
    fn set(
        &mut self,
        key: &str,
        value: &DeValue<'_>,
        origin: &Origin,
    ) -> Option<Result<(), Refusal>>;
    /// What was set, as it was written.
    fn shown(&self) -> &BTreeMap<&'static str, Shown>;
}

/// A value as it was written, and where.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) value: serde_json::Value,
    pub(super) origin: Origin,
}

/// What a field is called in the file, where that is no word of Rust.
macro_rules! key {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $name:literal) => {
        $name
    };
}

/// One list of keys makes the struct, the names and the reader: they cannot disagree.
macro_rules! section {
    (
        $(#[$doc:meta])*
        $name:ident, $label:literal, later: [$($later:literal),*],
        $($field:ident $(= $key:literal)?: $type:ty,)*
    ) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name {
            $(pub(super) $field: Option<At<$type>>,)*
            shown: BTreeMap<&'static str, Shown>,
        }

        impl Section for $name {
            const LABEL: &'static str = $label;
            const KEYS: &'static [&'static str] = &[$(key!($field $($key)?)),*];
            const LATER: &'static [&'static str] = &[$($later),*];

            fn set(
                &mut self,
                key: &str,
                value: &DeValue<'_>,
                origin: &Origin,
            ) -> Option<Result<(), Refusal>> {
                match key {
                    $(key!($field $($key)?) => Some(<$type as Value>::read(value).map(|read| {
                        self.$field = Some(At { value: read, origin: origin.clone() });
                        let shown = Shown { value: to_json(value), origin: origin.clone() };
                        self.shown.insert(key!($field $($key)?), shown);
                    })),)*
                    _ => None,
                }
            }

            fn shown(&self) -> &BTreeMap<&'static str, Shown> {
                &self.shown
            }
        }
    };
}

/// A value of TOML in JSON.
pub(super) fn to_json(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Boolean(value) => (*value).into(),
        DeValue::Array(items) => items.iter().map(|item| to_json(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let pair = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                (key.to_string(), to_json(value.get_ref()))
            };
            serde_json::Value::Object(table.iter().map(pair).collect())
        }
        DeValue::Integer(number) => number
            .as_str()
            .parse::<i64>()
            .map_or_else(|_| number.to_string().into(), serde_json::Value::from),
        DeValue::Float(number) => number
            .as_str()
            .parse::<f64>()
            .map_or_else(|_| number.to_string().into(), serde_json::Value::from),
        DeValue::Datetime(time) => time.to_string().into(),
    }
}

section! {
    /// `[server]`
    ServerSection, "[server]", later: [],
    listen: Listen,
    admin_listen: Listen,
    public_url: PublicUrl,
    tls: TlsTable,
    acme: AcmeTable,
    trusted_proxies: List<Network>,
    connections_max: Count<1, 1_000_000>,
    connections_per_client_max: Count<0, 1_000_000>,
    requests_max: Count<1, 1_000_000>,
    requests_per_client_max: Count<0, 1_000_000>,
    // One manifest of the largest size has to fit.
    body_memory_max: Size<{ 16 << 20 }, { i64::MAX as u64 }>,
    header_timeout: Timeout,
    // Below 8 KiB hyper cannot hold a request head.
    header_bytes_max: Size<{ 8 << 10 }, { 1 << 20 }>,
    write_silence_timeout: Timeout,
    write_rate_min: Size<0, { 1 << 30 }>,
    http2_streams_max: Count<1, 65_536>,
    drain_timeout: Period,
}

section! {
    /// `[storage]`
    StorageSection, "[storage]", later: [],
    path: FilePath,
    max_size: Size<1, { i64::MAX as u64 }>,
    min_free: Size<0, { i64::MAX as u64 }>,
    scrub_rate: Size<0, { i64::MAX as u64 }>,
    scrub_every: Period,
}

section! {
    /// `[upstream."NAME"]`
    UpstreamSection, "[upstream.\"NAME\"]", later: [],
    enabled: bool,
    endpoints: List<BaseUrl>,
    default: bool,
    alias: Alias,
    hosts: List<NamedHost>,
    tag_ttl: Period,
    absent_ttl: Period,
    stale: StaleTable,
    refresh_ahead: Period,
    username: UserName,
    password_file: FilePath,
    token_file: FilePath,
    public_read: bool,
    ca_file: FilePath,
    proxy: BaseUrl,
    auth_hosts: List<HostName>,
    redirect_hosts: List<HostName>,
    connect_timeout: Timeout,
    header_timeout: Timeout,
    silence_timeout: Timeout,
    max_size: Size<1, { i64::MAX as u64 }>,
    max_age: Timeout,
}

section! {
    /// `[hosted]`
    HostedSection, "[hosted]", later: ["anonymous_push", "create_on_push"],
    prefixes: List<HostedPrefix>,
}

section! {
    /// `[fill]`
    FillSection, "[fill]", later: [],
    concurrent_max: Count<1, 4096>,
    per_client_max: Count<0, 4096>,
    followers_max: Count<1, 1_000_000>,
    private_max: Count<0, 4096>,
    blob_size_max: Size<1, { i64::MAX as u64 }>,
    serve_unverified_ranges: bool,
    condemned_for: Period,
    answer_within: Timeout,
    connections: Count<1, 64>,
    parallel_above: Size<1, { i64::MAX as u64 }>,
    retry_for: Period,
    pause_after: Period,
}

section! {
    /// `[auth]`
    AuthSection, "[auth]", later: [],
    anonymous: Anonymous,
    token_ttl: TokenTtl,
    service: TokenService,
}

section! {
    /// `[log]`
    LogSection, "[log]", later: [],
    level: LogLevel,
    format: LogFormat,
}

section! {
    /// `[telemetry]`
    TelemetrySection, "[telemetry]", later: [],
    otlp_endpoint: Collector,
    otlp_headers_file: HeadersFile,
    sample_ratio: Ratio,
    service_name: ServiceName,
}

section! {
    /// `[plugin.NAME]`
    PluginSection, "[plugin.NAME]", later: [],
    source: Source,
    hooks: List<Hook>,
    matching = "match": MatchTable,
    on_error: OnError,
    mode: Mode,
    // An hour is what a scanner may take.
    timeout: Timeout,
    memory_max: Size<{ 64 << 10 }, { 4 << 30 }>,
    grants: GrantsTable,
    config: Settings,
    secrets: SecretFiles,
    verify: VerifyTable,
    record: FilePath,
}

section! {
    /// `[chain]`
    ChainSection, "[chain]", later: [],
    authenticator: List<MountName>,
    authorizer: List<MountName>,
    resolver: List<MountName>,
    request_policy = "request-policy": List<MountName>,
    manifest_policy = "manifest-policy": List<MountName>,
}

section! {
    /// `[plugins]`
    PluginsSection, "[plugins]", later: [],
    memory_max: Size<{ 1 << 20 }, { 1 << 40 }>,
    calls_max: Count<1, 4096>,
    decisions_max: Count<0, 10_000_000>,
    watch: bool,
    pagemap_scan: bool,
}

/// The tables at the top.
const TABLES: [&str; 11] = [
    "server",
    "storage",
    "upstream",
    "hosted",
    "plugin",
    "chain",
    "plugins",
    "fill",
    "auth",
    "log",
    "telemetry",
];

/// Every key with its section, to tell where a misplaced one belongs.
const SECTIONS: [(&str, &[&str]); 11] = [
    (ServerSection::LABEL, ServerSection::KEYS),
    (StorageSection::LABEL, StorageSection::KEYS),
    (UpstreamSection::LABEL, UpstreamSection::KEYS),
    (HostedSection::LABEL, HostedSection::KEYS),
    (PluginSection::LABEL, PluginSection::KEYS),
    (ChainSection::LABEL, ChainSection::KEYS),
    (PluginsSection::LABEL, PluginsSection::KEYS),
    (FillSection::LABEL, FillSection::KEYS),
    (AuthSection::LABEL, AuthSection::KEYS),
    (LogSection::LABEL, LogSection::KEYS),
    (TelemetrySection::LABEL, TelemetrySection::KEYS),
];

/// What was set, and where; what was not set is absent.
#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) server: ServerSection,
    pub(super) storage: StorageSection,
    pub(super) upstream: BTreeMap<UpstreamName, RawUpstream>,
    pub(super) hosted: HostedSection,
    pub(super) plugin: BTreeMap<String, RawPlugin>,
    pub(super) chain: ChainSection,
    pub(super) plugins: PluginsSection,
    pub(super) fill: FillSection,
    pub(super) auth: AuthSection,
    pub(super) log: LogSection,
    pub(super) telemetry: TelemetrySection,
}

/// One upstream's table.
#[derive(Debug)]
pub(super) struct RawUpstream {
    /// Where its header stands.
    pub(super) origin: Origin,
    /// Its keys.
    pub(super) keys: UpstreamSection,
}

/// One plugin's table.
#[derive(Debug)]
pub(super) struct RawPlugin {
    /// Where its header stands.
    pub(super) origin: Origin,
    /// Its keys.
    pub(super) keys: PluginSection,
}

impl Raw {
    /// Reads a document, noting everything wrong with it.
    pub(super) fn read(document: &DeTable<'_>, problems: &mut Problems<'_>) -> Self {
        let mut raw = Self::default();
        for (key, value) in document {
            let name = key.get_ref().as_ref();
            if !TABLES.contains(&name) {
                unknown_table(name, &Origin::File(key.span()), problems);
                continue;
            }
            let DeValue::Table(table) = value.get_ref() else {
                let origin = Origin::File(value.span());
                let help = format!("write [{name}] and its keys on lines of their own");
                problems.add(&origin, format!("`{name}` is a table"), Some(&help));
                continue;
            };
            match name {
                "server" => read_keys(&mut raw.server, table, problems),
                "storage" => read_keys(&mut raw.storage, table, problems),
                "hosted" => read_keys(&mut raw.hosted, table, problems),
                "fill" => read_keys(&mut raw.fill, table, problems),
                "auth" => read_keys(&mut raw.auth, table, problems),
                "log" => read_keys(&mut raw.log, table, problems),
                "telemetry" => read_keys(&mut raw.telemetry, table, problems),
                "plugin" => read_plugins(&mut raw.plugin, table, problems),
                "chain" => read_keys(&mut raw.chain, table, problems),
                "plugins" => read_keys(&mut raw.plugins, table, problems),
                _ => read_upstreams(&mut raw.upstream, table, problems),
            }
        }
        raw
    }
}

fn read_keys<S: Section>(section: &mut S, table: &DeTable<'_>, problems: &mut Problems<'_>) {
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let origin = Origin::File(value.span());
        match section.set(name, value.get_ref(), &origin) {
            Some(Ok(())) => {}
            Some(Err(refusal)) => {
                let origin = refusal.span.map_or(origin, Origin::File);
                problems.add(&origin, format!("`{name}`: {}", refusal.message), None);
            }
            None => unknown_key::<S>(name, &Origin::File(key.span()), problems),
        }
    }
}

fn read_upstreams(
    upstreams: &mut BTreeMap<UpstreamName, RawUpstream>,
    table: &DeTable<'_>,
    problems: &mut Problems<'_>,
) {
    for (key, value) in table {
        let origin = Origin::File(key.span());
        let name = match key.get_ref().parse::<UpstreamName>() {
            Ok(name) => name,
            Err(error) => {
                problems.add(&origin, error.to_string(), None);
                continue;
            }
        };
        let DeValue::Table(table) = value.get_ref() else {
            let message = "an upstream is a table, and a key of one stands in its table";
            let help = "such as [upstream.\"docker.io\"]";
            problems.add(&origin, message, Some(help));
            continue;
        };
        if let Some((inner, _)) = dotted(table) {
            let message = "a name with dots needs quotes";
            let help = format!("[upstream.\"{name}.{}\"]", printable(inner));
            problems.add(&origin, message, Some(&help));
            continue;
        }
        let mut keys = UpstreamSection::default();
        read_keys(&mut keys, table, problems);
        upstreams.insert(name, RawUpstream { origin, keys });
    }
}

fn read_plugins(
    plugins: &mut BTreeMap<String, RawPlugin>,
    table: &DeTable<'_>,
    problems: &mut Problems<'_>,
) {
    for (key, value) in table {
        let origin = Origin::File(key.span());
        let name = match MountName::parse(key.get_ref()) {
            Ok(MountName(name)) => name,
            Err(error) => {
                problems.add(&origin, error, None);
                continue;
            }
        };
        let DeValue::Table(table) = value.get_ref() else {
            let message = "a plugin is a table, and a key of one stands in its table";
            problems.add(&origin, message, Some("such as [plugin.house-rules]"));
            continue;
        };
        let mut keys = PluginSection::default();
        read_keys(&mut keys, table, problems);
        plugins.insert(name, RawPlugin { origin, keys });
    }
}

/// `[upstream.ghcr.io]` without quotes is a table in a table.
fn dotted<'t>(table: &'t DeTable<'_>) -> Option<(&'t str, &'t Spanned<DeValue<'t>>)> {
    table.iter().map(|(key, value)| (key.get_ref().as_ref(), value)).find(|(key, value)| {
        value.get_ref().is_table()
            && !UpstreamSection::KEYS.contains(key)
            && !UpstreamSection::LATER.contains(key)
    })
}

/// Notes that there is no such table.
pub(super) fn unknown_table(name: &str, origin: &Origin, problems: &mut Problems<'_>) {
    let shown = printable(name);
    let help = match closest(name, TABLES) {
        Some(table) => format!("did you mean [{table}]?"),
        None => match SECTIONS.iter().find(|(_, keys)| keys.contains(&name)) {
            Some((section, _)) => format!("it belongs under {section}"),
            None => format!("the sections are {}", TABLES.join(", ")),
        },
    };
    problems.add(origin, format!("there is no section [{shown}]"), Some(&help));
}

/// Notes that a section has no such key.
pub(super) fn unknown_key<S: Section>(name: &str, origin: &Origin, problems: &mut Problems<'_>) {
    let shown = printable(name);
    if S::LATER.contains(&name) {
        let message = format!("`{shown}` in {} is not supported by this version", S::LABEL);
        problems.add(origin, message, Some("remove it"));
        return;
    }
    let elsewhere = SECTIONS.iter().find(|(_, keys)| keys.contains(&name));
    let help = match (closest(name, S::KEYS.iter().copied()), elsewhere) {
        (_, Some((section, _))) => format!("it belongs under {section}"),
        (Some(key), None) => format!("did you mean `{key}`?"),
        _ if S::LABEL == UpstreamSection::LABEL && matches!(name, "password" | "token") => {
            format!("secrets stand in files of their own: `{name}_file`")
        }
        (None, None) => format!("the keys here are {}", S::KEYS.join(", ")),
    };
    problems.add(origin, format!("there is no key `{shown}` in {}", S::LABEL), Some(&help));
}
