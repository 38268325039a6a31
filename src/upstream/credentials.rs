//! Where credentials for an upstream come from: its settings, or a plugin.

use std::sync::Arc;

use async_trait::async_trait;

use crate::clock::Timestamp;
use crate::scope::Scope;

use super::settings::Credentials;

/// Credentials, and how long they are good for.
#[derive(Clone, Debug)]
pub struct Granted {
    /// What to log in with.
    pub credentials: Credentials,
    /// When they end. With it, they are kept until then and not asked for again; without, they
    /// are asked for whenever they are needed.
    pub expires: Option<Timestamp>,
}

/// A source of credentials failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CredentialError(pub Arc<str>);

/// Says how to log in for a repository.
#[async_trait]
pub trait CredentialSource: Send + Sync {
    /// The credentials for `scope`; `None` means anonymous. Called for every request unless an
    /// earlier answer is still good, so it should answer from memory or with `expires`.
    ///
    /// Cancel-safe.
    async fn credentials(&self, scope: &Scope) -> Result<Option<Granted>, CredentialError>;
}

/// The credentials of the settings, for every repository of the upstream.
#[derive(Clone, Debug)]
pub struct StaticCredentials(Option<Credentials>);

impl StaticCredentials {
    /// These credentials, or none.
    pub const fn new(credentials: Option<Credentials>) -> Self {
        Self(credentials)
    }
}

#[async_trait]
impl CredentialSource for StaticCredentials {
    async fn credentials(&self, _scope: &Scope) -> Result<Option<Granted>, CredentialError> {
        Ok(self.0.clone().map(|credentials| Granted { credentials, expires: None }))
    }
}
