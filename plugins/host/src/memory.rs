//! How much memory guests may have: each its mount's share, and all together a budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use wasmtime::ResourceLimiter;

use crate::engine::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX};

/// What all guests together may have.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        self.used
            .try_update(Relaxed, Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.max)
            })
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// Why a guest got no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// It has what its mount may have.
    #[error("the plugin wants more memory than its mount may have")]
    Mount,
    /// All guests together have what they may have.
    #[error("plugins have all the memory that they may have together")]
    Budget,
}

/// What one guest has. It is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    budget: Arc<Budget>,
    bytes_max: usize,
    bytes: usize,
    peak: usize,
}

impl Memory {
    pub(crate) const fn new(budget: Arc<Budget>, bytes_max: usize) -> Self {
        Self { budget, bytes_max, bytes: 0, peak: 0 }
    }

    /// The most that the guest had at a time, in bytes.
    pub(crate) const fn peak(&self) -> usize {
        self.peak
    }

    /// Leave for what the host itself puts there.
    pub(crate) const fn allow_more(&mut self, bytes: usize) {
        self.bytes_max = self.bytes_max.saturating_add(bytes);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

impl ResourceLimiter for Memory {
    /// A guest that is refused traps: none of the allocators in use goes on without memory, and a
    /// trap says at once what happened.
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current);
        let sum = self.bytes.saturating_add(more);
        if sum > self.bytes_max {
            return Err(Refused::Mount.into());
        }
        if !self.budget.take(more) {
            return Err(Refused::Budget.into());
        }
        self.bytes = sum;
        self.peak = self.peak.max(sum);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Refused::Mount.into())
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Refused::Mount.into())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX {
            return Err(Refused::Mount.into());
        }
        Ok(true)
    }

    fn instances(&self) -> usize {
        CORE_INSTANCES_MAX as usize
    }

    fn tables(&self) -> usize {
        TABLES_MAX as usize
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX as usize
    }
}
