//! Wires the plugins.

use std::sync::Arc;

use super::AppError;
use crate::background::{Tasks, Workers};
use crate::clock::Clock;
use crate::config::Config;
use crate::hooks::chain::{Chained, ChainedParts, PluginMetrics};
use crate::hooks::facts::Facts;
use crate::net::OwnAddresses;
use crate::plugins::{Plugins, PluginsParts};
use crate::pull::Puller;

/// What there is of plugins before there is content for them.
pub(super) struct Prepared {
    pub(super) chained: Chained,
    metrics: PluginMetrics,
    facts: Facts,
    tasks: Tasks,
}

impl Prepared {
    /// An empty chain: nothing is asked, and nothing runs.
    pub(super) fn new(
        config: &Config,
        registry: &prometheus::Registry,
        tasks: &Tasks,
        clock: &Clock,
    ) -> Result<Self, AppError> {
        let metrics = PluginMetrics::new(registry)?;
        let facts = Facts::new(clock.clone());
        let chained = Chained::new(ChainedParts {
            clock: clock.clone(),
            metrics: metrics.clone(),
            facts: facts.clone(),
            tasks: tasks.clone(),
            decisions_max: config.plugins.decisions_max,
        });
        Ok(Self { chained, metrics, facts, tasks: tasks.clone() })
    }

    /// Loads the plugins that are configured, before anybody is answered, and has their files
    /// looked at from then on.
    pub(super) async fn start(
        self,
        config: &Config,
        puller: &Puller,
        own: &OwnAddresses,
        clock: &Clock,
        workers: &Workers,
    ) -> Plugins {
        let names = config.upstreams.iter().map(|(upstream, _)| upstream.name.clone());
        let plugins = Plugins::new(PluginsParts {
            chained: self.chained,
            metrics: self.metrics,
            facts: self.facts,
            content: Arc::new(puller.clone()),
            bundled: |name| pierhead_plugin_bundled::find(name).map_err(|error| error.to_string()),
            artifacts: puller.upstreams_by_name(),
            upstreams: names.collect(),
            anonymous: config.auth.anonymous,
            own: own.clone(),
            storage: config.storage.path.clone(),
            clock: clock.clone(),
            tasks: self.tasks,
        });
        plugins.load(config.plugins.clone()).await;
        plugins.watch(workers);
        plugins
    }
}
