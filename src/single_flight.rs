//! One answer for everybody who asks the same at the same time.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::background::Tasks;

/// The work ended without an answer: it panicked or the process is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work that others waited for ended without an answer")]
pub struct Abandoned;

/// Runs at most one piece of work per key at a time; everybody who asks meanwhile gets its
/// answer. The work is a task of the process, so a caller that goes away stops nothing.
#[derive(Debug)]
pub struct SingleFlight<K, V> {
    kind: &'static str,
    tasks: Tasks,
    running: Running<K, V>,
}

type Running<K, V> = Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>;

impl<K, V> SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// `kind` names the tasks in the metrics.
    pub fn new(kind: &'static str, tasks: Tasks) -> Self {
        Self { kind, tasks, running: Arc::default() }
    }

    /// The answer of the work that runs under `key`, which `work` begins if none does.
    ///
    /// Cancel-safe: dropping the future loses nothing but this caller's interest.
    pub async fn run<F>(&self, key: K, work: impl FnOnce() -> F) -> Result<V, Abandoned>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut answer = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            match running.get(&key) {
                Some(answer) => answer.clone(),
                None => {
                    let (sender, answer) = watch::channel(None);
                    running.insert(key.clone(), answer.clone());
                    let entry = Entry { key, running: Arc::clone(&self.running) };
                    let work = work();
                    self.tasks.spawn(self.kind, async move {
                        let value = work.await;
                        // Whoever comes from here on starts anew.
                        drop(entry);
                        sender.send_replace(Some(value));
                    });
                    answer
                }
            }
        };
        let value = answer.wait_for(Option::is_some).await.map_err(|_| Abandoned)?;
        value.clone().ok_or(Abandoned)
    }
}

/// Takes the key off the table when the work ends, however it ends.
struct Entry<K: Eq + Hash, V> {
    key: K,
    running: Running<K, V>,
}

impl<K: Eq + Hash, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}
