//! Tests of the files that clients read; `tests/e2e/node_config.rs` has the clients read them.

use clap::Parser;
use serde_json::Value;

use super::super::CONFIG_VARIABLE;
use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: NodeConfigArgs,
}

/// Runs with these arguments and this configuration: status, standard output and error.
fn ran_with(line: &str, toml: &str) -> (Exit, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pierhead.toml");
    fs::write(&file, toml).unwrap();
    let variables = vec![(CONFIG_VARIABLE.into(), file.into_os_string())];
    let words = std::iter::once("node-config").chain(line.split_whitespace());
    let args = Line::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}")).args;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = node_config(&args, variables, &mut Console::new(&mut out, &mut err));
    (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn ran(line: &str) -> (Exit, String, String) {
    ran_with(line, "")
}

/// The files as JSON has them.
fn files(line: &str) -> Vec<(String, String)> {
    let (status, out, err) = ran(&format!("{line} --output json"));
    assert_eq!(status, Exit::Yes, "{err}");
    let list: Vec<Value> = serde_json::from_str(&out).unwrap();
    let text = |file: &Value, key: &str| file[key].as_str().unwrap().to_owned();
    list.iter().map(|file| (text(file, "path"), text(file, "content"))).collect()
}

/// A file of TOML, read the way that clients do.
fn toml(content: &str) -> toml::Table {
    content.parse().unwrap()
}

const BUILT_IN: [&str; 7] = [
    "docker.io",
    "gcr.io",
    "ghcr.io",
    "mcr.microsoft.com",
    "public.ecr.aws",
    "quay.io",
    "registry.k8s.io",
];

#[test]
fn docker_mirrors_docker_hub_only() {
    let (status, out, err) = ran("docker --url http://10.0.0.5:5000");
    assert_eq!(status, Exit::Yes);
    let daemon: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(daemon["registry-mirrors"], serde_json::json!(["http://10.0.0.5:5000"]));
    assert_eq!(daemon["insecure-registries"], serde_json::json!(["10.0.0.5:5000"]));
    assert!(err.contains("/etc/docker/daemon.json"), "{err}");
    assert!(err.contains("only for docker.io"), "{err}");
    // Loopback is without TLS in dockerd's eyes anyway, and https needs no exception.
    for url in ["http://127.0.0.1:5000", "http://[::1]:5000", "http://localhost", "https://m"] {
        let daemon: Value = serde_json::from_str(&ran(&format!("docker --url {url}")).1).unwrap();
        assert_eq!(daemon.get("insecure-registries"), None, "{url}");
    }
    let (status, out, err) = ran("docker --url http://m --upstream ghcr.io");
    assert_eq!((status, out.as_str()), (Exit::Usage, ""));
    assert!(err.contains("HOST:PORT/ghcr.io/IMAGE"), "{err}");
}

#[test]
fn containerd_has_a_directory_for_each_registry() {
    let files = files("containerd --url http://127.0.0.1:5000/");
    let mut names: Vec<_> = files
        .iter()
        .map(|(path, content)| {
            let host = toml(content)["host"].as_table().unwrap()["http://127.0.0.1:5000"].clone();
            assert_eq!(host["capabilities"].as_array().unwrap().len(), 2, "{content}");
            let name = path.strip_prefix("/etc/containerd/certs.d/").unwrap();
            name.strip_suffix("/hosts.toml").unwrap()
        })
        .collect();
    names.sort_unstable();
    assert_eq!(names, BUILT_IN);
    let all = super::tests::files("containerd --url http://m:5000 --every-registry");
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].0, "/etc/containerd/certs.d/_default/hosts.toml");
}

#[test]
fn podman_has_a_mirror_for_each_registry() {
    let (_, content) = files("podman --url http://m.example:5000").remove(0);
    let registries = toml(&content)["registry"].as_array().unwrap().clone();
    assert_eq!(registries.len(), BUILT_IN.len());
    for registry in registries {
        let name = registry["prefix"].as_str().unwrap();
        assert!(BUILT_IN.contains(&name));
        assert_eq!(registry["location"].as_str(), Some(name));
        let mirror = &registry["mirror"].as_array().unwrap()[0];
        assert_eq!(mirror["location"].as_str(), Some(&*format!("m.example:5000/{name}")));
        assert_eq!(mirror["insecure"].as_bool(), Some(true));
    }
    let (_, content) = files("podman --url https://m.example --upstream quay.io").remove(0);
    let mirror = &toml(&content)["registry"][0]["mirror"][0];
    assert_eq!(mirror["location"].as_str(), Some("m.example/quay.io"));
    assert_eq!(mirror.get("insecure"), None);
}

#[test]
fn a_name_with_a_port_needs_an_alias_in_podmans_paths() {
    let with_alias = "[upstream.\"r.example:5000\"]\nalias = \"example\"\n";
    let (status, out, _) = ran_with("podman --url http://m --upstream r.example:5000", with_alias);
    assert_eq!(status, Exit::Yes);
    assert!(out.contains("prefix = \"r.example:5000\""), "{out}");
    assert!(out.contains("location = \"m/example\""), "{out}");
    let without = "[upstream.\"r.example:5000\"]\n";
    let (status, _, err) = ran_with("podman --url http://m --upstream r.example:5000", without);
    assert_eq!(status, Exit::Usage);
    assert!(err.contains("alias"), "{err}");
    // Not asked for by name, it is left out and named.
    let (status, out, err) = ran_with("podman --url http://m", without);
    assert_eq!(status, Exit::Yes);
    assert!(!out.contains("r.example") && err.contains("left out"), "{out}{err}");
}

#[test]
fn buildkit_has_mirrors_and_how_to_reach_them() {
    let (path, content) = files("buildkit --url http://127.0.0.1:5000").remove(0);
    assert_eq!(path, "/etc/buildkit/buildkitd.toml");
    let registry = toml(&content)["registry"].as_table().unwrap().clone();
    for name in BUILT_IN {
        assert_eq!(registry[name]["mirrors"][0].as_str(), Some("127.0.0.1:5000"));
    }
    assert_eq!(registry["127.0.0.1:5000"]["http"].as_bool(), Some(true));
    let (_, content) = files("buildkit --url https://m.example").remove(0);
    assert_eq!(toml(&content)["registry"].get("m.example"), None);
    assert_eq!(ran("buildkit --url http://m --every-registry").0, Exit::Usage);
}

#[test]
fn k3s_has_the_documented_keys() {
    let (path, content) = files("k3s --url http://10.0.0.5:5000 --upstream docker.io").remove(0);
    assert_eq!(path, "/etc/rancher/k3s/registries.yaml");
    assert_eq!(
        content,
        "# /etc/rancher/k3s/registries.yaml\nmirrors:\n  \"docker.io\":\n    endpoint:\n      \
         - \"http://10.0.0.5:5000\"\n"
    );
    let (_, content) = files("k3s --url https://m.example --every-registry").remove(0);
    assert!(content.contains("  \"*\":\n    endpoint:\n      - \"https://m.example\"\n"));
}

#[test]
fn certificates_go_where_each_client_looks() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let pem = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
    fs::write(&ca, pem).unwrap();
    for (client, path, reference) in [
        ("docker", "/etc/docker/certs.d/m.example:8443/ca.crt", None),
        ("podman", "/etc/containers/certs.d/m.example:8443/ca.crt", None),
        ("containerd", "/etc/containerd/pierhead-ca.crt", Some("  ca = \"")),
        ("buildkit", "/etc/buildkit/pierhead-ca.crt", Some("  ca = [\"")),
        ("k3s", "/etc/rancher/k3s/pierhead-ca.crt", Some("      ca_file: \"")),
    ] {
        let upstream = "--upstream docker.io";
        let line = format!("{client} --url https://m.example:8443 {upstream}");
        let line = format!("{line} --ca-file {}", ca.display());
        let files = files(&line);
        assert_eq!(files[1], (path.to_owned(), pem.to_owned()), "{client}");
        if let Some(reference) = reference {
            assert!(files[0].1.contains(&format!("{reference}{path}")), "{}", files[0].1);
        }
        // Printed, the one file can be redirected: the certificate is only spoken of.
        let (_, out, err) = ran(&line);
        assert_eq!(out, files[0].1);
        assert!(err.contains(path), "{err}");
    }
    let line = format!("docker --url http://m --ca-file {}", ca.display());
    assert_eq!(ran(&line).0, Exit::Usage);
    for (content, word) in [
        ("no certificate", "no certificate"),
        ("-----BEGIN PRIVATE KEY-----\n-----BEGIN CERTIFICATE-----\n", "private key"),
    ] {
        fs::write(&ca, content).unwrap();
        let (status, out, err) = ran(&format!("docker --url https://m --ca-file {}", ca.display()));
        assert_eq!((status, out.as_str()), (Exit::No, ""));
        assert!(err.contains(word), "{err}");
    }
}

#[test]
fn files_are_written_and_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let line = format!("docker --url http://m:5000 --write {}", dir.path().display());
    let (status, out, _) = ran(&line);
    let path = dir.path().join("etc/docker/daemon.json");
    assert_eq!((status, out), (Exit::Yes, format!("{}\n", path.display())));
    assert_eq!(fs::read_to_string(&path).unwrap(), ran("docker --url http://m:5000").1);

    fs::write(&path, "mine").unwrap();
    let (status, _, err) = ran(&line);
    assert_eq!(status, Exit::No);
    assert!(err.contains("--force"), "{err}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(ran(&format!("{line} --force")).0, Exit::Yes);
    assert_ne!(fs::read_to_string(&path).unwrap(), "mine");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left over");
}

#[test]
fn one_file_in_the_way_keeps_all_from_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let mine = dir.path().join("etc/containerd/certs.d/quay.io/hosts.toml");
    fs::create_dir_all(mine.parent().unwrap()).unwrap();
    fs::write(&mine, "mine").unwrap();
    let line = format!("containerd --url http://m:5000 --write {}", dir.path().display());
    assert_eq!(ran(&line).0, Exit::No);
    assert!(!dir.path().join("etc/containerd/certs.d/docker.io").exists());
}

#[test]
fn urls_that_no_client_could_use_are_refused() {
    for url in [
        "m:5000",
        "ftp://m",
        "http://",
        "http://user:password@m",
        "http://token@m",
        "http://m/registry",
        "http://m/?x",
        "http://m/#x",
    ] {
        let refused = mirror_url(url).unwrap_err();
        assert!(!refused.contains("password@"), "{refused}");
    }
    for (url, kept) in [("http://M:80", "http://m/"), ("https://m:8443/", "https://m:8443/")] {
        assert_eq!(mirror_url(url).unwrap().as_str(), kept);
    }
}
