//! Images as people write them: `debian`, `ghcr.io/owner/x:1`, `127.0.0.1:5000/library/x@sha256:…`.
//!
//! Source: the reference grammar of docker and containerd (`distribution/reference`): the first
//! component is a host if it has a `.` or a `:` in it, or is `localhost`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::naming::{Naming, NamingError, Placement};
use crate::oci::{DigestError, NameError, Reference, RepoName, TagError};

/// The longest image name that is read, in bytes: a host, a repository, a tag and a digest.
pub const IMAGE_NAME_BYTES_MAX: usize = 1024;

/// An image's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    host: Option<String>,
    name: RepoName,
    reference: Option<Reference>,
}

/// Why a text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    /// It is longer than [`IMAGE_NAME_BYTES_MAX`].
    #[error("an image's name has at most {IMAGE_NAME_BYTES_MAX} characters")]
    TooLong,
    /// Its repository is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// What follows the `@` is no digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// What follows the `:` is no tag.
    #[error(transparent)]
    Tag(#[from] TagError),
}

impl ImageName {
    /// The registry that it names, with its port, if it names one.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// The repository, as it stands behind the registry.
    pub const fn name(&self) -> &RepoName {
        &self.name
    }

    /// The tag or digest, if one was given. A digest counts where both were.
    pub const fn reference(&self) -> Option<&Reference> {
        self.reference.as_ref()
    }

    /// Where the name leads, in a Pierhead that listens on `own`. A name without host is what a
    /// docker daemon asks its mirror for; with our own host it is what a client asks us for; with
    /// another host it is what containerd asks its mirror for, in `?ns=`.
    pub fn placement(
        &self,
        naming: &Naming,
        namespace: Option<&str>,
        own: SocketAddr,
    ) -> Result<Placement, NamingError> {
        let Some(host) = &self.host else { return naming.placement(namespace, None, &self.name) };
        if naming.is_own(host) || is_listener(host, own) {
            return naming.placement(namespace, None, &self.name);
        }
        // A host without port can stand in a path.
        let path = format!("{host}/{}", self.name).parse::<RepoName>().ok();
        if let (Some(namespace), Some(path)) = (namespace, &path) {
            return naming.placement(Some(namespace), None, path);
        }
        if let Some(path) = path.filter(|_| naming.component_selects(host)) {
            return naming.placement(None, None, &path);
        }
        if naming.host_selects(host) {
            return naming.placement(None, Some(host), &self.name);
        }
        naming.placement(Some(host), None, &self.name)
    }
}

/// Whether `host` is how clients on this machine or beside it write our listener's address.
fn is_listener(host: &str, own: SocketAddr) -> bool {
    let here = |ip: IpAddr| {
        ip == own.ip() || own.ip().is_unspecified() || (ip.is_loopback() && own.ip().is_loopback())
    };
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.port() == own.port() && here(address.ip());
    }
    let local = own.ip().is_loopback() || own.ip().is_unspecified();
    local && host == format!("localhost:{}", own.port())
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        if text.len() > IMAGE_NAME_BYTES_MAX {
            return Err(ImageNameError::TooLong);
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Reference::Digest(digest.parse()?))),
            None => (text, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(Reference::Tag(tag.parse()?))),
            _ => (rest, None),
        };
        let (host, name) = match path.split_once('/') {
            Some((first, name)) if first.contains(['.', ':']) || first == "localhost" => {
                (Some(first.to_ascii_lowercase()), name)
            }
            _ => (None, path),
        };
        Ok(Self { host, name: name.parse()?, reference: digest.or(tag) })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}/")?;
        }
        write!(f, "{}", self.name)?;
        match &self.reference {
            Some(Reference::Tag(tag)) => write!(f, ":{tag}"),
            Some(Reference::Digest(digest)) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Digest;
    use crate::pull::naming::{NameRule, Place};
    use crate::pull::settings::{NamedUpstream, NamingSettings};

    fn naming() -> Naming {
        let upstream =
            |name: &str, alias: Option<&str>, hosts: &[&str], prefix: Option<&str>| NamedUpstream {
                name: name.parse().unwrap(),
                alias: alias.map(|alias| alias.parse().unwrap()),
                hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
                ns_aliases: Vec::new(),
                single_component_prefix: prefix.map(|prefix| prefix.parse().unwrap()),
            };
        Naming::new(NamingSettings {
            upstreams: vec![
                upstream("docker.io", None, &[], Some("library")),
                upstream("ghcr.io", None, &["hub.mirror.example"], None),
                upstream("reg.example:5000", Some("internal"), &[], None),
            ],
            default_upstream: Some("docker.io".parse().unwrap()),
            hosted_prefixes: vec!["hosted/".to_owned()],
            public_host: Some("mirror.example".to_owned()),
        })
    }

    #[test]
    fn names_lead_where_a_pull_of_them_would() {
        let own = "127.0.0.1:5000".parse().unwrap();
        for (text, expected, rule) in [
            ("debian", "docker.io/library/debian", NameRule::Default),
            ("team/x:1", "docker.io/team/x", NameRule::Default),
            ("docker.io/debian", "docker.io/library/debian", NameRule::Component),
            ("ghcr.io/o/x", "ghcr.io/o/x", NameRule::Component),
            ("127.0.0.1:5000/debian", "docker.io/library/debian", NameRule::Default),
            ("localhost:5000/ghcr.io/o/x", "ghcr.io/o/x", NameRule::Component),
            ("mirror.example/internal/x", "reg.example:5000/x", NameRule::Component),
            ("hub.mirror.example/o/x", "ghcr.io/o/x", NameRule::Host),
            ("reg.example:5000/x", "reg.example:5000/x", NameRule::Host),
        ] {
            let image: ImageName = text.parse().unwrap();
            let placement = image.placement(&naming(), None, own).unwrap();
            let Place::Upstream(scope) = placement.place else { panic!("{text} is hosted") };
            assert_eq!((scope.to_string().as_str(), placement.rule), (expected, rule), "{text}");
        }
        let image: ImageName = "o/x".parse().unwrap();
        let placement = image.placement(&naming(), Some("ghcr.io"), own).unwrap();
        assert_eq!(placement.rule, NameRule::Namespace);
        for text in ["unknown.example/x", "127.0.0.1:5001/debian", "localhost/x"] {
            let image: ImageName = text.parse().unwrap();
            let placed = image.placement(&naming(), None, own);
            assert!(matches!(placed, Err(NamingError::UnknownNamespace(_))), "{text}");
        }
        let image: ImageName = "hosted/x".parse().unwrap();
        let placement = image.placement(&naming(), None, own).unwrap();
        assert_eq!(placement.rule, NameRule::HostedPrefix);
    }

    #[test]
    fn references_are_read() {
        let digest = Digest::sha256(b"");
        for (text, reference) in [
            ("a", None),
            ("a:1", Some("1".parse::<Reference>().unwrap())),
            ("h:5000/a", None),
            ("h:5000/a:1", Some("1".parse().unwrap())),
            (&format!("a:1@{digest}"), Some(Reference::Digest(digest))),
        ] {
            assert_eq!(
                text.parse::<ImageName>().unwrap().reference(),
                reference.as_ref(),
                "{text}"
            );
        }
        for text in ["", "A", "a:", "a@", "a@sha256:x", "h:5000/", "a:b c", "a//b", "http://a"] {
            assert!(text.parse::<ImageName>().is_err(), "{text}");
        }
        assert_eq!("a".repeat(2000).parse::<ImageName>(), Err(ImageNameError::TooLong));
    }

    proptest! {
        #[test]
        fn never_panics_and_reads_back(text in "[a-z0-9.:/@-]{0,40}|\\PC*") {
            if let Ok(image) = text.parse::<ImageName>() {
                prop_assert_eq!(image.to_string().parse::<ImageName>(), Ok(image));
            }
        }
    }
}
