//! The state of the whole at a glance.

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;
use super::fills::Fill;
use super::plugins::Plugin;
use super::recent::RecentEvent;
use super::storage::{Storage, storage};
use super::time::rfc3339;
use super::upstreams::Upstream;
use super::workers::Worker;
use crate::clock::Timestamp;

/// What is known of this process from its start on.
#[derive(Clone, Debug)]
pub struct Process {
    /// When it started.
    pub started_at: Timestamp,
    /// Where the registry API listens.
    pub registry: SocketAddr,
    /// Where the operator's side listens.
    pub admin: SocketAddr,
    /// Where content is kept.
    pub storage: PathBuf,
}

/// The state of the process.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Pierhead's version.
    pub version: String,
    /// When the process started.
    pub started_at: String,
    /// For how long it has been running, in seconds.
    pub uptime_seconds: f64,
    /// Whether it should be sent requests, as `/readyz` says.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// The parts that do not do all of their work, and how pulls go on without them.
    #[serde(default)]
    pub degraded: Vec<String>,
    /// Where it listens.
    pub listeners: Listeners,
    /// Where content is kept, and how full that is.
    pub storage: Storage,
    /// Blobs on their way in, the oldest first.
    pub fills: Vec<Fill>,
    /// The upstreams, by name.
    pub upstreams: Vec<Upstream>,
    /// Mounted plugins, in the order of the configuration.
    #[serde(default)]
    pub plugins: Vec<Plugin>,
    /// Background work.
    pub workers: Vec<Worker>,
    /// What went wrong lately, the last event first.
    pub recent: Vec<RecentEvent>,
    /// What the operator should know of what has happened, and of the configuration although it is
    /// allowed.
    pub notices: Vec<String>,
}

/// Where the process listens.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Listeners {
    /// The registry API.
    pub registry: String,
    /// The operator's side.
    pub admin: String,
}

/// The state of the process at a glance.
#[utoipa::path(get, path = "/status", responses((status = 200, body = Status)))]
pub(super) async fn get_status(State(parts): Shared) -> Json<Status> {
    let now = parts.clock.now();
    let process = &parts.process;
    let reasons = parts.probes.unready();
    let degraded = parts.probes.degraded().await;
    let mut notices = parts.probes.remarks();
    notices.extend(parts.config.notices.iter().cloned());
    Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: rfc3339(process.started_at),
        uptime_seconds: now.since(process.started_at).as_secs_f64(),
        ready: reasons.is_empty(),
        reasons,
        degraded: degraded.iter().map(ToString::to_string).collect(),
        listeners: Listeners {
            registry: process.registry.to_string(),
            admin: process.admin.to_string(),
        },
        storage: storage(&parts).await,
        fills: parts.puller.fills().into_iter().map(Fill::from).collect(),
        upstreams: parts.puller.upstreams().into_iter().map(Upstream::from).collect(),
        plugins: parts.plugins.view().into_iter().map(Plugin::from).collect(),
        workers: parts.workers.list().into_iter().map(Worker::from).collect(),
        recent: parts.recent.list().into_iter().map(RecentEvent::from).collect(),
        notices,
    })
}
