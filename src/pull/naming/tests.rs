//! Every row of the naming rules.

use super::*;

fn upstream(name: &str) -> NamedUpstream {
    NamedUpstream {
        name: name.parse().unwrap(),
        alias: None,
        hosts: Vec::new(),
        ns_aliases: Vec::new(),
        single_component_prefix: None,
    }
}

fn naming() -> Naming {
    Naming::new(NamingSettings {
        upstreams: vec![
            NamedUpstream {
                ns_aliases: vec!["index.docker.io".into(), "registry-1.docker.io".into()],
                single_component_prefix: Some("library".parse().unwrap()),
                ..upstream("docker.io")
            },
            NamedUpstream { hosts: vec!["ghcr.mirror.example".into()], ..upstream("ghcr.io") },
            NamedUpstream {
                alias: Some("internal".parse().unwrap()),
                ..upstream("registry.corp.example:5000")
            },
        ],
        default_upstream: Some("docker.io".parse().unwrap()),
        hosted_prefixes: vec!["hosted/".into()],
        public_host: Some("mirror.example:5000".into()),
    })
}

fn place(namespace: Option<&str>, host: Option<&str>, name: &str) -> String {
    match naming().place(namespace, host, &name.parse().unwrap()) {
        Ok(Place::Upstream(scope)) => scope.to_string(),
        Ok(Place::Hosted(name)) => format!("hosted:{name}"),
        Err(NamingError::UnknownNamespace(ns)) => format!("unknown:{ns}"),
        Err(NamingError::NoUpstream(name)) => format!("none:{name}"),
    }
}

#[test]
fn a_namespace_comes_first() {
    assert_eq!(place(Some("ghcr.io"), None, "a/b"), "ghcr.io/a/b");
    assert_eq!(place(Some("GHCR.io"), None, "a/b"), "ghcr.io/a/b");
    assert_eq!(
        place(Some("registry.corp.example:5000"), None, "a"),
        "registry.corp.example:5000/a"
    );
    assert_eq!(place(Some("index.docker.io"), None, "debian"), "docker.io/library/debian");
    assert_eq!(place(Some("registry-1.docker.io"), None, "a/b"), "docker.io/a/b");
    assert_eq!(place(Some("ghcr.io"), Some("docker.io"), "docker.io/a"), "ghcr.io/docker.io/a");
    assert_eq!(place(Some("ghcr.io"), None, "hosted/a"), "ghcr.io/hosted/a");
}

#[test]
fn an_unknown_namespace_is_never_dialled() {
    assert_eq!(place(Some("evil.example"), None, "a/b"), "unknown:evil.example");
    assert_eq!(place(Some("169.254.169.254"), None, "a"), "unknown:169.254.169.254");
    assert_eq!(place(Some("docker.io:443"), None, "a"), "unknown:docker.io:443");
}

#[test]
fn our_own_public_name_counts_as_absent() {
    assert_eq!(place(Some("mirror.example:5000"), None, "debian"), "docker.io/library/debian");
    assert_eq!(place(Some(""), None, "debian"), "docker.io/library/debian");
    assert_eq!(place(None, Some("mirror.example:5000"), "ghcr.io/a"), "ghcr.io/a");
}

#[test]
fn the_host_header_comes_second() {
    assert_eq!(place(None, Some("ghcr.mirror.example"), "a/b"), "ghcr.io/a/b");
    assert_eq!(place(None, Some("ghcr.mirror.example:5000"), "a/b"), "ghcr.io/a/b");
    assert_eq!(place(None, Some("ghcr.io"), "docker.io/b"), "ghcr.io/docker.io/b");
    assert_eq!(place(None, Some("127.0.0.1:5000"), "a/b"), "docker.io/a/b");
}

#[test]
fn the_path_comes_third_and_is_stripped() {
    assert_eq!(place(None, None, "ghcr.io/a/b"), "ghcr.io/a/b");
    assert_eq!(place(None, None, "docker.io/debian"), "docker.io/library/debian");
    assert_eq!(place(None, None, "docker.io/library/debian"), "docker.io/library/debian");
    assert_eq!(place(None, None, "internal/a"), "registry.corp.example:5000/a");
    // Whoever selected it.
    assert_eq!(place(Some("docker.io"), None, "docker.io/debian"), "docker.io/library/debian");
    assert_eq!(place(None, Some("ghcr.io"), "ghcr.io/a"), "ghcr.io/a");
    // Once.
    assert_eq!(place(None, None, "ghcr.io/ghcr.io/a"), "ghcr.io/ghcr.io/a");
}

#[test]
fn bare_names_are_hosted_or_the_defaults() {
    assert_eq!(place(None, None, "debian"), "docker.io/library/debian");
    assert_eq!(place(None, None, "grafana/grafana"), "docker.io/grafana/grafana");
    assert_eq!(place(None, None, "hosted/team/app"), "hosted:hosted/team/app");
    assert_eq!(place(None, None, "hosted"), "docker.io/library/hosted");
    // A name that is only an upstream's is a repository of the default one.
    assert_eq!(place(None, None, "ghcr.io"), "docker.io/library/ghcr.io");
}

#[test]
fn without_a_default_upstream_a_bare_name_leads_nowhere() {
    let naming = Naming::new(NamingSettings {
        upstreams: vec![upstream("ghcr.io")],
        default_upstream: None,
        hosted_prefixes: vec!["".into()],
        public_host: None,
    });
    let place = |name: &str| naming.place(None, None, &name.parse().unwrap());
    assert_eq!(place("a/b"), Ok(Place::Hosted("a/b".parse().unwrap())));
    assert!(matches!(place("ghcr.io/a"), Ok(Place::Upstream(_))));

    let naming = Naming::new(NamingSettings {
        upstreams: vec![upstream("ghcr.io")],
        default_upstream: None,
        hosted_prefixes: vec![],
        public_host: None,
    });
    let place = |name: &str| naming.place(None, None, &name.parse().unwrap());
    assert!(matches!(place("a/b"), Err(NamingError::NoUpstream(_))));
}
