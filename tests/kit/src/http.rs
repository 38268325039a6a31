//! A blocking HTTP/1.1 client of one request per connection. It follows nothing, decodes nothing
//! but chunks, and tells a body that ended from one that broke off.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// How long a connection may be silent before a request counts as stalled.
pub const SILENCE: Duration = Duration::from_secs(30);

/// What came back.
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// As much of the body as came.
    pub body: Vec<u8>,
    /// How the body ended.
    pub end: End,
    /// The certificate that the server has shown, in DER form; only over TLS.
    pub certificate: Option<Vec<u8>>,
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Complete by its length or its last chunk.
    Complete,
    /// The connection closed, which is the only end that this answer announced.
    Closed,
    /// The connection closed or was reset before the announced end.
    Short,
    /// Nothing came for as long as the client waits.
    Stalled,
    /// Reading stopped because the caller wanted no more.
    Stopped,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = &self.body[..self.body.len().min(400)];
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("end", &self.end)
            .field("body_len", &self.body.len())
            .field("body_head", &String::from_utf8_lossy(head))
            .finish()
    }
}

impl Response {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON: {e}: {self:?}"))
    }

    /// Checks the status and that the body is whole.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        let whole = matches!(self.end, End::Complete | End::Closed);
        assert!(self.status == status && whole, "expected a whole {status}: {self:?}");
        self
    }
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    silence: Duration,
    stop_after: Option<u64>,
    tls: Option<Arc<ClientConfig>>,
}

impl Request {
    /// A request without body. `url` is `http://HOST:PORT/...`, or `https://` with
    /// [`tls`](Self::tls).
    pub fn new(method: &str, url: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            silence: SILENCE,
            stop_after: None,
            tls: None,
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Gives the request a body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// How long the connection may be silent.
    pub fn silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Closes the connection once that many bytes of the body have come.
    pub fn stop_after(mut self, bytes: u64) -> Self {
        self.stop_after = Some(bytes);
        self
    }

    /// How to encrypt the connection, for an `https://` URL; see [`crate::tls::client`].
    pub fn tls(mut self, config: &Arc<ClientConfig>) -> Self {
        self.tls = Some(Arc::clone(config));
        self
    }

    /// Sends it; panics where there is no answer.
    #[track_caller]
    pub fn send(&self) -> Response {
        self.try_send().unwrap_or_else(|e| panic!("{} {}: {e}", self.method, self.url))
    }

    /// Sends it. An error means that no response head came.
    pub fn try_send(&self) -> std::io::Result<Response> {
        let mut body = Vec::new();
        let mut response = self.try_stream(|part| body.extend_from_slice(part))?;
        response.body = body;
        Ok(response)
    }

    /// Sends it and hands the body's parts over as they come; the response's own body stays empty.
    pub fn try_stream(&self, mut part: impl FnMut(&[u8])) -> std::io::Result<Response> {
        let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
        let (scheme, rest) = self.url.split_once("://").ok_or_else(|| bad("not a URL"))?;
        let (host, target) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(self.silence))?;
        stream.set_write_timeout(Some(self.silence))?;
        let mut stream = match (scheme, &self.tls) {
            ("http", _) => Stream::Plain(stream),
            ("https", Some(config)) => {
                let name = host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned();
                let name = ServerName::try_from(name).map_err(|_| bad("not a server's name"))?;
                let tls = ClientConnection::new(Arc::clone(config), name).map_err(broken_tls)?;
                Stream::Tls(Box::new(StreamOwned::new(tls, stream)))
            }
            _ => return Err(bad("neither http:// nor https:// with TLS set up")),
        };
        let mut head = format!("{} {target} HTTP/1.1\r\n", self.method);
        if !self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
            head.push_str(&format!("host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || matches!(self.method.as_str(), "POST" | "PUT" | "PATCH") {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("connection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&self.body)?;
        stream.flush()?;
        let certificate = stream.certificate();

        let mut reader = BufReader::with_capacity(64 * 1024, stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| bad(&format!("no status line: {line:?}")))?;
        let mut headers = Vec::new();
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Err(bad("the head broke off"));
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad("bad header"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response =
            Response { status, headers, body: Vec::new(), end: End::Complete, certificate };
        if self.method == "HEAD" || matches!(status, 204 | 304) {
            return Ok(response);
        }
        let mut budget = self.stop_after.unwrap_or(u64::MAX);
        let chunked = response.header("transfer-encoding").is_some_and(|v| v.contains("chunked"));
        let length = response.header("content-length").and_then(|v| v.parse::<u64>().ok());
        response.end = if chunked {
            loop {
                line.clear();
                match reader.read_line(&mut line) {
                    Ok(0) => break End::Short,
                    Ok(_) => {}
                    Err(e) => break broken(&e),
                }
                let Ok(size) = u64::from_str_radix(line.trim(), 16) else { break End::Short };
                if size > 0 {
                    match copy(&mut reader, size, &mut budget, &mut part) {
                        End::Complete => {}
                        other => break other,
                    }
                }
                line.clear();
                if reader.read_line(&mut line).is_err() || !line.ends_with('\n') {
                    break End::Short;
                }
                if size == 0 {
                    break End::Complete;
                }
            }
        } else if let Some(length) = length {
            copy(&mut reader, length, &mut budget, &mut part)
        } else {
            match copy(&mut reader, u64::MAX, &mut budget, &mut part) {
                End::Short => End::Closed,
                other => other,
            }
        };
        Ok(response)
    }
}

/// A connection, encrypted or not.
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn certificate(&self) -> Option<Vec<u8>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => Some(tls.conn.peer_certificates()?.first()?.to_vec()),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

fn broken_tls(error: rustls::Error) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, error)
}

fn broken(error: &std::io::Error) -> End {
    match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => End::Stalled,
        _ => End::Short,
    }
}

fn copy(
    reader: &mut impl Read,
    mut left: u64,
    budget: &mut u64,
    part: &mut impl FnMut(&[u8]),
) -> End {
    let mut buffer = vec![0; 64 * 1024];
    while left > 0 {
        if *budget == 0 {
            return End::Stopped;
        }
        let want = left.min(*budget).min(buffer.len() as u64) as usize;
        match reader.read(&mut buffer[..want]) {
            Ok(0) => return End::Short,
            Ok(n) => {
                part(&buffer[..n]);
                left -= n as u64;
                *budget -= n as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return broken(&e),
        }
    }
    End::Complete
}

/// A GET; panics where there is no answer.
#[track_caller]
pub fn get(url: impl Into<String>) -> Response {
    Request::new("GET", url).send()
}

/// A HEAD; panics where there is no answer.
#[track_caller]
pub fn head(url: impl Into<String>) -> Response {
    Request::new("HEAD", url).send()
}
