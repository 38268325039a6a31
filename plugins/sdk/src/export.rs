//! How a plugin's traits become the exports that Pierhead calls.

use std::sync::OnceLock;

use crate::bindings::{
    authenticator, authorizer, lifecycle, manifest_policy, observer, request_policy, resolver,
    upstream_credentials,
};
use crate::{
    AuthOutcome, Authenticator, Authorizer, CallContext, Credential, Credentials, Event, Failure,
    Manifest, ManifestPolicy, Observer, Plugin, Reference, Request, RequestPolicy, Resolver, Scope,
    Stage, UpstreamCredentials, Verdict, settings,
};

/// Free memory that an instance begins a call with, in bytes.
///
/// A call that has to grow its memory costs several times as much, so `configure` grows it, and
/// the snapshot keeps it. `heap_bytes` of [`plugin!`](crate::plugin) says another number.
pub const HEAP_BYTES: usize = 512 << 10;

/// A plugin with a place for the one instance of it. [`plugin!`](crate::plugin) implements it.
pub trait Hosted: Plugin {
    /// Free memory that a call begins with, in bytes.
    const HEAP_BYTES: usize;

    /// The place.
    fn cell() -> &'static OnceLock<Self>;
}

/// What is exported in the place of a plugin.
#[derive(Debug)]
pub struct Exports<P>(std::marker::PhantomData<P>);

fn configured<P: Hosted>() -> Result<&'static P, Failure> {
    P::cell().get().ok_or_else(|| Failure::internal("called before it was configured"))
}

impl<P: Hosted> lifecycle::exports::pierhead::plugin::lifecycle::Guest for Exports<P> {
    fn configure(json: String) -> Result<(), Failure> {
        wit_bindgen::rt::maybe_link_cabi_realloc();
        std::panic::set_hook(Box::new(|panic| crate::log::error(&panic.to_string())));
        let plugin = P::configure(settings::parse(&json)?)?;
        drop(json);
        let once = P::cell().set(plugin);
        // What is freed stays with the allocator: there is no way to give it back.
        drop(std::hint::black_box(Vec::<u8>::with_capacity(P::HEAP_BYTES)));
        once.map_err(|_| Failure::internal("configured twice"))
    }
}

impl<P: Hosted + Authenticator> authenticator::exports::pierhead::plugin::authenticator::Guest
    for Exports<P>
{
    fn authenticate(ctx: CallContext, credentials: Credentials) -> Result<AuthOutcome, Failure> {
        configured::<P>()?.authenticate(&ctx, &credentials)
    }
}

impl<P: Hosted + Authorizer> authorizer::exports::pierhead::plugin::authorizer::Guest
    for Exports<P>
{
    fn authorize(ctx: CallContext, wanted: Vec<Scope>) -> Result<Vec<Scope>, Failure> {
        configured::<P>()?.authorize(&ctx, &wanted)
    }
}

impl<P: Hosted + RequestPolicy> request_policy::exports::pierhead::plugin::request_policy::Guest
    for Exports<P>
{
    fn evaluate(ctx: CallContext, request: Request) -> Result<Verdict, Failure> {
        configured::<P>()?.evaluate_request(&ctx, &request)
    }
}

impl<P: Hosted + ManifestPolicy> manifest_policy::exports::pierhead::plugin::manifest_policy::Guest
    for Exports<P>
{
    fn evaluate(ctx: CallContext, stage: Stage, manifest: Manifest) -> Result<Verdict, Failure> {
        configured::<P>()?.evaluate_manifest(&ctx, stage, &manifest)
    }
}

impl<P: Hosted + Resolver> resolver::exports::pierhead::plugin::resolver::Guest for Exports<P> {
    fn resolve(ctx: CallContext, reference: Reference) -> Result<Option<Reference>, Failure> {
        configured::<P>()?.resolve(&ctx, &reference)
    }
}

impl<P: Hosted + UpstreamCredentials>
    upstream_credentials::exports::pierhead::plugin::upstream_credentials::Guest for Exports<P>
{
    fn fetch(
        upstream: String,
        host: String,
        repository: String,
    ) -> Result<Option<Credential>, Failure> {
        configured::<P>()?.fetch(&upstream, &host, &repository)
    }
}

impl<P: Hosted + Observer> observer::exports::pierhead::plugin::observer::Guest for Exports<P> {
    fn handle(events: Vec<Event>) -> Result<Vec<u64>, Failure> {
        configured::<P>()?.handle(&events)
    }
}

/// Makes a plugin of a type: once, at the top of the crate.
///
/// Behind the type stand the hooks that it exports. What may follow describes it, for people and
/// for `pierhead plugin inspect`, which reads it without running anything: `name`, `version`,
/// `description`, `license`, `source` (texts, from `Cargo.toml` if they are not said),
/// `settings_schema` (a JSON schema of the settings, as text), `limits` (a JSON object), `examples`
/// (a JSON array of cases as in the project's tests), and `heap_bytes`
/// ([`HEAP_BYTES`](crate::export::HEAP_BYTES)).
///
/// ```text
/// pierhead_plugin::plugin!(HouseRules: RequestPolicy, ManifestPolicy;
///     settings_schema = include_str!("settings.json"));
/// ```
#[macro_export]
macro_rules! plugin {
    ($plugin:ident : $($hook:ident),+ $(,)?) => {
        $crate::plugin!($plugin : $($hook),+ ;);
    };
    ($plugin:ident : $($hook:ident),+ ; $($key:ident = $value:expr),* $(,)?) => {
        const _: () = {
            const METADATA: $crate::metadata::Metadata = {
                #[allow(unused_mut, reason = "there may be nothing to say")]
                let mut metadata = $crate::metadata::Metadata {
                    name: env!("CARGO_PKG_NAME"),
                    version: env!("CARGO_PKG_VERSION"),
                    description: env!("CARGO_PKG_DESCRIPTION"),
                    license: env!("CARGO_PKG_LICENSE"),
                    source: env!("CARGO_PKG_REPOSITORY"),
                    settings_schema: "",
                    limits: "",
                    examples: "",
                    heap_bytes: $crate::export::HEAP_BYTES,
                };
                $(metadata.$key = $value;)*
                metadata
            };
            impl $crate::export::Hosted for $plugin {
                const HEAP_BYTES: usize = METADATA.heap_bytes;

                fn cell() -> &'static ::std::sync::OnceLock<Self> {
                    static CELL: ::std::sync::OnceLock<$plugin> = ::std::sync::OnceLock::new();
                    &CELL
                }
            }

            #[cfg(target_arch = "wasm32")]
            #[allow(
                unsafe_code,
                unreachable_pub,
                missing_docs,
                clippy::all,
                reason = "the names of exports and sections"
            )]
            const _: () = {
                #[used]
                #[unsafe(link_section = "pierhead:plugin")]
                static SECTION: [u8; METADATA.len()] = METADATA.json();

                type Exports = $crate::export::Exports<$plugin>;
                $crate::bindings::lifecycle::__export_lifecycle!(Exports);
                $($crate::__export_hook!($hook Exports);)+
            };

            #[cfg(not(target_arch = "wasm32"))]
            impl $crate::testing::Callable for $plugin {
                fn metadata() -> &'static [u8] {
                    static JSON: [u8; METADATA.len()] = METADATA.json();
                    &JSON
                }

                fn call(
                    &self,
                    call: &$crate::testing::Call,
                ) -> Result<$crate::testing::Answer, $crate::testing::CallError> {
                    $(if let Some(answer) = $crate::__call_hook!($hook self call) {
                        return answer;
                    })+
                    Err($crate::testing::CallError::NoSuchHook)
                }
            }
        };
    };
}

/// Exports one hook.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_hook {
    (Authenticator $exports:ident) => {
        $crate::bindings::authenticator::__export_authenticator!($exports);
    };
    (Authorizer $exports:ident) => {
        $crate::bindings::authorizer::__export_authorizer!($exports);
    };
    (RequestPolicy $exports:ident) => {
        $crate::bindings::request_policy::__export_request_policy!($exports);
    };
    (ManifestPolicy $exports:ident) => {
        $crate::bindings::manifest_policy::__export_manifest_policy!($exports);
    };
    (Resolver $exports:ident) => {
        $crate::bindings::resolver::__export_resolver!($exports);
    };
    (UpstreamCredentials $exports:ident) => {
        $crate::bindings::upstream_credentials::__export_upstream_credentials!($exports);
    };
    (Observer $exports:ident) => {
        $crate::bindings::observer::__export_observer!($exports);
    };
}

/// Calls one hook in a test, if it is the one that is meant.
#[doc(hidden)]
#[macro_export]
macro_rules! __call_hook {
    (Authenticator $plugin:ident $call:ident) => {
        $crate::testing::authenticate($plugin, $call)
    };
    (Authorizer $plugin:ident $call:ident) => {
        $crate::testing::authorize($plugin, $call)
    };
    (RequestPolicy $plugin:ident $call:ident) => {
        $crate::testing::evaluate_request($plugin, $call)
    };
    (ManifestPolicy $plugin:ident $call:ident) => {
        $crate::testing::evaluate_manifest($plugin, $call)
    };
    (Resolver $plugin:ident $call:ident) => {
        $crate::testing::resolve($plugin, $call)
    };
    (UpstreamCredentials $plugin:ident $call:ident) => {
        $crate::testing::fetch($plugin, $call)
    };
    (Observer $plugin:ident $call:ident) => {
        None
    };
}
