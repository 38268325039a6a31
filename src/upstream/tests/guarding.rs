//! Which addresses are dialled, on real connections.

use std::net::SocketAddr;

use url::Url;

use crate::net::{AddressClass, OwnAddresses};
use crate::secret::SafeUrl;

use super::super::transport::Refusal;
use super::server::{Act, Names, OK, Server, fetch, head, quick, upstream};
use super::*;

#[tokio::test]
async fn we_never_dial_ourselves() {
    let server = Server::new(Act::Say(OK)).await;
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let settings = quick(&server.url(host));
        let own = OwnAddresses::default();
        let transport = HttpTransport::new(&settings, own.clone()).expect("a transport");
        // Bound after the upstream was made. For a listener everywhere every local address counts.
        own.set(vec![server.address, SocketAddr::new([0, 0, 0, 0].into(), server.address.port())]);
        let registry = Registry::new();
        let transport = Arc::new(transport);
        let parts = parts(&settings, transport, &registry, &Clock::system());
        let outcome = head(&Upstream::new(&settings, parts)).await;
        assert_eq!(failure(outcome), Failure::LoopDetected, "{host}");
    }
    assert_eq!(server.connections(), 0);
}

const GUARDED: Reach = Reach::Guarded { endpoint: 0 };

fn guarded(settings: &UpstreamSettings, names: Names) -> HttpTransport {
    HttpTransport::with_lookup(settings, OwnAddresses::default(), Arc::new(names))
        .expect("a transport")
}

async fn send(transport: &HttpTransport, url: &Url, reach: Reach) -> Result<u16, TransportError> {
    let request = Request {
        method: Method::GET,
        url: SafeUrl::new(url.clone()),
        headers: HeaderMap::new(),
        body: None,
    };
    transport.send(request, reach).await.map(|response| response.status.as_u16())
}

fn refused<T>(host: &str, class: AddressClass) -> Result<T, TransportError> {
    Err(TransportError::Refused(Refusal::Class { host: host.into(), class }))
}

fn names() -> Names {
    Names::default()
        .with("public.test", &["203.0.113.7"])
        .with("here.test", &["127.0.0.1"])
        .with("rebound.test", &["127.0.0.1"])
        .with("mixed.test", &["169.254.169.254", "127.0.0.1"])
        .with("metadata.test", &["169.254.169.254", "fd00:ec2::254"])
}

#[tokio::test]
async fn a_forbidden_address_is_refused_after_the_name_was_looked_up() {
    let server = Server::new(Act::Say(OK)).await;
    let transport = guarded(&quick(&server.url("public.test")), names());
    let url = server.url("rebound.test");
    let expected = refused("rebound.test", AddressClass::Loopback);
    assert_eq!(send(&transport, &url, GUARDED).await, expected);
    // Where the operator sends us, we go.
    assert_eq!(send(&transport, &url, Reach::Endpoint).await, Ok(200));
    // And a connection from there does not help.
    assert_eq!(send(&transport, &url, GUARDED).await, expected);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn addresses_in_urls_are_judged_before_dialling() {
    let server = Server::new(Act::Say(OK)).await;
    let transport = guarded(&quick(&server.url("public.test")), names());
    for (host, class) in [
        ("127.0.0.1", AddressClass::Loopback),
        ("0x7f.1", AddressClass::Loopback),
        ("2130706433", AddressClass::Loopback),
        ("[::1]", AddressClass::Loopback),
        ("[::ffff:127.0.0.1]", AddressClass::Loopback),
        ("0.0.0.0", AddressClass::Unusable),
        ("169.254.169.254", AddressClass::LinkLocal),
        ("[fd00:ec2::254]", AddressClass::Metadata),
        ("10.0.0.1", AddressClass::Private),
    ] {
        let url = server.url(host);
        let expected = refused(url.host_str().expect("a host"), class);
        assert_eq!(send(&transport, &url, GUARDED).await, expected, "{host}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn neighbours_of_the_endpoint_are_allowed_but_for_metadata() {
    let server = Server::new(Act::Say(OK)).await;
    let transport = guarded(&quick(&server.url("here.test")), names());
    assert_eq!(send(&transport, &server.url("rebound.test"), GUARDED).await, Ok(200));
    assert_eq!(send(&transport, &server.url("127.0.0.1"), GUARDED).await, Ok(200));
    // Of several addresses, only the allowed ones are dialled.
    assert_eq!(send(&transport, &server.url("mixed.test"), GUARDED).await, Ok(200));
    let outcome = send(&transport, &server.url("metadata.test"), GUARDED).await;
    assert_eq!(outcome, refused("metadata.test", AddressClass::Metadata));
    let outcome = send(&transport, &server.url("10.0.0.1"), GUARDED).await;
    assert_eq!(outcome, refused("10.0.0.1", AddressClass::Private));
}

#[tokio::test]
async fn an_endpoint_at_a_metadata_address_has_no_neighbours() {
    let server = Server::new(Act::Say(OK)).await;
    let transport = guarded(&quick(&server.url("metadata.test")), names());
    let outcome = send(&transport, &server.url("169.254.169.254"), GUARDED).await;
    assert_eq!(outcome, refused("169.254.169.254", AddressClass::LinkLocal));
}

#[tokio::test]
async fn hosts_that_the_operator_lists_are_allowed() {
    let server = Server::new(Act::Say(OK)).await;
    let mut settings = quick(&server.url("public.test"));
    settings.redirect_hosts = vec!["rebound.test".to_owned()];
    let transport = guarded(&settings, names());
    assert_eq!(send(&transport, &server.url("rebound.test"), GUARDED).await, Ok(200));
    let outcome = send(&transport, &server.url("here.test"), GUARDED).await;
    assert_eq!(outcome, refused("here.test", AddressClass::Loopback));
}

#[tokio::test]
async fn redirects_to_forbidden_addresses_name_the_key_to_set() {
    let text = "HTTP/1.1 307 T\r\nlocation: http://169.254.169.254/x?signature=1\r\ncontent-length: 0\r\n\r\n";
    let server = Server::new(Act::Say(text)).await;
    let outcome = fetch(&upstream(&quick(&server.url("127.0.0.1")))).await;
    let error = outcome.expect_err("a failure");
    assert!(error.to_string().contains("\"169.254.169.254\" to `redirect_hosts`"), "{error}");
}

#[tokio::test]
async fn the_proxy_of_the_settings_is_used() {
    let proxy = Server::new(Act::Say(OK)).await;
    let mut settings = quick(&"http://elsewhere.test/".parse().expect("a URL"));
    settings.proxy = Some(proxy.url("127.0.0.1"));
    let transport = guarded(&settings, Names::default());
    assert_eq!(send(&transport, &settings.endpoints[0], Reach::Endpoint).await, Ok(200));
    assert_eq!(proxy.connections(), 1);
    let literal = "http://10.0.0.1/".parse().expect("a URL");
    let outcome = send(&transport, &literal, GUARDED).await;
    assert_eq!(outcome, refused("10.0.0.1", AddressClass::Private));
}

#[tokio::test]
async fn a_name_service_that_does_not_answer_is_given_up() {
    let mut settings = quick(&"http://never.test/".parse().expect("a URL"));
    settings.connect_timeout = Duration::from_millis(50);
    let transport = guarded(&settings, Names::default());
    let outcome = send(&transport, &settings.endpoints[0], Reach::Endpoint).await;
    assert_eq!(outcome.map(|_| ()), Err(TransportError::Timeout));
}
