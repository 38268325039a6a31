//! Configures a plugin once, and makes a component of it that begins where that ended.
//!
//! It is wizer's work: the component is given functions that read its memories and globals, an
//! instance of it is configured and read, and a component is written with what was read as its
//! beginning. Each call then maps that image, and copies the pages that it writes to.

use std::sync::Arc;

use futures_util::FutureExt as _;
use wasmtime::component::{Component, Instance, Lift, Linker, WasmList};
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wizer::{ComponentInstanceState as ReadState, Wizer};

use crate::call::{self, Outcome};
use crate::error::LoadError;
use crate::host::Host;
use crate::inspect;
use crate::state::{Mount, Phase, State};
use crate::ticker;
use crate::trap;

/// How much blank space follows the settings, in bytes. The guest's allocator takes memory for
/// it and has it free when the snapshot is taken. Without it every call would have its instance's
/// memory grow, and the system undo that: twice the cost of a call.
const HEAP_WARM_BYTES: usize = 128 << 10;

/// A page of a guest's memory, which reading it takes, in bytes.
const READING_BYTES: usize = 64 << 10;

/// A component that begins configured, or why there is none.
pub(crate) enum Snapshot {
    Taken(Vec<u8>),
    /// Wizer cannot do it with this component. It can be used without.
    Refused(String),
}

/// Configures a plugin and takes a snapshot of it. Ends within the deadline for that and
/// the time that a compilation takes.
pub(crate) fn take(
    host: &Host,
    engine: &Engine,
    linker: &Linker<State>,
    mount: &Arc<Mount>,
    (component, lifecycle): (&[u8], &str),
) -> Result<Snapshot, LoadError> {
    if !host.inner.snapshots {
        return Ok(Snapshot::Refused("snapshots are switched off".to_owned()));
    }
    let wizer = Wizer::new();
    let (context, instrumented) = match wizer.instrument_component(component) {
        Ok(instrumented) => instrumented,
        Err(error) => return Ok(Snapshot::Refused(inspect::explain(&error))),
    };
    let prepared = Component::new(engine, &instrumented)
        .and_then(|component| linker.instantiate_pre(&component));
    let pre = match prepared {
        Ok(pre) => pre,
        Err(error) => return Ok(Snapshot::Refused(inspect::explain(&error))),
    };
    let _counting = host.inner.ticker.count();
    let mut store = store(host, engine, mount);
    let broke = |error: wasmtime::Error| LoadError::Configure(Box::new(trap::explain(&error)));
    let instance = finished(pre.instantiate_async(&mut store)).map_err(broke)?;
    let settings = format!("{}{}", mount.settings, " ".repeat(HEAP_WARM_BYTES));
    finished(configure(&mut store, &instance, lifecycle, &settings))
        .map_err(broke)?
        .map_err(|failure| LoadError::Refused(call::told(failure)))?;
    // The settings were read; from here on it is the host's doing.
    store.data_mut().memory.allow_more(READING_BYTES);
    store.set_hostcall_fuel(usize::MAX);
    let mut reader = Reader { store: &mut store, instance, failed: None };
    let taken = wizer.snapshot_component(&context, &mut reader).now_or_never();
    match (taken, reader.failed) {
        (Some(Ok(snapshot)), None) => Ok(Snapshot::Taken(snapshot)),
        (_, Some(error)) | (Some(Err(error)), None) => {
            Ok(Snapshot::Refused(inspect::explain(&error)))
        }
        (None, None) => Ok(Snapshot::Refused("it waits for something".to_owned())),
    }
}

/// Configures a plugin in an instance that is then thrown away, to learn whether it can be.
pub(crate) fn rehearse(
    host: &Host,
    pre: &wasmtime::component::InstancePre<State>,
    mount: &Arc<Mount>,
    lifecycle: &str,
) -> Result<(), LoadError> {
    let _counting = host.inner.ticker.count();
    let mut store = store(host, pre.engine(), mount);
    let broke = |error: wasmtime::Error| LoadError::Configure(Box::new(trap::explain(&error)));
    let instance = finished(pre.instantiate_async(&mut store)).map_err(broke)?;
    finished(configure(&mut store, &instance, lifecycle, &mount.settings))
        .map_err(broke)?
        .map_err(|failure| LoadError::Refused(call::told(failure)))
}

/// A store for a guest that nobody waits for and that waits for nobody: it has this thread until
/// its time is over.
fn store(host: &Host, engine: &Engine, mount: &Arc<Mount>) -> Store<State> {
    let budget = Arc::clone(&host.inner.budget);
    let state = State::new(Arc::clone(mount), Phase::Configuring, budget);
    let mut store = call::bounded(engine, state);
    store.set_epoch_deadline(ticker::ticks(host.inner.configure_deadline));
    store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Interrupt));
    store
}

/// The end of a future that never waits: what could wait refuses while a plugin is configured.
fn finished<T>(future: impl Future<Output = wasmtime::Result<T>>) -> wasmtime::Result<T> {
    future.now_or_never().unwrap_or_else(|| Err(wasmtime::Error::msg("the plugin waits")))
}

async fn configure(
    store: &mut Store<State>,
    instance: &Instance,
    lifecycle: &str,
    settings: &str,
) -> wasmtime::Result<Outcome<()>> {
    let missing = || wasmtime::Error::msg("lifecycle.configure is not there");
    let interface = instance.get_export_index(&mut *store, None, lifecycle).ok_or_else(missing)?;
    let index = instance
        .get_export_index(&mut *store, Some(&interface), "configure")
        .ok_or_else(missing)?;
    let function = instance.get_typed_func::<(&str,), (Outcome<()>,)>(&mut *store, index)?;
    let (outcome,) = function.call_async(store, (settings,)).await?;
    Ok(outcome)
}

/// Reads a configured instance for wizer, which has no way to be told that it cannot be read: the
/// first error is kept, and what was written is then not used.
struct Reader<'a> {
    store: &'a mut Store<State>,
    instance: Instance,
    failed: Option<wasmtime::Error>,
}

impl Reader<'_> {
    async fn value<R: Lift + Send + Sync + 'static>(
        &mut self,
        interface: &str,
        function: &str,
    ) -> Option<R> {
        let read = read(self.store, self.instance, interface, function).await;
        read.map_err(|error| self.failed.get_or_insert(error)).ok()
    }
}

async fn read<R: Lift + Send + Sync + 'static>(
    store: &mut Store<State>,
    instance: Instance,
    interface: &str,
    function: &str,
) -> wasmtime::Result<R> {
    let missing = || wasmtime::Error::msg("a function of wizer's is not there");
    let interface = instance.get_export_index(&mut *store, None, interface).ok_or_else(missing)?;
    let index =
        instance.get_export_index(&mut *store, Some(&interface), function).ok_or_else(missing)?;
    let function = instance.get_typed_func::<(), (R,)>(&mut *store, index)?;
    let (value,) = function.call_async(store, ()).await?;
    Ok(value)
}

impl ReadState for Reader<'_> {
    async fn call_func_ret_list_u8(
        &mut self,
        interface: &str,
        function: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        let list: Option<WasmList<u8>> = self.value(interface, function).await;
        match list {
            Some(list) => contents(list.as_le_slice(&*self.store)),
            None => contents(&[]),
        }
    }

    async fn call_func_ret_s32(&mut self, interface: &str, function: &str) -> i32 {
        self.value(interface, function).await.unwrap_or_default()
    }

    async fn call_func_ret_s64(&mut self, interface: &str, function: &str) -> i64 {
        self.value(interface, function).await.unwrap_or_default()
    }

    async fn call_func_ret_f32(&mut self, interface: &str, function: &str) -> u32 {
        self.value::<f32>(interface, function).await.unwrap_or_default().to_bits()
    }

    async fn call_func_ret_f64(&mut self, interface: &str, function: &str) -> u64 {
        self.value::<f64>(interface, function).await.unwrap_or_default().to_bits()
    }
}
