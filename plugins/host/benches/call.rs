//! What a call costs, and how exactly a deadline is kept.
//!
//! `cargo bench -p pierhead-plugin-host --bench call`. The machine is shared with whatever else
//! runs on it: read the ratios of one run, and the share of hostile calls that were late.

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a benchmark reports and may end")]

#[path = "../tests/all/kit.rs"]
mod kit;

use std::hint::black_box;
use std::time::Duration;

use kit::{Guest, World, ask, denial, mount};
use pierhead_plugin_host::wit::{CallContext, Decision, Request, Verdict};
use pierhead_plugin_host::{CallError, Host, HostOptions, MountSpec, PagemapScan, Plugin};
use tokio::time::Instant;
use wasmtime::component::{Component, Linker, TypedFunc};
use wasmtime::{Engine, Store};

/// Calls of one round, whose mean is one sample: few enough that most rounds are not interrupted.
const CALLS: u32 = 50;

/// Rounds, of which the median counts.
const ROUNDS: usize = 401;

/// The same for a guest whose calls take longer than [`QUICK`].
const SLOW_ROUNDS: usize = 41;

/// What a call of a compiled guest takes at most.
const QUICK: Duration = Duration::from_micros(200);

/// Hostile calls whose end is measured.
const HOSTILE: usize = 100;

/// How late a hostile call may be answered.
const LATE: Duration = Duration::from_millis(10);

/// Looks at the tag that was asked for, and denies `latest`. It takes memory for its arguments as
/// a Rust guest does, and reads settings first: so that it has both kinds of state.
fn policy() -> Guest {
    // Behind the context (124 bytes at most): what stands where is the canonical ABI's.
    let body = format!(
        "(drop (call $sum (local.get $args) (i32.const 200)))
         (if (i32.eqz (i32.load (i32.const 600))) (then (unreachable)))
         {}",
        denial(512, 20)
    );
    let sum = "(func $sum (param $at i32) (param $length i32) (result i32) (local $sum i32)
        (loop $more
            (local.set $sum (i32.add (local.get $sum) (i32.load8_u (local.get $at))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (local.set $length (i32.sub (local.get $length) (i32.const 1)))
            (br_if $more (local.get $length)))
        (local.get $sum))";
    Guest::policy(&body)
        .configured(
            "(i32.store (i32.const 600) (call $sum (local.get $json) (local.get $length)))
             (i32.const 2048)",
        )
        .with(sum)
        .with(r#"(data (i32.const 512) "latest is not a name")"#)
}

/// One instance that is called again and again: what no isolation would cost. It has no host.
struct Warm {
    store: Store<()>,
    function: Answering,
    samples: Vec<f64>,
}

type Answering =
    TypedFunc<(CallContext, Request), (Result<Verdict, pierhead_plugin_host::wit::Failure>,)>;

impl Warm {
    /// `None` for a guest that calls the host to answer.
    fn new(wasm: &[u8]) -> Option<Self> {
        let engine = Engine::default();
        let made = wit_component::ComponentEncoder::default()
            .module(wasm)
            .and_then(|mut encoder| encoder.encode());
        let component = Component::new(&engine, made.as_deref().unwrap_or(wasm)).expect("compiles");
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&component).expect("links");
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &component).expect("starts");
        let find = |store: &mut Store<()>, interface: &str, name: &str| {
            let interface = instance.get_export_index(&mut *store, None, interface)?;
            instance.get_export_index(&mut *store, Some(&interface), name)
        };
        let policy = "pierhead:plugin/request-policy@0.1.0";
        if let Some(configure) = find(&mut store, "pierhead:plugin/lifecycle@0.1.0", "configure") {
            type Done = (Result<(), pierhead_plugin_host::wit::Failure>,);
            let configure = instance
                .get_typed_func::<(&str,), Done>(&mut store, configure)
                .expect("of this type");
            let settings = mount("bench").config.to_string();
            configure.call(&mut store, (&settings,)).expect("called").0.expect("configured");
        }
        let function = find(&mut store, policy, "evaluate").expect("it is there");
        let function = instance.get_typed_func(&mut store, function).expect("of this type");
        let mut warm = Self { store, function, samples: Vec::new() };
        warm.call().is_ok().then_some(warm)
    }

    fn call(&mut self) -> wasmtime::Result<bool> {
        let (answer,) = self.function.call(&mut self.store, (kit::context(), kit::request()))?;
        Ok(answer.is_ok())
    }

    fn round(&mut self) {
        let started = Instant::now();
        for _ in 0..CALLS {
            black_box(self.call().expect("an answer"));
        }
        self.samples.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS));
    }
}

/// The guest's file, if one is named: a real one, built by a compiler.
fn guest() -> (bytes::Bytes, &'static str) {
    match std::env::args().skip(1).find(|argument| argument.ends_with(".wasm")) {
        Some(path) => (std::fs::read(path).expect("the file can be read").into(), "the file"),
        None => (policy().module(), "a guest written by hand"),
    }
}

struct Kind {
    name: &'static str,
    plugin: Plugin,
    samples: Vec<f64>,
}

impl Kind {
    async fn new(name: &'static str, options: HostOptions, wasm: &bytes::Bytes) -> Self {
        let host = Host::new(options).expect("the host starts");
        let mut spec = mount("bench");
        spec.limits.deadline = Duration::from_millis(20);
        let plugin = host.load(wasm.clone(), spec).await.expect("it loads");
        println!("{name:<44} {:?}, {:?}", host.stats().pagemap_scan, plugin.info().isolation);
        Self { name, plugin, samples: Vec::new() }
    }

    async fn round(&mut self) {
        let started = Instant::now();
        for _ in 0..CALLS {
            let called = ask(&self.plugin).await;
            black_box(called.result.expect("an answer"));
        }
        self.samples.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS));
    }
}

fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let world = World::new();
    let (wasm, what) = guest();
    println!("isolated calls of {what}, {} KiB\n", wasm.len() >> 10);
    let without = HostOptions { pagemap_scan: PagemapScan::Off, ..world.options() };
    let on_demand = HostOptions { pooling: false, ..world.options() };
    let unsnapped = HostOptions { snapshots: false, ..world.options() };
    let mut kinds = vec![
        Kind::new("pool, pagemap_scan", world.options(), &wasm).await,
        Kind::new("pool, without pagemap_scan", without, &wasm).await,
        Kind::new("no pool", on_demand, &wasm).await,
        Kind::new("pagemap_scan, settings read in each call", unsnapped, &wasm).await,
    ];
    let mut warm = Warm::new(&wasm);
    let quick = ask(&kinds[0].plugin).await.stats.duration < QUICK;
    // Side by side, so that all of them meet the same neighbours.
    for _ in 0..if quick { ROUNDS } else { SLOW_ROUNDS } {
        for kind in &mut kinds {
            kind.round().await;
        }
        if let Some(warm) = &mut warm {
            warm.round();
        }
    }
    println!();
    let base = median(&mut kinds[0].samples);
    let print = |name: &str, samples: &mut [f64]| {
        let median = median(samples);
        let best = samples[0];
        println!("{name:<44} {median:>7.2} us   x {:.2}   best {best:.2} us", median / base);
    };
    for kind in &mut kinds {
        print(kind.name, &mut kind.samples);
    }
    if let Some(mut warm) = warm {
        print("one warm instance, nothing isolated", &mut warm.samples);
    }
    let verdict = ask(&kinds[0].plugin).await.result.expect("an answer");
    if what.starts_with('a') {
        assert!(matches!(verdict.decision, Decision::Deny(_)));
    }
    println!();
    hostile(&world).await;
}

async fn hostile(world: &std::sync::Arc<World>) {
    let endless = Guest::policy("(loop $for_ever (br $for_ever)) (unreachable)").module();
    let host = world.host();
    for (name, deadline) in [
        ("an endless loop, 5 ms", Duration::from_millis(5)),
        ("an endless loop that gives way, 50 ms", Duration::from_millis(50)),
    ] {
        let mut spec: MountSpec = mount("hostile");
        spec.limits.deadline = deadline;
        let plugin = host.load(endless.clone(), spec).await.expect("it loads");
        let mut beyond = Vec::new();
        for _ in 0..HOSTILE {
            let started = Instant::now();
            assert_eq!(ask(&plugin).await.result, Err(CallError::Deadline));
            beyond.push(started.elapsed().saturating_sub(deadline));
        }
        beyond.sort();
        let in_time = beyond.iter().filter(|late| **late <= LATE).count();
        println!(
            "{name:<44} {in_time} of {HOSTILE} within the deadline + {} ms; median {:.2} ms late, worst {:.2} ms",
            LATE.as_millis(),
            beyond[HOSTILE / 2].as_secs_f64() * 1e3,
            beyond[HOSTILE - 1].as_secs_f64() * 1e3,
        );
    }
}
