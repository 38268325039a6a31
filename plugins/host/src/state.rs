//! What the host knows while one guest runs. Each call has one of its own.

use std::sync::Arc;

use wasmtime::component::ResourceTable;

use crate::grants::Grants;
use crate::host::Share;
use crate::kv::Buckets;
use crate::memory::Memory;
use crate::mount::{Limits, MountSpec};
use crate::outside::Outside;

/// A mount, as its calls see it.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) spec: MountSpec,
    /// The settings as the plugin reads them.
    pub(crate) settings: String,
    pub(crate) digest: String,
    pub(crate) outside: Outside,
    pub(crate) kv: Arc<Buckets>,
    /// What its calls may take together.
    pub(crate) share: Share,
}

impl Mount {
    pub(crate) const fn grants(&self) -> &Grants {
        &self.spec.grants
    }

    pub(crate) const fn limits(&self) -> &Limits {
        &self.spec.limits
    }
}

/// What the plugin is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It reads its settings. What it does now becomes a part of the snapshot, and so may depend
    /// on the plugin and its settings alone.
    Configuring,
    /// It answers a call.
    Serving,
}

/// What belongs to one instance.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) mount: Arc<Mount>,
    pub(crate) phase: Phase,
    pub(crate) request_id: String,
    pub(crate) memory: Memory,
    pub(crate) handles: ResourceTable,
    pub(crate) log_bytes_left: usize,
    pub(crate) log_dropped: u64,
    pub(crate) host_calls: u64,
    pub(crate) http_calls_left: u32,
    pub(crate) content_calls_left: u32,
    /// How often the deadline may still be moved: at every tick where a call gives its thread
    /// back, once elsewhere.
    pub(crate) moves_left: u64,
}

impl State {
    pub(crate) fn new(mount: Arc<Mount>, phase: Phase) -> Self {
        let limits = mount.limits();
        let mut handles = ResourceTable::new();
        handles.set_max_capacity(limits.handles);
        Self {
            phase,
            request_id: String::new(),
            memory: Memory::new(Arc::clone(&mount.share.memory), limits.memory_bytes),
            handles,
            log_bytes_left: limits.log_bytes,
            log_dropped: 0,
            host_calls: 0,
            http_calls_left: limits.http_calls,
            content_calls_left: limits.content_calls,
            moves_left: 0,
            mount,
        }
    }

    /// Notes that the guest called the host.
    pub(crate) const fn called(&mut self) {
        self.host_calls = self.host_calls.saturating_add(1);
    }

    pub(crate) fn is_configuring(&self) -> bool {
        self.phase == Phase::Configuring
    }
}
