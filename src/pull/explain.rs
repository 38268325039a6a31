//! What the next pull of an image would be, and why: the questions of a pull, asked without
//! pulling.

mod rows;

use std::time::Duration;

pub use self::rows::{RowState, Staleness};

use self::rows::{Meaning, Standing};
use super::absences::Absent;
use super::decide::{Decision, Row};
use super::error::PullError;
use super::inspect::{ImageState, Presence};
use super::outcome::StaleReason;
use super::resolve::rough;
use super::{Puller, Site, decide, in_time};
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, Tag};
use crate::scope::Scope;
use crate::store::TagRecord;
use crate::upstream::ErrorKind;

/// What the next pull would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Served from here; upstream is not asked.
    Hit,
    /// Upstream is asked by HEAD what the tag means; if it means the same, served from here.
    Revalidate,
    /// The manifest is served from here, and some of its blobs have to be fetched.
    Partial,
    /// Fetched from upstream.
    Miss,
    /// Served from here with a warning, because upstream cannot or will not say.
    Stale,
    /// Refused, because upstream refuses.
    Denied,
    /// Not found, because upstream has no such thing.
    Absent,
    /// An error, because upstream cannot say and nothing complete is here.
    Unavailable,
}

impl Verdict {
    /// Its name in answers to operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Revalidate => "revalidate",
            Self::Partial => "partial",
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Denied => "denied",
            Self::Absent => "absent",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Verdict {
    /// Whether a pull would ask upstream, and does not know yet what it says.
    const fn asks_upstream(self) -> bool {
        matches!(self, Self::Revalidate | Self::Partial | Self::Miss)
    }
}

/// One thing that leads to the verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// What is so.
    pub text: String,
    /// The key of the configuration that decides it, if one does.
    pub key: Option<String>,
}

/// What is known of a tag.
#[derive(Clone, Debug)]
pub struct TagState {
    /// The tag.
    pub tag: Tag,
    /// What it was last confirmed to mean.
    pub latest: TagRecord,
    /// For how much longer that is served without asking; zero if upstream would be asked.
    pub fresh_for: Duration,
}

/// What upstream said when it was asked just now.
#[derive(Clone, Debug)]
pub enum Probe {
    /// What it has.
    Found(Option<Digest>),
    /// Why there is no answer, or what the answer refuses.
    Failed(PullError),
}

/// What the next pull of an image would be, and why.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// Where the name leads.
    pub scope: Scope,
    /// What would be pulled.
    pub reference: Reference,
    /// What the pull would be.
    pub verdict: Verdict,
    /// Why.
    pub reasons: Vec<Reason>,
    /// What the client would see.
    pub client_sees: String,
    /// What could be done to change it.
    pub advice: Vec<String>,
    /// What is known of the tag, if it was pulled before.
    pub tag: Option<TagState>,
    /// What is here of the image, if it is known what that is.
    pub image: Option<ImageState>,
    /// Since when upstream refuses this repository, if it does.
    pub denied_since: Option<Timestamp>,
    /// How old the tag may be, if it was pulled before.
    pub staleness: Option<Staleness>,
    /// What upstream answered, if it was asked.
    pub probe: Option<Probe>,
}

/// What is gathered on the way to a verdict.
struct Draft<'a> {
    site: &'a Site,
    scope: &'a Scope,
    reasons: Vec<Reason>,
    advice: Vec<String>,
    staleness: Option<Staleness>,
}

impl Draft<'_> {
    fn because(&mut self, text: impl Into<String>) {
        self.reasons.push(Reason { text: text.into(), key: None });
    }

    fn because_of(&mut self, key: &str, text: impl Into<String>) {
        let key = format!("upstream.\"{}\".{key}", self.scope.upstream);
        self.reasons.push(Reason { text: text.into(), key: Some(key) });
    }

    fn because_of_row(&mut self, row: Row, text: impl Into<String>) {
        match row.key() {
            Some(key) => self.because_of(key, text),
            None => self.because(text),
        }
    }

    fn advise(&mut self, text: impl Into<String>) {
        self.advice.push(text.into());
    }
}

impl Puller {
    /// What the next pull of `reference` from `scope` would be. Upstream is asked, by one HEAD and
    /// without remembering the answer, only if `probe` is set.
    ///
    /// # Errors
    /// When the upstream is not configured, or the metadata store fails.
    pub async fn explain(
        &self,
        scope: &Scope,
        reference: &Reference,
        probe: bool,
    ) -> Result<Explanation, PullError> {
        let site = self.site(scope)?;
        let denied_since = self.meta.denied_since(scope).await.map_err(PullError::Store)?;
        let probe = if probe { Some(self.probe(site, scope, reference).await) } else { None };
        let mut draft =
            Draft { site, scope, reasons: Vec::new(), advice: Vec::new(), staleness: None };
        let (verdict, tag, image) = match reference {
            Reference::Digest(digest) => {
                let image = self.inspect(scope, digest).await;
                let verdict = self.judge_digest(&mut draft, &image, probe.as_ref());
                (verdict, None, Some(image))
            }
            Reference::Tag(tag) => {
                let (verdict, state, image) =
                    self.judge_tag(&mut draft, tag, probe.as_ref()).await?;
                (verdict, state, image)
            }
        };
        if probe.is_none() && verdict.asks_upstream() {
            recent_trouble(&mut draft, self.clock.now());
        }
        let condemned = image.iter().flat_map(|image| &image.platforms);
        for digest in condemned.flat_map(|platform| &platform.condemned) {
            draft.reasons.push(Reason {
                text: format!(
                    "wrong content came under {digest} a short while ago, so nothing of it is \
                     sent before all of it is verified"
                ),
                key: Some("fill.condemned_for".to_owned()),
            });
        }
        let client_sees = client_sees(verdict, scope);
        let Draft { reasons, advice, staleness, .. } = draft;
        Ok(Explanation {
            scope: scope.clone(),
            reference: reference.clone(),
            verdict,
            reasons,
            client_sees,
            advice,
            tag,
            image,
            denied_since,
            staleness,
            probe,
        })
    }

    async fn probe(&self, site: &Site, scope: &Scope, reference: &Reference) -> Probe {
        let upstream = self.asking(site);
        let head = async {
            upstream.head_manifest(&scope.repo, reference).await.map_err(PullError::of_manifest)
        };
        match in_time(self.deadline(), head).await {
            Ok(head) => Probe::Found(head.digest),
            Err(error) => Probe::Failed(error),
        }
    }

    /// The verdict on something that is asked for by digest, or that a fresh tag means.
    fn judge_digest(
        &self,
        draft: &mut Draft<'_>,
        image: &ImageState,
        probe: Option<&Probe>,
    ) -> Verdict {
        if image.manifest == Presence::Stored {
            if image.is_complete() {
                draft.because("the manifest is stored, and for one platform at least every blob");
                return Verdict::Hit;
            }
            draft.because("the manifest is stored, and for no platform are all blobs");
            draft.advise("pull it once, and what is missing is kept");
            return Verdict::Partial;
        }
        let absent = Absent::Manifest(Reference::Digest(image.digest));
        let remembered = self.absences.until(draft.scope, &absent);
        if let Some(error) = known_failure(draft, remembered, probe, self.clock.now()) {
            return refusal(draft, &error);
        }
        match image.manifest {
            Presence::Unproven => draft.because(
                "the bytes are stored, but upstream has not shown yet that this repository has \
                 them: a HEAD will ask it",
            ),
            _ => draft.because("the manifest is not stored"),
        }
        Verdict::Miss
    }

    async fn judge_tag(
        &self,
        draft: &mut Draft<'_>,
        tag: &Tag,
        probe: Option<&Probe>,
    ) -> Result<(Verdict, Option<TagState>, Option<ImageState>), PullError> {
        let (scope, ttl, now) = (draft.scope, draft.site.tags.tag_ttl, self.clock.now());
        let mut history = self.meta.tag_history(scope, tag).await.map_err(PullError::Store)?;
        if let Some(latest) = self.hot.tag(scope, tag)
            && history.first().is_none_or(|first| first.confirmed_at < latest.confirmed_at)
        {
            history.insert(0, TagRecord::clone(&latest));
        }
        let state = history.first().map(|latest| {
            let fresh = decide::is_fresh(latest.confirmed_at, now, ttl);
            let left = ttl.saturating_sub(now.since(latest.confirmed_at));
            let fresh_for = if fresh { left } else { Duration::ZERO };
            TagState { tag: tag.clone(), latest: latest.clone(), fresh_for }
        });
        let image = match &state {
            Some(state) => Some(self.inspect(scope, &state.latest.digest).await),
            None => None,
        };
        let standing = self.standing(draft, &history, tag, image.as_ref()).await;
        draft.staleness = standing.table(None);
        if let (Some(state), Some(image)) = (&state, &image)
            && !state.fresh_for.is_zero()
        {
            draft.because_of(
                "tag_ttl",
                format!(
                    "the tag was confirmed {} ago and is served for {} more without asking",
                    rough(now.since(state.latest.confirmed_at)),
                    rough(state.fresh_for),
                ),
            );
            if let Some(Probe::Found(Some(digest))) = probe
                && *digest != state.latest.digest
            {
                draft.because(format!("upstream says that the tag means {digest} by now"));
                draft.advise("`pierhead refresh` asks upstream at once");
            }
            let verdict = self.judge_digest(draft, image, None);
            return Ok((verdict, Some(state.clone()), Some(image.clone())));
        }
        let verdict = match standing.opening() {
            Some(row) => served_without_asking(draft, row),
            None => self.judge_stale_tag(draft, &history, &image, &standing, tag, probe).await,
        };
        Ok((verdict, state, image))
    }

    /// What is known of the tag, as far as its age matters.
    async fn standing<'s>(
        &self,
        draft: &Draft<'s>,
        history: &[TagRecord],
        tag: &Tag,
        image: Option<&ImageState>,
    ) -> Standing<'s> {
        let (site, scope) = (draft.site, draft.scope);
        let mut meanings = Vec::new();
        for record in history {
            let known = self.known_tag(site, scope, tag, record.confirmed_at).await;
            let is_complete = self.is_complete(scope, &record.digest).await;
            meanings.push(Meaning { known, digest: record.digest, is_complete });
        }
        let prospect = self.prospect(scope, tag, site.upstream.exhausted_until());
        let is_kept = image.is_some_and(|image| image.manifest == Presence::Stored);
        Standing { meanings, prospect, is_kept }
    }

    /// The verdict on a tag about which upstream would be asked.
    async fn judge_stale_tag(
        &self,
        draft: &mut Draft<'_>,
        history: &[TagRecord],
        image: &Option<ImageState>,
        standing: &Standing<'_>,
        tag: &Tag,
        probe: Option<&Probe>,
    ) -> Verdict {
        let (scope, now) = (draft.scope, self.clock.now());
        match history.first() {
            Some(latest) => draft.because_of(
                "tag_ttl",
                format!(
                    "the tag was last confirmed {} ago, which is longer than {}: upstream is asked",
                    rough(now.since(latest.confirmed_at)),
                    rough(draft.site.tags.tag_ttl),
                ),
            ),
            None => draft.because("the tag was never pulled through here"),
        }
        let remembered = self
            .absences
            .until(scope, &Absent::Manifest(Reference::Tag(tag.clone())))
            .or_else(|| self.absences.until(scope, &Absent::Confirmation(tag.clone())));
        if let Some(error) = known_failure(draft, remembered, probe, now) {
            let reason = decide::stale_reason(&error);
            draft.staleness = standing.table(Some(reason));
            match standing.after(reason) {
                Some((Decision::Served(row), Some(meaning))) => {
                    draft.because_of_row(
                        row,
                        format!(
                            "the image {} is complete here, so it is served although upstream \
                             cannot confirm it",
                            meaning.digest
                        ),
                    );
                    return Verdict::Stale;
                }
                Some((Decision::Refused(row), _)) => not_bridged(draft, row, standing),
                _ => {}
            }
            return refusal(draft, &error);
        }
        if let Some(latest) = history.first() {
            match standing.after(StaleReason::Unreachable) {
                Some((Decision::Served(row), _)) => draft.because_of_row(
                    row,
                    "should upstream not be able to say, the last complete image is served with \
                     a warning",
                ),
                Some((Decision::Refused(Row::Incomplete), _)) => draft.because(
                    "should upstream not be able to say, nothing could be served: no image that \
                     the tag meant is complete here",
                ),
                Some((Decision::Refused(row), _)) => not_bridged(draft, row, standing),
                None => {}
            }
            if let Some(Probe::Found(Some(digest))) = probe
                && *digest != latest.digest
            {
                draft.because(format!("upstream says that the tag means {digest} now"));
                if self.inspect(scope, digest).await.is_complete() {
                    return Verdict::Revalidate;
                }
                return Verdict::Miss;
            }
            return match image {
                Some(image) if image.is_complete() => Verdict::Revalidate,
                Some(image) if image.manifest == Presence::Stored => {
                    draft.because("the manifest is stored, and for no platform are all blobs");
                    Verdict::Partial
                }
                _ => {
                    draft.because("what the tag meant is not stored any more");
                    Verdict::Miss
                }
            };
        }
        Verdict::Miss
    }
}

/// Why a pull would get no answer from upstream, if that is known: because its last one is still
/// remembered, or from asking it just now.
fn known_failure(
    draft: &mut Draft<'_>,
    remembered: Option<(Timestamp, PullError)>,
    probe: Option<&Probe>,
    now: Timestamp,
) -> Option<PullError> {
    match probe {
        Some(Probe::Failed(error)) => {
            draft.because(format!("asked just now, upstream says: {error}"));
        }
        Some(Probe::Found(_)) => draft.because("asked just now, upstream has it"),
        None => {}
    }
    // A pull would not ask again before that.
    if let Some((until, error)) = remembered {
        draft.because_of(
            "absent_ttl",
            format!(
                "upstream was asked a short while ago, and for {} more its answer stands: {error}",
                rough(until.since(now)),
            ),
        );
        if matches!(probe, Some(Probe::Found(_))) {
            draft.advise("`pierhead refresh` forgets that answer");
        }
        return Some(error);
    }
    match probe {
        Some(Probe::Failed(error)) => Some(error.clone()),
        Some(Probe::Found(_)) | None => None,
    }
}

fn refusal(draft: &mut Draft<'_>, error: &PullError) -> Verdict {
    match error {
        PullError::ManifestUnknown | PullError::NameUnknown | PullError::BlobUnknown => {
            draft.advise("check the name and the tag: upstream does not have it");
            Verdict::Absent
        }
        PullError::Upstream(error) if error.kind() == ErrorKind::NotFound => Verdict::Absent,
        PullError::Denied(_) => Verdict::Denied,
        PullError::Upstream(error) if error.kind() == ErrorKind::Denied => {
            draft.advise(if draft.site.has_credentials {
                "the configured credentials do not open this repository, or there is no such one"
            } else {
                "there is no such repository, or it needs credentials: set `username` and \
                 `password_file` of this upstream"
            });
            Verdict::Denied
        }
        PullError::Upstream(error) if error.kind() == ErrorKind::RateLimited => {
            draft
                .advise("log in to this upstream (`username`, `password_file`) for a higher limit");
            Verdict::Unavailable
        }
        _ => {
            draft.advise("`pierhead status` shows since when this upstream has been in trouble");
            Verdict::Unavailable
        }
    }
}

/// The verdict on a tag that is not fresh, and that upstream is not asked about all the same.
fn served_without_asking(draft: &mut Draft<'_>, row: Row) -> Verdict {
    match row {
        Row::Pinned => {
            draft.because_of_row(row, "the tag is pinned: upstream is not asked about it");
            draft.advise("`pierhead refresh` asks upstream at once");
            Verdict::Hit
        }
        Row::On429 => {
            draft.because_of_row(
                row,
                "the allowance at this upstream is used up, so it is not asked, and the last \
                 complete image is served with a warning",
            );
            Verdict::Stale
        }
        _ => {
            draft.because_of_row(
                row,
                "the tag's time has run out a short while ago: it is served at once, and upstream \
                 is asked in the background",
            );
            Verdict::Hit
        }
    }
}

/// Why a known tag is not served although upstream fails.
fn not_bridged(draft: &mut Draft<'_>, row: Row, standing: &Standing<'_>) {
    let Some(latest) = standing.meanings.first() else { return };
    let known = &latest.known;
    let text = match (row, known.denied_since) {
        (Row::Incomplete, _) => "no image that the tag meant is complete here".to_owned(),
        (Row::On401, Some(since)) => format!(
            "upstream has been refusing access for {}, which is longer than what was cached is \
             served for",
            rough(known.now.since(since)),
        ),
        _ => format!(
            "the tag was last confirmed {} ago, which is too long to serve it stale",
            rough(known.now.since(known.confirmed_at)),
        ),
    };
    draft.because_of_row(row, text);
}

/// Says so if every endpoint failed when it was last asked: the next question may fail, too.
fn recent_trouble(draft: &mut Draft<'_>, now: Timestamp) {
    let endpoints = draft.site.upstream.status();
    if !endpoints.iter().all(|endpoint| endpoint.failed_at > endpoint.answered_at) {
        return;
    }
    let last = endpoints.iter().max_by_key(|endpoint| endpoint.failed_at);
    let Some((at, failure)) = last.and_then(|last| last.failed_at.zip(last.failure.as_ref()))
    else {
        return;
    };
    draft.because(format!(
        "{} failed when it was last asked, {} ago: {failure}",
        draft.scope.upstream,
        rough(now.since(at)),
    ));
    draft.advise("`pierhead explain --probe` asks it now");
}

fn client_sees(verdict: Verdict, scope: &Scope) -> String {
    let upstream = &scope.upstream;
    match verdict {
        Verdict::Hit => "200 at once, from here".to_owned(),
        Verdict::Revalidate => {
            format!("200 from here, after one HEAD to {upstream} if the tag still means the same")
        }
        Verdict::Partial => {
            format!("200 for the manifest at once; some blobs at the speed of {upstream}")
        }
        Verdict::Miss => format!("200 at the speed of {upstream}, or the error that it gives"),
        Verdict::Stale => "200 from here, with a Warning header that says why".to_owned(),
        Verdict::Denied => "403 DENIED".to_owned(),
        Verdict::Absent => "404 MANIFEST_UNKNOWN".to_owned(),
        Verdict::Unavailable => "502, 503 or 504: clients with another source go there".to_owned(),
    }
}
