//! From a file to a plugin that can be called.
//!
//! Checked and counted first, compiled then, and run last; all of it on a thread of its own, so
//! that a large plugin does not hold up what is served. A hostile one takes some processor for as
//! long as the compiler is busy with it, within the bounds of [`crate::weigh`] and
//! [`crate::turns`].

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Lower,
};

use crate::call::Outcome;
use crate::compiled::{Compiled, Origin};
use crate::error::LoadError;
use crate::hook::Hook;
use crate::host::{Host, Lane, Share};
use crate::inspect::{self, Opened};
use crate::link;
use crate::mount::MountSpec;
use crate::plugin::{Exports, Isolation, Loaded, Plugin, PluginInfo};
use crate::snapshot::{self, Snapshot};
use crate::state::{Mount, State};
use crate::weigh;
use crate::wit::{
    AuthOutcome, CallContext, Credential, Credentials, Event, Manifest, Reference, Request, Scope,
    Stage, Verdict,
};

/// The longest that loading takes, the wait for another plugin included.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// The longest deadline of a call.
const DEADLINE_MAX: Duration = Duration::from_secs(3600);

pub(crate) async fn load(host: &Host, wasm: Bytes, spec: MountSpec) -> Result<Plugin, LoadError> {
    let started = Instant::now();
    let until = started + LOAD_TIMEOUT;
    let late = |_| LoadError::CompileTimeout(LOAD_TIMEOUT);
    let closed = |error: tokio::sync::AcquireError| LoadError::Compile(error.to_string());
    let turn = timeout_at(until, host.inner.turns.take()).await.map_err(late)?.map_err(closed)?;
    let theirs = turn.clone();
    let host = host.clone();
    let loading = tokio::task::spawn_blocking(move || {
        // A future that is dropped leaves the turn with the thread, until that has really ended.
        let _turn = theirs;
        let work = AssertUnwindSafe(|| prepare(&host, &wasm, spec, (started, until)));
        std::panic::catch_unwind(work).unwrap_or_else(|_| {
            Err(LoadError::Compile("the compiler made a mistake; please report it".to_owned()))
        })
    });
    match timeout_at(until, loading).await {
        Ok(Ok(result)) => result,
        // Only a runtime that ends does this.
        Ok(Err(error)) => Err(LoadError::Compile(error.to_string())),
        Err(_) => {
            turn.abandon();
            Err(LoadError::CompileTimeout(LOAD_TIMEOUT))
        }
    }
}

fn prepare(
    host: &Host,
    wasm: &[u8],
    spec: MountSpec,
    (started, until): (Instant, Instant),
) -> Result<Plugin, LoadError> {
    let opened = inspect::open(wasm)?;
    check_hooks(&opened.inspection.hooks)?;
    check_grants(&opened, &spec)?;
    let lane = lane(host, &opened.inspection.hooks);
    check_limits(&spec, &lane)?;
    weigh::check(opened.made.as_deref().unwrap_or(wasm))?;
    let waits = link::waits(&opened.inspection.imports);
    let mount = Arc::new(Mount {
        settings: spec.config.to_string(),
        digest: opened.inspection.digest.clone(),
        outside: host.inner.outside.clone(),
        kv: host.buckets(&spec.name),
        share: Share::new(&lane, &host.inner.budget, spec.limits.memory_bytes, waits),
        spec,
    });
    let made = make(host, &lane, &mount, (&opened, wasm), until)?;
    let inspection = opened.inspection;
    let info = PluginInfo {
        mount: mount.spec.name.clone(),
        digest: inspection.digest.clone(),
        bytes: inspection.bytes,
        hooks: inspection.hooks.clone(),
        isolation: made.isolation.clone(),
        from_cache: made.from_cache,
        load_duration: started.elapsed(),
        waits,
    };
    let Made { pre, exports, .. } = made;
    let loaded = Loaded { host: host.clone(), lane, mount, pre, exports, inspection, info };
    Ok(Plugin { loaded: Arc::new(loaded) })
}

/// A component that is ready for calls.
struct Made {
    pre: InstancePre<State>,
    exports: Exports,
    isolation: Isolation,
    from_cache: bool,
}

fn make(
    host: &Host,
    lane: &Lane,
    mount: &Arc<Mount>,
    (opened, wasm): (&Opened, &[u8]),
    until: Instant,
) -> Result<Made, LoadError> {
    let engine = &lane.built.engine;
    let linker = link::linker(engine, &opened.inspection.imports)?;
    let link = |component: &Component| {
        let linked = linker.instantiate_pre(component);
        let pre = linked.map_err(|error| LoadError::Mismatch(inspect::explain(&error)))?;
        let exports = exports(&pre, opened)?;
        Ok((pre, exports))
    };
    let cache = cache(host);
    let origin = Origin {
        plugin: &mount.digest,
        settings: &mount.settings,
        memory_bytes: mount.limits().memory_bytes,
        engine,
    };
    if let Some((component, isolation)) = cache.as_ref().and_then(|cache| cache.get(&origin)) {
        let (pre, exports) = link(&component)?;
        return Ok(Made { pre, exports, isolation, from_cache: true });
    }
    let compile = |bytes: &[u8]| {
        let made = Component::new(engine, bytes);
        let component = made.map_err(|error| LoadError::Compile(inspect::explain(&error)))?;
        // Nobody waits for it any more: what is left to do is not begun.
        if Instant::now() > until {
            return Err(LoadError::CompileTimeout(LOAD_TIMEOUT));
        }
        Ok(component)
    };
    let bytes = opened.made.as_deref().unwrap_or(wasm);
    // Types are checked before anything runs.
    let plain = compile(bytes)?;
    let (pre, exports) = link(&plain)?;
    let lifecycle = opened.exports.iter().find(|name| inspect::ours(name) == Some("lifecycle"));
    let made = match lifecycle {
        None => Made { pre, exports, isolation: Isolation::Plain, from_cache: false },
        Some(lifecycle) => {
            match snapshot::take(host, engine, &linker, mount, (bytes, lifecycle))? {
                Snapshot::Taken(bytes) => {
                    let (pre, exports) = link(&compile(&bytes)?)?;
                    Made { pre, exports, isolation: Isolation::Snapshot, from_cache: false }
                }
                Snapshot::Refused(why) => {
                    snapshot::rehearse(host, &pre, mount, lifecycle)?;
                    let isolation = Isolation::ConfigurePerCall(why);
                    Made { pre, exports, isolation, from_cache: false }
                }
            }
        }
    };
    if let Some(cache) = cache {
        cache.put(&origin, made.pre.component(), &made.isolation);
    }
    Ok(made)
}

/// Where compiled code is kept. Without a directory that can be trusted, it is not kept.
fn cache(host: &Host) -> Option<Compiled> {
    let wanted = host.inner.compiled.as_ref()?;
    Compiled::open(wanted)
        .inspect_err(|error| {
            tracing::warn!(%error, dir = %wanted.dir.display(), "compiled code is not kept");
        })
        .ok()
}

/// A plugin that nothing would ever call is a mistake of whoever mounted it.
fn check_hooks(hooks: &[Hook]) -> Result<(), LoadError> {
    if hooks.iter().all(|hook| hook.is_batch()) {
        return Err(LoadError::NothingToRun(hooks.to_vec()));
    }
    Ok(())
}

fn check_grants(opened: &Opened, spec: &MountSpec) -> Result<(), LoadError> {
    spec.grants.check().map_err(LoadError::Mount)?;
    let given = |name: &str| match name {
        "http" => spec.grants.http.is_some(),
        "kv" => spec.grants.kv.is_some(),
        "content" => spec.grants.content.is_some(),
        _ => false,
    };
    let missing: Vec<_> =
        opened.inspection.grants.iter().filter(|grant| !given(grant.name)).cloned().collect();
    if missing.is_empty() { Ok(()) } else { Err(LoadError::MissingGrants(missing)) }
}

/// A plugin that requests wait for runs where requests do, all of it.
fn lane(host: &Host, hooks: &[Hook]) -> Arc<Lane> {
    let inner = &host.inner;
    Arc::clone(if hooks.iter().all(|hook| hook.is_batch()) { &inner.batch } else { &inner.hot })
}

fn check_limits(spec: &MountSpec, lane: &Lane) -> Result<(), LoadError> {
    let limits = &spec.limits;
    if limits.deadline.is_zero() || limits.deadline > DEADLINE_MAX {
        return Err(LoadError::Mount("the timeout must be above 0 and at most 1 h".to_owned()));
    }
    if limits.memory_bytes > lane.memory_bytes_max {
        let max = lane.memory_bytes_max >> 20;
        return Err(LoadError::Mount(format!("memory_max must be at most {max}MiB")));
    }
    Ok(())
}

fn exports(pre: &InstancePre<State>, opened: &Opened) -> Result<Exports, LoadError> {
    let find = Finder { pre, names: &opened.exports };
    Ok(Exports {
        configure: find.one::<(&str,), Outcome<()>>("lifecycle", "configure")?,
        authenticate: find.one::<(&CallContext, &Credentials), Outcome<AuthOutcome>>(
            "authenticator",
            "authenticate",
        )?,
        authorize: find
            .one::<(&CallContext, &[Scope]), Outcome<Vec<Scope>>>("authorizer", "authorize")?,
        evaluate_request: find
            .one::<(&CallContext, &Request), Outcome<Verdict>>("request-policy", "evaluate")?,
        evaluate_manifest: find.one::<(&CallContext, Stage, &Manifest), Outcome<Verdict>>(
            "manifest-policy",
            "evaluate",
        )?,
        resolve: find
            .one::<(&CallContext, &Reference), Outcome<Option<Reference>>>("resolver", "resolve")?,
        fetch: find.one::<(&str, &str, &str), Outcome<Option<Credential>>>(
            "upstream-credentials",
            "fetch",
        )?,
        handle: find.one::<(&[Event],), Outcome<Vec<u64>>>("observer", "handle")?,
    })
}

/// Finds exported functions, and checks their types once.
struct Finder<'a> {
    pre: &'a InstancePre<State>,
    names: &'a [String],
}

impl Finder<'_> {
    fn one<P, R>(
        &self,
        interface: &str,
        function: &str,
    ) -> Result<Option<ComponentExportIndex>, LoadError>
    where
        P: ComponentNamedList + Lower,
        (R,): ComponentNamedList + Lift,
    {
        let named = |name: &&String| inspect::ours(name.as_str()) == Some(interface);
        let Some(name) = self.names.iter().find(named) else { return Ok(None) };
        let wrong = |why: &str| LoadError::Mismatch(format!("{name}, {function}: {why}"));
        let component = self.pre.component();
        let instance = component
            .get_export_index(None, name.as_str())
            .ok_or_else(|| wrong("the interface is not an instance"))?;
        match component.get_export(Some(&instance), function) {
            Some((ComponentItem::ComponentFunc(found), index)) => found
                .typecheck::<P, (R,)>(&self.pre.instance_type())
                .map(|()| Some(index))
                .map_err(|error| wrong(&format!("{error:#}"))),
            _ => Err(wrong("there is no such function")),
        }
    }
}
