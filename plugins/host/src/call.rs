//! One call: a place, an instance, the guest, the end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, timeout};
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, Lift, Lower};
use wasmtime::{Store, UpdateDeadline};

use crate::error::{CallError, TrapKind};
use crate::judge;
use crate::plugin::{CallStats, Called, Isolation, Loaded};
use crate::state::{Phase, State};
use crate::ticker;
use crate::trap;
use crate::wit::Failure;

/// What every exported function returns.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// The longest that a call waits for a place.
const PLACE_WAIT_MAX: Duration = Duration::from_millis(50);

/// The longest deadline for which a guest that waits for nobody may hold up the thread that
/// called it. A longer one gives the thread back at every tick.
const BLOCKING_MAX: Duration = Duration::from_millis(20);

/// What a call gets when its deadline has come, once. On a busy machine it is often not the guest
/// that was slow, but its thread that did not run; a call of microseconds is then done at once.
const LAST_STRETCH: Duration = Duration::from_millis(2);

/// The same in ticks.
const LAST_TICKS: u64 = 2;

/// Calls a function of the plugin in an instance of its own.
pub(crate) async fn call<P, T>(
    loaded: &Loaded,
    function: &ComponentExportIndex,
    request_id: &str,
    params: P,
) -> Called<T>
where
    P: ComponentNamedList + Lower + Send + Sync,
    (Outcome<T>,): ComponentNamedList + Lift,
    T: Send + Sync + 'static,
{
    let started = Instant::now();
    let deadline = loaded.mount.limits().deadline;
    let Some(_place) = place(loaded, deadline).await else {
        let stats = CallStats { duration: started.elapsed(), ..CallStats::default() };
        return Called { result: Err(CallError::Busy), stats };
    };
    let left = deadline.saturating_sub(started.elapsed());
    let _counting = loaded.host.inner.ticker.count();
    let mut store = store(loaded, request_id);
    let ran = if !loaded.info.waits && deadline <= BLOCKING_MAX {
        hold_on(&mut store, left);
        let run = || run_blocking(loaded, &mut store, function, params);
        std::panic::catch_unwind(AssertUnwindSafe(run))
    } else {
        give_way(&mut store, left);
        let run = AssertUnwindSafe(run(loaded, &mut store, function, params)).catch_unwind();
        match timeout(left + LAST_STRETCH, run).await {
            Ok(ran) => ran,
            Err(_) => Ok(Err(wasmtime::Trap::Interrupt.into())),
        }
    };
    let result = match ran {
        Ok(Ok(Ok(value))) => Ok(value),
        Ok(Ok(Err(failure))) => Err(CallError::Failure(told(failure))),
        Ok(Err(error)) => Err(trap::explain(&error)),
        // The panic itself was reported where it happened.
        Err(_) => Err(CallError::Trap { kind: TrapKind::Host, backtrace: String::new() }),
    };
    let state = store.data();
    let stats = CallStats {
        duration: started.elapsed(),
        memory_peak_bytes: state.memory.peak(),
        log_dropped: state.log_dropped,
        host_calls: state.host_calls,
    };
    Called { result, stats }
}

/// A place among the calls that run. Nobody waits for one beyond a part of the deadline.
async fn place(loaded: &Loaded, deadline: Duration) -> Option<SemaphorePermit<'_>> {
    let places = &loaded.lane.places;
    match places.try_acquire() {
        Ok(place) => Some(place),
        Err(_) => timeout(PLACE_WAIT_MAX.min(deadline / 2), places.acquire()).await.ok()?.ok(),
    }
}

pub(crate) fn told(failure: Failure) -> Failure {
    Failure { message: judge::message(&failure.message), ..failure }
}

fn store(loaded: &Loaded, request_id: &str) -> Store<State> {
    let budget = Arc::clone(&loaded.host.inner.budget);
    let mut state = State::new(Arc::clone(&loaded.mount), Phase::Serving, budget);
    request_id.clone_into(&mut state.request_id);
    bounded(loaded.pre.engine(), state)
}

/// A store in which everything that a guest can take is bounded.
pub(crate) fn bounded(engine: &wasmtime::Engine, state: State) -> Store<State> {
    let limits = state.mount.limits().clone();
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(limits.host_bytes);
    store.set_max_component_handles(limits.handles);
    store
}

/// Has the guest keep its thread until its deadline and the last stretch.
fn hold_on(store: &mut Store<State>, left: Duration) {
    store.data_mut().moves_left = 1;
    store.set_epoch_deadline(ticker::ticks(left));
    store.epoch_deadline_callback(|mut store| {
        Ok(match &mut store.data_mut().moves_left {
            0 => UpdateDeadline::Interrupt,
            moves => last_stretch(moves),
        })
    });
}

/// Has the guest give its thread back at every tick until its deadline, and then have the last
/// stretch.
fn give_way(store: &mut Store<State>, left: Duration) {
    let until = Instant::now() + left;
    store.data_mut().moves_left = ticker::ticks(left).saturating_add(1);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |mut store| {
        let moves = &mut store.data_mut().moves_left;
        Ok(match *moves {
            0 => UpdateDeadline::Interrupt,
            // Time counts in moves as well: a test's clock may stand still.
            1 => last_stretch(moves),
            _ if Instant::now() >= until => last_stretch(moves),
            _ => {
                *moves -= 1;
                UpdateDeadline::Yield(1)
            }
        })
    });
}

const fn last_stretch(moves: &mut u64) -> UpdateDeadline {
    *moves = 0;
    UpdateDeadline::Continue(LAST_TICKS)
}

/// On this thread, to the end.
fn run_blocking<P, T>(
    loaded: &Loaded,
    store: &mut Store<State>,
    function: &ComponentExportIndex,
    params: P,
) -> wasmtime::Result<Outcome<T>>
where
    P: ComponentNamedList + Lower,
    (Outcome<T>,): ComponentNamedList + Lift,
    T: Send + Sync + 'static,
{
    let instance = loaded.pre.instantiate(&mut *store)?;
    if let Some(configure) = configure_first(loaded) {
        let configure =
            instance.get_typed_func::<(&str,), (Outcome<()>,)>(&mut *store, configure)?;
        store.data_mut().phase = Phase::Configuring;
        let (configured,) = configure.call(&mut *store, (loaded.mount.settings.as_str(),))?;
        store.data_mut().phase = Phase::Serving;
        if let Err(failure) = configured {
            return Ok(Err(failure));
        }
    }
    let function = instance.get_typed_func::<P, (Outcome<T>,)>(&mut *store, function)?;
    let (outcome,) = function.call(store, params)?;
    Ok(outcome)
}

/// On a stack of its own, which is left whenever it waits.
async fn run<P, T>(
    loaded: &Loaded,
    store: &mut Store<State>,
    function: &ComponentExportIndex,
    params: P,
) -> wasmtime::Result<Outcome<T>>
where
    P: ComponentNamedList + Lower + Send + Sync,
    (Outcome<T>,): ComponentNamedList + Lift,
    T: Send + Sync + 'static,
{
    let instance = loaded.pre.instantiate_async(&mut *store).await?;
    if let Some(configure) = configure_first(loaded) {
        let configure =
            instance.get_typed_func::<(&str,), (Outcome<()>,)>(&mut *store, configure)?;
        store.data_mut().phase = Phase::Configuring;
        let settings = (loaded.mount.settings.as_str(),);
        let (configured,) = configure.call_async(&mut *store, settings).await?;
        store.data_mut().phase = Phase::Serving;
        if let Err(failure) = configured {
            return Ok(Err(failure));
        }
    }
    let function = instance.get_typed_func::<P, (Outcome<T>,)>(&mut *store, function)?;
    let (outcome,) = function.call_async(store, params).await?;
    Ok(outcome)
}

/// What has to be called first where there is no snapshot.
fn configure_first(loaded: &Loaded) -> Option<&ComponentExportIndex> {
    match loaded.info.isolation {
        Isolation::ConfigurePerCall(_) => loaded.exports.configure.as_ref(),
        Isolation::Snapshot | Isolation::Plain => None,
    }
}
