//! Who comes in: connections and requests, in all and of each client.
//!
//! A connection beyond a limit is not left waiting in the system's queue, where a client waits for
//! an answer until it gives up. It gets its 503 from a small reserve, where probes are answered as
//! ever; beyond that it is closed at once. Both make clients go on to the next mirror.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::connection::is_trusted;
use super::settings::ServerSettings;
use crate::client_id::ClientId;
use crate::gate::{Full, Gate, Gates, Limit, PerClient, Permit, Place};

/// Connections at a time that are only told that there are too many.
pub const REFUSALS_MAX: u64 = 256;

/// How many of them one client may have, so that it cannot silence the others' answers.
pub const REFUSALS_PER_CLIENT_MAX: u32 = 32;

/// Open connections of the operator's listener. No overload of the registry touches them.
pub const ADMIN_CONNECTIONS_MAX: u64 = 512;

/// The limits at one listener's door. Cheap to clone; clones share the counts.
#[derive(Clone, Debug)]
pub struct Door {
    connections: Gate,
    each: PerClient<ClientId>,
    refusals: Option<Gate>,
    refusals_each: PerClient<ClientId>,
    requests: Option<Gate>,
    requests_each: PerClient<ClientId>,
    trusted: Arc<[IpNet]>,
}

/// The place of a connection, or of a request. Dropping it gives it back.
#[derive(Debug)]
pub struct Inside {
    _permit: Option<Permit>,
    _place: Option<Place<ClientId>>,
}

/// What becomes of a connection that knocks.
#[derive(Debug)]
pub enum Knock {
    /// It is served.
    Welcome(Inside),
    /// It is told that there are too many.
    Refused(Full, Inside),
    /// It is closed.
    Closed(Full),
}

impl Door {
    /// That of the registry's listener.
    pub fn registry(settings: &ServerSettings, gates: &Gates) -> Self {
        Self {
            connections: gates.gate(Limit::Connections, settings.connections_max as u64),
            refusals: Some(gates.gate(Limit::Refusals, REFUSALS_MAX)),
            requests: Some(gates.gate(Limit::Requests, u64::from(settings.requests_max))),
            requests_each: PerClient::new(
                Limit::RequestsPerClient,
                settings.requests_per_client_max,
            ),
            ..Self::admin(settings, gates)
        }
    }

    /// That of the operator's listener. There is no reserve: whoever is beyond the limit is closed.
    pub fn admin(settings: &ServerSettings, gates: &Gates) -> Self {
        let each = settings.connections_per_client_max;
        Self {
            connections: gates.gate(Limit::AdminConnections, ADMIN_CONNECTIONS_MAX),
            each: PerClient::new(Limit::ConnectionsPerClient, each),
            refusals: None,
            refusals_each: PerClient::new(Limit::Refusals, REFUSALS_PER_CLIENT_MAX),
            requests: None,
            requests_each: PerClient::new(Limit::RequestsPerClient, 0),
            trusted: settings.trusted_proxies.clone().into(),
        }
    }

    /// A connection from `peer` has come. Those of trusted proxies are nobody's own: they count in
    /// all, and their clients' requests are counted by [`Door::request`].
    pub fn knock(&self, peer: IpAddr) -> Knock {
        match self.welcome(peer) {
            Ok(inside) => Knock::Welcome(inside),
            Err(full) => match self.refuse(peer) {
                Some(inside) => Knock::Refused(full, inside),
                None => Knock::Closed(full),
            },
        }
    }

    fn welcome(&self, peer: IpAddr) -> Result<Inside, Full> {
        let is_proxy = is_trusted(peer, &self.trusted);
        let place = (!is_proxy).then(|| self.each.enter(&ClientId::at(peer))).transpose()?;
        Ok(Inside { _permit: Some(self.connections.enter(1)?), _place: place })
    }

    fn refuse(&self, peer: IpAddr) -> Option<Inside> {
        let place = self.refusals_each.enter(&ClientId::at(peer)).ok()?;
        let permit = self.refusals.as_ref()?.enter(1).ok()?;
        Some(Inside { _permit: Some(permit), _place: Some(place) })
    }

    /// A request of `client` has come, over whatever connection: HTTP/2 carries many in one, and
    /// the clients behind a trusted proxy have none of their own. A proxy that asks for itself,
    /// such as for a probe, counts in all alone.
    ///
    /// # Errors
    /// When there are too many.
    pub fn request(&self, client: IpAddr) -> Result<Inside, Full> {
        let is_proxy = is_trusted(client, &self.trusted);
        let place =
            (!is_proxy).then(|| self.requests_each.enter(&ClientId::at(client))).transpose()?;
        let permit = self.requests.as_ref().map(|requests| requests.enter(1)).transpose()?;
        Ok(Inside { _permit: permit, _place: place })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn door(connections: usize, each: u32, requests: u32) -> (Door, Gates) {
        let settings = ServerSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            admin_listen: "127.0.0.1:0".parse().unwrap(),
            connections_max: connections,
            connections_per_client_max: each,
            requests_max: requests,
            requests_per_client_max: each,
            body_memory_max: 1 << 20,
            header_timeout: Duration::from_secs(1),
            header_bytes_max: 8 << 10,
            write_silence_timeout: Duration::from_secs(1),
            write_rate_min: 0,
            http2_streams_max: 1,
            drain_timeout: Duration::ZERO,
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            tls: None,
        };
        let gates = Gates::new(&prometheus::Registry::new()).unwrap();
        (Door::registry(&settings, &gates), gates)
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn beyond_the_limit_a_few_are_told_and_the_rest_is_closed() {
        let (door, _gates) = door(1, 0, 1);
        let Knock::Welcome(first) = door.knock(ip(1)) else { panic!("refused") };
        let mut told = Vec::new();
        for client in 0..=255 {
            match door.knock(ip(client)) {
                Knock::Refused(Full(Limit::Connections), inside) => told.push(inside),
                other => panic!("{client}: {other:?}"),
            }
        }
        assert_eq!(told.len() as u64, REFUSALS_MAX);
        assert!(matches!(door.knock(ip(1)), Knock::Closed(Full(Limit::Connections))));
        // Who was refused does not keep the next ones out.
        drop(first);
        assert!(matches!(door.knock(ip(1)), Knock::Welcome(_)));
    }

    #[test]
    fn one_client_has_its_own_limit_and_its_share_of_refusals() {
        let (door, _gates) = door(100, 2, 1);
        let _held = [door.knock(ip(1)), door.knock(ip(1))];
        let told: Vec<_> = (0..REFUSALS_PER_CLIENT_MAX).map(|_| door.knock(ip(1))).collect();
        let full = Full(Limit::ConnectionsPerClient);
        assert!(told.iter().all(|knock| matches!(knock, Knock::Refused(f, _) if *f == full)));
        assert!(matches!(door.knock(ip(1)), Knock::Closed(f) if f == full));
        assert!(matches!(door.knock(ip(2)), Knock::Welcome(_)));
    }

    #[test]
    fn a_proxys_connections_are_not_its_own() {
        let (door, _gates) = door(100, 2, 100);
        let proxy = IpAddr::from([10, 0, 0, 1]);
        let held: Vec<_> = (0..100).map(|_| door.knock(proxy)).collect();
        assert!(held.iter().all(|knock| matches!(knock, Knock::Welcome(_))));
        let _two = [door.request(ip(1)).unwrap(), door.request(ip(1)).unwrap()];
        assert_eq!(door.request(ip(1)).unwrap_err(), Full(Limit::RequestsPerClient));
        assert!(door.request(ip(2)).is_ok());
        // Probes of the proxy itself.
        let probes: Vec<_> = (0..3).map(|_| door.request(proxy)).collect();
        assert!(probes.iter().all(Result::is_ok));
    }

    #[test]
    fn requests_are_limited_in_all() {
        let (door, _gates) = door(100, 1, 1);
        let one = door.request(ip(1)).unwrap();
        assert_eq!(door.request(ip(2)).unwrap_err(), Full(Limit::Requests));
        drop(one);
        assert!(door.request(ip(2)).is_ok());
    }
}
