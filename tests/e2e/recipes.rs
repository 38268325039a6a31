//! The recipes of `docs/recipes`, as they stand there: their blocks are taken out of the pages,
//! get the address of a Pierhead under test, and are given to the clients.

use std::path::Path;

use pierhead_kit::images::{Layout, multi_arch};
use pierhead_kit::program::{Containerd, Dockerd, Podman, Skopeo};
use serde_json::{Value, json};

use super::Bench;

/// The image of the recipes.
const IMAGE: &str = "library/alpine:3.20";

/// The address of the recipes.
const ADDRESS: &str = "127.0.0.1:5000";

/// Where containerd's recipe puts its files.
const CERTS_D: &str = "/etc/containerd/certs.d";

/// A fenced block with a title.
#[derive(Clone, Debug)]
struct Block {
    language: String,
    title: String,
    content: String,
}

/// The blocks of a page that have a title.
fn blocks(page: &str) -> Vec<Block> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/recipes").join(page);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{page}: {error}"));
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let Some((language, title)) = info.split_once(" title=") else {
            panic!("{page}: a block without a title: {line}");
        };
        let content = body.join("\n") + "\n";
        blocks.push(Block { language: language.into(), title: title.into(), content });
    }
    assert!(!blocks.is_empty(), "{page} has no blocks");
    blocks
}

/// The contents of a page's blocks with that title, for that Pierhead.
#[track_caller]
fn titled(page: &str, title: &str, bench: &Bench) -> Vec<String> {
    let host = bench.pierhead.host();
    let found: Vec<_> = blocks(page)
        .into_iter()
        .filter(|block| block.title == title)
        .map(|block| block.content.replace(ADDRESS, host).replace("MIRROR:5000", host))
        .collect();
    assert!(!found.is_empty(), "{page} has no block {title}");
    found
}

/// The page's one block with that title.
#[track_caller]
fn only(page: &str, title: &str, bench: &Bench) -> String {
    let [one] = titled(page, title, bench).try_into().expect("one block");
    one
}

/// The commands in a page's blocks with that title, without the program's name.
#[track_caller]
fn commands(page: &str, title: &str, program: &str, bench: &Bench) -> Vec<Vec<String>> {
    let lines = titled(page, title, bench).join("");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let commands: Vec<_> = lines
        .lines()
        .map(|line| {
            let [first, rest @ ..] = &words(line)[..] else { panic!("an empty line in {page}") };
            assert_eq!(first, program, "{page}: {line}");
            rest.to_vec()
        })
        .collect();
    assert!(!commands.is_empty());
    commands
}

/// A Pierhead whose upstream has the recipes' image.
#[track_caller]
fn start() -> Option<(Bench, Layout)> {
    let bench = Bench::start()?;
    let layout = multi_arch(100_000);
    bench.registry.push(&layout, IMAGE);
    Some((bench, layout))
}

/// Blobs and manifests that Pierhead has answered.
#[track_caller]
fn answers(bench: &Bench) -> (f64, f64) {
    let of = |kind| bench.pierhead.metric("pierhead_cache_answers_total", &[("kind", kind)]);
    (of("blob"), of("manifest"))
}

/// Checks that `pull` pulled from Pierhead: a client that goes elsewhere may succeed, too.
#[track_caller]
fn through(bench: &Bench, pull: impl FnOnce()) {
    let before = answers(bench);
    pull();
    let after = answers(bench);
    assert!(after.0 > before.0 && after.1 > before.1, "the client went elsewhere");
}

#[track_caller]
fn dockerd(keys: &Value, bench: &Bench, layout: &Layout, pulls: &[Vec<String>]) {
    let Some(dockerd) = Dockerd::start_with(keys) else { return };
    for pull in pulls {
        dockerd.forget_images();
        through(bench, || drop(dockerd.docker(pull).ok()));
        let image = pull.last().expect("an image");
        let id = dockerd.docker(["image", "inspect", "--format", "{{.Id}}", image]).ok();
        assert_eq!(id.text(), layout.image_blobs(&layout.platform("amd64"))[0]);
    }
}

#[test]
fn docker() {
    let Some((bench, layout)) = start() else { return };
    let file = only("docker.md", "/etc/docker/daemon.json", &bench);
    let keys = serde_json::from_str(&file).expect("JSON");
    let pulls = commands("docker.md", "pull", "docker", &bench);
    assert_eq!(pulls.len(), 2);
    dockerd(&keys, &bench, &layout, &pulls);
}

#[test]
fn containerd() {
    let Some((bench, _)) = start() else { return };
    let pulls = commands("containerd.md", "pull", "ctr", &bench);
    for host in ["_default", "docker.io"] {
        let Some(containerd) = Containerd::start() else { return };
        let hosts = only("containerd.md", &format!("{CERTS_D}/{host}/hosts.toml"), &bench);
        containerd.set_hosts_toml(host, &hosts);
        for pull in &pulls {
            let [command @ .., image] = &pull[..] else { panic!("no command") };
            // The helper says the same, with its own directory.
            assert_eq!(command, ["images", "pull", "--hosts-dir", CERTS_D]);
            through(&bench, || drop(containerd.pull(image).ok()));
        }
    }
}

#[test]
fn podman() {
    let Some((bench, layout)) = start() else { return };
    let conf = "/etc/containers/registries.conf.d/50-pierhead.conf";
    let Some(podman) = Podman::new(&only("podman.md", conf, &bench)) else { return };
    for pull in commands("podman.md", "pull", "podman", &bench) {
        let image = pull.last().expect("an image").clone();
        through(&bench, || drop(podman.podman(pull).ok()));
        let id = podman.podman(["image", "inspect", "--format", "{{.Id}}", &image]).ok();
        let config = layout.image_blobs(&layout.platform("amd64"))[0].replace("sha256:", "");
        assert_eq!(id.text(), config);
    }
}

#[test]
fn skopeo() {
    let Some((bench, _)) = start() else { return };
    let Some(skopeo) = Skopeo::find() else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let conf = "/etc/containers/registries.conf.d/50-pierhead.conf";
    std::fs::write(at("conf"), only("podman.md", conf, &bench)).expect("a file");
    for copy in commands("podman.md", "copy", "skopeo", &bench) {
        let copy = copy.iter().map(|word| word.replace("dir:", &format!("dir:{}/", at(""))));
        let args = ["--registries-conf".to_owned(), at("conf")].into_iter().chain(copy);
        through(&bench, || drop(skopeo.run(args).ok()));
    }
}

#[test]
fn github_actions() {
    let Some((bench, layout)) = start() else { return };
    let workflow = only("github-actions.md", ".github/workflows/build.yml", &bench);
    let workflow: Value = serde_yaml_ng::from_str(&workflow).expect("YAML");
    let steps = workflow["jobs"]["build"]["steps"].as_array().expect("steps");
    let script = steps[0]["run"].as_str().expect("a script");
    let (file, _) = script
        .split_once("echo '")
        .and_then(|(_, rest)| rest.split_once("' | sudo tee /etc/docker/daemon.json\n"))
        .expect("the step writes daemon.json");
    let keys = serde_json::from_str(file).expect("JSON");
    dockerd(&keys, &bench, &layout, &[vec!["pull".into(), "alpine:3.20".into()]]);
}

#[test]
fn gitlab_ci() {
    let Some((bench, layout)) = start() else { return };
    let pipeline: Value =
        serde_yaml_ng::from_str(&only("gitlab-ci.md", ".gitlab-ci.yml", &bench)).expect("YAML");
    let command = &pipeline["build"]["services"][0]["command"];
    // The flag is the file's key of that name.
    assert_eq!(command[0], "--registry-mirror");
    let keys = json!({ "registry-mirrors": [command[1]] });
    dockerd(&keys, &bench, &layout, &[vec!["pull".into(), "alpine:3.20".into()]]);
}

#[test]
fn others_parse() {
    for page in ["buildkit.md", "k3s.md", "containerd.md", "podman.md"] {
        for Block { language, title, content } in blocks(page) {
            let parses = match &*language {
                "toml" => content.parse::<toml::Table>().map(drop).map_err(|e| e.to_string()),
                "yaml" => serde_yaml_ng::from_str::<Value>(&content)
                    .map(drop)
                    .map_err(|error| error.to_string()),
                _ => Ok(()),
            };
            assert_eq!(parses, Ok(()), "{page}: {title}");
        }
    }
    let buildkit = &blocks("buildkit.md")[0].content.parse::<toml::Table>().expect("TOML");
    let mirror = buildkit["registry"]["docker.io"]["mirrors"][0].as_str().expect("a mirror");
    assert_eq!(mirror, ADDRESS);
    assert_eq!(buildkit["registry"][mirror]["http"].as_bool(), Some(true));
    for block in blocks("k3s.md").iter().filter(|block| block.title.ends_with("registries.yaml")) {
        let file: Value = serde_yaml_ng::from_str(&block.content).expect("YAML");
        let mirrors = file["mirrors"].as_object().expect("mirrors");
        let endpoints = mirrors.values().map(|mirror| mirror["endpoint"][0].as_str());
        assert!(endpoints.flatten().filter(|e| e.starts_with("http://")).count() == mirrors.len());
    }
}
