//! Addresses: what kind of place one leads to, which ones are our own, and how names become them.
//!
//! Sources: the IANA special-purpose address registries (RFC 6890 and its updates), RFC 6052 for
//! IPv4 inside IPv6.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;

/// The most addresses of one name that are looked at.
pub const ADDRESSES_MAX: usize = 32;

/// What kind of place an address leads to, as far as trust goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// Anywhere on the internet.
    Public,
    /// This machine.
    Loopback,
    /// A private network: RFC 1918, or a unique local IPv6 address (RFC 4193).
    Private,
    /// A carrier's or cloud's shared range, `100.64.0.0/10` (RFC 6598).
    Shared,
    /// This link: where clouds keep their metadata services.
    LinkLocal,
    /// A cloud's metadata service outside the link-local ranges.
    Metadata,
    /// Many receivers at once, or none that is known: multicast, broadcast, unspecified, reserved.
    Unusable,
}

impl AddressClass {
    /// The word for messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Shared => "shared (100.64.0.0/10)",
            Self::LinkLocal => "link-local",
            Self::Metadata => "cloud metadata",
            Self::Unusable => "unspecified, multicast or reserved",
        }
    }

    /// Whether an upstream that is configured at an address of this class may lead us to others
    /// of the same class. Never so for addresses that only an attacker would name.
    pub const fn may_be_neighbour(self) -> bool {
        matches!(self, Self::Public | Self::Loopback | Self::Private | Self::Shared)
    }
}

/// The address that `ip` stands for: the IPv4 address where an IPv6 one only wraps it
/// (`::ffff:a.b.c.d`, `::a.b.c.d`, NAT64 `64:ff9b::/96`, 6to4 `2002::/16`).
pub fn unwrapped(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let segments = v6.segments();
    let v4 = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        _ if v6.is_loopback() || v6.is_unspecified() => ip,
        [0, 0, 0, 0, 0, 0xffff | 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => v4(high, low),
        _ => ip,
    }
}

/// What kind of place `ip` leads to. Wrapped IPv4 addresses are judged by what they wrap.
pub fn classify(ip: IpAddr) -> AddressClass {
    match unwrapped(ip) {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

const fn classify_v4(ip: Ipv4Addr) -> AddressClass {
    match ip.octets() {
        [127, ..] => AddressClass::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => AddressClass::Private,
        // Alibaba Cloud keeps its metadata service inside the shared range, Oracle in 192.0.0.0/24.
        [100, 100, 100, 200] | [192, 0, 0, 192] => AddressClass::Metadata,
        [100, 64..=127, ..] => AddressClass::Shared,
        [169, 254, ..] => AddressClass::LinkLocal,
        // "This network", IETF protocol assignments, benchmarking, multicast, reserved, broadcast.
        [0, ..] | [192, 0, 0, _] | [198, 18..=19, ..] | [224..=255, ..] => AddressClass::Unusable,
        _ => AddressClass::Public,
    }
}

const fn classify_v6(ip: Ipv6Addr) -> AddressClass {
    if ip.is_loopback() {
        return AddressClass::Loopback;
    }
    match ip.segments() {
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => {
            AddressClass::Metadata
        }
        [0xfc00..=0xfdff, ..] => AddressClass::Private,
        // Link-local, and the site-local range that was withdrawn but is still routed somewhere.
        [0xfe80..=0xfeff, ..] => AddressClass::LinkLocal,
        // Local-use NAT64 (RFC 8215) and Teredo hide an IPv4 address that cannot be judged here.
        [0xff00..=0xffff, ..]
        | [0x64, 0xff9b, 1, ..]
        | [0x2001, 0, ..]
        | [0x100, 0, 0, 0, ..]
        | [0, ..] => AddressClass::Unusable,
        _ => AddressClass::Public,
    }
}

/// The addresses that this process listens on, so that it never dials itself. Cheap to clone; all
/// clones share one list, which is empty until the listeners are bound.
#[derive(Clone, Debug, Default)]
pub struct OwnAddresses(Arc<RwLock<Vec<SocketAddr>>>);

impl OwnAddresses {
    /// Replaces the list, once listeners are bound (or bound anew).
    pub fn set(&self, bound: Vec<SocketAddr>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = bound;
    }

    /// Whether dialling `target` would reach one of our own listeners.
    ///
    /// For a listener on the unspecified address every address of this machine counts. An address
    /// is this machine's if a socket can be bound to it, which needs no list of interfaces.
    pub fn contains(&self, target: SocketAddr) -> bool {
        let target_ip = unwrapped(target.ip());
        let bound = self.0.read().unwrap_or_else(PoisonError::into_inner);
        bound.iter().filter(|own| own.port() == target.port()).any(|own| {
            let own_ip = unwrapped(own.ip());
            own_ip == target_ip
                // Dialling 0.0.0.0 or :: means this machine.
                || target_ip.is_unspecified()
                || (own_ip.is_unspecified() && is_local(target_ip))
        })
    }
}

fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Turns names into addresses. A seam, so that tests can say what a name means.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// The addresses of `host`, with `port` in each; at most [`ADDRESSES_MAX`] of them.
    ///
    /// Errors are the system's own. Cancel-safe.
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.take(ADDRESSES_MAX).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(ip: &str) -> AddressClass {
        classify(ip.parse().expect("an address"))
    }

    #[test]
    fn ipv4_addresses_are_judged_by_the_registries() {
        for (ip, expected) in [
            ("8.8.8.8", AddressClass::Public),
            ("172.15.0.1", AddressClass::Public),
            ("172.32.0.1", AddressClass::Public),
            ("127.0.0.1", AddressClass::Loopback),
            ("127.255.255.254", AddressClass::Loopback),
            ("10.1.2.3", AddressClass::Private),
            ("172.16.0.1", AddressClass::Private),
            ("172.31.255.255", AddressClass::Private),
            ("192.168.1.1", AddressClass::Private),
            ("100.64.0.1", AddressClass::Shared),
            ("100.127.255.255", AddressClass::Shared),
            ("100.128.0.1", AddressClass::Public),
            ("169.254.169.254", AddressClass::LinkLocal),
            ("100.100.100.200", AddressClass::Metadata),
            ("192.0.0.192", AddressClass::Metadata),
            ("0.0.0.0", AddressClass::Unusable),
            ("0.1.2.3", AddressClass::Unusable),
            ("224.0.0.1", AddressClass::Unusable),
            ("240.0.0.1", AddressClass::Unusable),
            ("255.255.255.255", AddressClass::Unusable),
        ] {
            assert_eq!(class(ip), expected, "{ip}");
        }
    }

    #[test]
    fn ipv6_addresses_are_judged_by_the_registries() {
        for (ip, expected) in [
            ("2606:4700::1", AddressClass::Public),
            ("::1", AddressClass::Loopback),
            ("fd12:3456::1", AddressClass::Private),
            ("fc00::1", AddressClass::Private),
            ("fe80::1", AddressClass::LinkLocal),
            ("fec0::1", AddressClass::LinkLocal),
            ("fd00:ec2::254", AddressClass::Metadata),
            ("fd20:ce::254", AddressClass::Metadata),
            ("ff02::1", AddressClass::Unusable),
            ("::", AddressClass::Unusable),
        ] {
            assert_eq!(class(ip), expected, "{ip}");
        }
    }

    #[test]
    fn an_ipv4_address_inside_an_ipv6_one_is_judged_by_what_it_is() {
        for (ip, expected) in [
            ("::ffff:127.0.0.1", AddressClass::Loopback),
            ("::ffff:8.8.8.8", AddressClass::Public),
            ("::ffff:169.254.169.254", AddressClass::LinkLocal),
            ("64:ff9b::10.0.0.1", AddressClass::Private),
            ("64:ff9b::169.254.169.254", AddressClass::LinkLocal),
            ("64:ff9b:1::10.0.0.1", AddressClass::Unusable),
            ("2002:7f00:1::", AddressClass::Loopback),
            ("2002:a9fe:a9fe::1", AddressClass::LinkLocal),
            ("::10.0.0.1", AddressClass::Private),
        ] {
            assert_eq!(class(ip), expected, "{ip}");
        }
    }

    #[test]
    fn no_neighbourhood_for_addresses_that_only_an_attacker_names() {
        assert!(AddressClass::Private.may_be_neighbour());
        assert!(!AddressClass::LinkLocal.may_be_neighbour());
        assert!(!AddressClass::Metadata.may_be_neighbour());
        assert!(!AddressClass::Unusable.may_be_neighbour());
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("a socket address")
    }

    #[test]
    fn own_addresses_compare_address_and_port() {
        let own = OwnAddresses::default();
        assert!(!own.contains(at("127.0.0.1:5000")));
        own.set(vec![at("127.0.0.1:5000")]);
        assert!(own.contains(at("127.0.0.1:5000")));
        assert!(own.contains(at("[::ffff:127.0.0.1]:5000")));
        assert!(own.contains(at("0.0.0.0:5000")));
        assert!(!own.contains(at("127.0.0.1:5001")));
        assert!(!own.contains(at("192.0.2.1:5000")));
    }

    #[test]
    fn a_listener_everywhere_owns_every_local_address() {
        let own = OwnAddresses::default();
        own.set(vec![at("[::]:5000")]);
        assert!(own.contains(at("127.0.0.1:5000")));
        assert!(own.contains(at("127.8.8.8:5000")));
        // TEST-NET-1 (RFC 5737) is on no machine.
        assert!(!own.contains(at("192.0.2.1:5000")));
    }
}
