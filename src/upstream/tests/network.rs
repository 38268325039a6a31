//! Real connections: what is used again, what is waited for, and what is given up.

use std::path::PathBuf;

use tokio::net::TcpListener;

use super::server::{Act, OK, Server, fetch, head, quick, upstream};
use super::*;

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::new(Act::Say(OK)).await;
    let upstream = upstream(&quick(&server.url("127.0.0.1")));
    for _ in 0..3 {
        assert_eq!(&fetch(&upstream).await.expect("a manifest").bytes[..], b"{}");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn connections_are_used_again_after_refusals_and_redirects() {
    for text in [
        "HTTP/1.1 307 T\r\nlocation: /again\r\ncontent-length: 4\r\n\r\nbody",
        "HTTP/1.1 401 D\r\ncontent-length: 4\r\n\r\nbody",
        "HTTP/1.1 404 N\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ] {
        let server = Server::new(Act::Say(text)).await;
        let upstream = upstream(&quick(&server.url("127.0.0.1")));
        for _ in 0..3 {
            failure(fetch(&upstream).await);
        }
        // What is left of a redirect too many is not worth waiting for.
        let most = if text.contains("307") { 3 } else { 1 };
        assert!(server.connections() <= most, "{} connections", server.connections());
    }
}

#[tokio::test]
async fn a_connection_that_closes_early_interrupts_the_body() {
    for text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n0123\r\n",
    ] {
        let server = Server::new(Act::SayAndClose(text)).await;
        let upstream = upstream(&quick(&server.url("127.0.0.1")));
        let mut body =
            upstream.get_blob(&repo("a"), &blob(), &BlobPart::whole()).await.expect("a body");
        assert_eq!(body.chunk().await.expect("a chunk").expect("bytes"), "0123");
        assert_eq!(failure(body.chunk().await), Failure::Interrupted);
    }
}

#[tokio::test]
async fn a_silent_body_is_given_up() {
    let text = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123";
    let server = Server::new(Act::SayAndHang(text)).await;
    let upstream = upstream(&quick(&server.url("127.0.0.1")));
    let mut body =
        upstream.get_blob(&repo("a"), &blob(), &BlobPart::whole()).await.expect("a body");
    body.chunk().await.expect("a chunk");
    let phase = Phase::Silence;
    assert_eq!(failure(body.chunk().await), Failure::TimedOut { phase });
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let server = Server::new(Act::SayAndHang("")).await;
    let mut settings = quick(&server.url("127.0.0.1"));
    settings.header_timeout = Duration::from_millis(100);
    let phase = Phase::Headers;
    assert_eq!(failure(head(&upstream(&settings)).await), Failure::TimedOut { phase });
}

#[tokio::test]
async fn a_connection_that_takes_too_long_is_given_up() {
    // It accepts, and then says nothing: TLS is part of connecting.
    let server = Server::new(Act::SayAndHang("")).await;
    let url = format!("https://127.0.0.1:{}", server.address.port());
    let mut settings = quick(&url.parse().expect("a URL"));
    settings.connect_timeout = Duration::from_millis(100);
    settings.ca_file =
        Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/upstream/tests/tls/leaf.pem"));
    let phase = Phase::Connect;
    assert_eq!(failure(head(&upstream(&settings)).await), Failure::TimedOut { phase });
}

#[tokio::test]
async fn a_closed_port_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let url = format!("http://{address}").parse().expect("a URL");
    let error = head(&upstream(&quick(&url))).await.expect_err("a failure");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn gzip_is_refused_and_not_decoded() {
    let text = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}";
    let server = Server::new(Act::Say(text)).await;
    let encoding = "gzip".into();
    let outcome = fetch(&upstream(&quick(&server.url("127.0.0.1")))).await;
    assert_eq!(failure(outcome), Misbehaved::Encoded { encoding }.into());
}

#[tokio::test]
async fn what_is_not_http_is_named() {
    let server = Server::new(Act::SayAndClose("SSH-2.0-OpenSSH_9.2\r\n\r\n")).await;
    let error = head(&upstream(&quick(&server.url("127.0.0.1")))).await.expect_err("a failure");
    assert!(matches!(error.failure, Failure::Misbehaved(Misbehaved::Protocol { .. })), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_up_is_an_interruption() {
    let server = Server::new(Act::SayAndClose("")).await;
    let outcome = head(&upstream(&quick(&server.url("127.0.0.1")))).await;
    assert_eq!(failure(outcome), Failure::Interrupted);
    assert_eq!(server.connections(), 2, "once more, and no more");
}
