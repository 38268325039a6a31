//! Runs Pierhead's plugins: the only crate that names wasmtime.
//!
//! # The life of a plugin
//!
//! 1. [`inspect()`] says what a file is, what it exports and which grants it needs, and runs nothing.
//! 2. [`Host::load`] compares that with the mount's [`Grants`], compiles it off the async threads,
//!    calls `lifecycle.configure` once and takes a snapshot of the instance.
//! 3. A call ([`Plugin::evaluate_request`] and its like) takes a place in the pool, makes an
//!    instance from the snapshot, calls it, throws it away, and checks what came back.
//!
//! # What holds for every call
//!
//! - It ends within its deadline, whatever the guest does ([`Limits::deadline`]).
//! - It has an instance of its own: nothing that a guest does is seen by the next call.
//! - Everything that it takes is bounded ([`Limits`]) and given back when it ends or is dropped.
//! - What it returns is judged like a message from the network: see [`CallError::Lie`].
//!
//! Why it is built this way: `docs/decisions/0017-plugin-host.md`.

mod call;
mod compiled;
mod engine;
mod error;
mod grants;
mod hook;
mod host;
mod inspect;
mod judge;
mod kv;
mod link;
mod load;
mod memory;
mod mount;
mod outside;
mod plugin;
mod snapshot;
mod state;
mod ticker;
mod trap;
mod turns;
mod units;
mod visible;
mod weigh;
pub mod wit;

pub use error::{CallError, HostError, LoadError, TrapKind};
pub use grants::{ContentGrant, ContentKind, FactsGrant, Grants, HttpGrant, KvGrant, UrlPattern};
pub use hook::{Hook, UnknownHook};
pub use host::{CompiledCache, Host, HostOptions, HostStats, PagemapScan};
pub use inspect::{Form, Inspection, Metadata, MissingGrant, inspect};
pub use mount::{Limits, MountSpec, SecretString};
pub use outside::{
    Blob, Content, Facts, HttpClient, HttpTerms, LogLine, LogSink, OpenBlob, Outside,
};
pub use plugin::{CallStats, Called, Isolation, Plugin, PluginInfo};
