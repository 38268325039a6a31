//! The operator's side: the API's gate, and every command against a running Pierhead.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use pierhead_kit::http::{self, Request, Response};
use pierhead_kit::program::{Output, Pierhead, Run};
use pierhead_kit::upstream::{Auth, Fault, FaultyUpstream, On};
use pierhead_kit::wait_until;
use serde_json::Value;

use super::{DEADLINE, PIERHEAD, blob_url, manifest_url, pierhead, pull_image, wait_until_stored};

fn api(pierhead: &Pierhead, method: &str, path: &str) -> Request {
    Request::new(method, format!("{}/api/v1/{path}", pierhead.admin_url()))
}

fn with_token(pierhead: &Pierhead, method: &str, path: &str) -> Request {
    let token = format!("Bearer {}", pierhead.admin_token());
    api(pierhead, method, path).header("Authorization", token)
}

fn get(pierhead: &Pierhead, path: &str) -> Value {
    with_token(pierhead, "GET", path).send().expect(200).json()
}

/// The code of an error of the API's.
#[track_caller]
fn refused(response: &Response) -> (u16, String) {
    let error = &response.json()["error"];
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{response:?}");
    (response.status, error["code"].as_str().unwrap().to_owned())
}

/// A command about that Pierhead.
fn run(pierhead: &Pierhead, args: &[&str]) -> Output {
    Run::new(PIERHEAD)
        .args(args.iter().copied())
        .env("PIERHEAD_URL", pierhead.admin_url())
        .env("PIERHEAD_TOKEN_FILE", pierhead.storage().join("admin.token"))
        .output()
}

fn json(pierhead: &Pierhead, args: &[&str]) -> (Option<i32>, Value) {
    let output = run(pierhead, &[args, &["--output", "json"]].concat());
    let value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"));
    (output.status.and_then(|status| status.code()), value)
}

#[track_caller]
fn exit(output: &Output) -> i32 {
    output.status.and_then(|status| status.code()).unwrap_or_else(|| panic!("{output}"))
}

#[test]
fn only_the_token_opens_the_api() {
    let pierhead = Pierhead::start(PIERHEAD, "");
    for path in ["status", "openapi.json", "nothing", ""] {
        let answer = api(&pierhead, "GET", path).send();
        assert_eq!(refused(&answer), (401, "unauthorized".into()));
        let help = answer.json()["error"]["help"].to_string();
        assert!(help.contains("admin.token"), "{help}");
        assert!(answer.header("www-authenticate").is_some_and(|v| v.starts_with("Bearer")));
    }
    let wrong = api(&pierhead, "GET", "status").header("Authorization", "Bearer wrong").send();
    assert_eq!(wrong.status, 401);
    let good = with_token(&pierhead, "GET", "status").send().expect(200);
    assert_eq!(good.json()["ready"], true);
    assert!(good.header("access-control-allow-origin").is_none());
    // What is not about the API stays open.
    for path in ["/livez", "/readyz", "/metrics"] {
        http::get(format!("{}{path}", pierhead.admin_url())).expect(200);
    }
    // The same token after a restart, and nobody else can read it.
    let token = pierhead.admin_token();
    let mut pierhead = pierhead;
    pierhead.restart();
    assert_eq!(pierhead.admin_token(), token);
    assert!(!pierhead.stderr().contains(&token));
}

#[test]
fn web_pages_of_others_are_kept_out() {
    let pierhead = Pierhead::start(PIERHEAD, "");
    let ask =
        |name: &str, value: &str| with_token(&pierhead, "POST", "purge").header(name, value).send();
    let own = pierhead.admin_url().to_owned();
    for (name, value, code) in [
        ("Host", "evil.example", "wrong_host"),
        ("Origin", "http://evil.example", "cross_origin"),
        ("Origin", "null", "cross_origin"),
        ("Sec-Fetch-Site", "cross-site", "cross_origin"),
        ("Sec-Fetch-Site", "same-site", "cross_origin"),
    ] {
        assert_eq!(refused(&ask(name, value)), (403, code.into()), "{name}: {value}");
    }
    // Through the gate, and on to the next mistake.
    assert_eq!(refused(&ask("Origin", &own)), (415, "not_json".into()));
}

#[test]
fn mistakes_have_one_shape() {
    let pierhead = Pierhead::start(PIERHEAD, "");
    let json = |method: &str, path: &str, body: &str| {
        let request =
            with_token(&pierhead, method, path).header("Content-Type", "application/json");
        request.body(body.as_bytes().to_vec()).send()
    };
    let huge = format!("{{\"image\":\"{}\"}}", "a".repeat(100_000));
    for (answer, status, code) in [
        (with_token(&pierhead, "GET", "nothing").send(), 404, "not_found"),
        (with_token(&pierhead, "DELETE", "status").send(), 405, "method_not_allowed"),
        (with_token(&pierhead, "GET", "purge").send(), 405, "method_not_allowed"),
        (with_token(&pierhead, "GET", "explain").send(), 400, "bad_request"),
        (with_token(&pierhead, "GET", "explain?image=A").send(), 400, "bad_request"),
        (with_token(&pierhead, "GET", "images?limit=x").send(), 400, "bad_request"),
        (with_token(&pierhead, "GET", "images?after=x").send(), 400, "bad_request"),
        (with_token(&pierhead, "GET", "image?image=a").send(), 404, "not_found"),
        (json("POST", "purge", "{"), 400, "bad_request"),
        (json("POST", "purge", "{\"image\":\"a\",\"x\":1}"), 422, "bad_request"),
        (json("POST", "purge", "{\"image\":\"unknown.example/a\"}"), 404, "name_unknown"),
        (json("POST", "purge", "{\"image\":\"hosted/a\"}"), 404, "not_found"),
        (json("POST", "purge", &huge), 413, "too_large"),
        (json("PUT", "log-level", "{\"filter\":\"loud\"}"), 400, "bad_request"),
    ] {
        assert_eq!(refused(&answer), (status, code.into()), "{answer:?}");
    }
}

#[test]
fn the_document_is_served() {
    let pierhead = Pierhead::start(PIERHEAD, "");
    let document = get(&pierhead, "openapi.json");
    let committed = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json")).unwrap();
    let committed: Value = serde_json::from_slice(&committed).unwrap();
    assert!(document == committed, "docs/openapi.json is not what is served");
    // Every read without parameters answers.
    for (path, operations) in document["paths"].as_object().unwrap() {
        let Some(operation) = operations.get("get") else { continue };
        let required = |parameter: &Value| parameter["required"] == true;
        if operation["parameters"].as_array().is_some_and(|list| list.iter().any(required)) {
            continue;
        }
        let answers_json = operation["responses"]["200"]["content"].get("application/json");
        if answers_json.is_some() {
            get(&pierhead, path.strip_prefix("/api/v1/").unwrap());
        }
    }
}

#[test]
fn a_server_that_is_not_there_or_not_ours_is_told_apart() {
    let pierhead = Pierhead::start(PIERHEAD, "");
    let token = pierhead.storage().join("admin.token");
    let token = token.to_str().unwrap();
    let wrong = pierhead.storage().join("wrong");
    fs::write(&wrong, "x".repeat(64)).unwrap();
    let asked = |url: &str, token: &str| {
        Run::new(PIERHEAD).args(["status", "--url", url, "--token-file", token]).output()
    };
    for (output, says) in [
        (asked("http://127.0.0.1:1", token), "no Pierhead answers at http://127.0.0.1:1"),
        (asked(pierhead.url(), token), "--url names the operator's side"),
        (asked(pierhead.admin_url(), wrong.to_str().unwrap()), "is refused by"),
        (asked(pierhead.admin_url(), "/nonexistent/token"), "--token-file"),
    ] {
        assert_eq!(exit(&output), 3, "{output}");
        assert!(output.stderr.contains(says) && output.stdout.is_empty(), "{output}");
    }
    let output = asked("nonsense", token);
    assert_eq!(exit(&output), 2, "{output}");
    // Scripts are told on the standard output.
    let unreachable = Run::new(PIERHEAD)
        .args(["status", "--output", "json", "--url", "http://127.0.0.1:1", "--token-file", token])
        .output();
    let told: Value = serde_json::from_str(&unreachable.stdout).unwrap();
    assert_eq!((exit(&unreachable), &told["error"]["code"]), (3, &"unreachable".into()));
    // The configuration says where everything is, except for a port that the system chose.
    let config = pierhead.config_path();
    let by_config = |more: &[&str]| {
        let config = config.to_str().unwrap();
        Run::new(PIERHEAD).args(["status", "--config", config]).args(more.iter().copied()).output()
    };
    assert_eq!(exit(&by_config(&[])), 2);
    assert_eq!(exit(&by_config(&["--url", pierhead.admin_url()])), 0);
}

#[test]
fn status_shows_what_runs_and_what_went_wrong() {
    const MIB: u64 = 1 << 20;
    let upstream = FaultyUpstream::start_blocking();
    let digest = upstream.add_random_blob("library/big", 1, 8 * MIB);
    upstream.fault(On::blobs().get().once(), Fault::StallAfter(MIB));
    upstream.fault(On::blobs().get().skip(1), Fault::status(404));
    let pierhead = pierhead(&upstream, "");
    let url = blob_url(&pierhead, "library/big", &digest);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| http::get(&*url));
        let fill = wait_until("a fill with bytes", DEADLINE, || {
            let fills = get(&pierhead, "fills");
            let fill = fills["fills"].get(0)?.clone();
            (fill["landed_bytes"].as_u64()? > 0).then_some(fill)
        });
        assert_eq!(fill["digest"], digest.as_str());
        assert_eq!(fill["image"], "docker.io/library/big");
        assert_eq!((&fill["state"], &fill["followers"]), (&"growing".into(), &1.into()));
        assert_eq!(fill["total_bytes"], 8 * MIB);
        let text = run(&pierhead, &["status"]).ok().stdout;
        assert!(text.contains("of 8.0 MiB"), "{text}");
        // Upstream stalls for longer than it may, and has no rest to go on with.
        let _ = client.join().unwrap();
    });
    assert_eq!(http::get(manifest_url(&pierhead, "library/none", "v1")).status, 404);
    assert_eq!(http::get(manifest_url(&pierhead, "library/none", "v1")).status, 404);
    let (code, status) = json(&pierhead, &["status"]);
    assert_eq!((code, &status["ready"]), (Some(0), &true.into()));
    let recent = status["recent"].as_array().unwrap();
    assert_eq!((&recent[0]["trouble"], &recent[0]["times"]), (&"absent".into(), &2.into()));
    assert_eq!(recent[0]["image"], "docker.io/library/none");
    assert_eq!(recent[1]["trouble"], "failed", "{recent:?}");
    assert_eq!(recent[1]["client"], "127.0.0.1");
    let hub = status["upstreams"].as_array().unwrap().iter().find(|u| u["name"] == "docker.io");
    assert_eq!(hub.unwrap()["state"], "up");
    let text = run(&pierhead, &["status"]).ok().stdout;
    for part in ["ready, up", "docker.io", "trouble lately", "absent", "/v2/library/none"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    upstream.down();
    assert_eq!(http::get(manifest_url(&pierhead, "library/other", "v1")).status, 502);
    let upstreams = get(&pierhead, "upstreams");
    let hub = upstreams["upstreams"].as_array().unwrap().iter().find(|u| u["name"] == "docker.io");
    assert_eq!(hub.unwrap()["state"], "in_trouble");
    assert!(hub.unwrap()["endpoints"][0]["last_error"].is_string(), "{hub:?}");
}

#[test]
fn a_watch_prints_a_line_each_time_and_ends_politely() {
    let pierhead = Pierhead::start(PIERHEAD, "");
    let url = pierhead.admin_url();
    let token = pierhead.storage().join("admin.token");
    // `head` closes the pipe after two lines.
    let script = format!(
        "{PIERHEAD} status --watch 1 --output json --url {url} --token-file {} | head -n 2; \
         echo ${{PIPESTATUS[0]}}",
        token.display()
    );
    let output = Run::new("bash").args(["-c", script.as_str()]).output().ok();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!((lines.len(), lines[2]), (3, "0"), "{output}");
    for line in &lines[..2] {
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["ready"], true);
    }
    let script = format!(
        "timeout --preserve-status -s INT 1 {PIERHEAD} status --watch 30 --url {url} \
         --token-file {}",
        token.display()
    );
    let output = Run::new("bash").args(["-c", script.as_str()]).output();
    assert_eq!(exit(&output), 0, "{output}");
    assert!(!output.stdout.contains('\u{1b}'), "{output}");
}

#[test]
fn explain_tells_hit_from_miss_and_says_by_which_rule() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/a", "v1", vec![vec![1_u8; 100_000]]);
    let pierhead = pierhead(&upstream, "tag_ttl = \"1h\"\n");
    let asked = upstream.log().len();
    let (code, miss) = json(&pierhead, &["explain", "a:v1"]);
    assert_eq!((code, &miss["verdict"]), (Some(0), &"miss".into()));
    assert_eq!(miss["image"], "docker.io/library/a:v1");
    assert_eq!(miss["name"]["rule"], "default");
    assert_eq!(upstream.log().len(), asked, "explaining asks nobody");
    http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    let (_, partial) = json(&pierhead, &["explain", "docker.io/a:v1"]);
    assert_eq!(partial["verdict"], "partial", "{partial}");
    assert_eq!(partial["name"]["rule"], "component");
    assert_eq!(partial["content"]["platforms"][0]["missing"]["blobs"], 2);
    pull_image(&pierhead, "library/a", "v1", &image);
    wait_until_stored(&pierhead, 2.0);
    let own = format!("{}/library/a:v1", pierhead.host());
    for name in ["a:v1", &own, &format!("library/a@{}", image.manifest)] {
        let (code, hit) = json(&pierhead, &["explain", name]);
        assert_eq!((code, &hit["verdict"]), (Some(0), &"hit".into()), "{hit}");
    }
    let (_, hit) = json(&pierhead, &["explain", "a:v1"]);
    assert_eq!(hit["reasons"][0]["key"], "upstream.\"docker.io\".tag_ttl");
    assert!(hit["tag"]["fresh_seconds"].as_f64().unwrap() > 3000.0);
    assert_eq!(hit["content"]["platforms"][0]["stored"]["blobs"], 2);
    let text = run(&pierhead, &["explain", "a:v1"]).ok().stdout;
    for part in ["docker.io/library/a:v1: HIT", "the client sees", "why", "tag_ttl"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // A tag that moved meanwhile is seen by asking.
    let other = upstream.add_image("library/a", "v2", vec![vec![2_u8; 10]]);
    upstream.set_tag("library/a", "v1", &other.manifest);
    let (_, probed) = json(&pierhead, &["explain", "a:v1", "--probe"]);
    assert_eq!(probed["probe"]["digest"], other.manifest.as_str());
    assert_eq!(probed["verdict"], "hit");
    assert!(probed["advice"].to_string().contains("refresh"), "{probed}");
}

#[test]
fn explain_tells_stale_from_denied_and_unknown() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/a", "v1", vec![vec![1_u8; 100]]);
    let pierhead = pierhead(&upstream, "tag_ttl = \"0s\"\nabsent_ttl = \"1h\"\n");
    pull_image(&pierhead, "library/a", "v1", &image);
    wait_until_stored(&pierhead, 2.0);
    let (_, known) = json(&pierhead, &["explain", "a:v1"]);
    assert_eq!(known["verdict"], "revalidate", "{known}");
    upstream.down();
    let (code, stale) = json(&pierhead, &["explain", "a:v1", "--probe"]);
    assert_eq!((code, &stale["verdict"]), (Some(0), &"stale".into()), "{stale}");
    assert!(http::get(manifest_url(&pierhead, "library/a", "v1")).header("warning").is_some());
    let (_, likely) = json(&pierhead, &["explain", "b:v1"]);
    assert_eq!(likely["verdict"], "miss");
    assert!(likely["reasons"].to_string().contains("failed when it was last asked"), "{likely}");
    let (code, gone) = json(&pierhead, &["explain", "b:v1", "--probe"]);
    assert_eq!((code, &gone["verdict"]), (Some(1), &"unavailable".into()), "{gone}");
    upstream.up();
    upstream.set_auth(Auth::Basic { username: "u".into(), password: "p".into() });
    assert_eq!(http::get(manifest_url(&pierhead, "library/private", "v1")).status, 403);
    // From what is remembered: nobody is asked.
    let asked = upstream.log().len();
    let (code, denied) = json(&pierhead, &["explain", "private:v1"]);
    assert_eq!((code, &denied["verdict"]), (Some(1), &"denied".into()), "{denied}");
    assert_eq!(denied["client_sees"], "403 DENIED");
    assert_eq!(denied["reasons"][1]["key"], "upstream.\"docker.io\".absent_ttl", "{denied}");
    assert!(denied["advice"].to_string().contains("password_file"), "{denied}");
    assert_eq!(upstream.log().len(), asked);
    upstream.set_auth(Auth::None);
    // Upstream has it by now, and a pull would not know before the answer is forgotten.
    upstream.add_image("library/private", "v1", vec![vec![2_u8; 10]]);
    let (_, denied) = json(&pierhead, &["explain", "private:v1", "--probe"]);
    assert_eq!((&denied["verdict"], &denied["probe"]["found"]), (&"denied".into(), &true.into()));
    assert_eq!(http::get(manifest_url(&pierhead, "library/private", "v1")).status, 403);
    run(&pierhead, &["refresh", "private:v1"]).ok();
    http::get(manifest_url(&pierhead, "library/private", "v1")).expect(200);
    assert_eq!(http::get(manifest_url(&pierhead, "library/none", "v1")).status, 404);
    let (code, absent) = json(&pierhead, &["explain", "none:v1"]);
    assert_eq!((code, &absent["verdict"]), (Some(1), &"absent".into()), "{absent}");
    for (name, verdict) in [("unknown.example/a", "unknown_name"), ("hosted/a", "hosted")] {
        let output = run(&pierhead, &["explain", name]);
        assert_eq!(exit(&output), 1, "{output}");
        let (_, explained) = json(&pierhead, &["explain", name]);
        assert_eq!(explained["verdict"], verdict);
    }
    let output = run(&pierhead, &["explain", "Not An Image"]);
    assert_eq!(exit(&output), 2, "{output}");
}

#[test]
fn the_cache_is_listed_page_by_page() {
    let upstream = FaultyUpstream::start_blocking();
    for (name, seed) in [("library/a", 1_u8), ("library/b", 2), ("team/c", 3)] {
        upstream.add_image(name, "v1", vec![vec![seed; 10]]);
    }
    let pierhead = pierhead(&upstream, "");
    let (_, empty) = json(&pierhead, &["images"]);
    assert_eq!(empty["images"], serde_json::json!([]));
    for name in ["library/b", "team/c", "library/a"] {
        http::get(manifest_url(&pierhead, name, "v1")).expect(200);
    }
    let (_, page) = json(&pierhead, &["images", "--limit", "2"]);
    let names = |page: &Value| -> Vec<String> {
        let images = page["images"].as_array().unwrap().iter();
        images.map(|image| image["image"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&page), ["docker.io/library/a:v1", "docker.io/library/b:v1"]);
    assert_eq!(page["images"][0]["complete"], false);
    let next = page["next"].as_str().unwrap();
    let (_, page) = json(&pierhead, &["images", "--limit", "2", "--after", next]);
    assert_eq!(names(&page), ["docker.io/team/c:v1"]);
    assert!(page.get("next").is_none(), "{page}");
    let (_, one) = json(&pierhead, &["images", "team/c:v1"]);
    assert_eq!(one["content"]["manifest"], "stored");
    let text = run(&pierhead, &["images"]).ok().stdout;
    assert!(text.contains("docker.io/team/c:v1") && text.lines().count() == 4, "{text}");
    let output = run(&pierhead, &["images", "nobody/knows"]);
    assert_eq!(exit(&output), 1, "{output}");
}

#[test]
fn a_refresh_sees_a_moved_tag_at_once() {
    let upstream = FaultyUpstream::start_blocking();
    let old = upstream.add_image("library/a", "v1", vec![vec![1_u8; 10]]);
    let new = upstream.add_image("library/a", "v2", vec![vec![2_u8; 10]]);
    let pierhead = pierhead(&upstream, "tag_ttl = \"1h\"\n");
    let (code, first) = json(&pierhead, &["refresh", "a:v1"]);
    assert_eq!((code, &first["before"]), (Some(0), &Value::Null), "{first}");
    let (_, same) = json(&pierhead, &["refresh", "a:v1"]);
    assert_eq!((&same["changed"], &same["now"]), (&false.into(), &old.manifest.as_str().into()));
    upstream.set_tag("library/a", "v1", &new.manifest);
    let text = run(&pierhead, &["refresh", "a:v1"]).ok().stdout;
    assert!(text.contains(&new.manifest) && text.contains(&old.manifest), "{text}");
    let served = http::get(manifest_url(&pierhead, "library/a", "v1")).expect(200);
    assert_eq!(served.header("docker-content-digest"), Some(new.manifest.as_str()));
    let (code, error) = json(&pierhead, &["refresh", "none:v1"]);
    assert_eq!((code, &error["error"]["code"]), (Some(1), &"not_found".into()));
    let (code, _) = json(&pierhead, &["refresh", &format!("a@{}", old.manifest)]);
    assert_eq!(code, Some(2));
}

#[test]
fn a_purge_removes_what_nothing_else_uses() {
    let upstream = FaultyUpstream::start_blocking();
    let shared = vec![7_u8; 5000];
    let one = upstream.add_image("library/a", "v1", vec![shared.clone(), vec![1_u8; 3000]]);
    let two = upstream.add_image("library/b", "v1", vec![shared.clone(), vec![2_u8; 3000]]);
    let pierhead = pierhead(&upstream, "tag_ttl = \"1h\"\n");
    pull_image(&pierhead, "library/a", "v1", &one);
    pull_image(&pierhead, "library/b", "v1", &two);
    // Two configs and three different layers.
    wait_until_stored(&pierhead, 5.0);
    let stored = |digest: &str| {
        let digits = digest.strip_prefix("sha256:").unwrap();
        let path = format!("blobs-v1/sha256/{}/{digits}", &digits[..2]);
        pierhead.storage().join(path).exists()
    };
    assert!(stored(&one.manifest) && stored(&one.layers[0]) && stored(&one.layers[1]));
    let (code, purged) = json(&pierhead, &["purge", "a:v1"]);
    assert_eq!((code, &purged["tags"]), (Some(0), &serde_json::json!(["v1"])), "{purged}");
    assert_eq!((&purged["blobs"], &purged["shared"]), (&3.into(), &1.into()), "{purged}");
    assert!(!stored(&one.manifest) && !stored(&one.layers[1]) && !stored(&one.config));
    assert!(stored(&one.layers[0]), "the other repository uses it");
    let (_, explained) = json(&pierhead, &["explain", "a:v1"]);
    assert_eq!(explained["verdict"], "miss");
    let (_, explained) = json(&pierhead, &["explain", "b:v1"]);
    assert_eq!(explained["verdict"], "hit");
    // It comes back when it is asked for.
    let manifests = upstream.count("GET", "/library/a/manifests/");
    pull_image(&pierhead, "library/a", "v1", &one);
    assert_eq!(upstream.count("GET", "/library/a/manifests/"), manifests + 1);
    let text = run(&pierhead, &["purge", "library/b"]).ok().stdout;
    assert!(text.contains("docker.io/library/b: 1 tags"), "{text}");
    let (_, again) = json(&pierhead, &["purge", "library/b"]);
    assert_eq!(again["links"], 0);
    let (_, purged) = json(&pierhead, &["purge", &format!("a@{}", one.manifest)]);
    assert_eq!(purged["tags"], serde_json::json!(["v1"]), "{purged}");
    assert!(!stored(&one.layers[0]), "nobody uses it any more");
    let (_, list) = json(&pierhead, &["images"]);
    assert_eq!(list["images"], serde_json::json!([]));
}

#[test]
fn images_are_pinned_and_room_is_shown() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/a", "v1", vec![vec![1_u8; 100_000]]);
    let pierhead = Pierhead::start(
        PIERHEAD,
        &format!(
            "[storage]\nmax_size = \"64MiB\"\n[upstream.\"docker.io\"]\nendpoints = [\"{}\"]\n",
            upstream.url()
        ),
    );
    pull_image(&pierhead, "library/a", "v1", &image);
    wait_until_stored(&pierhead, 2.0);
    let usage = get(&pierhead, "storage")["usage"].clone();
    assert_eq!((&usage["max_bytes"], &usage["blobs"]), (&(64 << 20).into(), &3.into()), "{usage}");
    assert!(usage["stored_bytes"].as_u64().unwrap() >= 100_000);
    let text = run(&pierhead, &["status"]).ok().stdout;
    assert!(text.contains("of 64.0 MiB used"), "{text}");
    let (code, pinned) = json(&pierhead, &["pin", "a:v1"]);
    assert_eq!((code, &pinned["changed"]), (Some(0), &true.into()), "{pinned}");
    assert_eq!(json(&pierhead, &["pin", "a:v1"]).1["changed"], false);
    let pins = run(&pierhead, &["pins"]).ok();
    assert_eq!(pins.text(), "docker.io/library/a:v1");
    let text = run(&pierhead, &["unpin", "a:v1"]).ok().stdout;
    assert!(text.contains("may go"), "{text}");
    assert_eq!(json(&pierhead, &["pins"]).1["pins"], serde_json::json!([]));
    let output = run(&pierhead, &["pin", "unknown.example/a"]);
    assert_eq!(exit(&output), 1, "{output}");
    // Everything has a link, so there is nothing to collect.
    let (code, collected) = json(&pierhead, &["gc"]);
    assert_eq!((code, &collected["blobs"]), (Some(0), &0.into()));
    let (_, list) = json(&pierhead, &["images"]);
    assert!(list["images"][0]["last_used"].is_string(), "{list}");
}

#[test]
fn a_scrub_is_waited_for_and_tells_what_it_found() {
    let upstream = FaultyUpstream::start_blocking();
    let image = upstream.add_image("library/a", "v1", vec![vec![1_u8; 100_000]]);
    let pierhead = pierhead(&upstream, "[storage]\nscrub_every = \"0s\"\nscrub_rate = 0\n");
    let (code, never) = json(&pierhead, &["scrub", "--last"]);
    assert_eq!((code, &never["last"]), (Some(1), &Value::Null));
    pull_image(&pierhead, "library/a", "v1", &image);
    wait_until_stored(&pierhead, 2.0);
    let (code, clean) = json(&pierhead, &["scrub"]);
    assert_eq!((code, &clean["last"]["damaged"]), (Some(0), &0.into()), "{clean}");
    assert_eq!(clean["last"]["checked"], 3);
    let digits = image.layers[0].strip_prefix("sha256:").unwrap();
    let path = pierhead.storage().join(format!("blobs-v1/sha256/{}/{digits}", &digits[..2]));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let flipped = fs::read(&path).unwrap()[5000] ^ 1;
    // In place, as a disk does it: the program may have the file open.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_at(&[flipped], 5000).unwrap();
    let output = run(&pierhead, &["scrub"]);
    assert_eq!(exit(&output), 1, "{output}");
    assert!(output.stdout.contains("1 damaged") && output.stdout.contains(digits), "{output}");
    let (_, explained) = json(&pierhead, &["explain", "a:v1"]);
    assert_eq!(explained["verdict"], "partial", "{explained}");
}

#[test]
fn the_log_level_changes_while_it_runs() {
    let upstream = FaultyUpstream::start_blocking();
    let pierhead = pierhead(&upstream, "");
    let pull = |name: &str| {
        assert_eq!(http::get(manifest_url(&pierhead, name, "v1")).status, 404);
    };
    let detailed = || pierhead.stderr().contains("an endpoint did not answer");
    pull("library/one");
    assert!(!detailed());
    let text = run(&pierhead, &["log-level", "info,pierhead::upstream=debug"]).ok().stdout;
    assert_eq!(text, "info,pierhead::upstream=debug (configured: info)\n");
    pull("library/two");
    wait_until("a line that was not there before", DEADLINE, || detailed().then_some(()));
    let (code, error) = json(&pierhead, &["log-level", "inof"]);
    assert_eq!((code, &error["error"]["code"]), (Some(2), &"bad_request".into()));
    let (_, level) = json(&pierhead, &["log-level", "--reset"]);
    assert_eq!(level["filter"], "info");
}

#[test]
fn the_configuration_in_force_shows_where_values_come_from() {
    let pierhead = Pierhead::start(PIERHEAD, "[fill]\nconcurrent_max = 9\n");
    let config = get(&pierhead, "config");
    let settings = config["settings"].as_array().unwrap();
    let of = |key: &str| settings.iter().find(|setting| setting["key"] == key).unwrap();
    assert_eq!(of("fill.concurrent_max")["value"], 9);
    assert!(of("fill.concurrent_max")["set_by"].as_str().unwrap().starts_with("line "));
    assert!(of("fill.blob_size_max").get("set_by").is_none());
}
