//! What an operator can say about what stays.

use std::time::Duration;

/// The limits of one upstream's content, beside those of the whole store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamLimits {
    /// What its content may take, in bytes. A fill that is running may take it beyond that for a
    /// moment.
    pub max_bytes: Option<u64>,
    /// What was not pulled for this long goes.
    pub max_age: Option<Duration>,
}

impl UpstreamLimits {
    /// Whether nothing is limited.
    pub const fn is_none(&self) -> bool {
        self.max_bytes.is_none() && self.max_age.is_none()
    }
}
