//! Looking at plugins' files, and loading them again when they change.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use super::load::Plugins;
use crate::background::{Report, Round, Worker, Workers};

/// What operators call it.
const NAME: &str = "plugin_files";

/// How often files are looked at that nobody tells us about: those on network file systems.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// How long a file is left alone after it was written: builds write in several steps.
const SETTLE: Duration = Duration::from_millis(200);

/// Keeps the chain equal to the files.
pub(super) struct FilesWorker {
    plugins: Plugins,
    workers: Workers,
    /// The folders that the kernel tells us about, and the one who listens.
    watched: Vec<PathBuf>,
    watcher: Option<RecommendedWatcher>,
    /// The first round follows the first load.
    began: bool,
}

impl Plugins {
    /// Has files looked at from now on.
    pub fn watch(&self, workers: &Workers) {
        workers.start(FilesWorker {
            plugins: self.clone(),
            workers: workers.clone(),
            watched: Vec::new(),
            watcher: None,
            began: false,
        });
    }
}

#[async_trait]
impl Worker for FilesWorker {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn round(&mut self, _: &Report) -> Round {
        self.listen();
        if self.began && self.plugins.are_files_new() {
            tokio::time::sleep(SETTLE).await;
            if self.plugins.reload().await && self.plugins.refused().is_empty() {
                tracing::info!("plugins were loaded again: a file changed");
            }
        }
        self.began = true;
        let refused = self.plugins.refused();
        match refused.first() {
            None => Round::Done(LOOK_INTERVAL),
            Some((name, why)) => {
                Round::Failed(format!("{name}: {why}; the older version serves"), LOOK_INTERVAL)
            }
        }
    }
}

impl FilesWorker {
    /// Has the kernel tell about the folders of the files: the files themselves are replaced.
    fn listen(&mut self) {
        let mut folders: Vec<PathBuf> = self
            .plugins
            .files()
            .iter()
            .filter_map(|path| {
                let folder = path.parent()?;
                let here = folder.as_os_str().is_empty();
                Some(if here { PathBuf::from(".") } else { folder.to_owned() })
            })
            .collect();
        folders.sort();
        folders.dedup();
        if folders == self.watched {
            return;
        }
        self.watcher = None;
        let workers = self.workers.clone();
        let wake = move |event: notify::Result<notify::Event>| {
            // What is only read changes nothing.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                workers.wake(NAME);
            }
        };
        let listen = || {
            let mut watcher = notify::recommended_watcher(wake)?;
            for folder in &folders {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok::<_, notify::Error>(watcher)
        };
        match listen() {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                tracing::warn!(
                    %error,
                    every = ?LOOK_INTERVAL,
                    "plugins' files are looked at from time to time only"
                );
            }
        }
        self.watched = folders;
    }
}
