//! What a mount is asked about at all: its `match`, which is looked at before any call.

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::hooks::{Action, WantedScope};
use crate::oci::MediaType;
use crate::scope::{Scope, UpstreamName};

/// A pattern of repositories or media types. `*` stands for anything but `/`; `**`, as a component of
/// its own, for any number of components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Glob);

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a pattern: {0}")]
pub struct PatternError(String);

/// The longest pattern, in bytes.
pub(super) const PATTERN_BYTES_MAX: usize = 512;

impl Pattern {
    /// The pattern that fits everything.
    pub const ALL: &'static str = "**";

    /// Reads one.
    ///
    /// # Errors
    /// When it is malformed or too long; the text says how.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() || text.len() > PATTERN_BYTES_MAX {
            let message = format!("it has 1 to {PATTERN_BYTES_MAX} bytes");
            return Err(PatternError(message));
        }
        if !are_double_stars_components(text) {
            let message = "`**` stands for whole components, such as in \"team/**\"; within one, \
                           use `*`";
            return Err(PatternError(message.to_owned()));
        }
        GlobBuilder::new(text)
            .literal_separator(true)
            // Names are lower case; media types may be written either way and mean the same.
            .case_insensitive(true)
            .build()
            .map(Self)
            .map_err(|error| PatternError(error.kind().to_string()))
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        self.0.glob()
    }
}

/// Whether each `**` stands between slashes, alternatives (`{a,b}`) or ends. Anywhere else it would
/// mean what `*` means, and a pattern would fit less than it seems to.
fn are_double_stars_components(text: &str) -> bool {
    let mut depth = 0_usize;
    text.split(|c| match c {
        '/' => true,
        '{' => {
            depth += 1;
            true
        }
        '}' if depth > 0 => {
            depth -= 1;
            true
        }
        ',' => depth > 0,
        _ => false,
    })
    .all(|component| component == "**" || !component.contains("**"))
}

/// What a mount's `match` says. What is absent fits everything.
#[derive(Clone, Debug, Default)]
pub struct MatchSettings {
    /// Repositories, with or without the upstream's name before them.
    pub repositories: Option<Vec<Pattern>>,
    /// Actions.
    pub actions: Option<Vec<Action>>,
    /// Upstreams.
    pub upstreams: Option<Vec<UpstreamName>>,
    /// Media types of manifests. Says nothing to other hooks.
    pub media_types: Option<Vec<Pattern>>,
}

impl MatchSettings {
    /// Whether it says nothing.
    pub(super) const fn is_everything(&self) -> bool {
        let Self { repositories, actions, upstreams, media_types } = self;
        repositories.is_none() && actions.is_none() && upstreams.is_none() && media_types.is_none()
    }
}

/// A compiled [`MatchSettings`].
#[derive(Clone, Debug)]
pub(super) struct Filter {
    repositories: Option<GlobSet>,
    actions: Option<Vec<Action>>,
    upstreams: Option<Vec<UpstreamName>>,
    media_types: Option<GlobSet>,
}

impl Filter {
    /// Compiles it. An error is a set of patterns that together are too large.
    pub(super) fn new(settings: &MatchSettings) -> Result<Self, PatternError> {
        Ok(Self {
            repositories: compile(settings.repositories.as_deref())?,
            actions: settings.actions.clone(),
            upstreams: settings.upstreams.clone(),
            media_types: compile(settings.media_types.as_deref())?,
        })
    }

    /// Whether the mount is asked about this.
    pub(super) fn fits(
        &self,
        scope: &Scope,
        action: Action,
        media_type: Option<&MediaType>,
    ) -> bool {
        self.actions.as_ref().is_none_or(|actions| actions.contains(&action))
            && self.upstreams.as_ref().is_none_or(|names| names.contains(&scope.upstream))
            && self.repositories.as_ref().is_none_or(|set| {
                set.is_match(scope.repo.as_str()) || set.is_match(scope.to_string())
            })
            && match (&self.media_types, media_type) {
                (Some(set), Some(media_type)) => set.is_match(media_type.as_str()),
                (None, _) | (Some(_), None) => true,
            }
    }

    /// Whether the mount is asked about that action in a scope of a token.
    pub(super) fn fits_wanted(&self, wanted: &WantedScope, action: Action) -> bool {
        let (upstream, repo) =
            wanted.repository.split_once('/').unwrap_or(("", wanted.repository.as_str()));
        self.actions.as_ref().is_none_or(|actions| actions.contains(&action))
            && self
                .upstreams
                .as_ref()
                .is_none_or(|names| names.iter().any(|name| name.as_str() == upstream))
            && self
                .repositories
                .as_ref()
                .is_none_or(|set| set.is_match(repo) || set.is_match(&wanted.repository))
    }
}

/// None where everything fits: nothing is looked at then.
fn compile(patterns: Option<&[Pattern]>) -> Result<Option<GlobSet>, PatternError> {
    let Some(patterns) = patterns else { return Ok(None) };
    if patterns.iter().any(|pattern| pattern.as_str() == Pattern::ALL) {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(pattern.0.clone());
    }
    set.build().map(Some).map_err(|error| PatternError(error.kind().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        let (upstream, repo) = text.split_once('/').unwrap();
        Scope { upstream: upstream.parse().unwrap(), repo: repo.parse().unwrap() }
    }

    fn patterns(texts: &[&str]) -> Option<Vec<Pattern>> {
        Some(texts.iter().map(|text| Pattern::new(text).unwrap()).collect())
    }

    #[test]
    fn repositories_fit_with_and_without_their_upstream() {
        for (pattern, name, fits) in [
            ("**", "docker.io/library/debian", true),
            ("library/*", "docker.io/library/debian", true),
            ("library/*", "docker.io/library/a/b", false),
            ("library/**", "docker.io/library/a/b", true),
            ("docker.io/library/*", "docker.io/library/debian", true),
            ("docker.io/**", "ghcr.io/library/debian", false),
            ("*", "docker.io/library/debian", false),
            ("{library,team}/debian", "docker.io/team/debian", true),
            ("team-[ab]/**", "docker.io/team-c/x", false),
            ("**/debian", "docker.io/a/b/debian", true),
            ("a/**/z", "docker.io/a/b/c/z", true),
            ("{team/**,library/*}", "docker.io/team/a/b", true),
            ("{team/**,library/*}", "docker.io/library/a/b", false),
        ] {
            let repositories = patterns(&[pattern]);
            let filter =
                Filter::new(&MatchSettings { repositories, ..MatchSettings::default() }).unwrap();
            assert_eq!(filter.fits(&scope(name), Action::Pull, None), fits, "{pattern} {name}");
            let wanted = WantedScope { repository: name.to_owned(), actions: vec![Action::Pull] };
            assert_eq!(filter.fits_wanted(&wanted, Action::Pull), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn all_that_is_said_has_to_fit() {
        let filter = Filter::new(&MatchSettings {
            repositories: None,
            actions: Some(vec![Action::Pull]),
            upstreams: Some(vec!["docker.io".parse().unwrap()]),
            media_types: patterns(&["application/vnd.oci.image.*"]),
        })
        .unwrap();
        let debian = scope("docker.io/library/debian");
        let manifest = "application/vnd.oci.image.manifest.v1+json".parse().unwrap();
        let other = "application/vnd.docker.distribution.manifest.v2+json".parse().unwrap();
        assert!(filter.fits(&debian, Action::Pull, None));
        assert!(filter.fits(&debian, Action::Pull, Some(&manifest)));
        assert!(!filter.fits(&debian, Action::Pull, Some(&other)));
        assert!(!filter.fits(&debian, Action::ListTags, None));
        assert!(!filter.fits(&scope("ghcr.io/library/debian"), Action::Pull, None));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "a{b", "[", &"a".repeat(PATTERN_BYTES_MAX + 1)] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
        // These would not cross a slash.
        for text in ["team**", "team-**/x", "**-team", "a/**b", "{a**,b}", "a,**", "***"] {
            let error = Pattern::new(text).unwrap_err().to_string();
            assert!(error.contains("whole components"), "{text}: {error}");
        }
    }

    #[test]
    fn what_says_nothing_is_everything() {
        assert!(MatchSettings::default().is_everything());
        let some = MatchSettings { actions: Some(vec![Action::Pull]), ..MatchSettings::default() };
        assert!(!some.is_everything());
    }
}
