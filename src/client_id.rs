//! Who counts as one client where something is shared out fairly.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// The part of an IPv6 address that names a network, in bits: whoever has one address of it has
/// them all.
const IPV6_NETWORK_BITS: u32 = 64;

/// One client: whoever has proven to be the same, else whoever comes from the same place. Cheap to
/// clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientId(Who);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Subject(Arc<str>),
    /// An IPv4 address, or the first address of an IPv6 network.
    Place(IpAddr),
}

impl ClientId {
    /// The client that was authenticated as `subject`, else the one at `address`.
    pub fn new(subject: Option<&str>, address: IpAddr) -> Self {
        match subject {
            Some(subject) => Self(Who::Subject(subject.into())),
            None => Self::at(address),
        }
    }

    /// Whoever is at `address`: an IPv4 address, or its network of 64 bits in IPv6.
    pub fn at(address: IpAddr) -> Self {
        Self(Who::Place(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let network = address.to_bits() & (u128::MAX << (128 - IPV6_NETWORK_BITS));
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> ClientId {
        ClientId::at(address.parse().unwrap())
    }

    #[test]
    fn an_address_is_a_client_and_an_ipv6_network_is_one() {
        assert_eq!(at("192.0.2.1"), at("::ffff:192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
        assert_eq!(at("2001:db8:0:1::1"), at("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(at("2001:db8:0:1::1"), at("2001:db8:0:2::1"));
        assert_ne!(at("::1"), at("127.0.0.1"));
    }

    #[test]
    fn who_is_known_is_the_same_client_everywhere() {
        let new = |subject, address: &str| ClientId::new(subject, address.parse().unwrap());
        assert_eq!(new(Some("ci"), "192.0.2.1"), new(Some("ci"), "2001:db8::1"));
        assert_ne!(new(Some("ci"), "192.0.2.1"), new(Some("dev"), "192.0.2.1"));
        assert_ne!(new(Some("192.0.2.1"), "192.0.2.1"), new(None, "192.0.2.1"));
        assert_eq!(new(None, "192.0.2.1"), at("192.0.2.1"));
    }
}
