//! The one place that starts tasks.
//!
//! Work that outlives the request that asked for it belongs to the process: it is counted by
//! kind, and shutdown knows of it. What goes on in rounds, for as long as the process lives, is a
//! [`Worker`].

mod offload;
mod worker;

use std::future::Future;

use prometheus::{IntGaugeVec, Opts, Registry};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::telemetry::Cause;

pub use self::offload::{Offload, OffloadError};
pub use self::worker::{Progress, Report, Round, State, Worker, WorkerStatus, Workers};

/// The tasks of the process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tasks {
    answering: TaskTracker,
    stop: CancellationToken,
    running: IntGaugeVec,
}

impl Tasks {
    /// No tasks yet; the gauge of running ones is registered with `registry`.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let running = IntGaugeVec::new(
            Opts::new("pierhead_tasks_running", "Tasks owned by the process, by kind"),
            &["kind"],
        )?;
        registry.register(Box::new(running.clone()))?;
        Ok(Self { answering: TaskTracker::new(), stop: CancellationToken::new(), running })
    }

    /// Starts `work` as a task of the process. Dropping the handle changes nothing. Shutdown does
    /// not wait for it: it ends with the process. The current [`Cause`] is the task's too.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn<F>(&self, kind: &'static str, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let running = Running::new(self.running.with_label_values(&[kind]));
        tokio::spawn(Cause::current().within(async move {
            let _running = running;
            work.await
        }))
    }

    /// Starts `work` that answers a client: shutdown waits for it.
    pub fn spawn_answering<F>(&self, kind: &'static str, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn(kind, self.answering.track_future(work))
    }

    /// Is cancelled when the process is asked to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks everything to stop.
    pub fn stop(&self) {
        self.stop.cancel();
        self.answering.close();
    }

    /// Waits until every client is answered; to be called after [`Tasks::stop`]. Cancel-safe.
    pub async fn answered(&self) {
        self.answering.wait().await;
    }

    /// How many tasks are answering clients.
    pub fn answering(&self) -> usize {
        self.answering.len()
    }
}

/// Counts a task for as long as it lives, also when it panics or is dropped.
struct Running(prometheus::IntGauge);

impl Running {
    fn new(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{RequestId, Span};

    #[tokio::test]
    async fn tasks_inherit_the_cause() {
        let tasks = Tasks::new(&Registry::new()).unwrap();
        let seen = async || {
            let task = tasks.spawn("test", async { Cause::current().request });
            task.await.unwrap()
        };
        let id = RequestId::new(7);
        assert_eq!(Span::none().cause(Some(id)).within(seen()).await, Some(id));
        assert_eq!(seen().await, None);
    }
}
