//! Orderly failures.

use std::time::Duration;

use crate::content::ContentError;
use crate::http::HttpError;
use crate::kv::KvError;
use crate::{Failure, FailureKind};

impl Failure {
    /// A failure of this kind.
    #[must_use]
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after_ms: None }
    }

    /// The settings are wrong.
    #[must_use]
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Config, message)
    }

    /// What was handed over makes no sense.
    #[must_use]
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Input, message)
    }

    /// Something that is needed does not answer now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Unavailable, message)
    }

    /// The plugin has a mistake.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Internal, message)
    }

    /// Another call may succeed after this long.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after_ms = Some(u32::try_from(after.as_millis()).unwrap_or(u32::MAX));
        self
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        let (kind, message) = match error {
            HttpError::Denied(what) => (FailureKind::DeniedCapability, what),
            HttpError::Invalid(what) => {
                (FailureKind::Internal, format!("malformed request: {what}"))
            }
            HttpError::TooLarge(bytes) => {
                (FailureKind::Unavailable, format!("the answer is larger than {bytes} bytes"))
            }
            HttpError::Timeout => (FailureKind::Unavailable, "no answer in time".to_owned()),
            HttpError::Unreachable(what) => (FailureKind::Unavailable, what),
        };
        Self::new(kind, message)
    }
}

impl From<KvError> for Failure {
    fn from(error: KvError) -> Self {
        let (kind, message) = match error {
            KvError::NoSuchBucket => {
                (FailureKind::DeniedCapability, "the bucket is not granted".to_owned())
            }
            KvError::Quota => (FailureKind::Unavailable, "the bucket is full".to_owned()),
            KvError::NotANumber => (FailureKind::Internal, "the value is not a number".to_owned()),
            KvError::Other(what) => (FailureKind::Unavailable, what),
        };
        Self::new(kind, message)
    }
}

impl From<ContentError> for Failure {
    fn from(error: ContentError) -> Self {
        let (kind, message) = match error {
            ContentError::NotFound => (FailureKind::Input, "it is not there".to_owned()),
            ContentError::Denied => {
                (FailureKind::DeniedCapability, "the content is not granted".to_owned())
            }
            ContentError::TooLarge(bytes) => {
                (FailureKind::Input, format!("it is larger than {bytes} bytes"))
            }
            ContentError::Upstream(what) => (FailureKind::Unavailable, what),
            ContentError::Other(what) => (FailureKind::Internal, what),
        };
        Self::new(kind, message)
    }
}
