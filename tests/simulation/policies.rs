//! What policies are shown of a manifest, in weather of the test's own.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pierhead::clock::{Clock, Timestamp};
use pierhead::hooks::{
    AdmissionRequest, Allowed, Context, Denial, Hooks, Identity, ImageConfig, Observation,
    Presented, Target, Verdict, WantedScope,
};
use pierhead::oci::Reference;
use pierhead::pull::{BlobWant, ManifestAnswer, ManifestWant, PullError, Wanted};
use tokio::runtime::Builder;

use crate::catalogue::{Catalogue, Image};
use crate::engine::{Disk, Engine, TagTimes};
use crate::registry::Registry;
use crate::trace::Trace;
use crate::weather::{Fault, Forecast};

/// The seed whose content is used.
const SEED: u64 = 7;

/// Sees manifests if it is `on`, and refuses them if it `refuses`.
#[derive(Debug, Default)]
struct Policy {
    on: AtomicBool,
    refuses: AtomicBool,
    seen: Mutex<Vec<AdmissionRequest>>,
}

#[async_trait]
impl Hooks for Policy {
    fn wants_credentials(&self) -> bool {
        false
    }

    async fn authenticate(
        &self,
        _: &Context,
        _: &Presented,
    ) -> Result<Option<Arc<Identity>>, Denial> {
        Ok(None)
    }

    async fn authorize(&self, _: &Context, _: &Target) -> Result<(), Denial> {
        Ok(())
    }

    async fn authorize_scopes(
        &self,
        _: &Context,
        wanted: &[WantedScope],
    ) -> Result<Vec<WantedScope>, Denial> {
        Ok(wanted.to_vec())
    }

    async fn resolve(&self, _: &Context, target: Target) -> Result<Target, Denial> {
        Ok(target)
    }

    async fn request(&self, _: &Context, _: &Target) -> Verdict {
        Ok(Allowed::default())
    }

    fn decides_access(&self) -> bool {
        true
    }

    fn judges_manifests(&self) -> bool {
        self.on.load(Ordering::SeqCst)
    }

    async fn admit(&self, _: &Context, manifest: &AdmissionRequest) -> Verdict {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(manifest.clone());
        match self.on.load(Ordering::SeqCst) && self.refuses.load(Ordering::SeqCst) {
            true => Err(Denial::denied("not this one")),
            false => Ok(Allowed::default()),
        }
    }

    fn observe(&self, _: &Observation<'_>) {}
}

/// A process with an empty disk before a registry where nothing goes wrong yet.
struct Bench {
    policy: Arc<Policy>,
    engine: Engine,
    registry: Registry,
    catalogue: Arc<Catalogue>,
}

impl Bench {
    /// Runs a test on a clock that jumps.
    fn run<F: Future<Output = ()>>(test: impl FnOnce(Self) -> F) {
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let trace = Trace::default();
            trace.begin();
            let hour = Duration::from_secs(3_600);
            let catalogue = Arc::new(Catalogue::draw(SEED, hour));
            let forecast = Forecast::draw(SEED, hour);
            let endpoints = forecast.endpoints.len();
            let registry = Registry::new(SEED, Arc::clone(&catalogue), forecast, trace);
            registry.set_all(None);
            let times = TagTimes {
                ttl: Duration::ZERO,
                while_revalidate: Duration::ZERO,
                refresh_ahead: Duration::ZERO,
            };
            let policy = Arc::new(Policy::default());
            let engine = Engine::start_with(
                &Disk::new(1 << 30),
                &registry,
                endpoints,
                (times, SEED),
                &Clock::manual(Timestamp::from_unix_ms(1_700_000_000_000)),
                Arc::clone(&policy) as Arc<dyn Hooks>,
            );
            test(Self { policy, engine, registry, catalogue }).await;
        });
    }

    /// What `stable` means.
    fn image(&self) -> &Image {
        &self.catalogue.repositories[0].images[0]
    }

    async fn ask(
        &self,
        reference: Reference,
        want: ManifestWant,
    ) -> Result<ManifestAnswer, PullError> {
        let scope = &self.catalogue.repositories[0].scope;
        self.engine.puller.manifest(&self.engine.context, scope, &reference, want).await
    }

    /// What the policy was shown last.
    fn seen(&self) -> AdmissionRequest {
        self.policy.seen.lock().unwrap_or_else(PoisonError::into_inner).last().cloned().unwrap()
    }

    /// The configuration of the image.
    fn config(&self) -> ImageConfig {
        ImageConfig::Known(self.catalogue.content(&self.image().blobs[0]).clone())
    }
}

fn stable() -> Reference {
    Reference::Tag("stable".parse().unwrap())
}

fn is_refused(answer: &Result<ManifestAnswer, PullError>) -> bool {
    matches!(answer, Err(PullError::Denied(_)))
}

#[test]
fn a_head_is_judged_like_a_get_also_of_what_is_not_here() {
    Bench::run(|bench| async move {
        let top = Reference::Digest(bench.image().top());
        let head = bench.ask(stable(), ManifestWant::Head).await.unwrap();
        assert!(head.bytes.is_none(), "nobody judges, and a HEAD is enough");
        bench.policy.on.store(true, Ordering::SeqCst);
        bench.policy.refuses.store(true, Ordering::SeqCst);
        for reference in [stable(), top] {
            for want in [ManifestWant::Head, ManifestWant::Content] {
                let answer = bench.ask(reference.clone(), want).await;
                assert!(is_refused(&answer), "{reference} {want:?}: {answer:?}");
                assert_eq!(bench.seen().reference, reference);
            }
        }
    });
}

#[test]
fn policies_see_the_configuration_of_an_image_that_is_not_here_yet() {
    Bench::run(|bench| async move {
        bench.policy.on.store(true, Ordering::SeqCst);
        let manifest = Reference::Digest(bench.image().manifest);
        bench.ask(manifest.clone(), ManifestWant::Content).await.unwrap();
        assert_eq!(bench.seen().config, bench.config());
        // It was a fill like any other: nothing is fetched twice, not even for the client.
        let scope = &bench.catalogue.repositories[0].scope;
        let want = BlobWant::Content(Wanted::Whole);
        bench.ask(manifest, ManifestWant::Content).await.unwrap();
        bench.engine.blob(scope, &bench.image().blobs[0], want).await.unwrap();
        assert_eq!(bench.registry.transfers().len(), 1);
    });
}

#[test]
fn a_configuration_that_cannot_be_had_fails_no_pull() {
    Bench::run(|bench| async move {
        let manifest = Reference::Digest(bench.image().manifest);
        bench.ask(manifest.clone(), ManifestWant::Content).await.unwrap();
        bench.policy.on.store(true, Ordering::SeqCst);
        for fault in [Fault::Silent, Fault::Status(500), Fault::Flipped(0)] {
            bench.registry.set_all(Some(fault));
            let answer = bench.ask(manifest.clone(), ManifestWant::Content).await;
            assert!(answer.is_ok(), "{fault:?}: {answer:?}");
            assert_eq!(bench.seen().config, ImageConfig::Unknown, "{fault:?}");
        }
    });
}
