//! The upstreams that need no configuration.

/// An upstream that is known without being configured.
#[derive(Debug)]
pub(super) struct BuiltIn {
    /// What clients call it.
    pub(super) name: &'static str,
    /// Where it really is.
    pub(super) endpoint: &'static str,
    /// Whether it answers bare names, unless the operator says otherwise.
    pub(super) default: bool,
    /// Other values of `?ns=` that mean it.
    pub(super) ns_aliases: &'static [&'static str],
    /// Hosts of its token service, where that is not the endpoint's.
    pub(super) auth_hosts: &'static [&'static str],
    /// Prefix for names of one component.
    pub(super) single_component_prefix: Option<&'static str>,
}

/// An entry without peculiarities: the token service (if any) is on the endpoint's own host, and
/// redirects lead to public addresses, which are always followed.
const fn plain(name: &'static str, endpoint: &'static str) -> BuiltIn {
    BuiltIn {
        name,
        endpoint,
        default: false,
        ns_aliases: &[],
        auth_hosts: &[],
        single_component_prefix: None,
    }
}

/// All of them, in the order of their names' fame.
pub(super) static BUILT_IN: [BuiltIn; 7] = [
    BuiltIn {
        name: "docker.io",
        endpoint: "https://registry-1.docker.io",
        default: true,
        ns_aliases: &["index.docker.io", "registry-1.docker.io"],
        auth_hosts: &["auth.docker.io"],
        single_component_prefix: Some("library"),
    },
    // Realm https://ghcr.io/token.
    plain("ghcr.io", "https://ghcr.io"),
    // Realm https://quay.io/v2/auth.
    plain("quay.io", "https://quay.io"),
    // Realm https://gcr.io/v2/token.
    plain("gcr.io", "https://gcr.io"),
    // No login at all; everything is a redirect to *.pkg.dev or object storage.
    plain("registry.k8s.io", "https://registry.k8s.io"),
    // Realm https://public.ecr.aws/token/, needed by anonymous clients too.
    plain("public.ecr.aws", "https://public.ecr.aws"),
    // No login; blobs are redirects to *.data.mcr.microsoft.com.
    plain("mcr.microsoft.com", "https://mcr.microsoft.com"),
];

/// The built-in entry of that name.
pub(super) fn find(name: &str) -> Option<&'static BuiltIn> {
    BUILT_IN.iter().find(|built_in| built_in.name == name)
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::oci::RepoName;
    use crate::scope::UpstreamName;

    #[test]
    fn every_entry_is_well_formed() {
        for built_in in &BUILT_IN {
            built_in.name.parse::<UpstreamName>().unwrap();
            assert!(Url::parse(built_in.endpoint).unwrap().scheme() == "https");
            if let Some(prefix) = built_in.single_component_prefix {
                prefix.parse::<RepoName>().unwrap();
            }
        }
        assert_eq!(BUILT_IN.iter().filter(|built_in| built_in.default).count(), 1);
    }
}
