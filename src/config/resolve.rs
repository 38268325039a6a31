//! From what was set to settings: defaults, built-in upstreams, references resolved.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use url::Url;

use super::builtin::{self, BUILT_IN, BuiltIn};
use super::encryption;
use super::error::Problems;
use super::in_force;
use super::safety;
use super::secrets::{ReadFile, check_certificates, read_secret};
use super::sections::{
    FillSection, LogSection, Raw, RawUpstream, ServerSection, StorageSection, UpstreamSection,
};
use super::source::{At, Origin};
use super::values::{FilePath, List};
use super::{
    Config, LogFormat, LogLevel, LogSettings, StorageSettings, defaults, stale, telemetry,
};
use crate::background::Offload;
use crate::http::settings::ServerSettings;
use crate::keep::scrub::ScrubSettings;
use crate::keep::settings::UpstreamLimits;
use crate::oci::RepoName;
use crate::pull::settings::{FillSettings, NamedUpstream, NamingSettings, TagSettings};
use crate::scope::UpstreamName;
use crate::upstream::settings::{Credentials, UpstreamSettings};

/// containerd (2.3 and later) waits this long for response headers.
const CONTAINERD_PATIENCE: Duration = Duration::from_secs(30);

/// An enabled upstream: what is built in under what was set.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) name: UpstreamName,
    /// Where its table starts.
    pub(super) origin: Origin,
    pub(super) keys: UpstreamSection,
    pub(super) built_in: Option<&'static BuiltIn>,
}

/// Builds the configuration; what is wrong is noted, and then the result is of no use.
pub(super) fn resolve(raw: Raw, read: ReadFile<'_>, problems: &mut Problems<'_>) -> Option<Config> {
    let mut notices = Vec::new();
    let public_url = raw.server.public_url.as_ref().and_then(|at| at.value.0.clone());
    let default_upstream = default_upstream(&raw, problems);
    let upstreams = enabled(raw.upstream);
    let sections = [
        in_force::part("server", &raw.server),
        in_force::part("storage", &raw.storage),
        in_force::part("hosted", &raw.hosted),
        in_force::part("fill", &raw.fill),
        in_force::part("log", &raw.log),
        in_force::part("telemetry", &raw.telemetry),
    ];
    let in_force = in_force::settings(&sections, &upstreams, default_upstream.as_ref(), problems);

    let mut server = server(&raw.server);
    let storage = storage(raw.storage);
    server.tls = encryption::resolve(&raw.server, &storage.path, read, problems);
    notices.extend(safety::listener_notices(&server));
    safety::check_listeners(&server, &raw.server, problems);
    safety::check_names(&upstreams, raw.hosted.prefixes.as_ref(), public_url.as_ref(), problems);
    safety::check_default(raw.hosted.prefixes.as_ref(), default_upstream.as_ref(), problems);

    let mut settings = Vec::new();
    let mut limits = HashMap::new();
    for upstream in &upstreams {
        let Some(one) = upstream_settings(upstream, read, problems) else { continue };
        safety::check_endpoints(upstream, &one, &server, public_url.as_ref(), problems);
        safety::check_credentials(upstream, &one, &server, problems);
        notices.extend(safety::credential_notices(upstream, &one, public_url.as_ref()));
        let tags = tag_settings(upstream, one.credentials.is_some());
        settings.push((one, tags));
        let limited = upstream_limits(&upstream.keys);
        if !limited.is_none() {
            limits.insert(upstream.name.clone(), limited);
        }
    }

    let fill = fill(&raw.fill);
    if fill.answer_within >= CONTAINERD_PATIENCE {
        notices.push(
            "fill.answer_within is 30s or more: containerd 2.3 and later gives up before".into(),
        );
    }
    let traces = telemetry::traces(raw.telemetry, read, problems);
    let naming = NamingSettings {
        upstreams: upstreams.iter().map(named).collect(),
        default_upstream,
        hosted_prefixes: raw.hosted.prefixes.map_or_else(
            || vec![defaults::HOSTED_PREFIX.to_owned()],
            |at| at.value.0.into_iter().map(|(prefix, _)| prefix.0).collect(),
        ),
        public_host: public_url.as_ref().and_then(host_and_port),
    };
    problems.is_empty().then(|| Config {
        server,
        storage,
        upstreams: settings,
        limits,
        naming,
        fill,
        log: log(&raw.log),
        traces,
        public_url,
        notices,
        in_force,
    })
}

/// A URL's host as clients write it in `?ns=` and `Host`: with a port unless it is the scheme's.
pub(super) fn host_and_port(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

fn or<T: Copy, U>(set: Option<&At<T>>, value: impl FnOnce(T) -> U, default: U) -> U {
    set.map_or(default, |at| value(at.value))
}

fn server(keys: &ServerSection) -> ServerSettings {
    ServerSettings {
        listen: or(keys.listen.as_ref(), |v| v.0, defaults::LISTEN),
        admin_listen: or(keys.admin_listen.as_ref(), |v| v.0, defaults::ADMIN_LISTEN),
        connections_max: or(
            keys.connections_max.as_ref(),
            |v| v.0 as usize,
            defaults::CONNECTIONS_MAX,
        ),
        connections_per_client_max: or(
            keys.connections_per_client_max.as_ref(),
            |v| v.0,
            defaults::CONNECTIONS_PER_CLIENT_MAX,
        ),
        requests_max: or(keys.requests_max.as_ref(), |v| v.0, defaults::REQUESTS_MAX),
        requests_per_client_max: or(
            keys.requests_per_client_max.as_ref(),
            |v| v.0,
            defaults::REQUESTS_PER_CLIENT_MAX,
        ),
        body_memory_max: or(keys.body_memory_max.as_ref(), |v| v.0, defaults::BODY_MEMORY_MAX),
        header_timeout: or(keys.header_timeout.as_ref(), |v| v.0, defaults::SERVER_HEADER_TIMEOUT),
        header_bytes_max: or(
            keys.header_bytes_max.as_ref(),
            |v| v.0 as usize,
            defaults::HEADER_BYTES_MAX,
        ),
        write_silence_timeout: or(
            keys.write_silence_timeout.as_ref(),
            |v| v.0,
            defaults::WRITE_SILENCE_TIMEOUT,
        ),
        write_rate_min: or(keys.write_rate_min.as_ref(), |v| v.0, defaults::WRITE_RATE_MIN),
        http2_streams_max: or(
            keys.http2_streams_max.as_ref(),
            |v| v.0,
            defaults::HTTP2_STREAMS_MAX,
        ),
        drain_timeout: or(keys.drain_timeout.as_ref(), |v| v.0, defaults::DRAIN_TIMEOUT),
        trusted_proxies: keys
            .trusted_proxies
            .as_ref()
            .map_or_else(Vec::new, |at| at.value.0.iter().map(|(network, _)| network.0).collect()),
        tls: None,
    }
}

fn storage(keys: StorageSection) -> StorageSettings {
    StorageSettings {
        max_size: keys.max_size.as_ref().map(|at| at.value.0),
        min_free: or(keys.min_free.as_ref(), |v| v.0, defaults::STORAGE_MIN_FREE),
        scrub: ScrubSettings {
            rate: or(keys.scrub_rate.as_ref(), |v| v.0, defaults::SCRUB_RATE),
            every: or(keys.scrub_every.as_ref(), |v| v.0, defaults::SCRUB_EVERY),
        },
        path: keys.path.map_or_else(|| defaults::STORAGE_PATH.into(), |at| at.value.0),
    }
}

fn fill(keys: &FillSection) -> FillSettings {
    FillSettings {
        concurrent_max: or(
            keys.concurrent_max.as_ref(),
            |v| v.0 as usize,
            defaults::FILL_CONCURRENT_MAX,
        ),
        per_client_max: or(keys.per_client_max.as_ref(), |v| v.0, defaults::FILL_PER_CLIENT_MAX),
        followers_max: or(keys.followers_max.as_ref(), |v| v.0, defaults::FILL_FOLLOWERS_MAX),
        private_max: or(keys.private_max.as_ref(), |v| v.0 as usize, defaults::FILL_PRIVATE_MAX),
        blob_bytes_max: or(keys.blob_size_max.as_ref(), |v| v.0, defaults::BLOB_SIZE_MAX),
        serve_unverified_ranges: or(
            keys.serve_unverified_ranges.as_ref(),
            |v| v,
            defaults::SERVE_UNVERIFIED_RANGES,
        ),
        condemned_for: or(keys.condemned_for.as_ref(), |v| v.0, defaults::CONDEMNED_FOR),
        answer_within: or(keys.answer_within.as_ref(), |v| v.0, defaults::ANSWER_WITHIN),
        connections: or(keys.connections.as_ref(), |v| v.0 as usize, defaults::FILL_CONNECTIONS),
        parallel_above: or(keys.parallel_above.as_ref(), |v| v.0, defaults::PARALLEL_ABOVE),
        retry_for: or(keys.retry_for.as_ref(), |v| v.0, defaults::RETRY_FOR),
        pause_after: or(keys.pause_after.as_ref(), |v| v.0, defaults::PAUSE_AFTER),
        // Both are the process's, and not for an operator to choose.
        jitter_seed: 0,
        offload: Offload::Pool,
    }
}

fn log(keys: &LogSection) -> LogSettings {
    LogSettings {
        level: or(keys.level.as_ref(), |v| v, LogLevel::Info),
        format: or(keys.format.as_ref(), |v| v, LogFormat::Text),
    }
}

fn tag_settings(upstream: &Upstream, has_credentials: bool) -> TagSettings {
    let keys = &upstream.keys;
    let prefix = upstream.built_in.and_then(|built_in| built_in.single_component_prefix);
    TagSettings {
        tag_ttl: or(keys.tag_ttl.as_ref(), |v| v.0, defaults::TAG_TTL),
        absent_ttl: or(keys.absent_ttl.as_ref(), |v| v.0, defaults::ABSENT_TTL),
        stale: stale::policy(keys.stale.as_ref().map(|at| &at.value), has_credentials, prefix),
        refresh_ahead: or(keys.refresh_ahead.as_ref(), |v| v.0, defaults::REFRESH_AHEAD),
    }
}

fn upstream_limits(keys: &UpstreamSection) -> UpstreamLimits {
    UpstreamLimits {
        max_bytes: keys.max_size.as_ref().map(|at| at.value.0),
        max_age: keys.max_age.as_ref().map(|at| at.value.0),
    }
}

/// The built-in upstreams and those that were set, without the disabled ones, by name.
fn enabled(set: BTreeMap<UpstreamName, RawUpstream>) -> Vec<Upstream> {
    let mut all: BTreeMap<UpstreamName, Upstream> = BTreeMap::new();
    for built_in in &BUILT_IN {
        // A test holds that every built-in name is one.
        let Ok(name) = built_in.name.parse::<UpstreamName>() else { continue };
        all.insert(
            name.clone(),
            Upstream {
                name,
                origin: Origin::Nowhere,
                keys: UpstreamSection::default(),
                built_in: Some(built_in),
            },
        );
    }
    for (name, RawUpstream { origin, keys }) in set {
        let built_in = builtin::find(name.as_str());
        all.insert(name.clone(), Upstream { name, origin, keys, built_in });
    }
    all.into_values().filter(|u| u.keys.enabled.as_ref().is_none_or(|at| at.value)).collect()
}

/// The upstream that answers bare names: the one that says so, else the built-in one.
fn default_upstream(raw: &Raw, problems: &mut Problems<'_>) -> Option<UpstreamName> {
    let enabled =
        |keys: &UpstreamSection| keys.enabled.as_ref().is_none_or(|enabled| enabled.value);
    let mut chosen: Option<(&UpstreamName, &Origin)> = None;
    for (name, upstream) in &raw.upstream {
        let Some(At { value: true, origin }) = &upstream.keys.default else { continue };
        if !enabled(&upstream.keys) {
            let message = format!("`default`: {name} is not enabled, so it cannot answer");
            problems.add(origin, message, None);
        } else if let Some((first, first_origin)) = chosen {
            let message = format!(
                "`default`: {first} is the default already ({})",
                problems.name_of(first_origin)
            );
            problems.add(origin, message, Some("one upstream at most answers bare names"));
        } else {
            chosen = Some((name, origin));
        }
    }
    if let Some((name, _)) = chosen {
        return Some(name.clone());
    }
    let built_in = BUILT_IN.iter().find(|built_in| built_in.default)?;
    let name: UpstreamName = built_in.name.parse().ok()?;
    let refused = raw.upstream.get(&name).is_some_and(|upstream| {
        upstream.keys.default.as_ref().is_some_and(|at| !at.value) || !enabled(&upstream.keys)
    });
    (!refused).then_some(name)
}

fn named(upstream: &Upstream) -> NamedUpstream {
    let built_in = upstream.built_in;
    NamedUpstream {
        name: upstream.name.clone(),
        alias: upstream.keys.alias.as_ref().map(|at| at.value.0.clone()),
        hosts: upstream.keys.hosts.as_ref().map_or_else(Vec::new, |at| {
            at.value.0.iter().map(|(host, _)| host.0.clone()).collect()
        }),
        ns_aliases: built_in
            .map_or(&[][..], |built_in| built_in.ns_aliases)
            .iter()
            .map(|alias| (*alias).to_owned())
            .collect(),
        single_component_prefix: built_in
            .and_then(|built_in| built_in.single_component_prefix)
            .and_then(|prefix| prefix.parse::<RepoName>().ok()),
    }
}

fn upstream_settings(
    upstream: &Upstream,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> Option<UpstreamSettings> {
    let keys = &upstream.keys;
    if let Some(ca_file) = &keys.ca_file {
        check_certificates("ca_file", ca_file, read, problems);
    }
    let auth_hosts = match &keys.auth_hosts {
        Some(At { value: List(hosts), .. }) => hosts.iter().map(|(h, _)| h.0.clone()).collect(),
        None => upstream
            .built_in
            .map_or(&[][..], |built_in| built_in.auth_hosts)
            .iter()
            .map(|host| (*host).to_owned())
            .collect(),
    };
    Some(UpstreamSettings {
        name: upstream.name.clone(),
        endpoints: endpoints(upstream, problems)?,
        credentials: credentials(keys, read, problems),
        auth_hosts,
        redirect_hosts: keys.redirect_hosts.as_ref().map_or_else(Vec::new, |at| {
            at.value.0.iter().map(|(host, _)| host.0.clone()).collect()
        }),
        ca_file: keys.ca_file.as_ref().map(|at| at.value.0.clone()),
        proxy: keys.proxy.as_ref().map(|at| at.value.0.clone()),
        connect_timeout: or(keys.connect_timeout.as_ref(), |v| v.0, defaults::CONNECT_TIMEOUT),
        header_timeout: or(
            keys.header_timeout.as_ref(),
            |v| v.0,
            defaults::UPSTREAM_HEADER_TIMEOUT,
        ),
        silence_timeout: or(keys.silence_timeout.as_ref(), |v| v.0, defaults::SILENCE_TIMEOUT),
    })
}

/// What was set, else what is built in, else the name itself.
fn endpoints(upstream: &Upstream, problems: &mut Problems<'_>) -> Option<Vec<Url>> {
    if let Some(At { value: List(endpoints), origin }) = &upstream.keys.endpoints {
        if endpoints.is_empty() {
            let help = "leave the key out for the usual endpoint; `enabled = false` turns the \
                        upstream off";
            problems.add(origin, "`endpoints` is empty", Some(help));
            return None;
        }
        return Some(endpoints.iter().map(|(endpoint, _)| endpoint.0.clone()).collect());
    }
    let endpoint = upstream
        .built_in
        .map_or_else(|| format!("https://{}", upstream.name), |b| b.endpoint.to_owned());
    match Url::parse(&endpoint) {
        Ok(endpoint) => Some(vec![endpoint]),
        Err(error) => {
            let message = format!("{} is no host that could be dialled: {error}", upstream.name);
            problems.add(&upstream.origin, message, Some("set `endpoints`"));
            None
        }
    }
}

fn credentials(
    keys: &UpstreamSection,
    read: ReadFile<'_>,
    problems: &mut Problems<'_>,
) -> Option<Credentials> {
    let secret = |key: &str, file: &At<FilePath>, problems: &mut Problems<'_>| {
        read_secret(key, file, read, problems)
    };
    match (&keys.username, &keys.password_file, &keys.token_file) {
        (None, None, None) => None,
        (Some(username), Some(file), None) => {
            let password = secret("password_file", file, problems)?;
            Some(Credentials::Password { username: username.value.0.clone(), password })
        }
        (None, None, Some(file)) => secret("token_file", file, problems).map(Credentials::Token),
        (Some(username), None, None) => {
            let help = "add `password_file`: the path of a file that holds only the password";
            problems.add(&username.origin, "`username` without `password_file`", Some(help));
            None
        }
        (None, Some(file), None) => {
            let help = "add `username`; a bearer token stands in `token_file`";
            problems.add(&file.origin, "`password_file` without `username`", Some(help));
            None
        }
        (_, _, Some(file)) => {
            let message = "`token_file` beside `username` or `password_file`";
            problems.add(&file.origin, message, Some("keep one way to log in"));
            None
        }
    }
}
