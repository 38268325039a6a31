//! What a policy costs a warm pull: the template's, as it is and without leave to use its verdicts
//! again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pierhead_kit::http::Request;
use pierhead_kit::program::{Pierhead, Run};
use tempfile::TempDir;

use crate::Result;
use crate::load::load;
use crate::origin::{Origin, pierhead};
use crate::report::{Row, Samples, Who, times};
use crate::warm::wait_for_hit;

const CONNECTIONS: u32 = 64;

/// How long compiling a plugin may take.
const BUILD_MAX: Duration = Duration::from_secs(300);

/// What a request rate may fall to with a verdict that is used again, of the rate without plugins.
const CACHED_MIN: f64 = 0.95;
/// With a call for each request, where the kernel has `PAGEMAP_SCAN`.
const CALLED_MIN: f64 = 0.70;
/// With a call for each request elsewhere.
const CALLED_ELSEWHERE_MIN: f64 = 0.45;

/// The line of the template by which its verdict may be used again.
const REUSED: &str =
    "Ok(verdict.reuse(Duration::from_secs(60), DependsOn::REPOSITORY | DependsOn::TAG))";

/// A policy of the template, compiled.
struct Policies {
    cached: PathBuf,
    called: PathBuf,
    _dir: TempDir,
}

fn run(program: &Path, arguments: &[&str], project: &Path) -> Result<()> {
    let output = Run::new(program).args(arguments).arg(project).deadline(BUILD_MAX).output();
    if output.success() {
        Ok(())
    } else {
        Err(format!("pierhead {}: {}", arguments.join(" "), output.stderr).into())
    }
}

impl Policies {
    fn build(program: &Path) -> Result<Self> {
        let dir = TempDir::with_prefix("pierhead-policy-")?;
        let project = dir.path().join("policy");
        run(program, &["plugin", "new", "policy", "--dir"], &project)?;
        eprintln!("  building the template's policy, twice");
        run(program, &["plugin", "build"], &project)?;
        let cached = dir.path().join("cached.wasm");
        std::fs::copy(project.join("policy.wasm"), &cached)?;
        let source = project.join("src/lib.rs");
        let text = std::fs::read_to_string(&source)?;
        if !text.contains(REUSED) {
            return Err("the template no longer says that its verdict may be used again".into());
        }
        std::fs::write(&source, text.replace(REUSED, "Ok(verdict)"))?;
        run(program, &["plugin", "build"], &project)?;
        let called = dir.path().join("called.wasm");
        std::fs::copy(project.join("policy.wasm"), &called)?;
        Ok(Self { cached, called, _dir: dir })
    }
}

fn mounted(program: &Path, origin: &Origin, plugin: &Path, more: &str) -> Result<Pierhead> {
    let config = format!("[plugin.policy]\nsource = \"file:{}\"\n{more}", plugin.display());
    pierhead(program, &origin.url(), &config)
}

/// The rates of warm manifests by digest: the smallest answers, so that the policy weighs most.
pub(crate) fn policies(program: &Path, rounds: usize, seconds: u64) -> Result<Vec<Row>> {
    let policies = Policies::build(program)?;
    let origin = Origin::start()?;
    let image = origin.add_image(1)?;
    let path = image.by_tag();
    let without = pierhead(program, &origin.url(), "")?;
    let cached = mounted(program, &origin, &policies.cached, "")?;
    let called = mounted(program, &origin, &policies.called, "")?;
    let elsewhere = "[plugins]\npagemap_scan = false\n";
    let elsewhere = mounted(program, &origin, &policies.called, elsewhere)?;
    let all = [
        (Who::Pierhead, &without),
        (Who::Cached, &cached),
        (Who::Called, &called),
        (Who::CalledElsewhere, &elsewhere),
    ];
    let accept = "application/vnd.oci.image.manifest.v1+json";
    for (_, pierhead) in all {
        let url = format!("{}{path}", pierhead.url());
        let answer = Request::new("GET", &url).header("accept", accept).try_send()?;
        if answer.status != 200 {
            return Err(format!("{url}: {answer:?}").into());
        }
        wait_for_hit(&url);
    }
    for (pierhead, must) in [(&cached, false), (&called, true)] {
        let calls = pierhead.metric("pierhead_plugin_calls_total", &[("mount", "policy")]);
        if calls < 1.0 || (must && calls < 2.0) {
            return Err("the policy is not asked".into());
        }
    }
    let (mut rate, mut cpu) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        for (who, pierhead) in all {
            let url = format!("{}{path}", pierhead.url());
            let load = load(&url, pierhead.pid(), CONNECTIONS, seconds)?;
            rate.add(who, load.requests_per_second);
            cpu.add(who, load.cpu_per_request);
        }
    }
    let mut rows = Vec::new();
    for (who, what, min) in [
        (Who::Cached, "its verdict is used again", CACHED_MIN),
        (Who::Called, "a call each", CALLED_MIN),
        (Who::CalledElsewhere, "a call each, without pagemap_scan", CALLED_ELSEWHERE_MIN),
    ] {
        let of = |samples: &Samples| samples.ratio(who, Who::Pierhead).unwrap_or_default();
        let ratio = of(&rate);
        rows.push(
            Row::new(format!("warm manifest, policy ({what}): requests/s"), rate.clone())
                .own(format!("{} without", times(ratio)))
                .limit(format!("{min} x"), ratio >= min),
        );
        rows.push(
            Row::new(format!("warm manifest, policy ({what}): CPU per request"), cpu.clone())
                .own(format!("{} without", times(of(&cpu)))),
        );
    }
    Ok(rows)
}
