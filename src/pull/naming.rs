//! Which upstream and repository a name means. Pure: no I/O, and never a dial target made from
//! what a client sent.
//!
//! The order is design: `?ns=`, then the Host header, then the first path component, then the
//! hosted prefixes, then the default upstream.

use std::collections::HashMap;

use super::settings::{NamedUpstream, NamingSettings};
use crate::oci::RepoName;
use crate::scope::Scope;

/// Where a request's name leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// To a repository of an upstream.
    Upstream(Scope),
    /// To a repository that lives here.
    Hosted(RepoName),
}

/// Which rule decided where a name leads, in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NameRule {
    /// `?ns=` names an upstream.
    Namespace,
    /// The request's `Host` belongs to an upstream.
    Host,
    /// The first path component is an upstream's name or alias.
    Component,
    /// The name has a hosted prefix.
    HostedPrefix,
    /// Nothing selects an upstream: the default one answers.
    Default,
}

impl NameRule {
    /// Its name in answers to operators.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "namespace",
            Self::Host => "host",
            Self::Component => "component",
            Self::HostedPrefix => "hosted_prefix",
            Self::Default => "default",
        }
    }
}

/// Where a name leads, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Where it leads.
    pub place: Place,
    /// What decided.
    pub rule: NameRule,
}

/// Why a name leads nowhere. All of these are 404 `NAME_UNKNOWN`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamingError {
    /// `?ns=` names no configured upstream.
    #[error("no upstream is called {0:?} here; an operator can add it under [upstream]")]
    UnknownNamespace(String),
    /// Nothing selects an upstream and there is no default one.
    #[error("no upstream is named by {0:?} and none is the default")]
    NoUpstream(RepoName),
}

/// The names of all upstreams, ready to be looked up.
#[derive(Clone, Debug)]
pub struct Naming {
    upstreams: Vec<NamedUpstream>,
    by_namespace: HashMap<String, usize>,
    by_host: HashMap<String, usize>,
    by_component: HashMap<String, usize>,
    default: Option<usize>,
    hosted_prefixes: Vec<String>,
    public_host: Option<String>,
}

impl Naming {
    /// Prepares the look-ups.
    pub fn new(settings: NamingSettings) -> Self {
        let NamingSettings { upstreams, default_upstream, hosted_prefixes, public_host } = settings;
        let mut naming = Self {
            by_namespace: HashMap::new(),
            by_host: HashMap::new(),
            by_component: HashMap::new(),
            default: upstreams.iter().position(|u| Some(&u.name) == default_upstream.as_ref()),
            hosted_prefixes,
            public_host: public_host.map(|host| host.to_ascii_lowercase()),
            upstreams: Vec::new(),
        };
        for (index, upstream) in upstreams.iter().enumerate() {
            let name = upstream.name.as_str();
            naming.by_namespace.insert(name.to_owned(), index);
            naming.by_host.insert(name.to_owned(), index);
            naming.by_component.insert(name.to_owned(), index);
            for alias in &upstream.ns_aliases {
                naming.by_namespace.insert(alias.to_ascii_lowercase(), index);
            }
            for host in &upstream.hosts {
                naming.by_host.insert(host.to_ascii_lowercase(), index);
            }
            if let Some(alias) = &upstream.alias {
                naming.by_component.insert(alias.as_str().to_owned(), index);
            }
        }
        naming.upstreams = upstreams;
        naming
    }

    /// Where `name` leads, asked for with `?ns=` and `Host` as given.
    pub fn place(
        &self,
        namespace: Option<&str>,
        host: Option<&str>,
        name: &RepoName,
    ) -> Result<Place, NamingError> {
        self.placement(namespace, host, name).map(|placement| placement.place)
    }

    /// As [`Naming::place`], with the rule that decided.
    pub fn placement(
        &self,
        namespace: Option<&str>,
        host: Option<&str>,
        name: &RepoName,
    ) -> Result<Placement, NamingError> {
        let upstream =
            |index: usize, rule| Ok(Placement { place: self.in_upstream(index, name), rule });
        if let Some(index) = self.by_namespace(namespace)? {
            return upstream(index, NameRule::Namespace);
        }
        if let Some(index) = host.and_then(|host| self.by_host(host)) {
            return upstream(index, NameRule::Host);
        }
        if let Some((first, _)) = name.split_first()
            && let Some(index) = self.by_component.get(first)
        {
            return upstream(*index, NameRule::Component);
        }
        if self.is_hosted(name) {
            let place = Place::Hosted(name.clone());
            return Ok(Placement { place, rule: NameRule::HostedPrefix });
        }
        match self.default {
            Some(index) => upstream(index, NameRule::Default),
            None => Err(NamingError::NoUpstream(name.clone())),
        }
    }

    /// Whether a host that clients send is our own public name.
    pub fn is_own(&self, host: &str) -> bool {
        self.public_host.as_deref() == Some(&host.to_ascii_lowercase())
    }

    /// Whether a path that begins with `component` selects an upstream.
    pub fn component_selects(&self, component: &str) -> bool {
        self.by_component.contains_key(component)
    }

    /// Whether requests for that host select an upstream.
    pub fn host_selects(&self, host: &str) -> bool {
        self.by_host(host).is_some()
    }

    /// Whether a name lives here and nowhere else.
    fn is_hosted(&self, name: &RepoName) -> bool {
        self.hosted_prefixes.iter().any(|prefix| name.as_str().starts_with(prefix))
    }

    /// An example of a name that can be pushed to, for error messages.
    pub fn hosted_prefix(&self) -> Option<&str> {
        self.hosted_prefixes.first().map(String::as_str)
    }

    fn by_namespace(&self, namespace: Option<&str>) -> Result<Option<usize>, NamingError> {
        let Some(namespace) = namespace.filter(|ns| !ns.is_empty()) else { return Ok(None) };
        let lower = namespace.to_ascii_lowercase();
        // Our own public name is no upstream, whatever else is called so.
        if self.public_host.as_deref() == Some(&lower) {
            return Ok(None);
        }
        match self.by_namespace.get(&lower) {
            Some(index) => Ok(Some(*index)),
            None => Err(NamingError::UnknownNamespace(namespace.chars().take(255).collect())),
        }
    }

    fn by_host(&self, host: &str) -> Option<usize> {
        let lower = host.to_ascii_lowercase();
        if self.public_host.as_deref() == Some(&lower) {
            return None;
        }
        self.by_host.get(&lower).copied().or_else(|| {
            let (without_port, _) = lower.rsplit_once(':')?;
            self.by_host.get(without_port).copied()
        })
    }

    fn in_upstream(&self, index: usize, name: &RepoName) -> Place {
        let upstream = &self.upstreams[index];
        let repo = match name.split_first() {
            Some((first, rest)) if upstream.is_called(first) => rest,
            _ => name.as_str(),
        };
        let prefixed = match &upstream.single_component_prefix {
            Some(prefix) if !repo.contains('/') => format!("{prefix}/{repo}"),
            _ => repo.to_owned(),
        };
        // A suffix of a name is a name; only a name at the very limit grows too long with its
        // prefix, and upstream would not have that either.
        let repo = prefixed.parse().unwrap_or_else(|_| name.clone());
        Place::Upstream(Scope { upstream: upstream.name.clone(), repo })
    }
}

impl NamedUpstream {
    fn is_called(&self, component: &str) -> bool {
        self.name.as_str() == component
            || self.alias.as_ref().is_some_and(|alias| alias.as_str() == component)
    }
}

#[cfg(test)]
mod tests;
