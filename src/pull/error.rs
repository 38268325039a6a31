//! Why a pull has no answer. Statuses are chosen in `http/error`, nowhere else.

use std::sync::Arc;

use super::flight::FillError;
use crate::gate::Full;
use crate::hooks::Denial;
use crate::oci::{Digest, ManifestError, Mismatch};
use crate::single_flight::NoAnswer;
use crate::store::StoreError;
use crate::upstream::{ErrorKind, UpstreamError};

/// Why a pull has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullError {
    /// The manifest is not there.
    #[error("manifest unknown")]
    ManifestUnknown,
    /// The blob is not in this repository.
    #[error("blob unknown to the repository")]
    BlobUnknown,
    /// Upstream does not know the repository.
    #[error("repository name not known to upstream")]
    NameUnknown,
    /// A plugin refused.
    #[error("{}", .0.message)]
    Denied(Denial),
    /// Upstream could not be asked, or answered with a failure.
    #[error("{0}")]
    Upstream(UpstreamError),
    /// Filling the blob failed.
    #[error("{0}")]
    Fill(FillError),
    /// Upstream's manifest is not one.
    #[error("upstream's manifest is not valid: {0}")]
    InvalidManifest(ManifestError),
    /// Upstream's manifest is something else than what was asked for.
    #[error("upstream sent a wrong manifest: {0}")]
    WrongManifest(Arc<Mismatch>),
    /// The size that this repository's manifest promised is not the blob's.
    #[error("the manifest promised {promised} bytes for {digest}, which has {actual}")]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// What the manifest said, in bytes.
        promised: u64,
        /// What the blob has, in bytes.
        actual: u64,
    },
    /// No answer came within `fill.answer_within`.
    #[error("upstream did not answer in time; what has been begun goes on, so try again")]
    TimedOut,
    /// The local disk or database failed and upstream could not help.
    #[error("{0}")]
    Store(StoreError),
    /// As many questions to upstream are open as are allowed.
    #[error("too many questions to upstream are open; try again")]
    Busy,
    /// A limit is reached.
    #[error("{0}")]
    Full(Full),
    /// The process is stopping, or work that others waited for panicked.
    #[error("the work was given up")]
    Abandoned,
}

impl PullError {
    /// Upstream's answer about a manifest: an absence is an answer, anything else its failure.
    pub(super) fn of_manifest(error: UpstreamError) -> Self {
        if error.kind() == ErrorKind::NotFound {
            Self::ManifestUnknown
        } else {
            Self::Upstream(error)
        }
    }

    /// Upstream's answer about a blob.
    pub(super) fn of_blob(error: UpstreamError) -> Self {
        if error.kind() == ErrorKind::NotFound { Self::BlobUnknown } else { Self::Upstream(error) }
    }

    /// Whether upstream has answered, with a refusal of some kind.
    pub(super) fn is_answer(&self) -> bool {
        let limited = |error: &UpstreamError| error.kind() == ErrorKind::RateLimited;
        self.is_absence() || matches!(self, Self::Upstream(error) if limited(error))
    }

    /// Whether upstream says that this is not to be had, as opposed to failing to say.
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Self::ManifestUnknown | Self::BlobUnknown | Self::NameUnknown => true,
            Self::Upstream(error) => error.kind() == ErrorKind::Denied,
            _ => false,
        }
    }
}

impl From<NoAnswer> for PullError {
    fn from(none: NoAnswer) -> Self {
        match none {
            NoAnswer::Abandoned => Self::Abandoned,
            NoAnswer::Busy => Self::Busy,
        }
    }
}

impl From<Full> for PullError {
    fn from(full: Full) -> Self {
        Self::Full(full)
    }
}

impl From<FillError> for PullError {
    fn from(error: FillError) -> Self {
        match error {
            FillError::Upstream(error) => Self::of_blob(error),
            error => Self::Fill(error),
        }
    }
}
