//! The clients: what they ask for, how they read, and what the model hears of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use pierhead::http::body::{Body, Piece, Transfer};
use pierhead::oci::{ByteRanges, ByteSpan, Digest, RangeSpec, Reference, Resolved, Tag};
use pierhead::pull::{BlobAnswer, BlobWant, ManifestWant, Outcome, Wanted};
use pierhead::scope::Scope;
use pierhead::store::BlobStore as _;
use tokio::time::timeout;

use crate::catalogue::{Catalogue, Image};
use crate::engine::{ANSWER_WITHIN, CONDEMNED_FOR, Disk, Engine};
use crate::model::{Broken, Got, Model, Rule, broken, failed, in_time};
use crate::registry::{Registry, short};
use crate::trace::{Trace, ms, wait};
use crate::weather::Fault;

/// How much later than it should an answer may begin.
const GRACE: Duration = ms(1_000);

/// How long an answer may be silent before it counts as stuck: longer than all attempts at an
/// upstream that fails in its slowest way.
const SILENCE_MAX: Duration = Duration::from_secs(900);

/// What a client is about to do.
#[derive(Clone, Debug)]
pub(crate) enum Errand {
    /// Pulls what a tag means, all of it; some clients ask for the tag by HEAD first.
    Tag { repository: usize, tag: Tag, head_first: bool },
    /// Pulls an image by its digest.
    Image { repository: usize, image: usize },
    /// Reads one blob, or a part of it.
    Blob { repository: usize, digest: Digest, range: Option<String>, manner: Manner },
    /// Reads one blob as containerd does: by open-ended ranges at the same time, each left when
    /// it has brought its part.
    Parallel { repository: usize, digest: Digest, parts: u64 },
    /// Asks whether a blob is there.
    Head { repository: usize, digest: Digest },
}

/// How a client reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// How long it waits after every chunk.
    pub(crate) pause: Duration,
    /// After how many bytes it goes away; 0: before the answer has begun.
    pub(crate) leaves_after: Option<u64>,
}

/// A client.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) name: String,
    /// How long it takes from one answer to its next question. No two clients think for as long:
    /// tokio wakes those who wait for one event in an order of its own, and nothing of what they do
    /// then is to depend on that.
    pub(crate) thinks: Duration,
    pub(crate) engine: Engine,
    pub(crate) disk: Disk,
    pub(crate) registry: Registry,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) model: Arc<Mutex<Model>>,
    pub(crate) trace: Trace,
    /// Upstream is well, and has been for long enough: everything must work.
    pub(crate) is_well: bool,
}

impl Client {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, line: &str) {
        self.trace.note(format!("{} {line}", self.name));
    }

    /// Does it. An error is a rule that was broken.
    pub(crate) async fn run(&self, errand: &Errand) -> Result<(), Broken> {
        match errand {
            Errand::Tag { repository, tag, head_first } => {
                self.pull_tag(*repository, tag, *head_first).await
            }
            Errand::Image { repository, image } => {
                let of = &self.catalogue.repositories[*repository];
                let image = &of.images[*image];
                let top = Reference::Digest(image.top());
                match self.manifest(*repository, &top, ManifestWant::Content).await? {
                    Some(_) => {
                        wait(self.thinks).await;
                        self.pull_parts(*repository, image).await
                    }
                    None => Ok(()),
                }
            }
            Errand::Blob { repository, digest, range, manner } => {
                let scope = &self.catalogue.repositories[*repository].scope;
                self.blob(scope, digest, range.as_deref(), *manner).await
            }
            Errand::Parallel { repository, digest, parts } => {
                let scope = &self.catalogue.repositories[*repository].scope;
                let len = self.catalogue.content(digest).len() as u64;
                let step = len.div_ceil(*parts).max(1);
                let read = |at: u64| async move {
                    let range = format!("bytes={at}-");
                    let leaves_after = (at + step < len).then_some(step);
                    let manner = Manner { pause: Duration::ZERO, leaves_after };
                    self.blob(scope, digest, Some(&range), manner).await
                };
                let offsets = (0..len).step_by(usize::try_from(step).expect("in memory"));
                join_all(offsets.map(read)).await.into_iter().collect()
            }
            Errand::Head { repository, digest } => {
                let scope = &self.catalogue.repositories[*repository].scope;
                self.head(scope, digest).await
            }
        }
    }

    async fn pull_tag(&self, at: usize, tag: &Tag, head_first: bool) -> Result<(), Broken> {
        let repository = &self.catalogue.repositories[at];
        let mut reference = Reference::Tag(tag.clone());
        if head_first {
            match self.manifest(at, &reference, ManifestWant::Head).await? {
                Some(digest) => reference = Reference::Digest(digest),
                None => return Ok(()),
            }
            wait(self.thinks).await;
        }
        let Some(digest) = self.manifest(at, &reference, ManifestWant::Content).await? else {
            return Ok(());
        };
        wait(self.thinks).await;
        match repository.images.iter().find(|image| image.top() == digest) {
            Some(image) => self.pull_parts(at, image).await,
            None => broken(Rule::RightManifest, format!("{digest} is no image")),
        }
    }

    /// What comes after an image's tag or index.
    async fn pull_parts(&self, repository: usize, image: &Image) -> Result<(), Broken> {
        if image.index.is_some() {
            let child = Reference::Digest(image.manifest);
            if self.manifest(repository, &child, ManifestWant::Content).await?.is_none() {
                return Ok(());
            }
            wait(self.thinks).await;
        }
        let scope = &self.catalogue.repositories[repository].scope;
        let blob = |digest| self.blob(scope, digest, None, Manner::default());
        join_all(image.blobs.iter().map(blob)).await.into_iter().collect()
    }

    /// Whether the cache has all of `parts` for that repository.
    async fn is_cached(&self, scope: &Scope, parts: impl IntoIterator<Item = Digest>) -> bool {
        let parts: Vec<Digest> = parts.into_iter().collect();
        for part in &parts {
            if matches!(self.disk.blobs.contains(part).await, Ok(true)) {
                self.model().stored(part);
            }
        }
        self.model().is_cached(scope, parts)
    }

    /// Whether the cache has an image that the tag is known to have meant.
    async fn is_tag_cached(&self, repository: usize, tag: &Tag) -> bool {
        let of = &self.catalogue.repositories[repository];
        let answers = self.model().answers(&of.scope, tag);
        for image in of.images.iter().filter(|image| answers.contains(&image.top())) {
            if self.is_cached(&of.scope, image.parts()).await {
                return true;
            }
        }
        false
    }

    async fn is_known(&self, repository: usize, reference: &Reference) -> bool {
        let scope = &self.catalogue.repositories[repository].scope;
        match reference {
            Reference::Digest(digest) => self.is_cached(scope, [*digest]).await,
            Reference::Tag(tag) => self.is_tag_cached(repository, tag).await,
        }
    }

    /// The digest of the manifest that came.
    async fn manifest(
        &self,
        at: usize,
        reference: &Reference,
        want: ManifestWant,
    ) -> Result<Option<Digest>, Broken> {
        let repository = &self.catalogue.repositories[at];
        let what = short(&format!("{want:?} {}:{reference}", repository.scope.repo));
        let cached = self.is_known(at, reference).await;
        let Engine { puller, context, .. } = &self.engine;
        let answer = puller.manifest(context, &repository.scope, reference, want);
        let answer = in_time(&what, timeout(ANSWER_WITHIN + GRACE, answer).await.ok())?;
        let now = match reference {
            Reference::Tag(tag) => repository.meaning(tag, self.trace.now()).map(Image::top),
            Reference::Digest(digest) => Some(*digest),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.note(&format!("{what}: {error}"));
                self.trace.count("manifests refused");
                // What is evicted meanwhile, nobody expects.
                let cached = cached && self.is_known(at, reference).await;
                failed(cached, self.is_well && now.is_some(), &format!("{what}: {error}"))?;
                return Ok(None);
            }
        };
        self.note(&short(&format!("{what}: {:?} {}", answer.outcome, answer.digest)));
        self.trace.count("manifests");
        if let Outcome::Stale(_) = answer.outcome {
            self.trace.count("stale manifests");
            if answer.warnings.is_empty() {
                return broken(Rule::RightManifest, format!("{what}: stale without a warning"));
            }
        }
        if cached && !self.is_well {
            self.trace.count("cached manifests");
        }
        let digest = answer.bytes.as_ref().map_or(answer.digest, |bytes| Digest::sha256(bytes));
        let whole = want == ManifestWant::Content;
        let until = self.trace.now();
        self.model().manifest(&repository.scope, reference, (&digest, whole), |tag, digest| {
            repository.ever_meant(tag, digest, until)
        })?;
        if self.is_well && now.is_some_and(|now| now != digest) {
            return broken(Rule::Recovers, format!("{what}: not what upstream means now"));
        }
        Ok(Some(digest))
    }

    async fn head(&self, scope: &Scope, digest: &Digest) -> Result<(), Broken> {
        let what = short(&format!("HEAD {} {digest}", scope.repo));
        let cached = self.is_cached(scope, [*digest]).await;
        let answer = self.engine.blob(scope, digest, BlobWant::Head);
        let answer = in_time(&what, timeout(ANSWER_WITHIN + GRACE, answer).await.ok())?;
        match answer {
            Ok(answer) => {
                self.note(&format!("{what}: {:?} {:?}", answer.outcome, answer.size));
                let len = self.catalogue.content(digest).len() as u64;
                let wrong = answer.size.is_some_and(|size| size != len);
                // Before it is verified, a size is what upstream says.
                let misled =
                    || self.registry.misled(digest) || self.registry.any(digest, Fault::wastes);
                if wrong && !misled() {
                    return broken(Rule::RightBytes, format!("{what}: {:?} bytes", answer.size));
                }
                Ok(())
            }
            Err(error) => {
                self.note(&format!("{what}: {error}"));
                let cached = cached && self.is_cached(scope, [*digest]).await;
                failed(cached, self.is_well, &format!("{what}: {error}"))
            }
        }
    }

    async fn blob(
        &self,
        scope: &Scope,
        digest: &Digest,
        range: Option<&str>,
        manner: Manner,
    ) -> Result<(), Broken> {
        let tried = self.try_blob(scope, digest, range, manner).await;
        match tried {
            // Where wrong bytes were parked, that is found out by the first who reads them. For a
            // while after that a slow upstream takes longer than clients wait.
            Err(Broken(Rule::Recovers, _)) if self.registry.any(digest, Fault::is_lie) => {
                self.trace.count("parked lies");
                wait(CONDEMNED_FOR + GRACE).await;
                self.try_blob(scope, digest, range, manner).await
            }
            tried => tried,
        }
    }

    async fn try_blob(
        &self,
        scope: &Scope,
        digest: &Digest,
        range: Option<&str>,
        manner: Manner,
    ) -> Result<(), Broken> {
        let what = short(&format!("GET {} {digest}", scope.repo));
        let what = range.map_or(what.clone(), |range| format!("{what} {range}"));
        let cached = self.is_cached(scope, [*digest]).await;
        let wanted = match range.and_then(ByteRanges::parse) {
            None => Wanted::Whole,
            Some(ranges) => Wanted::Ranges(ranges),
        };
        let answer = self.engine.blob(scope, digest, BlobWant::Content(wanted));
        let answer = timeout(ANSWER_WITHIN + GRACE, answer);
        if manner.leaves_after == Some(0) {
            // It changes its mind while it waits.
            let left = timeout(manner.pause, answer).await.is_err();
            self.note(&format!("{what}: left {}", if left { "waiting" } else { "at once" }));
            return Ok(());
        }
        let (outcome, why) = match in_time(&what, answer.await.ok())? {
            Ok(answer) => {
                let outcome = answer.outcome;
                (Some(outcome), self.read(scope, digest, range, manner, answer).await?)
            }
            Err(error) => (None, Some(error.to_string())),
        };
        let outcome = outcome.map_or(String::new(), |outcome| format!("{outcome:?}, "));
        match why {
            None => {
                self.note(&format!("{what}: {outcome}fine"));
                self.trace.count("blobs");
                if cached && !self.is_well {
                    self.trace.count("cached blobs");
                }
                Ok(())
            }
            Some(why) => {
                self.note(&format!("{what}: {outcome}{why}"));
                self.trace.count("blobs refused or broken off");
                let cached = cached && self.is_cached(scope, [*digest]).await;
                failed(cached, self.is_well, &format!("{what}: {why}"))
            }
        }
    }

    /// Reads an answer; why it broke off, if it did and the client wanted more.
    async fn read(
        &self,
        scope: &Scope,
        digest: &Digest,
        range: Option<&str>,
        manner: Manner,
        answer: BlobAnswer,
    ) -> Result<Option<String>, Broken> {
        let Some(mut reader) = answer.reader else {
            return broken(Rule::RightBytes, format!("no bytes of {digest}"));
        };
        let content = self.catalogue.content(digest);
        // As the HTTP side decides it.
        let (spans, bounded) = match answer.size.map(|size| (size, resolve(range, size))) {
            None => (None, false),
            Some((size, Resolved::Whole)) => {
                (Some(vec![ByteSpan { start: 0, end_exclusive: size }]), false)
            }
            Some((_, Resolved::Unsatisfiable)) => return Ok(Some("416".to_owned())),
            Some((size, Resolved::Satisfiable(spans))) => {
                let whole = spans.iter().map(ByteSpan::len).sum::<u64>() == size;
                let open = range.and_then(ByteRanges::parse).is_some_and(|ranges| {
                    ranges.specs().iter().any(|spec| matches!(spec, RangeSpec::From { .. }))
                });
                (Some(spans), !whole && !open)
            }
        };
        if bounded && self.engine.puller.serves_unverified_ranges() {
            reader.trust_landed();
        }
        let promised = spans.as_ref().map(|spans| spans.iter().map(ByteSpan::len).sum::<u64>());
        let pieces: VecDeque<Piece> = match &spans {
            Some(spans) => {
                spans.iter().map(|span| Piece::Span(span.start..span.end_exclusive)).collect()
            }
            None => VecDeque::from([Piece::ToTheEnd]),
        };
        let metrics = self.engine.puller.metrics().clone();
        let reading = answer.reading;
        let (mapped, memory) = (false, None);
        let transfer = Transfer { reader, pieces, mapped, reading, metrics, memory };
        let mut body = Body::pieces(transfer);
        // Where the bytes stand that come.
        let mut expected = spans
            .clone()
            .unwrap_or_else(|| vec![ByteSpan { start: 0, end_exclusive: u64::MAX }])
            .into_iter()
            .flat_map(|span| [(span.start, span.end_exclusive)]);
        let (mut at, mut end) = expected.next().unwrap_or_default();
        let (mut received, mut right) = (0, true);
        let ended = loop {
            let frame = timeout(SILENCE_MAX, body.frame()).await.ok();
            let frame = in_time(&format!("an answer about {digest}"), frame)?;
            let bytes = match frame {
                None => break Ok(()),
                Some(Err(error)) => break Err(error.to_string()),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            if at >= end
                && let Some(next) = expected.next()
            {
                (at, end) = next;
            }
            let from = usize::try_from(at).unwrap_or(usize::MAX);
            right &= content.get(from..from.saturating_add(bytes.len())) == Some(&bytes[..]);
            at += bytes.len() as u64;
            received += bytes.len() as u64;
            if manner.leaves_after.is_some_and(|after| received >= after) {
                drop(body);
                let got = Got { digest: *digest, right, complete: false, bounded, whole: false };
                let lied = self.registry.any(digest, Fault::is_lie);
                self.model().blob(scope, &got, lied)?;
                return Ok(None);
            }
            if !manner.pause.is_zero() {
                wait(manner.pause).await;
            }
        };
        // The connection ends short where less came than the head had promised.
        let complete = ended.is_ok() && promised.is_none_or(|promised| promised == received);
        let len = content.len() as u64;
        // Several ranges may have as many bytes as the content, and end before it does.
        let last = spans.as_ref().and_then(|spans| spans.last());
        let reached = at == last.map_or(len, |last| last.end_exclusive);
        // An answer of another size is an end where there is none.
        let is_end = reached && answer.size.is_none_or(|size| size == len);
        if complete && !bounded && !is_end {
            right = false;
        }
        let whole = received == content.len() as u64;
        let got = Got { digest: *digest, right, complete, bounded, whole };
        self.model().blob(scope, &got, self.registry.any(digest, Fault::is_lie))?;
        Ok(match (complete, ended) {
            (true, _) => None,
            (false, Err(why)) => Some(format!("broke off after {received} bytes: {why}")),
            (false, Ok(())) => Some(format!("ended after {received} bytes")),
        })
    }
}

fn resolve(range: Option<&str>, size: u64) -> Resolved {
    range.and_then(ByteRanges::parse).map_or(Resolved::Whole, |ranges| ranges.resolve(size))
}
