//! The dashboard and the alerts name metrics, labels and values that the program has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use pierhead_kit::collector::Collector;
use pierhead_kit::http;
use pierhead_kit::program::Pierhead;
use pierhead_kit::upstream::{Fault, FaultyUpstream, On};
use pierhead_kit::wait_until;
use serde_json::Value;

use super::promql::{self, Matcher, Names};
use super::{PIERHEAD, read, yaml};

const ALERTS: &str = "deploy/prometheus/alerts.yaml";
const DASHBOARD: &str = "deploy/grafana/pierhead.json";
const PAGE: &str = "docs/operations.md";

const DEADLINE: Duration = Duration::from_secs(30);

/// What Prometheus adds to every sample.
const TARGET_LABELS: [&str; 2] = ["job", "instance"];

/// What a metric can carry.
#[derive(Clone, Debug, Default)]
struct Metric {
    labels: BTreeSet<String>,
    values: BTreeMap<String, BTreeSet<String>>,
}

/// Everything that the program exports, by name.
#[derive(Debug)]
struct Exported {
    metrics: BTreeMap<String, Metric>,
    /// What the page calls by name, values of labels among it.
    words: BTreeSet<String>,
}

/// Scraped once for all tests.
static EXPORTED: LazyLock<Exported> = LazyLock::new(|| {
    let scraped = scraped(&scrape());
    let page = read(PAGE);
    let documented = documented(&page);
    let sources = sources(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    let mut metrics = scraped.clone();
    for (name, labels) in documented {
        match scraped.get(&name) {
            Some(metric) => assert_eq!(metric.labels, labels, "{PAGE} on {name}"),
            // What appears with an event that is hard to bring about counts only if it is made.
            None if sources.contains(&format!("\"{name}\"")) => {
                metrics.insert(name, Metric { labels, values: BTreeMap::new() });
            }
            None => panic!("{PAGE} names {name}, and nothing registers it"),
        }
    }
    Exported { metrics, words: code(&page).map(str::to_owned).collect() }
});

/// What a Pierhead shows to which much has happened.
fn scrape() -> String {
    let (upstream, collector) = (FaultyUpstream::start_blocking(), Collector::start());
    let image = upstream.add_image("library/a", "1", [vec![7_u8; 200_000]]);
    upstream.add_image("library/limited", "1", [vec![8_u8; 10]]);
    let wrong = upstream.add_image("library/wrong", "1", [vec![9_u8; 200_000]]);
    let config = format!(
        "[upstream.\"docker.io\"]\nendpoints = [\"{}\"]\ntag_ttl = \"0s\"\nabsent_ttl = \"0s\"\n\
         [telemetry]\notlp_endpoint = \"{}\"",
        upstream.url(),
        collector.url()
    );
    let pierhead = Pierhead::start(PIERHEAD, &config);
    let manifest = |name: &str| format!("{}/v2/library/{name}/manifests/1", pierhead.url());
    let blob = format!("{}/v2/library/a/blobs/{}", pierhead.url(), image.layers[0]);
    http::get(manifest("a")).expect(200);
    http::get(&*blob).expect(200);
    http::get(&*blob).expect(200);
    // Only what is there as a whole is served stale.
    http::get(format!("{}/v2/library/a/blobs/{}", pierhead.url(), image.config)).expect(200);
    upstream.fault(On::path(&wrong.layers[0]).get().once(), Fault::FlipByte(1000));
    let cut = http::get(format!("{}/v2/library/wrong/blobs/{}", pierhead.url(), wrong.layers[0]));
    assert_ne!(cut.body.len(), 200_000);
    http::get(format!("{}/v2/library/a/tags/list", pierhead.url())).expect(200);
    http::get(format!("{}/nothing", pierhead.admin_url())).expect(404);
    pierhead.wait_for_fills();
    upstream.down();
    let stale = http::get(manifest("a")).expect(200);
    assert!(stale.header("warning").is_some());
    assert!(http::get(manifest("none")).status >= 500);
    wait_until("spans are exported", DEADLINE, || {
        let exported = pierhead.metric("pierhead_trace_spans_total", &[("result", "exported")]);
        (exported > 0.0).then_some(())
    });
    pierhead.metrics()
}

/// The metrics in Prometheus' text format, histograms under their own name.
fn scraped(text: &str) -> BTreeMap<String, Metric> {
    let mut metrics: BTreeMap<String, Metric> = BTreeMap::new();
    let mut histograms = BTreeSet::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            if kind == "histogram" {
                histograms.insert(name.to_owned());
            }
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        let names = promql::names(line.rsplit_once(' ').unwrap().0);
        let (name, matchers) = names.metrics.first().unwrap();
        let metric = metrics.entry(base(name, &histograms).to_owned()).or_default();
        for Matcher { label, value, .. } in matchers.iter().filter(|m| m.label != "le") {
            metric.labels.insert(label.clone());
            metric.values.entry(label.clone()).or_default().insert(value.clone());
        }
    }
    assert!(metrics.len() > 20, "{text}");
    metrics
}

/// A histogram's name for that of one of its series.
fn base<'n>(name: &'n str, histograms: &BTreeSet<String>) -> &'n str {
    ["_bucket", "_sum", "_count"]
        .into_iter()
        .find_map(|end| name.strip_suffix(end).filter(|base| histograms.contains(*base)))
        .unwrap_or(name)
}

/// The rows of the page's table of metrics: name and labels.
fn documented(page: &str) -> Vec<(String, BTreeSet<String>)> {
    let found: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| `pierhead_") || line.starts_with("| `process_"))
        .map(|line| line.trim_matches('|').split('|').collect::<Vec<_>>())
        .filter(|cells| cells.len() == 4)
        .flat_map(|cells| {
            let labels = without_parentheses(cells[2]);
            let labels: BTreeSet<String> = code(&labels).map(str::to_owned).collect();
            code(cells[0]).map(|name| (name.to_owned(), labels.clone())).collect::<Vec<_>>()
        })
        .collect();
    assert!(found.len() > 15, "{found:?}");
    found
}

/// The values of a label stand in parentheses behind it.
fn without_parentheses(text: &str) -> String {
    let closed = |part: &str| part.split_once(')').map_or("", |(_, rest)| rest).to_owned();
    let mut parts = text.split('(');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + &closed(part))
}

/// What stands between backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The text of every source file.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text.push_str(&sources(&path));
        } else {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
    text
}

/// What is wrong with an expression; nothing if it fits the program.
fn wrong(exported: &Exported, expression: &str) -> Vec<String> {
    let Names { metrics, labels } = promql::names(expression);
    let mut wrong = Vec::new();
    let mut known: BTreeSet<&str> = TARGET_LABELS.into();
    if metrics.is_empty() {
        wrong.push("it names no metric".to_owned());
    }
    for (name, matchers) in &metrics {
        let histograms = exported.metrics.keys().cloned().collect();
        let own = base(name, &histograms);
        let has_buckets = own != name;
        let metric = match exported.metrics.get(own) {
            Some(metric) => metric,
            // Prometheus' own word on whether it could scrape.
            None if name == "up" => continue,
            None => {
                wrong.push(format!("there is no metric {name}"));
                continue;
            }
        };
        known.extend(metric.labels.iter().map(String::as_str));
        known.extend(has_buckets.then_some("le"));
        for Matcher { label, value, .. } in matchers {
            if TARGET_LABELS.contains(&label.as_str()) {
                continue;
            }
            if !metric.labels.contains(label) {
                wrong.push(format!("{name} has no label {label}"));
                continue;
            }
            let seen = metric.values.get(label);
            for value in value.split('|') {
                let is_known =
                    seen.is_some_and(|seen| seen.contains(value)) || exported.words.contains(value);
                if !is_known {
                    wrong.push(format!("{label} of {name} is never {value:?}"));
                }
            }
        }
    }
    let strangers = labels.iter().filter(|label| !known.contains(label.as_str()));
    wrong.extend(strangers.map(|label| format!("none of its metrics has a label {label}")));
    wrong
}

#[track_caller]
fn check(place: &str, expression: &str) {
    let wrong = wrong(&EXPORTED, expression);
    assert!(wrong.is_empty(), "{place}: {expression}\n{}", wrong.join("\n"));
}

#[test]
fn mistakes_are_found() {
    for (expression, says) in [
        ("rate(pierhead_fils_total[5m])", "no metric"),
        ("pierhead_http_head_seconds_buckets", "no metric"),
        ("sum by (le, knd) (pierhead_http_head_seconds_bucket)", "label knd"),
        ("sum by (le) (pierhead_fills_total)", "label le"),
        ("pierhead_fills_total{reslt=\"stored\"}", "no label reslt"),
        ("pierhead_fills_total{result=~\"stored|lokal\"}", "never \"lokal\""),
        ("1 > 0", "names no metric"),
    ] {
        let wrong = wrong(&EXPORTED, expression).join("\n");
        assert!(wrong.contains(says), "{expression}: {wrong}");
    }
    check("here", "sum by (result, job) (pierhead_fills_total{result=\"stored\"})");
}

#[test]
fn alerts_name_what_there_is_and_have_a_section_each() {
    let page = read(PAGE);
    let alerts = yaml(ALERTS);
    let tests = read("deploy/prometheus/alerts.test.yaml");
    let rules: Vec<&Value> = alerts["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert!(rules.len() > 8);
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        check(name, rule["expr"].as_str().unwrap());
        assert!(rule["annotations"]["summary"].is_string(), "{name}");
        let runbook = rule["annotations"]["runbook_url"].as_str().unwrap();
        assert_eq!(runbook, format!("{PAGE}#{}", name.to_lowercase()));
        assert!(page.contains(&format!("\n### {name}\n")), "{PAGE} has no section {name}");
        assert!(tests.contains(&format!("\"{name}\"")), "nothing has {name} fire");
    }
    let named = |heading: &&str| heading.starts_with("### Pierhead");
    for heading in page.lines().filter(named) {
        let name = heading.trim_start_matches("### ");
        assert!(read(ALERTS).contains(&format!("alert: {name}\n")), "no alert {name}");
    }
}

#[test]
fn the_dashboard_names_what_there_is() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let mut seen = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            check(title, expression);
            seen += 1;
            let labels = promql::names(expression).labels;
            let legend = target["legendFormat"].as_str().unwrap();
            for label in legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap()) {
                assert!(labels.contains(label), "{title}: {label} is summed away");
            }
        }
    }
    assert!(seen > 20);
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        check("an annotation", annotation["expr"].as_str().unwrap());
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            let (metric, label) = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'))
                .and_then(|rest| rest.rsplit_once(", "))
                .unwrap();
            check("a variable", &format!("sum by ({label}) ({metric})"));
        }
    }
}
