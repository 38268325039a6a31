//! Who it is, and what they may do.

use std::sync::Arc;

use super::check;
use super::effect::{Effect, Outcome, effect};
use super::guest::{Authenticated, Broke, Hook};
use super::logins::{Key, Known};
use super::metrics::{Compared, Sense};
use super::mount::Mount;
use super::{Chain, OnError, Shared, shadow};
use crate::hooks::answer::line;
use crate::hooks::{Action, Anonymous, Context, Denial, Identity, Presented, Target, WantedScope};

/// What a rejection says if the plugin does not.
const WRONG_CREDENTIALS: &str = "the credentials are wrong";

/// What a client without an identity is told where it can have one.
const LOG_IN: &str = "authentication required";

/// Who somebody without an identity is, where nobody gives one.
const ANONYMOUS: &str = "an anonymous client";

/// An authenticator's answer, made fit.
#[derive(Debug)]
enum Who {
    Unknown,
    Known(Arc<Identity>),
    Rejected(String),
}

/// One action in one repository, on its way through the authorizers.
struct Wish {
    scope: usize,
    action: Action,
    granted: bool,
    /// Whether an authorizer had a say; if none has, the rule without authorizers decides.
    decided: bool,
}

impl Chain {
    /// Whether nothing is mounted that says who somebody is or what they may do.
    pub(super) fn is_open(&self) -> bool {
        self.of(Hook::Authenticator).is_empty() && self.of(Hook::Authorizer).is_empty()
    }

    /// Who it is. What the `Authorization` header holds is asked about first: it says more than a
    /// certificate beside it, which a proxy or a whole house may share. If nobody knows it, the
    /// certificate counts, which TLS has verified already.
    pub(super) async fn authenticate(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        context: &Context,
        presented: &Presented,
    ) -> Known {
        let Presented::Certificate { certificate, beside } = presented else {
            return self.who(shared, context, presented).await;
        };
        if !matches!(**beside, Presented::Anonymous)
            && let Some(identity) = self.who(shared, context, beside).await?
        {
            return Ok(Some(identity));
        }
        match self.who(shared, context, presented).await? {
            Some(identity) => Ok(Some(identity)),
            None => Ok(Some(Arc::new(Identity::of_certificate(certificate)))),
        }
    }

    /// What is kept of these credentials, or what comes of asking; once for all who present the
    /// same at the same time.
    async fn who(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        context: &Context,
        presented: &Presented,
    ) -> Known {
        let Some(key) = shared.logins.key(self.generation, presented, &context.client) else {
            return self.ask_all(shared, context, presented, None).await;
        };
        if let Some(known) = shared.logins.get(&key) {
            return Ok(known);
        }
        let flight = shared.flights.join(key, || {
            let (chain, shared) = (Arc::clone(self), Arc::clone(shared));
            let (context, presented) = (context.clone(), presented.clone());
            async move { chain.ask_all(&shared, &context, &presented, Some(key)).await }
        });
        flight.await
    }

    async fn ask_all(
        &self,
        shared: &Arc<Shared>,
        context: &Context,
        presented: &Presented,
        key: Option<Key>,
    ) -> Known {
        let hook = Hook::Authenticator;
        let mut result = Ok(None);
        // What follows from a break is not to be used again.
        let mut broke = false;
        for mount in self.of(hook) {
            if !mount.counts(hook) {
                continue;
            }
            let who = ask(shared, mount, context, presented).await;
            broke |= who.is_err();
            let outcome = match &who {
                Ok(Who::Unknown) => Outcome::Abstain,
                Ok(Who::Known(_)) => Outcome::Allow,
                Ok(Who::Rejected(_)) => Outcome::Deny,
                Err(_) => Outcome::Broke(mount.on_error(hook)),
            };
            match (effect(hook, mount.mode, outcome), who) {
                (Effect::Pass, Ok(Who::Known(identity))) => result = Ok(Some(identity)),
                (Effect::Pass, _) => {}
                (Effect::Refuse, Ok(Who::Rejected(message))) => {
                    result = Err(Denial::unauthorized(message));
                }
                (Effect::Refuse, Err(broke)) => result = Err(mount.unable(&broke)),
                _ => continue,
            }
            break;
        }
        if let (Ok(identity), Some(key), false) = (&result, key, broke) {
            shared.logins.put(key, identity.as_ref(), shared.clock.now());
        }
        for mount in self.of(hook) {
            if !mount.counts(hook) {
                compare_login(shared, mount, context, presented, &result);
            }
        }
        result
    }

    /// Whether a request is granted.
    pub(super) async fn authorize(
        &self,
        shared: &Arc<Shared>,
        context: &Context,
        target: &Target,
    ) -> Result<(), Denial> {
        // The usual mirror with a login needs no scope to be written out.
        if self.of(Hook::Authorizer).is_empty()
            && self.may_by_default(context, target.object.action())
        {
            return Ok(());
        }
        let wanted = [WantedScope::of(target)];
        let granted = self.authorize_scopes(shared, context, &wanted).await?;
        if granted == wanted {
            return Ok(());
        }
        let who = match &context.identity {
            Some(identity) => line(&identity.subject, check::MESSAGE_BYTES_MAX / 4),
            None if self.decides(Hook::Authenticator) => return Err(Denial::unauthorized(LOG_IN)),
            // There is nowhere to log in.
            None => ANONYMOUS.to_owned(),
        };
        let action = target.object.action();
        Err(Denial::denied(format!("{who} may not {action} {}", target.scope)))
    }

    /// The part of `wanted` that every authorizer that fits grants. Where none fits, everybody
    /// with an identity may read; and so may anonymous clients, if there is no authenticator or
    /// it was said so.
    pub(super) async fn authorize_scopes(
        &self,
        shared: &Arc<Shared>,
        context: &Context,
        wanted: &[WantedScope],
    ) -> Result<Vec<WantedScope>, Denial> {
        let hook = Hook::Authorizer;
        let mut wishes: Vec<Wish> = wanted
            .iter()
            .enumerate()
            .flat_map(|(scope, wanted)| wanted.actions.iter().map(move |action| (scope, *action)))
            .map(|(scope, action)| Wish { scope, action, granted: true, decided: false })
            .collect();
        for mount in self.of(hook) {
            if !mount.counts(hook) {
                continue;
            }
            let asked = part(wanted, &wishes, |wish| {
                wish.granted
                    && wanted
                        .get(wish.scope)
                        .is_some_and(|scope| mount.filter().fits_wanted(scope, wish.action))
            });
            if asked.iter().all(|scope| scope.actions.is_empty()) {
                continue;
            }
            let granted = match grant(shared, mount, context, &asked).await {
                Ok(granted) => granted,
                Err(broke) => match mount.on_error(hook) {
                    // What may be had without it is all that a plugin that is not there can allow.
                    OnError::Skip | OnError::Allow => continue,
                    OnError::Deny => return Err(mount.unable(&broke)),
                },
            };
            for wish in &mut wishes {
                let has = |part: &[WantedScope]| {
                    part.get(wish.scope).is_some_and(|scope| scope.actions.contains(&wish.action))
                };
                if has(&asked) {
                    wish.decided = true;
                    wish.granted = has(&granted);
                }
            }
        }
        for wish in wishes.iter_mut().filter(|wish| !wish.decided) {
            wish.granted = self.may_by_default(context, wish.action);
        }
        let mut granted = part(wanted, &wishes, |wish| wish.granted);
        for mount in self.of(hook) {
            if !mount.counts(hook) {
                compare_grant(shared, mount, context, wanted, &granted);
            }
        }
        granted.retain(|scope| !scope.actions.is_empty());
        Ok(granted)
    }

    /// What holds without an authorizer.
    fn may_by_default(&self, context: &Context, action: Action) -> bool {
        let known = context.identity.is_some()
            || self.anonymous == Anonymous::Pull
            || !self.decides(Hook::Authenticator);
        known && action.is_read()
    }
}

/// `wanted` with those actions whose wish passes, scope by scope; scopes may be left with none.
fn part(
    wanted: &[WantedScope],
    wishes: &[Wish],
    passes: impl Fn(&Wish) -> bool,
) -> Vec<WantedScope> {
    let mut part: Vec<WantedScope> = wanted
        .iter()
        .map(|scope| WantedScope { repository: scope.repository.clone(), actions: Vec::new() })
        .collect();
    for wish in wishes.iter().filter(|wish| passes(wish)) {
        if let Some(scope) = part.get_mut(wish.scope) {
            scope.actions.push(wish.action);
        }
    }
    part
}

async fn ask(
    shared: &Shared,
    mount: &Mount,
    context: &Context,
    presented: &Presented,
) -> Result<Who, Broke> {
    let now = shared.clock.now();
    let fit = |answer| match answer {
        Authenticated::Abstain => Ok((Who::Unknown, Sense::Abstain)),
        Authenticated::Known(identity) => {
            let identity = check::identity(&mount.name, identity, now)?;
            Ok((Who::Known(Arc::new(identity)), Sense::Allow))
        }
        Authenticated::Rejected(message) => {
            let message = line(&message, check::MESSAGE_BYTES_MAX);
            let message = if message.is_empty() { WRONG_CREDENTIALS.to_owned() } else { message };
            Ok((Who::Rejected(message), Sense::Deny))
        }
    };
    mount
        .call(
            shared,
            context,
            Hook::Authenticator,
            |guest, call| guest.authenticate(call, presented),
            fit,
        )
        .await
}

async fn grant(
    shared: &Shared,
    mount: &Mount,
    context: &Context,
    asked: &[WantedScope],
) -> Result<Vec<WantedScope>, Broke> {
    let wanted: Vec<WantedScope> =
        asked.iter().filter(|scope| !scope.actions.is_empty()).cloned().collect();
    let fit = |granted: Vec<WantedScope>| {
        let granted = check::granted(asked, &granted)?;
        let sense = if granted == asked { Sense::Allow } else { Sense::Deny };
        Ok((granted, sense))
    };
    mount
        .call(shared, context, Hook::Authorizer, |guest, call| guest.authorize(call, &wanted), fit)
        .await
}

fn compare_login(
    shared: &Arc<Shared>,
    mount: &Arc<Mount>,
    context: &Context,
    presented: &Presented,
    result: &Result<Option<Arc<Identity>>, Denial>,
) {
    let hook = Hook::Authenticator;
    let of = (Arc::clone(shared), Arc::clone(mount), context.clone(), presented.clone());
    let subject = |identity: &Arc<Identity>| identity.subject.clone();
    let enforced = result.as_ref().map(|known| known.as_ref().map(subject)).map_err(|_| ());
    let ran = shared.shadows.run(async move {
        let (shared, mount, context, presented) = of;
        let compared = match ask(&shared, &mount, &context, &presented).await {
            Ok(Who::Unknown) => Compared::Agrees,
            Ok(Who::Known(identity)) => match enforced {
                Ok(Some(subject)) if subject == identity.subject => Compared::Agrees,
                Ok(Some(_)) => Compared::Differs,
                Ok(None) | Err(()) => Compared::WouldAllow,
            },
            Ok(Who::Rejected(_)) if enforced.is_err() => Compared::Agrees,
            Ok(Who::Rejected(_)) => Compared::WouldDeny,
            Err(_) => Compared::Broke,
        };
        shadow::note(&shared.metrics, &mount, hook, &context, compared, None);
    });
    if !ran {
        shadow::note(&shared.metrics, mount, hook, context, Compared::Skipped, None);
    }
}

fn compare_grant(
    shared: &Arc<Shared>,
    mount: &Arc<Mount>,
    context: &Context,
    wanted: &[WantedScope],
    granted: &[WantedScope],
) {
    let hook = Hook::Authorizer;
    let of = (Arc::clone(shared), Arc::clone(mount), context.clone());
    let fitting = |scopes: &[WantedScope]| {
        let mut scopes = scopes.to_vec();
        for scope in &mut scopes {
            let actions = std::mem::take(&mut scope.actions);
            scope.actions = actions
                .into_iter()
                .filter(|action| mount.filter().fits_wanted(scope, *action))
                .collect();
        }
        scopes
    };
    let (asked, enforced) = (fitting(wanted), fitting(granted));
    if asked.iter().all(|scope| scope.actions.is_empty()) {
        return;
    }
    let ran = shared.shadows.run(async move {
        let (shared, mount, context) = of;
        let count = |scopes: &[WantedScope]| -> usize {
            scopes.iter().map(|scope| scope.actions.len()).sum()
        };
        let compared = match grant(&shared, &mount, &context, &asked).await {
            Ok(would) if would == enforced => Compared::Agrees,
            Ok(would) if count(&would) < count(&enforced) => Compared::WouldDeny,
            Ok(would) if count(&would) > count(&enforced) => Compared::WouldAllow,
            Ok(_) => Compared::Differs,
            Err(_) => Compared::Broke,
        };
        shadow::note(&shared.metrics, &mount, hook, &context, compared, None);
    });
    if !ran {
        shadow::note(&shared.metrics, mount, hook, context, Compared::Skipped, None);
    }
}
