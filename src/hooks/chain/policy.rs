//! Policies and resolvers, mount by mount.

use std::collections::HashSet;
use std::sync::Arc;

use super::check::{self, Ruling, WARNING_BYTES_MAX};
use super::effect::{Effect, Outcome, effect};
use super::guest::{Broke, Hook, Proposed};
use super::metrics::{Compared, Sense};
use super::mount::{Judged, Mount};
use super::question::{Inputs, Question};
use super::{Chain, Shared, shadow};
use crate::hooks::answer::line;
use crate::hooks::{Allowed, Context, Denial, Target, Verdict};
use crate::scope::UpstreamName;

/// The most warnings that one answer carries for one hook: a head has only so much room.
pub(super) const WARNINGS_MAX: usize = 8;

impl Chain {
    /// Asks the policies that fit, in their order.
    ///
    /// Cancel-safe.
    pub(super) async fn judge(
        &self,
        shared: &Arc<Shared>,
        context: &Context,
        question: Question<'_>,
    ) -> Verdict {
        let hook = question.hook();
        let mut warnings = Vec::new();
        let mut refusal = None;
        for mount in self.of(hook) {
            if !mount.counts(hook) || !mount.fits(question) {
                continue;
            }
            let judged = mount.judge(shared, context, question).await;
            let outcome = match &judged {
                Ok(judged) => {
                    judged.oblige(context, &mut warnings);
                    Outcome::of(&judged.ruling)
                }
                Err(_) => Outcome::Broke(mount.on_error(hook)),
            };
            match effect(hook, mount.mode, outcome) {
                Effect::Next | Effect::Compare => {}
                Effect::Pass => break,
                Effect::Refuse => {
                    refusal = Some(denial(mount, &judged));
                    break;
                }
                Effect::Warn => {
                    shared.metrics.warned(&mount.name, hook);
                    let would = denial(mount, &judged).message;
                    let text = format!("{} would refuse this: {would}", mount.name);
                    warnings.push(line(&text, WARNING_BYTES_MAX));
                }
            }
        }
        for mount in self.of(hook) {
            if !mount.counts(hook) && mount.fits(question) {
                compare(shared, mount, context, question, refusal.is_some());
            }
        }
        warnings.truncate(WARNINGS_MAX);
        refusal.map_or(Ok(Allowed { warnings }), Err)
    }

    /// Asks the resolvers that fit, until one names another name.
    ///
    /// Cancel-safe.
    pub(super) async fn resolve(
        &self,
        shared: &Arc<Shared>,
        context: &Context,
        target: Target,
    ) -> Result<Target, Denial> {
        let hook = Hook::Resolver;
        let mut resolved = None;
        for mount in self.of(hook) {
            if !mount.counts(hook) || !fits(mount, &target) {
                continue;
            }
            let mapped = map(shared, mount, context, &target, &self.upstreams).await;
            let outcome = match &mapped {
                Ok(None) => Outcome::Abstain,
                Ok(Some(_)) => Outcome::Allow,
                Err(_) => Outcome::Broke(mount.on_error(hook)),
            };
            match (effect(hook, mount.mode, outcome), mapped) {
                (Effect::Refuse, Err(broke)) => return Err(mount.unable(&broke)),
                (Effect::Pass, mapped) => {
                    resolved = mapped.unwrap_or_default();
                    break;
                }
                _ => {}
            }
        }
        for mount in self.of(hook) {
            if !mount.counts(hook) && fits(mount, &target) {
                self.compare_name(shared, mount, context, &target, resolved.as_ref());
            }
        }
        Ok(resolved.unwrap_or(target))
    }

    fn compare_name(
        &self,
        shared: &Arc<Shared>,
        mount: &Arc<Mount>,
        context: &Context,
        target: &Target,
        resolved: Option<&Target>,
    ) {
        let work = {
            let (shared, mount, context) = (Arc::clone(shared), Arc::clone(mount), context.clone());
            let (target, resolved) = (target.clone(), resolved.cloned());
            let upstreams = self.upstreams.clone();
            async move {
                let mapped = map(&shared, &mount, &context, &target, &upstreams).await;
                let compared = match mapped {
                    Ok(mapped) if mapped == resolved => Compared::Agrees,
                    Ok(_) => Compared::Differs,
                    Err(_) => Compared::Broke,
                };
                shadow::note(&shared.metrics, &mount, Hook::Resolver, &context, compared, None);
            }
        };
        if !shared.shadows.run(work) {
            let skipped = Compared::Skipped;
            shadow::note(&shared.metrics, mount, Hook::Resolver, context, skipped, None);
        }
    }
}

async fn map(
    shared: &Shared,
    mount: &Mount,
    context: &Context,
    target: &Target,
    upstreams: &HashSet<UpstreamName>,
) -> Result<Option<Target>, Broke> {
    let fit = |proposed: Option<Proposed>| match proposed {
        None => Ok((None, Sense::Abstain)),
        Some(proposed) => Ok((Some(check::proposed(target, &proposed, upstreams)?), Sense::Allow)),
    };
    mount
        .call(shared, context, Hook::Resolver, |guest, call| guest.resolve(call, target), fit)
        .await
}

fn fits(mount: &Mount, target: &Target) -> bool {
    mount.filter().fits(&target.scope, target.object.action(), None)
}

/// The refusal that a mount's answer stands for.
fn denial(mount: &Mount, judged: &Result<Arc<Judged>, Broke>) -> Denial {
    match judged {
        Ok(judged) => match &judged.ruling {
            Ruling::Deny(denial) => denial.clone(),
            // Only a refusal has this effect.
            Ruling::Abstain | Ruling::Allow => Denial::denied(format!("refused by {}", mount.name)),
        },
        Err(broke) => mount.unable(broke),
    }
}

/// Compares a shadow's verdict with what was enforced: at once if it is at hand, else by a task.
fn compare(
    shared: &Arc<Shared>,
    mount: &Arc<Mount>,
    context: &Context,
    question: Question<'_>,
    refused: bool,
) {
    let hook = question.hook();
    if let Some(judged) = mount.at_hand(shared, &Inputs::of(context, question), hook) {
        note(shared, mount, hook, context, Ok(&judged), refused);
        return;
    }
    let (kept, of) = (question.keep(), (Arc::clone(shared), Arc::clone(mount), context.clone()));
    let ran = shared.shadows.run(async move {
        let (shared, mount, context) = of;
        let judged = mount.judge(&shared, &context, kept.question()).await;
        note(&shared, &mount, hook, &context, judged.as_deref(), refused);
    });
    if !ran {
        shadow::note(&shared.metrics, mount, hook, context, Compared::Skipped, None);
    }
}

fn note(
    shared: &Shared,
    mount: &Mount,
    hook: Hook,
    context: &Context,
    judged: Result<&Judged, &Broke>,
    refused: bool,
) {
    let (compared, why) = match judged.map(|judged| &judged.ruling) {
        Err(_) => (Compared::Broke, None),
        Ok(Ruling::Abstain) => (Compared::Agrees, None),
        Ok(Ruling::Allow) if refused => (Compared::WouldAllow, None),
        Ok(Ruling::Deny(denial)) if !refused => {
            (Compared::WouldDeny, Some(denial.message.as_str()))
        }
        Ok(Ruling::Allow | Ruling::Deny(_)) => (Compared::Agrees, None),
    };
    shadow::note(&shared.metrics, mount, hook, context, compared, why);
}
