//! Challenges: how a server says what credentials it wants.
//!
//! Source: RFC 9110 section 11.6.1 for `WWW-Authenticate`; RFC 6750 section 3 and docker's
//! `spec/auth/token.md` for `Bearer`.

use std::fmt;

use super::scan::{Scan, push_quoted};

/// The longest header value that is read, in bytes. Longer ones count as not there.
pub const CHALLENGE_BYTES_MAX: usize = 8 * 1024;

/// The most challenges that are read of one answer.
pub const CHALLENGES_MAX: usize = 16;

/// One way to authenticate that a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A token from the server at `realm`.
    Bearer {
        /// The token server's URL, as text that nothing has checked.
        realm: String,
        /// What the token server calls the registry.
        service: Option<String>,
        /// What the token must be good for, such as `repository:library/redis:pull`.
        scope: Option<String>,
        /// Why the token that was sent is not enough, such as `insufficient_scope`.
        error: Option<String>,
    },
    /// A user name and a password.
    Basic {
        /// What they are for; empty where the server does not say.
        realm: String,
    },
    /// A scheme that Pierhead does not speak, or a `Bearer` without a realm.
    Other {
        /// The scheme, in lower case.
        scheme: String,
    },
}

impl Challenge {
    /// Reads the values of all `WWW-Authenticate` headers of an answer. A value is read up to
    /// where it stops to make sense; the challenge that is cut off there is left out.
    pub fn parse_all<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        let mut challenges = Vec::new();
        for value in values {
            if value.len() <= CHALLENGE_BYTES_MAX {
                parse_value(value, &mut challenges);
            }
        }
        challenges
    }

    fn new(scheme: &str, parameters: &Parameters) -> Self {
        if scheme.eq_ignore_ascii_case("basic") {
            return Self::Basic { realm: parameters.get("realm").unwrap_or_default() };
        }
        match parameters.get("realm").filter(|realm| !realm.is_empty()) {
            Some(realm) if scheme.eq_ignore_ascii_case("bearer") => Self::Bearer {
                realm,
                service: parameters.get("service"),
                scope: parameters.get("scope"),
                error: parameters.get("error"),
            },
            _ => Self::Other { scheme: scheme.to_ascii_lowercase() },
        }
    }
}

fn parse_value(value: &str, challenges: &mut Vec<Challenge>) {
    let mut scan = Scan::new(value);
    loop {
        scan.take_while(|c| matches!(c, ',' | ' ' | '\t'));
        let scheme = scan.token();
        if scheme.is_empty() || challenges.len() == CHALLENGES_MAX {
            return;
        }
        let Some(parameters) = Parameters::parse(&mut scan) else { return };
        challenges.push(Challenge::new(scheme, &parameters));
    }
}

/// The parameters of one challenge, names in lower case.
#[derive(Default)]
struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads up to the next challenge or the end. Nothing if it does not make sense.
    fn parse(scan: &mut Scan<'_>) -> Option<Self> {
        let mut parameters = Self::default();
        scan.skip_space();
        // Schemes such as Negotiate have one bare word in place of parameters.
        let mut ahead = *scan;
        let word = ahead.take_while(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        ahead.take_while(|c| c == '=');
        ahead.skip_space();
        if !word.is_empty() && matches!(ahead.peek(), None | Some(',')) {
            *scan = ahead;
            return Some(parameters);
        }
        loop {
            scan.take_while(|c| matches!(c, ',' | ' ' | '\t'));
            if scan.peek().is_none() {
                return Some(parameters);
            }
            let mut ahead = *scan;
            let name = ahead.token();
            ahead.skip_space();
            if name.is_empty() {
                return None;
            }
            if !ahead.eat('=') {
                // A word without a value is the scheme of the next challenge.
                return Some(parameters);
            }
            ahead.skip_space();
            let value = ahead.parameter_value(&[','])?;
            ahead.skip_space();
            if !matches!(ahead.peek(), None | Some(',')) {
                return None;
            }
            parameters.0.push((name.to_ascii_lowercase(), value));
            *scan = ahead;
        }
    }

    /// The first parameter of this name: a second one is against the rules.
    fn get(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    }
}

impl fmt::Display for Challenge {
    /// The challenge as a header's value. Control characters are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        match self {
            Self::Bearer { realm, service, scope, error } => {
                text.push_str("Bearer realm=");
                push_quoted(&mut text, realm);
                for (name, value) in [("service", service), ("scope", scope), ("error", error)] {
                    if let Some(value) = value {
                        text.push(',');
                        text.push_str(name);
                        text.push('=');
                        push_quoted(&mut text, value);
                    }
                }
            }
            Self::Basic { realm } => {
                text.push_str("Basic realm=");
                push_quoted(&mut text, realm);
            }
            Self::Other { scheme } => text.push_str(scheme),
        }
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(value: &str) -> Vec<Challenge> {
        Challenge::parse_all([value])
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
            error: None,
        }
    }

    fn basic(realm: &str) -> Challenge {
        Challenge::Basic { realm: realm.to_owned() }
    }

    fn other(scheme: &str) -> Challenge {
        Challenge::Other { scheme: scheme.to_owned() }
    }

    #[test]
    fn registries() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/redis:pull,push""#;
        let expected = bearer(
            "https://auth.docker.io/token",
            Some("registry.docker.io"),
            Some("repository:library/redis:pull,push"),
        );
        assert_eq!(expected.to_string(), hub);
        assert_eq!(parse(hub), [expected]);
        let ecr = r#"Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#;
        assert_eq!(parse(ecr), [basic("https://1.dkr.ecr.eu-west-1.amazonaws.com/")]);
        assert_eq!(
            parse(r#"bearer Realm = "https://a/t" , SERVICE=b,error="insufficient_scope""#),
            [Challenge::Bearer {
                realm: "https://a/t".to_owned(),
                service: Some("b".to_owned()),
                scope: None,
                error: Some("insufficient_scope".to_owned()),
            }]
        );
    }

    #[test]
    fn several_challenges() {
        // RFC 9110 section 11.6.1.
        assert_eq!(
            parse(
                r#"Basic realm="simple", Newauth realm="apps", type=1, title="Login to \"apps\"""#
            ),
            [basic("simple"), other("newauth")]
        );
        assert_eq!(
            Challenge::parse_all([
                r#"Negotiate, Basic realm="a\\b,c""#,
                "",
                "NTLM dGVzdA==, Bearer realm=x"
            ]),
            [other("negotiate"), basic("a\\b,c"), other("ntlm"), bearer("x", None, None)]
        );
        assert_eq!(parse(r#"Basic , Bearer realm="r""#), [basic(""), bearer("r", None, None)]);
    }

    #[test]
    fn servers_that_do_not_quote() {
        assert_eq!(
            parse("Bearer realm=https://a.example/token?x=y,service=a,scope=repository:b/c:pull"),
            [bearer("https://a.example/token?x=y", Some("a"), Some("repository:b/c:pull"))]
        );
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        assert_eq!(parse("Bearer"), [other("bearer")]);
        assert_eq!(parse(r#"Bearer service="a""#), [other("bearer")]);
        assert_eq!(parse(r#"Bearer realm="""#), [other("bearer")]);
        for value in ["", " ,, ", "=", r#"Bearer realm="open"#, r#"Bearer realm="a"b"#, "\"a\""] {
            assert_eq!(parse(value), [], "{value:?}");
        }
        assert_eq!(parse(r#"Basic realm="a", Bearer realm="open"#), [basic("a")]);
        assert_eq!(parse(r#"Bearer realm="first", realm="second""#), [bearer("first", None, None)]);
        assert_eq!(parse("Bearer realm=\"a\r\nb\""), []);
    }

    #[test]
    fn hostile_sizes_are_capped() {
        assert_eq!(parse(&"Basic, ".repeat(100)).len(), CHALLENGES_MAX);
        assert_eq!(Challenge::parse_all(["Basic"; 100]).len(), CHALLENGES_MAX);
        let long = format!(r#"Basic realm="{}""#, "a".repeat(CHALLENGE_BYTES_MAX));
        assert_eq!(parse(&long), []);
    }

    proptest! {
        #[test]
        fn display_parses_back(
            realm in "\\PC{1,20}",
            service in prop::option::of("\\PC{0,9}"),
            scope in prop::option::of("[\\PC\t]{0,9}"),
            error in prop::option::of("\\PC{0,9}"),
            scheme in "[a-z]{1,4}[!#$0-9]",
        ) {
            let challenges = [
                Challenge::Basic { realm: realm.clone() },
                Challenge::Other { scheme },
                Challenge::Bearer { realm, service, scope, error },
            ];
            let apart: Vec<String> = challenges.iter().map(ToString::to_string).collect();
            prop_assert_eq!(Challenge::parse_all(apart.iter().map(String::as_str)), &challenges);
            prop_assert_eq!(parse(&apart.join(", ")), &challenges);
        }

        #[test]
        fn never_panics(value in "[a-z=\", \\\\]{0,40}|\\PC*") {
            let challenges = parse(&value);
            let text: Vec<String> = challenges.iter().map(ToString::to_string).collect();
            prop_assert_eq!(Challenge::parse_all(text.iter().map(String::as_str)), challenges);
        }
    }
}
