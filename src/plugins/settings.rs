//! What an operator can say about plugins.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::source::Source;
use super::verify::PublicKey;
use crate::hooks::chain::{DECISIONS_MAX, Hook, MountSettings};
use crate::hooks::wasm::Grants;
use crate::secret::Secret;

/// Memory for all guests together, unless `plugins.memory_max` says otherwise, in bytes.
pub const MEMORY_MAX: u64 = 512 << 20;

/// Calls at a time, unless `plugins.calls_max` says otherwise.
pub const CALLS_MAX: u32 = 64;

/// Plugins, and what they may take together. Built by `config`, which has checked it.
#[derive(Clone, Debug)]
pub struct PluginSettings {
    /// The mounts, as they stand in the configuration.
    pub mounts: Vec<MountPlan>,
    /// The order of mounts, by hook.
    pub order: BTreeMap<&'static str, Vec<String>>,
    /// Memory for all guests together, in bytes.
    pub memory_max: u64,
    /// Calls at a time.
    pub calls_max: u32,
    /// Verdicts that are kept.
    pub decisions_max: u64,
    /// Whether files are loaded again when they change.
    pub watch: bool,
    /// Whether the kernel is asked which pages a call has written, where it can be.
    pub pagemap_scan: bool,
}

impl Default for PluginSettings {
    fn default() -> Self {
        Self {
            mounts: Vec::new(),
            order: BTreeMap::new(),
            memory_max: MEMORY_MAX,
            calls_max: CALLS_MAX,
            decisions_max: DECISIONS_MAX,
            watch: true,
            pagemap_scan: true,
        }
    }
}

/// One mount.
#[derive(Clone)]
pub struct MountPlan {
    /// Its place in the chain.
    pub mount: MountSettings,
    /// Where the plugin comes from.
    pub source: Source,
    /// What it is asked; everything that it exports, if that is not said.
    pub hooks: Option<Vec<Hook>>,
    /// How much memory a call may take, in bytes; by hook, if that is not said.
    pub memory_max: Option<u64>,
    /// What it may do.
    pub grants: Grants,
    /// Its settings.
    pub config: serde_json::Value,
    /// Secrets that it may be granted, by name.
    pub secrets: BTreeMap<String, Secret>,
    /// Who has to have signed it.
    pub verify: Option<PublicKey>,
    /// Where its calls are written down, if they are.
    pub record: Option<PathBuf>,
}

/// Without the settings, which may hold hashes of passwords.
impl fmt::Debug for MountPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MountPlan")
            .field("mount", &self.mount)
            .field("source", &self.source)
            .field("hooks", &self.hooks)
            .field("grants", &self.grants)
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}
