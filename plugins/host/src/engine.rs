//! The two engines: one for what requests wait for, one for work in the background.

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    WasmFeatures,
};

use crate::error::HostError;

/// The largest memory of a guest that a request waits for, in bytes.
pub(crate) const HOT_MEMORY_BYTES_MAX: usize = 256 << 20;

/// The largest memory of a guest in the background, in bytes.
pub(crate) const BATCH_MEMORY_BYTES_MAX: usize = 1 << 30;

/// Entries of a guest's tables, each at most: its functions whose address is taken.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;

/// Core instances of one plugin, at most, and what the pool has for each place. A component made
/// of a core module has three, one of JavaScript with its interpreter eleven.
pub(crate) const CORE_INSTANCES_MAX: u32 = 16;

/// Memories of one plugin, at most, and what the pool has for each place: addresses, no more. One
/// of JavaScript has three; they count together.
pub(crate) const MEMORIES_MAX: u32 = 4;

/// Tables of one plugin, at most, and what the pool has for each place.
pub(crate) const TABLES_MAX: u32 = 4;

/// How deep a guest's calls may go, in bytes of stack.
const STACK_BYTES_MAX: usize = 512 << 10;

/// The stack of a guest that waits for the host: its own and what the host needs on top.
const ASYNC_STACK_BYTES: usize = 1 << 20;

/// What a guest's slot keeps of its memory for the next one, if the kernel tells which pages were
/// written. It is a bound; a policy writes some tens of pages.
const KEEP_SCANNED_BYTES: usize = 1 << 20;

/// The same where it does not: then all of it is copied back after each call, which takes a few
/// microseconds; what is beyond is unmapped and faulted in again, which takes tens. A policy with a
/// small stack fits in.
const KEEP_BLIND_BYTES: usize = 256 << 10;

/// The same of a table.
const TABLE_KEEP_BYTES: usize = 64 << 10;

/// Proposals that no plugin needs. Some of them have no runtime in this build of wasmtime either,
/// and what is not validated cannot reach where it would be missed. Relaxed SIMD would give other
/// answers on other machines.
const REFUSED: WasmFeatures = WasmFeatures::GC
    .union(WasmFeatures::GC_TYPES)
    .union(WasmFeatures::FUNCTION_REFERENCES)
    .union(WasmFeatures::EXCEPTIONS)
    .union(WasmFeatures::THREADS)
    .union(WasmFeatures::SHARED_EVERYTHING_THREADS)
    .union(WasmFeatures::STACK_SWITCHING)
    .union(WasmFeatures::MEMORY64)
    .union(WasmFeatures::RELAXED_SIMD);

/// How an engine is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Calls at a time.
    pub(crate) instances: u32,
    /// Plugins that may be configured meanwhile: each takes an instance as well.
    pub(crate) loads: u32,
    /// The largest memory of a guest, in bytes.
    pub(crate) memory_bytes_max: usize,
    /// Whether slots are kept for instances.
    pub(crate) pooling: bool,
    /// Whether the kernel is asked which pages were written.
    pub(crate) pagemap_scan: bool,
}

/// An engine, and how it was really built.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    pub(crate) engine: Engine,
    pub(crate) shape: Shape,
}

/// Builds an engine. A pool that the system has no address space for is done without.
pub(crate) fn build(wanted: Shape) -> Result<Built, HostError> {
    let mut shape = wanted;
    shape.pagemap_scan =
        shape.pooling && shape.pagemap_scan && PoolingAllocationConfig::is_pagemap_scan_available();
    match Engine::new(&config(shape)) {
        Ok(engine) => Ok(Built { engine, shape }),
        Err(error) if shape.pooling => {
            tracing::warn!(%error, "plugins run without a pool, which is slower");
            shape = Shape { pooling: false, pagemap_scan: false, ..shape };
            let engine = Engine::new(&config(shape)).map_err(broken)?;
            Ok(Built { engine, shape })
        }
        Err(error) => Err(broken(error)),
    }
}

fn broken(error: wasmtime::Error) -> HostError {
    HostError::Engine(format!("{error:#}"))
}

fn config(shape: Shape) -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .max_wasm_stack(STACK_BYTES_MAX)
        .async_stack_size(ASYNC_STACK_BYTES)
        .cranelift_opt_level(OptLevel::Speed)
        .wasm_features(REFUSED, false);
    if shape.pooling {
        let mut pool = PoolingAllocationConfig::new();
        let keep = if shape.pagemap_scan { KEEP_SCANNED_BYTES } else { KEEP_BLIND_BYTES };
        // A call that has its place never finds the pool empty, whatever its plugin is made of.
        let slots = shape.instances.saturating_add(shape.loads);
        pool.total_component_instances(slots)
            .total_core_instances(slots.saturating_mul(CORE_INSTANCES_MAX))
            .total_memories(slots.saturating_mul(MEMORIES_MAX))
            .total_tables(slots.saturating_mul(TABLES_MAX))
            .total_stacks(slots)
            .max_core_instances_per_component(CORE_INSTANCES_MAX)
            .max_memories_per_component(MEMORIES_MAX)
            .max_tables_per_component(TABLES_MAX)
            .max_memory_size(shape.memory_bytes_max)
            .table_elements(TABLE_ELEMENTS_MAX)
            .linear_memory_keep_resident(keep)
            .table_keep_resident(TABLE_KEEP_BYTES)
            .pagemap_scan(if shape.pagemap_scan { Enabled::Yes } else { Enabled::No });
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    } else {
        config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    }
    config
}
