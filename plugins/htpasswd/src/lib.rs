//! Names and passwords from a file that `htpasswd` writes. `docs/plugins/htpasswd.md` has the
//! settings.

mod hash;

use std::collections::BTreeMap;

use pierhead_plugin::{
    AuthOutcome, Authenticator, CallContext, Credentials, Failure, Identity, Plugin,
};
use serde::Deserialize;

use crate::hash::Hash;

/// The most users.
const USERS_MAX: usize = 10_000;

/// The longest name and the longest password that are looked at, in bytes.
const CREDENTIAL_BYTES_MAX: usize = 1024;

/// What somebody is told whose name or password is wrong: not which of them.
const WRONG: &str = "wrong name or password";

/// The mount's settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    users: String,
    #[serde(default)]
    groups: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    unknown_users: UnknownUsers,
    #[serde(default = "issuer")]
    issuer: String,
}

fn issuer() -> String {
    "htpasswd".to_owned()
}

/// What follows for a name that is not in the file.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum UnknownUsers {
    /// They are refused.
    #[default]
    Reject,
    /// The next authenticator is asked.
    Abstain,
}

/// Somebody who may log in.
#[derive(Debug)]
struct User {
    hash: Hash,
    groups: Vec<String>,
}

/// The file, read once.
#[derive(Debug)]
pub struct Htpasswd {
    users: BTreeMap<String, User>,
    unknown_users: UnknownUsers,
    issuer: String,
}

impl Plugin for Htpasswd {
    type Settings = Settings;

    fn configure(settings: Settings) -> Result<Self, Failure> {
        let mut users = BTreeMap::new();
        for (index, line) in settings.users.lines().enumerate() {
            // A hash never stands in a message: it is as good as a secret.
            let wrong =
                |what: &str| Failure::config(format!("config.users, line {}: {what}", index + 1));
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, hash) =
                line.split_once(':').ok_or_else(|| wrong("this is not NAME:HASH"))?;
            if name.is_empty() || name.len() > CREDENTIAL_BYTES_MAX {
                return Err(wrong("the name is empty or too long"));
            }
            let hash = Hash::parse(hash).map_err(|what| wrong(&what))?;
            if users.insert(name.to_owned(), User { hash, groups: Vec::new() }).is_some() {
                return Err(wrong("the name stands there twice"));
            }
        }
        if users.is_empty() {
            return Err(Failure::config("config.users: nobody could log in"));
        }
        if users.len() > USERS_MAX {
            return Err(Failure::config(format!("config.users: more than {USERS_MAX} users")));
        }
        for (group, members) in settings.groups {
            for name in members {
                let member = users.get_mut(&name).ok_or_else(|| {
                    Failure::config(format!("config.groups.{group}: there is no user {name}"))
                })?;
                member.groups.push(group.clone());
            }
        }
        Ok(Self { users, unknown_users: settings.unknown_users, issuer: settings.issuer })
    }
}

impl Htpasswd {
    /// Somebody's hash for a name that nobody has: always the same for the same name. So a wrong
    /// name takes as long as a wrong password, and the times of many wrong names are spread like
    /// those of the users.
    fn stand_in(&self, name: &str) -> Option<&User> {
        // FNV-1a: it only has to spread.
        let number = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let index = usize::try_from(number % self.users.len() as u64).ok()?;
        self.users.values().nth(index)
    }
}

impl Authenticator for Htpasswd {
    fn authenticate(
        &self,
        _: &CallContext,
        credentials: &Credentials,
    ) -> Result<AuthOutcome, Failure> {
        let Credentials::Basic((name, password)) = credentials else {
            return Ok(AuthOutcome::Abstain);
        };
        let fits = name.len() <= CREDENTIAL_BYTES_MAX && password.len() <= CREDENTIAL_BYTES_MAX;
        let known = self.users.get(name).filter(|_| fits);
        let password = if fits { password.as_bytes() } else { b"" };
        let user = known.or_else(|| self.stand_in(name));
        let right = user.is_some_and(|user| user.hash.verify(password));
        Ok(match known {
            Some(user) if right => AuthOutcome::Authenticated(Identity {
                subject: name.clone(),
                issuer: self.issuer.clone(),
                method: "basic".to_owned(),
                groups: user.groups.clone(),
                claims: Vec::new(),
                expires_at: None,
            }),
            None if self.unknown_users == UnknownUsers::Abstain => AuthOutcome::Abstain,
            Some(_) | None => AuthOutcome::Rejected(WRONG.to_owned()),
        })
    }
}

pierhead_plugin::plugin!(Htpasswd: Authenticator;
    settings_schema = include_str!("settings.json"),
    examples = include_str!("examples.json"));

#[cfg(test)]
mod tests;
