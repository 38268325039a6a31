//! The connection that a request came on, and where it really came from.
//!
//! Between a client and us there may be proxies. What they say of the client counts only if the
//! operator trusts them, and only as far as the chain of trust reaches: anybody can send these
//! headers. `Forwarded` (RFC 7239) is not read: the proxies that people run send
//! `X-Forwarded-For`, and two sources for one fact could contradict each other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{Extensions, HeaderMap};
use ipnet::IpNet;

use super::sending::Sending;
use crate::hooks::ClientCertificate;

/// What is known of a request's connection. Every request carries one in its extensions.
#[derive(Clone, Debug)]
pub struct Connection {
    encrypted: bool,
    client_encrypted: bool,
    certificate: Option<Arc<ClientCertificate>>,
    sending: Sending,
}

impl Connection {
    /// Plain HTTP.
    pub fn plain() -> Self {
        let sending = Sending::default();
        Self { encrypted: false, client_encrypted: false, certificate: None, sending }
    }

    /// TLS, with the certificate that was verified, if the client has shown one.
    pub fn encrypted(certificate: Option<Arc<ClientCertificate>>) -> Self {
        let sending = Sending::default();
        Self { encrypted: true, client_encrypted: true, certificate, sending }
    }

    /// That of a request.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(Self::plain)
    }

    /// Whether we encrypt what we send.
    pub const fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// What is being sent on it from mapped files.
    pub const fn sending(&self) -> &Sending {
        &self.sending
    }

    /// Whether the client's own connection is encrypted, as far as trusted proxies tell.
    pub const fn client_is_encrypted(&self) -> bool {
        self.client_encrypted
    }

    /// What the client speaks, as far as trusted proxies tell.
    pub const fn scheme(&self) -> &'static str {
        if self.client_encrypted { "https" } else { "http" }
    }

    /// The certificate of whoever is at the other end of our connection.
    pub fn certificate(&self) -> Option<Arc<ClientCertificate>> {
        self.certificate.clone()
    }
}

/// The host that a request is for, as the client wrote it: HTTP/2 has it in the target, HTTP/1 in a
/// header.
pub fn host(head: &http::request::Parts) -> Option<&str> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => head.headers.get(http::header::HOST).and_then(|host| host.to_str().ok()),
    }
}

/// Where a request came from, told by `X-Forwarded-For` and `X-Forwarded-Proto` where `trusted`
/// names the peer; otherwise these headers count for nothing.
///
/// Each proxy appends the address that it sees. So the client is the rightmost address that is
/// not itself a trusted proxy's; what stands left of that, the client may have made up. A chain
/// that cannot be read to there leaves the peer.
pub fn forwarded(
    peer: SocketAddr,
    mut connection: Connection,
    headers: &HeaderMap,
    trusted: &[IpNet],
) -> (SocketAddr, Connection) {
    if !is_trusted(peer.ip(), trusted) {
        return (peer, connection);
    }
    if let Some(encrypted) = client_encrypted(headers) {
        connection.client_encrypted = encrypted;
    }
    let client =
        client(headers, |ip| is_trusted(ip, trusted)).map_or(peer, |ip| SocketAddr::new(ip, 0));
    (client, connection)
}

/// Whether `trusted` names a proxy at that address.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

fn client(headers: &HeaderMap, is_trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut first = None;
    for line in headers.get_all("x-forwarded-for").iter().rev() {
        for item in line.to_str().ok()?.rsplit(',') {
            let ip = address(item.trim())?;
            if !is_trusted(ip) {
                return Some(ip);
            }
            first = Some(ip);
        }
    }
    // Nothing but proxies: the first of them is who asked.
    first
}

/// An address, bare or with a port, as some proxies write it.
fn address(item: &str) -> Option<IpAddr> {
    let bare = item.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(item);
    let ip = bare.parse::<IpAddr>().ok();
    ip.or_else(|| Some(item.parse::<SocketAddr>().ok()?.ip())).map(|ip| ip.to_canonical())
}

/// The last word is the nearest proxy's, which is the one that was trusted.
fn client_encrypted(headers: &HeaderMap) -> Option<bool> {
    let line = headers.get_all("x-forwarded-proto").iter().next_back()?.to_str().ok()?;
    let last = line.rsplit(',').next()?.trim();
    match last.to_ascii_lowercase().as_str() {
        "https" => Some(true),
        "http" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client that a request from `peer` with these headers comes from.
    fn seen(peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8", "fd00::/8", "127.0.0.1/32"].map(|net| net.parse().unwrap());
        let peer = SocketAddr::new(peer.parse().unwrap(), 1234);
        forwarded(peer, Connection::plain(), &headers, &trusted).0.ip().to_string()
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_is_the_client() {
        for (lines, client) in [
            (&["192.0.2.1"][..], "192.0.2.1"),
            (&["198.51.100.9, 192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1, 10.1.1.1 ,10.2.2.2"], "192.0.2.1"),
            (&["198.51.100.9", "192.0.2.1, 10.1.1.1", "10.2.2.2"], "192.0.2.1"),
            (&["nonsense, 192.0.2.1"], "192.0.2.1"),
            (&["192.0.2.1:5555"], "192.0.2.1"),
            (&["[2001:db8::1]:5555"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["::ffff:192.0.2.1"], "192.0.2.1"),
            (&["10.9.9.9, 10.1.1.1"], "10.9.9.9"),
        ] {
            assert_eq!(seen("10.0.0.1", lines), client, "{lines:?}");
            assert_eq!(seen("::ffff:10.0.0.1", lines), client, "{lines:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_leaves_the_peer() {
        for lines in [
            &[][..],
            &[""],
            &["192.0.2.1, "],
            &["192.0.2.1, unknown"],
            &["192.0.2.1, 10.0.0.300"],
            &["192.0.2.1, nonsense, 10.1.1.1"],
            &["192.0.2.1", "_hidden"],
        ] {
            assert_eq!(seen("10.0.0.1", lines), "10.0.0.1", "{lines:?}");
        }
    }

    #[test]
    fn strangers_can_say_what_they_like() {
        assert_eq!(seen("192.0.2.7", &["198.51.100.9"]), "192.0.2.7");
        assert_eq!(seen("127.0.0.2", &["198.51.100.9"]), "127.0.0.2");
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-proto", "https".parse().unwrap());
        let peer = "192.0.2.7:1".parse().unwrap();
        assert_eq!(forwarded(peer, Connection::plain(), &headers, &[]).1.scheme(), "http");
    }

    #[test]
    fn the_clients_own_encryption_is_what_the_nearest_proxy_says() {
        let scheme = |connection: Connection, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-proto", value.parse().unwrap());
            let trusted = ["127.0.0.1/32".parse().unwrap()];
            let (_, connection) =
                forwarded("127.0.0.1:1".parse().unwrap(), connection, &headers, &trusted);
            connection.scheme()
        };
        assert_eq!(scheme(Connection::plain(), "https"), "https");
        assert_eq!(scheme(Connection::plain(), "http, HTTPS"), "https");
        assert_eq!(scheme(Connection::encrypted(None), "http"), "http");
        assert_eq!(scheme(Connection::encrypted(None), "gopher"), "https");
    }
}
