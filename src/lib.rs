//! Pierhead: a pull-through cache proxy for container images.
//!
//! # The life of a pull
//!
//! 1. [`http::server`] accepts the connection and keeps its limits.
//! 2. [`http::route`] parses path and query into types that cannot be wrong.
//! 3. [`http::caller`] asks the [`hooks`] who it is and whether it may.
//! 4. [`pull::naming`] says which upstream and repository the name means.
//! 5. [`pull::resolve`] says which digest a tag means; [`pull::manifest`] has or gets the manifest.
//! 6. [`pull::blob`] finds a blob stored, growing or absent, and who may read it ([`pull::links`]).
//! 7. [`pull::flight`] gives Lead or Follow: one fill per blob, however many clients ask.
//! 8. [`pull::fill`] has [`upstream`] asked for what is needed next; [`pull::verify`] lands it in the
//!    spool of [`store`].
//! 9. [`pull::follow`] is how everybody reads, the first client included.
//! 10. [`http::body`] streams it; [`http::error`] alone chooses statuses.
//!
//! What stays when the store is full is decided in [`keep`].
//!
//! `docs/ARCHITECTURE.md` has the layers and the invariants; `tests/tidy` checks them.

pub mod app;
pub mod background;
pub mod cli;
pub mod client_id;
pub mod clock;
pub mod config;
pub mod gate;
pub mod hooks;
pub mod http;
pub mod keep;
pub mod net;
pub mod oci;
pub mod plugins;
pub mod private_file;
pub mod pull;
pub mod scope;
pub mod secret;
pub mod single_flight;
pub mod spans;
pub mod store;
pub mod telemetry;
pub mod token;
pub mod transfer;
pub mod upstream;
