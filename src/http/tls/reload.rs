//! Looking at the files again: they are replaced while we run, by people, certbot, Kubernetes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::TlsError;
use super::current::Current;
use super::files::{ClientFiles, FilesError, PairFiles, Stamp};
use crate::background::{Report, Round, Worker};
use crate::clock::Clock;

/// What operators call it.
pub const NAME: &str = "tls_files";

/// How often the files are looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// How soon files that do not fit are looked at once more before that counts as a failure: a
/// certificate and its key cannot be replaced at the same moment.
const SETTLE: Duration = Duration::from_secs(1);

/// How often files are tried again that still do not fit.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps what is current equal to the files.
#[derive(Debug)]
pub struct FilesWorker {
    files: Files,
    /// The state of the files that is in use.
    used: Stamp,
    /// The state that did not fit when it was first seen.
    doubted: Option<Stamp>,
    current: Arc<Current>,
    clock: Clock,
}

#[derive(Clone, Debug)]
struct Files {
    pair: Option<PairFiles>,
    clients: Option<ClientFiles>,
}

impl FilesWorker {
    /// Reads the files and puts them to use. Blocks.
    pub(super) fn open(
        pair: Option<PairFiles>,
        clients: Option<ClientFiles>,
        current: Arc<Current>,
        clock: Clock,
    ) -> Result<Self, TlsError> {
        let files = Files { pair, clients };
        // Before reading: a change in between is then seen in the next round.
        let used = files.stamp();
        files.put_to_use(&current, &clock)?;
        Ok(Self { files, used, doubted: None, current, clock })
    }
}

#[async_trait]
impl Worker for FilesWorker {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn round(&mut self, _: &Report) -> Round {
        self.look().await
    }
}

impl FilesWorker {
    async fn look(&mut self) -> Round {
        let (files, used) = (self.files.clone(), self.used.clone());
        let (current, clock) = (Arc::clone(&self.current), self.clock.clone());
        let look = tokio::task::spawn_blocking(move || {
            let stamp = files.stamp();
            if stamp == used {
                return (stamp, Ok(()));
            }
            let outcome = files.put_to_use(&current, &clock);
            (stamp, outcome)
        });
        let (stamp, outcome) = match look.await {
            Ok(looked) => looked,
            Err(error) => return Round::Failed(error.to_string(), RETRY_INTERVAL),
        };
        match outcome {
            Ok(()) => {
                self.used = stamp;
                self.doubted = None;
                Round::Done(LOOK_INTERVAL)
            }
            Err(_) if self.doubted.as_ref() != Some(&stamp) => {
                self.doubted = Some(stamp);
                Round::Done(SETTLE)
            }
            Err(error) => {
                Round::Failed(format!("{error}; what was read before stays in use"), RETRY_INTERVAL)
            }
        }
    }
}

impl Files {
    fn stamp(&self) -> Stamp {
        let pair = self.pair.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
        let clients = self.clients.iter().map(|clients| &clients.authorities);
        Stamp::of(pair.chain(clients).map(PathBuf::as_path))
    }

    /// All of it, or nothing.
    fn put_to_use(&self, current: &Current, clock: &Clock) -> Result<(), TlsError> {
        let pair = self.pair.as_ref().map(|files| files.load(clock.now())).transpose()?;
        let clients = self
            .clients
            .as_ref()
            .map(|files| Ok::<_, FilesError>((files.load()?, files.required)))
            .transpose()?;
        if let Some((authorities, required)) = clients {
            current.set_clients(authorities, required)?;
        }
        if let Some(pair) = pair {
            current.set_pair(pair)?;
        }
        if let Some(files) = self.pair.as_ref().filter(|files| files.key_is_open()) {
            tracing::warn!(key = %files.key.display(), "everybody on this machine can read the key");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::{NOW, made};
    use super::super::metrics::TlsMetrics;
    use super::*;

    /// A worker with files of its own, and what it keeps current.
    fn worker(dir: &std::path::Path) -> (FilesWorker, prometheus::Registry) {
        let registry = prometheus::Registry::new();
        let current = Arc::new(Current::new(TlsMetrics::new(&registry).unwrap()).unwrap());
        let (certificate, key) = (dir.join("c"), dir.join("k"));
        let pair = PairFiles { certificate, key };
        let worker = FilesWorker::open(Some(pair), None, current, Clock::manual(NOW));
        (worker.unwrap(), registry)
    }

    fn changes(registry: &prometheus::Registry) -> f64 {
        let families = registry.gather();
        let name = "pierhead_tls_certificate_changes_total";
        let family = families.iter().find(|family| family.name() == name).unwrap();
        family.get_metric()[0].get_counter().get_value()
    }

    #[tokio::test]
    async fn files_that_do_not_fit_get_a_second_look_before_they_count_as_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let (first, second, third) = (made(1), made(2), made(3));
        write("c", &first.0);
        write("k", &first.1);
        let (mut worker, registry) = worker(dir.path());
        assert_eq!(worker.look().await, Round::Done(LOOK_INTERVAL));
        assert_eq!(changes(&registry), 1.0);
        // Half of a pair, and then the other half: no failure.
        write("c", &second.0);
        assert_eq!(worker.look().await, Round::Done(SETTLE));
        write("k", &second.1);
        assert_eq!(worker.look().await, Round::Done(LOOK_INTERVAL));
        assert_eq!(changes(&registry), 2.0);
        // Half of a pair that stays one.
        write("c", &third.0);
        assert_eq!(worker.look().await, Round::Done(SETTLE));
        for _ in 0..2 {
            let Round::Failed(why, RETRY_INTERVAL) = worker.look().await else { panic!("fits") };
            assert!(why.contains("not that of the certificate"), "{why}");
            assert!(worker.current.has_certificate());
        }
        assert_eq!(changes(&registry), 2.0);
        write("c", &second.0);
        assert_eq!(worker.look().await, Round::Done(LOOK_INTERVAL));
        // What is shown already is no change.
        assert_eq!(changes(&registry), 2.0);
    }

    #[test]
    fn what_is_wrong_at_the_start_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let current = Current::new(TlsMetrics::new(&prometheus::Registry::new()).unwrap());
        let files = PairFiles { certificate: dir.path().join("c"), key: dir.path().join("k") };
        let current = Arc::new(current.unwrap());
        let error = FilesWorker::open(Some(files), None, current, Clock::manual(NOW)).unwrap_err();
        assert!(error.to_string().contains("cannot read"), "{error}");
    }
}
