//! What a mount grants: read from the configuration, and matched here without touching anything.

mod http;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Deserialize;

pub use http::{HttpGrant, UrlPattern};

use crate::wit::Reference;

/// What a mount grants. Nothing, unless it is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Outgoing requests.
    pub http: Option<HttpGrant>,
    /// Keys and values that outlive a call.
    pub kv: Option<KvGrant>,
    /// Content of the cache.
    pub content: Option<ContentGrant>,
    /// Secrets, by name.
    pub secrets: Vec<String>,
    /// Facts: reading them needs no grant.
    pub facts: Option<FactsGrant>,
}

/// Leave to keep keys and values.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvGrant {
    /// The buckets, by name.
    pub buckets: Vec<String>,
    /// How much all of them together may hold, in bytes: keys, values and a little for each.
    #[serde(default = "KvGrant::usual_quota", deserialize_with = "crate::units::deserialize_size")]
    pub quota: u64,
}

impl KvGrant {
    const fn usual_quota() -> u64 {
        1 << 20
    }
}

/// Leave to read content.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentGrant {
    /// What kinds.
    pub read: Vec<ContentKind>,
    /// Of which repositories: globs over `upstream/repository`, in which `*` stays within a
    /// component and `**` does not.
    #[serde(default = "ContentGrant::everything")]
    pub repositories: Vec<String>,
}

/// What can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContentKind {
    /// Manifests.
    Manifest,
    /// Blobs, configurations of images among them.
    Blob,
    /// What refers to a manifest.
    Referrers,
}

impl ContentGrant {
    fn everything() -> Vec<String> {
        vec!["**".to_owned()]
    }

    /// Whether it covers something.
    pub fn covers(&self, kind: ContentKind, reference: &Reference) -> bool {
        let name = format!("{}/{}", reference.upstream, reference.repository);
        self.read.contains(&kind) && self.repositories.iter().any(|glob| glob_matches(glob, &name))
    }
}

/// Leave to state facts, in the mount's own name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactsGrant {
    /// Whether facts may be stated.
    pub write: bool,
}

impl Grants {
    /// Whether facts may be stated.
    pub fn facts_write(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.write)
    }

    /// Mistakes that no type can rule out, for whoever reads the configuration.
    ///
    /// # Errors
    /// What is wrong, with the key's name.
    pub fn check(&self) -> Result<(), String> {
        if let Some(http) = &self.http {
            if http.allow.is_empty() {
                return Err("grants.http.allow is empty: name what may be asked".to_owned());
            }
            if http.timeout.is_zero() || http.timeout > HTTP_TIMEOUT_MAX {
                return Err("grants.http.timeout must be above 0 and at most 60 s".to_owned());
            }
            if http.max_body > HTTP_BODY_BYTES_MAX {
                return Err("grants.http.max_body must be at most 64MiB".to_owned());
            }
        }
        if let Some(kv) = &self.kv
            && kv.buckets.is_empty()
        {
            return Err("grants.kv.buckets is empty: name a bucket".to_owned());
        }
        Ok(())
    }
}

/// The longest that a granted request may take.
const HTTP_TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// The largest answer that a grant can allow, in bytes.
const HTTP_BODY_BYTES_MAX: u64 = 64 << 20;

/// Whether a name matches a glob: `*` is any part of a component, `**` anything at all.
///
/// It takes steps in the product of both lengths at most: globs are the operator's, names are not.
pub(crate) fn glob_matches(glob: &str, name: &str) -> bool {
    // One row for each piece of the glob: which prefixes of the name it can have eaten.
    let name = name.as_bytes();
    let mut reach = vec![false; name.len() + 1];
    if let Some(first) = reach.first_mut() {
        *first = true;
    }
    let mut rest = glob.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let deep = rest.starts_with(b"**");
        rest = if deep { after.split_first().map_or(after, |(_, after)| after) } else { after };
        let mut next = vec![false; reach.len()];
        let mut flowing = false;
        for (end, reached) in reach.iter().enumerate() {
            let previous = end.checked_sub(1).and_then(|before| name.get(before)).copied();
            let can = if byte == b'*' {
                flowing = *reached || (flowing && (deep || previous != Some(b'/')));
                flowing
            } else {
                end > 0
                    && previous == Some(byte)
                    && reach.get(end.wrapping_sub(1)).copied().unwrap_or(false)
            };
            if let Some(slot) = next.get_mut(end) {
                *slot = can;
            }
        }
        reach = next;
    }
    reach.last().copied().unwrap_or(false)
}
