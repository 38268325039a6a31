//! How much memory guests may have: each what its mount allows, all of a mount together its share,
//! and all together a budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use wasmtime::ResourceLimiter;

use crate::engine::{CORE_INSTANCES_MAX, MEMORIES_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX};

/// What an entry of a table takes, in bytes.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// What several guests together may have.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
    /// What this one is a share of.
    whole: Option<Arc<Self>>,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max, whole: None })
    }

    /// A share: what is taken of it is taken of the whole as well.
    pub(crate) fn share(self: &Arc<Self>, max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max, whole: Some(Arc::clone(self)) })
    }

    pub(crate) const fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.max);
        if self.used.try_update(Relaxed, Relaxed, fits).is_err() {
            return false;
        }
        let whole = self.whole.as_ref().is_none_or(|whole| whole.take(bytes));
        if !whole {
            self.used.fetch_sub(bytes, Relaxed);
        }
        whole
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
        if let Some(whole) = &self.whole {
            whole.give_back(bytes);
        }
    }
}

/// Why a guest got no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// It has what its mount may have.
    #[error("the plugin wants more memory than its mount may have")]
    Mount,
    /// All guests of the mount, or all guests, together have what they may have.
    #[error("plugins have all the memory that they may have together")]
    Budget,
}

/// What one guest has, its memories and its tables. It is given back when this is dropped.
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

    /// What the guest has now, in bytes.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Leave for what the host itself puts there.
    pub(crate) const fn allow_more(&mut self, bytes: usize) {
        self.bytes_max = self.bytes_max.saturating_add(bytes);
    }
}

impl Memory {
    /// Charges what a memory or a table grows by.
    fn grow(&mut self, more: usize) -> wasmtime::Result<bool> {
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
        self.grow(desired.saturating_sub(current))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Refused::Mount.into())
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Refused::Mount.into())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX {
            return Err(Refused::Mount.into());
        }
        self.grow(desired.saturating_sub(current).saturating_mul(TABLE_ELEMENT_BYTES))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_taken_of_the_whole() {
        let whole = Budget::new(100);
        let (one, other) = (whole.share(60), whole.share(60));
        assert!(one.take(60) && !one.take(1), "it has its share");
        assert!(!other.take(41) && other.take(40), "there is no more");
        assert_eq!((whole.used(), other.used()), (100, 40));
        one.give_back(60);
        assert!(other.take(20) && !other.take(1));
        assert_eq!(whole.used(), 60);
    }

    #[test]
    fn tables_cost_what_they_take() {
        let budget = Budget::new(1000);
        let mut guest = Memory::new(Arc::clone(&budget), 50 * TABLE_ELEMENT_BYTES);
        guest.table_growing(0, 30, None).expect("there is room");
        guest.table_growing(30, 40, None).expect("there is room");
        assert_eq!(budget.used(), 40 * TABLE_ELEMENT_BYTES);
        guest.memory_growing(0, 11 * TABLE_ELEMENT_BYTES, None).expect_err("there is no more");
        guest.table_growing(0, 11, None).expect_err("there is no more");
        drop(guest);
        assert_eq!(budget.used(), 0);
    }
}
