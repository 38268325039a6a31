//! The world that a case describes: what the host of a test answers in place of a registry.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use pierhead_plugin_host::wit::{
    ContentError, Descriptor, Fact, HttpError, HttpRequest, HttpResponse, Level, Reference,
};
use pierhead_plugin_host::{
    Blob, Content, Facts, HttpClient, HttpTerms, LogLine, LogSink, Outside,
};

use url::Url;

use crate::case::{Case, Exchange, KnownFact};
use crate::value;

/// Lines of a case's log that are kept.
const LOG_LINES_MAX: usize = 200;

/// What is there while a case runs.
#[derive(Debug, Default)]
struct Scene {
    now: u64,
    facts: Vec<KnownFact>,
    http: Vec<Exchange>,
    log: Vec<String>,
    /// Requests that the case does not list.
    surprises: Vec<String>,
}

/// The stage: one for all cases, which run one after the other.
#[derive(Clone, Default)]
pub(crate) struct World(Arc<Mutex<Scene>>);

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}

/// What a case left behind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Left {
    pub(crate) log: Vec<String>,
    pub(crate) surprises: Vec<String>,
}

impl World {
    /// Makes it what the case says.
    pub(crate) fn set(&self, case: &Case, now: u64) {
        self.with(|scene| {
            *scene = Scene {
                now,
                facts: case.facts.clone(),
                http: case.http.clone(),
                ..Scene::default()
            };
        });
    }

    /// What the case left.
    pub(crate) fn left(&self) -> Left {
        self.with(|scene| Left { log: scene.log.clone(), surprises: scene.surprises.clone() })
    }

    /// What a host asks.
    pub(crate) fn outside(&self) -> Outside {
        let clock = self.clone();
        Outside {
            log: Arc::new(self.clone()),
            facts: Arc::new(self.clone()),
            content: Arc::new(self.clone()),
            http: Arc::new(self.clone()),
            clock: Arc::new(move || clock.with(|scene| scene.now)),
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Scene) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl LogSink for World {
    fn enabled(&self, _mount: &str, _level: Level) -> bool {
        true
    }

    fn write(&self, line: LogLine<'_>) {
        let level = match line.level {
            Level::Trace => "trace",
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        let mut text = format!("{level}: {}", line.message);
        for (key, value) in line.fields {
            text.push_str(&format!(" {key}={value}"));
        }
        self.with(|scene| {
            if scene.log.len() < LOG_LINES_MAX {
                scene.log.push(text);
            }
        });
    }
}

impl Facts for World {
    fn about(&self, subject: &str, name: Option<&str>) -> Vec<Fact> {
        self.with(|scene| {
            let known = scene.facts.iter().filter(|fact| {
                fact.subject.as_deref().is_none_or(|it| it == subject)
                    && name.is_none_or(|name| fact.name == name)
            });
            known
                .map(|fact| Fact {
                    source: fact.source.clone(),
                    name: fact.name.clone(),
                    json: fact.json.to_string(),
                    at: scene.now,
                })
                .collect()
        })
    }

    fn state(
        &self,
        source: &str,
        subject: &str,
        name: &str,
        json: &str,
        _ttl: Option<Duration>,
    ) -> Result<(), String> {
        let fact = KnownFact {
            subject: Some(subject.to_owned()),
            source: source.to_owned(),
            name: name.to_owned(),
            json: serde_json::from_str(json).map_err(|error| error.to_string())?,
        };
        self.with(|scene| scene.facts.push(fact));
        Ok(())
    }
}

impl HttpClient for World {
    fn send(
        &self,
        request: HttpRequest,
        terms: HttpTerms,
    ) -> BoxFuture<'_, Result<HttpResponse, HttpError>> {
        let answer = self.with(|scene| {
            // The request's is normalised already.
            let is_it = |known: &&Exchange| {
                known.method == request.method
                    && Url::parse(&known.url).is_ok_and(|url| url.as_str() == request.url)
            };
            let found = scene.http.iter().find(is_it);
            let Some(known) = found else {
                scene.surprises.push(format!("{} {}", request.method, request.url));
                return Err(HttpError::Unreachable("the case does not list it".to_owned()));
            };
            let body = value::bytes(&known.body);
            if body.len() as u64 > terms.body_bytes_max {
                return Err(HttpError::TooLarge(body.len() as u64));
            }
            let header = |(name, value): (&String, &String)| (name.to_lowercase(), value.clone());
            Ok(HttpResponse {
                status: known.status,
                headers: known.headers.iter().map(header).collect(),
                body,
            })
        });
        std::future::ready(answer).boxed()
    }
}

impl Content for World {
    fn manifest<'a>(
        &'a self,
        _mount: &'a str,
        _reference: &'a Reference,
    ) -> BoxFuture<'a, Result<(Descriptor, bytes::Bytes), ContentError>> {
        std::future::ready(Err(ContentError::NotFound)).boxed()
    }

    fn open<'a>(
        &'a self,
        _mount: &'a str,
        _reference: &'a Reference,
    ) -> BoxFuture<'a, Result<Arc<dyn Blob>, ContentError>> {
        std::future::ready(Err(ContentError::NotFound)).boxed()
    }

    fn referrers<'a>(
        &'a self,
        _mount: &'a str,
        _reference: &'a Reference,
        _artifact_type: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<Descriptor>, ContentError>> {
        std::future::ready(Ok(Vec::new())).boxed()
    }
}
