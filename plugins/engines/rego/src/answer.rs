//! What a policy says, read from the values of its rules.

use pierhead_plugin::{ErrorCode, Failure, Verdict};
use serde::Deserialize;

/// What somebody is told whom a policy refuses without words.
const REFUSED: &str = "the registry's policy refuses this";

/// What somebody is told whom nothing allows.
const NOT_ALLOWED: &str = "the registry's policy does not allow this";

/// What a policy says.
#[derive(Debug, Default)]
pub(crate) struct Said {
    denied: Vec<Refusal>,
    warned: Vec<String>,
    allowed: bool,
}

/// One refusal: a message, or an object with more.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Refusal {
    Message(String),
    More(More),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct More {
    message: String,
    #[serde(default)]
    code: Code,
    #[serde(default)]
    detail: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Code {
    #[default]
    Denied,
    Unauthorized,
    NameUnknown,
    ManifestUnknown,
    BlobUnknown,
    Toomanyrequests,
    Unsupported,
}

impl From<Code> for ErrorCode {
    fn from(code: Code) -> Self {
        match code {
            Code::Denied => Self::Denied,
            Code::Unauthorized => Self::Unauthorized,
            Code::NameUnknown => Self::NameUnknown,
            Code::ManifestUnknown => Self::ManifestUnknown,
            Code::BlobUnknown => Self::BlobUnknown,
            Code::Toomanyrequests => Self::Toomanyrequests,
            Code::Unsupported => Self::Unsupported,
        }
    }
}

/// The elements of a rule that collects them, or true for one that is only true or false.
fn elements(rule: &str, value: &regorus::Value) -> Result<Vec<serde_json::Value>, Failure> {
    let wrong = || Failure::internal(format!("{rule} is neither a set of messages nor a boolean"));
    if *value == regorus::Value::Undefined {
        return Ok(Vec::new());
    }
    match serde_json::to_value(value).map_err(|_| wrong())? {
        serde_json::Value::Array(elements) => Ok(elements),
        serde_json::Value::Bool(true) => Ok(vec![REFUSED.into()]),
        serde_json::Value::Bool(false) => Ok(Vec::new()),
        message @ serde_json::Value::String(_) => Ok(vec![message]),
        _ => Err(wrong()),
    }
}

impl Said {
    /// Reads the values of the three rules.
    pub(crate) fn read(
        deny: &regorus::Value,
        warn: &regorus::Value,
        allow: &regorus::Value,
    ) -> Result<Self, Failure> {
        let refusal = |value| {
            serde_json::from_value(value).map_err(|_| {
                Failure::internal("deny: an element is neither a message nor an object with one")
            })
        };
        let warning = |value| match value {
            serde_json::Value::String(message) => Ok(message),
            _ => Err(Failure::internal("warn: an element is not a message")),
        };
        Ok(Self {
            denied: elements("deny", deny)?.into_iter().map(refusal).collect::<Result<_, _>>()?,
            warned: elements("warn", warn)?.into_iter().map(warning).collect::<Result<_, _>>()?,
            allowed: *allow == regorus::Value::Bool(true),
        })
    }

    /// What follows: refusals before permissions. What is neither is refused if that was wanted.
    pub(crate) fn verdict(self, otherwise_deny: bool) -> Verdict {
        let refusals: Vec<More> = self
            .denied
            .into_iter()
            .map(|refusal| match refusal {
                Refusal::Message(message) => More { message, code: Code::default(), detail: None },
                Refusal::More(more) => more,
            })
            .collect();
        let verdict = match refusals.first() {
            Some(first) => {
                let messages: Vec<&str> =
                    refusals.iter().map(|refusal| refusal.message.as_str()).collect();
                let details: Vec<&str> =
                    refusals.iter().filter_map(|refusal| refusal.detail.as_deref()).collect();
                let verdict = Verdict::deny_with(first.code.into(), messages.join("; "));
                if details.is_empty() { verdict } else { verdict.detail(details.join("; ")) }
            }
            None if self.allowed => Verdict::allow(),
            None if otherwise_deny => Verdict::deny(NOT_ALLOWED),
            None => Verdict::abstain(),
        };
        self.warned.into_iter().fold(verdict, Verdict::warn)
    }
}
