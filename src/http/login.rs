//! Logging in: what the registry and its token service have in common.

use std::sync::Arc;

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use url::Url;

use super::attempts::Attempts;
use super::error::ApiError;
use crate::client_id::ClientId;
use crate::hooks::{Context, Hooks, Identity, Presented};
use crate::oci::ErrorCode;
use crate::secret::Secret;
use crate::token::{Grant, TokenError, Tokens};

/// Tokens, failed logins, and what is counted of both. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Login {
    /// Makes and believes our tokens.
    pub tokens: Tokens,
    /// Our own URL behind a proxy.
    pub public_url: Option<Arc<Url>>,
    attempts: Attempts,
    logins: IntCounterVec,
    refused: IntCounterVec,
    issued: IntCounter,
}

impl Login {
    /// Registers the counters.
    ///
    /// # Errors
    /// When there are some already.
    pub fn new(
        tokens: Tokens,
        public_url: Option<Url>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let logins = IntCounterVec::new(
            Opts::new(
                "pierhead_logins_total",
                "Credentials that plugins were asked about, by result",
            ),
            &["result"],
        )?;
        for result in ["accepted", "refused", "unknown"] {
            logins.with_label_values(&[result]);
        }
        let refused = IntCounterVec::new(
            Opts::new(
                "pierhead_tokens_refused_total",
                "Tokens of ours that were refused, by reason",
            ),
            &["reason"],
        )?;
        for reason in TokenError::ALL {
            refused.with_label_values(&[reason.as_str()]);
        }
        let issued = IntCounter::new("pierhead_tokens_issued_total", "Tokens that were made")?;
        registry.register(Box::new(logins.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(issued.clone()))?;
        let public_url = public_url.map(Arc::new);
        Ok(Self { tokens, public_url, attempts: Attempts::default(), logins, refused, issued })
    }

    /// Who presents that, by the hooks' word. Where credentials mean something, who presents wrong
    /// ones too often is refused unheard.
    ///
    /// # Errors
    /// When the credentials are refused, or too many were.
    ///
    /// Cancel-safe; given up while plugins are asked, it counts as refused.
    pub async fn authenticate(
        &self,
        hooks: &dyn Hooks,
        context: &Context,
        presented: &Presented,
    ) -> Result<Option<Arc<Identity>>, ApiError> {
        let claimed = match presented {
            Presented::Certificate { beside, .. } => beside,
            other => other,
        };
        let user = match claimed {
            Presented::Basic { username, .. } => Some(username.as_str()),
            _ => None,
        };
        let claims_something = matches!(claimed, Presented::Basic { .. } | Presented::Bearer(_));
        if !claims_something || !hooks.wants_credentials() {
            return Ok(hooks.authenticate(context, presented).await?);
        }
        let client = ClientId::at(context.client.address);
        let attempt =
            self.attempts.begin(&client, user).await.map_err(ApiError::too_many_logins)?;
        let known = hooks.authenticate(context, presented).await;
        let result = match &known {
            Ok(Some(_)) => "accepted",
            Ok(None) => "unknown",
            Err(_) => "refused",
        };
        self.logins.with_label_values(&[result]).inc();
        // Wrong credentials are a guess, and those that wear a plugin out may be meant to. Who is
        // sent away for another reason, such as a plugin that cannot reach somebody, may come
        // again. Unknown ones are what docker sends to every mirror.
        match known {
            Err(denial) if denial.code == ErrorCode::Unauthorized || denial.overtaxed => {
                drop(attempt);
                Err(denial.into())
            }
            known => {
                attempt.excuse();
                Ok(known?)
            }
        }
    }

    /// What a token of ours says.
    pub(super) fn verify(&self, token: &Secret) -> Result<Arc<Grant>, TokenError> {
        self.tokens
            .verify(token)
            .inspect_err(|error| self.refused.with_label_values(&[error.as_str()]).inc())
    }

    /// A token was made.
    pub(super) fn has_issued(&self) {
        self.issued.inc();
    }
}

#[cfg(test)]
pub(super) mod tests;
