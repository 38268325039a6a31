//! A call as data: what is asked of a plugin, what the world looks like, and what is expected.
//!
//! A file of cases is YAML, one document for each. A recording is the same: every call that a
//! running Pierhead has recorded is a case, whose expectation is what was answered then. So a
//! recording can be tested against another version, and edited by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pierhead_plugin_host::Hook;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest file of cases, in bytes.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// A call and what is expected of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// The mount's settings.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub config: Value,
    /// What the mount grants, as in the configuration. If it is not said: requests to what `http`
    /// lists, and facts in its own name.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub grants: Value,
    /// The call.
    pub call: Call,
    /// What is known of digests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<KnownFact>,
    /// What the world answers. Any other request to these hosts fails the case; other hosts are not
    /// granted, unless `grants` says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<Exchange>,
    /// Secrets by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, String>,
    /// What is to come of it.
    pub expect: Expect,
    /// What it may use up.
    #[serde(default, skip_serializing_if = "CaseLimits::is_none")]
    pub limits: CaseLimits,
}

/// One call. Which keys have a meaning depends on the hook.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Which hook is called.
    pub hook: Hook,
    /// When; now, if it is not said. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// Who asks, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// From where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Client>,
    /// More about the request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// For what: `docker.io/library/debian:12`, with the upstream's name in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// request-policy: what is to be done; `pull` if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// request-policy: to what kind of thing; `manifest` if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// manifest-policy: `admit` or `serve`; `serve` if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// manifest-policy: the manifest, as JSON or as the text that was signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Value>,
    /// manifest-policy: its media type; what the manifest says, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// manifest-policy: the image's configuration, as JSON or as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_config: Option<Value>,
    /// authenticator: what is presented; nothing, if it is not said.
    // YAML would want a tag (`!bearer`), and nobody knows those.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "serde_yaml_ng::with::singleton_map"
    )]
    pub credentials: Option<Credentials>,
    /// authorizer: what is wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wanted: Vec<Scope>,
    /// upstream-credentials: the upstream's name, its host, and the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Upstream>,
}

/// Who asks.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The name.
    #[serde(default)]
    pub subject: String,
    /// Who vouches for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issuer: String,
    /// How it was proved.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// Groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Claims.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
    /// When the proof ends, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

/// From where.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// The address.
    pub address: String,
    /// What it calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Whom its certificate names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_subject: Option<String>,
}

/// What is presented.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Credentials {
    /// Nothing.
    Anonymous,
    /// A name and a password.
    Basic(BasicCredentials),
    /// A token.
    Bearer(String),
}

/// A name and a password.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BasicCredentials {
    /// The name.
    pub username: String,
    /// The password.
    pub password: String,
}

/// What is wanted of one repository.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// The repository, as clients name it.
    pub repository: String,
    /// The actions.
    pub actions: Vec<String>,
}

/// Whose credentials are wanted.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Its name in the configuration.
    pub name: String,
    /// The host that asks for them.
    pub host: String,
    /// For which repository.
    #[serde(default)]
    pub repository: String,
}

/// Something that is known of a digest.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFact {
    /// Of which digest; of any, if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Who says so.
    pub source: String,
    /// About what.
    pub name: String,
    /// What.
    #[serde(default)]
    pub json: Value,
}

/// A request to the world, and its answer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// `GET`, if it is not said.
    #[serde(default = "get", skip_serializing_if = "is_get")]
    pub method: String,
    /// Where to.
    pub url: String,
    /// The answer's status; 200, if it is not said.
    #[serde(default = "ok", skip_serializing_if = "is_ok")]
    pub status: u16,
    /// The answer's headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The answer's body: JSON, or text.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub body: Value,
}

fn get() -> String {
    "GET".to_owned()
}

fn is_get(method: &String) -> bool {
    method == "GET"
}

const fn ok() -> u16 {
    200
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
const fn is_ok(status: &u16) -> bool {
    *status == 200
}

/// What is to come of it. What is not said is not looked at.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Policies: `abstain`, `allow` or `deny`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Policies: the error code of a denial, such as `denied`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What a denial, a rejection or a failure says: words that stand in it, or `/a regular expression/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Policies: the warnings, as `message`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnings: Option<Vec<String>>,
    /// Policies: what is to be done besides: `audit KEY=VALUE`, `count LABEL`, `scan MOUNT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obligations: Option<Vec<String>>,
    /// Policies: for how long the verdict may be used again, in milliseconds; 0 is not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse_ms: Option<u32>,
    /// Policies: what the verdict depended on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depends_on: Option<Vec<String>>,
    /// authenticator: `abstain`, `authenticated` or `rejected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// authenticator: who it is. Claims and groups that are not named may be there besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// authorizer: what is granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Vec<Scope>>,
    /// resolver: the other name; `""` is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<String>,
    /// upstream-credentials: `none`, `basic` or `bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The call breaks: `trap`, `deadline`, `memory`, `failure`, `configuration`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

/// What a call may use up.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaseLimits {
    /// How long it may take, such as `5ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// How much memory, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

impl CaseLimits {
    const fn is_none(&self) -> bool {
        self.time.is_none() && self.memory_bytes.is_none()
    }
}

/// Why cases cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaseError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is too large.
    #[error("{0} is larger than 64 MiB")]
    TooLarge(PathBuf),
    /// A file is not what it should be.
    #[error("{path}, case {number}: {source}")]
    Malformed {
        /// Which one.
        path: PathBuf,
        /// The case's number, from 1.
        number: usize,
        /// What is wrong.
        source: serde_yaml_ng::Error,
    },
}

/// Reads all cases of a file, or of all `.yaml` files of a folder in the order of their names.
///
/// # Errors
/// When one of them cannot be read.
pub fn read(path: &Path) -> Result<Vec<Case>, CaseError> {
    let failed = |source| CaseError::Read { path: path.to_owned(), source };
    if !path.is_dir() {
        return read_file(path);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        cases.extend(read_file(&file)?);
    }
    Ok(cases)
}

fn read_file(path: &Path) -> Result<Vec<Case>, CaseError> {
    let failed = |source| CaseError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(CaseError::TooLarge(path.to_owned()));
    }
    parse(&fs::read_to_string(path).map_err(failed)?, path)
}

/// Reads the cases of a file that is there as text.
fn parse(text: &str, path: &Path) -> Result<Vec<Case>, CaseError> {
    let mut cases = Vec::new();
    for (index, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let malformed =
            |source| CaseError::Malformed { path: path.to_owned(), number: index + 1, source };
        // An empty document: a line of dashes at the end, or comments alone.
        let value = serde_yaml_ng::Value::deserialize(document).map_err(malformed)?;
        if !value.is_null() {
            cases.push(Case::deserialize(value).map_err(malformed)?);
        }
    }
    Ok(cases)
}

/// Writes a case as one document of a file of cases.
///
/// # Errors
/// Never, for cases that were read; serde has no way to say so.
pub fn document(case: &Case) -> Result<String, serde_yaml_ng::Error> {
    Ok(format!("---\n{}", serde_yaml_ng::to_string(case)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_written_as_everything_else() {
        let case = |credentials: &str| {
            format!("name: x\ncall:\n  hook: authenticator\n{credentials}expect: {{}}\n---\n")
        };
        let text = [
            "  credentials: { bearer: abc }\n",
            "  credentials:\n    basic: { username: a, password: b }\n",
            "  credentials: anonymous\n",
            "",
        ]
        .map(case)
        .concat();
        let read = |text: &str| parse(text, Path::new("cases.yaml")).unwrap();
        let cases = read(&text);
        let presented: Vec<_> = cases.iter().map(|case| &case.call.credentials).collect();
        assert!(matches!(presented[0], Some(Credentials::Bearer(token)) if token == "abc"));
        assert!(matches!(presented[1], Some(Credentials::Basic(basic)) if basic.username == "a"));
        assert!(matches!(presented[2], Some(Credentials::Anonymous)));
        assert!(presented[3].is_none());
        let again: String = cases.iter().map(|case| document(case).unwrap()).collect();
        assert_eq!(format!("{:?}", read(&again)), format!("{cases:?}"));
    }
}
