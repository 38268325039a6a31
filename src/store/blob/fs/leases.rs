//! Who has which blob open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::ledger::Lease;
use crate::oci::Digest;
use crate::store::blob::Blob;

/// The leases of blobs that are open.
#[derive(Debug, Default)]
pub(super) struct Leases {
    open: HashMap<Digest, Weak<Lease>>,
    /// At how many entries those that nobody holds any more are looked for.
    sweep_at: usize,
}

/// The fewest entries at which dead ones are looked for.
const LEASES_SWEPT_AT: usize = 1024;

impl Leases {
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Lease>> {
        self.open.get(digest)?.upgrade()
    }

    pub(super) fn put(&mut self, digest: &Digest, lease: &Arc<Lease>) {
        if self.open.len() >= self.sweep_at {
            self.open.retain(|_, lease| lease.strong_count() > 0);
            self.sweep_at = LEASES_SWEPT_AT.max(self.open.len().saturating_mul(2));
        }
        self.open.insert(*digest, Arc::downgrade(lease));
    }

    pub(super) fn forget(&mut self, digest: &Digest) {
        self.open.remove(digest);
    }
}

/// A blob that is kept open until the cache drops its entry.
///
/// The cache's memory is reclaimed some time later. The file must be let go of at once, since a
/// removed file takes space for as long as anybody has it open: hence the slot, emptied by the
/// cache's listener.
#[derive(Debug)]
pub(super) struct Kept(Mutex<Option<Blob>>);

impl Kept {
    pub(super) const fn new(blob: Blob) -> Self {
        Self(Mutex::new(Some(blob)))
    }

    pub(super) fn blob(&self) -> Option<Blob> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn release(&self) {
        // Closed and unmapped outside the lock.
        let _blob = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
