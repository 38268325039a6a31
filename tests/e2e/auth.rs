//! Real clients that log in, with a password and with the token of a CI job.
//!
//! The plugins are those that come with Pierhead. A build without them skips these tests.

use pierhead_kit::http::{Request, Response, get};
use pierhead_kit::images::{Layout, multi_arch};
use pierhead_kit::program::{
    Containerd, DockerRegistry, Dockerd, Pierhead, Podman, Skopeo, missing,
};
use serde_json::{Value, json};

use super::{NAME, command, options};

/// Somebody who may pull.
const USER: &str = "ci";
const PASSWORD: &str = "correct horse";

/// Both in a line of `htpasswd -B`.
const LINE: &str = "ci:$2y$05$xjv0GuJ8UJRRwt95ivUs4eSzG3Z5pbnUGrWN6O4keM7oXaMeCtBoG";

/// What htpasswd tells whose password is wrong.
const WRONG: &str = "wrong name or password";

/// What Pierhead tells who has none.
const LOG_IN: &str = "authentication required";

/// A registry as docker.io, and a Pierhead in front of it that wants a login.
pub(crate) struct Guarded {
    pub(crate) pierhead: Pierhead,
    pub(crate) registry: DockerRegistry,
    pub(crate) layout: Layout,
}

impl Guarded {
    /// With plugins as in `config`. `None` where a program or the bundled plugins are missing.
    #[track_caller]
    pub(crate) fn start(config: &str) -> Option<Self> {
        // It pushes to the registry.
        Skopeo::find()?;
        let registry = DockerRegistry::start()?;
        let pierhead = match options(&registry.url(), config).try_start() {
            Ok(pierhead) => pierhead,
            Err(why) if why.contains("built without bundled plugins") => {
                missing("the bundled plugins are not built (cargo xtask plugins)");
                return None;
            }
            Err(why) => panic!("{why}"),
        };
        let layout = multi_arch(300_000);
        registry.push(&layout, &format!("library/{NAME}:1"));
        Some(Self { pierhead, registry, layout })
    }

    #[track_caller]
    fn with_htpasswd(more: &str) -> Option<Self> {
        Self::start(&format!(
            "[plugin.users]\nsource = \"builtin:htpasswd\"\nconfig = {{ users = \"{LINE}\" }}\n{more}"
        ))
    }

    /// `127.0.0.1:PORT/docker.io/library/NAME:1`
    pub(crate) fn image(&self) -> String {
        format!("{}/docker.io/library/{NAME}:1", self.pierhead.host())
    }

    fn manifest_url(&self) -> String {
        format!("{}/v2/library/{NAME}/manifests/1", self.pierhead.url())
    }

    /// Checks that none of these texts stands in a log line.
    #[track_caller]
    pub(crate) fn never_logged(&self, secrets: &[&str]) {
        let log = self.pierhead.stderr();
        for secret in secrets {
            assert!(!log.contains(secret), "{secret:?} is in the log:\n{log}");
        }
    }
}

/// `Authorization: Basic`
fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let text = format!("{user}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

fn get_with(url: &str, authorization: &str) -> Response {
    Request::new("GET", url).header("authorization", authorization).send()
}

/// The first error of an answer.
fn message(answer: &Response) -> String {
    answer.json()["errors"][0]["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn docker_logs_in_pulls_and_logs_out() {
    let Some(guarded) = Guarded::with_htpasswd("") else { return };
    let Some(dockerd) = Dockerd::start_with(&json!({})) else { return };
    let (host, image) = (guarded.pierhead.host(), guarded.image());
    let login = |password: &str| dockerd.docker(["login", "-u", USER, "-p", password, host]);

    let refused = dockerd.pull(&image).fails();
    assert!(refused.stderr.contains(LOG_IN), "{refused}");
    let wrong = login("battery staple").fails();
    assert!(wrong.stderr.contains(WRONG), "{wrong}");
    login(PASSWORD).ok();
    dockerd.pull(&image).ok();
    let id = dockerd.docker(["image", "inspect", "--format", "{{.Id}}", &image]).ok();
    let manifest = guarded.layout.platform("amd64");
    assert_eq!(id.text(), guarded.layout.image_blobs(&manifest)[0]);
    // Warm, and by a daemon that has none of it any more.
    dockerd.forget_images();
    dockerd.pull(&image).ok();
    dockerd.docker(["logout", host]).ok();
    dockerd.forget_images();
    let refused = dockerd.pull(&image).fails();
    assert!(refused.stderr.contains(LOG_IN), "{refused}");

    assert!(guarded.pierhead.stderr().contains("subject=\"ci\""));
    guarded.never_logged(&[PASSWORD, "battery staple", "Y2k6", "eyJ"]);
}

#[test]
fn podman_logs_in_pulls_and_logs_out() {
    let Some(guarded) = Guarded::with_htpasswd("") else { return };
    let Some(podman) = Podman::new("") else { return };
    let (host, image) = (guarded.pierhead.host(), guarded.image());
    let login = |password: &str| {
        podman.podman(["login", "--tls-verify=false", "-u", USER, "-p", password, host])
    };
    let pull = || podman.podman(["pull", "--quiet", "--tls-verify=false", &image]);
    let refused = pull().fails();
    assert!(refused.stderr.contains(LOG_IN), "{refused}");
    login("battery staple").fails();
    login(PASSWORD).ok();
    pull().ok();
    podman.podman(["logout", host]).ok();
    podman.forget_images();
    pull().fails();
    guarded.never_logged(&[PASSWORD, "battery staple", "eyJ"]);
}

#[test]
fn skopeo_shows_its_credentials() {
    let Some(guarded) = Guarded::with_htpasswd("") else { return };
    let Some(skopeo) = Skopeo::find() else { return };
    let image = format!("docker://{}", guarded.image());
    let inspect = |more: &[&str]| {
        let args = ["inspect", "--raw", "--tls-verify=false"];
        skopeo.run(args.iter().chain(more).chain([&image.as_str()]).copied())
    };
    let raw = inspect(&["--creds", &format!("{USER}:{PASSWORD}")]).ok();
    assert_eq!(raw.stdout.as_bytes(), guarded.layout.read(&guarded.layout.root().digest));
    let wrong = inspect(&["--creds", "ci:wrong"]).fails();
    assert!(wrong.stderr.contains(WRONG), "{wrong}");
    let none = inspect(&["--no-creds"]).fails();
    assert!(none.stderr.contains(LOG_IN), "{none}");
}

#[test]
fn the_cache_is_warmed_by_who_may_pull() {
    let Some(mut guarded) = Guarded::with_htpasswd("") else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let url = guarded.pierhead.url().to_owned();
    let warm = |args: &[&str]| {
        let image = format!("{NAME}:1");
        let registry = ["--registry", &url, "--platform", "all"];
        command(["warm", &image]).args(registry).args(args.iter().copied()).output()
    };
    let with = |password: &str| {
        let file = dir.path().join("password");
        std::fs::write(&file, format!("{password}\n")).expect("it can be written");
        let file = file.to_str().expect("a path in UTF-8");
        warm(&["--user", USER, "--password-file", file])
    };
    let refused = warm(&[]).fails();
    assert!(refused.stderr.contains(LOG_IN), "{refused}");
    assert!(refused.stderr.contains("--password-file"), "{refused}");
    let wrong = with("battery staple").fails();
    assert!(wrong.stderr.contains(WRONG), "{wrong}");
    with(PASSWORD).ok();
    guarded.pierhead.wait_for_fills();
    guarded.registry.stop();
    for digest in guarded.layout.blobs().keys() {
        let url = format!("{}/v2/library/{NAME}/blobs/{digest}", guarded.pierhead.url());
        let answer = get_with(&url, &basic(USER, PASSWORD)).expect(200);
        assert!(answer.body == guarded.layout.read(digest), "{digest} differs");
    }
    guarded.never_logged(&[PASSWORD, "battery staple", "Y2k6"]);
}

#[test]
fn containerd_logs_in_with_a_namespace_and_with_a_path() {
    let Some(guarded) = Guarded::with_htpasswd("") else { return };
    let Some(containerd) = Containerd::start() else { return };
    containerd.set_mirror("docker.io", guarded.pierhead.url());
    let mirrored = format!("docker.io/library/{NAME}:1");
    for image in [&mirrored, &guarded.image()] {
        containerd.forget_images();
        // Of a token service's answer it shows the status alone.
        for refused in [containerd.pull(image), containerd.pull_as(USER, "wrong", image)] {
            let refused = refused.fails();
            assert!(refused.stderr.contains("401 Unauthorized"), "{refused}");
        }
        containerd.pull_as(USER, PASSWORD, image).ok();
    }
    guarded.never_logged(&[PASSWORD, "eyJ"]);
}

#[test]
fn the_way_from_a_challenge_to_a_manifest() {
    let Some(guarded) = Guarded::with_htpasswd("") else { return };
    let url = guarded.pierhead.url().to_owned();
    let realm = format!("Bearer realm=\"{url}/token\",service=\"pierhead\"");
    let answer = get(format!("{url}/v2/")).expect(401);
    assert_eq!(answer.header("www-authenticate"), Some(realm.as_str()));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let answer = get(guarded.manifest_url()).expect(401);
    let scope = format!("repository:library/{NAME}:pull");
    let wanted = format!("{realm},scope=\"{scope}\"");
    assert_eq!(answer.header("www-authenticate"), Some(wanted.as_str()));
    assert!(message(&answer).contains(LOG_IN));
    // A mirror is told our name for it: the token service never sees `?ns=`.
    let answer = get(format!("{}?ns=docker.io", guarded.manifest_url())).expect(401);
    assert_eq!(answer.header("www-authenticate"), Some(wanted.as_str()));
    let ghcr = get(format!("{url}/v2/a/b/manifests/1?ns=ghcr.io")).expect(401);
    let wanted = format!("{realm},scope=\"repository:ghcr.io/a/b:pull\"");
    assert_eq!(ghcr.header("www-authenticate"), Some(wanted.as_str()));

    let asked = format!("{url}/token?service=pierhead&scope={scope}");
    let given = get_with(&asked, &basic(USER, PASSWORD)).expect(200);
    assert_eq!(given.header("cache-control"), Some("no-store"));
    let bearer = format!("Bearer {}", given.json()["token"].as_str().unwrap());
    get_with(&format!("{url}/v2/"), &bearer).expect(200);
    get_with(&guarded.manifest_url(), &bearer).expect(200);
    let digest = &guarded.layout.root().digest;
    get_with(&format!("{url}/v2/library/{NAME}/manifests/{digest}"), &bearer).expect(200);
    // It is for this repository, and another one is to be had.
    let other = format!("{url}/v2/library/other/manifests/1");
    let answer = get_with(&other, &bearer).expect(401);
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.ends_with("error=\"insufficient_scope\""), "{challenge}");
    let changed = format!("{bearer}x");
    let answer = get_with(&guarded.manifest_url(), &changed).expect(401);
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.ends_with("error=\"invalid_token\""), "{challenge}");

    // A password goes without a token, for clients that know no better.
    get_with(&guarded.manifest_url(), &basic(USER, PASSWORD)).expect(200);
    get_with(&guarded.manifest_url(), &basic(USER, "wrong")).expect(401);
    // Everything else of the token service is refused in its own words.
    let form = |form: &str| {
        let kind = "application/x-www-form-urlencoded";
        Request::new("POST", format!("{url}/token")).header("content-type", kind).body(form).send()
    };
    let refused = form("grant_type=refresh_token&refresh_token=x").expect(400);
    assert_eq!(refused.json()["error"], "unsupported_grant_type");
    form(&format!("grant_type=password&username={}", "x".repeat(20_000))).expect(413);
    let posted = "grant_type=password&username=ci&password=correct+horse&service=pierhead";
    assert_eq!(form(posted).expect(200).json()["token_type"], "Bearer");
    guarded.never_logged(&[PASSWORD, "correct+horse", "eyJ"]);
}

#[test]
fn keys_and_tokens_outlive_a_restart() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(mut guarded) = Guarded::with_htpasswd("[auth]\nservice = \"ours\"\n") else { return };
    let scope = format!("repository:library/{NAME}:pull");
    let asked = format!("{}/token?service=ours&scope={scope}", guarded.pierhead.url());
    let given = get_with(&asked, &basic(USER, PASSWORD)).expect(200);
    let bearer = format!("Bearer {}", given.json()["token"].as_str().unwrap());
    let key = guarded.pierhead.storage().join("token.key");
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    guarded.pierhead.restart();
    get_with(&guarded.manifest_url(), &bearer).expect(200);
    // Without its key it is nobody's.
    guarded.pierhead.terminate();
    std::fs::remove_file(key).unwrap();
    guarded.pierhead.restart();
    get_with(&guarded.manifest_url(), &bearer).expect(401);
}

#[test]
fn anonymous_clients_may_read_where_the_operator_says_so() {
    let config = "[auth]\nanonymous = \"pull\"\n";
    let Some(guarded) = Guarded::with_htpasswd(config) else { return };
    let url = guarded.pierhead.url();
    // Docker would never log in otherwise.
    get(format!("{url}/v2/")).expect(401);
    get(guarded.manifest_url()).expect(200);
    let scope = format!("repository:library/{NAME}:pull");
    let given = get(format!("{url}/token?scope={scope}")).expect(200);
    let bearer = format!("Bearer {}", given.json()["token"].as_str().unwrap());
    get_with(&guarded.manifest_url(), &bearer).expect(200);
    get_with(&guarded.manifest_url(), &basic(USER, "wrong")).expect(401);
    let Some(skopeo) = Skopeo::find() else { return };
    skopeo.inspect_raw(&guarded.image()).ok();
}

#[test]
fn who_guesses_is_sent_away_and_told_for_how_long() {
    let Some(guarded) = Guarded::with_htpasswd("") else { return };
    let asked = format!("{}/token", guarded.pierhead.url());
    for _ in 0..10 {
        let refused = get_with(&asked, &basic(USER, "wrong")).expect(401);
        assert_eq!(message(&refused), WRONG);
    }
    // The right password would have to wait too: an answer would tell that it is right.
    let refused = get_with(&asked, &basic(USER, PASSWORD)).expect(503);
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    let limit = [("limit", "failed_logins")];
    assert_eq!(guarded.pierhead.metric("pierhead_http_refused_total", &limit), 1.0);
    let refused = [("result", "refused")];
    assert_eq!(guarded.pierhead.metric("pierhead_logins_total", &refused), 10.0);
    // Another name from the same place is somebody else.
    let other: Value = get_with(&asked, &basic("dev", "x")).expect(401).json();
    assert_eq!(other["errors"][0]["message"], WRONG);
}

#[test]
fn a_mirror_without_authenticators_ignores_credentials() {
    let Some(registry) = DockerRegistry::start() else { return };
    let pierhead = super::pierhead(&registry.url());
    let base = format!("{}/v2/", pierhead.url());
    for authorization in [&basic("hub-user", "x"), "Bearer abc"] {
        get_with(&base, authorization).expect(200);
    }
    get(format!("{}/token?scope=repository:a:pull", pierhead.url())).expect(404);
}
