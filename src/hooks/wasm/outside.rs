//! What guests reach through the host: the log, facts and content.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use pierhead_plugin_host::wit::{self, ContentError, Level};
use pierhead_plugin_host::{
    Blob as HostBlob, Content as HostContent, Facts as HostFacts, LogLine, LogSink,
};
use pierhead_plugin_tools::case::KnownFact;

use crate::hooks::facts::Facts;
use crate::oci::{Descriptor, Digest, MediaType, Reference};
use crate::scope::Scope;

/// Why there is no content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentFailure {
    /// It is not there.
    NotFound,
    /// It is larger than what may be read at once, in bytes.
    TooLarge(u64),
    /// The upstream does not answer, and why.
    Upstream(String),
    /// Something else.
    Other(String),
}

/// Content with what describes it.
#[derive(Clone, Debug)]
pub struct Described {
    /// The digest.
    pub digest: Digest,
    /// The media type.
    pub media_type: MediaType,
    /// The bytes.
    pub bytes: Bytes,
}

/// What refers to a manifest.
pub type Refers = Vec<Descriptor>;

/// The cache and, through it, the upstreams. No policy is asked on the way: it is a policy that
/// asks. All futures are cancel-safe.
#[async_trait]
pub trait Content: Send + Sync + 'static {
    /// A manifest, whole.
    async fn manifest(
        &self,
        scope: &Scope,
        reference: &Reference,
    ) -> Result<Described, ContentFailure>;

    /// Opens a blob.
    async fn open(
        &self,
        scope: &Scope,
        digest: &Digest,
    ) -> Result<Arc<dyn OpenBlob>, ContentFailure>;

    /// What refers to a manifest.
    async fn referrers(
        &self,
        scope: &Scope,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Refers, ContentFailure>;
}

/// A blob that can be read.
#[async_trait]
pub trait OpenBlob: Send + Sync + 'static {
    /// Its digest and size.
    fn describe(&self) -> (Digest, u64);

    /// At most `max` bytes from `offset`; none at the end.
    async fn read(&self, offset: u64, max: u32) -> Result<Bytes, ContentFailure>;
}

/// Lines of plugins go where all others go.
pub(super) struct Log;

/// Plugins' lines can be filtered by this.
const TARGET: &str = "pierhead::plugin";

impl LogSink for Log {
    fn enabled(&self, _mount: &str, level: Level) -> bool {
        match level {
            Level::Trace => tracing::enabled!(target: TARGET, tracing::Level::TRACE),
            Level::Debug => tracing::enabled!(target: TARGET, tracing::Level::DEBUG),
            Level::Info => tracing::enabled!(target: TARGET, tracing::Level::INFO),
            Level::Warn => tracing::enabled!(target: TARGET, tracing::Level::WARN),
            Level::Error => tracing::enabled!(target: TARGET, tracing::Level::ERROR),
        }
    }

    fn write(&self, line: LogLine<'_>) {
        let pairs: Vec<String> =
            line.fields.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
        let fields = (!pairs.is_empty()).then(|| pairs.join(" "));
        let (mount, message, request_id) = (line.mount, line.message, line.request_id);
        macro_rules! say {
            ($level:ident) => {
                tracing::event!(
                    target: TARGET,
                    tracing::Level::$level,
                    mount,
                    request_id,
                    fields,
                    "{message}"
                )
            };
        }
        match line.level {
            Level::Trace => say!(TRACE),
            Level::Debug => say!(DEBUG),
            Level::Info => say!(INFO),
            Level::Warn => say!(WARN),
            Level::Error => say!(ERROR),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct FactsOf(pub(super) Facts);

impl FactsOf {
    /// What is known of a digest, in the words of a case.
    pub(super) fn known(&self, subject: &str) -> Vec<KnownFact> {
        let known = |fact: wit::Fact| KnownFact {
            subject: Some(subject.to_owned()),
            source: fact.source,
            name: fact.name,
            json: serde_json::from_str(&fact.json).unwrap_or_default(),
        };
        self.about(subject, None).into_iter().map(known).collect()
    }
}

impl HostFacts for FactsOf {
    fn about(&self, subject: &str, name: Option<&str>) -> Vec<wit::Fact> {
        // Nothing is known of what is no digest.
        let Ok(digest) = subject.parse::<Digest>() else { return Vec::new() };
        let fact = |fact: crate::hooks::facts::Fact| wit::Fact {
            source: fact.source.to_string(),
            name: fact.name,
            json: fact.json,
            at: fact.at.unix_ms(),
        };
        self.0.about(&digest, name).into_iter().map(fact).collect()
    }

    fn state(
        &self,
        source: &str,
        subject: &str,
        name: &str,
        json: &str,
        ttl: Option<Duration>,
    ) -> Result<(), String> {
        let digest = subject.parse::<Digest>().map_err(|error| error.to_string())?;
        self.0.state(source, &digest, name, json, ttl).map_err(|error| error.to_string())
    }
}

/// What content is of which nobody says what it is.
const UNKNOWN_MEDIA_TYPE: &str = "application/octet-stream";

pub(super) struct ContentOf(pub(super) Arc<dyn Content>);

/// What a guest named, checked like what a client names.
struct Named {
    scope: Scope,
    reference: Option<Reference>,
}

impl Named {
    fn read(reference: &wit::Reference) -> Result<Self, ContentError> {
        let no = |what: &str| ContentError::Other(format!("{what} is malformed"));
        let scope = Scope {
            upstream: reference.upstream.parse().map_err(|_| no("the upstream"))?,
            repo: reference.repository.parse().map_err(|_| no("the repository"))?,
        };
        let digest = reference.digest.as_deref().map(str::parse).transpose();
        let tag = reference.tag.as_deref().map(str::parse).transpose();
        let reference = match digest.map_err(|_| no("the digest"))? {
            Some(digest) => Some(Reference::Digest(digest)),
            None => tag.map_err(|_| no("the tag"))?.map(Reference::Tag),
        };
        Ok(Self { scope, reference })
    }

    fn digest(&self) -> Result<&Digest, ContentError> {
        match &self.reference {
            Some(Reference::Digest(digest)) => Ok(digest),
            Some(Reference::Tag(_)) | None => {
                Err(ContentError::Other("it has to be named by digest".to_owned()))
            }
        }
    }
}

fn failure(failure: ContentFailure) -> ContentError {
    match failure {
        ContentFailure::NotFound => ContentError::NotFound,
        ContentFailure::TooLarge(bytes) => ContentError::TooLarge(bytes),
        ContentFailure::Upstream(why) => ContentError::Upstream(why),
        ContentFailure::Other(why) => ContentError::Other(why),
    }
}

fn described(media_type: Option<&MediaType>, digest: &Digest, size: u64) -> wit::Descriptor {
    wit::Descriptor {
        media_type: media_type.map_or(UNKNOWN_MEDIA_TYPE, MediaType::as_str).to_owned(),
        digest: digest.to_string(),
        size,
        artifact_type: None,
        platform: None,
        annotations: Vec::new(),
    }
}

impl HostContent for ContentOf {
    fn manifest<'a>(
        &'a self,
        _mount: &'a str,
        reference: &'a wit::Reference,
    ) -> BoxFuture<'a, Result<(wit::Descriptor, Bytes), ContentError>> {
        Box::pin(async move {
            let named = Named::read(reference)?;
            let Some(reference) = &named.reference else {
                return Err(ContentError::Other("it names neither tag nor digest".to_owned()));
            };
            let found = self.0.manifest(&named.scope, reference).await.map_err(failure)?;
            let size = found.bytes.len() as u64;
            Ok((described(Some(&found.media_type), &found.digest, size), found.bytes))
        })
    }

    fn open<'a>(
        &'a self,
        _mount: &'a str,
        reference: &'a wit::Reference,
    ) -> BoxFuture<'a, Result<Arc<dyn HostBlob>, ContentError>> {
        Box::pin(async move {
            let named = Named::read(reference)?;
            let blob = self.0.open(&named.scope, named.digest()?).await.map_err(failure)?;
            Ok(Arc::new(BlobOf(blob)) as Arc<dyn HostBlob>)
        })
    }

    fn referrers<'a>(
        &'a self,
        _mount: &'a str,
        reference: &'a wit::Reference,
        artifact_type: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<wit::Descriptor>, ContentError>> {
        Box::pin(async move {
            let named = Named::read(reference)?;
            let found = self.0.referrers(&named.scope, named.digest()?, artifact_type);
            let found = found.await.map_err(failure)?;
            let descriptor = |found: &Descriptor| wit::Descriptor {
                artifact_type: found.artifact_type.as_ref().map(|kind| kind.as_str().to_owned()),
                ..described(found.media_type.as_ref(), &found.digest, found.size)
            };
            Ok(found.iter().map(descriptor).collect())
        })
    }
}

struct BlobOf(Arc<dyn OpenBlob>);

impl HostBlob for BlobOf {
    fn descriptor(&self) -> wit::Descriptor {
        let (digest, size) = self.0.describe();
        described(None, &digest, size)
    }

    fn read(&self, offset: u64, max: u32) -> BoxFuture<'_, Result<Bytes, ContentError>> {
        Box::pin(async move { self.0.read(offset, max).await.map_err(failure) })
    }
}
