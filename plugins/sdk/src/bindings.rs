//! The interface as the component model sees it, made from `wit/` by a generator.
//!
//! Plugins use what the crate's root re-exports; the macro [`plugin!`](crate::plugin) alone reaches
//! in here.
#![allow(
    missing_docs,
    rustdoc::all,
    unreachable_pub,
    unsafe_code,
    unused,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::undocumented_unsafe_blocks,
    clippy::panic,
    clippy::unwrap_used,
    reason = "made by a generator"
)]

#[rustfmt::skip]
pub mod authenticator;
#[rustfmt::skip]
pub mod authorizer;
#[rustfmt::skip]
pub mod imports;
#[rustfmt::skip]
pub mod lifecycle;
#[rustfmt::skip]
pub mod manifest_policy;
#[rustfmt::skip]
pub mod observer;
#[rustfmt::skip]
pub mod request_policy;
#[rustfmt::skip]
pub mod resolver;
#[rustfmt::skip]
pub mod upstream_credentials;
