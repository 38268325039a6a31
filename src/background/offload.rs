//! Where work runs that blocks: reading, writing, hashing.

use tokio::task::JoinError;

/// Where blocking work runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// On the runtime's pool of blocking threads.
    #[default]
    Pool,
    /// On the thread that asks, at once: for simulations, whose every step has to follow from their
    /// seed. Nothing may really block then.
    Inline,
}

/// The work did not come to its end: it panicked, or the runtime is being shut down.
#[derive(Debug, thiserror::Error)]
#[error("blocking work did not end: {0}")]
pub struct OffloadError(#[from] JoinError);

impl Offload {
    /// Runs `work` and waits for what it gives.
    ///
    /// Cancel-safe in this sense: `work` runs to its end also if the future is dropped.
    pub async fn run<T, F>(self, work: F) -> Result<T, OffloadError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match self {
            Self::Pool => Ok(tokio::task::spawn_blocking(work).await?),
            Self::Inline => Ok(work()),
        }
    }
}
