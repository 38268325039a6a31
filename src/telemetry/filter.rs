//! What is logged, and changing that while the process runs.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Handle;

/// The longest filter that is taken, in bytes.
const FILTER_BYTES_MAX: usize = 4096;

/// The words that stand for a level. Source: `tracing_subscriber::filter::LevelFilter`.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It is not of the syntax.
    #[error("not a log filter: {0}")]
    Syntax(String),
    /// A part of it is neither a level nor `target=level`. The syntax would take it for a target
    /// of which everything is logged, and nothing else.
    #[error("{0:?} is neither a level ({levels}) nor TARGET=LEVEL", levels = LEVELS.join(", "))]
    NoLevel(String),
    /// It is longer than [`FILTER_BYTES_MAX`].
    #[error("a log filter has at most {FILTER_BYTES_MAX} characters")]
    TooLong,
    /// The logs are gone.
    #[error("the filter cannot be changed: {0}")]
    Gone(String),
}

type Set = dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync;

/// What is logged. Cheap to clone; clones change the same logs.
#[derive(Clone)]
pub struct LogFilter {
    configured: Arc<str>,
    current: Arc<Mutex<Arc<str>>>,
    set: Arc<Set>,
}

impl LogFilter {
    /// The filter behind `handle`, which was made from `configured`.
    pub(super) fn new<S: 'static>(configured: &str, handle: Handle<EnvFilter, S>) -> Self {
        let configured: Arc<str> = configured.into();
        let set = move |filter| handle.reload(filter).map_err(|error| error.to_string());
        Self {
            current: Arc::new(Mutex::new(Arc::clone(&configured))),
            configured,
            set: Arc::new(set),
        }
    }

    /// What the configuration says.
    pub fn configured(&self) -> Arc<str> {
        Arc::clone(&self.configured)
    }

    /// What counts now.
    pub fn current(&self) -> Arc<str> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes `filter` count from now on: a level, or levels of targets
    /// (`info,pierhead::upstream=debug`).
    ///
    /// # Errors
    /// When it is no filter.
    pub fn set(&self, filter: &str) -> Result<(), FilterError> {
        self.apply(check(filter)?, filter)
    }

    /// Goes back to what the configuration says.
    ///
    /// # Errors
    /// When the logs are gone.
    pub fn reset(&self) -> Result<(), FilterError> {
        let filter = EnvFilter::try_new(&*self.configured)
            .map_err(|error| FilterError::Syntax(error.to_string()))?;
        self.apply(filter, &self.configured)
    }

    fn apply(&self, filter: EnvFilter, text: &str) -> Result<(), FilterError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        (self.set)(filter).map_err(FilterError::Gone)?;
        let before = std::mem::replace(&mut *current, text.into());
        drop(current);
        tracing::warn!(%before, now = text, "the log filter was changed");
        Ok(())
    }
}

fn check(text: &str) -> Result<EnvFilter, FilterError> {
    if text.len() > FILTER_BYTES_MAX {
        return Err(FilterError::TooLong);
    }
    for part in text.split(',') {
        if !part.contains('=') && !LEVELS.iter().any(|level| part.eq_ignore_ascii_case(level)) {
            return Err(FilterError::NoLevel(part.to_owned()));
        }
    }
    EnvFilter::try_new(text).map_err(|error| FilterError::Syntax(error.to_string()))
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogFilter({})", self.current())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_does_not_silence_the_logs() {
        for good in ["debug", "INFO", "off", "info,pierhead::upstream=debug", "warn,a=trace"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "inof", "info,", "pierhead::upstream", "a=verbose", "a=b=c", "info;debug"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(matches!(check(&"a".repeat(5000)), Err(FilterError::TooLong)));
    }

    #[test]
    fn a_filter_is_set_and_set_back() {
        let (_layer, handle) =
            tracing_subscriber::reload::Layer::<_, tracing_subscriber::Registry>::new(
                EnvFilter::new("info"),
            );
        let filter = LogFilter::new("info", handle.clone());
        filter.set("debug,a=trace").unwrap();
        assert_eq!(&*filter.current(), "debug,a=trace");
        assert!(handle.with_current(|f| f.to_string().contains("a=trace")).unwrap());
        assert!(filter.set("nonsense").is_err());
        assert_eq!(&*filter.current(), "debug,a=trace");
        filter.reset().unwrap();
        assert_eq!((&*filter.current(), &*filter.configured()), ("info", "info"));
    }
}
