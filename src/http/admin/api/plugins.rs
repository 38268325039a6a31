//! The plugins that are mounted, and how they are.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::time::rfc3339;
use crate::hooks::chain::{Hook, MountView};

/// The plugins.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PluginList {
    /// The plugins, in the order of the configuration.
    pub plugins: Vec<Plugin>,
}

/// A mounted plugin.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Plugin {
    /// The mount's name.
    pub name: String,
    /// What it is asked.
    pub hooks: Vec<String>,
    /// SHA-256 of the plugin that serves; absent where there is none.
    pub digest: Option<String>,
    /// Its version, if it says one.
    pub version: Option<String>,
    /// `enforce`, `warn` or `shadow`.
    pub mode: String,
    /// What follows when it breaks, where that was set: `deny`, `allow` or `skip`.
    pub on_error: Option<String>,
    /// `ok`; `stale` (it serves, and a newer version was refused); `breaking` (its latest call
    /// broke); `resting` (it broke too often and is left alone); or `broken` (there is no plugin,
    /// and `on_error` answers).
    pub health: String,
    /// Why a newer version was refused.
    pub refused: Option<String>,
    /// `closed` (it is asked), `open` (it is left alone) or `half_open` (one call is finding out
    /// whether it works again).
    pub circuit: String,
    /// What last went wrong.
    pub last_error: Option<String>,
    /// What kind of trouble that was, as metrics name it.
    pub last_error_kind: Option<String>,
    /// When that was.
    pub last_error_at: Option<String>,
    /// Calls that were answered since the process started.
    pub calls: u64,
    /// Calls that broke since the process started.
    pub breaks: u64,
    /// Verdicts that were used again, without a call.
    pub decisions_reused: u64,
    /// Verdicts that had to be asked for.
    pub decisions_asked: u64,
}

/// The plugins that are mounted, and how they are.
#[utoipa::path(get, path = "/plugins", responses((status = 200, body = PluginList)))]
pub(super) async fn list_plugins(State(parts): Shared) -> Json<PluginList> {
    Json(PluginList { plugins: parts.plugins.view().into_iter().map(Plugin::from).collect() })
}

impl From<MountView> for Plugin {
    fn from(view: MountView) -> Self {
        Self {
            health: view.health().to_owned(),
            name: view.name.to_string(),
            hooks: view.hooks.iter().copied().map(Hook::as_str).map(str::to_owned).collect(),
            digest: view.digest,
            version: view.version,
            mode: view.mode.as_str().to_owned(),
            on_error: view.on_error.map(|on_error| on_error.as_str().to_owned()),
            refused: view.stale,
            circuit: view.circuit.as_str().to_owned(),
            last_error: view.last.as_ref().map(|last| last.message.clone()),
            last_error_kind: view.last.as_ref().map(|last| last.kind.to_owned()),
            last_error_at: view.last.as_ref().map(|last| rfc3339(last.at)),
            calls: view.calls,
            breaks: view.breaks,
            decisions_reused: view.decisions_at_hand,
            decisions_asked: view.decisions_asked,
        }
    }
}
