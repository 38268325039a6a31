//! What must not be configured together: names that collide, requests that would come back to
//! ourselves, private images for everyone.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use url::{Host, Url};

use super::error::Problems;
use super::resolve::{Upstream, host_and_port};
use super::sections::ServerSection;
use super::source::{At, Origin};
use super::values::{HostedPrefix, List};
use crate::http::settings::{ServerSettings, is_loopback};
use crate::scope::UpstreamName;
use crate::upstream::settings::UpstreamSettings;

/// The operator's side stays on this machine or is encrypted, and the two listeners do not collide.
pub(super) fn check_listeners(
    server: &ServerSettings,
    keys: &ServerSection,
    problems: &mut Problems<'_>,
) {
    let admin_origin = keys.admin_listen.as_ref().map_or(&Origin::Nowhere, |at| &at.origin);
    if !is_loopback(server.admin_listen) && server.tls.is_none() {
        let message = "`admin_listen` on a non-loopback address needs TLS";
        let help = "set `tls` or `acme`, or keep it on loopback, such as \"127.0.0.1:5001\"";
        problems.add(admin_origin, message, Some(help));
    }
    if reaches(server.admin_listen.ip(), server.admin_listen.port(), server.listen) {
        let origin = match (&keys.admin_listen, &keys.listen) {
            (Some(at), _) | (None, Some(at)) => &at.origin,
            (None, None) => &Origin::Nowhere,
        };
        let message = format!(
            "`listen` ({}) and `admin_listen` ({}) need ports of their own",
            server.listen, server.admin_listen
        );
        problems.add(origin, message, None);
    }
}

/// Who claims a word that selects an upstream.
struct Claim {
    owner: String,
    origin: Origin,
}

/// Every word that clients can say selects one thing.
///
/// Path components, `?ns=` and `Host` share one space of words: a word that meant one upstream
/// in a path and another in a query would be a trap.
pub(super) fn check_names(
    upstreams: &[Upstream],
    prefixes: Option<&At<List<HostedPrefix>>>,
    public_url: Option<&Url>,
    problems: &mut Problems<'_>,
) {
    let mut claims: HashMap<String, Claim> = HashMap::new();
    let default_prefix = (super::defaults::HOSTED_PREFIX.to_owned(), Origin::Nowhere);
    let prefixes = prefixes.map_or_else(
        || vec![default_prefix],
        |at| at.value.0.iter().map(|(p, span)| (p.0.clone(), within(at, span))).collect(),
    );
    for (prefix, origin) in prefixes {
        // Upstreams are selected by the first component, so that is what collides.
        if let Some((first, _)) = prefix.split_once('/') {
            let owner = format!("the hosted prefix \"{prefix}\"");
            claims.entry(first.to_owned()).or_insert(Claim { owner, origin });
        }
    }
    if let Some(host) = public_url.and_then(host_and_port) {
        let owner = "the host of server.public_url".to_owned();
        claims.insert(host, Claim { owner, origin: Origin::Nowhere });
    }
    // Names first: a name cannot give way, an alias can.
    for upstream in upstreams {
        claim(&mut claims, upstream, upstream.name.as_str(), &upstream.origin, problems);
    }
    for upstream in upstreams {
        let built_in = upstream.built_in;
        for alias in built_in.map_or(&[][..], |built_in| built_in.ns_aliases) {
            claim(&mut claims, upstream, alias, &upstream.origin, problems);
        }
        if let Some(prefix) = built_in.and_then(|built_in| built_in.single_component_prefix)
            && let Some(other) = upstreams
                .iter()
                .filter_map(|other| other.keys.alias.as_ref())
                .find(|alias| alias.value.0.as_str() == prefix)
        {
            let message =
                format!("`alias`: {prefix}/ is where {} keeps its official images", upstream.name);
            problems.add(&other.origin, message, Some("choose another alias"));
        }
    }
    for upstream in upstreams {
        if let Some(alias) = &upstream.keys.alias {
            claim(&mut claims, upstream, alias.value.0.as_str(), &alias.origin, problems);
        }
        if let Some(hosts) = &upstream.keys.hosts {
            for (host, span) in &hosts.value.0 {
                claim(&mut claims, upstream, &host.0, &within(hosts, span), problems);
            }
        }
    }
}

fn claim(
    claims: &mut HashMap<String, Claim>,
    upstream: &Upstream,
    word: &str,
    origin: &Origin,
    problems: &mut Problems<'_>,
) {
    let owner = format!("upstream {}", upstream.name);
    match claims.get(word) {
        // Saying the same thing twice is harmless.
        Some(claim) if claim.owner == owner => {}
        Some(claim) => {
            let place = match &claim.origin {
                Origin::Nowhere => String::new(),
                origin => format!(" ({})", problems.name_of(origin)),
            };
            // What is built in has no place of its own: the other side has.
            let at = if *origin == Origin::Nowhere { claim.origin.clone() } else { origin.clone() };
            let message = format!("\"{word}\" would mean {owner} and {}{place}", claim.owner);
            problems.add(&at, message, Some("choose different names"));
        }
        None => {
            claims.insert(word.to_owned(), Claim { owner, origin: origin.clone() });
        }
    }
}

/// The place of a list's item, or the variable that holds the list.
fn within<T>(list: &At<List<T>>, span: &std::ops::Range<usize>) -> Origin {
    match &list.origin {
        Origin::File(_) => Origin::File(span.clone()),
        other => other.clone(),
    }
}

/// `"*"` and a default upstream both want every bare name.
pub(super) fn check_default(
    prefixes: Option<&At<List<HostedPrefix>>>,
    default_upstream: Option<&UpstreamName>,
    problems: &mut Problems<'_>,
) {
    let Some(prefixes) = prefixes else { return };
    let star = prefixes.value.0.iter().find(|(prefix, _)| prefix.0.is_empty());
    let (Some((_, span)), Some(default)) = (star, default_upstream) else { return };
    let message =
        format!("`prefixes`: \"*\" makes every bare name hosted, but {default} answers bare names");
    let help = format!("set `default = false` under [upstream.\"{default}\"], or name prefixes");
    problems.add(&within(prefixes, span), message, Some(&help));
}

/// No endpoint leads back to ourselves.
pub(super) fn check_endpoints(
    upstream: &Upstream,
    settings: &UpstreamSettings,
    server: &ServerSettings,
    public_url: Option<&Url>,
    problems: &mut Problems<'_>,
) {
    for (index, endpoint) in settings.endpoints.iter().enumerate() {
        let port = endpoint.port_or_known_default().unwrap_or_default();
        let ip = match endpoint.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(Host::Domain(name)) if is_localhost(name) => Some(Ipv4Addr::LOCALHOST.into()),
            _ => None,
        };
        let own = [server.listen, server.admin_listen];
        let by_address =
            ip.is_some_and(|ip| own.into_iter().any(|listen| reaches(ip, port, listen)));
        let by_name = public_url.is_some_and(|public| {
            public.host() == endpoint.host()
                && public.port_or_known_default() == endpoint.port_or_known_default()
        });
        if by_address || by_name {
            let origin = upstream.keys.endpoints.as_ref().map_or_else(
                || upstream.origin.clone(),
                |at| match at.value.0.get(index) {
                    Some((_, span)) => within(at, span),
                    None => at.origin.clone(),
                },
            );
            let message = format!("`endpoints`: {endpoint} is Pierhead itself");
            problems.add(&origin, message, Some("name the registry behind it"));
        }
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether a connection to `ip` and `port` would reach `listen`. Addresses of other interfaces
/// are not known here; the loop check on requests catches those.
fn reaches(ip: IpAddr, port: u16, listen: SocketAddr) -> bool {
    let ip = ip.to_canonical();
    let own = listen.ip().to_canonical();
    // Port 0 stands for a free one; the unspecified address means this machine when dialled.
    let local = ip.is_loopback() || ip.is_unspecified();
    port == listen.port()
        && port != 0
        && (ip == own
            || (local && own.is_unspecified())
            || (ip.is_unspecified() && own.is_loopback()))
}

/// What is allowed at the listeners and should still be known.
pub(super) fn listener_notices(server: &ServerSettings) -> Vec<String> {
    let everybody = server.trusted_proxies.iter().filter(|network| network.prefix_len() == 0);
    let told = everybody.map(|network| {
        format!(
            "server.trusted_proxies holds {network}: everybody can say where a request came from"
        )
    });
    told.collect()
}

/// Passwords should not go over a network for everybody to read.
pub(super) fn login_notices(
    server: &ServerSettings,
    asks_everybody: bool,
    public_url: Option<&Url>,
) -> Option<String> {
    let behind_tls = public_url.is_some_and(|url| url.scheme() == "https");
    let is_open = server.tls.is_none() && !is_loopback(server.listen) && !behind_tls;
    (asks_everybody && is_open).then(|| {
        "clients log in without TLS: set server.tls, or server.public_url if a proxy has it"
            .to_owned()
    })
}

/// Whoever can reach us can read what our credentials can read: that has to be said.
pub(super) fn check_credentials(
    upstream: &Upstream,
    settings: &UpstreamSettings,
    server: &ServerSettings,
    asks_everybody: bool,
    problems: &mut Problems<'_>,
) {
    let public_read = upstream.keys.public_read.as_ref().is_some_and(|at| at.value);
    let closed = is_loopback(server.listen) || server.clients_need_certificates() || asks_everybody;
    if settings.credentials.is_none() || closed || public_read {
        return;
    }
    let keys = &upstream.keys;
    let origin = [&keys.password_file, &keys.token_file]
        .into_iter()
        .flatten()
        .map(|at| &at.origin)
        .next()
        .unwrap_or(&upstream.origin);
    let message = format!(
        "upstream {} has credentials and `listen` is {}: everyone who reaches it could pull \
         private images",
        upstream.name, server.listen
    );
    let help = "listen on loopback, let only clients with certificates in (`client_ca` in \
                `server.tls`), mount a plugin with `hooks = [\"authenticator\"]` and without \
                `auth.anonymous = \"pull\"`, or accept that with `public_read = true` in this \
                upstream";
    problems.add(origin, message, Some(help));
}

/// What is allowed and should still be known.
pub(super) fn credential_notices(
    upstream: &Upstream,
    settings: &UpstreamSettings,
    public_url: Option<&Url>,
) -> Vec<String> {
    let mut notices = Vec::new();
    if settings.credentials.is_none() {
        return notices;
    }
    let name = &upstream.name;
    for endpoint in settings.endpoints.iter().filter(|endpoint| endpoint.scheme() == "http") {
        notices.push(format!("the credentials of upstream {name} go unencrypted to {endpoint}"));
    }
    let public_read = upstream.keys.public_read.as_ref().is_some_and(|at| at.value);
    if public_url.is_some() && !public_read {
        notices.push(format!(
            "upstream {name} has credentials and server.public_url is set: whoever the proxy in \
             front lets through can pull its private images"
        ));
    }
    notices
}
