//! The registry's answers, and the faults on top of them.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_RANGES, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LINK, LOCATION, RANGE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::State;
use super::body::{FaultBody, Flushes, Manners};
use super::content::Data;
use super::fault::Fault;
use super::log::Entry;

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// An answer before the faults.
struct Answer {
    status: u16,
    headers: HeaderMap,
    data: Data,
    ranges: bool,
}

impl Answer {
    fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, value(content_type));
        Self { status, headers, data: Data::Held(body.into()), ranges: false }
    }

    fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    fn error(status: u16, code: &str) -> Self {
        let error = serde_json::json!({"code": code, "message": code.to_lowercase()});
        Self::json(status, &serde_json::json!({"errors": [error]}))
    }

    fn with(mut self, name: HeaderName, text: &str) -> Self {
        self.headers.insert(name, value(text));
        self
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_bytes(text.as_bytes()).expect("a header value")
}

/// Marks the log's entry as over when the client went away before there was an answer.
struct Unanswered {
    state: Arc<State>,
    order: usize,
    answered: bool,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if !self.answered {
            self.state.log.change(self.order, |entry| entry.finished = true);
        }
    }
}

/// Answers one request. An error closes the connection.
pub(super) async fn answer(
    state: Arc<State>,
    flushes: Arc<Flushes>,
    connection: u64,
    request: Request<Incoming>,
) -> io::Result<Response<FaultBody>> {
    let (head, body) = request.into_parts();
    let text = |name: HeaderName| {
        let all = head.headers.get_all(name).iter();
        let all: Vec<_> = all.map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        (!all.is_empty()).then(|| all.join(", "))
    };
    let range = text(RANGE);
    let authorization = text(AUTHORIZATION);
    let path = head.uri.path().to_owned();
    let order = state.log.add(Entry {
        order: 0,
        connection,
        started_at: Instant::now(),
        method: head.method.to_string(),
        path: path.clone(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        range: range.clone(),
        authorization: authorization.is_some(),
        accept: text(ACCEPT),
        accept_encoding: text(ACCEPT_ENCODING),
        headers: head.headers.iter().map(pair).collect(),
        body: String::new(),
        status: 0,
        bytes_sent: 0,
        finished: false,
        complete: false,
    });
    let mut unanswered = Unanswered { state: state.clone(), order, answered: false };
    let mut form = String::new();
    if head.method == Method::POST {
        let collected =
            Limited::new(body, 1024 * 1024).collect().await.map_err(io::Error::other)?;
        form = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
        state.log.change(order, |entry| entry.body.clone_from(&form));
    }

    let faults = state.faults.lock().unwrap().take(&head.method, &path, range.is_some());
    for fault in &faults {
        match fault {
            Fault::DelayHeaders(delay) => tokio::time::sleep(*delay).await,
            Fault::NoHeaders => std::future::pending().await,
            Fault::Drop => return Err(io::Error::other("dropped as the test wants it")),
            _ => {}
        }
    }
    let own = faults.iter().find_map(|fault| instead(&state, fault, &head.method, &head.uri));
    let answer = own.unwrap_or_else(|| {
        route(&state, &head.method, &head.uri, &head.headers, authorization.as_deref(), &form)
    });
    let response = build(&state, flushes, order, answer, &head.method, range.as_deref(), &faults);
    unanswered.answered = true;
    let status = response.status().as_u16();
    state.log.change(order, |entry| entry.status = status);
    Ok(response)
}

fn pair((name, value): (&HeaderName, &HeaderValue)) -> (String, String) {
    (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// What a fault answers in the registry's stead.
fn instead(state: &State, fault: &Fault, method: &Method, uri: &Uri) -> Option<Answer> {
    match fault {
        Fault::Status { code, headers, body } => {
            let mut answer = Answer::new(*code, "text/plain", body.clone());
            answer.headers.clear();
            for (name, text) in headers {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
                answer.headers.append(name, value(text));
            }
            Some(answer)
        }
        Fault::Redirect { code, location } => {
            let path = uri.path_and_query().map_or("/", |p| p.as_str());
            let digest = uri.path().rsplit('/').next().unwrap_or_default();
            let location = location
                .replace("{self}", &state.url)
                .replace("{path}", path)
                .replace("{digest}", digest);
            Some(Answer::new(*code, "text/plain", "moved").with(LOCATION, &location))
        }
        Fault::HeadUnsupported if method == Method::HEAD => Some(Answer::error(405, "UNSUPPORTED")),
        _ => None,
    }
}

/// The registry without faults.
fn route(
    state: &State,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    authorization: Option<&str>,
    form: &str,
) -> Answer {
    let path = uri.path();
    let query = parameters(uri.query().unwrap_or_default());
    if path == "/token" {
        let post = method == Method::POST;
        let given = if post { parameters(form) } else { query };
        let (status, body) = state.gate.lock().unwrap().token(post, authorization, &given);
        return Answer::new(status, "application/json", body);
    }
    if method != Method::GET && method != Method::HEAD {
        return Answer::error(405, "UNSUPPORTED");
    }
    if let Some(digest) = path.strip_prefix("/cdn/") {
        if authorization.is_some() {
            let body = "<Error><Code>InvalidArgument</Code></Error>";
            return Answer::new(400, "application/xml", body);
        }
        let data = state.content.lock().unwrap().blobs.get(digest).cloned();
        return match data {
            Some(data) => {
                let mut answer = Answer::new(200, "binary/octet-stream", "");
                answer.data = data;
                answer.ranges = true;
                answer
            }
            None => Answer::new(404, "application/xml", "<Error><Code>NoSuchKey</Code></Error>"),
        };
    }
    let Some(rest) = path.strip_prefix("/v2").filter(|r| r.is_empty() || r.starts_with('/')) else {
        return Answer::new(404, "text/html", "<html>404 page not found</html>");
    };
    let parsed = parse(rest.trim_start_matches('/'));
    let repository = parsed.as_ref().map(|(name, ..)| *name);
    if let Err(challenge) = state.gate.lock().unwrap().check(&state.url, authorization, repository)
    {
        return Answer::error(401, "UNAUTHORIZED").with(WWW_AUTHENTICATE, &challenge);
    }
    let answer = match parsed {
        None if rest.trim_matches('/').is_empty() => Answer::new(200, "application/json", "{}"),
        None => Answer::error(404, "NAME_UNKNOWN"),
        Some((name, "manifests", reference)) => manifest(state, name, reference, headers),
        Some((name, "blobs", digest)) => {
            let data = state.content.lock().unwrap().blob(name, digest);
            match data {
                Some(data) => {
                    let mut answer = Answer::new(200, "application/octet-stream", "")
                        .with(DIGEST, digest)
                        .with(ETAG, &format!("\"{digest}\""));
                    answer.data = data;
                    answer.ranges = true;
                    answer
                }
                None => Answer::error(404, "BLOB_UNKNOWN"),
            }
        }
        Some((name, "referrers", digest)) => referrers(state, name, digest, &query),
        Some((name, "tags", "list")) => tags(state, name, &query),
        Some(_) => Answer::error(404, "NAME_UNKNOWN"),
    };
    answer.with(HeaderName::from_static("docker-distribution-api-version"), "registry/2.0")
}

/// `NAME/KIND/REFERENCE` from the right, as names hold slashes.
fn parse(path: &str) -> Option<(&str, &str, &str)> {
    let (rest, reference) = path.rsplit_once('/')?;
    let (name, kind) = rest.rsplit_once('/')?;
    Some((name, kind, reference))
}

fn manifest(state: &State, name: &str, reference: &str, headers: &HeaderMap) -> Answer {
    let Some((digest, manifest)) = state.content.lock().unwrap().manifest(name, reference) else {
        return Answer::error(404, "MANIFEST_UNKNOWN");
    };
    let accepted = || {
        let all = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
        let types = all.flat_map(|v| v.split(',')).map(|v| v.split(';').next().unwrap_or(v).trim());
        types.collect::<BTreeSet<_>>()
    };
    if state.settings.lock().unwrap().strict_accept
        && !accepted().contains(manifest.media_type.as_str())
    {
        return Answer::error(404, "MANIFEST_UNKNOWN");
    }
    let etag = format!("\"{digest}\"");
    let matched = headers.get(IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == etag.as_bytes());
    let answer = if matched {
        Answer::new(304, &manifest.media_type, "")
    } else {
        Answer::new(200, &manifest.media_type, manifest.bytes)
    };
    answer.with(DIGEST, &digest).with(ETAG, &etag)
}

fn tags(state: &State, name: &str, query: &[(String, String)]) -> Answer {
    let content = state.content.lock().unwrap();
    let Some(repository) = content.repositories.get(name) else {
        return Answer::error(404, "NAME_UNKNOWN");
    };
    let most = state.settings.lock().unwrap().page_size;
    let asked = get(query, "n").and_then(|n| n.parse::<usize>().ok());
    let n = asked.unwrap_or(usize::MAX).min(most);
    let last = get(query, "last").unwrap_or("");
    let mut page: Vec<_> = repository.tags.keys().filter(|tag| tag.as_str() > last).collect();
    let more = page.len() > n;
    page.truncate(n);
    let answer = Answer::json(200, &serde_json::json!({"name": name, "tags": page}));
    match page.last() {
        Some(last) if more => {
            let next = format!("</v2/{name}/tags/list?n={n}&last={last}>; rel=\"next\"");
            answer.with(LINK, &next)
        }
        _ => answer,
    }
}

fn referrers(state: &State, name: &str, digest: &str, query: &[(String, String)]) -> Answer {
    let settings = state.settings.lock().unwrap().clone();
    if !settings.referrers {
        return Answer::error(404, "NAME_UNKNOWN");
    }
    if !digest.starts_with("sha256:") || digest.len() != 71 {
        return Answer::error(400, "DIGEST_INVALID");
    }
    let wanted = get(query, "artifactType");
    let mut found = Vec::new();
    if let Some(repository) = state.content.lock().unwrap().repositories.get(name) {
        for (own, manifest) in &repository.manifests {
            let Ok(json) = serde_json::from_slice::<serde_json::Value>(&manifest.bytes) else {
                continue;
            };
            if json["subject"]["digest"] != digest {
                continue;
            }
            let kind = match json["artifactType"].as_str() {
                Some(kind) => kind.to_owned(),
                None => json["config"]["mediaType"].as_str().unwrap_or_default().to_owned(),
            };
            if wanted.is_some_and(|wanted| wanted != kind) {
                continue;
            }
            let mut descriptor = serde_json::json!({
                "mediaType": manifest.media_type,
                "digest": own,
                "size": manifest.bytes.len(),
                "artifactType": kind,
            });
            if json["annotations"].is_object() {
                descriptor["annotations"] = json["annotations"].clone();
            }
            found.push(descriptor);
        }
    }
    found.sort_by_key(|descriptor| descriptor["digest"].as_str().map(str::to_owned));
    let after = get(query, "after").unwrap_or("");
    found.retain(|descriptor| descriptor["digest"].as_str().is_some_and(|own| own > after));
    let more = found.len() > settings.page_size;
    found.truncate(settings.page_size);
    let index = "application/vnd.oci.image.index.v1+json";
    let body = serde_json::json!({"schemaVersion": 2, "mediaType": index, "manifests": found});
    let mut answer = Answer::new(200, index, body.to_string());
    if wanted.is_some() {
        answer = answer.with(HeaderName::from_static("oci-filters-applied"), "artifactType");
    }
    if let Some(last) = found.last().filter(|_| more) {
        let last = last["digest"].as_str().unwrap_or_default();
        let filter = wanted.map(|kind| format!("&artifactType={kind}")).unwrap_or_default();
        let next = format!("</v2/{name}/referrers/{digest}?after={last}{filter}>; rel=\"next\"");
        answer = answer.with(LINK, &next);
    }
    answer
}

/// Puts an answer and its faults together.
fn build(
    state: &Arc<State>,
    flushes: Arc<Flushes>,
    order: usize,
    answer: Answer,
    method: &Method,
    range: Option<&str>,
    faults: &[Fault],
) -> Response<FaultBody> {
    let Answer { mut status, mut headers, mut data, ranges } = answer;
    let mut manners = Manners::default();
    let mut content_length = None;
    let mut chunked = false;
    let mut shift = 0;
    let mut use_range = ranges;
    for fault in faults {
        match fault {
            Fault::IgnoreRange => use_range = false,
            Fault::ShiftRange(by) => shift = *by,
            Fault::Throttle(rate) => manners.bytes_per_second = Some((*rate).max(1)),
            Fault::StallAfter(n) => manners.stall_after = Some(*n),
            Fault::CutAfter(n) => manners.cut_after = Some(*n),
            Fault::FlipByte(at) => manners.flips.push(*at),
            Fault::ExtraBytes(n) => manners.extra = *n,
            Fault::EndlessBody => {
                manners.extra = u64::MAX;
                chunked = true;
            }
            Fault::ContentLength(n) => content_length = Some(*n),
            Fault::Chunked => chunked = true,
            _ => {}
        }
    }
    let total = data.len();
    let mut part = 0..total;
    if use_range && status == 200 {
        headers.insert(ACCEPT_RANGES, value("bytes"));
        match range.map(|range| parse_range(range, total)) {
            Some(Asked::Part(from, to)) => {
                status = 206;
                part = from..to;
                let text = format!("bytes {from}-{}/{total}", to - 1);
                headers.insert(CONTENT_RANGE, value(&text));
                if shift != 0 {
                    let len = to - from;
                    let from = from.saturating_add_signed(shift).min(total - len);
                    part = from..from + len;
                }
            }
            Some(Asked::Unsatisfiable) => {
                status = 416;
                part = 0..0;
                headers.insert(CONTENT_RANGE, value(&format!("bytes */{total}")));
            }
            Some(Asked::Nonsense) | None => {}
        }
    }
    for fault in faults {
        match fault {
            Fault::Gzip => {
                let gzip = Vec::new();
                let mut gzip = flate2::write::GzEncoder::new(gzip, flate2::Compression::fast());
                let len = usize::try_from(part.end - part.start).expect("fits in memory");
                gzip.write_all(&data.part(part.start, len)).expect("memory");
                data = Data::Held(gzip.finish().expect("memory").into());
                part = 0..data.len();
                headers.insert(CONTENT_ENCODING, value("gzip"));
            }
            Fault::ContentEncoding(coding) => {
                headers.insert(CONTENT_ENCODING, value(coding));
            }
            Fault::ContentRange(text) if status == 206 => {
                headers.insert(CONTENT_RANGE, value(text));
            }
            Fault::DigestHeader(text) => {
                headers.insert(DIGEST, value(text));
            }
            Fault::NoDigestHeader => {
                headers.remove(DIGEST);
            }
            Fault::ContentType(text) => {
                headers.insert(CONTENT_TYPE, value(text));
            }
            Fault::Header(name, text) => {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
                headers.insert(name, value(text));
            }
            _ => {}
        }
    }
    let bodiless = method == Method::HEAD || matches!(status, 204 | 304);
    if !chunked && !matches!(status, 204 | 304) {
        let len = (part.end - part.start).saturating_add(manners.extra);
        headers.insert(CONTENT_LENGTH, content_length.unwrap_or(len).into());
        if content_length.is_some_and(|announced| announced > len) {
            // hyper would drop what it has not flushed when the body ends early.
            manners.cut_after = Some(manners.cut_after.unwrap_or(len).min(len));
        }
    }
    if bodiless {
        part = 0..0;
        manners = Manners::default();
    }
    let body = FaultBody::new(data, part, manners, flushes, state.clone(), order);
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status code");
    *response.headers_mut() = headers;
    response
}

enum Asked {
    Part(u64, u64),
    Unsatisfiable,
    Nonsense,
}

/// One range; several are answered like none, which RFC 9110 allows.
fn parse_range(range: &str, total: u64) -> Asked {
    let parsed = range.strip_prefix("bytes=").and_then(|spec| {
        let (from, to) = spec.trim().split_once('-')?;
        Some(match (from.is_empty(), to.is_empty()) {
            (true, _) => {
                let n = to.parse::<u64>().ok()?.min(total);
                (total - n, total)
            }
            (false, true) => (from.parse().ok()?, total),
            (false, false) => {
                let (from, to) = (from.parse::<u64>().ok()?, to.parse::<u64>().ok()?);
                if to < from {
                    return None;
                }
                (from, to.saturating_add(1).min(total))
            }
        })
    });
    match parsed {
        Some((from, to)) if from < to => Asked::Part(from, to),
        Some(_) => Asked::Unsatisfiable,
        None => Asked::Nonsense,
    }
}

fn get<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

fn parameters(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(n, v)| (decode(n), decode(v)))
        .collect()
}
