//! Which addresses may be dialled, decided after the name was looked up.
//!
//! Deciding on names alone would be decided by whoever runs the name's zone: what is checked here
//! is what is dialled, as the transport dials exactly the addresses that this returns.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use url::{Host, Url};

use crate::net::{AddressClass, Lookup, OwnAddresses, classify, unwrapped};

use super::settings::UpstreamSettings;
use super::transport::{Reach, Refusal};

/// The rules of one upstream.
pub(super) struct Guard {
    own: OwnAddresses,
    lookup: Arc<dyn Lookup>,
    redirect_hosts: Vec<String>,
    /// Host and port of each endpoint.
    endpoints: Vec<(String, u16)>,
}

/// Why there is no address to dial.
#[derive(Debug, thiserror::Error)]
pub(super) enum GuardError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Lookup(#[from] io::Error),
}

impl Guard {
    pub(super) fn new(
        settings: &UpstreamSettings,
        own: OwnAddresses,
        lookup: Arc<dyn Lookup>,
    ) -> Self {
        let endpoints = settings.endpoints.iter().filter_map(host_and_port).collect();
        Self { own, lookup, redirect_hosts: settings.redirect_hosts.clone(), endpoints }
    }

    /// The addresses of `host` that may be dialled: at least one.
    pub(super) async fn addresses(
        &self,
        host: &str,
        port: u16,
        reach: Reach,
    ) -> Result<Vec<SocketAddr>, GuardError> {
        let found = self.lookup.lookup(host, port).await?;
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address").into());
        }
        Ok(self.allowed(host, found, reach).await?)
    }

    /// Checks a URL whose host is an address: nothing is looked up for those.
    pub(super) async fn check_literal(&self, url: &Url, reach: Reach) -> Result<(), Refusal> {
        let ip = match url.host() {
            Some(Host::Ipv4(ip)) => IpAddr::V4(ip),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        let port = url.port_or_known_default().unwrap_or_default();
        let host = url.host_str().unwrap_or_default();
        self.allowed(host, vec![SocketAddr::new(ip, port)], reach).await.map(|_| ())
    }

    async fn allowed(
        &self,
        host: &str,
        found: Vec<SocketAddr>,
        reach: Reach,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let mut allowed = Vec::with_capacity(found.len());
        let mut refusal = Refusal::Own;
        // Looked up once, and only if it matters.
        let mut neighbourhood: Option<Vec<AddressClass>> = None;
        for address in found {
            if self.own.contains(address) {
                continue;
            }
            if let Reach::Guarded { endpoint } = reach {
                let class = classify(address.ip());
                let port = address.port();
                if class != AddressClass::Public && !host_listed(&self.redirect_hosts, host, port) {
                    if neighbourhood.is_none() {
                        neighbourhood = Some(self.classes_of(endpoint).await);
                    }
                    let near = neighbourhood.as_ref().is_some_and(|near| near.contains(&class));
                    if !(class.may_be_neighbour() && near) {
                        refusal = Refusal::Class { host: host.into(), class };
                        continue;
                    }
                }
            }
            allowed.push(address);
        }
        if allowed.is_empty() { Err(refusal) } else { Ok(allowed) }
    }

    /// Where a configured endpoint is. A name that cannot be looked up is nowhere.
    async fn classes_of(&self, endpoint: usize) -> Vec<AddressClass> {
        let Some((host, port)) = self.endpoints.get(endpoint) else { return Vec::new() };
        let addresses = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, *port)],
            Err(_) => self.lookup.lookup(host, *port).await.unwrap_or_default(),
        };
        addresses.iter().map(|address| classify(address.ip())).collect()
    }
}

fn host_and_port(url: &Url) -> Option<(String, u16)> {
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

/// Whether an operator's list names this host: `host` for any port, or `host:port`; an IPv6
/// address with or without its brackets.
pub(super) fn host_listed(list: &[String], host: &str, port: u16) -> bool {
    let same = |listed: &str| {
        let (a, b) = (listed.trim_matches(['[', ']']), host.trim_matches(['[', ']']));
        let (a, b) = (a.trim_end_matches('.'), b.trim_end_matches('.'));
        match (a.parse::<IpAddr>(), b.parse::<IpAddr>()) {
            (Ok(a), Ok(b)) => unwrapped(a) == unwrapped(b),
            _ => a.eq_ignore_ascii_case(b),
        }
    };
    list.iter().any(|listed| {
        same(listed)
            || listed
                .rsplit_once(':')
                .is_some_and(|(name, at)| at.parse() == Ok(port) && same(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_hosts_with_or_without_a_port() {
        let list = ["blobs.internal".into(), "cdn.internal:8443".into(), "[fd00::1]".into()];
        assert!(host_listed(&list, "Blobs.Internal", 443));
        assert!(host_listed(&list, "blobs.internal.", 80));
        assert!(host_listed(&list, "cdn.internal", 8443));
        assert!(!host_listed(&list, "cdn.internal", 443));
        assert!(host_listed(&list, "[fd00::1]", 443));
        assert!(!host_listed(&list, "fd00::2", 443));
        assert!(!host_listed(&list, "evil-blobs.internal", 443));
        assert!(!host_listed(&[], "x", 1));
    }
}
