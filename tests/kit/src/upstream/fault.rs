//! What can go wrong at an upstream, and where.

use std::time::Duration;

use http::Method;

/// Which requests a fault applies to.
#[derive(Clone, Debug)]
pub struct On {
    pattern: Pattern,
    methods: Vec<Method>,
    only_range: Option<bool>,
    skip: u64,
    times: Option<u64>,
}

#[derive(Clone, Debug)]
enum Pattern {
    Contains(String),
    Blobs,
}

impl On {
    /// Requests whose path contains `pattern`. A `*` in it stands for anything: `/v2/*/blobs/` is a
    /// path that contains `/v2/` and, later on, `/blobs/`. The empty pattern is every path.
    pub fn path(pattern: impl Into<String>) -> Self {
        Self {
            pattern: Pattern::Contains(pattern.into()),
            methods: Vec::new(),
            only_range: None,
            skip: 0,
            times: None,
        }
    }

    /// Every request.
    pub fn any() -> Self {
        Self::path("")
    }

    /// Blob requests, at the registry and at the storage that it may redirect to.
    pub fn blobs() -> Self {
        Self { pattern: Pattern::Blobs, ..Self::any() }
    }

    /// Manifest requests.
    pub fn manifests() -> Self {
        Self::path("/manifests/")
    }

    /// Only GET.
    pub fn get(self) -> Self {
        self.method(Method::GET)
    }

    /// Only HEAD.
    pub fn head(self) -> Self {
        self.method(Method::HEAD)
    }

    /// Only that method (and those named before).
    pub fn method(mut self, method: Method) -> Self {
        self.methods.push(method);
        self
    }

    /// Only requests with (`true`) or without (`false`) a `Range` header.
    pub fn with_range(mut self, with: bool) -> Self {
        self.only_range = Some(with);
        self
    }

    /// Lets the first `n` matching requests pass unharmed.
    pub fn skip(mut self, n: u64) -> Self {
        self.skip = n;
        self
    }

    /// Harms only `n` requests; without this the fault stays.
    pub fn times(mut self, n: u64) -> Self {
        self.times = Some(n);
        self
    }

    /// Harms one request.
    pub fn once(self) -> Self {
        self.times(1)
    }

    fn matches(&self, method: &Method, path: &str, range: bool) -> bool {
        (self.methods.is_empty() || self.methods.contains(method))
            && self.only_range.is_none_or(|only| only == range)
            && match &self.pattern {
                Pattern::Blobs => path.contains("/blobs/") || path.starts_with("/cdn/"),
                Pattern::Contains(pattern) => contains(path, pattern),
            }
    }
}

impl From<&str> for On {
    fn from(pattern: &str) -> Self {
        Self::path(pattern)
    }
}

/// Whether `path` contains `pattern`, whose stars stand for anything.
fn contains(mut path: &str, pattern: &str) -> bool {
    pattern.split('*').all(|part| match path.find(part) {
        Some(at) => {
            path = &path[at + part.len()..];
            true
        }
        None => false,
    })
}

/// One way to misbehave. Several that match the same request act together, unless one of them is
/// an answer of its own ([`Fault::Status`], [`Fault::Redirect`], [`Fault::HeadUnsupported`]): the
/// first such one wins.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Sends the body at no more than this many bytes a second.
    Throttle(u64),
    /// Sends this many bytes of the response's body, then nothing for ever.
    StallAfter(u64),
    /// Sends this many bytes of the response's body, then closes the connection. With HTTP/2 it
    /// resets the stream, which may overtake some of the bytes.
    CutAfter(u64),
    /// Flips all bits of the byte at this offset of the whole content, also where a range holds it.
    FlipByte(u64),
    /// Announces this `Content-Length`. Where it is too large, the connection closes short; where
    /// it is too small, the body ends there.
    ContentLength(u64),
    /// Leaves `Content-Length` out: the body comes in chunks (HEAD just lacks the header).
    Chunked,
    /// Adds this many zero bytes to the end, `Content-Length` included.
    ExtraBytes(u64),
    /// Goes on sending zero bytes after the end, for ever, in chunks.
    EndlessBody,
    /// Answers with something else altogether.
    Status {
        /// The status code.
        code: u16,
        /// Its headers.
        headers: Vec<(String, String)>,
        /// Its body; left out for HEAD.
        body: Vec<u8>,
    },
    /// Waits before it sends the response's head.
    DelayHeaders(Duration),
    /// Never sends the response's head.
    NoHeaders,
    /// Answers a `Range` request with 200 and everything.
    IgnoreRange,
    /// Answers 206 with this `Content-Range`, while the bytes are the right ones.
    ContentRange(String),
    /// Answers 206 with the bytes of the range moved by this much, while `Content-Range` is the
    /// right one.
    ShiftRange(i64),
    /// Answers with a redirect.
    Redirect {
        /// 307 as a rule.
        code: u16,
        /// The `Location`, in which `{path}` stands for the request's path and query, `{digest}`
        /// for its last component, and `{self}` for this upstream's URL.
        location: String,
    },
    /// Compresses the body and says so in `Content-Encoding: gzip`.
    Gzip,
    /// Claims this `Content-Encoding` and sends the body as it is.
    ContentEncoding(String),
    /// Sends this `Docker-Content-Digest`.
    DigestHeader(String),
    /// Sends no `Docker-Content-Digest`.
    NoDigestHeader,
    /// Sends this `Content-Type`.
    ContentType(String),
    /// Answers HEAD with 405.
    HeadUnsupported,
    /// Closes the connection without an answer.
    Drop,
    /// Adds (or replaces) a header.
    Header(String, String),
}

impl Fault {
    /// A status with a registry's error body.
    pub fn status(code: u16) -> Self {
        let name = match code {
            401 => "UNAUTHORIZED",
            403 => "DENIED",
            404 => "MANIFEST_UNKNOWN",
            429 => "TOOMANYREQUESTS",
            _ => "UNKNOWN",
        };
        let body =
            serde_json::json!({"errors": [{"code": name, "message": "as the test wants it"}]});
        Self::Status {
            code,
            headers: vec![("content-type".into(), "application/json".into())],
            body: body.to_string().into_bytes(),
        }
    }

    /// 429 with `Retry-After`.
    pub fn too_many_requests(retry_after: &str) -> Self {
        match Self::status(429) {
            Self::Status { code, mut headers, body } => {
                headers.push(("retry-after".into(), retry_after.to_owned()));
                Self::Status { code, headers, body }
            }
            other => other,
        }
    }

    /// A status with a web server's error page.
    pub fn html(code: u16) -> Self {
        Self::Status {
            code,
            headers: vec![("content-type".into(), "text/html; charset=utf-8".into())],
            body: b"<html><body><h1>Bad gateway</h1></body></html>".to_vec(),
        }
    }

    /// A 307; see [`Fault::Redirect`] for what `location` may hold.
    pub fn redirect(location: impl Into<String>) -> Self {
        Self::Redirect { code: 307, location: location.into() }
    }

    /// A 307 of a blob to this upstream's own storage, `/cdn/DIGEST`, by an absolute URL.
    pub fn redirect_to_cdn() -> Self {
        Self::redirect("{self}/cdn/{digest}?X-Signature=abc")
    }
}

/// Names a fault, to take it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultId(u64);

#[derive(Debug, Default)]
pub(super) struct Faults {
    next: u64,
    list: Vec<(FaultId, On, Fault)>,
}

impl Faults {
    pub(super) fn add(&mut self, on: On, fault: Fault) -> FaultId {
        self.next += 1;
        let id = FaultId(self.next);
        self.list.push((id, on, fault));
        id
    }

    pub(super) fn remove(&mut self, id: FaultId) {
        self.list.retain(|(other, ..)| *other != id);
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    /// The faults that this request meets; counts them.
    pub(super) fn take(&mut self, method: &Method, path: &str, range: bool) -> Vec<Fault> {
        let mut hit = Vec::new();
        for (_, on, fault) in &mut self.list {
            if !on.matches(method, path, range) || on.times == Some(0) {
                continue;
            }
            if on.skip > 0 {
                on.skip -= 1;
                continue;
            }
            if let Some(times) = &mut on.times {
                *times -= 1;
            }
            hit.push(fault.clone());
        }
        hit
    }
}
