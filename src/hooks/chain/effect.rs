//! What follows from an answer, or from there being none: the one place that decides it.
//! `docs/plugins.md` shows the same as a table, and a test holds the two together.

use super::check::Ruling;
use super::guest::Hook;
use super::metrics::Sense;
use super::{Mode, OnError};

/// What came of asking a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It had nothing to say.
    Abstain,
    /// It said yes: a known identity, everything granted, another name, `allow`.
    Allow,
    /// It said no: wrong credentials, not everything granted, `deny`.
    Deny,
    /// It broke, and this is its `on_error`.
    Broke(OnError),
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The next mount is asked.
    Next,
    /// No further mount of this hook is asked; the request goes on.
    Pass,
    /// The request is refused, and nobody else is asked.
    Refuse,
    /// The client gets a warning, and the next mount is asked.
    Warn,
    /// Nothing but a comparison.
    Compare,
}

impl Outcome {
    pub(super) const fn of(ruling: &Ruling) -> Self {
        match ruling {
            Ruling::Abstain => Self::Abstain,
            Ruling::Allow => Self::Allow,
            Ruling::Deny(_) => Self::Deny,
        }
    }
}

impl From<Sense> for Outcome {
    fn from(sense: Sense) -> Self {
        match sense {
            Sense::Abstain => Self::Abstain,
            Sense::Allow => Self::Allow,
            Sense::Deny => Self::Deny,
        }
    }
}

/// What follows from `outcome` of a mount in `mode`.
pub const fn effect(hook: Hook, mode: Mode, outcome: Outcome) -> Effect {
    match mode {
        Mode::Shadow => Effect::Compare,
        // A login, a right or a name cannot be had by a warning.
        Mode::Warn if !hook.is_policy() => Effect::Compare,
        Mode::Warn => match outcome {
            Outcome::Deny | Outcome::Broke(OnError::Deny) => Effect::Warn,
            Outcome::Abstain | Outcome::Allow | Outcome::Broke(OnError::Allow | OnError::Skip) => {
                Effect::Next
            }
        },
        Mode::Enforce => match outcome {
            Outcome::Abstain | Outcome::Broke(OnError::Skip) => Effect::Next,
            Outcome::Deny | Outcome::Broke(OnError::Deny) => Effect::Refuse,
            Outcome::Allow | Outcome::Broke(OnError::Allow) => match hook {
                // Whoever restricts is heard: one that grants does not speak for the others.
                Hook::Authorizer => Effect::Next,
                Hook::Authenticator
                | Hook::Resolver
                | Hook::RequestPolicy
                | Hook::ManifestPolicy => Effect::Pass,
            },
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// What an outcome is called at a hook; none if the hook cannot answer so.
    fn called(hook: Hook, outcome: Outcome) -> Option<&'static str> {
        Some(match (hook, outcome) {
            (_, Outcome::Broke(OnError::Deny)) => "breaks, `on_error = \"deny\"`",
            (_, Outcome::Broke(OnError::Allow)) => "breaks, `on_error = \"allow\"`",
            (_, Outcome::Broke(OnError::Skip)) => "breaks, `on_error = \"skip\"`",
            (Hook::Authorizer, Outcome::Abstain) | (Hook::Resolver, Outcome::Deny) => return None,
            (_, Outcome::Abstain) => "abstains",
            (Hook::Authenticator, Outcome::Allow) => "knows who it is",
            (Hook::Authenticator, Outcome::Deny) => "rejects the credentials",
            (Hook::Authorizer, Outcome::Allow) => "grants everything",
            (Hook::Authorizer, Outcome::Deny) => "grants a part or nothing",
            (Hook::Resolver, Outcome::Allow) => "names another",
            (_, Outcome::Allow) => "allows",
            (_, Outcome::Deny) => "denies",
        })
    }

    fn text(hook: Hook, outcome: Outcome) -> &'static str {
        match (effect(hook, Mode::Enforce, outcome), hook, outcome) {
            (Effect::Next, Hook::Authorizer, Outcome::Allow) => {
                "the next one is asked too: all that fit have to grant"
            }
            (Effect::Next, Hook::Authorizer, Outcome::Broke(OnError::Allow)) => {
                "the next one is asked; nothing is granted that would not be without it"
            }
            (Effect::Next, ..) => "the next one is asked",
            (Effect::Pass, Hook::Authenticator, Outcome::Allow) => {
                "that is the identity; nobody else is asked"
            }
            (Effect::Pass, Hook::Authenticator, _) => "goes on as anonymous; nobody else is asked",
            (Effect::Pass, Hook::Resolver, Outcome::Allow) => {
                "that name is used; nobody else is asked"
            }
            (Effect::Pass, Hook::Resolver, _) => "the name stays; nobody else is asked",
            (Effect::Pass, ..) => "goes on; nobody else is asked",
            (Effect::Refuse, Hook::Authenticator, Outcome::Deny) => {
                "401 `UNAUTHORIZED` with its message"
            }
            (Effect::Refuse, Hook::Authorizer, Outcome::Deny) => {
                "a request: 401 without an identity if an authenticator is mounted, else 403 \
                 `DENIED`; a token: without that part"
            }
            (Effect::Refuse, Hook::RequestPolicy | Hook::ManifestPolicy, Outcome::Deny) => {
                "refused with its code and message"
            }
            (Effect::Refuse, ..) => "403 `DENIED`; the message names the mount and the cause",
            (Effect::Warn | Effect::Compare, ..) => panic!("not in mode enforce"),
        }
    }

    #[test]
    fn the_table_in_the_documentation_says_what_the_code_does() {
        let mut table = "| hook | the plugin | what follows |\n|---|---|---|\n".to_owned();
        let answers = [Outcome::Abstain, Outcome::Allow, Outcome::Deny];
        for hook in Hook::ALL {
            for outcome in answers.into_iter().chain(OnError::ALL.map(Outcome::Broke)) {
                let Some(called) = called(hook, outcome) else { continue };
                let default = if outcome == Outcome::Broke(OnError::of(hook)) {
                    " (the default)"
                } else {
                    ""
                };
                let _ = writeln!(table, "| {hook} | {called}{default} | {} |", text(hook, outcome));
            }
        }
        let page = include_str!("../../../docs/plugins.md");
        assert!(page.contains(&table), "docs/plugins.md should have this table:\n{table}");
    }

    #[test]
    fn only_policies_can_warn_and_shadows_do_nothing() {
        let all = [Outcome::Abstain, Outcome::Allow, Outcome::Deny]
            .into_iter()
            .chain(OnError::ALL.map(Outcome::Broke));
        for outcome in all {
            for hook in Hook::ALL {
                assert_eq!(effect(hook, Mode::Shadow, outcome), Effect::Compare);
                let warned = effect(hook, Mode::Warn, outcome);
                let refused = effect(hook, Mode::Enforce, outcome) == Effect::Refuse;
                match (hook.is_policy(), refused) {
                    (false, _) => assert_eq!(warned, Effect::Compare),
                    (true, true) => assert_eq!(warned, Effect::Warn),
                    (true, false) => assert_eq!(warned, Effect::Next),
                }
            }
        }
    }
}
