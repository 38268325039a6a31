//! Turns to compile plugins. A compilation cannot be stopped, only left alone.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Plugins that are compiled at a time: one that takes long does not keep another from it.
const LOADS_MAX: u32 = 2;

/// Compilations that took too long and that nobody waits for any more, besides those. Further
/// ones keep their turn until they end.
const ABANDONED_MAX: u32 = 2;

/// Threads that compile, at most.
pub(crate) const LOAD_THREADS_MAX: u32 = LOADS_MAX + ABANDONED_MAX;

/// All turns.
#[derive(Debug)]
pub(crate) struct Turns {
    loads: Arc<Semaphore>,
    abandoned: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            loads: Arc::new(Semaphore::new(LOADS_MAX as usize)),
            abandoned: Arc::new(Semaphore::new(ABANDONED_MAX as usize)),
        }
    }
}

impl Turns {
    /// Waits for a turn. Dropping the future leaves the line.
    pub(crate) async fn take(&self) -> Result<Turn, AcquireError> {
        let permit = Arc::clone(&self.loads).acquire_owned().await?;
        let permit = Arc::new(Mutex::new(permit));
        Ok(Turn { permit, abandoned: Arc::clone(&self.abandoned) })
    }
}

/// A turn. Clones are the same one; it ends with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    permit: Arc<Mutex<OwnedSemaphorePermit>>,
    abandoned: Arc<Semaphore>,
}

impl Turn {
    /// Gives the turn to the next plugin while the compilation goes on, unless too many do.
    pub(crate) fn abandon(self) {
        if let Ok(place) = self.abandoned.try_acquire_owned() {
            *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = place;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn take(turns: &Turns) -> Option<Turn> {
        turns.take().now_or_never().map(|turn| turn.expect("never closed"))
    }

    #[test]
    fn a_turn_that_takes_too_long_is_given_to_the_next() {
        let turns = Turns::default();
        // What the threads keep.
        let mut busy = Vec::new();
        for _ in 0..ABANDONED_MAX {
            let turn = take(&turns).expect("there is room");
            busy.push(turn.clone());
            turn.abandon();
        }
        for _ in 0..LOADS_MAX {
            let turn = take(&turns).expect("the others were abandoned");
            busy.push(turn.clone());
            turn.abandon();
        }
        assert_eq!(busy.len(), LOAD_THREADS_MAX as usize);
        assert!(take(&turns).is_none(), "as many compile as may");
        // An abandoned one has ended: it gives its own place back, and nobody's turn.
        busy.remove(0);
        assert!(take(&turns).is_none());
        busy.pop();
        assert!(take(&turns).is_some());
    }
}
