//! How storing fails.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

/// The storage could not do what it was asked to. Cheap to clone, so that one failure can be told
/// to everybody who waits for the same thing.
///
/// The message says what was being done, what kind of failure it was, and the cause: a log line
/// needs nothing else. For that reason the cause is not repeated by [`Error::source`].
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {}: {}{}", .0.doing, .0.kind, Because(.0.cause.as_deref()))]
pub struct StoreError(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: StoreErrorKind,
    doing: String,
    cause: Option<Cause>,
}

type Cause = Box<dyn Error + Send + Sync>;

/// What a failure means to whoever must decide how to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StoreErrorKind {
    /// Disk, quota or the store's own limit is full: making room helps.
    #[error("no space left")]
    NoSpace,
    /// The file system or the database does not accept writes.
    #[error("the storage is read-only")]
    ReadOnly,
    /// What is stored is damaged, or what was to be stored is not what it was said to be.
    #[error("damaged")]
    Corrupt,
    /// The system refused for another reason.
    #[error("input/output failed")]
    Io,
    /// The database refused for another reason.
    #[error("the database failed")]
    Database,
    /// Another process uses the storage.
    #[error("another Pierhead uses this storage")]
    Locked,
}

impl StoreErrorKind {
    /// A short name for log fields and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoSpace => "no_space",
            Self::ReadOnly => "read_only",
            Self::Corrupt => "corrupt",
            Self::Io => "io",
            Self::Database => "database",
            Self::Locked => "locked",
        }
    }
}

impl StoreError {
    /// A failure while `doing` (an infinitive with its object: "open the blob sha256:..."). Also
    /// for implementations of the store traits elsewhere, such as those of tests.
    pub fn new(kind: StoreErrorKind, doing: impl Into<String>, cause: Option<Cause>) -> Self {
        Self(Arc::new(Inner { kind, doing: doing.into(), cause }))
    }

    /// A failure of the file system while `doing`.
    pub fn io(doing: impl Into<String>, cause: io::Error) -> Self {
        let kind = match cause.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => StoreErrorKind::NoSpace,
            io::ErrorKind::ReadOnlyFilesystem => StoreErrorKind::ReadOnly,
            _ => StoreErrorKind::Io,
        };
        Self::new(kind, doing, Some(Box::new(cause)))
    }

    /// Something is not as it must be; `what` says so in words.
    pub(crate) fn corrupt(doing: impl Into<String>, what: impl Into<String>) -> Self {
        Self::new(StoreErrorKind::Corrupt, doing, Some(what.into().into()))
    }

    /// What the failure means.
    pub fn kind(&self) -> StoreErrorKind {
        self.0.kind
    }

    /// What was being done.
    pub fn doing(&self) -> &str {
        &self.0.doing
    }
}

/// The cause as the end of a message.
struct Because<'a>(Option<&'a (dyn Error + Send + Sync)>);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_says_what_was_done_and_why_it_failed() {
        let cause = io::Error::from(io::ErrorKind::StorageFull);
        let text = cause.to_string();
        let error = StoreError::io("write the spool file x", cause);
        assert_eq!(error.kind(), StoreErrorKind::NoSpace);
        assert_eq!(
            error.to_string(),
            format!("cannot write the spool file x: no space left: {text}")
        );
        assert_eq!(error.clone().to_string(), error.to_string());
    }

    #[test]
    fn io_errors_are_told_apart_by_what_can_be_done() {
        let kind = |kind: io::ErrorKind| StoreError::io("x", io::Error::from(kind)).kind();
        assert_eq!(kind(io::ErrorKind::QuotaExceeded), StoreErrorKind::NoSpace);
        assert_eq!(kind(io::ErrorKind::ReadOnlyFilesystem), StoreErrorKind::ReadOnly);
        assert_eq!(kind(io::ErrorKind::PermissionDenied), StoreErrorKind::Io);
    }
}
