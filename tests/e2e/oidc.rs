//! A CI job that logs in with the token of its issuer, and gets what its claims allow.

use std::time::Duration;

use pierhead_kit::images::multi_arch;
use pierhead_kit::issuer::{Algorithm, Issuer};
use pierhead_kit::program::{Dockerd, Output, Skopeo};
use pierhead_kit::wait_until;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::NAME;
use super::auth::Guarded;

const AUDIENCE: &str = "mirror.example";

/// Jobs of `acme/app` on main may pull NAME, jobs of `acme/*` what lies under `acme/`.
fn config(issuer: &Issuer) -> String {
    let url = issuer.url();
    format!(
        "[plugin.jobs]\nsource = \"builtin:oidc\"\n\
         grants = {{ http = {{ allow = [\"{url}/*\"], private_addresses = true }}, \
         kv = {{ buckets = [\"keys\"], quota = \"1MiB\" }} }}\n\
         [[plugin.jobs.config.issuers]]\nissuer = \"{url}\"\naudience = \"{AUDIENCE}\"\n\
         [[plugin.jobs.config.issuers.rules]]\n\
         claims = {{ repository = \"acme/app\", ref = \"refs/heads/main\" }}\n\
         repositories = [\"docker.io/library/{NAME}\"]\n\
         [[plugin.jobs.config.issuers.rules]]\n\
         claims = {{ repository_owner = \"acme\" }}\nrepositories = [\"docker.io/acme/**\"]\n"
    )
}

struct Jobs {
    guarded: Guarded,
    issuer: Issuer,
    skopeo: Skopeo,
}

impl Jobs {
    #[track_caller]
    fn start() -> Option<Self> {
        let (issuer, skopeo) = (Issuer::start()?, Skopeo::find()?);
        let guarded = Guarded::start(&config(&issuer))?;
        for name in ["library/other", "acme/tool"] {
            guarded.registry.push(&multi_arch(1000), &format!("{name}:1"));
        }
        Some(Self { guarded, issuer, skopeo })
    }

    fn token(&self, algorithm: Algorithm, claims: &Value) -> String {
        self.issuer.token(algorithm, claims)
    }

    /// The token of a job of `acme/app` on main.
    fn job(&self, algorithm: Algorithm) -> String {
        self.token(algorithm, &self.issuer.github_claims("acme/app", "main", AUDIENCE))
    }

    fn inspect(&self, name: &str, token: &str) -> Output {
        let image = format!("docker://{}/docker.io/{name}:1", self.guarded.pierhead.host());
        let creds = format!("x:{token}");
        self.skopeo.run(["inspect", "--raw", "--tls-verify=false", "--creds", &creds, &image])
    }
}

#[test]
fn a_job_pulls_what_its_claims_allow_and_nothing_else() {
    let Some(jobs) = Jobs::start() else { return };
    let app = format!("library/{NAME}");
    for algorithm in [Algorithm::Rs256, Algorithm::Es256] {
        let token = jobs.job(algorithm);
        jobs.inspect(&app, &token).ok();
        jobs.inspect("acme/tool", &token).ok();
        jobs.inspect("library/other", &token).fails();
        // Another branch is another job, and so is another repository of the same owner.
        for (repository, branch) in [("acme/app", "feature"), ("acme/lib", "main")] {
            let claims = jobs.issuer.github_claims(repository, branch, AUDIENCE);
            let token = jobs.token(algorithm, &claims);
            jobs.inspect("acme/tool", &token).ok();
            jobs.inspect(&app, &token).fails();
        }
        let stranger = jobs.issuer.github_claims("evil/app", "main", AUDIENCE);
        let refused = jobs.inspect("acme/tool", &jobs.token(algorithm, &stranger)).fails();
        assert!(refused.stderr.contains("match no rule"), "{refused}");
    }
    jobs.guarded.never_logged(&["eyJ"]);
}

#[test]
fn a_token_that_is_not_good_is_no_login() {
    let Some(jobs) = Jobs::start() else { return };
    let app = format!("library/{NAME}");
    let with = |name: &str, value: Value| {
        let mut claims = jobs.issuer.github_claims("acme/app", "main", AUDIENCE);
        claims[name] = value;
        jobs.token(Algorithm::Rs256, &claims)
    };
    let good = jobs.job(Algorithm::Rs256);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    let other = jobs.job(Algorithm::Es256);
    let (_, other_signature) = other.rsplit_once('.').unwrap();
    let payload = with("repository", json!("evil/app"));
    let payload = payload.split('.').nth(1).unwrap();
    for bad in [
        with("aud", json!("elsewhere.example")),
        with("exp", json!(1_700_000_000)),
        with("nbf", json!(9_999_999_999_u64)),
        with("iss", json!("http://127.0.0.1:1")),
        format!("{signed}.{other_signature}"),
        format!("{header}.{payload}.{signature}"),
        format!("{signed}."),
    ] {
        jobs.inspect(&app, &bad).fails();
    }
    jobs.inspect(&app, &good).ok();
}

#[test]
fn keys_that_were_rotated_are_fetched_and_the_old_ones_forgotten() {
    let Some(jobs) = Jobs::start() else { return };
    let app = format!("library/{NAME}");
    jobs.inspect(&app, &jobs.job(Algorithm::Rs256)).ok();
    assert_eq!(jobs.issuer.times_asked(), 1);
    jobs.inspect(&app, &jobs.job(Algorithm::Es256)).ok();
    assert_eq!(jobs.issuer.times_asked(), 1, "the keys are kept");
    let late = jobs.job(Algorithm::Rs256);
    jobs.issuer.rotate();
    // The issuer is asked every 30 s at most, whoever comes with whatever key. Few tries: those
    // that fail are counted.
    let (every, mut due) = (Duration::from_secs(6), Instant::now());
    let new = jobs.job(Algorithm::Rs256);
    wait_until("the new keys are fetched", Duration::from_secs(60), || {
        if Instant::now() < due {
            return None;
        }
        due = Instant::now() + every;
        jobs.inspect(&app, &new).success().then_some(())
    });
    jobs.inspect(&app, &jobs.job(Algorithm::Es256)).ok();
    assert_eq!(jobs.issuer.times_asked(), 2);
    let refused = jobs.inspect(&app, &late).fails();
    assert!(refused.stderr.contains("a key that its issuer does not publish"), "{refused}");
}

#[test]
fn docker_logs_in_with_a_jobs_token() {
    let Some(jobs) = Jobs::start() else { return };
    let Some(dockerd) = Dockerd::start_with(&json!({})) else { return };
    let host = jobs.guarded.pierhead.host();
    let login = |token: &str| dockerd.docker(["login", "-u", "x", "-p", token, host]);
    login(&jobs.job(Algorithm::Es256)).ok();
    dockerd.pull(&jobs.guarded.image()).ok();
    let refused = dockerd.pull(&format!("{host}/docker.io/library/other:1")).fails();
    assert!(refused.stderr.contains("denied"), "{refused}");
    let stranger = jobs.issuer.github_claims("evil/app", "main", AUDIENCE);
    let refused = login(&jobs.token(Algorithm::Rs256, &stranger)).fails();
    assert!(refused.stderr.contains("match no rule"), "{refused}");
    jobs.guarded.never_logged(&["eyJ"]);
}
