//! One answer for everybody who asks the same at the same time.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::background::Tasks;

/// How much different work of one kind may run at a time. Work outlives who asked for it, so
/// nothing else bounds it.
pub const RUNNING_MAX: usize = 256;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The work ended without one: it panicked or the process is stopping.
    #[error("the work that others waited for ended without an answer")]
    Abandoned,
    /// [`RUNNING_MAX`] others are at work.
    #[error("too much work of this kind is running")]
    Busy,
}

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
    pub async fn run<F>(&self, key: K, work: impl FnOnce() -> F) -> Result<V, NoAnswer>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut answer = match self.join(key)? {
            Role::Wait(answer) => answer,
            Role::Work(sender, answer, entry) => {
                let work = work();
                self.tasks.spawn(self.kind, async move {
                    let value = work.await;
                    // Whoever comes from here on starts anew.
                    drop(entry);
                    sender.send_replace(Some(value));
                });
                answer
            }
        };
        let value = answer.wait_for(Option::is_some).await.map_err(|_| NoAnswer::Abandoned)?;
        value.clone().ok_or(NoAnswer::Abandoned)
    }

    fn join(&self, key: K) -> Result<Role<K, V>, NoAnswer> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = running.get(&key) {
            return Ok(Role::Wait(answer.clone()));
        }
        if running.len() >= RUNNING_MAX {
            return Err(NoAnswer::Busy);
        }
        let (sender, answer) = watch::channel(None);
        running.insert(key.clone(), answer.clone());
        let entry = Entry { key, running: Arc::clone(&self.running) };
        Ok(Role::Work(sender, answer, entry))
    }
}

/// What a caller is to do.
enum Role<K: Eq + Hash, V> {
    Wait(watch::Receiver<Option<V>>),
    Work(watch::Sender<Option<V>>, watch::Receiver<Option<V>>, Entry<K, V>),
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;

    fn flights() -> SingleFlight<usize, usize> {
        SingleFlight::new("test", Tasks::new(&prometheus::Registry::new()).unwrap())
    }

    #[tokio::test]
    async fn everybody_gets_the_one_answer() {
        let flights = flights();
        let gate = Arc::new(Semaphore::new(0));
        let runs = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let (gate, runs) = (Arc::clone(&gate), Arc::clone(&runs));
            flights.run(1, || async move {
                let open = gate.acquire().await;
                drop(open);
                runs.fetch_add(1, Ordering::SeqCst)
            })
        };
        let (a, b, ()) = tokio::join!(ask(), ask(), async { gate.add_permits(1) });
        assert_eq!((a, b), (Ok(0), Ok(0)));
        assert_eq!(ask().await, Ok(1), "what comes later starts anew");
    }

    #[tokio::test]
    async fn a_panic_abandons_its_callers_and_frees_the_key() {
        let flights = flights();
        let answer = flights.run(1, || async { panic!("on purpose") }).await;
        assert_eq!(answer, Err(NoAnswer::Abandoned));
        assert_eq!(flights.run(1, || async { 7 }).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn work_outlives_its_caller_and_is_bounded() {
        let flights = flights();
        let gate = Arc::new(Semaphore::new(0));
        for key in 0..RUNNING_MAX {
            let gate = Arc::clone(&gate);
            let asked = flights.run(key, || async move {
                let open = gate.acquire().await;
                drop(open);
                key
            });
            assert!(timeout(Duration::from_millis(1), asked).await.is_err());
        }
        assert_eq!(flights.run(usize::MAX, || async { 0 }).await, Err(NoAnswer::Busy));
        gate.add_permits(1);
        assert_eq!(flights.run(3, || async { panic!("runs already") }).await, Ok(3));
    }
}
