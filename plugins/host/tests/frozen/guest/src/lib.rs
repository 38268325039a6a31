//! Answers every hook of the SDK, and uses every import on the way: no type of the interface can
//! change without this guest failing to load.

use pierhead_plugin::crypto::{Hash, PublicKey, SignatureScheme};
use pierhead_plugin::kv::Bucket;
use pierhead_plugin::{
    Action, AuthOutcome, Authenticator, Authorizer, CallContext, Credential, Credentials,
    DependsOn, Event, Failure, Identity, Manifest, ManifestPolicy, NoSettings, Observer, Plugin,
    Reference, Request, RequestPolicy, Resolver, Scope, Secret, Stage, UpstreamCredentials,
    Verdict, content, crypto, facts, http, log, settings,
};

/// Of nothing that there is.
const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

struct Frozen;

impl Plugin for Frozen {
    type Settings = NoSettings;

    fn configure(_: NoSettings) -> Result<Self, Failure> {
        log::info("configured");
        Ok(Self)
    }
}

/// What every import says, in a line.
fn world(reference: &Reference) -> String {
    let bucket = Bucket("frozen");
    let key = PublicKey::Point(vec![0; 32]);
    [
        format!("log {}", log::enabled(log::Level::Trace)),
        format!("secret {}", settings::secret("frozen").is_some()),
        format!("hash {}", crypto::digest(Hash::Sha256, b"frozen").len()),
        format!("hmac {}", crypto::hmac(Hash::Sha512, b"key", b"frozen").len()),
        format!("equal {}", crypto::equal(b"a", b"a")),
        format!("verify {}", crypto::verify(SignatureScheme::Ed25519, &key, b"", &[0; 64]).is_ok()),
        format!("facts {}", facts::about(DIGEST).len()),
        format!("state {}", facts::state(DIGEST, "frozen", &true, None).is_ok()),
        format!("kv {}", bucket.set("key", b"value", None).is_ok()),
        format!("kept {}", bucket.get("key").is_ok_and(|value| value.is_some())),
        format!("sum {}", bucket.increment("sum", 2, None).unwrap_or_default()),
        format!("removed {}", bucket.delete("key").is_ok()),
        format!("http {}", http::get("https://example.com/").map_or(0, |answer| answer.status)),
        format!("manifest {}", content::manifest(reference).is_ok()),
        format!("blob {}", content::read(reference, 16).is_ok()),
        format!("referrers {}", content::referrers(reference, None).is_ok()),
    ]
    .join(", ")
}

impl Authenticator for Frozen {
    fn authenticate(
        &self,
        ctx: &CallContext,
        credentials: &Credentials,
    ) -> Result<AuthOutcome, Failure> {
        Ok(match credentials {
            Credentials::Anonymous => AuthOutcome::Abstain,
            Credentials::Basic((subject, _)) => AuthOutcome::Authenticated(Identity {
                subject: subject.clone(),
                issuer: "frozen".to_owned(),
                method: "basic".to_owned(),
                groups: vec!["group".to_owned()],
                claims: vec![("claim".to_owned(), ctx.request_id.clone())],
                expires_at: Some(ctx.now + 1),
            }),
            Credentials::Bearer(_) | Credentials::ClientCertificate(_) => {
                AuthOutcome::Rejected("no".to_owned())
            }
        })
    }
}

impl Authorizer for Frozen {
    fn authorize(&self, _: &CallContext, wanted: &[Scope]) -> Result<Vec<Scope>, Failure> {
        let pulls = |scope: &&Scope| scope.actions.contains(&Action::Pull);
        Ok(wanted.iter().filter(pulls).cloned().collect())
    }
}

impl RequestPolicy for Frozen {
    fn evaluate_request(&self, _: &CallContext, request: &Request) -> Result<Verdict, Failure> {
        Ok(Verdict::deny(world(&request.reference))
            .detail("detail")
            .warn("warning")
            .audit("key", "value")
            .count("label")
            .scan("scanner")
            .reuse(std::time::Duration::from_secs(1), DependsOn::all()))
    }
}

impl ManifestPolicy for Frozen {
    fn evaluate_manifest(
        &self,
        _: &CallContext,
        stage: Stage,
        manifest: &Manifest,
    ) -> Result<Verdict, Failure> {
        let size = manifest.raw.len() as u64;
        match stage {
            Stage::Serve if manifest.descriptor.size == size => Ok(Verdict::allow()),
            _ => Err(Failure::input("the size is another")),
        }
    }
}

impl Resolver for Frozen {
    fn resolve(
        &self,
        _: &CallContext,
        reference: &Reference,
    ) -> Result<Option<Reference>, Failure> {
        Ok(Some(Reference { repository: "frozen".to_owned(), ..reference.clone() }))
    }
}

impl UpstreamCredentials for Frozen {
    fn fetch(&self, upstream: &str, host: &str, _: &str) -> Result<Option<Credential>, Failure> {
        let secret = Secret::Basic((upstream.to_owned(), host.to_owned()));
        Ok(Some(Credential { secret, expires_at: None }))
    }
}

impl Observer for Frozen {
    fn handle(&self, events: &[Event]) -> Result<Vec<u64>, Failure> {
        Ok(events.iter().map(|event| event.id).collect())
    }
}

pierhead_plugin::plugin!(
    Frozen: Authenticator, Authorizer, RequestPolicy, ManifestPolicy, Resolver,
    UpstreamCredentials, Observer;
    heap_bytes = 65536
);
