//! The host: engines, places for calls, memory for all of them, and what outlives a reload.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::engine::{self, BATCH_MEMORY_BYTES_MAX, Built, HOT_MEMORY_BYTES_MAX, Shape};
use crate::error::{HostError, LoadError};
use crate::kv::Buckets;
use crate::load;
use crate::memory::Budget;
use crate::mount::MountSpec;
use crate::outside::Outside;
use crate::plugin::Plugin;
use crate::ticker::Ticker;

/// Calls in the background at a time.
const BATCH_INSTANCES_MAX: u32 = 8;

/// Calls at a time, unless something else is set.
const INSTANCES_USUAL: u32 = 64;

/// Memory for all guests together, unless something else is set, in bytes.
const MEMORY_BUDGET_USUAL: usize = 512 << 20;

/// How long a plugin may take to read its settings, unless something else is set.
const CONFIGURE_DEADLINE_USUAL: Duration = Duration::from_secs(10);

/// Plugins that are compiled at a time: one that takes long does not keep another from it.
const LOADS_MAX: usize = 2;

/// Runs plugins. Clones are the same host.
#[derive(Clone, Debug)]
pub struct Host {
    pub(crate) inner: Arc<Inner>,
}

/// How the host is to be.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Memory for all guests together, in bytes.
    pub memory_budget_bytes: usize,
    /// Calls at a time that requests wait for.
    pub instances_max: u32,
    /// Where compiled code is kept, if it is.
    pub compiled: Option<CompiledCache>,
    /// Whether the kernel is asked which pages a guest has written.
    pub pagemap_scan: PagemapScan,
    /// Whether slots are kept ready for instances. Without, calls are several times slower; it
    /// is done without where there is not enough address space.
    pub pooling: bool,
    /// How long a plugin may take to read its settings when it is loaded.
    pub configure_deadline: Duration,
    /// Whether a snapshot is taken of a plugin that has read its settings. Without, it reads them
    /// in each call; that is for comparison.
    pub snapshots: bool,
    /// What plugins reach through the host.
    pub outside: Outside,
}

impl HostOptions {
    /// What is usual.
    pub const fn new(outside: Outside) -> Self {
        Self {
            memory_budget_bytes: MEMORY_BUDGET_USUAL,
            instances_max: INSTANCES_USUAL,
            compiled: None,
            pagemap_scan: PagemapScan::Auto,
            pooling: true,
            configure_deadline: CONFIGURE_DEADLINE_USUAL,
            snapshots: true,
            outside,
        }
    }
}

/// Where compiled code is kept. Nothing is loaded from there that does not carry a MAC of this
/// key over itself and over what it was made of.
#[derive(Clone)]
pub struct CompiledCache {
    /// A directory of the process's own; made if it is not there, with mode 0700.
    pub dir: PathBuf,
    /// A key that nobody else knows.
    pub key: [u8; 32],
}

impl std::fmt::Debug for CompiledCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledCache").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Whether the kernel is asked which pages a guest has written (`PAGEMAP_SCAN`, Linux 6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagemapScan {
    /// Where it can.
    Auto,
    /// Never.
    Off,
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostStats {
    /// Calls that run.
    pub calls: usize,
    /// Memory that guests have, in bytes.
    pub memory_bytes: usize,
    /// Memory that they may have together, in bytes.
    pub memory_budget_bytes: usize,
    /// What mounts keep in `kv`, in bytes.
    pub kv_bytes: u64,
    /// Whether slots are kept ready for instances.
    pub pooling: bool,
    /// Whether the kernel is asked which pages a guest has written.
    pub pagemap_scan: bool,
}

/// An engine and the places for calls on it.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) built: Built,
    pub(crate) places: Arc<Semaphore>,
    /// The largest memory of a guest here, in bytes.
    pub(crate) memory_bytes_max: usize,
}

impl Lane {
    fn new(shape: Shape) -> Result<Self, HostError> {
        Ok(Self {
            places: Arc::new(Semaphore::new(shape.instances as usize)),
            memory_bytes_max: shape.memory_bytes_max,
            built: engine::build(shape)?,
        })
    }
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) hot: Arc<Lane>,
    pub(crate) batch: Arc<Lane>,
    pub(crate) ticker: Ticker,
    pub(crate) budget: Arc<Budget>,
    pub(crate) budget_bytes: usize,
    pub(crate) compiled: Option<CompiledCache>,
    pub(crate) configure_deadline: Duration,
    pub(crate) snapshots: bool,
    pub(crate) outside: Outside,
    pub(crate) loads: Arc<Semaphore>,
    /// What mounts keep, by their names.
    kv: Mutex<HashMap<String, Arc<Buckets>>>,
}

impl Host {
    /// Builds the engines. This reserves address space, not memory.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new(options: HostOptions) -> Result<Self, HostError> {
        let shape = Shape {
            instances: options.instances_max.max(1),
            memory_bytes_max: HOT_MEMORY_BYTES_MAX,
            pooling: options.pooling,
            pagemap_scan: options.pagemap_scan == PagemapScan::Auto,
        };
        let hot = Lane::new(shape)?;
        // Minutes of work do not notice what an instance costs.
        let batch = Lane::new(Shape {
            instances: BATCH_INSTANCES_MAX,
            memory_bytes_max: BATCH_MEMORY_BYTES_MAX,
            pooling: false,
            pagemap_scan: false,
        })?;
        let engines = vec![hot.built.engine.weak(), batch.built.engine.weak()];
        Ok(Self {
            inner: Arc::new(Inner {
                hot: Arc::new(hot),
                batch: Arc::new(batch),
                ticker: Ticker::start(engines).map_err(HostError::Ticker)?,
                budget: Budget::new(options.memory_budget_bytes),
                budget_bytes: options.memory_budget_bytes,
                compiled: options.compiled,
                configure_deadline: options.configure_deadline,
                snapshots: options.snapshots,
                outside: options.outside,
                loads: Arc::new(Semaphore::new(LOADS_MAX)),
                kv: Mutex::default(),
            }),
        })
    }

    /// Checks, compiles and configures a plugin. What is served meanwhile goes on: the work is
    /// done on a thread of its own, two plugins at a time.
    ///
    /// Dropping the future leaves that thread to end by itself.
    ///
    /// # Errors
    /// Everything that is wrong with the plugin or its mount, for the operator to read.
    pub async fn load(&self, wasm: Bytes, mount: MountSpec) -> Result<Plugin, LoadError> {
        load::load(self, wasm, mount).await
    }

    /// What is going on.
    pub fn stats(&self) -> HostStats {
        let inner = &self.inner;
        let kv = inner.kv.lock().unwrap_or_else(PoisonError::into_inner);
        HostStats {
            calls: inner.ticker.running(),
            memory_bytes: inner.budget.used(),
            memory_budget_bytes: inner.budget_bytes,
            kv_bytes: kv.values().map(|buckets| buckets.bytes()).sum(),
            pooling: inner.hot.built.shape.pooling,
            pagemap_scan: inner.hot.built.shape.pagemap_scan,
        }
    }

    /// What a mount of this name keeps.
    pub(crate) fn buckets(&self, mount: &str) -> Arc<Buckets> {
        let mut kv = self.inner.kv.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(kv.entry(mount.to_owned()).or_default())
    }
}
