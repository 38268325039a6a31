//! What is known of the database's own condition.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use super::tend::TENDER;
use crate::background::Workers;
use crate::clock::Timestamp;

/// From what a database was made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Its last backup.
    Backup,
    /// Nothing.
    Nothing,
}

impl Source {
    /// Its name in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Nothing => "nothing",
        }
    }
}

/// How a database was made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remade {
    /// When.
    pub(super) at: Timestamp,
    /// From what.
    pub(super) from: Source,
    /// Why.
    pub(super) why: String,
    /// Where the damaged one is, if there was one.
    pub(super) aside: Option<PathBuf>,
}

impl fmt::Display for Remade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = match self.from {
            Source::Backup => "from its last backup",
            Source::Nothing => "without what it knew",
        };
        write!(f, "the metadata database was made anew {from}, because {}", self.why)?;
        match &self.aside {
            Some(aside) => write!(f, "; the old one is {}", aside.display()),
            None => Ok(()),
        }
    }
}

/// The condition.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// A query met damage, or the file is not the one that was opened.
    suspect: AtomicBool,
    /// Changes since the process started, failed ones included.
    changes: AtomicU64,
    /// How often something was forgotten that must not come back.
    forgotten: AtomicU64,
    /// How often it was made anew.
    losses: AtomicU64,
    last: Mutex<Option<Remade>>,
    workers: OnceLock<Workers>,
    metrics: OnceLock<Metrics>,
}

#[derive(Debug)]
struct Metrics {
    remade: IntCounterVec,
    backup: IntGauge,
}

impl Health {
    /// Has `workers` look after it from now on, and `registry` show it.
    pub(super) fn watched(
        &self,
        workers: &Workers,
        registry: &Registry,
    ) -> Result<(), prometheus::Error> {
        let remade = IntCounterVec::new(
            Opts::new(
                "pierhead_database_remade_total",
                "How often the metadata database was damaged or gone and made anew, by from what",
            ),
            &["from"],
        )?;
        let backup = IntGauge::new(
            "pierhead_database_backup_timestamp_seconds",
            "When this process last made a backup of the metadata database; 0 if it has made none",
        )?;
        registry.register(Box::new(remade.clone()))?;
        registry.register(Box::new(backup.clone()))?;
        for source in [Source::Backup, Source::Nothing] {
            remade.with_label_values(&[source.as_str()]);
        }
        if let Some(before) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            remade.with_label_values(&[before.from.as_str()]).inc();
        }
        let _ = self.metrics.set(Metrics { remade, backup });
        let _ = self.workers.set(workers.clone());
        Ok(())
    }

    pub(super) fn suspect(&self) {
        self.suspect.store(true, Ordering::SeqCst);
        if let Some(workers) = self.workers.get() {
            workers.wake(TENDER);
        }
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::SeqCst)
    }

    pub(super) fn is_well(&self) {
        self.suspect.store(false, Ordering::SeqCst);
    }

    /// Something is about to be changed.
    pub(super) fn changes(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn changed(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Something was forgotten that must not come back.
    pub(super) fn forgets(&self) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::SeqCst)
    }

    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::SeqCst)
    }

    /// It was made anew.
    pub(super) fn remade(&self, remade: Remade) {
        if let Some(metrics) = self.metrics.get() {
            metrics.remade.with_label_values(&[remade.from.as_str()]).inc();
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(remade);
        self.losses.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn backed_up(&self, at: Timestamp) {
        if let Some(metrics) = self.metrics.get() {
            metrics.backup.set(i64::try_from(at.unix_ms() / 1000).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn remarks(&self) -> Vec<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter().map(Remade::to_string).collect()
    }
}
