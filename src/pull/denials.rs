//! Whether what is kept may still be served although upstream cannot confirm it.
//!
//! Whoever lost access upstream must not keep it through the cache for long: the first denial is
//! recorded, and where credentials are configured it limits every kind of stale answer.

use super::error::PullError;
use super::{Puller, Site, decide};
use crate::clock::Timestamp;
use crate::scope::Scope;
use crate::upstream::ErrorKind;

impl Puller {
    /// Records that upstream refuses access to `scope`, if that is what `error` says.
    pub(super) async fn note_denial(&self, scope: &Scope, error: &PullError) {
        if matches!(error, PullError::Upstream(error) if error.kind() == ErrorKind::Denied) {
            self.set_denied(scope, Some(self.clock.now())).await;
        }
    }

    /// Records that upstream grants access to `scope`.
    pub(super) async fn note_access(&self, scope: &Scope) {
        if !matches!(self.meta.denied_since(scope).await, Ok(None)) {
            self.set_denied(scope, None).await;
        }
    }

    /// Whether `scope` may be served stale.
    pub(super) async fn may_serve_stale(&self, site: &Site, scope: &Scope) -> bool {
        let denied_since = match self.meta.denied_since(scope).await {
            Ok(since) => since,
            Err(error) => {
                tracing::error!(%scope, %error, "cannot read whether upstream refuses access");
                // What cannot be read cannot be relied on.
                Some(Timestamp::from_unix_ms(0))
            }
        };
        decide::may_serve_stale(site.has_credentials, denied_since, self.clock.now())
    }

    async fn set_denied(&self, scope: &Scope, since: Option<Timestamp>) {
        if let Err(error) = self.meta.set_denied(scope, since).await {
            tracing::error!(%scope, %error, "cannot record whether upstream refuses access");
        }
    }
}
