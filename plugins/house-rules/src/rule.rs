//! The settings, and what each rule finds.

use std::time::Duration;

use pierhead_plugin::units::{Bytes, Span};
use pierhead_plugin::{
    Action, DependsOn, Failure, Identity, Manifest, ObjectKind, Request, facts, glob,
};
use serde::Deserialize;
use serde_json::Value;

use crate::image::Image;

/// The settings: one rule, and more of them in `rules`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    blocked_tags: Vec<String>,
    allowed_upstreams: Option<Vec<String>>,
    denied_upstreams: Vec<String>,
    allowed_repositories: Option<Vec<String>>,
    denied_repositories: Vec<String>,
    min_age: Option<Span>,
    max_size: Option<Bytes>,
    required_platforms: Vec<String>,
    required_facts: Vec<RequiredFact>,
    repositories: Option<Vec<String>>,
    except_repositories: Vec<String>,
    except_groups: Vec<String>,
    mode: Mode,
    message: Option<String>,
    rules: Vec<Settings>,
}

/// What follows when a rule is broken.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// The pull is refused.
    #[default]
    Deny,
    /// The client is warned.
    Warn,
}

/// Something that has to be known of an image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequiredFact {
    /// Under which name.
    name: String,
    /// Who has to say so: a mount's name. Anybody, if there is none.
    #[serde(default)]
    source: Option<String>,
    /// Where in it to look, with dots between names. The whole, if there is none.
    #[serde(default)]
    field: Option<String>,
    /// What has to be there. Anything but `false` and `null`, if it is not said.
    #[serde(default)]
    equals: Option<Value>,
    /// Asked only of what is pulled by tag. Signatures are often those of an index alone, and its
    /// images are pulled by digest.
    #[serde(default)]
    tagged_only: bool,
}

/// One rule.
#[derive(Debug)]
pub(crate) struct Rule(Settings);

/// A broken rule.
#[derive(Debug)]
pub(crate) struct Finding {
    /// Whether the pull is refused.
    pub(crate) denies: bool,
    /// For whoever pulls.
    pub(crate) message: String,
}

impl Settings {
    fn is_empty(&self) -> bool {
        self.blocked_tags.is_empty()
            && self.allowed_upstreams.is_none()
            && self.denied_upstreams.is_empty()
            && self.allowed_repositories.is_none()
            && self.denied_repositories.is_empty()
            && self.min_age.is_none()
            && self.max_size.is_none()
            && self.required_platforms.is_empty()
            && self.required_facts.is_empty()
    }

    /// The rules.
    pub(crate) fn into_rules(mut self) -> Result<Vec<Rule>, Failure> {
        let more = std::mem::take(&mut self.rules);
        let mut rules = Vec::new();
        for (index, rule) in more.into_iter().enumerate() {
            let at = format!("config.rules[{index}]");
            if !rule.rules.is_empty() {
                return Err(Failure::config(format!("{at}.rules: a rule has no rules of its own")));
            }
            if rule.is_empty() {
                let message = "nothing is asked for: name blocked_tags, min_age or another rule";
                return Err(Failure::config(format!("{at}: {message}")));
            }
            rules.push(Rule(rule));
        }
        if !self.is_empty() {
            rules.insert(0, Rule(self));
        } else if rules.is_empty() {
            let message = "config: there is no rule: name blocked_tags, min_age or another one";
            return Err(Failure::config(message));
        }
        for rule in &rules {
            rule.check()?;
        }
        Ok(rules)
    }
}

impl RequiredFact {
    fn found(&self, digest: &str) -> bool {
        facts::named(digest, &self.name)
            .iter()
            .filter(|fact| self.source.as_ref().is_none_or(|source| *source == fact.source))
            .any(|fact| self.satisfied_by(&fact.value()))
    }

    fn satisfied_by(&self, whole: &Value) -> bool {
        let mut value = whole;
        for name in self.field.iter().flat_map(|field| field.split('.')) {
            let Some(inner) = value.get(name) else { return false };
            value = inner;
        }
        match &self.equals {
            Some(expected) => value == expected,
            None => !matches!(value, Value::Null | Value::Bool(false)),
        }
    }

    fn describe(&self) -> String {
        let mut text = format!("the fact {}", self.name);
        if let Some(source) = &self.source {
            text += &format!(" of {source}");
        }
        if let Some(field) = &self.field {
            text += &format!(", {field}");
        }
        if let Some(expected) = &self.equals {
            text += &format!(" = {expected}");
        }
        text
    }
}

impl Rule {
    fn check(&self) -> Result<(), Failure> {
        for platform in &self.0.required_platforms {
            if !(2..=3).contains(&platform.split('/').count()) {
                let message =
                    format!("config.required_platforms: {platform:?} is not OS/ARCHITECTURE");
                return Err(Failure::config(message));
            }
        }
        Ok(())
    }

    /// What identifies whom the rule is for.
    fn common_key(&self) -> DependsOn {
        let mut key = DependsOn::empty();
        if !self.0.except_groups.is_empty() {
            key |= DependsOn::IDENTITY;
        }
        if self.0.repositories.is_some() || !self.0.except_repositories.is_empty() {
            key |= DependsOn::REPOSITORY;
        }
        key
    }

    /// What a verdict on a request depends on, as far as this rule goes.
    pub(crate) fn request_key(&self) -> DependsOn {
        let rule = &self.0;
        let mut key = DependsOn::empty();
        if !rule.blocked_tags.is_empty() {
            // The repository's name is in the message.
            key |= DependsOn::TAG | DependsOn::ACTION | DependsOn::REPOSITORY;
        }
        if rule.allowed_upstreams.is_some()
            || !rule.denied_upstreams.is_empty()
            || rule.allowed_repositories.is_some()
            || !rule.denied_repositories.is_empty()
        {
            key |= DependsOn::REPOSITORY;
        }
        if key.is_empty() { key } else { key | self.common_key() }
    }

    /// What a verdict on a manifest depends on, as far as this rule goes.
    pub(crate) fn manifest_key(&self) -> DependsOn {
        let rule = &self.0;
        let mut key = DependsOn::empty();
        if rule.min_age.is_some() || rule.max_size.is_some() || !rule.required_platforms.is_empty()
        {
            // The repository's name is in the message.
            key |= DependsOn::DIGEST | DependsOn::REPOSITORY;
        }
        if !rule.required_facts.is_empty() {
            key |= DependsOn::DIGEST | DependsOn::FACTS | DependsOn::REPOSITORY;
        }
        if rule.required_facts.iter().any(|fact| fact.tagged_only) {
            key |= DependsOn::TAG;
        }
        if key.is_empty() { key } else { key | self.common_key() }
    }

    /// Whether the rule is for this name and this identity.
    pub(crate) fn applies(&self, name: &str, identity: Option<&Identity>) -> bool {
        let rule = &self.0;
        let excepted = |group: &String| rule.except_groups.contains(group);
        rule.repositories.as_ref().is_none_or(|repositories| glob::any(repositories, name))
            && !glob::any(&rule.except_repositories, name)
            && !identity.is_some_and(|identity| identity.groups.iter().any(excepted))
    }

    fn finding(&self, message: String) -> Finding {
        let message = match &self.0.message {
            Some(more) => format!("{message} ({more})"),
            None => message,
        };
        Finding { denies: self.0.mode == Mode::Deny, message }
    }

    /// What is wrong with a request.
    pub(crate) fn about_request(&self, name: &str, request: &Request) -> Vec<Finding> {
        let rule = &self.0;
        let upstream = &request.reference.upstream;
        let mut found = Vec::new();
        let allowed = rule.allowed_upstreams.as_ref();
        if allowed.is_some_and(|allowed| !glob::any(allowed, upstream))
            || glob::any(&rule.denied_upstreams, upstream)
        {
            found.push(format!("images of {upstream} are not allowed here"));
        }
        let allowed = rule.allowed_repositories.as_ref();
        if allowed.is_some_and(|allowed| !glob::any(allowed, name))
            || glob::any(&rule.denied_repositories, name)
        {
            found.push(format!("{name} is not allowed here"));
        }
        let by_tag = request.action == Action::Pull && request.kind == ObjectKind::Manifest;
        let tag = request.reference.tag.as_ref().filter(|_| by_tag);
        if let Some(tag) = tag.filter(|tag| glob::any(&rule.blocked_tags, tag)) {
            found.push(format!("the tag {tag} of {name} is blocked here: pull a version instead"));
        }
        found.into_iter().map(|message| self.finding(message)).collect()
    }

    /// What is wrong with an image, its age apart.
    pub(crate) fn about_image(
        &self,
        name: &str,
        manifest: &Manifest,
        image: &Image,
    ) -> Vec<Finding> {
        let rule = &self.0;
        let mut found = Vec::new();
        match (rule.max_size, image.bytes) {
            (Some(max), Some(bytes)) if bytes > max.0 => {
                found.push(format!("{name} has {bytes} bytes of layers, and {max} are allowed"));
            }
            (Some(max), None) if !image.index => {
                found.push(format!("{name} does not say how large it is: {max} are allowed"));
            }
            _ => {}
        }
        found.extend(self.about_platform(name, image));
        for fact in &rule.required_facts {
            let asked = manifest.reference.tag.is_some() || !fact.tagged_only;
            if asked && !fact.found(&manifest.descriptor.digest) {
                found.push(format!("{name} lacks {}", fact.describe()));
            }
        }
        found.into_iter().map(|message| self.finding(message)).collect()
    }

    /// An index has to offer all platforms that are required; an image has to be of one of them.
    fn about_platform(&self, name: &str, image: &Image) -> Option<String> {
        let required = &self.0.required_platforms;
        if required.is_empty() {
            return None;
        }
        let Some(offered) = &image.platforms else {
            return Some(image.silence(name, "what platform it is for"));
        };
        // `linux/arm64` is also fulfilled by `linux/arm64/v8`.
        let fulfils = |offered: &String, required: &String| {
            offered == required
                || offered.strip_prefix(required.as_str()).is_some_and(|more| more.starts_with('/'))
        };
        if image.index {
            let lacks = |required: &&String| !offered.iter().any(|one| fulfils(one, required));
            let missing: Vec<_> = required.iter().filter(lacks).map(String::as_str).collect();
            return (!missing.is_empty())
                .then(|| format!("{name} is not offered for {}", missing.join(", ")));
        }
        let is_one = |required: &String| offered.iter().any(|one| fulfils(one, required));
        (!required.iter().any(is_one)).then(|| {
            format!("{name} is for {}, not for {}", offered.join(", "), required.join(", "))
        })
    }

    /// Whether an image is too young, and for how long still, as far as that is known.
    pub(crate) fn about_age(
        &self,
        name: &str,
        image: &Image,
        now: u64,
    ) -> Option<(Finding, Option<Duration>)> {
        let min_age = self.0.min_age?;
        let wanted = format!("images have to be {min_age} old");
        let Some(created) = image.created else {
            // The images of an index say it themselves.
            let message = format!("{}: {wanted}", image.silence(name, "how old it is"));
            return (!image.index).then(|| (self.finding(message), None));
        };
        let old_enough = created.saturating_add(min_age.as_ms());
        let wait = old_enough.checked_sub(now).filter(|wait| *wait > 0)?;
        let finding = self.finding(format!("{name} is too young: {wanted}"));
        Some((finding, Some(Duration::from_millis(wait))))
    }
}
