//! Pierhead's registry listener, as one of its clients sees it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use url::Url;

use crate::cli::args::TlsFiles;
use crate::cli::client::{http, root_cause};
use crate::cli::output::{Exit, Failure};
use crate::oci::{
    ACCEPT_MANIFESTS, Digest, ErrorBody, Hasher, MANIFEST_BYTES_MAX, Manifest, MediaType, Reference,
};
use crate::pull::image::ImageName;
use crate::secret::Secret;

/// How long the server may stay silent. It answers a client within `fill.answer_within`.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(90);

/// How often something is asked for before it counts as failed.
const ATTEMPTS_MAX: u32 = 5;

/// How long to wait before asking again, where the server does not say; doubled each time.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest wait before asking again, whatever the server says.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The largest body of an error that is read, in bytes.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Who we are to a registry.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: Secret,
}

/// A registry.
#[derive(Debug)]
pub(super) struct Registry {
    base: Url,
    login: Option<Login>,
    http: reqwest::Client,
}

/// A manifest, and how it came.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) digest: Digest,
    pub(super) manifest: Manifest,
    pub(super) bytes: u64,
    pub(super) cached: bool,
}

/// A blob that was read and verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) bytes: u64,
    pub(super) cached: bool,
}

/// Why one attempt failed.
enum Attempt {
    /// It will fail again.
    Final(Failure),
    /// It may work later.
    Later(Failure, Option<Duration>),
}

impl Registry {
    pub(super) fn new(base: Url, login: Option<Login>, files: &TlsFiles) -> Result<Self, Failure> {
        let http = http(&base, files, Some(SILENCE_TIMEOUT))?;
        Ok(Self { base, login, http })
    }

    /// The manifest `reference` of an image, verified.
    pub(super) async fn manifest(
        &self,
        image: &ImageName,
        reference: &Reference,
    ) -> Result<Got, Failure> {
        self.patiently(async || self.get_manifest(image, reference).await).await
    }

    /// Reads a blob to its end and verifies it; `passed` is told of every piece, and of a new
    /// beginning by nothing.
    pub(super) async fn blob(
        &self,
        image: &ImageName,
        digest: &Digest,
        mut passed: impl FnMut(Option<usize>),
    ) -> Result<Read, Failure> {
        self.patiently(async || {
            passed(None);
            self.get_blob(image, digest, |len| passed(Some(len))).await
        })
        .await
    }

    /// Asks until there is an answer that will not change, or it was asked often enough.
    async fn patiently<T>(
        &self,
        mut attempt: impl AsyncFnMut() -> Result<T, Attempt>,
    ) -> Result<T, Failure> {
        let mut pause = PAUSE_MIN;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(Attempt::Final(failure)) => return Err(failure),
                Err(Attempt::Later(failure, _)) if attempts == ATTEMPTS_MAX => return Err(failure),
                Err(Attempt::Later(_, after)) => {
                    tokio::time::sleep(after.unwrap_or(pause).min(PAUSE_MAX)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    async fn get_manifest(&self, image: &ImageName, reference: &Reference) -> Result<Got, Attempt> {
        let answer = self.get(image, &format!("manifests/{reference}")).await?;
        let cached = is_hit(answer.headers());
        let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let media_type =
            text(CONTENT_TYPE.as_str()).and_then(|text| MediaType::from_content_type(text).ok());
        let named: Option<Digest> = text("docker-content-digest").and_then(|t| t.parse().ok());
        let expected = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => named,
        };
        let content = bounded(answer, MANIFEST_BYTES_MAX).await?;
        let digest = expected.unwrap_or_else(|| Digest::sha256(&content));
        let wrong = |error: &dyn std::fmt::Display| {
            Attempt::Final(Failure::new(Exit::No, "wrong_content", error))
        };
        crate::oci::Verified::check(&content, &digest).map_err(|error| wrong(&error))?;
        let manifest =
            Manifest::parse(&content, media_type.as_ref()).map_err(|error| wrong(&error))?;
        Ok(Got { digest, manifest, bytes: content.len() as u64, cached })
    }

    async fn get_blob(
        &self,
        image: &ImageName,
        digest: &Digest,
        mut passed: impl FnMut(usize),
    ) -> Result<Read, Attempt> {
        let answer = self.get(image, &format!("blobs/{digest}")).await?;
        let cached = is_hit(answer.headers());
        let mut pieces = answer.bytes_stream();
        let mut hasher = Hasher::new(digest.algorithm());
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| {
                let message = format!("the blob {digest} broke off: {}", root_cause(&error));
                Attempt::Later(Failure::new(Exit::No, "broke_off", message), None)
            })?;
            hasher.update(&piece);
            passed(piece.len());
        }
        let verified = hasher.verify(digest).map_err(|mismatch| {
            Attempt::Final(Failure::new(Exit::No, "wrong_content", mismatch))
        })?;
        Ok(Read { bytes: verified.len(), cached })
    }

    /// A successful answer for something of the image's repository.
    async fn get(&self, image: &ImageName, what: &str) -> Result<reqwest::Response, Attempt> {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{what}", image.name()));
        // A registry that is named goes where containerd puts it, ports included. Our own address
        // names no registry.
        if let Some(host) = image.host().filter(|host| !self.is_own(host)) {
            url.query_pairs_mut().append_pair("ns", host);
        }
        let mut request = self.http.get(url).header(ACCEPT, ACCEPT_MANIFESTS);
        if let Some(Login { user, password }) = &self.login {
            request = request.basic_auth(user, Some(password.expose()));
        }
        let answer = request.send().await.map_err(|error| {
            if error.is_connect() {
                let message =
                    format!("no registry answers at {}: {}", self.base, root_cause(&error));
                return Attempt::Final(
                    Failure::new(Exit::NoServer, "unreachable", message)
                        .help("start one with `pierhead serve`, or name its registry listener with --registry"),
                );
            }
            let cause = match error.is_timeout() {
                true => "it timed out".to_owned(),
                false => root_cause(&error),
            };
            let message = format!("{} did not answer: {cause}", self.base);
            Attempt::Later(Failure::new(Exit::No, "no_answer", message), None)
        })?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }

    fn is_own(&self, host: &str) -> bool {
        let own = self.base.host_str().unwrap_or_default();
        host == own || self.base.port().is_some_and(|port| host == format!("{own}:{port}"))
    }
}

/// Whether the answer came from what was stored.
fn is_hit(headers: &HeaderMap) -> bool {
    let status = headers.get("cache-status").and_then(|value| value.to_str().ok());
    status.is_some_and(|status| status.split(';').any(|part| part.trim() == "hit"))
}

/// All of a body that must not be larger than `max` bytes.
async fn bounded(answer: reqwest::Response, max: usize) -> Result<Bytes, Attempt> {
    let mut content = Vec::new();
    let mut pieces = answer.bytes_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| {
            let message = format!("the answer broke off: {}", root_cause(&error));
            Attempt::Later(Failure::new(Exit::No, "broke_off", message), None)
        })?;
        if content.len() + piece.len() > max {
            let message = format!("the answer is larger than {max} bytes");
            return Err(Attempt::Final(Failure::new(Exit::No, "too_large", message)));
        }
        content.extend_from_slice(&piece);
    }
    Ok(content.into())
}

/// What an answer that is an error means.
async fn refusal(answer: reqwest::Response) -> Attempt {
    let status = answer.status();
    let after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let after = after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let content = bounded(answer, ERROR_BYTES_MAX).await.unwrap_or_default();
    let failure = match ErrorBody::parse(&content).errors.first() {
        Some(entry) => Failure::new(Exit::No, &entry.code.as_str().to_lowercase(), &entry.message),
        None => Failure::new(Exit::No, "unexpected_status", format!("the server answers {status}"))
            .help("--registry names the registry listener, not the operator's side"),
    };
    match status {
        StatusCode::UNAUTHORIZED => {
            Attempt::Final(failure.help("log in with --user and --password-file"))
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            Attempt::Later(failure, after)
        }
        _ => Attempt::Final(failure),
    }
}
