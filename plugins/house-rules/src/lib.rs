//! What a house wants of its images: no tags that move, only some upstreams and repositories, not
//! too young, not too large, for the right platform, signed. `docs/plugins/house-rules.md` has the
//! settings.

mod image;
mod rule;

use std::time::Duration;

use pierhead_plugin::{
    CallContext, DependsOn, Failure, Manifest, ManifestPolicy, Plugin, Reference, Request,
    RequestPolicy, Stage, Verdict,
};

use crate::image::Image;
use crate::rule::{Finding, Rule, Settings};

/// How long a verdict may be used again, unless time itself changes it earlier.
const REUSE: Duration = Duration::from_secs(600);

/// The rules, made of settings once.
#[derive(Debug)]
pub struct HouseRules {
    rules: Vec<Rule>,
    /// What a verdict on a request depends on.
    request_key: DependsOn,
    /// What a verdict on a manifest depends on.
    manifest_key: DependsOn,
}

impl Plugin for HouseRules {
    type Settings = Settings;

    fn configure(settings: Settings) -> Result<Self, Failure> {
        let rules = settings.into_rules()?;
        let union = |key: fn(&Rule) -> DependsOn| {
            rules.iter().map(key).fold(DependsOn::empty(), |all, one| all | one)
        };
        let request_key = union(Rule::request_key);
        let manifest_key = union(Rule::manifest_key);
        Ok(Self { rules, request_key, manifest_key })
    }
}

impl HouseRules {
    /// The rules that are for this call.
    fn applying<'a>(
        &'a self,
        ctx: &'a CallContext,
        name: &'a str,
    ) -> impl Iterator<Item = &'a Rule> {
        self.rules.iter().filter(move |rule| rule.applies(name, ctx.identity.as_ref()))
    }
}

/// The name that rules match: upstream and repository.
fn name_of(reference: &Reference) -> String {
    format!("{}/{}", reference.upstream, reference.repository)
}

/// A verdict of what was found.
fn verdict(findings: Vec<Finding>) -> Verdict {
    let (denied, warned): (Vec<_>, Vec<_>) = findings.into_iter().partition(|found| found.denies);
    let reasons: Vec<String> = denied.into_iter().map(|found| found.message).collect();
    let verdict =
        if reasons.is_empty() { Verdict::abstain() } else { Verdict::deny(reasons.join("; ")) };
    warned.into_iter().fold(verdict, |verdict, found| verdict.warn(found.message))
}

impl RequestPolicy for HouseRules {
    fn evaluate_request(&self, ctx: &CallContext, request: &Request) -> Result<Verdict, Failure> {
        let name = name_of(&request.reference);
        let findings =
            self.applying(ctx, &name).flat_map(|rule| rule.about_request(&name, request)).collect();
        Ok(verdict(findings).reuse(REUSE, self.request_key))
    }
}

impl ManifestPolicy for HouseRules {
    fn evaluate_manifest(
        &self,
        ctx: &CallContext,
        _: Stage,
        manifest: &Manifest,
    ) -> Result<Verdict, Failure> {
        let name = name_of(&manifest.reference);
        let mut reuse = REUSE;
        // Signatures, attestations and other artifacts are no images, and no rule is about them.
        let findings = match Image::read(manifest)? {
            None => Vec::new(),
            Some(image) => {
                let mut findings = Vec::new();
                for rule in self.applying(ctx, &name) {
                    findings.extend(rule.about_image(&name, manifest, &image));
                    if let Some((finding, wait)) = rule.about_age(&name, &image, ctx.now) {
                        findings.push(finding);
                        // The moment that it is old enough, the verdict is another one.
                        reuse = reuse.min(wait.unwrap_or(reuse));
                    }
                }
                findings
            }
        };
        Ok(verdict(findings).reuse(reuse, self.manifest_key))
    }
}

pierhead_plugin::plugin!(HouseRules: RequestPolicy, ManifestPolicy;
    settings_schema = include_str!("settings.json"),
    examples = include_str!("examples.json"));

#[cfg(test)]
mod tests;
