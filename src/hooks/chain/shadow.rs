//! Mounts in mode shadow: asked off the way of the request, on the same input, and compared with
//! what was enforced.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::guest::Hook;
use super::metrics::{Compared, PluginMetrics};
use super::mount::Mount;
use crate::background::Tasks;
use crate::hooks::Context;

/// How many shadows run at a time. What comes beyond them is counted and not asked: a slow shadow
/// must not pile up behind the requests that it only watches.
pub(super) const SHADOWS_MAX: usize = 64;

/// Room for shadows.
#[derive(Debug)]
pub(super) struct Shadows {
    tasks: Tasks,
    places: Arc<Semaphore>,
}

impl Shadows {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self { tasks, places: Arc::new(Semaphore::new(SHADOWS_MAX)) }
    }

    /// Does `work` as a task of the process, or says that there is no room for it.
    pub(super) fn run(&self, work: impl Future<Output = ()> + Send + 'static) -> bool {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return false };
        self.tasks.spawn("plugin_shadow", async move {
            work.await;
            drop(place);
        });
        true
    }
}

/// Notes how a shadow's answer compares with what was enforced.
pub(super) fn note(
    metrics: &PluginMetrics,
    mount: &Mount,
    hook: Hook,
    context: &Context,
    compared: Compared,
    why: Option<&str>,
) {
    metrics.compared(&mount.name, hook, compared);
    if matches!(compared, Compared::WouldDeny | Compared::WouldAllow | Compared::Differs) {
        tracing::info!(
            mount = &*mount.name,
            %hook,
            shadow = compared.as_str(),
            why,
            request_id = context.request_id,
            "a shadow disagrees"
        );
    }
}
