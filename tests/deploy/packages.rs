//! The unit, the compose file and the chart: right by the words of their own programs, and right
//! for Pierhead.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use pierhead_kit::program::{Output, Run, require};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PIERHEAD, read, root, yaml};

const UNIT: &str = "deploy/systemd/pierhead.service";
const COMPOSE: &str = "deploy/compose/compose.yaml";
const CHART: &str = "deploy/helm/pierhead";
const RULES: &str = "deploy/prometheus/alerts.yaml";
const RULES_TESTS: &str = "deploy/prometheus/alerts.test.yaml";

/// Where packages put the program.
const INSTALLED: &str = "/usr/local/bin/pierhead";

/// The exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE_MAX: &str = "15";

/// The Kubernetes version that the chart is rendered for.
const KUBERNETES: &str = "1.29.0";

/// What `pierhead config check` says of a configuration, with variables.
fn config_check(toml: &str, variables: &[(String, String)]) -> Output {
    let dir = TempDir::with_prefix("pierhead-check-").unwrap();
    let file = dir.path().join("pierhead.toml");
    fs::write(&file, toml).unwrap();
    let mut run = Run::new(PIERHEAD).args(["config", "check"]).arg(&file);
    for (name, value) in variables {
        run = run.env(name, value);
    }
    run.output()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

#[test]
fn promtool_takes_the_alerts_and_they_fire() {
    let Some(promtool) = require("promtool") else { return };
    let run = |verb: &str, file: &str| {
        let run = Run::new(&promtool).args([verb, "rules"]).arg(root().join(file));
        assert!(run.output().ok().stdout.contains("SUCCESS"), "{file}");
    };
    run("check", RULES);
    run("test", RULES_TESTS);
}

#[test]
fn systemd_takes_the_unit_and_finds_it_closed() {
    let Some(analyze) = require("systemd-analyze") else { return };
    let dir = TempDir::with_prefix("pierhead-unit-").unwrap();
    let unit = dir.path().join("pierhead.service");
    // It looks for the program.
    let at_hand = read(UNIT).replace(INSTALLED, PIERHEAD);
    assert!(at_hand.contains(PIERHEAD));
    fs::write(&unit, at_hand).unwrap();
    let verified = Run::new(&analyze).arg("verify").arg(&unit).output().ok();
    assert_eq!(verified.stderr, "", "{verified}");
    Run::new(&analyze)
        .args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_MAX])
        .arg(&unit)
        .output()
        .ok();
}

#[test]
fn the_units_settings_are_settings() {
    let unit = read(UNIT);
    let value = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(&format!("{key}=")));
        line.unwrap_or_else(|| panic!("{UNIT} sets no {key}"))
    };
    let (name, path) = value("Environment").split_once('=').unwrap();
    config_check("", &[(name.to_owned(), path.to_owned())]).ok();
    assert_eq!(path, format!("/var/lib/{}", value("StateDirectory")));
    assert_eq!(value("ExecStart"), format!("{INSTALLED} serve"));
    assert_eq!(value("RestartPreventExitStatus"), "2");
    let bad = config_check("", &[("PIERHEAD_STORAGE__PTAH".into(), "x".into())]);
    assert!(bad.fails().stderr.contains("ptah"), "a wrong variable is found");
}

#[test]
fn compose_takes_the_file_and_pierhead_its_settings() {
    if let Some(compose) = require("docker-compose") {
        let file = root().join(COMPOSE);
        Run::new(compose).arg("--file").arg(file).args(["config", "--quiet"]).output().ok();
    }
    let services = &yaml(COMPOSE)["services"];
    let variables: Vec<_> = services["pierhead"]["environment"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), text(value)))
        .filter(|(name, _)| name != "PIERHEAD_CONFIG")
        .collect();
    assert!(variables.contains(&("PIERHEAD_SERVER__LISTEN".into(), "0.0.0.0:5000".into())));
    config_check(&read("deploy/compose/pierhead.toml"), &variables).ok();
    assert_eq!(services["docker"]["command"], json!(["--registry-mirror=http://pierhead:5000"]));
}

/// The chart rendered with a file of values below `ci/`, by kind and name.
fn rendered(helm: &PathBuf, values: Option<&str>) -> BTreeMap<(String, String), Value> {
    let chart = root().join(CHART);
    let file = values.map(|values| chart.join("ci").join(values));
    let run = |verb: &[&str]| {
        let mut run = Run::new(helm).args(verb.iter().copied()).arg(&chart);
        if let Some(file) = &file {
            run = run.arg("--values").arg(file);
        }
        run.args(["--kube-version", KUBERNETES]).deadline(Duration::from_secs(60)).output().ok()
    };
    run(&["lint", "--strict", "--quiet"]);
    let manifests = run(&["template", "release", "--namespace", "spaces"]).stdout;
    serde_yaml_ng::Deserializer::from_str(&manifests)
        .map(|document| <Value as serde::Deserialize>::deserialize(document).unwrap())
        .filter(|document| !document.is_null())
        .map(|document| {
            let key = (text(&document["kind"]), text(&document["metadata"]["name"]));
            (key, document)
        })
        .collect()
}

fn only<'r>(rendered: &'r BTreeMap<(String, String), Value>, kind: &str) -> &'r Value {
    let mut found = rendered.iter().filter(|((of, _), _)| of == kind).map(|(_, value)| value);
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    first
}

/// What holds for every rendering: the program takes its configuration, ports have names that
/// exist, and the pod is one that the restricted profile admits.
/// Source: Kubernetes, "Pod Security Standards".
fn sound(rendered: &BTreeMap<(String, String), Value>) {
    let set = only(rendered, "StatefulSet");
    assert_eq!(set["spec"]["replicas"], 1);
    let pod = &set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let variables: Vec<_> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| (text(&variable["name"]), text(&variable["value"])))
        .collect();
    let config = text(&only(rendered, "ConfigMap")["data"]["pierhead.toml"]);
    config_check(&config, &variables).ok();

    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let security = &container["securityContext"];
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"], json!({ "drop": ["ALL"] }));
    assert_eq!(security["readOnlyRootFilesystem"], true);

    let names = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().map(|item| text(&item["name"])).collect()
    };
    let ports = names(&container["ports"]);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["port"], "registry");
        assert!(["/livez", "/readyz"].contains(&text(&get["path"]).as_str()));
    }
    let services = rendered.iter().filter(|((kind, _), _)| kind == "Service");
    for (_, service) in services {
        for port in service["spec"]["ports"].as_array().unwrap() {
            assert!(ports.contains(&text(&port["targetPort"])), "{port}");
        }
        assert_eq!(service["spec"]["selector"], set["spec"]["selector"]["matchLabels"]);
    }
    let headless = ("Service".to_owned(), text(&set["spec"]["serviceName"]));
    assert_eq!(rendered[&headless]["spec"]["clusterIP"], "None");
    let mut volumes = names(&pod["volumes"]);
    for claim in set["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten() {
        volumes.push(text(&claim["metadata"]["name"]));
    }
    let mut mounted = names(&container["volumeMounts"]);
    volumes.sort();
    mounted.sort();
    assert_eq!(volumes, mounted);
}

#[test]
fn the_chart_renders_what_pierhead_and_the_restricted_profile_take() {
    let Some(helm) = require("helm") else { return };
    let default = rendered(&helm, None);
    sound(&default);
    assert!(!default.contains_key(&("ServiceMonitor".into(), "release-pierhead".into())));

    let everything = rendered(&helm, Some("everything.yaml"));
    sound(&everything);
    for kind in ["NetworkPolicy", "PodDisruptionBudget", "ServiceAccount", "ServiceMonitor"] {
        only(&everything, kind);
    }
    let config = text(&only(&everything, "ConfigMap")["data"]["pierhead.toml"]);
    assert!(config.contains("{{ braces }} and a tab:\tsurvive"), "{config}");

    let encrypted = rendered(&helm, Some("encrypted.yaml"));
    sound(&encrypted);
    let pod = &only(&encrypted, "StatefulSet")["spec"]["template"]["spec"]["containers"][0];
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        assert_eq!(text(&pod[probe]["httpGet"]["scheme"]), "HTTPS", "{probe}");
    }
    let ephemeral = rendered(&helm, Some("ephemeral.yaml"));
    sound(&ephemeral);
    assert!(only(&ephemeral, "StatefulSet")["spec"]["volumeClaimTemplates"].is_null());
}

#[test]
fn the_charts_schema_refuses_slips() {
    let Some(helm) = require("helm") else { return };
    for (set, says) in [
        ("service.prot=1", "prot"),
        ("image.digest=sha256:1", "digest"),
        ("persistence.size=lots", "size"),
        ("persistence.accessModes[0]=ReadWriteMany", "accessModes"),
        ("podDisruptionBudget.maxUnavailable=2", "maxUnavailable"),
    ] {
        let run = Run::new(&helm).args(["template", "x"]).arg(root().join(CHART));
        let run = run.args(["--kube-version", KUBERNETES, "--set", set]).output().fails();
        assert!(run.stderr.contains(says), "{set}: {run}");
    }
}
