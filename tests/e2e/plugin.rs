//! What docs/plugins.md promises to whoever writes or mounts plugins, with real tools and clients.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pierhead_kit::http::{Request, get};
use pierhead_kit::images::random_layers;
use pierhead_kit::program::{
    DockerRegistry, Dockerd, Output, Pierhead, Run, Skopeo, missing, require,
};
use pierhead_kit::{SetOnDrop, sha256, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{NAME, binary, options};

/// How long a plugin may take to be built from nothing.
const BUILD: Duration = Duration::from_secs(300);
/// How long a change may take to be seen.
const SEEN: Duration = Duration::from_secs(60);

#[track_caller]
fn pierhead_says(arguments: &[&str]) -> String {
    Run::new(binary()).args(arguments).deadline(BUILD).output().ok().text().to_owned()
}

/// Builds a project. All share a folder of what is built, so that dependencies are built once.
fn build(project: &Path) -> Output {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    let build = Run::new(binary()).args(["plugin", "build"]).arg(project);
    build.env("CARGO_TARGET_DIR", built).deadline(BUILD).output()
}

/// Makes and builds a project of a template. `None` where there is no way to WebAssembly.
#[track_caller]
fn made(dir: &Path, name: &str, hook: &str) -> Option<PathBuf> {
    let project = dir.join(name);
    let place = project.to_string_lossy().into_owned();
    pierhead_says(&["plugin", "new", name, "--hook", hook, "--dir", &place]);
    let built = build(&project);
    if !built.success() && built.stderr.contains("can compile for wasm32-unknown-unknown") {
        missing(
            "there is no Rust for wasm32-unknown-unknown (cargo xtask plugins --install-toolchain)",
        );
        return None;
    }
    let built = built.ok();
    assert!(built.text().contains(&format!("[plugin.{name}]")), "{built}");
    Some(project)
}

/// The bundled plugin, as a file that can be changed.
fn house_rules() -> Option<Vec<u8>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bundled/house-rules.wasm");
    let bytes = fs::read(file).ok();
    if bytes.is_none() {
        missing("the bundled plugins are not built (cargo xtask plugins)");
    }
    bytes
}

/// The same plugin with another digest: a custom section more, which means nothing.
fn variant(wasm: &[u8], number: u8) -> Vec<u8> {
    let mut wasm = wasm.to_vec();
    wasm.extend([0, 3, 1, b'v', number]);
    wasm
}

/// Puts a whole file in the place of the old one, as `plugin build` does.
fn place(path: &Path, bytes: &[u8]) {
    let part = path.with_extension("part");
    fs::write(&part, bytes).unwrap();
    fs::rename(part, path).unwrap();
}

/// A registry as docker.io with an image under two tags, and a Pierhead with these plugins.
struct Bench {
    pierhead: Pierhead,
    _registry: DockerRegistry,
}

impl Bench {
    #[track_caller]
    fn start(config: &str) -> Option<Self> {
        Skopeo::find()?;
        let registry = DockerRegistry::start()?;
        let layout = random_layers(2, 100_000);
        for tag in ["1", "latest"] {
            registry.push(&layout, &format!("library/{NAME}:{tag}"));
        }
        let pierhead = options(&registry.url(), config).start();
        Some(Self { pierhead, _registry: registry })
    }

    fn status(&self, tag: &str) -> u16 {
        get(format!("{}/v2/library/{NAME}/manifests/{tag}", self.pierhead.url())).status
    }

    /// What the operator is told of the plugin.
    fn plugin(&self) -> Value {
        let url = format!("{}/api/v1/plugins", self.pierhead.admin_url());
        self.ask_operator(&url)["plugins"][0].clone()
    }

    #[track_caller]
    fn ask_operator(&self, url: &str) -> Value {
        let token = format!("Bearer {}", self.pierhead.admin_token());
        Request::new("GET", url).header("authorization", token).send().expect(200).json()
    }

    #[track_caller]
    fn wait_for_digest(&self, wasm: &[u8]) {
        let digest = sha256(wasm);
        wait_until("the plugin is replaced", SEEN, || {
            (self.plugin()["digest"] == json!(digest)).then_some(())
        });
    }
}

#[test]
fn a_policy_is_made_tested_and_mounted_and_docker_is_refused_with_its_words() {
    let dir = TempDir::new().unwrap();
    let Some(project) = made(dir.path(), "my-policy", "request-policy") else { return };
    let file = project.join("my-policy.wasm");
    let cases = project.join("tests");
    let (file_text, cases) = (file.to_string_lossy(), cases.to_string_lossy());
    let tested = pierhead_says(&["plugin", "test", &file_text, "--cases", &cases]);
    assert!(tested.ends_with("3 passed, 0 failed"), "{tested}");
    let inspected = pierhead_says(&["plugin", "inspect", &file_text, "--output", "json"]);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["hooks"], json!(["request-policy"]));
    assert_eq!(inspected["grants"], json!([]));

    let config = format!("[plugin.my-policy]\nsource = \"file:{file_text}\"\n");
    let Some(bench) = Bench::start(&config) else { return };
    if let Some(dockerd) = Dockerd::start(&[bench.pierhead.url()]) {
        let image = |tag: &str| format!("{}/library/{NAME}:{tag}", bench.pierhead.host());
        let refused = dockerd.pull(&image("latest")).fails();
        assert!(
            refused.stderr.contains(&format!("library/{NAME}:latest moves: pull a version of it")),
            "{refused}"
        );
        dockerd.pull(&image("1")).ok();
    }
    assert_eq!((bench.status("latest"), bench.status("1")), (403, 200));

    let url = format!("{}/api/v1/explain?image={NAME}:latest", bench.pierhead.admin_url());
    let explained = bench.ask_operator(&url).to_string();
    assert!(explained.contains("not asked here: my-policy"), "{explained}");

    // Its author has another idea, and the server sees it.
    let source = project.join("src/lib.rs");
    let text = fs::read_to_string(&source).unwrap();
    assert!(text.contains("\"latest\""));
    fs::write(&source, text.replace("\"latest\"", "\"1\"")).unwrap();
    let old = dir.path().join("old.wasm");
    fs::copy(&file, &old).unwrap();
    build(&project).ok();
    bench.wait_for_digest(&fs::read(&file).unwrap());
    assert_eq!((bench.status("latest"), bench.status("1")), (200, 403));

    let differ = Run::new(binary())
        .args(["plugin", "diff", &old.to_string_lossy(), &file_text, "--recording", &cases])
        .output()
        .fails();
    assert!(differ.text().contains("1 of 3 answers change"), "{differ}");
}

#[test]
fn every_template_builds_and_passes_its_own_test() {
    for hook in ["manifest-policy", "authenticator", "authorizer", "resolver"] {
        let dir = TempDir::new().unwrap();
        let name = format!("my-{hook}");
        let Some(project) = made(dir.path(), &name, hook) else { return };
        let file = project.join(format!("{name}.wasm"));
        let cases = project.join("tests");
        let tested = pierhead_says(&[
            "plugin",
            "test",
            &file.to_string_lossy(),
            "--cases",
            &cases.to_string_lossy(),
        ]);
        assert!(tested.ends_with(" 0 failed"), "{hook}: {tested}");
    }
}

#[test]
fn a_policy_in_javascript_is_made_tested_and_mounted() {
    if require("npm").is_none() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let project = dir.path().join("my-policy");
    let place = project.to_string_lossy().into_owned();
    pierhead_says(&["plugin", "new", "my-policy", "--lang", "js", "--dir", &place]);
    let built = build(&project).ok();
    assert!(built.text().contains("[plugin.my-policy]"), "{built}");
    let file = project.join("my-policy.wasm");
    let (file_text, cases) = (file.to_string_lossy(), project.join("tests"));
    let tested =
        pierhead_says(&["plugin", "test", &file_text, "--cases", &cases.to_string_lossy()]);
    assert!(tested.ends_with("4 passed, 0 failed"), "{tested}");
    let config = format!("[plugin.my-policy]\nsource = \"file:{file_text}\"\n");
    let Some(bench) = Bench::start(&config) else { return };
    assert_eq!((bench.status("latest"), bench.status("1")), (403, 200));
}

/// A Pierhead with a text as its only policy, which refuses `latest` with these words.
#[track_caller]
fn with_text(file: &Path, text: &str, words: &str) -> Option<Bench> {
    house_rules()?;
    place(file, text.as_bytes());
    let bench = Bench::start(&format!(
        "[plugin.text]\nsource = \"file:{}\"\nhooks = [\"request-policy\"]\n",
        file.display()
    ))?;
    assert_eq!((bench.status("latest"), bench.status("1")), (403, 200));
    let url = format!("{}/v2/library/{NAME}/manifests/latest", bench.pierhead.url());
    let refused = get(url).text();
    assert!(refused.contains(words), "{refused}");
    Some(bench)
}

#[test]
fn a_policy_in_cedar_is_a_text() {
    let dir = TempDir::new().unwrap();
    let text = "permit(principal, action, resource);\n@message(\"latest is refused by cedar\")\n\
        forbid(principal, action, resource)\nwhen { context has tag && context.tag == \"latest\" };\n";
    with_text(&dir.path().join("policy.cedar"), text, "latest is refused by cedar");
}

#[test]
fn a_policy_in_rego_is_a_text_and_is_replaced_like_any_plugin() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("policy.rego");
    let text = |tag: &str| {
        format!("package p\ndeny contains \"{tag} is refused by rego\" if input.tag == \"{tag}\"\n")
    };
    let words = "latest is refused by rego";
    let Some(bench) = with_text(&file, &text("latest"), words) else { return };
    place(&file, text("1").as_bytes());
    wait_until("the text is replaced", SEEN, || (bench.status("1") == 403).then_some(()));
    assert_eq!(bench.status("latest"), 200);
    place(&file, b"this is no policy");
    bench.pierhead.hangup();
    wait_until("the operator is told", SEEN, || {
        (bench.plugin()["health"] == json!("stale")).then_some(())
    });
    assert_eq!((bench.status("latest"), bench.status("1")), (200, 403));
}

#[test]
fn a_plugin_is_replaced_a_hundred_times_under_load_and_no_request_is_lost() {
    let Some(wasm) = house_rules() else { return };
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("rules.wasm");
    place(&file, &wasm);
    let config = format!(
        "[plugin.rules]\nsource = \"file:{}\"\nconfig = {{ blocked_tags = [\"latest\"] }}\n",
        file.display()
    );
    let Some(bench) = Bench::start(&config) else { return };
    assert_eq!((bench.status("latest"), bench.status("1")), (403, 200));
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        assert_eq!(bench.status("1"), 200);
                        assert_eq!(bench.status("latest"), 403);
                        answered.fetch_add(2, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let ended = SetOnDrop(&over);
        // One in ten is compiled; the others come from what is kept of compiled code, and so the
        // faster.
        for number in 0..100 {
            let next = variant(&wasm, if number % 10 == 0 { number } else { number % 2 });
            place(&file, &next);
            bench.pierhead.hangup();
            bench.wait_for_digest(&next);
        }
        drop(ended);
        for client in clients {
            client.join().unwrap();
        }
    });
    assert!(answered.load(Ordering::Relaxed) > 100);
    // What does not load changes nothing, and is told.
    place(&file, b"no plugin");
    bench.pierhead.hangup();
    wait_until("the operator is told", SEEN, || {
        let plugin = bench.plugin();
        plugin.to_string().contains("not WebAssembly").then_some(())
    });
    assert_eq!((bench.status("latest"), bench.status("1")), (403, 200));
}

#[test]
fn a_plugin_comes_from_a_registry_by_its_digest() {
    let Some(wasm) = house_rules() else { return };
    let Some(registry) = DockerRegistry::start() else { return };
    let push = |media_type: &str, bytes: &[u8]| {
        let url = format!("{}/v2/acme/rules/blobs/uploads/", registry.url());
        let began = Request::new("POST", &url).send().expect(202);
        let place = began.header("location").unwrap().to_owned();
        let digest = sha256(bytes);
        let separator = if place.contains('?') { '&' } else { '?' };
        Request::new("PUT", format!("{place}{separator}digest={digest}"))
            .header("content-type", "application/octet-stream")
            .body(bytes)
            .send()
            .expect(201);
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    };
    let config = push("application/vnd.wasm.config.v0+json", b"{\"architecture\":\"wasm\"}");
    let layer = push("application/wasm", &wasm);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer],
    })
    .to_string();
    let digest = sha256(manifest.as_bytes());
    Request::new("PUT", format!("{}/v2/acme/rules/manifests/{digest}", registry.url()))
        .header("content-type", media_type)
        .body(manifest.as_bytes())
        .send()
        .expect(201);
    let config = format!(
        "[upstream.\"plugins.example\"]\nendpoints = [\"{}\"]\n\
         [plugin.rules]\nsource = \"oci:plugins.example/acme/rules@{digest}\"\n\
         config = {{ blocked_tags = [\"latest\"] }}\n",
        registry.url()
    );
    let Some(bench) = Bench::start(&config) else { return };
    assert_eq!((bench.status("latest"), bench.status("1")), (403, 200));
    assert_eq!(bench.plugin()["digest"], json!(sha256(&wasm)));
}
