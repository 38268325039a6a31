//! Whether what is kept may still be served although upstream cannot confirm it.
//!
//! Whoever lost access upstream must not keep it through the cache for long: the first denial is
//! recorded, and from then on `stale.on_401` limits every kind of stale answer.

use super::decide::Known;
use super::error::PullError;
use super::settings::Lifetime;
use super::{Puller, Site};
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

    /// What a decision about something depends on that upstream last confirmed at `confirmed_at`.
    pub(super) async fn known<'s>(
        &self,
        site: &'s Site,
        scope: &Scope,
        confirmed_at: Timestamp,
    ) -> Known<'s> {
        // A refusal that never ends anything need not be read.
        let denied_since = match site.tags.stale.on_401 {
            Lifetime::Forever => None,
            Lifetime::For(_) => self.denied_since(scope).await,
        };
        let (settings, now) = (&site.tags, self.clock.now());
        Known { settings, is_pinned: false, confirmed_at, denied_since, now }
    }

    async fn denied_since(&self, scope: &Scope) -> Option<Timestamp> {
        self.meta.denied_since(scope).await.unwrap_or_else(|error| {
            tracing::error!(%scope, %error, "cannot read whether upstream refuses access");
            // What cannot be read cannot be relied on.
            Some(Timestamp::from_unix_ms(0))
        })
    }

    async fn set_denied(&self, scope: &Scope, since: Option<Timestamp>) {
        if let Err(error) = self.meta.set_denied(scope, since).await {
            tracing::error!(%scope, %error, "cannot record whether upstream refuses access");
        }
    }
}
