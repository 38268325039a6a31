//! `[auth]`: who has to log in, and the tokens they get.

use std::time::Duration;

use toml::de::DeValue;
use url::Url;

use super::AuthSettings;
use super::defaults;
use super::resolve::host_and_port;
use super::sections::AuthSection;
use super::values::{Refusal, Text, Timeout, Value, read_text};
use crate::hooks::Anonymous;
use crate::hooks::chain::{Hook, Mode};
use crate::plugins::settings::{MountPlan, PluginSettings};
use crate::plugins::source::Source;
use crate::token::settings::{TOKEN_TTL_MAX, TOKEN_TTL_MIN, TokenSettings};

/// The longest name of the service, in bytes.
const SERVICE_BYTES_MAX: usize = 255;

impl Text for Anonymous {
    const EXPECTED: &'static str = "\"deny\" or \"pull\"";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "deny" => Ok(Self::Deny),
            "pull" => Ok(Self::Pull),
            _ => Err("anonymous clients may \"deny\" (nothing) or \"pull\"".to_owned()),
        }
    }
}

/// How long a token is good for.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenTtl(pub(super) Duration);

impl Text for TokenTtl {
    const EXPECTED: &'static str = Timeout::EXPECTED;

    fn parse(text: &str) -> Result<Self, String> {
        let Timeout(ttl) = Timeout::parse(text)?;
        if (TOKEN_TTL_MIN..=TOKEN_TTL_MAX).contains(&ttl) {
            Ok(Self(ttl))
        } else {
            Err(format!(
                "a token lasts {} s to {} s: docker takes a shorter one for the former, and nobody \
                 can take one back",
                TOKEN_TTL_MIN.as_secs(),
                TOKEN_TTL_MAX.as_secs()
            ))
        }
    }
}

/// What challenges call this registry; empty means its own name.
#[derive(Clone, Debug)]
pub(super) struct TokenService(pub(super) String);

impl Text for TokenService {
    const EXPECTED: &'static str = "a name such as \"mirror.example.com\"";

    fn parse(text: &str) -> Result<Self, String> {
        let fits = text.len() <= SERVICE_BYTES_MAX
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:/".contains(&b));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "a service's name has at most {SERVICE_BYTES_MAX} letters, digits and -._:/"
            ))
        }
    }
}

macro_rules! texts {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn read(value: &DeValue<'_>) -> Result<Self, Refusal> {
                read_text(value)
            }
        }
    )*};
}

texts!(Anonymous, TokenTtl, TokenService);

/// Who has to log in, and the tokens they get.
pub(super) fn resolve(keys: AuthSection, public_url: Option<&Url>) -> AuthSettings {
    let service = keys.service.map(|at| at.value.0).filter(|service| !service.is_empty());
    let own = || public_url.and_then(host_and_port);
    AuthSettings {
        anonymous: keys.anonymous.map_or(Anonymous::Deny, |at| at.value),
        tokens: TokenSettings {
            ttl: keys.token_ttl.map_or(defaults::TOKEN_TTL, |at| at.value.0),
            service: service.or_else(own).unwrap_or_else(|| defaults::TOKEN_SERVICE.to_owned()),
        },
    }
}

/// Bundled plugins that say who somebody is. Of others, only their mount tells before they are
/// loaded.
const AUTHENTICATORS: [&str; 2] = ["htpasswd", "oidc"];

/// Whether nobody can read without having logged in: a plugin is asked who it is, its answers
/// count, and anonymous clients may do nothing. What an authorizer grants to these all the same is
/// the operator's own word.
pub(super) fn asks_everybody(auth: &AuthSettings, plugins: &PluginSettings) -> bool {
    let authenticates = |plan: &MountPlan| match (&plan.hooks, &plan.source) {
        (Some(hooks), _) => hooks.contains(&Hook::Authenticator),
        (None, Source::Builtin(name)) => AUTHENTICATORS.contains(&name.as_str()),
        (None, _) => false,
    };
    let counts = |plan: &MountPlan| plan.mount.mode == Mode::Enforce && authenticates(plan);
    auth.anonymous == Anonymous::Deny && plugins.mounts.iter().any(counts)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::from_text;

    fn auth(text: &str) -> Result<AuthSettings, String> {
        let no_files = |_: &Path, _: usize| Ok(Vec::new());
        let config = from_text("p.toml", text, [], &no_files);
        config.map(|config| config.auth).map_err(|error| error.to_string())
    }

    #[test]
    fn whoever_says_nothing_lets_nobody_in_unknown() {
        let auth = auth("").unwrap();
        assert_eq!(auth.anonymous, Anonymous::Deny);
        assert_eq!(
            (auth.tokens.ttl, &*auth.tokens.service),
            (Duration::from_secs(300), "pierhead")
        );
    }

    #[test]
    fn the_service_is_called_as_its_host_or_as_was_set() {
        let public = "[server]\npublic_url = \"https://mirror.example.com:8443\"\n";
        assert_eq!(auth(public).unwrap().tokens.service, "mirror.example.com:8443");
        let set = format!("{public}[auth]\nservice = \"ours\"\nanonymous = \"pull\"");
        let set = auth(&set).unwrap();
        assert_eq!((&*set.tokens.service, set.anonymous), ("ours", Anonymous::Pull));
    }

    #[test]
    fn whoever_asks_everybody_may_have_credentials_upstream() {
        let config = |listen: &str, more: &str| {
            let text = format!(
                "[server]\nlisten = \"{listen}\"\n[upstream.\"ghcr.io\"]\nusername = \"u\"\n\
                 password_file = \"p\"\n{more}"
            );
            let file = |_: &Path, _: usize| Ok(b"secret".to_vec());
            from_text("p.toml", &text, [], &file).map_err(|error| error.to_string())
        };
        let open = "0.0.0.0:5000";
        let users = "[plugin.users]\nsource = \"builtin:htpasswd\"\n";
        let own = "[plugin.own]\nsource = \"file:own.wasm\"\n";
        let hook = |hook: &str| format!("{own}hooks = [\"{hook}\"]\n");
        for more in [users, &hook("authenticator"), &format!("{users}[auth]\nanonymous = \"deny\"")]
        {
            let config = config(open, more).unwrap_or_else(|error| panic!("{more}: {error}"));
            let told = config.notices.iter().any(|notice| notice.contains("without TLS"));
            assert!(told, "{:?}", config.notices);
        }
        for more in [
            "",
            own,
            &hook("authorizer"),
            &format!("{users}mode = \"shadow\"\n"),
            &format!("{users}mode = \"warn\"\n"),
            &format!("{users}[auth]\nanonymous = \"pull\""),
        ] {
            let error = config(open, more).expect_err(more);
            assert!(error.contains("private images"), "{more}: {error}");
        }
        let quiet = config("127.0.0.1:5000", users).unwrap();
        assert_eq!(quiet.notices, [""; 0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, says) in [
            ("anonymous = \"push\"", "\"deny\" (nothing) or \"pull\""),
            ("anonymous = true", "expected \"deny\" or \"pull\""),
            ("token_ttl = \"59s\"", "60 s to 3600 s"),
            ("token_ttl = \"1h 1s\"", "60 s to 3600 s"),
            ("token_ttl = \"0s\"", "cannot be zero"),
            ("token_ttl = 300", "expected a duration"),
            ("service = \"a b\"", "letters, digits"),
            ("service = \"a\\\"b\"", "letters, digits"),
            ("ttl = \"5m\"", "no key `ttl`"),
        ] {
            let error = auth(&format!("[auth]\n{line}")).expect_err(line);
            assert!(error.contains(says), "{line}: {error}");
        }
    }
}
