//! One conversation with the directory, from the account to the certificate.
//!
//! Source: RFC 8555, section 7.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, RetryPolicy,
};

use super::challenge::Challenges;
use super::store::AcmeStore;
use super::transport::Transport;
use super::{AcmeError, blocking};
use crate::http::settings::AcmeSettings;

/// How long the directory may take to look at our proofs, and then to make the certificate.
const POLL_TIME_MAX: Duration = Duration::from_secs(180);

/// How long to wait before asking for the first time; it doubles with each further one.
const POLL_DELAY: Duration = Duration::from_secs(1);

/// What a directory says of an account that it does not know. Source: RFC 8555, section 6.7.
const NO_SUCH_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// A certificate and its key, in PEM form, as the directory and we made them.
pub(super) struct Issued {
    pub(super) chain: String,
    pub(super) key: crate::secret::Secret,
}

/// Gets a certificate for all domains. Cancel-safe: a conversation that was broken off leaves an
/// unfinished order behind, which the directory forgets.
pub(super) async fn obtain(
    settings: &AcmeSettings,
    store: &AcmeStore,
    transport: &Transport,
    challenges: &Challenges,
) -> Result<Issued, AcmeError> {
    let identifiers: Vec<_> =
        settings.domains.iter().map(|domain| Identifier::Dns(domain.clone())).collect();
    let wanted = NewOrder::new(&identifiers);
    let mut order = match account(settings, store, transport).await?.new_order(&wanted).await {
        Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_SUCH_ACCOUNT) => {
            tracing::warn!("the ACME directory does not know our account any more");
            let forgetful = store.clone();
            blocking(move || forgetful.forget_account()).await?;
            account(settings, store, transport).await?.new_order(&wanted).await?
        }
        order => order?,
    };
    let mut answering = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => {
                let name = authorization.identifier();
                return Err(AcmeError::Refused(format!("{name} cannot be proven: {status:?}")));
            }
        }
        let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01) else {
            return Err(AcmeError::Refused("the directory does not offer tls-alpn-01".into()));
        };
        let domain = challenge.identifier().to_string();
        let digest = challenge.key_authorization().digest();
        let answer = challenges.answer(&domain, digest.as_ref()).map_err(AcmeError::Refused)?;
        answering.push(answer);
        challenge.set_ready().await?;
    }
    let policy = RetryPolicy::new().initial_delay(POLL_DELAY).timeout(POLL_TIME_MAX);
    if order.poll_ready(&policy).await? != OrderStatus::Ready {
        return Err(AcmeError::Refused(why_invalid(&mut order).await));
    }
    drop(answering);
    let key = crate::secret::Secret::new(order.finalize().await?);
    let chain = order.poll_certificate(&policy).await?;
    Ok(Issued { chain, key })
}

/// The account that was kept, or a new one.
async fn account(
    settings: &AcmeSettings,
    store: &AcmeStore,
    transport: &Transport,
) -> Result<Account, AcmeError> {
    let builder = Account::builder_with_http(Box::new(transport.clone()));
    let reader = store.clone();
    if let Some(kept) = blocking(move || reader.account()).await? {
        let credentials = serde_json::from_slice(&kept)
            .map_err(|_| AcmeError::Refused("account.json cannot be understood".into()))?;
        return Ok(builder.from_credentials(credentials).await?);
    }
    let contact: Vec<&str> = settings.contact.iter().map(String::as_str).collect();
    let wanted = NewAccount {
        contact: &contact,
        // The documentation says that configuring a directory means this.
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    let (account, credentials) =
        builder.create(&wanted, settings.directory.to_string(), None).await?;
    let credentials = serde_json::to_vec(&credentials).map_err(Error::from)?;
    let writer = store.clone();
    blocking(move || writer.set_account(&credentials)).await?;
    tracing::info!(directory = %settings.directory, "made an ACME account");
    Ok(account)
}

/// What the directory found wrong with our proofs.
async fn why_invalid(order: &mut Order) -> String {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let name = authorization.identifier().to_string();
        let problems = authorization.challenges.iter().filter_map(|c| c.error.as_ref());
        reasons.extend(problems.map(|problem| format!("{name}: {problem}")));
    }
    if reasons.is_empty() {
        return "the directory refused our proofs and did not say why".to_owned();
    }
    reasons.join("; ")
}
