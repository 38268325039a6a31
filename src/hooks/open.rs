//! No plugins at all.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Action, AdmissionRequest, Allowed, Context, Denial, Hooks, Identity, Observation, Presented,
    Target, Verdict, WantedScope,
};

/// No plugins: everybody may read everything that is public upstream.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

#[async_trait]
impl Hooks for AllowAll {
    fn wants_credentials(&self) -> bool {
        false
    }

    fn decides_access(&self) -> bool {
        false
    }

    /// A verified certificate is believed, whatever stands beside it. Docker sends Hub credentials
    /// to mirrors: unknown credentials are no reason for a 401.
    async fn authenticate(
        &self,
        _context: &Context,
        presented: &Presented,
    ) -> Result<Option<Arc<Identity>>, Denial> {
        Ok(match presented {
            Presented::Certificate { certificate, .. } => {
                Some(Arc::new(Identity::of_certificate(certificate)))
            }
            Presented::Anonymous | Presented::Basic { .. } | Presented::Bearer(_) => None,
        })
    }

    async fn authorize(&self, _context: &Context, _target: &Target) -> Result<(), Denial> {
        Ok(())
    }

    async fn authorize_scopes(
        &self,
        _context: &Context,
        wanted: &[WantedScope],
    ) -> Result<Vec<WantedScope>, Denial> {
        Ok(reading(wanted))
    }

    async fn resolve(&self, _context: &Context, target: Target) -> Result<Target, Denial> {
        Ok(target)
    }

    async fn request(&self, _context: &Context, _target: &Target) -> Verdict {
        Ok(Allowed::default())
    }

    fn judges_manifests(&self) -> bool {
        false
    }

    async fn admit(&self, _context: &Context, _manifest: &AdmissionRequest) -> Verdict {
        Ok(Allowed::default())
    }

    fn observe(&self, _observation: &Observation<'_>) {}
}

/// The part of `wanted` that only reads.
pub(super) fn reading(wanted: &[WantedScope]) -> Vec<WantedScope> {
    let mut granted = wanted.to_vec();
    for scope in &mut granted {
        scope.actions.retain(|action| Action::is_read(*action));
    }
    granted.retain(|scope| !scope.actions.is_empty());
    granted
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::hooks::Client;

    #[tokio::test]
    async fn everybody_may_read_and_nobody_may_write() {
        let client = Client {
            address: Ipv4Addr::LOCALHOST.into(),
            encrypted: false,
            user_agent: None,
            tls_subject: None,
        };
        let wanted = |actions: &[Action]| WantedScope {
            repository: "docker.io/library/debian".to_owned(),
            actions: actions.to_vec(),
        };
        let asked = [wanted(&[Action::Pull, Action::Push]), wanted(&[Action::Delete])];
        let granted = AllowAll.authorize_scopes(&Context::new("1", client), &asked).await.unwrap();
        assert_eq!(granted, [wanted(&[Action::Pull])]);
    }
}
