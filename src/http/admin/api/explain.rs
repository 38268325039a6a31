//! What the next pull of an image would be, and why.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::error::{ErrorBody, Problem};
use super::extract::Params;
use super::images::ImageContent;
use super::name;
use super::time::rfc3339;
use crate::hooks::chain::{Mode, MountView};
use crate::oci::Reference;
use crate::pull::decide::Decision;
use crate::pull::explain::{Explanation as Explained, Probe as Probed, Staleness, TagState};
use crate::pull::naming::{NameRule, NamingError, Place};
use crate::pull::settings::Lifetime;
use crate::scope::UpstreamName;

/// What the next pull of an image would be, and why.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The image as it was asked for.
    pub asked: String,
    /// The image in full: upstream, repository and tag or digest. Absent if the name leads nowhere.
    pub image: Option<String>,
    /// `hit`, `revalidate` (a HEAD asks upstream first), `partial` (the manifest is here, not all
    /// blobs), `miss`, `stale`, `denied`, `absent`, `unavailable`, `unknown_name` or `hosted`.
    pub verdict: String,
    /// What the client would see.
    pub client_sees: String,
    /// Why, one step after the other.
    pub reasons: Vec<ExplanationReason>,
    /// What could be done to change it.
    pub advice: Vec<String>,
    /// Where the name leads.
    pub name: NameExplanation,
    /// What is known of the tag, if it was pulled before.
    pub tag: Option<TagExplanation>,
    /// What is here of the image, if it is known what that is.
    pub content: Option<ImageContent>,
    /// How old the tag may be, if it was pulled before.
    pub staleness: Option<StalenessExplanation>,
    /// Since when upstream has been refusing this repository, if it does.
    pub denied_since: Option<String>,
    /// What upstream answered, if it was asked.
    pub probe: Option<Probe>,
}

/// One thing that leads to the verdict.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExplanationReason {
    /// What is so.
    pub text: String,
    /// The key of the configuration that decides it, if one does.
    pub key: Option<String>,
}

/// Where a name leads.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NameExplanation {
    /// Which rule decided: `namespace` (`?ns=`), `host`, `component` (the first part of the path),
    /// `hosted_prefix`, `default`, or `none`.
    pub rule: String,
    /// The rule in words.
    pub text: String,
    /// The upstream that is asked.
    pub upstream: Option<String>,
    /// The repository there.
    pub repository: Option<String>,
    /// The tag or digest.
    pub reference: Option<String>,
}

/// What is known of a tag.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TagExplanation {
    /// The tag.
    pub tag: String,
    /// What it was last confirmed to mean.
    pub digest: String,
    /// When that was.
    pub confirmed_at: String,
    /// For how many seconds more it is served without asking; 0 if upstream would be asked.
    pub fresh_seconds: f64,
}

/// How old a tag may be, row by row of the table in `docs/staleness.md`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StalenessExplanation {
    /// The row that the next pull goes by; `asked` if upstream is asked and has not failed lately.
    pub row: String,
    /// Whether what is known is served by it.
    pub served: bool,
    /// Every row.
    pub rows: Vec<StalenessRow>,
}

/// What one row does for a tag.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StalenessRow {
    /// `fresh`, `pinned` and `while_revalidate`, for which upstream is not waited for; `on_error`,
    /// `on_401`, `on_429` and `on_404`, should upstream fail like that.
    pub row: String,
    /// The key of the configuration that decides it.
    pub key: Option<String>,
    /// Whether what is known would be served by it.
    pub served: bool,
    /// For how many seconds more; absent without a limit, and if it is not served.
    pub left_seconds: Option<f64>,
    /// The same in words.
    pub text: String,
}

/// What upstream answered when it was asked just now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Probe {
    /// Whether upstream has it.
    pub found: bool,
    /// What it has, if it said.
    pub digest: Option<String>,
    /// What it said instead.
    pub error: Option<String>,
}

/// Which image.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ExplainQuery {
    /// The image as a client would write it. Without tag and digest, `latest` is meant.
    image: String,
    /// What containerd would send as `?ns=`.
    ns: Option<String>,
    /// Ask upstream too, by one HEAD.
    #[serde(default)]
    probe: bool,
}

/// What the next pull of an image would be, and why. Upstream is asked only on request.
#[utoipa::path(
    get,
    path = "/explain",
    params(ExplainQuery),
    responses((status = 200, body = Explanation), (status = 400, body = ErrorBody))
)]
pub(super) async fn get_explanation(
    State(parts): Shared,
    Params(query): Params<ExplainQuery>,
) -> Result<Json<Explanation>, Problem> {
    let image = name::parse(&query.image)?;
    let reference = name::reference(&image)?;
    let asked = query.image;
    let placement =
        match image.placement(&parts.naming, query.ns.as_deref(), parts.process.registry) {
            Ok(placement) => placement,
            Err(error) => return Ok(Json(nowhere(asked, &error))),
        };
    let scope = match placement.place {
        Place::Upstream(scope) => scope,
        Place::Hosted(_) => return Ok(Json(hosted(asked))),
    };
    let explained = parts.puller.explain(&scope, &reference, query.probe).await?;
    let upstream = scope.upstream.as_str();
    let name = NameExplanation {
        rule: placement.rule.as_str().to_owned(),
        text: rule_text(placement.rule, upstream),
        upstream: Some(upstream.to_owned()),
        repository: Some(scope.repo.to_string()),
        reference: Some(reference.to_string()),
    };
    let mut explanation = whole(asked, name, explained, &reference);
    explanation.reasons.extend(of_plugins(&parts.plugins.view()));
    Ok(Json(explanation))
}

/// What plugins may do about it: whom they would refuse depends on who asks, and nobody does here.
fn of_plugins(mounts: &[MountView]) -> Option<ExplanationReason> {
    let may_refuse = |mount: &&MountView| mount.mode == Mode::Enforce && !mount.hooks.is_empty();
    let names: Vec<&str> = mounts.iter().filter(may_refuse).map(|mount| &*mount.name).collect();
    let text = format!("plugins may refuse it, and are not asked here: {}", names.join(", "));
    (!names.is_empty()).then_some(ExplanationReason { text, key: Some("plugin".to_owned()) })
}

fn whole(
    asked: String,
    name: NameExplanation,
    explained: Explained,
    reference: &Reference,
) -> Explanation {
    let reason = |reason: crate::pull::explain::Reason| ExplanationReason {
        text: reason.text,
        key: reason.key,
    };
    let upstream = explained.scope.upstream.clone();
    let staleness = explained.staleness.map(|staleness| of_staleness(&upstream, staleness));
    Explanation {
        asked,
        image: Some(name::shown(&explained.scope, reference)),
        verdict: explained.verdict.as_str().to_owned(),
        client_sees: explained.client_sees,
        reasons: explained.reasons.into_iter().map(reason).collect(),
        advice: explained.advice,
        name,
        tag: explained.tag.map(TagExplanation::from),
        content: explained.image.map(ImageContent::from),
        staleness,
        denied_since: explained.denied_since.map(rfc3339),
        probe: explained.probe.map(Probe::from),
    }
}

fn of_staleness(upstream: &UpstreamName, staleness: Staleness) -> StalenessExplanation {
    let (row, served) = match staleness.now {
        Some(Decision::Served(row)) => (row.as_str(), true),
        Some(Decision::Refused(row)) => (row.as_str(), false),
        None => ("asked", false),
    };
    let rows = staleness.rows.into_iter().map(|state| StalenessRow {
        row: state.row.as_str().to_owned(),
        key: state.row.key().map(|key| format!("upstream.\"{upstream}\".{key}")),
        served: matches!(state.decision, Decision::Served(_)),
        left_seconds: match state.left {
            Some(Lifetime::For(left)) => Some(left.as_secs_f64()),
            Some(Lifetime::Forever) | None => None,
        },
        text: state.text,
    });
    StalenessExplanation { row: row.to_owned(), served, rows: rows.collect() }
}

fn rule_text(rule: NameRule, upstream: &str) -> String {
    match rule {
        NameRule::Namespace => format!("the registry of the name is the upstream {upstream}"),
        NameRule::Host => format!("the host of the name belongs to the upstream {upstream}"),
        NameRule::Component => {
            format!("the first part of the name is the upstream {upstream} or its alias")
        }
        NameRule::HostedPrefix => "the name has a hosted prefix".to_owned(),
        NameRule::Default => {
            format!("nothing in the name selects an upstream, and {upstream} is the default one")
        }
    }
}

/// The explanation of a name that leads to no upstream.
fn elsewhere(asked: String, verdict: &str, rule: &str, text: String) -> Explanation {
    Explanation {
        asked,
        image: None,
        verdict: verdict.to_owned(),
        client_sees: "404 NAME_UNKNOWN: clients with another source go there".to_owned(),
        reasons: vec![ExplanationReason { text: text.clone(), key: None }],
        advice: Vec::new(),
        name: NameExplanation {
            rule: rule.to_owned(),
            text,
            upstream: None,
            repository: None,
            reference: None,
        },
        tag: None,
        content: None,
        staleness: None,
        denied_since: None,
        probe: None,
    }
}

fn nowhere(asked: String, error: &NamingError) -> Explanation {
    let mut explanation = elsewhere(asked, "unknown_name", "none", error.to_string());
    explanation.advice = match error {
        NamingError::UnknownNamespace(namespace) => {
            vec![format!("add the upstream: [upstream.{namespace:?}]")]
        }
        NamingError::NoUpstream(_) => {
            vec!["say `default = true` in the upstream that is to answer bare names".to_owned()]
        }
    };
    explanation
}

fn hosted(asked: String) -> Explanation {
    let rule = NameRule::HostedPrefix;
    let mut explanation = elsewhere(asked, "hosted", rule.as_str(), rule_text(rule, ""));
    for reason in &mut explanation.reasons {
        reason.key = Some("hosted.prefixes".to_owned());
    }
    explanation.advice = vec!["this version does not serve hosted repositories".to_owned()];
    explanation
}

impl From<TagState> for TagExplanation {
    fn from(state: TagState) -> Self {
        Self {
            tag: state.tag.to_string(),
            digest: state.latest.digest.to_string(),
            confirmed_at: rfc3339(state.latest.confirmed_at),
            fresh_seconds: state.fresh_for.as_secs_f64(),
        }
    }
}

impl From<Probed> for Probe {
    fn from(probe: Probed) -> Self {
        let (found, digest, error) = match probe {
            Probed::Found(digest) => (true, digest.map(|digest| digest.to_string()), None),
            Probed::Failed(error) => (false, None, Some(error.to_string())),
        };
        Self { found, digest, error }
    }
}
