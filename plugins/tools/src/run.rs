//! `pierhead plugin test`: cases against a plugin, in the very host that `serve` uses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pierhead_plugin_host::wit::{
    AuthOutcome, CallContext, Client, Credential, Credentials, Identity, Manifest, Reference,
    Request, Scope, Stage, Verdict,
};
use pierhead_plugin_host::{
    CallStats, Called, FactsGrant, Grants, Hook, Host, HostError, HostOptions, HttpGrant,
    Inspection, Limits, LoadError, MountSpec, Plugin, SecretString, inspect,
};
use serde::Deserialize as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::answer;
use crate::case::{self, Case, Expect};
use crate::descriptor;
use crate::value;
use crate::world::World;

/// A host that nobody has: a grant needs one.
const NOWHERE: &str = "https://nowhere.invalid";

/// The methods that a case may use, if it does not say.
const METHODS: [&str; 6] = ["DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"];

/// Instances at a time: cases run one after the other.
const INSTANCES_MAX: u32 = 4;

/// Runs cases against plugins.
#[derive(Debug)]
pub struct Runner {
    host: Host,
    /// How many cases were run.
    runs: AtomicU64,
    world: World,
}

/// What came of a case.
#[derive(Debug)]
pub struct Ran {
    /// What came of the call.
    pub came: Expect,
    /// Where that differs from what is expected; nothing, if the case passed.
    pub differences: Vec<String>,
    /// What the call took, if there was one.
    pub stats: Option<CallStats>,
    /// What the plugin logged.
    pub log: Vec<String>,
}

impl Ran {
    /// Whether all is as expected.
    pub const fn passed(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Why a case cannot be run at all.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The host does not start.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The plugin is not loaded, for a reason that is none of its settings.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The case makes no sense.
    #[error("case {name:?}: {why}")]
    Case {
        /// The case's name.
        name: String,
        /// What is wrong.
        why: String,
    },
}

impl Runner {
    /// Starts a host for cases.
    ///
    /// # Errors
    /// When the host does not start.
    pub fn new() -> Result<Self, RunError> {
        let world = World::default();
        let options =
            HostOptions { instances_max: INSTANCES_MAX, ..HostOptions::new(world.outside()) };
        let host = Host::new(options)?;
        Ok(Self { host, runs: AtomicU64::new(0), world })
    }

    /// Runs one case, in a mount of its own. Cancel-safe.
    ///
    /// # Errors
    /// When it cannot be run; a call that breaks is no error but an answer.
    pub async fn run(&self, wasm: &Bytes, case: &Case) -> Result<Ran, RunError> {
        let bad = |why| RunError::Case { name: case.name.clone(), why };
        let inspection = inspect(wasm)?;
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let mount = mount(case, &inspection, number).map_err(bad)?;
        let now = now(&case.call).map_err(bad)?;
        self.world.set(case, now);
        let deadline = mount.limits.deadline;
        let (came, stats) = match self.host.load(wasm.clone(), mount).await {
            Ok(plugin) if plugin.hooks().contains(&case.call.hook) => {
                let (came, stats) = call(&plugin, case, now, deadline).await.map_err(bad)?;
                (came, Some(stats))
            }
            Ok(_) => return Err(bad(format!("the plugin has no hook {}", case.call.hook))),
            Err(error) => match answer::of_refusal(&error) {
                Some(came) => (came, None),
                None => return Err(error.into()),
            },
        };
        let left = self.world.left();
        let mut differences = answer::differences(&case.expect, &came);
        for surprise in left.surprises {
            differences.push(format!("http: the case does not list {surprise}"));
        }
        if let (Some(max), Some(stats)) = (case.limits.memory_bytes, &stats)
            && stats.memory_peak_bytes as u64 > max
        {
            let peak = stats.memory_peak_bytes;
            differences.push(format!("memory: {peak} bytes, and at most {max} are allowed"));
        }
        Ok(Ran { came, differences, stats, log: left.log })
    }
}

fn mount(case: &Case, inspection: &Inspection, number: u64) -> Result<MountSpec, String> {
    let secret = |(name, value): (&String, &String)| (name.clone(), SecretString::new(value));
    let mut limits = Limits::for_hook(case.call.hook);
    if let Some(time) = &case.limits.time {
        limits.deadline =
            humantime::parse_duration(time).map_err(|error| format!("limits.time: {error}"))?;
    }
    if let Some(bytes) = case.limits.memory_bytes {
        limits.memory_bytes =
            usize::try_from(bytes).map_err(|_| "limits.memory_bytes is too much")?;
    }
    Ok(MountSpec {
        // What a mount keeps is kept by its name: no case sees what another one left.
        name: format!("test-{number}"),
        config: if case.config.is_null() {
            Value::Object(serde_json::Map::new())
        } else {
            case.config.clone()
        },
        secrets: case.secrets.iter().map(secret).collect::<BTreeMap<_, _>>(),
        grants: grants(case, inspection)?,
        limits,
    })
}

/// What the case says, or what it implies.
fn grants(case: &Case, inspection: &Inspection) -> Result<Grants, String> {
    if !case.grants.is_null() {
        return Grants::deserialize(&case.grants).map_err(|error| format!("grants: {error}"));
    }
    let needs = |name: &str| inspection.grants.iter().any(|grant| grant.name == name);
    let http = needs("http").then(|| {
        // Whole hosts and every method: what the case does not list has to come to light.
        let mut allow = BTreeSet::from([NOWHERE.to_owned()]);
        for exchange in &case.http {
            let url = Url::parse(&exchange.url)
                .map_err(|error| format!("http: {}: {error}", exchange.url))?;
            allow.insert(url.origin().ascii_serialization());
        }
        Ok::<_, String>(serde_json::json!({ "allow": allow, "methods": METHODS }))
    });
    let http = http
        .transpose()?
        .map(|grant| HttpGrant::deserialize(&grant).map_err(|error| format!("http: {error}")))
        .transpose()?;
    if needs("kv") || needs("content") {
        return Err(
            "say which grants the plugin has: grants: { kv: { buckets: [...] } }".to_owned()
        );
    }
    Ok(Grants {
        http,
        secrets: case.secrets.keys().cloned().collect(),
        facts: Some(FactsGrant { write: true }),
        ..Grants::default()
    })
}

#[expect(clippy::disallowed_methods, reason = "a case that says no time happens now")]
fn now(call: &case::Call) -> Result<u64, String> {
    let time = match &call.now {
        Some(text) => humantime::parse_rfc3339_weak(text)
            .map_err(|error| format!("now: {error}; write 2026-01-31T12:00:00Z"))?,
        None => std::time::SystemTime::now(),
    };
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

async fn call(
    plugin: &Plugin,
    case: &Case,
    now: u64,
    deadline: Duration,
) -> Result<(Expect, CallStats), String> {
    let call = &case.call;
    let context = context(case, now, deadline);
    fn told<T>(called: Called<T>, tell: impl FnOnce(&T) -> Expect) -> (Expect, CallStats) {
        let came = match &called.result {
            Ok(answer) => tell(answer),
            Err(error) => answer::of_error(error),
        };
        (came, called.stats)
    }
    let reference = || match &call.reference {
        Some(text) => value::reference(text),
        None => Err("the call has no reference".to_owned()),
    };
    Ok(match call.hook {
        Hook::Authenticator => {
            let credentials = credentials(call);
            let called: Called<AuthOutcome> = plugin.authenticate(&context, &credentials).await;
            told(called, answer::of_outcome)
        }
        Hook::Authorizer => {
            let wanted = call.wanted.iter().map(scope).collect::<Result<Vec<_>, _>>()?;
            let called = plugin.authorize(&context, &wanted).await;
            told(called, |granted: &Vec<Scope>| answer::of_granted(granted))
        }
        Hook::RequestPolicy => {
            let request = Request {
                action: value::action(call.action.as_deref().unwrap_or("pull"))?,
                kind: value::kind(call.kind.as_deref().unwrap_or("manifest"))?,
                reference: reference()?,
            };
            let called: Called<Verdict> = plugin.evaluate_request(&context, &request).await;
            told(called, answer::of_verdict)
        }
        Hook::ManifestPolicy => {
            let stage: Stage = value::stage(call.stage.as_deref().unwrap_or("serve"))?;
            let manifest = manifest(call, reference()?)?;
            told(plugin.evaluate_manifest(&context, stage, &manifest).await, answer::of_verdict)
        }
        Hook::Resolver => {
            let called: Called<Option<Reference>> = plugin.resolve(&context, &reference()?).await;
            told(called, |resolved| answer::of_resolved(resolved.as_ref()))
        }
        Hook::UpstreamCredentials => {
            let upstream = call.upstream.as_ref().ok_or("the call has no upstream")?;
            let called: Called<Option<Credential>> = plugin
                .fetch_credentials(&upstream.name, &upstream.host, &upstream.repository)
                .await;
            told(called, |credential| answer::of_credential(credential.as_ref()))
        }
        Hook::Scanner | Hook::Replicator | Hook::Observer => {
            return Err(format!("cases cannot call {} yet", call.hook));
        }
    })
}

fn context(case: &Case, now: u64, deadline: Duration) -> CallContext {
    let call = &case.call;
    CallContext {
        request_id: "test".to_owned(),
        now,
        deadline_ms: u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX),
        client: Client {
            address: call.client.as_ref().map_or("192.0.2.1", |client| &client.address).to_owned(),
            user_agent: call.client.as_ref().and_then(|client| client.user_agent.clone()),
            tls_subject: call.client.as_ref().and_then(|client| client.tls_subject.clone()),
        },
        identity: call.identity.as_ref().map(|identity| Identity {
            subject: identity.subject.clone(),
            issuer: identity.issuer.clone(),
            method: identity.method.clone(),
            groups: identity.groups.clone(),
            claims: identity.claims.clone().into_iter().collect(),
            expires_at: identity.expires_at,
        }),
        attributes: call.attributes.clone().into_iter().collect(),
    }
}

fn credentials(call: &case::Call) -> Credentials {
    match &call.credentials {
        None | Some(case::Credentials::Anonymous) => Credentials::Anonymous,
        Some(case::Credentials::Basic(basic)) => {
            Credentials::Basic((basic.username.clone(), basic.password.clone()))
        }
        Some(case::Credentials::Bearer(token)) => Credentials::Bearer(token.clone()),
    }
}

fn scope(scope: &case::Scope) -> Result<Scope, String> {
    let actions = scope.actions.iter().map(|action| value::action(action));
    Ok(Scope { repository: scope.repository.clone(), actions: actions.collect::<Result<_, _>>()? })
}

fn manifest(call: &case::Call, mut reference: Reference) -> Result<Manifest, String> {
    let content = call.manifest.as_ref().ok_or("the call has no manifest")?;
    let raw = value::bytes(content);
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&raw)));
    let media_type = call.media_type.clone().or_else(|| {
        let parsed: Value = serde_json::from_slice(&raw).ok()?;
        parsed.get("mediaType")?.as_str().map(str::to_owned)
    });
    let media_type =
        media_type.unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned());
    reference.digest.get_or_insert_with(|| digest.clone());
    Ok(Manifest {
        descriptor: descriptor::of_manifest(&raw, media_type, digest),
        reference,
        raw,
        config: call.image_config.as_ref().map(value::bytes),
    })
}
