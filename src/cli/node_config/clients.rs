//! What each client wants to read. Pure: from a mirror's address to files.
//!
//! Sources: docker's `daemon.json`, containerd's `docs/hosts.md`, `containers-registries.conf(5)`
//! and `containers-certs.d(5)`, buildkit's `docs/buildkitd.toml.md`, K3s' "Private Registry
//! Configuration".

use clap::ValueEnum;
use url::Url;

use crate::oci::RepoName;
use crate::scope::UpstreamName;

/// A container client that can be told of a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Client {
    /// The docker daemon
    Docker,
    /// containerd, also below Kubernetes
    Containerd,
    /// podman, buildah, skopeo and CRI-O
    Podman,
    /// buildkitd, also that of `docker buildx`
    Buildkit,
    /// K3s, which writes containerd's files itself
    K3s,
}

/// An upstream as clients name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mirrored {
    pub(super) name: UpstreamName,
    /// Another first part of paths that means it.
    pub(super) alias: Option<RepoName>,
}

/// Which registries go through the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// These.
    Upstreams(Vec<Mirrored>),
    /// Whatever clients ask for: Pierhead answers 404 for what it does not know, and they go on.
    EveryRegistry,
}

/// Where Pierhead is, and what should go through it.
#[derive(Clone, Debug)]
pub(super) struct Mirror {
    /// Without a path.
    pub(super) url: Url,
    pub(super) wanted: Wanted,
    /// The certificate authority that signed Pierhead's certificate, in PEM form.
    pub(super) ca: Option<String>,
}

/// A file of a client's.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct File {
    /// Where it belongs on the client's machine.
    pub(super) path: String,
    pub(super) content: String,
}

/// What a client needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Recipe {
    pub(super) files: Vec<File>,
    /// What a person should know: what to do next, and what the client cannot do.
    pub(super) notes: Vec<String>,
}

/// Why there is no such file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecipeError {
    /// The client's format has no such entry.
    #[error("{0} has no entry for every registry; name them with --upstream")]
    NoWildcard(&'static str),
    /// dockerd asks mirrors for Docker Hub only.
    #[error(
        "dockerd asks mirrors only for docker.io, not for {0}: pull those by the mirror's name, \
         HOST:PORT/{0}/IMAGE"
    )]
    OnlyDockerHub(UpstreamName),
    /// A name with a port cannot stand in a path.
    #[error(
        "podman puts {0} into a path, which has no place for a port: give that upstream an \
         `alias` in the configuration (--config FILE)"
    )]
    NeedsAlias(UpstreamName),
}

/// Docker Hub's name.
const DOCKER_HUB: &str = "docker.io";

impl Mirror {
    fn is_plain(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// The URL without the slash at its end.
    fn endpoint(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    /// `HOST:PORT`, or `HOST` where the port is that of the scheme.
    fn host(&self) -> &str {
        let endpoint = self.endpoint();
        endpoint.split_once("://").map_or(endpoint, |(_, host)| host)
    }

    /// Whether only the same machine can reach it.
    fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        }
    }

    /// The upstreams by name; an error for clients without wildcards.
    fn upstreams(&self, client: &'static str) -> Result<&[Mirrored], RecipeError> {
        match &self.wanted {
            Wanted::Upstreams(upstreams) => Ok(upstreams),
            Wanted::EveryRegistry => Err(RecipeError::NoWildcard(client)),
        }
    }

    /// The certificate authority as a file at `path`.
    fn ca_file(&self, path: &str) -> Option<File> {
        let content = self.ca.clone()?;
        Some(File { path: path.to_owned(), content })
    }
}

/// The files that make `client` use `mirror`.
pub(super) fn recipe(client: Client, mirror: &Mirror) -> Result<Recipe, RecipeError> {
    match client {
        Client::Docker => docker(mirror),
        Client::Containerd => Ok(containerd(mirror)),
        Client::Podman => podman(mirror),
        Client::Buildkit => buildkit(mirror),
        Client::K3s => Ok(k3s(mirror)),
    }
}

fn docker(mirror: &Mirror) -> Result<Recipe, RecipeError> {
    for upstream in mirror.upstreams("dockerd")? {
        if upstream.name.as_str() != DOCKER_HUB {
            return Err(RecipeError::OnlyDockerHub(upstream.name.clone()));
        }
    }
    let mut daemon = serde_json::json!({ "registry-mirrors": [mirror.endpoint()] });
    // The mirror's own URL says http; images that are pulled by the mirror's name do not, and
    // dockerd takes only loopback to be without TLS.
    if mirror.is_plain() && !mirror.is_loopback() {
        daemon["insecure-registries"] = serde_json::json!([mirror.host()]);
    }
    let mut files =
        vec![File { path: "/etc/docker/daemon.json".to_owned(), content: format!("{daemon:#}\n") }];
    files.extend(mirror.ca_file(&format!("/etc/docker/certs.d/{}/ca.crt", mirror.host())));
    Ok(Recipe {
        files,
        notes: vec![
            "If there is a daemon.json already, add these keys to it. Then restart dockerd."
                .to_owned(),
            format!(
                "dockerd asks mirrors only for docker.io. Pull the images of other registries by \
                 the mirror's name: docker pull {}/ghcr.io/OWNER/IMAGE",
                mirror.host(),
            ),
        ],
    })
}

fn containerd(mirror: &Mirror) -> Recipe {
    const CA_PATH: &str = "/etc/containerd/pierhead-ca.crt";
    let ca_file = mirror.ca_file(CA_PATH);
    let hosts = |directory: &str| {
        let path = format!("/etc/containerd/certs.d/{directory}/hosts.toml");
        let ca = ca_file.as_ref().map_or_else(String::new, |_| format!("  ca = \"{CA_PATH}\"\n"));
        let content = format!(
            "# {path}\n[host.\"{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n{ca}",
            mirror.endpoint(),
        );
        File { path, content }
    };
    let mut files: Vec<_> = match &mirror.wanted {
        Wanted::Upstreams(upstreams) => {
            upstreams.iter().map(|upstream| hosts(upstream.name.as_str())).collect()
        }
        Wanted::EveryRegistry => vec![hosts("_default")],
    };
    files.extend(ca_file);
    Recipe {
        files,
        notes: vec![
            "containerd reads these files at every pull, if its configuration says config_path = \
             \"/etc/containerd/certs.d\" (for Kubernetes, below the CRI plugin's registry table); \
             ctr takes --hosts-dir."
                .to_owned(),
            format!(
                "When the mirror fails, containerd goes to the registry itself. To forbid that, \
                 add the line server = \"{}\" above [host].",
                mirror.endpoint(),
            ),
        ],
    }
}

fn podman(mirror: &Mirror) -> Result<Recipe, RecipeError> {
    let path = "/etc/containers/registries.conf.d/50-pierhead.conf";
    let mut content = format!("# {path}\n");
    for upstream in mirror.upstreams("registries.conf")? {
        let name = upstream.name.as_str();
        let component = match &upstream.alias {
            _ if !name.contains(':') => name,
            Some(alias) => alias.as_str(),
            None => return Err(RecipeError::NeedsAlias(upstream.name.clone())),
        };
        content.push_str(&format!(
            "\n[[registry]]\nprefix = \"{name}\"\nlocation = \"{name}\"\n\n\
             [[registry.mirror]]\nlocation = \"{}/{component}\"\n",
            mirror.host(),
        ));
        if mirror.is_plain() {
            content.push_str("insecure = true\n");
        }
    }
    let mut files = vec![File { path: path.to_owned(), content }];
    files.extend(mirror.ca_file(&format!("/etc/containers/certs.d/{}/ca.crt", mirror.host())));
    Ok(Recipe {
        files,
        notes: vec![
            "podman, buildah and skopeo read it at every pull; CRI-O after `systemctl reload crio`."
                .to_owned(),
        ],
    })
}

fn buildkit(mirror: &Mirror) -> Result<Recipe, RecipeError> {
    const CA_PATH: &str = "/etc/buildkit/pierhead-ca.crt";
    let path = "/etc/buildkit/buildkitd.toml";
    let ca_file = mirror.ca_file(CA_PATH);
    let mut content = format!("# {path}\n");
    for upstream in mirror.upstreams("buildkitd.toml")? {
        content.push_str(&format!(
            "\n[registry.\"{}\"]\n  mirrors = [\"{}\"]\n",
            upstream.name,
            mirror.host(),
        ));
    }
    if mirror.is_plain() {
        content.push_str(&format!("\n[registry.\"{}\"]\n  http = true\n", mirror.host()));
    } else if ca_file.is_some() {
        content.push_str(&format!("\n[registry.\"{}\"]\n  ca = [\"{CA_PATH}\"]\n", mirror.host()));
    }
    let mut files = vec![File { path: path.to_owned(), content }];
    files.extend(ca_file);
    Ok(Recipe {
        files,
        notes: vec![
            "Restart buildkitd. For docker buildx, save it and give it to a new builder: docker \
             buildx create --use --buildkitd-config FILE (buildx takes the certificates along)."
                .to_owned(),
        ],
    })
}

fn k3s(mirror: &Mirror) -> Recipe {
    const CA_PATH: &str = "/etc/rancher/k3s/pierhead-ca.crt";
    let path = "/etc/rancher/k3s/registries.yaml";
    let ca_file = mirror.ca_file(CA_PATH);
    let names: Vec<&str> = match &mirror.wanted {
        Wanted::Upstreams(upstreams) => upstreams.iter().map(|u| u.name.as_str()).collect(),
        Wanted::EveryRegistry => vec!["*"],
    };
    let mut content = format!("# {path}\nmirrors:\n");
    for name in names {
        content.push_str(&format!(
            "  \"{name}\":\n    endpoint:\n      - \"{}\"\n",
            mirror.endpoint()
        ));
    }
    if ca_file.is_some() {
        content.push_str(&format!(
            "configs:\n  \"{}\":\n    tls:\n      ca_file: \"{CA_PATH}\"\n",
            mirror.host(),
        ));
    }
    let mut files = vec![File { path: path.to_owned(), content }];
    files.extend(ca_file);
    Recipe {
        files,
        notes: vec![
            "On every node, servers and agents; then restart k3s or k3s-agent. It makes \
             containerd's hosts.toml from this file."
                .to_owned(),
        ],
    }
}
