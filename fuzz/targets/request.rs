//! Any path and query name something or are an error, and any name leads to one place, which
//! leads there again when it is asked for by its own upstream and repository.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pierhead::http::route::{self, Query, Route};
use pierhead::pull::naming::{Naming, Place};
use pierhead::pull::settings::{NamedUpstream, NamingSettings};

fuzz_target!(|input: (&str, &str, &str)| {
    let (path, query, host) = input;
    let query = Query::parse(Some(query));
    let Ok(Route::Manifest(name, _) | Route::Blob(name, _) | Route::Tags(name)) =
        route::parse(path)
    else {
        return;
    };
    let naming = naming();
    let Ok(Place::Upstream(scope)) =
        naming.place(query.namespace.as_deref(), Some(host), &name)
    else {
        return;
    };
    let asked_again = format!("{}/{}", scope.upstream, scope.repo);
    if let Ok(name) = asked_again.parse() {
        let again = naming.place(Some(scope.upstream.as_str()), None, &name);
        assert_eq!(again, Ok(Place::Upstream(scope)));
    }
});

fn naming() -> Naming {
    let upstream = |name: &str, prefix: Option<&str>| NamedUpstream {
        name: name.parse().expect("a name"),
        alias: None,
        hosts: vec![format!("{name}.mirror.example")],
        ns_aliases: vec![format!("index.{name}")],
        single_component_prefix: prefix.map(|prefix| prefix.parse().expect("a name")),
    };
    Naming::new(NamingSettings {
        upstreams: vec![upstream("docker.io", Some("library")), upstream("ghcr.io", None)],
        default_upstream: Some("docker.io".parse().expect("a name")),
        hosted_prefixes: vec!["hosted/".into()],
        public_host: Some("mirror.example".into()),
    })
}
