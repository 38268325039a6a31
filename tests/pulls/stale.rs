//! How old an answer may be: each row of the table in `docs/staleness.md`, within its time and
//! after it.

use std::time::Duration;

use pierhead_kit::http::{self, Request, Response};
use pierhead_kit::program::{Output, Pierhead, Run};
use pierhead_kit::upstream::{Fault, FaultyUpstream, ImageDigests, On};
use pierhead_kit::wait_until;
use serde_json::Value;
use tokio::time::Instant;

use super::{DEADLINE, PIERHEAD, manifest_url, pierhead, pull_image};

/// No tag is served without asking upstream, and no answer is remembered.
const ASK_ALWAYS: &str = "tag_ttl = \"0s\"\nabsent_ttl = \"0s\"\n";

fn image(upstream: &FaultyUpstream, tag: &str, seed: u8) -> ImageDigests {
    upstream.add_image("library/a", tag, vec![vec![seed; 3000]])
}

fn get(pierhead: &Pierhead, tag: &str) -> Response {
    http::get(manifest_url(pierhead, "library/a", tag))
}

fn digest(answer: &Response) -> &str {
    answer.header("docker-content-digest").unwrap_or_default()
}

fn detail(answer: &Response) -> &str {
    let status = answer.header("cache-status").unwrap_or_default();
    status.split_once("detail=").map_or("", |(_, detail)| detail)
}

fn api(pierhead: &Pierhead, path: &str) -> Value {
    let token = format!("Bearer {}", pierhead.admin_token());
    let url = format!("{}/api/v1/{path}", pierhead.admin_url());
    Request::new("GET", url).header("Authorization", token).send().expect(200).json()
}

fn run(pierhead: &Pierhead, args: &[&str]) -> Output {
    Run::new(PIERHEAD)
        .args(args.iter().copied())
        .env("PIERHEAD_URL", pierhead.admin_url())
        .env("PIERHEAD_TOKEN_FILE", pierhead.storage().join("admin.token"))
        .output()
}

/// What `explain` says of how old `a:v1` may be.
fn staleness(pierhead: &Pierhead, probe: bool) -> Value {
    api(pierhead, &format!("explain?image=a:v1&probe={probe}"))["staleness"].clone()
}

fn row<'v>(staleness: &'v Value, name: &str) -> &'v Value {
    let rows = staleness["rows"].as_array().unwrap();
    rows.iter().find(|row| row["row"] == name).unwrap_or_else(|| panic!("{staleness}"))
}

fn refreshes(pierhead: &Pierhead, cause: &str, result: &str) -> f64 {
    pierhead.metric("pierhead_refreshes_total", &[("cause", cause), ("result", result)])
}

/// Within the time of `row` a failing upstream is bridged with a warning; after it, its failure is
/// the answer.
fn bridged_for_its_time(name: &str, fault: Fault, shown: &str, status: u16) {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, &format!("{ASK_ALWAYS}stale.{name} = \"6s\"\n"));
    pull_image(&pierhead, "library/a", "v1", &image);
    let fault = upstream.fault(On::any(), fault);
    let answer = get(&pierhead, "v1").expect(200);
    assert_eq!(detail(&answer), shown, "{name}");
    let warning = answer.header("warning").unwrap_or_default().to_owned();
    assert!(warning.starts_with("299 - \"") && warning.contains("library/a:v1"), "{warning}");
    let stale = row(&staleness(&pierhead, false), name).clone();
    assert_eq!(stale["served"], true, "{stale}");
    assert!(stale["left_seconds"].as_f64().is_some_and(|left| left <= 6.0), "{stale}");
    let answer = wait_until("its time ends", DEADLINE, || {
        Some(get(&pierhead, "v1")).filter(|answer| answer.status != 200)
    });
    assert_eq!(answer.status, status, "{name}: {answer:?}");
    assert!(pierhead.metric("pierhead_stale_refused_total", &[("row", name)]) >= 1.0);
    let over = row(&staleness(&pierhead, false), name).clone();
    assert_eq!((over["served"].clone(), over["left_seconds"].clone()), (false.into(), Value::Null));
    // Nothing is lost: upstream is asked when it has been left alone for a while, confirms it, and
    // it is served again.
    upstream.clear(fault);
    wait_until("upstream confirms it", DEADLINE, || {
        (get(&pierhead, "v1").status == 200).then_some(())
    });
}

#[test]
fn an_error_is_bridged_for_its_time() {
    bridged_for_its_time("on_error", Fault::status(500), "stale_upstream_error", 502);
}

#[test]
fn an_unreachable_upstream_is_bridged_for_its_time() {
    bridged_for_its_time("on_error", Fault::Drop, "stale_unreachable", 502);
}

#[test]
fn a_refusal_is_bridged_for_its_time() {
    bridged_for_its_time("on_401", Fault::status(401), "stale_denied", 403);
}

#[test]
fn a_rate_limit_is_bridged_for_its_time_and_is_never_a_429_or_404() {
    bridged_for_its_time("on_429", Fault::too_many_requests("1"), "stale_rate_limited", 503);
}

#[test]
fn a_removed_tag_is_bridged_for_its_time() {
    bridged_for_its_time("on_404", Fault::status(404), "stale_gone", 404);
}

#[test]
fn a_row_that_never_bridges_leaves_the_others_alone() {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, &format!("{ASK_ALWAYS}stale.on_404 = \"never\"\n"));
    pull_image(&pierhead, "library/a", "v1", &image);
    let fault = upstream.fault(On::any(), Fault::status(404));
    assert_eq!(get(&pierhead, "v1").status, 404);
    upstream.clear(fault);
    upstream.fault(On::any(), Fault::status(503));
    assert_eq!(detail(&get(&pierhead, "v1").expect(200)), "stale_upstream_error");
}

#[test]
fn a_pinned_tag_is_not_asked_about_until_an_operator_does() {
    let upstream = FaultyUpstream::start_blocking();
    let old = image(&upstream, "v1", 1);
    image(&upstream, "other", 2);
    let pierhead = pierhead(&upstream, &format!("{ASK_ALWAYS}stale.pinned = [\"a:v*\"]\n"));
    pull_image(&pierhead, "library/a", "v1", &old);
    get(&pierhead, "other").expect(200);
    let new = image(&upstream, "v1", 3);
    let asked = upstream.log().len();
    let answer = get(&pierhead, "v1").expect(200);
    assert_eq!((digest(&answer), detail(&answer)), (old.manifest.as_str(), "pinned"));
    assert_eq!(answer.header("warning"), None);
    assert_eq!(upstream.log().len(), asked);
    assert_eq!(staleness(&pierhead, false)["row"], "pinned");
    assert_eq!(detail(&get(&pierhead, "other").expect(200)), "revalidated");
    run(&pierhead, &["refresh", "a:v1"]).ok();
    assert_eq!(digest(&get(&pierhead, "v1").expect(200)), new.manifest);
}

#[test]
fn while_revalidate_answers_at_once_and_the_next_pull_has_the_new_image() {
    const SLOW: Duration = Duration::from_millis(1800);
    let upstream = FaultyUpstream::start_blocking();
    let old = image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, &format!("{ASK_ALWAYS}stale.while_revalidate = \"1h\"\n"));
    pull_image(&pierhead, "library/a", "v1", &old);
    let new = image(&upstream, "v1", 2);
    upstream.fault(On::manifests(), Fault::DelayHeaders(SLOW));
    let began = Instant::now();
    for _ in 0..10 {
        let answer = get(&pierhead, "v1").expect(200);
        assert_eq!((digest(&answer), detail(&answer)), (&*old.manifest, "while_revalidate"));
        assert_eq!(answer.header("warning"), None);
    }
    assert!(began.elapsed() < SLOW, "a pull waited for upstream");
    assert!(upstream.count("HEAD", "/manifests/v1") <= 1, "{:?}", upstream.log());
    wait_until("the new image is served", DEADLINE, || {
        (digest(&get(&pierhead, "v1").expect(200)) == new.manifest).then_some(())
    });
    assert!(refreshes(&pierhead, "while_revalidate", "moved") >= 1.0);
    assert_eq!(upstream.count("GET", &format!("/manifests/{}", new.manifest)), 1);
}

#[test]
fn a_question_in_the_background_without_an_answer_ends_while_revalidate() {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, &format!("{ASK_ALWAYS}stale.while_revalidate = \"1h\"\n"));
    pull_image(&pierhead, "library/a", "v1", &image);
    upstream.down();
    assert_eq!(detail(&get(&pierhead, "v1").expect(200)), "while_revalidate");
    wait_until("clients are told", DEADLINE, || {
        (detail(&get(&pierhead, "v1").expect(200)) == "stale_unreachable").then_some(())
    });
    assert!(refreshes(&pierhead, "while_revalidate", "failed") >= 1.0);
    upstream.up();
    wait_until("upstream confirms it", DEADLINE, || {
        (detail(&get(&pierhead, "v1").expect(200)) == "revalidated").then_some(())
    });
    assert_eq!(detail(&get(&pierhead, "v1").expect(200)), "while_revalidate");
}

#[test]
fn an_exhausted_allowance_is_not_spent_on_what_is_known() {
    let upstream = FaultyUpstream::start_blocking();
    let first = image(&upstream, "v1", 1);
    image(&upstream, "v2", 2);
    upstream.fault(On::manifests(), Fault::Header("ratelimit-limit".into(), "100;w=21600".into()));
    upstream
        .fault(On::manifests(), Fault::Header("ratelimit-remaining".into(), "0;w=21600".into()));
    let pierhead = pierhead(&upstream, &format!("{ASK_ALWAYS}stale.while_revalidate = \"1h\"\n"));
    pull_image(&pierhead, "library/a", "v1", &first);
    let asked = upstream.log().len();
    for _ in 0..3 {
        let answer = get(&pierhead, "v1").expect(200);
        assert_eq!(detail(&answer), "stale_rate_limited");
        let warning = answer.header("warning").unwrap_or_default();
        assert!(warning.contains("allowance"), "{warning}");
    }
    let staleness = staleness(&pierhead, false);
    assert_eq!((&staleness["row"], &staleness["served"]), (&"on_429".into(), &true.into()));
    assert_eq!(upstream.log().len(), asked, "{:?}", upstream.log());
    get(&pierhead, "v2").expect(200);
    assert!(upstream.log().len() > asked, "a miss asks");
    // Of that one the layer is missing: it cannot be served to its end without upstream.
    let asked = upstream.log().len();
    get(&pierhead, "v2").expect(200);
    assert!(upstream.log().len() > asked, "what is incomplete is asked for");
}

#[test]
fn explain_says_which_row_applies_and_what_each_failure_would_lead_to() {
    let upstream = FaultyUpstream::start_blocking();
    let image = image(&upstream, "v1", 1);
    let more = format!("{ASK_ALWAYS}stale = {{ on_error = \"7d\", on_404 = \"never\" }}\n");
    let pierhead = pierhead(&upstream, &more);
    assert_eq!(staleness(&pierhead, false), Value::Null, "it was never pulled");
    get(&pierhead, "v1").expect(200);
    let incomplete = staleness(&pierhead, false);
    assert_eq!(row(&incomplete, "on_error")["served"], false);
    pull_image(&pierhead, "library/a", "v1", &image);
    let known = staleness(&pierhead, false);
    assert_eq!(known["row"], "asked");
    let error = row(&known, "on_error");
    assert_eq!(error["key"], "upstream.\"docker.io\".stale.on_error");
    let text = error["text"].as_str().unwrap();
    assert!(text.starts_with("served stale for another 6days 23h 59m"), "{text}");
    assert_eq!(row(&known, "on_429")["text"], "served stale without limit");
    assert_eq!(row(&known, "on_404")["served"], false);
    upstream.down();
    let down = staleness(&pierhead, true);
    assert_eq!((&down["row"], &down["served"]), (&"on_error".into(), &true.into()));
    upstream.up();
    upstream.fault(On::any(), Fault::status(404));
    let gone = staleness(&pierhead, true);
    assert_eq!((&gone["row"], &gone["served"]), (&"on_404".into(), &false.into()));
    let output = run(&pierhead, &["explain", "a:v1", "--probe"]);
    let marked = output.stdout.lines().find(|line| line.trim_start().starts_with('>'));
    assert!(marked.is_some_and(|line| line.contains("on_404")), "{output}");
}

#[test]
fn tags_in_use_are_confirmed_ahead_of_time_by_a_worker_that_can_be_seen() {
    let upstream = FaultyUpstream::start_blocking();
    image(&upstream, "v1", 1);
    let pierhead = pierhead(&upstream, "tag_ttl = \"2s\"\nrefresh_ahead = \"1h\"\n");
    get(&pierhead, "v1").expect(200);
    wait_until("upstream is asked without a pull", DEADLINE, || {
        (refreshes(&pierhead, "ahead", "confirmed") >= 2.0).then_some(())
    });
    assert_eq!(upstream.count("GET", "/manifests/"), 1, "{:?}", upstream.log());
    run(&pierhead, &["refresh", "a:v1"]).ok();
    assert!(refreshes(&pierhead, "asked", "confirmed") >= 1.0);
    let workers = api(&pierhead, "workers");
    let workers = workers["workers"].as_array().unwrap();
    let refresh = workers.iter().find(|worker| worker["name"] == "refresh").expect("a worker");
    assert!(refresh["rounds"].as_u64().is_some_and(|rounds| rounds >= 2), "{refresh}");
    assert_eq!(refresh["failures"], 0, "{refresh}");
    assert!(run(&pierhead, &["status"]).ok().stdout.contains("refresh"));
    // A tag that upstream cannot confirm is left alone until somebody pulls it.
    upstream.down();
    wait_until("a question fails", DEADLINE, || {
        (refreshes(&pierhead, "ahead", "failed") >= 1.0).then_some(())
    });
    run(&pierhead, &["status"]).ok();
    assert!(refreshes(&pierhead, "ahead", "failed") <= 1.0);
}
